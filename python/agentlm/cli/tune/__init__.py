"""`agentlm tune CONFIG` trains; `agentlm tune merge` and other entry points of `agentlm.tune_commands` do the rest.

The first word decides: a sub-command's name is one, anything else is given to `train`. A file that is called like a
sub-command is written with its directory (`./merge`). Nothing heavy is imported here.
"""

from importlib.metadata import EntryPoint, entry_points

import click

from agentlm.cli.tune.train import command as train

_HELP = ("-h", "--help")


class TuneGroup(click.Group):
    """A group whose first word may also be what its commonest command takes."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._found: dict[str, EntryPoint] | None = None

    def _entries(self) -> dict[str, EntryPoint]:
        if self._found is None:
            self._found = {entry.name: entry for entry in entry_points(group="agentlm.tune_commands")}
        return self._found

    def list_commands(self, ctx: click.Context) -> list[str]:
        """`train`, then every installed command, by name."""
        return [*super().list_commands(ctx), *sorted(self._entries())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads one command; one that cannot be loaded says why when it is called, and not before."""
        entry = self._entries().get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        try:
            command: click.Command = entry.load()
        except ImportError as error:
            return _broken(cmd_name, error)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts `train` before what does not name a command."""
        if args and args[0] not in _HELP and args[0] not in self.list_commands(ctx):
            args = ["train", *args]
        return super().parse_args(ctx, args)


def _broken(name: str, error: ImportError) -> click.Command:
    @click.command(name, help=f"(cannot be loaded: {error})")
    def command() -> None:
        raise click.ClickException(f"`agentlm tune {name}` cannot be loaded: {error}")

    return command


@click.group(
    "tune",
    cls=TuneGroup,
    subcommand_metavar="CONFIG [OPTIONS] | COMMAND ...",
    context_settings={"help_option_names": list(_HELP)},
)
def command() -> None:
    """Tune a model: `agentlm tune CONFIG` trains as a TOML file says.

    `agentlm tune train --help` lists what can be changed on the command line.
    """


command.add_command(train)
