"""`agentlm eval doctor`: the gold path of each task, through its environment, before any model is asked."""

import asyncio
import time
from typing import Any

import click

from agentlm_evals.cli.errors import shown
from agentlm_evals.cli.options import data_options, task_options
from agentlm_evals.errors import EvalError
from agentlm_evals.tasks import ENTRIES, resolve


@click.command("doctor")
@click.argument("tasks", nargs=-1, metavar="[TASK...]")
@data_options
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Samples of each task; 0 is not all: name a number.",
)
@shown
def command(tasks: tuple[str, ...], limit: int, **options: Any) -> None:
    """Play the gold answers of TASK... (default: every task that is built), and an agent that does nothing."""
    from agentlm_evals.cli.run import setting_of
    from agentlm_evals.harness.doctor import examine

    given = task_options(options.pop("task_options"))
    entries = resolve(list(tasks)) if tasks else [entry for entry in ENTRIES if entry.is_built]
    ill = 0
    for entry in entries:
        begun = time.monotonic()
        try:
            task = entry.load()
            setting = setting_of(task, given.get(entry.name, {}), **options)
            missing = task.requirements(setting)
            if missing:
                ill += 1
                for one in missing:
                    click.secho(f"{entry.name}: lacks {one.what}: {one.how}", fg="yellow")
                continue
            finding = asyncio.run(examine(task, setting, limit))
        except EvalError as error:
            ill += 1
            click.secho(f"{entry.name}: {error}", fg="red")
            continue
        seconds = time.monotonic() - begun
        click.secho(
            f"{entry.name}: {finding.line()} ({seconds:.1f} s)", fg="green" if finding.is_well else "red"
        )
        for line in finding.wrong:
            click.echo(f"  {line}")
        ill += not finding.is_well
    if ill:
        raise click.ClickException(f"{ill} of {len(entries)} tasks are not well")
