"""`agentlm tune merge`: adds an adapter to its model. Refuses to know torch until it runs."""

from pathlib import Path

import click


@click.command("merge")
@click.argument("base")
@click.argument("adapter", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--revision", help="Branch, tag or commit of BASE on the hub.")
def command(base: str, adapter: Path, output: Path, revision: str | None) -> None:
    """Write the model BASE (directory or hub name) with the LoRA ADAPTER added to it to OUTPUT.

    It needs the memory of one matrix, and no GPU.
    """
    from agentlm.model import hub
    from agentlm.progress import wanted
    from agentlm.tuning.merge import merge

    directory = hub.resolve(base, revision, progress=wanted())
    if not wanted():
        click.echo(merge(directory, adapter, output))
        return
    import sys

    from tqdm import tqdm

    with tqdm(desc="merging", unit="tensor", file=sys.stderr) as bar:

        def advance(done: int, total: int, _name: str) -> None:
            bar.total = total
            bar.update(done - bar.n)

        click.echo(merge(directory, adapter, output, progress=advance))
