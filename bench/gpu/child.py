"""A part in a process of its own: what it is given, and how it tells what it finds. Refuses to know any part.

    python -m bench.gpu.child MODULE SETUP

Rows go to a file, one JSON line each, so that what a part found before it failed is kept and nothing that a library prints
can disturb it.
"""

import importlib
import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Setup:
    """What a part is given."""

    rows: str
    """The file that its rows are appended to."""
    work: str
    """A folder for files of its own."""
    deadline: float
    """Of `time.time()`: when its process will be ended."""
    argument: str = ""
    long: bool = False
    rehearse: bool = False
    """Tiny sizes on this machine's processor: whether a part runs at all. The figures mean nothing."""
    read_bytes_per_second: float | None = None
    """Measured by the part `machine`, as the next two."""
    copy_bytes_per_second: float | None = None
    """Bytes read plus bytes written."""
    flops: float | None = None

    @property
    def device(self) -> "torch.device":
        """Where it computes."""
        import torch

        return torch.device("cpu" if self.rehearse else "cuda")

    @property
    def dtype(self) -> "torch.dtype":
        """Of weights and activations; the interpreter computes bfloat16 badly."""
        import torch

        return torch.float32 if self.rehearse else torch.bfloat16

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def of_read(self, bytes_per_second: float) -> float | None:
        """Share of the measured read bandwidth."""
        return bytes_per_second / self.read_bytes_per_second if self.read_bytes_per_second else None

    def of_copy(self, bytes_per_second: float) -> float | None:
        """Share of the measured copy bandwidth."""
        return bytes_per_second / self.copy_bytes_per_second if self.copy_bytes_per_second else None

    def of_peak(self, flops: float) -> float | None:
        """Share of the measured matrix product's rate."""
        return flops / self.flops if self.flops else None

    def to_json(self, **changes: Any) -> str:
        """As a process's argument."""
        return json.dumps(asdict(replace(self, **changes)))


class Say:
    """Appends rows to the file."""

    def __init__(self, file: str | Path) -> None:
        self._file = Path(file)

    def __call__(self, name: str, **figures: Any) -> None:
        """One row. Figures that are None are left out."""
        row = {"name": name} | {key: _plain(value) for key, value in figures.items() if value is not None}
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """What raises inside becomes a row, and the next case follows, unless the GPU no longer answers."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self(name, error=" ".join(f"{type(error).__name__}: {error}".split())[:500])
            _still_computes()


def _still_computes() -> None:
    """Raises what CUDA raises after a fault that a process cannot recover from; gives memory back otherwise."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def _plain(value: Any) -> Any:
    """Five digits are more than a measurement has."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def read_rows(file: str | Path) -> list[dict[str, Any]]:
    """The rows so far; a line that its process did not finish is left out."""
    path = Path(file)
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def main() -> None:
    """Runs one module."""
    module, given = sys.argv[1:]
    setup = Setup(**json.loads(given))
    importlib.import_module(f"bench.gpu.{module}").run(setup, Say(setup.rows))


if __name__ == "__main__":
    main()
