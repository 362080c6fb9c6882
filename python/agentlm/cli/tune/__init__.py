"""`agentlm tune CONFIG` trains; `agentlm tune merge` and other entry points of `agentlm.tune_commands` do the rest.

The first word decides: a sub-command's name is one, anything else is given to `train`. A file that is called like a
sub-command is written with its directory (`./merge`). Nothing heavy is imported here.
"""

import click

from agentlm.cli import EntryPointGroup
from agentlm.cli.tune.train import command as train

_HELP = ("-h", "--help")


class TuneGroup(EntryPointGroup):
    """A group whose first word may also be what its commonest command takes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts `train` before what does not name a command."""
        if args and args[0] not in _HELP and args[0] not in self.list_commands(ctx):
            args = ["train", *args]
        return super().parse_args(ctx, args)


@click.group(
    "tune",
    cls=TuneGroup,
    group="agentlm.tune_commands",
    subcommand_metavar="CONFIG [OPTIONS] | COMMAND ...",
    context_settings={"help_option_names": list(_HELP)},
)
def command() -> None:
    """Tune a model: `agentlm tune CONFIG` trains as a TOML file says.

    `agentlm tune train --help` lists what can be changed on the command line.
    """


command.add_command(train)
