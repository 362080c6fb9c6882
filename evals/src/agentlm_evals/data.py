"""Where a task's items come from. Refuses to read the environment and to fetch anything."""

from pathlib import Path

from agentlm_evals.errors import ConfigError, DataError
from agentlm_evals.protocols import Protocol
from agentlm_evals.task import Setting, Source, Task


def choose_source(
    task: Task, *, directory: Path | None, fetched: Path, own: bool, file: Path | None
) -> Source:
    """The items that a run takes.

    Args:
        task: The task.
        directory: A data directory that was named; the task's items must be in it.
        fetched: Where `data fetch` puts things; used if the task's items are there.
        own: Take the wheel's own items whatever is there.
        file: A file of items that was named.

    Raises:
        ConfigError: A file was named, and the task's items follow from its rules.
        DataError: The directory that was named has not this task's items.
    """
    if file is not None:
        if task.needs_no_data:
            raise ConfigError(f"--sample-input-file: the items of task {task.name} follow from its rules")
        return Source(file=file)
    if own:
        return Source()
    if directory is not None:
        source = Source(directory)
        try:
            task.samples(Setting(source, Protocol(task.protocols[0])))
        except DataError as error:
            raise DataError(f"{error}; `--own-samples` takes the few that are in the wheel") from error
        return source
    source = Source(fetched)
    try:
        task.samples(Setting(source, Protocol(task.protocols[0])))
    except DataError:
        return Source()
    return source
