"""The CUDA runner: plans go to the device as they lie, steps are replayed there, sampled ids stay there for the next one.

Decodes are two captured graphs a batch size, the model's and the sampler's; any other step launches the same kernels one by
one. Two steps are in flight: while one computes, the next is planned and queued. Refuses to know requests and text.
"""

import ctypes
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agentlm._engine import Engine, Rings
from agentlm.config import EngineConfig
from agentlm.errors import ControlError, OutOfMemoryError
from agentlm.model import rope
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import Decoder, checked
from agentlm.model.layout import EMBEDDING, HEAD, tensor_shapes
from agentlm.model.weights import Checkpoint, Progress
from agentlm.ops.triton import LayerCache, StepShape, TritonOps, Value
from agentlm.ops.upload import Upload
from agentlm.runtime import memory
from agentlm.runtime.device import Device, Event, Graph
from agentlm.runtime.plan import Plan, RowFlags
from agentlm_kernels.arena import Expansion, Rows, apply_changes, expand
from agentlm_kernels.attention import DecodeWorkspace, SplitPolicy
from agentlm_kernels.sampling import (
    ResultsLayout,
    SamplerBuffers,
    SamplerSettings,
    sample_fast,
    sample_full,
    score_rows,
)
from agentlm_kernels.words import Q_LEN

TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MEMORY_SHARE = 0.92
"""Share of the free memory that keys and values may take when all else is allocated; the rest is torch's and CUDA's."""
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
"""Batch sizes of captured decodes; a decode is padded to the next one. Beyond the last, every 64th."""


class CudaModel:
    """A checkpoint on the device, before the engine's sizes are known."""

    def __init__(
        self,
        model: ModelConfig,
        checkpoint: Checkpoint,
        config: EngineConfig,
        device: Device,
        progress: Progress | None,
    ) -> None:
        model = checked(model, checkpoint)
        self.config = model
        self.device = device
        self.dtype = _dtype(checkpoint, config.dtype)
        self.kv_dtype = self.dtype if config.kv_cache_dtype == "auto" else config.kv_cache_dtype
        needed = weights_bytes(model, self.dtype, config.quantize)
        memory.check_weights(needed, device.free_bytes(), config.quantize or self.dtype)
        upload = Upload(device.place)
        self.ops = TritonOps(
            model.attention, upload, TORCH_DTYPES[self.dtype], config.quantize, config.batch_invariant
        )
        self.decoder: Decoder = Decoder.bind(model, checkpoint, self.ops, progress)
        upload.finish()

    @property
    def bytes_per_block(self) -> int:
        """Bytes of keys and values of one block, all layers together."""
        cells = sum(2 * a.kv_heads * memory.BLOCK_SIZE * a.head_dim for a in self.config.attention)
        if self.kv_dtype == "fp8":
            scales = sum(2 * a.kv_heads * memory.BLOCK_SIZE for a in self.config.attention)
            return cells + 4 * scales
        return cells * TORCH_DTYPES[self.kv_dtype].itemsize

    def forward(self, shape: StepShape, logits: Tensor) -> None:
        """Computes a step that lies in the attached memory into `logits`, float32 `[rows, vocab]`."""
        self.ops.begin(shape)
        head: Value = self.decoder.forward(self.ops)
        self.ops.logits(head, logits)


def weights_bytes(model: ModelConfig, dtype: str, quantize: str | None) -> int:
    """Bytes of the weights on the device, a tied table once."""
    element = float(TORCH_DTYPES[dtype].itemsize)
    narrow = {None: element, "int8": 1.0, "fp8": 1.0, "int4": 0.53}[quantize]
    return int(
        sum(
            math.prod(shape) * (narrow if len(shape) == 2 and name not in (EMBEDDING, HEAD) else element)
            for name, shape in tensor_shapes(model).items()
        )
    )


def _dtype(checkpoint: Checkpoint, asked: str) -> str:
    """How weights are stored and multiplied: 16-bit checkpoints as they are, 32-bit ones in bfloat16."""
    if asked != "auto":
        return asked
    kinds = {tensor.dtype for tensor in checkpoint.tensors() if len(tensor.shape) == 2}
    return "float16" if kinds == {"F16"} else "bfloat16"


@dataclass(slots=True)
class _InFlight:
    """A launched step."""

    slot: int
    plan: Plan
    done: Event
    is_sampled: bool = False


class CudaRunner:
    """Runs steps on one device, two in flight."""

    depth = 2

    def __init__(
        self,
        engine: Engine,
        model: CudaModel,
        config: EngineConfig,
        plan: memory.KvPlan,
        eos_ids: Sequence[int],
    ) -> None:
        self._engine = engine
        self._model = model
        self._device = device = model.device
        self._has_entered = False
        rings: Rings = engine.rings()
        self._rings = rings
        self._arena = _ring(rings.arena_address, rings.n_slots, rings.arena_words)
        self._results = _ring(rings.results_address, rings.n_slots, rings.results_words)
        self._arena_pinned = device.pin(self._arena)
        self._results_pinned = device.pin(self._results)
        place, rows, vocab = device.place, rings.max_rows, model.config.vocab
        tokens = memory.step_tokens(config)
        with torch.no_grad():
            self._arena_device = torch.zeros(rings.arena_words, dtype=torch.int32, device=place)
            self._rows = Rows.allocate(rows, rings.max_model_len, place)
            self._expansion = Expansion.allocate(rows, tokens, rings.max_scores, place)
            self._logits = torch.empty(rows + rings.max_scores, vocab, dtype=torch.float32, device=place)
            self._layout = ResultsLayout(rows, rings.top_cap, rings.max_scores)
            self._out = torch.zeros(rings.results_words, dtype=torch.int32, device=place)
            self._sampler = SamplerBuffers.allocate(rows, rings.max_scores, vocab, place)
            self._settings = SamplerSettings(
                torch.tensor(sorted(eos_ids), dtype=torch.int32, device=place), vocab
            )
            # torch knows no unsigned words of 32 bits that can be copied everywhere; the bits are the same.
            self._masks_host = np.zeros((rows, -(-vocab // 32)), dtype=np.uint32)
            self._masks_pinned = device.pin(self._masks_host.view(np.int32))
            self._masks = torch.zeros(rows, -(-vocab // 32), dtype=torch.int32, device=place)
            attach(model, self._expansion, self._rows, plan.num_blocks, rings.max_model_len)
        self._flags = RowFlags(rows)
        self._in_flight: deque[_InFlight] = deque()
        self._model_graphs: dict[int, Graph] = {}
        self._sampler_graphs: dict[int, Graph] = {}
        if config.cuda_graphs != ():
            self._capture(config.cuda_graphs or buckets(rows))

    # --- the runner's protocol ---

    def launch(self, slot: int) -> None:
        """See `Runner`."""
        if not self._has_entered:
            self._device.enter()
            self._has_entered = True
        if self._in_flight and not self._in_flight[-1].is_sampled:
            # Its masks waited for the commit that came meanwhile; this step needs its ids.
            self._sample(self._in_flight[-1])
        plan = Plan.read(self._arena[slot])
        self._flags.update(plan)
        used = plan.used_words
        self._arena_device[:used].copy_(self._arena_pinned[slot, :used], non_blocking=True)
        if plan.n_inits or plan.n_block_diffs:
            apply_changes(self._arena_device, self._rows, plan.n_inits)
        bucket = self._bucket(plan)
        if bucket is not None:
            self._model_graphs[bucket].replay()
        else:
            self._forward(_shape(plan, self._policy(plan.n_entries)))
        step = _InFlight(slot, plan, self._device.event())
        self._in_flight.append(step)
        if not self._flags.is_constrained(plan):
            self._sample(step)

    def wait(self) -> None:
        """See `Runner`."""
        step = self._in_flight[0]
        if not step.is_sampled:
            self._sample(step)
        step.done.synchronize()
        self._in_flight.popleft()

    def control(self, kind: str, path: str, number: int) -> None:
        """See `Runner`."""
        asked = " ".join([kind.replace("_", " "), path, str(number or "")]).strip()
        raise ControlError(f"the cuda backend cannot do this yet: {asked}. Start a server with what you want")

    def close(self) -> None:
        """See `Runner`."""
        self._device.synchronize()
        self._device.release()
        # The memory of graphs is a pool's: it is free when the last of them is forgotten.
        self._model_graphs.clear()
        self._sampler_graphs.clear()

    # --- a step ---

    def _policy(self, entries: int) -> SplitPolicy:
        return SplitPolicy.for_step(entries, self._model.config.kv_heads)

    def _forward(self, shape: StepShape) -> None:
        expand(self._arena_device, self._rows, self._expansion, shape.entries, shape.policy)
        self._model.forward(shape, self._logits[: shape.rows])

    def _sample(self, step: _InFlight) -> None:
        """Samples, and sends the results on their way to the slot."""
        plan = step.plan
        full = self._flags.needs_full(plan)
        words = 2 * self._rings.max_rows
        if full:
            words = self._rings.results_words
            if masked := self._flags.constrained_samples(plan):
                for sample in masked:
                    self._engine.copy_mask(step.slot, sample, self._masks_host[sample])
                self._masks[: plan.n_samples].copy_(self._masks_pinned[: plan.n_samples], non_blocking=True)
        bucket = self._bucket(plan)
        if bucket is not None and not full:
            self._sampler_graphs[bucket].replay()
        elif plan.n_samples:
            self._launch_sampler(bucket or plan.n_samples, full)
        if plan.n_scores:
            at = plan.n_samples
            scored = slice(at, at + plan.n_scores)
            score_rows(
                self._logits[scored], self._expansion.score_row[: plan.n_scores],
                self._expansion.score_next[: plan.n_scores], self._rows.records,
                self._sampler, self._settings, self._out, self._layout,
            )  # fmt: skip
            words = self._rings.results_words
        self._results_pinned[step.slot, :words].copy_(self._out[:words], non_blocking=True)
        step.done.record()
        step.is_sampled = True

    def _launch_sampler(self, rows: int, full: bool) -> None:
        at = self._expansion
        if full:
            sample_full(
                self._logits[:rows], at.sample_row[:rows], at.sample_position[:rows], self._rows.records,
                self._rows.tokens, self._rows.biases, self._masks[:rows], self._sampler, self._settings, self._out,
                self._layout,
            )  # fmt: skip
        else:
            sample_fast(
                self._logits[:rows], at.sample_row[:rows], at.sample_position[:rows], self._rows.records,
                self._rows.tokens, self._sampler, self._settings, self._out, self._layout,
            )  # fmt: skip

    # --- captured decodes ---

    def _bucket(self, plan: Plan) -> int | None:
        """The captured batch size that serves a plan; None if it must be launched."""
        if not plan.is_decode:
            return None
        return next((size for size in self._model_graphs if size >= plan.n_entries), None)

    def _capture(self, sizes: Sequence[int]) -> None:
        """Captures the decodes of these batch sizes, the largest first: smaller ones then live in its memory."""
        # A plan of nothing: what is launched over it is padding.
        self._arena_device.zero_()
        for size in sorted({min(size, self._rings.max_rows) for size in sizes}, reverse=True):
            shape = StepShape(size, size, size, True, False, self._policy(size))

            def model(shape: StepShape = shape) -> None:
                self._forward(shape)

            def sampler(size: int = size) -> None:
                self._launch_sampler(size, False)

            self._model_graphs[size] = self._device.capture(model)
            self._sampler_graphs[size] = self._device.capture(sampler)
        self._model_graphs = dict(sorted(self._model_graphs.items()))


def _shape(plan: Plan, policy: SplitPolicy) -> StepShape:
    """The step as it is planned, without padding."""
    return StepShape(
        entries=plan.n_entries,
        tokens=plan.n_tokens,
        rows=max(plan.n_samples + plan.n_scores, 1),
        has_decodes=bool((plan.entries[:, Q_LEN.value] == 1).any()),
        has_prefills=plan.max_q_len > 1,
        policy=policy,
    )


def buckets(max_rows: int) -> list[int]:
    """Batch sizes to capture for up to `max_rows` rows."""
    sizes = [size for size in (*BUCKETS, *range(BUCKETS[-1] + 64, max_rows, 64)) if size < max_rows]
    return [*sizes, max_rows]


def attach(model: CudaModel, expansion: Expansion, rows: Rows, num_blocks: int, positions: int) -> None:
    """Allocates the key-value cache and what else the model's kernels need, and hands it to them."""
    config, place = model.config, model.device.place
    cos, sin = (torch.from_numpy(t).to(place) for t in rope.tables(config.rope, config.head_dim, positions))
    fp8 = model.kv_dtype == "fp8"
    dtype = torch.float8_e4m3fn if fp8 else TORCH_DTYPES[model.kv_dtype]
    cache = []
    for spec in config.attention:
        shape = (num_blocks, spec.kv_heads, memory.BLOCK_SIZE, spec.head_dim)
        scales: list[Tensor | None] = [None, None]
        if fp8:
            scales = [torch.zeros(shape[:3], dtype=torch.float32, device=place) for _ in range(2)]
        # Zeros: what a tile reads past the last key is multiplied by a weight of zero, and must be finite.
        keys, values = (torch.zeros(shape, dtype=dtype, device=place) for _ in range(2))
        cache.append(LayerCache(keys, values, *scales))
    workspace = DecodeWorkspace.allocate(
        rows.tokens.shape[0] - 1, config.heads, config.kv_heads, config.head_dim, place
    )
    model.ops.attach(expansion, rows.block_tables, cache, cos, sin, workspace)


def kv_budget(model: CudaModel, config: EngineConfig, max_rows: int) -> int:
    """Bytes for keys and values: what is free once a largest step has been run beside everything else."""
    device, tokens = model.device, memory.step_tokens(config)
    place, vocab = device.place, model.config.vocab
    positions = config.max_total_tokens or model.config.context_length

    def largest_step() -> None:
        expansion = Expansion.allocate(max_rows, tokens, max_rows, place)
        rows = Rows.allocate(1, tokens, place)
        attach(model, expansion, rows, 1, tokens)
        expansion.slots.fill_(-1)
        expansion.q_start[1] = expansion.context_len[0] = tokens
        logits = torch.empty(max_rows, vocab, dtype=torch.float32, device=place)
        policy = SplitPolicy.for_step(1, model.config.kv_heads)
        model.forward(StepShape(1, tokens, max_rows, False, True, policy), logits)

    peak = device.peak_of(largest_step)
    # The sampler's two copies of the logits, the rows, page-locked staging.
    beside = 3 * max_rows * vocab * 4 + 8 * max_rows * positions + (256 << 20)
    budget = int(device.free_bytes() * MEMORY_SHARE) - peak - beside
    if budget <= 0:
        raise OutOfMemoryError(
            f"the weights leave {device.free_bytes()} bytes on {device.name}, and a step needs {peak + beside}. Give a "
            "smaller model, quantize='int8' or 'int4', or a lower max_batch_size and max_batch_prefill_tokens"
        )
    return budget


def _ring(address: int, n_slots: int, words: int) -> npt.NDArray[np.int32]:
    """The engine's own memory as `[slots, words]`."""
    cells = (ctypes.c_int32 * (n_slots * words)).from_address(address)
    return np.ctypeslib.as_array(cells).reshape(n_slots, words)
