"""One engine's configuration: frozen, validated once, unknown keys refused. Refuses to know devices and models."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from agentlm.errors import ConfigError, shown

BACKENDS = ("auto", "cpu", "cuda", "mock")
DTYPES = ("auto", "float32", "float16", "bfloat16")
KV_CACHE_DTYPES = ("auto", "float32", "float16", "bfloat16", "fp8")
QUANTIZE = ("int8", "int4", "fp8", "gptq", "awq")
CPU_ISAS = ("auto", "portable", "neon", "avx2", "avx512", "amx")
LONGEST_SECONDS = 1e9
"""Time limits end there: thirty years."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything that shapes an engine. A value outside its range raises `ConfigError`."""

    model: str | None = None
    """A checkpoint directory or a hub name; None takes the small one that comes with agentlm."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    token: str | None = None
    """Hub access token."""
    cache_dir: Path | None = None
    """Where hub files and converted tokenizers are kept."""
    offline: bool = False
    """Never reach for the network."""
    backend: str = "auto"
    """What computes: "cuda" (an NVIDIA GPU), "cpu", or "mock" (deterministic tokens; of a model only its tokenizer);
    "auto" is "cuda" where there is a GPU."""
    dtype: str = "auto"
    """Storage of the weights; "auto" keeps 16-bit weights as they are, and rounds 32-bit ones: on a GPU to bfloat16, on a
    CPU to float16 when that is harmless."""
    kv_cache_dtype: str = "auto"
    """Storage of keys and values; "auto" is on a GPU that of the weights, on a CPU float32 beside float32 weights and
    float16 otherwise. "bfloat16" and "fp8" are for GPUs."""
    quantize: str | None = None
    """Narrows the matrices while they are loaded: "int8", "int4" or "fp8"; for GPUs. "gptq" and "awq" say that the
    checkpoint is so already: another is refused. Without them it is read just the same."""
    cuda_graphs: tuple[int, ...] | None = None
    """Batch sizes whose decodes are captured as CUDA graphs on a GPU; () captures none, None takes about a dozen."""
    batch_invariant: bool = False
    """On a GPU: bitwise equal logits whatever shares the batch, for some speed. On a CPU they always are."""
    kv_cache_memory: int | None = None
    """Bytes for keys and values; None takes a share of the free memory."""
    threads: int | None = None
    """Compute threads; None takes one a usable core."""
    cpu_isa: str = "auto"
    """Instruction set of the CPU kernels."""
    max_input_tokens: int | None = None
    """Longest prompt; None is `max_total_tokens - 1`."""
    max_total_tokens: int | None = None
    """Longest prompt and output together; None is what the model and the memory allow."""
    max_batch_size: int = 256
    """Most requests in one step."""
    max_batch_prefill_tokens: int | None = None
    """Most tokens in one step; None is 4096 on a GPU and 512 elsewhere."""
    max_concurrent_requests: int | None = None
    """Most unfinished requests; one more is refused, or waits if it is of a batch. None: no bound."""
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    max_best_of: int = 2
    watermark_gamma: float = 0.5
    """Share of the vocabulary that a watermark favours."""
    watermark_delta: float = 2.0
    """What a watermark adds to the logits of those."""
    prefix_cache: bool = True
    """Share the keys and values of equal beginnings between requests."""
    steps_in_flight: int | None = None
    """2 overlaps planning with computing; only a runner that computes asynchronously gains. None: 2 on a GPU, else 1."""
    step_timeout: float | None = 600.0
    """Seconds after which a step counts as hung and the engine fails; None: never."""
    mock_step_time: float = 0.01
    """Seconds a step of the mock backend takes."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("backend", BACKENDS),
            ("dtype", DTYPES),
            ("kv_cache_dtype", KV_CACHE_DTYPES),
            ("cpu_isa", CPU_ISAS),
            ("quantize", (None, *QUANTIZE)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(
                    f"`{name}` must be one of {', '.join(map(str, allowed))}. Given: {shown(value)}"
                )
        for name, low, high in (
            ("kv_cache_memory", 1, 2**50),
            ("threads", 1, 1024),
            ("max_input_tokens", 1, 2**31),
            ("max_total_tokens", 2, 2**31),
            ("max_batch_size", 1, 4096),
            ("max_batch_prefill_tokens", 16, 2**20),
            ("max_concurrent_requests", 1, 2**31),
            ("max_stop_sequences", 0, 2**16),
            ("max_top_n_tokens", 0, 1000),
            ("max_best_of", 1, 1024),
            ("steps_in_flight", 1, 2),
        ):
            value = getattr(self, name)
            optional = self.__dataclass_fields__[name].default is None
            if value is None and optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"`{name}` must be an integer from {low} to {high}. Given: {shown(value)}")
        for name in ("step_timeout", "mock_step_time"):
            value = getattr(self, name)
            if value is None and name == "step_timeout":
                continue
            if (
                not _is_number(value)
                or not 0 <= value < LONGEST_SECONDS
                or (name == "step_timeout" and value == 0)
            ):
                least = "more than 0" if name == "step_timeout" else "at least 0"
                raise ConfigError(f"`{name}` must be seconds, {least} and below 1e9. Given: {shown(value)}")
        if not _is_number(gamma := self.watermark_gamma) or not 0 < gamma < 1:
            raise ConfigError(f"`watermark_gamma` must be more than 0 and less than 1. Given: {shown(gamma)}")
        if not _is_number(delta := self.watermark_delta) or not -100 <= delta <= 100:
            raise ConfigError(f"`watermark_delta` must be from -100 to 100. Given: {shown(delta)}")
        for name in ("offline", "prefix_cache", "batch_invariant"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigError(f"`{name}` must be True or False. Given: {shown(value)}")
        sizes = self.cuda_graphs
        listed = isinstance(sizes, tuple | list) and all(
            type(size) is int and 1 <= size <= 4096 for size in sizes
        )
        if sizes is not None and not listed:
            raise ConfigError(f"`cuda_graphs` must be integers from 1 to 4096. Given: {shown(sizes)}")
        for name in ("model", "revision", "token"):
            if not isinstance(value := getattr(self, name), str | None):
                raise ConfigError(f"`{name}` must be text. Given: {shown(value)}")
        if not isinstance(self.cache_dir, str | Path | None):
            raise ConfigError(f"`cache_dir` must be a directory's path. Given: {shown(self.cache_dir)}")
        if self.cache_dir is not None:
            object.__setattr__(self, "cache_dir", Path(self.cache_dir))
        given = (self.max_input_tokens, self.max_total_tokens)
        if given[0] is not None and given[1] is not None and given[0] >= given[1]:
            raise ConfigError(
                f"`max_input_tokens` must be less than `max_total_tokens`. Given: {given[0]} and {given[1]}"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Reads a plain dictionary; an unknown key raises `ConfigError`."""
        given: Any = values
        if not isinstance(given, Mapping):
            raise ConfigError(f"settings must be a mapping such as {{'threads': 4}}. Given: {shown(given)}")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(map(shown, set(given) - known)):
            raise ConfigError(f"unknown settings {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        return cls(**values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
