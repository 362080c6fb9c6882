"""`agentlm eval view`: transcripts in the browser, by Inspect's viewer."""

import subprocess
import sys
from pathlib import Path

import click

from agentlm_evals.cli.errors import shown
from agentlm_evals.errors import RunError


@click.command("view")
@click.argument("run", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the viewer listens.")
@click.option("--port", type=click.IntRange(0, 65535), default=7575, show_default=True, help="Its port.")
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Write a static viewer into this folder instead."
)
@shown
def command(run: Path | None, host: str, port: int, bundle: Path | None) -> None:
    """Show the transcripts of RUN (a directory that `agentlm eval` wrote; default: all below ./runs)."""
    directory = run or Path("runs")
    if not any(directory.rglob("*.eval")):
        raise RunError(
            f"there is no transcript below {directory}: run `agentlm eval TASK` first, or name its directory"
        )
    if bundle is not None:
        from inspect_ai.log import bundle_log_dir

        bundle_log_dir(str(directory), str(bundle))
        click.echo(f"{bundle}")
        return
    # A process of its own: Inspect's viewer takes the main thread and the signals.
    code = "from inspect_ai._cli.main import main; main()"
    arguments = ["view", "start", "--log-dir", str(directory), "--host", host, "--port", str(port)]
    sys.exit(subprocess.call([sys.executable, "-c", code, *arguments]))
