"""What a GPU did between two moments, from the intervals of its kernels: how long it was idle, and what took its time.

Refuses to know engines; a step is what begins with a kernel of a given name. Times are nanoseconds.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

STEP_KERNEL = "_expand"
"""The kernel that begins every step of ours."""
LEAVE_OUT = 5
"""Steps at either end that are not steady."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A kernel, or a copy, on the GPU."""

    name: str
    start: int
    end: int

    @property
    def is_kernel(self) -> bool:
        """Not a copy and not a fill."""
        return not self.name.startswith(("Memcpy", "Memset"))


@dataclass(frozen=True, slots=True)
class Steady:
    """Whole steps, one after the other."""

    steps: int
    step_us: float
    idle: float
    """Share of the time in which nothing ran."""
    between_steps: float
    """Share of the time from the last kernel of a step to the first of the next: copies do not count as work."""
    between_us: float
    """The same, a step."""
    kernels: dict[str, tuple[float, float]]
    """By name: launches and microseconds a step, the longest first."""


def steady(
    intervals: Iterable[Interval], step_kernel: str = STEP_KERNEL, leave_out: int = LEAVE_OUT
) -> Steady:
    """What the steps in the middle have in common. Raises `ValueError` where there are too few."""
    ordered = sorted(intervals, key=lambda one: one.start)
    begins = [one.start for one in ordered if one.name == step_kernel]
    begins = begins[leave_out : len(begins) - leave_out]
    if len(begins) < 2:
        raise ValueError(f"too few steps begin with {step_kernel!r} among {len(ordered)} intervals")
    first, last = begins[0], begins[-1]
    window, steps = last - first, len(begins) - 1
    inside = [one for one in ordered if first <= one.start < last]
    between = 0
    kernels_end = first
    for one in inside:
        if one.is_kernel:
            if one.name == step_kernel:
                between += max(one.start - kernels_end, 0)
            kernels_end = max(kernels_end, one.end)
    between += max(last - kernels_end, 0)
    by_name: dict[str, list[int]] = {}
    for one in inside:
        by_name.setdefault(one.name, []).append(one.end - one.start)
    totals = sorted(by_name.items(), key=lambda item: -sum(item[1]))
    return Steady(
        steps=steps,
        step_us=window / steps / 1e3,
        idle=1 - _covered(inside, last) / window,
        between_steps=between / window,
        between_us=between / steps / 1e3,
        kernels={name: (len(times) / steps, sum(times) / steps / 1e3) for name, times in totals},
    )


def _covered(ordered: Sequence[Interval], last: int) -> int:
    """Time in which at least one of the intervals runs."""
    total = 0
    end = 0
    for one in ordered:
        stop = min(one.end, last)
        total += max(stop - max(one.start, end), 0)
        end = max(end, stop)
    return total


def traced(run: Callable[[], object]) -> list[Interval]:
    """All that the GPU does while `run` runs, whichever thread launched it. Tracing makes launches a little slower."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    results: Any = profiler.profiler.kineto_results
    return [
        Interval(event.name(), event.start_ns(), event.start_ns() + event.duration_ns())
        for event in results.events()
        if str(event.device_type()).endswith("CUDA") and not event.is_user_annotation()
    ]
