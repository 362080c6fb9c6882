"""What a person sees while a run goes on: one line, redrawn. Refuses to know how episodes are run."""

import time
from collections import Counter
from typing import Any

from tqdm import tqdm

from agentlm_evals.outcome import Outcome
from agentlm_evals.report.statistics import Z

TITLES = {
    Outcome.RIGHT: "right",
    Outcome.WRONG: "wrong",
    Outcome.FORMAT_OR_LIMIT: "format/limit",
    Outcome.HARNESS_FAULT: "faults",
}


class Progress:
    """Counts and shows; nothing is shown where standard error is no terminal."""

    def __init__(self, planned: int, finished: int, *, shown: bool | None = None) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.tokens = 0
        self.episodes_running = 0
        self.requests_running = 0
        self._values: list[float] = []
        self._begun = time.monotonic()
        # tqdm itself leaves the bar out where there is no terminal, when `disable` is None.
        disable = None if shown is None else not shown
        self._bar: Any = tqdm(
            total=planned, initial=finished, disable=disable, unit="ep", dynamic_ncols=True, smoothing=0.05
        )

    def finished_before(self, outcome: Outcome, value: float) -> None:
        """An episode of an earlier invocation."""
        self._count(outcome, value)

    def _count(self, outcome: Outcome, value: float) -> None:
        self.outcomes[outcome] += 1
        if outcome is not Outcome.HARNESS_FAULT:
            self._values.append(value)

    def ended(self, outcome: Outcome, value: float) -> None:
        """An episode ended and is on the disk."""
        self._count(outcome, value)
        self._bar.update(1)
        self.show()

    def show(self, *, redraw: bool = False) -> None:
        """Renews the line; tqdm draws it with its next step, or now."""
        if not self._bar.disable:
            self._bar.set_postfix_str(self.line(), refresh=redraw)

    def line(self) -> str:
        """Running, score so far with its interval (normal approximation), tokens a second, faults."""
        count = len(self._values)
        parts = [f"{self.episodes_running} running"]
        if count:
            mean = sum(self._values) / count
            spread = sum((value - mean) ** 2 for value in self._values) / max(count - 1, 1)
            parts.append(f"score {mean:.3f} ± {Z * (spread / count) ** 0.5:.3f}")
        parts.append(f"{self.tokens / max(time.monotonic() - self._begun, 1e-9):.0f} tok/s")
        if faults := self.outcomes[Outcome.HARNESS_FAULT]:
            parts.append(f"{faults} faults")
        return ", ".join(parts)

    def summary(self) -> str:
        """The four outcomes, for the last line."""
        return ", ".join(f"{self.outcomes[outcome]} {title}" for outcome, title in TITLES.items())

    def close(self) -> None:
        """Leaves the last state standing."""
        self._bar.close()
