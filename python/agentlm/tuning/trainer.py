"""The loop: packs in, steps out. Refuses to know where data, weights and checkpoints come from.

Every number that enters a step is a function of the plan and the step's index, so that a run that goes on is the run
that was never interrupted.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from agentlm.tuning.batches import make_batch
from agentlm.tuning.config import TrainingSection
from agentlm.tuning.model import TrainableDecoder
from agentlm.tuning.optimizer import learning_rate
from agentlm.tuning.parallel import Ranks, clip_gradients, regroup
from agentlm.tuning.plan import Pack, Plan, shared_out
from agentlm.tuning.rendering import Rendered


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimizer step was."""

    loss: float
    """Nats a trained token; of preferences, nats a pair."""
    losses: Mapping[int, float]
    """Nats a trained token of each source, by index, as far as the step had any."""
    tags: Mapping[str, float]
    """The same of each tag, over all sources."""
    norm: float
    """Of the gradient, before it was clipped."""
    learning_rate: float
    tokens: int
    trained: int
    attended: int
    """Sum of the squares of the conversations' lengths."""
    seconds: float
    more: Mapping[str, float] = field(default_factory=dict)
    """What else the objective tells."""


@dataclass(slots=True)
class Trainer:
    """A model, its optimizer and its plan."""

    model: TrainableDecoder
    optimizer: torch.optim.Optimizer
    training: TrainingSection
    rendered: Rendered
    plan: Plan
    ranks: Ranks
    parameters: dict[str, nn.Parameter] = field(init=False)
    """Those that are trained, by name."""

    def __post_init__(self) -> None:
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def step(self, index: int) -> StepResult:
        """Carries out one step of the plan, counted from 0. All ranks come here together."""
        began = time.perf_counter()
        packs = self.plan.steps[index]
        rate = learning_rate(self.training, index, len(self.plan.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        conversations = np.asarray([one for pack in packs for one in pack])
        lengths = self.rendered.lengths[conversations]
        trained = int(self.rendered.trained[conversations].sum())
        sums, loss, more = self.gradients(packs, conversations, trained)
        norm = clip_gradients(self.parameters.values(), self.training.clip, self.ranks)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        counts = np.bincount(conversations, minlength=len(sums))
        return StepResult(
            loss=float(sums.sum()) / trained if loss is None else loss,
            losses=means(sums, self.rendered, counts),
            tags=means_of_tags(sums, self.rendered, counts),
            norm=float(norm),
            learning_rate=rate,
            tokens=int(lengths.sum()),
            trained=trained,
            attended=int((lengths**2).sum()),
            seconds=time.perf_counter() - began,
            more=more,
        )

    def gradients(
        self, packs: Sequence[Pack], conversations: npt.NDArray[np.int64], trained: int
    ) -> tuple[npt.NDArray[np.float64], float | None, Mapping[str, float]]:
        """Leaves the step's gradients at the parameters.

        Returns each conversation's nats (0 for those of other steps), the loss if it is not their mean over trained
        tokens, and what else there is to tell.
        """
        del conversations
        return self.passes(self.rendered, packs, 1.0 / trained, backward=True), None, {}

    @torch.no_grad()
    def evaluate(self, rendered: Rendered, capacity: int) -> tuple[dict[int, float], dict[str, float]]:
        """The loss of each source of held-out conversations, by index, and of each tag. All ranks come here together."""
        sums = self.passes(rendered, _in_order(rendered, capacity), 1.0, backward=False)
        counts = np.ones(len(rendered), dtype=np.int64)
        return means(sums, rendered, counts), means_of_tags(sums, rendered, counts)

    def passes(
        self,
        rendered: Rendered,
        packs: Sequence[Pack],
        scale: float | npt.NDArray[np.float32],
        *,
        backward: bool,
    ) -> npt.NDArray[np.float64]:
        """Computes this rank's packs, some at a time; over all ranks, each conversation's nats.

        `scale` is the factor of each trained token's nats in the loss: one, or one a conversation.
        """
        own = shared_out(packs, rendered.lengths, self.ranks.data)[self.ranks.data_rank]
        at_a_time = self.training.micro_batch
        # Gathering weights is common work: every rank goes as often as the one with the most packs.
        passes = math.ceil(math.ceil(len(packs) / self.ranks.data) / at_a_time)
        device = self.ranks.device
        met = np.unique([conversation for pack in packs for conversation in pack])
        sums = torch.zeros(len(met), dtype=torch.float64, device=device)
        for number in range(passes):
            taken = own[number * at_a_time : (number + 1) * at_a_time]
            batch, owners = make_batch(rendered, taken, device)
            factor = scale if isinstance(scale, float) else torch.from_numpy(scale[owners]).to(device)
            loss, logprobs = self.model(batch, factor)
            if backward:
                loss.backward()
            places = torch.from_numpy(np.searchsorted(met, owners)).to(device)
            sums.index_add_(0, places, -logprobs.double())
        if not backward:
            regroup(self.model)
        nats = np.zeros(len(rendered), dtype=np.float64)
        nats[met] = self.ranks.sum_over_data(sums).cpu().numpy()
        return nats


def means(
    sums: npt.NDArray[np.float64], rendered: Rendered, counts: npt.NDArray[np.int64]
) -> dict[int, float]:
    """Nats a trained token of each source; `counts` are how often each conversation's were added up."""
    met = counts > 0
    found: dict[int, float] = {}
    for source in np.unique(rendered.source[met]).tolist():
        own = met & (rendered.source == source)
        found[source] = float(sums[own].sum() / (rendered.trained * counts)[own].sum())
    return found


def means_of_tags(
    sums: npt.NDArray[np.float64], rendered: Rendered, counts: npt.NDArray[np.int64]
) -> dict[str, float]:
    """The same of each tag; a conversation counts for every one it has."""
    sets = len(rendered.tag_sets)
    met = counts > 0
    nats = np.bincount(rendered.tags[met], sums[met], sets)
    trained = np.bincount(rendered.tags[met], (rendered.trained * counts)[met], sets)
    total: dict[str, list[float]] = {}
    for index in np.flatnonzero(trained).tolist():
        for tag in set(rendered.tag_sets[index]):
            both = total.setdefault(tag, [0.0, 0.0])
            both[0] += nats[index]
            both[1] += trained[index]
    return {tag: nats_of / trained_of for tag, (nats_of, trained_of) in sorted(total.items())}


def _in_order(rendered: Rendered, capacity: int) -> list[Pack]:
    """Conversations as they come, as many a pack as fit."""
    packs: list[Pack] = []
    held: list[int] = []
    room = capacity
    for conversation, length in enumerate(rendered.lengths.tolist()):
        if held and length > room:
            packs.append(tuple(held))
            held, room = [], capacity
        held.append(conversation)
        room -= length
    return [*packs, tuple(held)] if held else packs
