# The Rust extension's classes. `make check-stubs` compares this file with the extension itself.

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Literal, final

import numpy as np
import numpy.typing as npt

from agentlm.params import SamplingParams

__all__ = [
    "ChatTemplate",
    "ContaminationScan",
    "CpuBackend",
    "CpuExecutor",
    "EndEvent",
    "Engine",
    "ErrorEvent",
    "Mailbox",
    "MockRunner",
    "Request",
    "Rings",
    "Server",
    "Tape",
    "TapeBuilder",
    "TokenEvent",
    "Tokenizer",
]

_Place = tuple[int, str, Sequence[int]]
_Attention = tuple[int, int, int, float, int | None]
_Health = Literal["ready", "draining", "closed", "failed"]

@final
class Tokenizer:
    def __new__(cls, directory: str | PathLike[str]) -> Tokenizer: ...
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_token_ids(self) -> list[int]: ...

@final
class ChatTemplate:
    def __new__(
        cls, directory: str | PathLike[str], tokenizer: Tokenizer, explicit: str | PathLike[str] | None = None
    ) -> ChatTemplate: ...
    @property
    def source(self) -> str: ...
    def prompt(
        self, messages: str, tools: str | None = None, *, add_generation_prompt: bool = True
    ) -> tuple[str, list[int]]: ...
    def conversation(self, messages: str, tools: str | None = None) -> tuple[str, list[int], list[bool]]: ...
    def template_input(self, messages: str, tools: str | None = None) -> tuple[str, str | None]: ...

@final
class ContaminationScan:
    def __new__(
        cls,
        samples: list[list[str]],
        *,
        ngram: int,
        skip_budget: int,
        tokens: Literal["words", "whitespace"] = "words",
        tokenizer: Tokenizer | None = None,
    ) -> ContaminationScan: ...
    @property
    def evaluation_tokens(self) -> int: ...
    def ignore_shared(self, sets: Sequence[int], share: float) -> None: ...
    def read(
        self,
        sources: Sequence[tuple[str | PathLike[str], Literal["jsonl", "text"]]],
        *,
        fields: Sequence[str],
        threads: int,
        progress: Callable[[int], None] | None = None,
    ) -> tuple[int, int, int]: ...
    def report(self, overlaps: int) -> str: ...

@final
class TokenEvent:
    @property
    def key(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def id(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def logprob(self) -> float: ...
    @property
    def special(self) -> bool: ...
    @property
    def top(self) -> list[tuple[int, float]]: ...

@final
class EndEvent:
    @property
    def key(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> list[float]: ...
    @property
    def top_logprobs(self) -> list[list[tuple[int, float]]]: ...
    @property
    def prompt(self) -> list[tuple[int, float | None, list[tuple[int, float]]]]: ...
    @property
    def finish_reason(self) -> Literal["length", "eos_token", "stop_sequence"]: ...
    @property
    def stop_index(self) -> int | None: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def queue_seconds(self) -> float: ...
    @property
    def first_token_seconds(self) -> float: ...
    @property
    def total_seconds(self) -> float: ...

@final
class ErrorEvent:
    @property
    def key(self) -> int: ...
    @property
    def kind(self) -> Literal["refused", "aborted", "generation", "engine_failed", "closed"]: ...
    @property
    def message(self) -> str: ...

@final
class Mailbox:
    def __new__(cls) -> Mailbox: ...
    def fileno(self) -> int: ...
    def take(self, timeout: float) -> list[TokenEvent | EndEvent | ErrorEvent]: ...

@final
class Request:
    def abort(self) -> None: ...

@final
class Engine:
    def __new__(
        cls,
        *,
        tokenizer: Tokenizer,
        num_blocks: int,
        max_running: int,
        max_step_tokens: int,
        max_input_tokens: int,
        max_total_tokens: int,
        max_stop_sequences: int,
        max_top_n_tokens: int,
        max_best_of: int,
        steps_in_flight: int,
        prefix_cache: bool,
        eos_token_ids: Sequence[int],
        vocab_size: int,
        hash_key: bytes,
        max_unfinished: int,
        step_timeout: float | None,
    ) -> Engine: ...
    def next_step(self) -> int: ...
    def commit(self) -> None: ...
    def rings(self) -> Rings: ...
    def copy_mask(self, slot: int, sample: int, into: npt.NDArray[np.uint32]) -> None: ...
    def fail(self, why: str) -> None: ...
    def abandon(self) -> None: ...
    def control(self) -> tuple[str, str, str, int] | None: ...
    def finish_control(self, error: str | None = None) -> None: ...
    def ask(
        self, kind: str, *, name: str = "", path: str = "", abort: bool = False, patience: float = 60.0
    ) -> None: ...
    def adapters(self) -> list[tuple[str, str]]: ...
    def weight_version(self) -> int: ...
    def check(
        self, prompt: Sequence[int], params: SamplingParams, *, grammar: tuple[str, str] | None = None
    ) -> None: ...
    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        mailbox: Mailbox,
        key: int,
        *,
        stream: bool = False,
        seed: int = 0,
        sample_index: int = 0,
        grammar: tuple[str, str] | None = None,
        adapter: str | None = None,
    ) -> Request: ...
    def health(self) -> tuple[_Health, str | None]: ...
    def wait_ended(self, timeout: float) -> tuple[_Health, str | None]: ...
    def shutdown(self, drain: bool) -> None: ...
    def set_late_compilations(self, count: int) -> None: ...
    def snapshot(self) -> dict[str, float]: ...

@final
class Rings:
    n_slots: int
    arena_address: int
    arena_words: int
    results_address: int
    results_words: int
    max_rows: int
    max_model_len: int
    top_cap: int
    max_scores: int

@final
class MockRunner:
    def __new__(cls, engine: Engine, tokenizer: Tokenizer, step_time: float) -> MockRunner: ...
    def run(self, slot: int) -> None: ...

@final
class CpuBackend:
    def __new__(cls, threads: int, isa: str) -> CpuBackend: ...
    @staticmethod
    def available_isas() -> list[str]: ...
    @staticmethod
    def f16_is_harmless(place: _Place) -> bool: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...

@final
class TapeBuilder:
    def __new__(cls, backend: CpuBackend, attention: Sequence[_Attention], dtype: str) -> TapeBuilder: ...
    def bind_linear(self, weights: Sequence[_Place], biases: Sequence[_Place]) -> int: ...
    def bind_vector(self, weight: _Place) -> int: ...
    def bind_table(self, weight: _Place) -> int: ...
    def release(self, buffer: int) -> None: ...
    def embed(self, table: int) -> int: ...
    def rms_norm(self, x: int, weight: int, eps: float) -> int: ...
    def add_rms_norm(self, residual: int, x: int, weight: int, eps: float) -> int: ...
    def linear(self, x: int, linear: int) -> int: ...
    def attention(self, qkv: int, layer: int, q_norm: int | None, k_norm: int | None, eps: float) -> int: ...
    def swiglu(self, gate_up: int) -> int: ...
    def sample_rows(self, x: int) -> int: ...
    def finish(self, logits: int) -> Tape: ...

@final
class Tape:
    def bytes_per_block(self, kv_dtype: str) -> int: ...

@final
class CpuExecutor:
    def __new__(
        cls,
        engine: Engine,
        tape: Tape,
        *,
        num_blocks: int,
        kv_dtype: str,
        max_step_tokens: int,
        vocab_size: int,
        cos: _Place,
        sin: _Place,
        watermark_gamma: float = 0.5,
        watermark_delta: float = 2.0,
    ) -> CpuExecutor: ...
    def run(self, slot: int) -> None: ...
    def load_adapter(self, number: int, parts: Sequence[tuple[int, _Place, _Place, float, int]]) -> None: ...
    def unload_adapter(self, number: int) -> None: ...
    def logits(self) -> list[float]: ...

@final
class Server:
    def __new__(
        cls,
        engine: Engine,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        hostname: str,
        port: int,
        model_id: str,
        model_sha: str | None,
        max_concurrent_requests: int,
        max_client_batch_size: int,
        payload_limit: int,
        api_keys: Sequence[str],
        cors_allow_origin: Sequence[str],
        validation_workers: int,
        http_workers: int,
        compute_type: str,
        api_dialect: str = "openai",
        strict_model: bool = False,
        disable_grammar_support: bool = False,
        tool_call_parser: str = "auto",
        read_timeout: float = 75.0,
        write_timeout: float = 120.0,
        ssl_certfile: str | None = None,
        ssl_keyfile: str | None = None,
        prometheus_port: int | None = None,
        log_level: str = "off",
        json_output: bool = False,
        log_prompts: bool = False,
        otlp_endpoint: str | None = None,
        otlp_service_name: str | None = None,
    ) -> Server: ...
    @staticmethod
    def check_address(hostname: str, port: int) -> None: ...
    @staticmethod
    def check_otlp_endpoint(endpoint: str) -> None: ...
    @staticmethod
    def check_tls(ssl_certfile: str | None, ssl_keyfile: str | None) -> None: ...
    @property
    def address(self) -> str: ...
    @property
    def metrics_address(self) -> str | None: ...
    @property
    def metrics_refusal(self) -> str | None: ...
    def begin_shutdown(self, grace: float) -> None: ...
    def wait(self) -> None: ...
