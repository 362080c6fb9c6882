"""The CPU runner: the decoder recorded once, replayed by the Rust executor each step. Refuses to know requests."""

import os
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agentlm._engine import CpuBackend, CpuExecutor, Engine
from agentlm.config import EngineConfig
from agentlm.model import rope
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import Decoder, untied
from agentlm.model.layout import EMBEDDING, held_bytes, is_redundant, tensor_shapes
from agentlm.model.weights import ELEMENT_BYTES, Checkpoint, Progress
from agentlm.ops.tape import Activation, TapeOps
from agentlm.runtime import memory

STORAGE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a stored matrix's element."""


class CpuModel:
    """A checkpoint bound to the CPU kernels, before the engine's sizes are known."""

    def __init__(
        self, model: ModelConfig, checkpoint: Checkpoint, config: EngineConfig, progress: Progress | None
    ) -> None:
        model = untied(model, checkpoint)
        # Before anything is read at length.
        checkpoint.check(tensor_shapes(model), lambda name: is_redundant(name, model))
        self.config = model
        self.backend = CpuBackend(config.threads or usable_cores(), config.cpu_isa)
        self.dtype = storage_dtype(checkpoint) if config.dtype == "auto" else config.dtype
        self.kv_dtype = config.kv_cache_dtype
        if self.kv_dtype == "auto":
            self.kv_dtype = "float32" if self.dtype == "float32" else "float16"
        table = checkpoint.tensor(EMBEDDING, (model.vocab, model.hidden))
        needed = held_bytes(model, STORAGE_BYTES[self.dtype], ELEMENT_BYTES[table.dtype])
        memory.check_weights(needed, memory.available(), self.dtype)
        ops = TapeOps(self.backend, model.attention, self.dtype)
        decoder: Decoder = Decoder.bind(model, checkpoint, ops, progress)
        logits: Activation = decoder.forward(ops)
        self.tape = ops.finish(logits)

    @property
    def bytes_per_block(self) -> int:
        """Bytes of keys and values of one block, all layers together."""
        return self.tape.bytes_per_block(self.kv_dtype)


def usable_cores() -> int:
    """Cores that this process may use: those that it is bound to, and no more than its control group has time for."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([bound, *group_cores(Path("/sys/fs/cgroup"))])


def group_cores(root: Path) -> list[int]:
    """Cores that each quota of the control group (version 2, version 1) amounts to, rounded up."""
    cores = []
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = (int(part) for file in files for part in (root / file).read_text().split())
        except (OSError, ValueError):
            # No such control group, or its quota is "max".
            continue
        # Version 1 says -1 where there is no quota.
        if quota > 0 and period > 0:
            cores.append(-(-quota // period))
    return cores


def storage_dtype(checkpoint: Checkpoint) -> str:
    """How matrices are stored when nobody chose: 16-bit ones as they are; 32-bit ones as float16 if that is harmless."""
    matrices = [tensor for tensor in checkpoint.tensors() if len(tensor.shape) == 2]
    possible = possible_storage({tensor.dtype for tensor in matrices})
    if len(possible) == 1:
        return possible[0]
    with ThreadPoolExecutor(usable_cores()) as pool:
        places = [(tensor.address, tensor.dtype, tensor.shape) for tensor in matrices]
        return "float16" if all(pool.map(CpuBackend.f16_is_harmless, places)) else "float32"


def possible_storage(kinds: Set[str]) -> tuple[str, ...]:
    """What `storage_dtype` may say of matrices of these safetensors types: several where their values decide."""
    if kinds == {"BF16"}:
        return ("bfloat16",)
    if kinds == {"F16"}:
        return ("float16",)
    return ("float16", "float32")


class CpuRunner:
    """Runs steps on this machine's cores; synchronous."""

    depth = 1

    def __init__(self, engine: Engine, model: CpuModel, plan: memory.KvPlan, max_step_tokens: int) -> None:
        cos, sin = rope.tables(model.config.rope, model.config.head_dim, plan.max_total_tokens)
        self._executor = CpuExecutor(
            engine,
            model.tape,
            num_blocks=plan.num_blocks,
            kv_dtype=model.kv_dtype,
            max_step_tokens=max_step_tokens,
            vocab_size=model.config.vocab,
            cos=(cos.ctypes.data, "F32", cos.shape),
            sin=(sin.ctypes.data, "F32", sin.shape),
        )

    def launch(self, slot: int) -> None:
        """Computes the step planned in `slot`."""
        self._executor.run(slot)

    def wait(self) -> None:
        """Nothing is ever in flight."""
