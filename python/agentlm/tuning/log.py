"""What a run tells: a line a step in JSONL, TensorBoard, a progress bar, a picture of the loss. Refuses to know why."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentlm.progress import wanted

LOG_NAME = "log.jsonl"
_IN_BAR = ("loss", "tokens_per_second", "mfu")


class RunLog:
    """The log of one run's directory. Only the first rank has one."""

    def __init__(self, directory: Path, steps: int, done: int, *, quiet: bool = False) -> None:
        """Goes on after step `done`: lines of later ones, which a killed run may have left, are removed."""
        self.file = directory / LOG_NAME
        _keep_until(self.file, done)
        self._lines = self.file.open("a", encoding="utf-8")
        self._board = _tensorboard(directory / "tensorboard", done)
        self._bar: Any = None
        self._quiet = quiet
        if wanted() and not quiet:
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=done, desc="training", unit="step", file=sys.stderr)

    def step(self, values: Mapping[str, Any]) -> None:
        """One step's numbers; `step` counts from 1."""
        self.event("step", values)
        if self._bar is not None:
            shown = {name: values[name] for name in _IN_BAR if values.get(name) is not None}
            self._bar.set_postfix_str(
                " ".join(_short(name, value) for name, value in shown.items()), refresh=False
            )
            self._bar.update()

    def event(self, kind: str, values: Mapping[str, Any]) -> None:
        """Anything else that happens at a step."""
        self._lines.write(json.dumps({"event": kind, **_finite(values)}, allow_nan=False) + "\n")
        self._lines.flush()
        if self._board is not None:
            for name, value in _flat(values):
                if name != "step":
                    self._board.add_scalar(f"{kind}/{name}", value, values["step"])

    def say(self, line: str) -> None:
        """A line for a person, on standard error."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Writes what is left."""
        self._lines.close()
        if self._board is not None:
            self._board.close()
        if self._bar is not None:
            self._bar.close()


@contextmanager
def rendering_progress(show: bool) -> Iterator[Callable[[str, int], None] | None]:
    """Yields `advance(source, conversations)`, or None when nothing is shown."""
    if not show:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc="rendering", unit=" conversations", file=sys.stderr) as bar:

        def advance(source: str, conversations: int) -> None:
            bar.set_description(f"rendering {source}", refresh=False)
            bar.n = conversations
            bar.refresh()

        yield advance


def events(file: Path) -> list[dict[str, Any]]:
    """Every line of a log; one that a killed run left unfinished is none."""
    found: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def draw(directory: Path) -> Path | None:
    """Draws the log's losses as `loss.svg`; None where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return None
    logged = events(directory / LOG_NAME)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    steps = [line for line in logged if line["event"] == "step"]
    axes.plot(
        [line["step"] for line in steps], [line["loss"] for line in steps], label="training", linewidth=1
    )
    held = [line for line in logged if line["event"] == "evaluation"]
    for name in sorted({name for line in held for name in line["loss"]}):
        own = [line for line in held if name in line["loss"]]
        axes.plot(
            [line["step"] for line in own],
            [line["loss"][name] for line in own],
            marker="o",
            label=f"held out: {name}",
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss per trained token (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    beside, file = directory / ".loss.svg", directory / "loss.svg"
    figure.savefig(beside, format="svg")
    beside.replace(file)
    return file


def _keep_until(file: Path, done: int) -> None:
    if not file.is_file():
        return
    kept = [line for line in events(file) if line.get("step", 0) <= done]
    beside = file.with_name(f".{file.name}")
    with beside.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(line) + "\n" for line in kept)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(file)


def _tensorboard(directory: Path, done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory), purge_step=done + 1 if done else None)


def _finite(value: Any) -> Any:
    """The value as JSON can hold it: what is no finite number is null."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += [(f"{name}/{inner}", number) for inner, number in _flat(value)]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((name, float(value)))
    return found


def _short(name: str, value: float) -> str:
    if name == "loss":
        return f"loss {value:.4f}"
    return f"{value:,.0f} tokens/s" if name == "tokens_per_second" else f"MFU {value:.0%}"
