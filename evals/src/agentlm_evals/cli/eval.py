"""`agentlm eval`: tasks by name run at once; `list`, `doctor` and `view` are its sub-commands."""

from typing import Any

import click

from agentlm_evals.cli import LazyGroup

_MODULES = {
    "run": "agentlm_evals.cli.run",
    "list": "agentlm_evals.cli.list",
    "doctor": "agentlm_evals.cli.doctor",
    "view": "agentlm_evals.cli.view",
}


class _Tasks(LazyGroup):
    """What is not the name of a sub-command is meant for `run`: `agentlm eval gsm8k --limit 5`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self._modules and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "TASK... [OPTIONS] | list | doctor | view")


@click.command("eval", cls=_Tasks, modules=_MODULES, context_settings={"help_option_names": ["-h", "--help"]})
def command(**_: Any) -> None:
    """Evaluate a model: TASK is a task, one of the groups general, held-in and held-out, or all.

    `agentlm eval gsm8k --limit 5` serves the small bundled model and asks it five problems of our own.
    `agentlm eval run --help` shows every option.
    """
