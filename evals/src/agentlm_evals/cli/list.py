"""`agentlm eval list`: all sixteen tasks, what each needs, whether this machine can run it, how to get its data."""

import click

from agentlm_evals.cli.errors import shown
from agentlm_evals.cli.options import data_options
from agentlm_evals.errors import DataError, ProtocolError
from agentlm_evals.tasks import ENTRIES


@click.command("list")
@data_options
@shown
def command(**options: object) -> None:
    """Show every task of AgentTuning's table and whether it can run here."""
    from agentlm_evals.cli.run import setting_of

    options.pop("task_options")
    group = None
    for entry in ENTRIES:
        if entry.group is not group:
            group = entry.group
            click.secho(f"{group.value}", bold=True)
        if not entry.is_built:
            click.echo(f"  {entry.name:<16}{'not built':<12}{entry.title}; will need {entry.needs}")
            continue
        task = entry.load()
        try:
            setting = setting_of(task, {}, **options)  # type: ignore[arg-type]  # click's own values
        except (DataError, ProtocolError) as error:
            click.echo(f"  {entry.name:<16}{'lacks data':<12}{entry.title}; {error}")
            continue
        missing = task.requirements(setting)
        state = "lacks" if missing else "ready"
        source = setting.source
        count = len(task.samples(setting))
        data = (
            f"{count} own samples; official: agentlm data fetch {entry.name}"
            if source.is_own
            else f"{count} samples"
        )
        click.echo(
            f"  {entry.name:<16}{state:<12}{entry.title}; needs {entry.needs}; {data}; {', '.join(task.protocols)}"
        )
        for one in missing:
            click.echo(f"  {'':<16}{'':<12}lacks {one.what}: {one.how}")
        for option in task.options:
            choices = f" ({', '.join(option.choices)})" if option.choices else ""
            click.echo(
                f"  {'':<16}{'':<12}-T {entry.name}.{option.name}={option.default}{choices}: {option.says}"
            )
