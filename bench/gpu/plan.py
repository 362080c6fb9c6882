"""Which parts there are, how long each takes, and which of them a run starts. Refuses to know what they measure."""

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

MOST_SECONDS = 580
"""Of one part: a command on a lent machine has ten minutes."""


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is measured in a process of its own."""

    name: str
    module: str
    """The file under `bench.gpu` with `run(setup, say)`."""
    seconds: float
    """Expected, on an H200 with 16 cores and empty kernel caches."""
    long_seconds: float
    """The same with `--long`."""
    what: str
    argument: str = ""
    """What `setup.argument` is, for modules of several parts."""

    def expected(self, long: bool) -> float:
        """Seconds that it should take."""
        return self.long_seconds if long else self.seconds

    def allowed(self, long: bool) -> float:
        """Seconds after which it is ended: half as long again as expected, and time to start, within ten minutes."""
        return min(1.5 * self.expected(long) + 20, MOST_SECONDS)


LIMITS_PART = "machine"
"""What others hold their figures against."""

FIRST_SECONDS = 480
"""What has most to say is within the parts of so many seconds: a machine is lent for a quarter of an hour."""

PARTS = (
    Part("machine", "limits", 20, 30, "what the GPU allows: reading, copying, multiplying, launching"),
    Part("engine", "serving", 150, 300, "the engine on Llama-3-8B's shape", "llama-3-8b"),
    Part("agreement", "agreement", 90, 160, "the engine beside transformers, number by number"),
    Part(
        "engine-qwen3-8b",
        "serving",
        100,
        300,
        "256 requests of 1024 in and out on Qwen3-8B's shape",
        "qwen3-8b",
    ),
    Part("kernels-check", "kernels_check", 110, 200, "the kernels' and the runner's tests, on the GPU"),
    Part("attention", "attention", 40, 60, "paged decode and prefill, beside torch's attention"),
    Part(
        "peers",
        "peers",
        120,
        200,
        "transformers' generation on Llama-3-8B's shape, and ours on the same work",
    ),
    Part("elementwise", "elementwise", 20, 30, "norms, SwiGLU, rotation and cache writes, embedding"),
    Part("sampling", "sampling", 25, 40, "the fast and the full sampler"),
    Part("quantized", "quantized", 45, 60, "int8, int4 and fp8 products, beside cuBLAS and torch's int4"),
    Part("engine-int4", "serving", 45, 60, "single requests with weights of four bits", "llama-3-8b/int4"),
    Part("engine-int8", "serving", 45, 60, "single requests with weights of eight bits", "llama-3-8b/int8"),
    Part("engine-invariant", "serving", 50, 70, "what batch invariance costs", "llama-3-8b/invariant"),
    Part("invariant", "invariant", 15, 25, "the batch-invariant product, beside cuBLAS"),
    Part("engine-llama-2-7b", "serving", 90, 300, "the engine on Llama-2-7B's shape", "llama-2-7b"),
    Part("attention-sweep", "attention_sweep", 80, 120, "configurations of both attention kernels"),
    Part("linear-sweep", "linear_sweep", 90, 200, "configurations of the skinny product, beside cuBLAS"),
)
"""In the order in which they run: the most valuable first."""


def choose(patterns: Sequence[str]) -> list[Part]:
    """The parts that match shell patterns, in the patterns' order; all when there is none.

    Raises `ValueError` for a pattern that matches none.
    """
    if not patterns:
        return list(PARTS)
    found: dict[str, Part] = {}
    for pattern in patterns:
        matching = {part.name: part for part in PARTS if fnmatch.fnmatchcase(part.name, pattern)}
        if not matching:
            known = ", ".join(part.name for part in PARTS)
            raise ValueError(f"no part is called {pattern!r}; known: {known}")
        found |= {name: part for name, part in matching.items() if name not in found}
    return list(found.values())


def with_limits(parts: Sequence[Part], has_limits: bool) -> list[Part]:
    """The parts, behind the one that measures the limits where these are not known."""
    if has_limits or not parts or any(part.name == LIMITS_PART for part in parts):
        return list(parts)
    return [*choose([LIMITS_PART]), *parts]


@dataclass(frozen=True, slots=True)
class Start:
    """A decision about a part."""

    part: Part
    seconds: float | None
    """How long it may take; None: it is not started, for its expected time does not fit."""


def starts(
    parts: Sequence[Part], budget: float | None, long: bool, elapsed: Callable[[], float]
) -> Iterator[Start]:
    """Decides part by part, each when the one before has ended, what fits into `budget` seconds; None is no bound."""
    for part in parts:
        if budget is None:
            yield Start(part, part.allowed(long))
            continue
        left = budget - elapsed()
        fits = part.expected(long) <= left
        yield Start(part, min(part.allowed(long), left) if fits else None)
