"""The CPU runner: the decoder recorded once, replayed by the Rust executor each step. Refuses to know requests."""

import os

from agentlm._engine import CpuBackend, CpuExecutor, Engine
from agentlm.config import EngineConfig
from agentlm.model import rope
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import Decoder
from agentlm.model.weights import Checkpoint, Progress
from agentlm.ops.tape import Activation, TapeOps
from agentlm.runtime import memory


class CpuModel:
    """A checkpoint bound to the CPU kernels, before the engine's sizes are known."""

    def __init__(
        self, model: ModelConfig, checkpoint: Checkpoint, config: EngineConfig, progress: Progress | None
    ) -> None:
        threads = config.threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.config = model
        self.backend = CpuBackend(threads or 1, config.cpu_isa)
        self.dtype = self.backend.storage(checkpoint_tensors(checkpoint)) if config.dtype == "auto" else config.dtype
        self.kv_dtype = config.kv_cache_dtype
        if self.kv_dtype == "auto":
            self.kv_dtype = "float32" if self.dtype == "float32" else "float16"
        ops = TapeOps(self.backend, model.attention, self.dtype)
        decoder: Decoder = Decoder.bind(model, checkpoint, ops, progress)
        logits: Activation = decoder.forward(ops)
        self.tape = ops.finish(logits)

    @property
    def bytes_per_block(self) -> int:
        """Bytes of keys and values of one block, all layers together."""
        width = 4 if self.kv_dtype == "float32" else 2
        model = self.config
        return 2 * model.layers * memory.BLOCK_SIZE * model.kv_heads * model.head_dim * width


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
            cos=cos,
            sin=sin,
        )

    def launch(self, slot: int) -> None:
        """Computes the step planned in `slot`."""
        self._executor.run(slot)

    def wait(self) -> None:
        """Nothing is ever in flight."""
