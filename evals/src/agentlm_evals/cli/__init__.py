"""The command `agentlm-eval`, for who has this wheel alone.

With the wheel `agentlm` the same commands are `agentlm eval`, `agentlm report` and `agentlm data`. Nothing heavy is
imported here.
"""

import sys
from importlib import import_module

import click

from agentlm_evals import __version__
from agentlm_evals.errors import EvalError


class LazyGroup(click.Group):
    """A group whose commands are modules, imported when asked for."""

    def __init__(self, *args: object, modules: dict[str, str], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, by name."""
        return sorted({*self._modules, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one."""
        if cmd_name not in self._modules:
            return super().get_command(ctx, cmd_name)
        command: click.Command = import_module(self._modules[cmd_name]).command
        return command


_SETTINGS = {"help_option_names": ["-h", "--help"]}


@click.group(
    cls=LazyGroup,
    modules={"eval": "agentlm_evals.cli.eval", "report": "agentlm_evals.cli.report"},
    context_settings=_SETTINGS,
)
@click.version_option(__version__, prog_name="agentlm-eval")
def cli() -> None:
    """Evaluate agent language models over HTTP."""


@cli.group(
    cls=LazyGroup,
    modules={"fetch": "agentlm_evals.cli.data_fetch", "build": "agentlm_evals.cli.data_build"},
    context_settings=_SETTINGS,
)
def data() -> None:
    """Fetch tasks' data; build training data from trajectories."""


def main() -> None:
    """Runs the command line; an error raised on purpose is one clear line and exit code 1."""
    try:
        cli(prog_name="agentlm-eval")
    except (EvalError, OSError) as error:
        click.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
