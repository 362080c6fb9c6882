# ruff: noqa: E501  # an option is one line: name, type, default, help
"""`agentlm data fetch`: official items and the published protocol, from their sources or from a mirror of yours."""

from pathlib import Path

import click

from agentlm_evals.cli.errors import shown


@click.command("fetch")
@click.argument("names", nargs=-1, metavar="TASK...")
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="The data directory [default: the user's cache, where `agentlm eval` looks]",
)
@click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Take the files from this folder (a checkout, a data directory, or just files), and nothing from the network; repeatable.",
)
@shown
def command(names: tuple[str, ...], out: Path | None, mirrors: tuple[Path, ...]) -> None:
    """Fetch the official items of TASK..., or the texts of the protocol `agenttuning`; without a name, show what there is."""
    from agentlm_evals.cli.options import cache_home
    from agentlm_evals.fetch import fetch, files_of, from_mirror, from_network
    from agentlm_evals.sources import DATA_SETS

    if not names:
        for name, data_set in DATA_SETS.items():
            click.echo(f"{name:<14}{data_set.about}; licence: {data_set.licence}")
        return
    directory = out or cache_home() / "data"
    wanted = [name.replace("_", "-") for name in names]
    for name in wanted:
        files_of(name)
    for name in wanted:
        click.echo(f"{name}: {DATA_SETS[name].about}; licence: {DATA_SETS[name].licence}")
        fetch(
            name,
            directory,
            from_mirror(*mirrors) if mirrors else from_network,
            lambda line: click.echo(f"  {line}"),
        )
    click.echo(f"in {directory}", err=True)
