"""The loop: packs in, steps out. Refuses to know where data, weights and checkpoints come from.

Every number that enters a step is a function of the plan and the step's index, so that a run that goes on is the run
that was never interrupted.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from agentlm.tuning.batches import make_batch
from agentlm.tuning.config import TrainingSection
from agentlm.tuning.model import TrainableDecoder
from agentlm.tuning.optimizer import learning_rate
from agentlm.tuning.parallel import Ranks, clip_gradients
from agentlm.tuning.plan import Pack, Plan, shared_out
from agentlm.tuning.rendering import Rendered


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimizer step was."""

    loss: float
    """Nats a trained token."""
    losses: dict[int, float]
    """The same of each source, by index, as far as the step had any."""
    norm: float
    """Of the gradient, before it was clipped."""
    learning_rate: float
    tokens: int
    trained: int
    attended: int
    """Sum of the squares of the conversations' lengths."""
    seconds: float


@dataclass(slots=True)
class Trainer:
    """A model, its optimizer and its plan."""

    model: TrainableDecoder
    optimizer: torch.optim.Optimizer
    training: TrainingSection
    rendered: Rendered
    plan: Plan
    ranks: Ranks
    sources: int
    """How many sources the rendered conversations have."""
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
        sums = self._passes(self.rendered, self.sources, packs, 1.0 / trained, backward=True)
        norm = clip_gradients(self.parameters.values(), self.training.clip, self.ranks)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        total, by_source = _means(sums)
        return StepResult(
            loss=total,
            losses=by_source,
            norm=float(norm),
            learning_rate=rate,
            tokens=int(lengths.sum()),
            trained=trained,
            attended=int((lengths**2).sum()),
            seconds=time.perf_counter() - began,
        )

    @torch.no_grad()
    def evaluate(self, rendered: Rendered, sources: int, capacity: int) -> dict[int, float]:
        """The loss of each source of held-out conversations, by index. All ranks come here together."""
        return _means(self._passes(rendered, sources, _in_order(rendered, capacity), 1.0, backward=False))[1]

    def _passes(
        self, rendered: Rendered, sources: int, packs: Sequence[Pack], scale: float, *, backward: bool
    ) -> Tensor:
        """Computes this rank's packs, some at a time; sums of losses and trained tokens by source, over all ranks."""
        own = shared_out(packs, rendered.lengths, self.ranks.data)[self.ranks.data_rank]
        at_a_time = self.training.micro_batch
        # Gathering weights is common work: every rank goes as often as the one with the most packs.
        passes = math.ceil(math.ceil(len(packs) / self.ranks.data) / at_a_time)
        device = self.ranks.device
        sums = torch.zeros(2, sources, dtype=torch.float64, device=device)
        for number in range(passes):
            taken = own[number * at_a_time : (number + 1) * at_a_time]
            batch, source = make_batch(rendered, taken, device)
            loss, logprobs = self.model(batch, scale)
            if backward:
                loss.backward()
            index = torch.from_numpy(source.astype(np.int64)).to(device)
            sums[0].index_add_(0, index, -logprobs.double())
            sums[1].index_add_(0, index, torch.ones_like(logprobs, dtype=torch.float64))
        return self.ranks.sum_over_data(sums)


def _means(sums: Tensor) -> tuple[float, dict[int, float]]:
    losses, counts = sums.cpu()
    by_source = {
        index: float(losses[index] / counts[index]) for index in range(len(counts)) if counts[index] > 0
    }
    return float(losses.sum() / counts.sum()), by_source


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
