"""Direct preference optimization on trajectories: pairs of one item, their plan, and the step. Refuses to know files.

The loss of a pair is `-log σ(β ((π_c - r_c) - (π_r - r_r)))`, π and r the log-probabilities of a trajectory's trained
tokens under the model and under what it started from, c the better one and r the worse (arXiv:2305.18290). Its gradient is
that of weighted log-probabilities: a step computes them once to find the weights, and once more with them. So pairs
need not share a pack, nor a rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from agentlm.errors import ConfigError
from agentlm.tuning.packing import best_fit
from agentlm.tuning.plan import Pack, Plan
from agentlm.tuning.rendering import Rendered
from agentlm.tuning.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Pairs:
    """Trajectories of one item that got different rewards; each is in one pair at most."""

    chosen: npt.NDArray[np.int64]
    rejected: npt.NDArray[np.int64]
    other_prompts: int
    """Pairs that were left out because the two begin differently before their first trained token."""

    def __len__(self) -> int:
        return len(self.chosen)


def find_pairs(rendered: Rendered, margin: float) -> Pairs:
    """The best with the worst of each item, the second best with the second worst, as long as rewards differ by more.

    Raises `ConfigError` if there are none.
    """
    by_item: dict[int, list[int]] = {}
    for index in np.flatnonzero((rendered.item >= 0) & np.isfinite(rendered.reward)).tolist():
        by_item.setdefault(int(rendered.item[index]), []).append(index)
    chosen, rejected, other = [], [], 0
    for members in by_item.values():
        members.sort(key=lambda index: (-rendered.reward[index], index))
        for better, worse in zip(members, reversed(members[(len(members) + 1) // 2 :]), strict=False):
            if rendered.reward[better] - rendered.reward[worse] <= margin:
                break
            if _prompt(rendered, better) != _prompt(rendered, worse):
                other += 1
                continue
            chosen.append(better)
            rejected.append(worse)
    if not chosen:
        raise ConfigError(
            "[dpo] needs two trajectories of one `task` and `item` whose `reward` differ by more than "
            f"`dpo.margin` = {margin:g}; there are {len(by_item)} items with rewards and no such pair"
            + (f" ({other} begin with different prompts)" if other else "")
        )
    return Pairs(np.asarray(chosen), np.asarray(rejected), other)


def plan_pairs(
    pairs: Pairs,
    lengths: npt.NDArray[np.int64],
    *,
    seed: int,
    batch: int,
    capacity: int,
    steps: int | None = None,
    epochs: float | None = None,
) -> Plan:
    """Steps of `batch` pairs; every pair comes once an epoch, in another order, and an epoch's last step may be smaller."""
    sizes: list[int] = lengths.tolist()
    wanted = None if epochs is None else max(1, round(epochs * len(pairs)))
    planned: list[tuple[Pack, ...]] = []
    drawn = epoch = 0
    while (steps is not None and len(planned) < steps) or (wanted is not None and drawn < wanted):
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch), spawn_key=(2,))))
        order = rng.permutation(len(pairs))
        for start in range(0, len(order), batch):
            own = order[start : start + batch]
            if wanted is not None:
                own = own[: wanted - drawn]
            if len(own) == 0 or (steps is not None and len(planned) == steps):
                break
            both = [*pairs.chosen[own].tolist(), *pairs.rejected[own].tolist()]
            both.sort(key=lambda index: (-sizes[index], index))
            packs, _ = best_fit(both, sizes, len(both), capacity)
            planned.append(tuple(map(tuple, packs)))
            drawn += len(own)
        epoch += 1
    return Plan(tuple(planned))


@dataclass(slots=True)
class PreferenceTrainer(Trainer):
    """Steps of preferences."""

    pairs: Pairs = field(kw_only=True)
    beta: float = field(kw_only=True)
    reference: npt.NDArray[np.float64] = field(kw_only=True)
    """Nats of each conversation under what the model started from."""

    def gradients(
        self, packs: Sequence[Pack], conversations: npt.NDArray[np.int64], trained: int
    ) -> tuple[npt.NDArray[np.float64], float | None, Mapping[str, float]]:
        """See `Trainer`: the loss is that of the pairs."""
        del trained
        own = np.isin(self.pairs.chosen, conversations)
        chosen, rejected = self.pairs.chosen[own], self.pairs.rejected[own]
        with torch.no_grad():
            nats = self.passes(self.rendered, packs, 1.0, backward=False)
        # By how much a trajectory has become likelier than it was at the start.
        gain = self.reference - nats
        preferred = self.beta * (gain[chosen] - gain[rejected])
        # σ(-preferred), which no large preference overflows.
        weight = self.beta * np.exp(-np.logaddexp(0, preferred)) / len(chosen)
        factors = np.zeros(len(nats), dtype=np.float32)
        factors[chosen], factors[rejected] = weight, -weight
        self.passes(self.rendered, packs, factors, backward=True)
        more = {
            "accuracy": float((preferred > 0).mean()),
            "margin": float(preferred.mean()),
            "chosen_gain": float(gain[chosen].mean()),
            "rejected_gain": float(gain[rejected].mean()),
        }
        return nats, float(np.logaddexp(0, -preferred).mean()), more


def reference_nats(trainer: Trainer, pairs: Pairs, capacity: int) -> npt.NDArray[np.float64]:
    """Nats of each paired conversation under the model as it is. All ranks come here together."""
    sizes: list[int] = trainer.rendered.lengths.tolist()
    both = sorted(
        (*pairs.chosen.tolist(), *pairs.rejected.tolist()), key=lambda index: (-sizes[index], index)
    )
    packs, _ = best_fit(both, sizes, len(both), capacity)
    with torch.no_grad():
        return trainer.passes(trainer.rendered, [tuple(pack) for pack in packs], 1.0, backward=False)


def _prompt(rendered: Rendered, conversation: int) -> list[int]:
    ids, mask = rendered.tokens(conversation)
    found: list[int] = ids[: int(np.argmax(mask))].tolist()
    return found
