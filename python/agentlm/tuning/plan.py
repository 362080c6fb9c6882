"""What every step of a run computes: packs of conversations, planned as a whole before ranks share them.

A plan is a function of the conversations' lengths, the mixture and the seed: a run that goes on finds the same one, and
its digest proves it. Refuses to know tokens, models and devices.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from agentlm.tuning.mixture import Stream, draws
from agentlm.tuning.packing import best_fit

WINDOW = 1024
"""Packs that are filled together, about: enough choice for full packs, few enough that order stays random."""

Pack = tuple[int, ...]
"""Conversations of one pack."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The packs of each step."""

    steps: tuple[tuple[Pack, ...], ...]

    def digest(self) -> str:
        """SHA-256 of the whole plan, in hexadecimal."""
        digest = hashlib.sha256()
        for step in self.steps:
            for pack in step:
                digest.update(np.asarray((len(pack), *pack), dtype="<i8").tobytes())
            digest.update(b"step")
        return digest.hexdigest()

    def counts(self, conversations: int) -> npt.NDArray[np.int64]:
        """How often each conversation is trained."""
        flat = [conversation for step in self.steps for pack in step for conversation in pack]
        return np.bincount(np.asarray(flat, dtype=np.int64), minlength=conversations)


def make_plan(
    lengths: npt.NDArray[np.int64],
    mixture: Sequence[Stream],
    *,
    seed: int,
    batch: int,
    capacity: int,
    packing: bool = True,
    steps: int | None = None,
    drawn: int | None = None,
    cost: npt.NDArray[np.int64] | None = None,
) -> Plan:
    """Plans `steps` steps of `batch` packs of `capacity` tokens, or as many as `drawn` conversations need.

    Conversations are drawn for a window of steps and packed into it; those that find no room open the next one. In a run
    by `drawn` every one of them is trained, and the last step may be smaller.
    """
    if (steps is None) == (drawn is None):
        raise ValueError("a plan is of so many steps, or of so many conversations")
    source = draws(mixture, seed, cost)
    if drawn is not None:
        source = islice(source, drawn)
    sizes: list[int] = lengths.tolist()
    planned: list[tuple[Pack, ...]] = []
    carried: list[int] = []
    window = 0
    while steps is None or len(planned) < steps:
        wanted = max(1, WINDOW // batch)
        wanted = wanted if steps is None else min(wanted, steps - len(planned))
        packs, carried = _fill(source, carried, sizes, wanted * batch, capacity, packing)
        if not packs:
            break
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, window), spawn_key=(1,))))
        order = rng.permutation(len(packs)).tolist()
        shuffled = [tuple(packs[index]) for index in order]
        planned.extend(tuple(shuffled[at : at + batch]) for at in range(0, len(shuffled), batch))
        window += 1
    return Plan(tuple(planned))


def _fill(
    source: Iterator[int], carried: list[int], sizes: list[int], packs: int, capacity: int, packing: bool
) -> tuple[list[list[int]], list[int]]:
    """Fills so many packs: what was carried over first, so that nothing waits for long."""
    if not packing:
        taken = [*carried, *islice(source, packs - len(carried))]
        return [[conversation] for conversation in taken], []
    tokens = sum(sizes[conversation] for conversation in carried)
    drawn: list[int] = []
    while tokens < packs * capacity:
        conversation = next(source, None)
        if conversation is None:
            break
        drawn.append(conversation)
        tokens += sizes[conversation]
    carried.sort(key=lambda conversation: -sizes[conversation])
    drawn.sort(key=lambda conversation: -sizes[conversation])
    return best_fit([*carried, *drawn], sizes, packs, capacity)


def shared_out(step: Sequence[Pack], lengths: npt.NDArray[np.int64], ranks: int) -> list[list[Pack]]:
    """A step's packs for each rank, as many for each as can be, longest first and back and forth so that loads are even."""
    size = {pack: int(sum(lengths[conversation] for conversation in pack)) for pack in step}
    ordered = sorted(step, key=lambda pack: (-size[pack], pack))
    shares: list[list[Pack]] = [[] for _ in range(ranks)]
    for index, pack in enumerate(ordered):
        turn, place = divmod(index, ranks)
        shares[place if turn % 2 == 0 else ranks - 1 - place].append(pack)
    return shares
