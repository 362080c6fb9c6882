"""How long a launch takes, without the host. Refuses to know kernels.

Many calls are captured in one graph, over as many sets of operands as it takes to leave the cache, and replayed between two
events. In a rehearsal a call is timed once by the host's clock.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

CACHE_BYTES = 192 << 20
"""Operands of so many bytes in all are not found in any GPU's cache again."""
MOST_SETS = 64
REPLAYS = 9
REPLAY_SECONDS = 1.5e-3
"""A replay is at least this long, so that events measure it well."""
MOST_CALLS = 256


def sets_for(bytes_a_call: float, rehearse: bool = False) -> int:
    """How many sets of operands a measurement rotates through."""
    if rehearse:
        return 1
    return min(max(math.ceil(CACHE_BYTES / max(bytes_a_call, 1)), 1), MOST_SETS)


def seconds_of(
    call: Callable[[int], object], sets: int = 1, *, captured: bool = True, replays: int = REPLAYS
) -> float:
    """Seconds of one call, the median of several replays. `call(i)` uses the i-th set of operands.

    What cannot be captured is launched one by one (`captured=False`, or the capture fails).
    """
    if not torch.cuda.is_available():
        start = time.perf_counter()
        call(0)
        return time.perf_counter() - start
    for i in range(min(sets, 2)):
        call(i)
    torch.cuda.synchronize()
    once = _between(lambda: [call(i % sets) for i in range(sets + 2)]) / (sets + 2)
    calls = min(max(math.ceil(REPLAY_SECONDS / max(once, 1e-7)), sets), MOST_CALLS)
    calls = max(calls // sets, 1) * sets
    launch: Callable[[], object] = lambda: [call(i % sets) for i in range(calls)]  # noqa: E731 (a name for either)
    if captured:
        try:
            launch = _captured(launch)
        except RuntimeError:
            torch.cuda.synchronize()
    launch()
    replays = replays if once * calls < 0.02 else min(replays, 3)
    return statistics.median(_between(launch) for _ in range(replays)) / calls


def _captured(launch: Callable[[], object]) -> Callable[[], object]:
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    # `torch.cuda.graph` would collect garbage and empty the cache each time: minutes in a sweep.
    cuda: Any = torch.cuda
    with cuda.stream(cuda.Stream()):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            launch()
        finally:
            graph.capture_end()
    replay: Callable[[], object] = graph.replay
    return replay


def _between(launch: Callable[[], object]) -> float:
    """Seconds between events around a launch."""
    cuda: Any = torch.cuda
    start, end = (cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    launch()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def copies(bytes_a_call: float, most: int = MOST_SETS) -> int:
    """`sets_for`, at most `most`."""
    return min(sets_for(bytes_a_call), most)


def microseconds(launches: Sequence[Callable[[], object]], replays: int = REPLAYS) -> float:
    """Microseconds of one of the launches, which are run in turn; each is one set of operands."""
    return 1e6 * seconds_of(lambda i: launches[i](), len(launches), replays=replays)
