"""Which conversation is drawn next: sources by their shares, each source's conversations in a new order every epoch.

The n-th draw is a function of the seed, the shares and n only. Shares are met as closely as whole conversations allow
at every draw, not only on average: the stream that is furthest behind comes next. Refuses to know tokens and packs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agentlm.errors import ConfigError
from agentlm.tuning.config import DataSection


@dataclass(frozen=True, slots=True)
class Stream:
    """Conversations that are drawn equally often."""

    source: int
    """Index into the sources."""
    members: npt.NDArray[np.int64]
    """Indices of its conversations."""
    share: float
    """Of all that is drawn."""


def streams(
    data: DataSection, source: npt.NDArray[np.int32], factor: npt.NDArray[np.float64]
) -> list[Stream]:
    """The streams of a mixture: one a source, or one a factor where tags weigh differently.

    `source` is each conversation's index into `data.sources`, `factor` the product of its tags' weights. Raises
    `ConfigError` for a share without conversations.
    """
    sizes = np.bincount(source, minlength=len(data.sources))
    found: list[Stream] = []
    for index, share in enumerate(source_shares(data, sizes.tolist())):
        if share == 0:
            continue
        own = np.flatnonzero(source == index)
        weight = factor[own]
        if len(own) == 0 or weight.sum() == 0:
            raise ConfigError(
                f"source {data.sources[index].name!r} has a share of {share:.3g} and no conversation to draw: take it "
                "out, or look at what was left out of it"
            )
        for value in np.unique(weight[weight > 0]):
            members = own[weight == value]
            found.append(Stream(index, members, share * value * len(members) / weight.sum()))
    return found


def source_shares(data: DataSection, sizes: Sequence[int]) -> list[float]:
    """Each source's share of what is drawn; `sizes` are the sources' numbers of conversations."""
    weights = [
        size if source.weight is None else source.weight
        for source, size in zip(data.sources, sizes, strict=True)
    ]
    groups = [source.group for source in data.sources]
    of_group = {None: 1.0, "agent": data.eta or 0.0, "general": 1.0 - (data.eta or 0.0)}
    totals = {group: sum(w for w, g in zip(weights, groups, strict=True) if g == group) for group in groups}
    # A group of empty sources keeps its share, so that `streams` can say that nothing is there to draw.
    return [
        of_group[group] * (weight / totals[group] if totals[group] else 1.0)
        for weight, group in zip(weights, groups, strict=True)
    ]


def draws(mixture: Sequence[Stream], seed: int, cost: npt.NDArray[np.int64] | None = None) -> Iterator[int]:
    """Conversations without end. `cost` is what a conversation takes of its stream's share, 1 each if None."""
    orders = [_order(stream, seed, index) for index, stream in enumerate(mixture)]
    shares = [stream.share for stream in mixture]
    taken = [0.0] * len(mixture)
    total = 0.0
    while True:
        # The first draw has nobody behind; the largest share begins.
        behind = [share * (total + 1) - got for share, got in zip(shares, taken, strict=True)]
        chosen = max(range(len(behind)), key=behind.__getitem__)
        conversation = next(orders[chosen])
        paid = 1.0 if cost is None else float(cost[conversation])
        taken[chosen] += paid
        total += paid
        yield conversation


def _order(stream: Stream, seed: int, index: int) -> Iterator[int]:
    """A stream's conversations, each once an epoch, every epoch in another order."""
    epoch = 0
    while True:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index, epoch))))
        yield from stream.members[rng.permutation(len(stream.members))].tolist()
        epoch += 1
