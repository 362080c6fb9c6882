"""`agentlm eval list`: all sixteen tasks, what each needs, whether this machine can run it, how to get its data."""

from collections.abc import Iterator
from typing import Any

import click

from agentlm_evals.cli.errors import shown
from agentlm_evals.cli.options import data_options
from agentlm_evals.errors import EvalError
from agentlm_evals.sources import DATA_SETS
from agentlm_evals.tasks import ENTRIES, Entry


@click.command("list")
@data_options
@shown
def command(**options: Any) -> None:
    """Show every task of AgentTuning's table and whether it can run here."""
    options.pop("task_options")
    group = None
    for entry in ENTRIES:
        if entry.group is not group:
            group = entry.group
            click.secho(f"{group.value}", bold=True)
        try:
            state, *lines = _describe(entry, options)
        except (EvalError, ImportError, AttributeError) as error:
            # One task that is broken must not hide the others.
            state, *lines = "broken", f"{entry.title}; {type(error).__name__}: {error}"
        click.echo(f"  {entry.name:<16}{state:<12}{lines[0]}")
        for line in lines[1:]:
            click.echo(f"  {'':<28}{line}")


def _describe(entry: Entry, options: dict[str, Any]) -> Iterator[str]:
    """The state, and lines about it."""
    from agentlm_evals.cli.run import setting_of

    if not entry.is_built:
        yield "not built"
        yield f"{entry.title}; will need {entry.needs}"
        return
    task = entry.load()
    setting = setting_of(task, {}, **options)
    missing = task.requirements(setting)
    yield "lacks" if missing else "ready"
    count = len(task.samples(setting))
    data = f"{count} samples"
    if setting.source.is_own and not task.needs_no_data:
        how = f"agentlm data fetch {entry.name}" if entry.name in DATA_SETS else "--data DIR"
        data = f"{count} own samples; official: {how}"
    elif entry.size not in (None, count):
        data = f"{count} samples, {entry.size} published"
        if lacking := task.versions(setting).get("without"):
            data += f" (without {lacking})"
    yield f"{entry.title}; needs {entry.needs}; {data}; protocols: {', '.join(task.protocols)}"
    for one in missing:
        yield f"lacks {one.what}: {one.how}"
    for option in task.options:
        choices = f" ({', '.join(option.choices)})" if option.choices else ""
        yield f"-T {entry.name}.{option.name}={option.default}{choices}: {option.says}"
