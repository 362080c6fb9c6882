# an option is one line: name, type, default, help
"""`agentlm report`: the table of one or several runs, for the terminal, Markdown, JSON or a browser."""

from pathlib import Path

import click

from agentlm_evals.cli.errors import shown
from agentlm_evals.errors import RunError

FORMATS = ("terminal", "markdown", "json", "html")


@click.command("report")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--format",
    "-f",
    "form",
    type=click.Choice(FORMATS),
    default="terminal",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--out", "-o", type=click.Path(path_type=Path, dir_okay=False), help="A file [default: standard output]"
)
@shown
def command(runs: tuple[Path, ...], form: str, out: Path | None) -> None:
    """Show RUNS (directories that `agentlm eval` wrote; default: all below ./runs) beside the published table."""
    from agentlm_evals.harness.journal import write_whole
    from agentlm_evals.report import table

    if not runs:
        runs = tuple(sorted(path.parent for path in Path("runs").glob("*/run.json")))
    if not runs:
        raise RunError(
            "there is no run below ./runs: name a run's directory, or run `agentlm eval gsm8k --limit 5`"
        )
    report = table.load_runs(runs)
    if form == "html":
        from agentlm_evals.report.html import html

        text = html(report)
    else:
        text = {"terminal": table.terminal, "markdown": table.markdown, "json": table.to_json}[form](report)
    if out is None:
        click.echo(text.rstrip("\n"))
    else:
        write_whole(out, text)
