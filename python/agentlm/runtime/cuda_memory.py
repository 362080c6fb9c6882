"""What steps on a CUDA device are computed in, and how much of the device that leaves for keys and values.

Refuses to know plans, requests and graphs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from agentlm.config import EngineConfig
from agentlm.errors import OutOfMemoryError
from agentlm.ops.triton import StepShape
from agentlm.runtime import memory
from agentlm.runtime.cuda_model import CudaModel, attach
from agentlm_kernels import words
from agentlm_kernels.arena import Expansion, Rows
from agentlm_kernels.attention import SplitPolicy
from agentlm_kernels.sampling import ResultsLayout, SamplerBuffers

MEMORY_SHARE = 0.92
"""Share of the free memory that may be taken; the rest is torch's and CUDA's."""
GRAPHS_BYTES = 256 << 20
"""Beside what is measured: captured launches and what they compute in."""
MAX_SCORES = 256
"""Most scored positions of a step, as `engine/python/src/engine.rs` builds the core."""


@dataclass(frozen=True, slots=True)
class StepSizes:
    """The most that a step can hold."""

    rows: int
    tokens: int
    scores: int
    positions: int
    """Positions of one request."""
    arena_words: int
    results_words: int
    top: int
    """Alternatives of a sampled token."""

    @classmethod
    def foreseen(cls, config: EngineConfig, context: int) -> "StepSizes":
        """What an engine of this configuration will ask for, before it is there; `context` is the model's."""
        rows, tokens = config.max_batch_size, memory.step_tokens(config)
        scores = min(max(tokens, memory.BLOCK_SIZE), MAX_SCORES)
        positions = min(config.max_total_tokens or context, context)
        blocks = -(-positions // memory.BLOCK_SIZE)
        # `Layout::slot_words` of engine/core/src/arena.rs.
        of_row = words.ENTRY_WORDS.value + words.RECORD_WORDS.value + words.DIFF_WORDS.value + 2
        arena = words.HEADER_WORDS.value + rows * of_row + 2 * blocks + 2 * positions + 2 * 4096
        top = config.max_top_n_tokens
        return cls(rows, tokens, scores, positions, arena, ResultsLayout(rows, top, scores).words, top)


@dataclass(frozen=True, slots=True)
class StepMemory:
    """Memory at fixed places; keys, values and what the model's kernels need beside them are `attach`'s."""

    arena: Tensor
    """int32: the plan."""
    rows: Rows
    expansion: Expansion
    logits: Tensor
    """float32 `[rows + scores, vocab]`."""
    results: Tensor
    """int32, as `ResultsLayout` says."""
    sampler: SamplerBuffers
    masks: Tensor
    """int32 `[rows, vocab / 32]`: the ids that a grammar allows, a bit each; torch's unsigned words can do too little."""

    @classmethod
    def allocate(cls, sizes: StepSizes, vocab: int, place: torch.device) -> "StepMemory":
        """Memory for steps of these sizes."""
        rows = sizes.rows
        return cls(
            arena=torch.zeros(sizes.arena_words, dtype=torch.int32, device=place),
            rows=Rows.allocate(rows, sizes.positions, place),
            expansion=Expansion.allocate(rows, sizes.tokens, sizes.scores, place),
            logits=torch.empty(rows + sizes.scores, vocab, dtype=torch.float32, device=place),
            results=torch.zeros(sizes.results_words, dtype=torch.int32, device=place),
            sampler=SamplerBuffers.allocate(rows, sizes.scores, vocab, place),
            masks=torch.zeros(rows, -(-vocab // 32), dtype=torch.int32, device=place),
        )


def kv_budget(model: CudaModel, config: EngineConfig) -> int:
    """Bytes for keys and values: what stays free while a largest step is run in all the memory that steps need.

    Raises `OutOfMemoryError` where that is nothing.
    """
    device = model.device
    sizes = StepSizes.foreseen(config, model.config.context_length)

    def largest_step() -> None:
        steps = StepMemory.allocate(sizes, model.config.vocab, device.place)
        # One block: the step's keys and values are written nowhere, and read where nothing was written.
        attach(model, steps.expansion, steps.rows, 1, sizes.positions)
        tokens = min(sizes.tokens, sizes.positions)
        steps.expansion.slots.fill_(-1)
        steps.expansion.q_start[1] = steps.expansion.context_len[0] = tokens
        # Every row is sampled and a prompt scored: a token is the last of its row, or has one after it.
        rows = min(sizes.rows + sizes.scores, sizes.tokens)
        shape = StepShape(1, sizes.tokens, rows, False, True, SplitPolicy.for_step(1, model.config.kv_heads))
        model.forward(shape, steps.logits[:rows])

    free = device.free_bytes()
    try:
        needed = device.peak_of(largest_step) + GRAPHS_BYTES
    except torch.OutOfMemoryError as error:
        raise _too_large(f"{free} bytes on {device.name}, and a step needs more") from error
    # The model lets go of what was measured.
    attach(model, Expansion.allocate(1, 1, 1, device.place), Rows.allocate(1, 1, device.place), 1, 1)
    budget = int(free * MEMORY_SHARE) - needed
    if budget <= 0:
        raise _too_large(f"{free} bytes on {device.name}, and a step needs {needed}")
    return budget


def _too_large(left: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"the weights leave {left}. Give a smaller model, quantize='int8' or 'int4', or a lower max_batch_size, "
        "max_total_tokens and max_batch_prefill_tokens"
    )
