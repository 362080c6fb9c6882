"""Options that several commands share: which model, on which backend. Names are TGI's where the meaning is the same."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from agentlm.config import BACKENDS, CPU_ISAS, DTYPES, KV_CACHE_DTYPES, LONGEST_SECONDS, QUANTIZE

if TYPE_CHECKING:
    from agentlm import SamplingParams

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_SUFFIXES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class ByteSize(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """A number of bytes, as `2G`, `512M` or plain digits."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Reads the number and its binary suffix."""
        if isinstance(value, int):
            return value
        text = str(value).strip().upper().removesuffix("IB").removesuffix("B")
        number, suffix = (text[:-1], text[-1]) if text and text[-1].isalpha() else (text, "")
        try:
            return int(float(number) * _SUFFIXES[suffix])
        except (KeyError, ValueError, OverflowError):
            return self.fail(f"{value!r} is not a size such as 2G, 512M or 1000000", param, ctx)


class Number(click.FloatRange):
    """A number within a range. Not a number (NaN) is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads the number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


class BatchSizes(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """Batch sizes, separated by commas; 0 is none."""

    name = "sizes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Reads the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(size for part in str(value).split(",") if (size := int(part)) != 0)
        except ValueError:
            return self.fail(f"{value!r} is not a list of batch sizes such as 1,2,4,8, or 0", param, ctx)


TGI_FP8 = "fp8_e4m3fn"
"""TGI's name of `fp8` for keys and values."""


def _our_kv_cache_dtype(context: click.Context, parameter: click.Parameter, value: str) -> str:
    del context, parameter
    return "fp8" if value == TGI_FP8 else value


_SOURCE_OPTIONS: tuple[Decorator, ...] = (
    click.option("--revision", envvar="REVISION", help="Branch, tag or commit on the hub."),
    click.option("--huggingface-hub-cache", "cache_dir", envvar="HUGGINGFACE_HUB_CACHE", type=click.Path(file_okay=False), help="Where hub files are kept."),
    click.option("--token", envvar="HF_TOKEN", help="Hub access token."),
    click.option("--offline", is_flag=True, envvar="HF_HUB_OFFLINE", help="Never reach for the network."),
)  # fmt: skip

_DTYPE_OPTION: Decorator = click.option("--dtype", envvar="DTYPE", type=click.Choice(DTYPES), default="auto", show_default=True, help="Storage of the weights.")  # fmt: skip

_MODEL_OPTIONS: tuple[Decorator, ...] = (
    click.option("--model-id", "--model", envvar="MODEL_ID", help="Checkpoint directory or hub name [default: agentlm-nano, a small one for demonstration]"),
    *_SOURCE_OPTIONS,
    click.option("--backend", type=click.Choice(BACKENDS), default="auto", show_default=True, help="What computes; auto takes a GPU if there is one; mock gives deterministic tokens without a model."),
    _DTYPE_OPTION,
    click.option("--kv-cache-dtype", envvar="KV_CACHE_DTYPE", type=click.Choice((*KV_CACHE_DTYPES, TGI_FP8)), callback=_our_kv_cache_dtype, default="auto", show_default=True, help="Storage of keys and values; fp8 (GPU) is TGI's fp8_e4m3fn."),
    click.option("--kv-cache-memory", envvar="KV_CACHE_MEMORY", type=ByteSize(), help="Memory for keys and values, such as 2G [default: a share of what is free]"),
    click.option("--quantize", envvar="QUANTIZE", type=click.Choice(QUANTIZE), help="Narrow the weights while they are loaded: int8, int4, fp8 (GPU). gptq and awq: the checkpoint is so already."),
    click.option("--cuda-graphs", envvar="CUDA_GRAPHS", type=BatchSizes(), help="Batch sizes whose decodes are captured as CUDA graphs, such as 1,2,4,8; 0 captures none (GPU) [default: 1 to max-batch-size in steps]"),
    click.option("--batch-invariant", is_flag=True, help="Bitwise equal logits whatever shares the batch (GPU; a CPU always does)."),
    click.option("--threads", envvar="THREADS", type=click.IntRange(1, 1024), help="Compute threads [default: one a core]"),
    click.option("--cpu-isa", type=click.Choice(CPU_ISAS), default="auto", show_default=True, help="Instruction set of the CPU kernels."),
    click.option("--max-total-tokens", envvar="MAX_TOTAL_TOKENS", type=int, help="Longest prompt and output together [default: what model and memory allow]"),
    click.option("--max-batch-prefill-tokens", envvar="MAX_BATCH_PREFILL_TOKENS", type=int, help="Most tokens in one step [default: 4096 on a GPU, 512 elsewhere]"),
    click.option("--max-batch-size", envvar="MAX_BATCH_SIZE", type=int, default=256, show_default=True, help="Most requests in one step."),
    click.option("--prefix-cache/--no-prefix-cache", envvar="PREFIX_CACHING", default=True, show_default=True, help="Share the KV of equal beginnings."),
    click.option("--step-timeout", type=Number(min=0, max=LONGEST_SECONDS, min_open=True, max_open=True), default=600.0, show_default=True, help="Seconds after which a step counts as hung."),
    click.option("--mock-step-time", type=Number(min=0, max=LONGEST_SECONDS, max_open=True), default=0.01, show_default=True, help="Seconds a step of the mock backend takes."),
)  # fmt: skip

_SAMPLING_OPTIONS: tuple[Decorator, ...] = (
    click.option("--max-new-tokens", type=int, help="Most tokens to generate [default: 256, or fewer where the context ends sooner]"),
    click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the most likely token."),
    click.option("--top-p", type=float, help="Sample among the most likely tokens whose probabilities reach this sum."),
    click.option("--top-k", type=int, help="Sample among the k most likely tokens."),
    click.option("--seed", type=int, help="Seed of the sampling noise [default: drawn]"),
    click.option("--stop", multiple=True, help="String that ends the text; repeatable."),
)  # fmt: skip


chat_template_option = click.option(
    "--chat-template",
    "--tokenizer-config-path",
    "chat_template",
    envvar=["CHAT_TEMPLATE", "TOKENIZER_CONFIG_PATH"],
    type=click.Path(exists=True, dir_okay=False),
    help="Jinja file to use instead of the checkpoint's own template.",
)


def checkpoint_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say where a model comes from and how it is stored, without its name."""
    for option in reversed((*_SOURCE_OPTIONS, _DTYPE_OPTION)):
        function = option(function)
    return function


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that choose and shape an engine."""
    for option in reversed(_MODEL_OPTIONS):
        function = option(function)
    return function


def sampling_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that shape a request."""
    for option in reversed(_SAMPLING_OPTIONS):
        function = option(function)
    return function


def sampling_params(options: dict[str, Any]) -> "SamplingParams":
    """The sampling parameters among parsed options. Raises `InvalidRequestError` that names flags."""
    from agentlm import SamplingParams
    from agentlm.errors import InvalidRequestError

    try:
        return SamplingParams.from_dict(options)
    except InvalidRequestError as error:
        raise InvalidRequestError(as_flags(str(error), options)) from error


def as_flags(message: str, names: Iterable[str]) -> str:
    """What is said of the parameters of these names, said of their flags."""
    for name in names:
        message = message.replace(f"`{name}`", f"`--{name.replace('_', '-')}`")
    return message


def engine_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of `EngineConfig` among parsed options; those are taken out of `options`."""
    from pathlib import Path

    names = (
        "revision", "token", "offline", "backend", "dtype", "kv_cache_dtype", "kv_cache_memory", "threads",
        "cpu_isa", "max_total_tokens", "max_batch_prefill_tokens", "max_batch_size", "prefix_cache",
        "step_timeout", "mock_step_time", "quantize", "cuda_graphs", "batch_invariant",
    )  # fmt: skip
    settings = {name: options.pop(name) for name in names}
    settings["model"] = options.pop("model_id")
    cache_dir = options.pop("cache_dir")
    settings["cache_dir"] = Path(cache_dir) if cache_dir else None
    return settings
