"""The CPU runner: the decoder recorded once, replayed by the Rust executor each step. Refuses to know requests."""

import os
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from agentlm._engine import CpuBackend, CpuExecutor, Engine
from agentlm.config import EngineConfig
from agentlm.errors import AgentLMError, ControlError, EngineFailedError
from agentlm.model import adapter, rope
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import Decoder, checked
from agentlm.model.layout import EMBEDDING, held_bytes
from agentlm.model.quantized import QuantizedCheckpoint, WidenedCheckpoint, open_checkpoint
from agentlm.model.weights import ELEMENT_BYTES, Checkpoint, Progress, TensorRef
from agentlm.ops.tape import Activation, TapeOps, place
from agentlm.runtime import control_group, memory

_STORAGE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a stored matrix's element."""


class CpuModel:
    """A checkpoint bound to the CPU kernels, before the engine's sizes are known."""

    def __init__(
        self, model: ModelConfig, checkpoint: Checkpoint, config: EngineConfig, progress: Progress | None
    ) -> None:
        # Before anything is read at length.
        model = checked(model, checkpoint)
        asked = config.dtype
        if isinstance(checkpoint, QuantizedCheckpoint):
            # Sixteen codes and their scales are as exact in a half as they need be.
            checkpoint = WidenedCheckpoint(checkpoint)
            asked = "float16" if asked == "auto" else asked
        self.config = model
        self.backend = CpuBackend(config.threads or usable_cores(), config.cpu_isa)
        self.dtype = _fitting_dtype(model, checkpoint, asked, memory.available())
        self.storage = self.dtype
        if model.quantization is not None:
            self.storage += f", widened from {model.quantization.method}'s 4 bits"
        self.kv_dtype = config.kv_cache_dtype
        if self.kv_dtype == "auto":
            self.kv_dtype = "float32" if self.dtype == "float32" else "float16"
        ops = TapeOps(self.backend, model.attention, self.dtype)
        self.decoder: Decoder = Decoder.bind(model, checkpoint, ops, progress)
        logits: Activation = self.decoder.forward(ops)
        self.tape = ops.finish(logits)

    @property
    def bytes_per_block(self) -> int:
        """Bytes of keys and values of one block, all layers together."""
        return self.tape.bytes_per_block(self.kv_dtype)


def usable_cores() -> int:
    """Cores that this process may use: those that it is bound to, and no more than its control group has time for."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([bound, *group_cores(Path("/"))])


def group_cores(root: Path) -> list[int]:
    """Cores that each quota of this process's control groups amounts to, rounded up. `root` is the file system's."""
    cores = []
    for version, files in ((2, ("cpu.max",)), (1, ("cpu.cfs_quota_us", "cpu.cfs_period_us"))):
        for group in control_group.levels(root, version, "cpu"):
            try:
                quota, period = (int(part) for file in files for part in (group / file).read_text().split())
            except (OSError, ValueError):
                # No such control group, or its quota is "max".
                continue
            # Version 1 says -1 where there is no quota.
            if quota > 0 and period > 0:
                cores.append(-(-quota // period))
    return cores


def weights_bytes(model: ModelConfig, table: str, storage: str) -> int:
    """Bytes of the bound weights in this storage; `table` is the embedding table's element type in the checkpoint."""
    return held_bytes(model, _STORAGE_BYTES[storage], ELEMENT_BYTES[table])


def _fitting_dtype(model: ModelConfig, checkpoint: Checkpoint, asked: str, free: int) -> str:
    """How matrices are stored. Raises `OutOfMemoryError` if they do not fit, before they are read where sizes tell."""
    possible = possible_storage(_matrix_types(checkpoint)) if asked == "auto" else (asked,)
    table = checkpoint.tensor(EMBEDDING).dtype
    needs = {storage: weights_bytes(model, table, storage) for storage in possible}
    least = min(needs, key=needs.__getitem__)
    memory.check_weights(needs[least], free, least)
    chosen = storage_dtype(checkpoint) if asked == "auto" else asked
    memory.check_weights(needs[chosen], free, chosen)
    return chosen


def storage_dtype(checkpoint: Checkpoint) -> str:
    """How matrices are stored when nobody chose: 16-bit ones as they are; 32-bit ones as float16 if that is harmless."""
    possible = possible_storage(_matrix_types(checkpoint))
    if len(possible) == 1:
        return possible[0]
    with ThreadPoolExecutor(usable_cores()) as pool:
        places = [(tensor.address, tensor.dtype, tensor.shape) for tensor in _matrices(checkpoint)]
        return "float16" if all(pool.map(CpuBackend.f16_is_harmless, places)) else "float32"


def _matrices(checkpoint: Checkpoint) -> list[TensorRef]:
    return [tensor for tensor in checkpoint.tensors() if len(tensor.shape) == 2]


def _matrix_types(checkpoint: Checkpoint) -> set[str]:
    return {tensor.dtype for tensor in _matrices(checkpoint)}


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

    def __init__(
        self, engine: Engine, model: CpuModel, directory: Path, config: EngineConfig, plan: memory.KvPlan
    ) -> None:
        self._engine = engine
        self._config = config
        self._plan = plan
        self._directory = directory
        self._adapters: dict[int, Path] = {}
        # Without weights while it sleeps.
        self._model: CpuModel | None = model
        self._model_config = model.config
        self._dtype = model.dtype
        self._executor: CpuExecutor | None = self._execute(model)

    def _execute(self, model: CpuModel) -> CpuExecutor:
        cos, sin = rope.tables(model.config.rope, model.config.head_dim, self._plan.max_total_tokens)
        return CpuExecutor(
            self._engine,
            model.tape,
            num_blocks=self._plan.num_blocks,
            kv_dtype=model.kv_dtype,
            max_step_tokens=memory.step_tokens(self._config),
            vocab_size=model.config.vocab,
            cos=(cos.ctypes.data, "F32", cos.shape),
            sin=(sin.ctypes.data, "F32", sin.shape),
            watermark_gamma=self._config.watermark_gamma,
            watermark_delta=self._config.watermark_delta,
        )

    def launch(self, slot: int) -> None:
        """Computes the step planned in `slot`."""
        if self._executor is None:
            raise EngineFailedError("a step was planned while the weights are not in memory")
        self._executor.run(slot)

    def wait(self) -> None:
        """Nothing is ever in flight."""

    def close(self) -> None:
        """Memory goes with the object."""

    def control(self, kind: str, path: str, number: int) -> None:
        """See `Runner`."""
        if kind == "load_adapter":
            self._load_adapter(Path(path), number)
            self._adapters[number] = Path(path)
        elif kind == "unload_adapter":
            self._adapters.pop(number, None)
            if self._executor is not None:
                self._executor.unload_adapter(number)
        elif kind == "reload_weights":
            self._reload(Path(path) if path else self._directory)
        elif kind == "sleep":
            self._model = self._executor = None
        elif kind == "wake":
            self._rebind(self._directory)

    def _load_adapter(self, directory: Path, number: int) -> None:
        if self._executor is None or self._model is None:
            raise ControlError("the engine is asleep; wake it first")
        parts = adapter.resolve(adapter.load_adapter(directory, self._model.config), self._model.decoder)
        self._executor.load_adapter(
            number, [(part.linear, place(part.a), place(part.b), part.scale, part.offset) for part in parts]
        )

    def _reload(self, directory: Path) -> None:
        """Checks the new checkpoint, then puts it in place of the old one: both are never in memory at once."""
        config = checked(ModelConfig.load(directory), open_checkpoint(directory))
        if config != self._model_config:
            raise ControlError(
                f"{directory} is not of the served model's shape: its config.json differs. Start a server for it."
            )
        self._model = self._executor = None
        self._rebind(directory)
        self._directory = directory

    def _rebind(self, directory: Path) -> None:
        try:
            config = replace(self._config, dtype=self._dtype)
            checkpoint = open_checkpoint(directory)
            self._model = CpuModel(ModelConfig.load(directory), checkpoint, config, None)
            self._executor = self._execute(self._model)
            for number, path in self._adapters.items():
                self._load_adapter(path, number)
        except AgentLMError as error:
            raise EngineFailedError(
                f"the weights in {directory} cannot be taken into use: {error}"
            ) from error
