"""Opens an engine: resolves the model, binds it to a backend, sizes the cache, starts the engine thread.

Refuses to know prompts and HTTP; `LLM` and the server stand on it.
"""

import ctypes
import os
import secrets
import threading
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlm._engine import ChatTemplate, Engine, Tokenizer
from agentlm.config import EngineConfig
from agentlm.errors import AdapterError, ChatTemplateError, ConfigError, ForkError, NoChatTemplateError, shown
from agentlm.model import bundled, hub
from agentlm.model.chat_template_files import check_files
from agentlm.model.tokenizer_conversion import ensure_tokenizer
from agentlm.runtime import memory
from agentlm.runtime.loop import Runner, run_engine
from agentlm.runtime.mock import MockStepRunner

if TYPE_CHECKING:
    from agentlm.model.config import ModelConfig
    from agentlm.model.weights import Checkpoint, Progress

CLOSE_SECONDS = 10.0
"""How long closing waits for the engine thread; a step that hangs is left behind."""
MOCK_CONTEXT = 4096
"""Longest prompt and output of the mock backend, which has no model to say it."""
MOST_MOCK_CONTEXT = 2**24
"""Longest that may be asked for: every row has a place for each of its blocks."""
MOCK_BLOCKS = 2**20
"""Most blocks of the mock backend, unless one request needs more."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an opened engine turned out to be."""

    model: str
    """What was asked for; the bundled model if nothing was."""
    directory: Path
    backend: str
    dtype: str
    """How matrices are stored, in words."""
    kv_cache_dtype: str
    max_input_tokens: int
    max_total_tokens: int
    num_blocks: int
    kv_cache_bytes: int
    is_bundled: bool
    """It is the small demonstration model that comes with the package, found by its place."""
    is_chosen: bool
    """Somebody named it; the bundled model answers where nobody does."""


class RunningEngine:
    """An engine and its thread. Close it, or use it as a context manager."""

    def __init__(
        self, engine: Engine, runner: Runner, tokenizer: Tokenizer, info: EngineInfo, config: EngineConfig
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.info = info
        self._config = config
        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=_run_quietly, args=(engine, runner), name="agentlm-engine", daemon=True
        )
        self._thread.start()
        # Runs when this object is forgotten, and before the interpreter shuts down.
        self._finalizer = weakref.finalize(self, _close, engine, self._thread, self._pid)

    def check_usable(self) -> None:
        """Raises `ForkError` in a forked process, where the engine's threads do not exist."""
        if os.getpid() != self._pid:
            raise ForkError(
                f"this engine was opened in process {self._pid}; after a fork (now {os.getpid()}) open a new one, "
                "or start processes with the 'spawn' method"
            )

    def chat_template(self, explicit: str | Path | None = None) -> ChatTemplate:
        """The checkpoint's chat template, or the file given. Raises `NoChatTemplateError`."""
        if explicit is None:
            check_files(self.info.directory)
        try:
            return ChatTemplate(self.info.directory, self.tokenizer, explicit)
        except ChatTemplateError as error:
            raise NoChatTemplateError(f"{explicit or self.info.directory}: {error}") from error

    def load_adapter(self, name: str, path: str | Path, *, patience: float = 60.0) -> None:
        """Loads a LoRA adapter in peft's format from a directory or the hub; requests choose it by `name`.

        Raises `AdapterError` for a name that is taken or can be none, `ControlError` for an adapter that cannot be
        served, and as `hub.resolve` does.
        """
        self.check_usable()
        given: Any = name
        if not isinstance(given, str):
            raise AdapterError(f"an adapter's name must be text. Given: {shown(given)}")
        if not name or name in (self.info.model, "tgi"):
            raise AdapterError(
                f"an adapter's name must be neither empty nor the model's own. Given: {shown(name)}"
            )
        config = self._config
        directory = hub.resolve(
            str(path), token=config.token, cache_dir=config.cache_dir, offline=config.offline, progress=False
        )
        self.engine.ask("load_adapter", name=name, path=str(directory), patience=patience)

    def write_kernel_manifest(self, directory: str | Path) -> Path:
        """Writes each GPU kernel that this process has compiled, and `manifest.json`, which says how they are launched.

        Gives the manifest's path. Raises `ConfigError` on another backend, or where the directory cannot be written.
        """
        if self.info.backend != "cuda":
            raise ConfigError(
                f"a kernel manifest is of GPU kernels; this engine's backend is {self.info.backend!r}. Leave it out"
            )
        from agentlm_kernels.compilations import watch

        try:
            return watch().write(Path(directory))
        except OSError as error:
            raise ConfigError(
                f"the kernels cannot be written to {directory}: {error}. Give another directory"
            ) from error

    def close(self) -> None:
        """Ends unfinished requests with an error, stops the thread, frees the memory. Safe to repeat."""
        self._finalizer()

    def __enter__(self) -> "RunningEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _run_quietly(engine: Engine, runner: Runner) -> None:
    try:
        run_engine(engine, runner)
    except BaseException:
        # The engine has recorded the failure, a panic of the extension's too; whoever waits on it reports it, once.
        return


def _close(engine: Engine, thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid:
        return
    engine.shutdown(False)
    thread.join(CLOSE_SECONDS)


def open_engine(config: EngineConfig, progress: "Progress | None" = None) -> RunningEngine:
    """Opens the engine that `config` describes.

    `progress(bytes done, bytes in all, tensor name)` is called while weights are bound; with it a download shows its own.
    Raises the classes of `agentlm.errors`: the model cannot be had or computed, memory lacks, a setting is wrong.
    """
    if config.backend == "auto":
        config = replace(config, backend="cuda" if has_nvidia_gpu() else "cpu")
    directory = _resolve(config, progress=progress is not None)
    if config.backend == "mock":
        return _open_mock(config, directory, _tokenizer(config, directory))
    opened = open_model(config, directory)
    return _open_cuda(opened, progress) if config.backend == "cuda" else _open_cpu(opened, progress)


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """What every backend that computes is opened from: a checkpoint's files, its weights not yet read."""

    config: EngineConfig
    directory: Path
    checkpoint: "Checkpoint"
    model: "ModelConfig"
    tokenizer: Tokenizer
    eos: list[int]
    """Ids that end a generation."""


def open_model(config: EngineConfig, directory: Path) -> OpenedModel:
    """Opens the checkpoint's files and checks what they say; no weight is read. Raises as `open_engine` does."""
    # Only a model that is computed needs numpy; the mock backend starts without it.
    from agentlm.model.config import ModelConfig
    from agentlm.model.quantization import METHODS
    from agentlm.model.quantized import open_checkpoint

    # Weights first: a directory of another format is told as such, not by the tokenizer that it lacks as well.
    checkpoint = open_checkpoint(directory)
    model = ModelConfig.load(directory)
    if config.quantize in METHODS:
        if model.quantization is None or model.quantization.method != config.quantize:
            raise ConfigError(
                f"`quantize` says that the checkpoint is {config.quantize}'s; the config.json of {directory} does not. "
                "Leave it out, or give such a checkpoint"
            )
        # It says nothing that the checkpoint does not.
        config = replace(config, quantize=None)
    tokenizer = _tokenizer(config, directory)
    eos = list(model.eos_token_ids) or tokenizer.eos_token_ids
    if outside := [token for token in eos if token >= model.vocab]:
        raise ConfigError(
            f"the tokenizer of {directory} ends a sequence with id {outside[0]}; ids from 0 to {model.vocab - 1} are "
            f"needed, since vocab_size is {model.vocab}. Give eos_token_id in generation_config.json"
        )
    return OpenedModel(config, directory, checkpoint, model, tokenizer, eos)


def _open_cpu(opened: OpenedModel, progress: "Progress | None") -> RunningEngine:
    from agentlm.runtime.cpu import CpuModel, CpuRunner

    config = opened.config
    if config.quantize is not None:
        raise ConfigError(
            f"`quantize` is for GPUs; the cpu backend stores weights as `dtype` says. Given: {config.quantize!r}"
        )
    if config.kv_cache_dtype in ("bfloat16", "fp8"):
        raise ConfigError(
            f"`kv_cache_dtype` must be auto, float32 or float16 on a CPU. Given: {config.kv_cache_dtype!r}"
        )
    model = CpuModel(opened.model, opened.checkpoint, config, progress)
    plan = memory.plan_kv_cache(
        model.bytes_per_block,
        opened.model.context_length,
        config.max_batch_size,
        config.kv_cache_memory,
        config.max_total_tokens,
        memory.available(),
    )
    engine = _engine(config, opened.tokenizer, plan, opened.eos, opened.model.vocab)
    runner = CpuRunner(engine, model, opened.directory, config, plan)
    info = _info(config, opened.directory, plan, model.storage, model.kv_dtype, "cpu")
    return RunningEngine(engine, runner, opened.tokenizer, info, config)


def _open_cuda(opened: OpenedModel, progress: "Progress | None") -> RunningEngine:
    from agentlm.runtime.cuda import CudaRunner
    from agentlm.runtime.cuda_memory import kv_budget
    from agentlm.runtime.cuda_model import CudaModel
    from agentlm.runtime.device import Cuda
    from agentlm_kernels.compilations import watch

    config = opened.config
    device = Cuda()
    compilations = watch()
    # All that is launched here goes to the queue that steps will go to.
    with device.entered():
        model = CudaModel(opened.model, opened.checkpoint, config, device, progress)
        plan = memory.plan_kv_cache(
            model.bytes_per_block,
            opened.model.context_length,
            config.max_batch_size,
            config.kv_cache_memory or kv_budget(model, config),
            config.max_total_tokens,
            0,
        )
        engine = _engine(config, opened.tokenizer, plan, opened.eos, opened.model.vocab)
        runner = CudaRunner(engine, model, opened.directory, config, plan, opened.eos, compilations)
    info = _info(config, opened.directory, plan, model.storage, model.kv_dtype, "cuda")
    return RunningEngine(engine, runner, opened.tokenizer, info, config)


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver is there and finds a GPU; asked without torch, whose import takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return bool(driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value)


def _open_mock(config: EngineConfig, directory: Path, tokenizer: Tokenizer) -> RunningEngine:
    total = config.max_total_tokens or MOCK_CONTEXT
    if total > MOST_MOCK_CONTEXT:
        raise ConfigError(
            f"`max_total_tokens` must be at most {MOST_MOCK_CONTEXT} with the mock backend. Given: {total}"
        )
    longest = -(-total // memory.BLOCK_SIZE)
    # Books are kept on each block: a pool for every row's longest request would itself take gigabytes.
    blocks = min(config.max_batch_size * longest, max(longest, MOCK_BLOCKS))
    plan = memory.KvPlan(blocks, total, 0)
    engine = _engine(config, tokenizer, plan, tokenizer.eos_token_ids, tokenizer.vocab_size)
    runner = MockStepRunner(engine, tokenizer, config.mock_step_time)
    info = _info(config, directory, plan, "none", "none", "mock")
    return RunningEngine(engine, runner, tokenizer, info, config)


def _resolve(config: EngineConfig, progress: bool) -> Path:
    if not config.model:
        # A directory of its name is what that name means, not what no name does.
        return bundled.directory()
    return hub.resolve(
        config.model,
        revision=config.revision,
        token=config.token,
        cache_dir=config.cache_dir,
        offline=config.offline,
        progress=progress,
    )


def _tokenizer(config: EngineConfig, directory: Path) -> Tokenizer:
    return Tokenizer(ensure_tokenizer(directory, config.cache_dir))


def max_input_tokens(config: EngineConfig, plan: memory.KvPlan) -> int:
    """Longest prompt: what was asked for, else all but one of the total tokens. Raises `ConfigError` if nothing is left."""
    max_input = config.max_input_tokens or plan.max_total_tokens - 1
    if max_input >= plan.max_total_tokens:
        raise ConfigError(
            f"`max_input_tokens` must be less than the {plan.max_total_tokens} total tokens. Given: {max_input}"
        )
    return max_input


def _engine(
    config: EngineConfig, tokenizer: Tokenizer, plan: memory.KvPlan, eos: list[int], vocab_size: int
) -> Engine:
    return Engine(
        tokenizer=tokenizer,
        num_blocks=plan.num_blocks,
        max_running=config.max_batch_size,
        max_step_tokens=memory.step_tokens(config),
        max_input_tokens=max_input_tokens(config, plan),
        max_total_tokens=plan.max_total_tokens,
        max_stop_sequences=config.max_stop_sequences,
        max_top_n_tokens=config.max_top_n_tokens,
        max_best_of=config.max_best_of,
        steps_in_flight=config.steps_in_flight or (2 if config.backend == "cuda" else 1),
        prefix_cache=config.prefix_cache,
        eos_token_ids=eos,
        vocab_size=vocab_size,
        hash_key=secrets.token_bytes(32),
        max_unfinished=config.max_concurrent_requests or 2**62,
        step_timeout=config.step_timeout,
    )


def _info(
    config: EngineConfig, directory: Path, plan: memory.KvPlan, dtype: str, kv_dtype: str, backend: str
) -> EngineInfo:
    return EngineInfo(
        model=config.model or bundled.NAME,
        directory=directory,
        backend=backend,
        dtype=dtype,
        kv_cache_dtype=kv_dtype,
        max_input_tokens=max_input_tokens(config, plan),
        max_total_tokens=plan.max_total_tokens,
        num_blocks=plan.num_blocks,
        kv_cache_bytes=plan.bytes,
        is_bundled=hub.is_bundled(directory),
        is_chosen=bool(config.model),
    )
