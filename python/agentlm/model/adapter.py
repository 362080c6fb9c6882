"""LoRA adapters in peft's file format, checked and resolved to the decoder's linears. Refuses to know devices and requests.

A directory holds `adapter_config.json` and `adapter_model.safetensors`, whose tensors are called
`base_model.model.<module>.lora_A.weight` `[rank, in]` and `…lora_B.weight` `[out, rank]`. The module's output becomes
`W x + alpha / rank * B (A x)` (`alpha / sqrt(rank)` with `use_rslora`).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlm.errors import AdapterError, AgentLMError, shown
from agentlm.model.config import LARGEST, ModelConfig
from agentlm.model.decoder import Decoder
from agentlm.model.layout import tensor_shapes
from agentlm.model.weights import Checkpoint, TensorRef
from agentlm.ops.protocol import Linear

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])\.weight")
_MODULE = re.compile(r"model\.layers\.(?P<layer>\d+)\.(?:self_attn|mlp)\.(?P<name>\w+)")

_REFUSED: Mapping[str, Any] = {
    "use_dora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "modules_to_save": None,
    "trainable_token_indices": None,
    "lora_bias": False,
}
"""Settings that change the arithmetic in ways that are not computed, with the values that do not."""


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """What the adapter adds to some outputs of one bound linear."""

    linear: Linear
    a: TensorRef
    """`[rank, in]`"""
    b: TensorRef
    """`[out, rank]`"""
    scale: float
    offset: int
    """First output of the linear that it adds to."""


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One module's pair of matrices."""

    a: TensorRef
    b: TensorRef
    scale: float


def load_adapter(directory: str | Path, config: ModelConfig) -> dict[str, LoraModule]:
    """The adapter's modules by name, such as `model.layers.0.self_attn.q_proj`, checked against the model.

    Raises `AdapterError` naming the file and what does not fit.
    """
    directory = Path(directory)
    settings = _settings(directory)
    try:
        checkpoint = Checkpoint.open(directory)
    except AgentLMError as error:
        raise AdapterError(f"{directory} is no LoRA adapter: {error}") from error
    halves: dict[str, dict[str, TensorRef]] = {}
    for tensor in checkpoint.tensors():
        match = _TENSOR.fullmatch(tensor.name.removeprefix(_PREFIX))
        if match is None:
            raise AdapterError(
                f"{tensor.file} holds tensor {tensor.name!r}; an adapter holds lora_A and lora_B matrices of linears only. "
                "Merge it into its model (peft's merge_and_unload) and serve the result."
            )
        halves.setdefault(match["module"], {})[match["half"]] = tensor
    if not halves:
        raise AdapterError(f"{directory} holds no lora_A and lora_B matrices.")
    shapes = tensor_shapes(config)
    return {name: _module(directory, name, pair, settings, shapes) for name, pair in halves.items()}


def resolve(modules: Mapping[str, LoraModule], decoder: Decoder) -> list[AdapterPart]:
    """Where each module's output lies among the decoder's linears, which hold q, k and v, and gate and up, as one."""
    config = decoder.config
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    parts = []
    for name, module in modules.items():
        match = _MODULE.fullmatch(name)
        assert match is not None, "load_adapter refuses other modules"
        layer = decoder.layers[int(match["layer"])]
        linear, offset = {
            "q_proj": (layer.qkv, 0),
            "k_proj": (layer.qkv, q),
            "v_proj": (layer.qkv, q + kv),
            "o_proj": (layer.out, 0),
            "gate_proj": (layer.gate_up, 0),
            "up_proj": (layer.gate_up, config.inter),
            "down_proj": (layer.down, 0),
        }[match["name"]]
        parts.append(AdapterPart(linear, module.a, module.b, module.scale, offset))
    return parts


def _settings(directory: Path) -> dict[str, Any]:
    file = directory / CONFIG_NAME
    try:
        settings = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise AdapterError(
            f"{directory} holds no {CONFIG_NAME}: give the directory that peft's save_pretrained wrote."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{file} cannot be read: {error}") from error
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else settings
        raise AdapterError(f"{file} describes an adapter of type {kind!r}; only 'LORA' is served.")
    for name, neutral in _REFUSED.items():
        given = settings.get(name, neutral)
        if given != neutral and given not in (None, [], {}):
            raise AdapterError(
                f"{file} sets {name!r} to {given!r}; only {neutral!r} is served. Merge the adapter into its model "
                "(peft's merge_and_unload) and serve the result."
            )
    return settings


def _module(
    directory: Path,
    name: str,
    pair: Mapping[str, TensorRef],
    settings: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
) -> LoraModule:
    shape = shapes.get(f"{name}.weight")
    if shape is None or _MODULE.fullmatch(name) is None:
        raise AdapterError(
            f"{directory} adapts {name!r}, which this model has not, or whose adaptation is not served. Adapters of the "
            "linears of attention and MLP are."
        )
    if pair.keys() != {"A", "B"}:
        raise AdapterError(f"{directory} holds only one of lora_A and lora_B for {name!r}: save it again.")
    a, b = pair["A"], pair["B"]
    out, into = shape
    rank = a.shape[0] if len(a.shape) == 2 else 0
    if rank == 0 or a.shape != (rank, into) or b.shape != (out, rank):
        raise AdapterError(
            f"{directory}: {name!r} has lora_A {list(a.shape)} and lora_B {list(b.shape)}; this model needs [rank, {into}] "
            f"and [{out}, rank]. The adapter belongs to another model."
        )
    alpha = _pattern(directory, settings.get("alpha_pattern"), name, settings.get("lora_alpha"))
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) <= LARGEST:
        raise AdapterError(
            f"{directory / CONFIG_NAME} sets 'lora_alpha' to {shown(alpha)}; it must be a number, at most {LARGEST}."
        )
    return LoraModule(a, b, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _pattern(directory: Path, patterns: Any, name: str, default: Any) -> Any:
    """The value whose key, a regular expression of peft's, names the end of the module's name."""
    try:
        for key, value in (patterns or {}).items():
            if re.fullmatch(rf"(.*\.)?({key})", name):
                return value
    except (AttributeError, re.error) as error:
        raise AdapterError(
            f"{directory / CONFIG_NAME} sets 'alpha_pattern' to {patterns!r:.80}; it must map regular expressions to "
            f"numbers ({error})."
        ) from error
    return default
