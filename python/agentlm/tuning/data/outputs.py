"""Where a command may write: never over what it reads, and never twice to one file. Refuses to know what is written."""

from collections.abc import Iterable
from pathlib import Path

from agentlm.tuning.data.errors import DataError


def check(inputs: Iterable[str | Path], *outputs: str | Path | None) -> None:
    """Refuses outputs that are also an input, or that are one file; None is no output.

    Raises:
        DataError: The message names the file.
    """
    read = {Path(path).resolve() for path in inputs}
    written: set[Path] = set()
    for path in outputs:
        if path is None:
            continue
        place = Path(path).resolve()
        if place in read:
            raise DataError(f"{path} is an input too; write to another file")
        if place in written:
            raise DataError(f"{path} cannot hold two outputs; name another file for one of them")
        written.add(place)
