"""Steps on a CUDA device: the memory they are computed in, and their launches, captured or one by one.

Decodes are two captured graphs a batch size, the model's and the sampler's. All of it exists only while the weights are in
memory. Refuses to know requests, rings and controls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from agentlm.model import adapter
from agentlm.model.weights import Checkpoint
from agentlm.ops.adapters import AdapterTables
from agentlm.ops.triton import StepShape
from agentlm.ops.upload import Upload
from agentlm.runtime.cuda_memory import StepMemory, StepSizes
from agentlm.runtime.cuda_model import CudaModel, attach
from agentlm.runtime.device import Graph
from agentlm.runtime.plan import Plan
from agentlm_kernels.arena import apply_changes, expand
from agentlm_kernels.attention import SplitPolicy
from agentlm_kernels.sampling import (
    ResultsLayout,
    SamplerSettings,
    sample_fast,
    sample_full,
    score_rows,
)
from agentlm_kernels.words import Q_LEN

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
"""Batch sizes of captured decodes; a decode is padded to the next one. Beyond the last, every 64th."""


@dataclass(slots=True)
class _Graphs:
    """Captured decodes by batch size, ascending."""

    model: dict[int, Graph] = field(default_factory=dict)
    sampler: dict[int, Graph] = field(default_factory=dict)
    adapted: dict[int, Graph] = field(default_factory=dict)
    """The model with adapters; captured when the first one is loaded."""


class CudaSteps:
    """One model, ready to compute steps of up to `sizes`."""

    def __init__(
        self,
        model: CudaModel,
        sizes: StepSizes,
        num_blocks: int,
        eos_ids: Sequence[int],
        graph_sizes: Sequence[int],
        watermark: tuple[float, float] = (0.5, 2.0),
    ) -> None:
        self._model = model
        self._device = device = model.device
        self._graph_sizes = sorted({min(size, sizes.rows) for size in graph_sizes}, reverse=True)
        self._graphs = _Graphs()
        self._sizes = sizes
        place, vocab = device.place, model.config.vocab
        self._layout = ResultsLayout(sizes.rows, sizes.top, sizes.scores)
        with torch.no_grad():
            self._memory = StepMemory.allocate(sizes, vocab, place)
            eos = torch.tensor(sorted(eos_ids), dtype=torch.int32, device=place)
            gamma, delta = watermark
            self._settings = SamplerSettings(eos, vocab, watermark_gamma=gamma, watermark_delta=delta)
            attach(model, self._memory.expansion, self._memory.rows, num_blocks, sizes.positions)
            self._adapters = AdapterTables(place, model.ops.dtype, device.free_bytes)
            model.ops.adapters = self._adapters
            self._graphs.model = self._capture(self._launched_model(False))
            self._graphs.sampler = self._capture(lambda size: lambda: self._launch_sampler(size, False))
            self._device.warm(self._warm_up)

    # --- a step ---

    def forward(self, pinned: Tensor, plan: Plan, has_adapters: bool) -> None:
        """Takes the plan's words in, page-locked int32, and computes its logits."""
        used = plan.used_words
        self._memory.arena[:used].copy_(pinned[:used], non_blocking=True)
        if plan.n_inits or plan.n_block_diffs:
            apply_changes(self._memory.arena, self._memory.rows, plan.n_inits)
        bucket = self._bucket(plan)
        if bucket is not None:
            (self._graphs.adapted if has_adapters else self._graphs.model)[bucket].replay()
            return
        self._forward(
            StepShape(
                entries=plan.n_entries,
                tokens=plan.n_tokens,
                rows=max(plan.n_samples + plan.n_scores, 1),
                has_decodes=bool((plan.entries[:, Q_LEN.value] == 1).any()),
                has_prefills=plan.max_q_len > 1,
                policy=self._policy(plan.n_entries),
                has_adapters=has_adapters,
            )
        )

    def sample(self, plan: Plan, full: bool, masks: Tensor | None, results: Tensor) -> None:
        """Samples the step's rows and scores its prompts, and sends the results to `results`, page-locked int32.

        `full` is whether a row wants more than its largest logit or a draw from all; `masks` are the rows' grammars'.
        """
        words = self._sizes.results_words if full or plan.n_scores else 2 * self._sizes.rows
        if masks is not None:
            self._memory.masks[: plan.n_samples].copy_(masks[: plan.n_samples], non_blocking=True)
        bucket = self._bucket(plan)
        if bucket is not None and not full:
            self._graphs.sampler[bucket].replay()
        elif plan.n_samples:
            self._launch_sampler(bucket or plan.n_samples, full)
        if plan.n_scores:
            self._score(plan.n_samples, plan.n_scores)
        results[:words].copy_(self._memory.results[:words], non_blocking=True)

    def _policy(self, entries: int) -> SplitPolicy:
        return SplitPolicy.for_step(entries, self._model.config.kv_heads)

    def _forward(self, shape: StepShape) -> None:
        expand(self._memory.arena, self._memory.rows, self._memory.expansion, shape.entries, shape.policy)
        self._model.forward(shape, self._memory.logits[: shape.rows])

    def _launch_sampler(self, rows: int, full: bool) -> None:
        m, at = self._memory, self._memory.expansion
        samples = (
            m.logits[:rows],
            at.sample_row[:rows],
            at.sample_position[:rows],
            m.rows.records,
            m.rows.tokens,
        )
        into = (m.sampler, self._settings, m.results, self._layout)
        if full:
            sample_full(*samples, m.rows.biases, m.masks[:rows], *into)
        else:
            sample_fast(*samples, *into)

    def _score(self, first: int, count: int) -> None:
        """Log-probabilities of prompt tokens; their logits begin at row `first`."""
        m, at = self._memory, self._memory.expansion
        score_rows(
            m.logits[first : first + count], at.score_row[:count], at.score_next[:count],
            m.rows.records, m.sampler, self._settings, m.results, self._layout,
        )  # fmt: skip

    def _warm_up(self) -> None:
        """Launches once what is not captured, over padding, so that no request waits for a compiler."""
        self._warm_up_model(False)
        apply_changes(self._memory.arena, self._memory.rows, 0)
        self._launch_sampler(1, False)
        self._launch_sampler(1, True)
        # Where rows of logits are no multiples of 16 bytes, those that do not begin at one have kernels of their own.
        for first in range(min(2, self._memory.logits.shape[0])):
            self._score(first, 1)

    def _warm_up_model(self, has_adapters: bool) -> None:
        self._memory.arena.zero_()
        self._memory.expansion.slots.fill_(-1)
        most, regimes = self._memory.logits.shape[0], self._model.ops.regimes()
        # The head has as many rows as the step has tokens, or fewer.
        for tokens, rows in [
            *zip(regimes, regimes, strict=True),
            *((regimes[-1], rows) for rows in regimes[:-1]),
        ]:
            tokens = min(tokens, self._sizes.tokens)
            shape = StepShape(1, tokens, min(rows, most, tokens), True, True, self._policy(1), has_adapters)
            self._forward(shape)

    # --- adapters and weights, between two steps ---

    def load_adapter(self, number: int, directory: Path) -> None:
        """Reads an adapter and makes it ready. Raises `AdapterError`, `ControlError`; nothing was changed then."""
        parts = adapter.resolve(adapter.load_adapter(directory, self._model.config), self._model.decoder)
        with torch.no_grad():
            if self._adapters.load(number, parts, Upload(self._device.place)):
                # The old tables' memory is given up while nothing reads it.
                self._device.synchronize()
                self._graphs.adapted = {}
                self._graphs.adapted = self._capture(self._launched_model(True))
                self._device.warm(lambda: self._warm_up_model(True))

    def unload_adapter(self, number: int) -> None:
        """Forgets an adapter."""
        self._adapters.unload(number)

    def refill(self, checkpoint: Checkpoint) -> None:
        """Puts another checkpoint's weights where the old ones lie: captured launches stay right."""
        self._device.synchronize()
        with torch.no_grad():
            self._model.refill(checkpoint)
        self._device.synchronize()

    def close(self) -> None:
        """Forgets the captured launches; their memory is a pool's, free when the last of them is gone."""
        self._device.synchronize()
        self._graphs = _Graphs()

    # --- captured decodes ---

    def _bucket(self, plan: Plan) -> int | None:
        """The captured batch size that serves a plan; None if it must be launched."""
        if not plan.is_decode:
            return None
        return next((size for size in self._graphs.model if size >= plan.n_entries), None)

    def _launched_model(self, has_adapters: bool) -> Callable[[int], Callable[[], None]]:
        def of(size: int) -> Callable[[], None]:
            shape = StepShape(size, size, size, True, False, self._policy(size), has_adapters)
            return lambda: self._forward(shape)

        return of

    def _capture(self, launches: Callable[[int], Callable[[], None]]) -> dict[int, Graph]:
        """Captures these launches for every batch size, the largest first: smaller ones then live in its memory."""
        # A plan of nothing: what is launched over it is padding.
        self._memory.arena.zero_()
        found = {size: self._device.capture(launches(size)) for size in self._graph_sizes}
        return dict(sorted(found.items()))


def buckets(max_rows: int) -> list[int]:
    """Batch sizes to capture for up to `max_rows` rows."""
    sizes = [size for size in (*BUCKETS, *range(BUCKETS[-1] + 64, max_rows, 64)) if size < max_rows]
    return [*sizes, max_rows]
