"""The command `agentlm`. Sub-commands are entry points of the group `agentlm.commands`, so that other wheels bring theirs.

Groups among them (`agentlm data`, `agentlm tune`) are filled in the same way, each from a group of its own.
Nothing heavy is imported here: `agentlm --help` answers at once.
"""

import sys
from importlib.metadata import EntryPoint, entry_points

import click

from agentlm import __version__
from agentlm.errors import AgentLMError


class EntryPointGroup(click.Group):
    """A group whose commands are the entry points of the group `group`, loaded when asked for."""

    def __init__(self, *args: object, group: str = "agentlm.commands", **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._group = group
        self._found: dict[str, EntryPoint] | None = None

    def _entries(self) -> dict[str, EntryPoint]:
        if self._found is None:
            self._found = {entry.name: entry for entry in entry_points(group=self._group)}
        return self._found

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every installed command, by name."""
        return sorted({*self._entries(), *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads one command; one that cannot be loaded says why when it is called, and not before."""
        entry = self._entries().get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        try:
            command: click.Command = entry.load()
        except (ImportError, AttributeError) as error:  # no such module, or no such name in it
            return _broken(cmd_name, ctx.command_path, error)
        return command


def _broken(name: str, parent: str, error: Exception) -> click.Command:
    @click.command(name, help=f"(cannot be loaded: {error})")
    def command() -> None:
        raise click.ClickException(f"`{parent} {name}` cannot be loaded: {error}")

    return command


@click.group(cls=EntryPointGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agentlm")
def cli() -> None:
    """Serve, tune and evaluate agent language models."""


def main() -> None:
    """Runs the command line; an error raised on purpose is one clear line and exit code 1."""
    try:
        cli(prog_name="agentlm")
    except (AgentLMError, OSError) as error:
        # An operating system's error names the file, or the disk that is full; a traceback adds nothing.
        click.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
