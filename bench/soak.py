"""Random traffic against one engine for a long time: leaks, stuck requests and changed answers. `make soak`.

Uses the public API only. Refuses to know speed: nothing here is timed for a table.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentlm import LLM, SamplingParams

CLIENTS = 24
FAMILIES = 6
"""Prompts share the beginning of one of so many texts."""
STUCK_SECONDS = 300.0
"""A request that takes longer counts as stuck."""
CANARY = [300 + 7 * position % 200 for position in range(40)]
GROWTH_BYTES = 64 << 20
"""Resident memory may grow by so much between the second quarter and the last one."""
DRAIN_SECONDS = 10.0


@dataclass(slots=True)
class Tally:
    """What happened."""

    finished: int = 0
    aborted: int = 0
    canaries: int = 0
    wrong: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    """Bytes, sampled evenly."""


async def client(llm: LLM, number: int, until: float, tally: Tally, canary: Sequence[int]) -> None:
    """One caller: mostly random requests, some of them given up halfway, now and then the canary."""
    draw = random.Random(number)
    while time.monotonic() < until:
        if draw.random() < 0.1:
            again = await asyncio.wait_for(llm.agenerate(CANARY, canary_params()), STUCK_SECONDS)
            tally.canaries += 1
            if tuple(again.token_ids) != tuple(canary):
                tally.wrong.append(f"the canary answered {again.token_ids} instead of {tuple(canary)}")
            continue
        work = llm.agenerate(random_prompt(draw), random_params(draw))
        patience = draw.uniform(0.0, 0.5) if draw.random() < 0.2 else STUCK_SECONDS
        try:
            await asyncio.wait_for(work, patience)
            tally.finished += 1
        except TimeoutError:
            if patience == STUCK_SECONDS:
                tally.wrong.append(f"a request of client {number} took more than {STUCK_SECONDS:.0f} s")
            tally.aborted += 1


def random_prompt(draw: random.Random) -> list[int]:
    """A beginning that others have too, and an end of its own."""
    family = random.Random(draw.randrange(FAMILIES))
    shared = [family.randrange(0, 256) for _ in range(300)]
    return shared[: draw.randrange(1, 300)] + [draw.randrange(0, 256) for _ in range(draw.randrange(1, 60))]


def random_params(draw: random.Random) -> SamplingParams:
    """Any mixture of sampling parameters that the server accepts."""
    return SamplingParams(
        max_new_tokens=draw.choice([1, 8, 64, 200]),
        temperature=draw.choice([0.0, 0.7, 1.3]),
        top_p=draw.choice([None, 0.9]),
        top_k=draw.choice([None, 20]),
        repetition_penalty=draw.choice([1.0, 1.2]),
        seed=draw.randrange(1 << 32),
        stop=draw.choice([(), ("e",), ("ab", "zu zu")]),
        top_n_tokens=draw.choice([0, 0, 3]),
    )


def canary_params() -> SamplingParams:
    """Greedy and long enough to meet other requests in a batch."""
    return SamplingParams(max_new_tokens=24, ignore_eos=True)


async def watch(until: float, samples: int, tally: Tally) -> None:
    """Notes the resident memory, evenly over the run."""
    pause = max((until - time.monotonic()) / samples, 0.01)
    while time.monotonic() < until:
        tally.resident.append(resident_bytes())
        await asyncio.sleep(pause)


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS")), 0)


async def traffic(llm: LLM, minutes: float) -> Tally:
    """Runs all clients and then looks at what they left behind."""
    canary = (await llm.agenerate(CANARY, canary_params())).token_ids
    tally = Tally()
    until = time.monotonic() + 60 * minutes
    watching = asyncio.create_task(watch(until, 200, tally))
    await asyncio.gather(*(client(llm, number, until, tally, canary) for number in range(CLIENTS)))
    await watching
    left: dict[str, float] = {}
    for _ in range(int(DRAIN_SECONDS * 10)):
        stats = llm.stats()
        left = {
            name: stats[name] for name in ("queued", "running", "unfinished", "blocks_held", "blocks_limbo")
        }
        if not any(left.values()):
            break
        await asyncio.sleep(0.1)
    if any(left.values()):
        tally.wrong.append(f"{DRAIN_SECONDS:.0f} s after the last request the engine still has {left}")
    quarter = len(tally.resident) // 4
    if quarter:
        early = statistics.median(tally.resident[quarter : 2 * quarter])
        late = statistics.median(tally.resident[-quarter:])
        if late - early > GROWTH_BYTES:
            tally.wrong.append(f"resident memory grew from {early / 2**20:.0f} to {late / 2**20:.0f} MiB")
    return tally


def main() -> int:
    """Runs the soak; 1 when anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--model", help="a checkpoint folder; without one, agentlm-nano")
    parser.add_argument(
        "--kv-cache-memory", type=int, default=2 << 20, help="bytes, few enough that requests wait"
    )
    given = parser.parse_args()
    with LLM(given.model, progress=False, kv_cache_memory=given.kv_cache_memory, max_total_tokens=640) as llm:
        tally = asyncio.run(traffic(llm, given.minutes))
        preemptions = llm.stats()["preemptions"]
    print(
        f"{tally.finished} finished, {tally.aborted} aborted, {tally.canaries} canaries, {preemptions:.0f} preemptions, "
        f"{max(tally.resident, default=0) / 2**20:.0f} MiB at most"
    )
    for line in dict.fromkeys(tally.wrong):
        print(line, file=sys.stderr)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
