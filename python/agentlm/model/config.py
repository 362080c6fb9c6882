"""A model's shape and arithmetic, read from config.json and checked. Refuses to know weights, devices and tokenizers.

Both spellings of config.json are read: transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and 5
(`rope_parameters`, `dtype`). Defaults for absent keys are those of transformers' classes; what would change the
arithmetic and is not known is refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from agentlm.errors import ConfigError, UnsupportedModelError, shown
from agentlm.model.quantization import Quantization
from agentlm.model.rope import ROPE_KINDS, Rope
from agentlm.ops.protocol import AttentionSpec

_MOST = 2**31 - 1
"""Sizes are 32-bit integers in the engine."""
_MOST_LAYERS = 100_000
"""Far above any model: lists as long as this are still made at once."""
LARGEST = 3.4e38
"""The arithmetic is float32's."""


@dataclass(frozen=True, slots=True)
class _Family:
    """What one architecture fixes that config.json leaves open."""

    qkv_bias: bool | None
    """Biases of q, k and v; None: the key `attention_bias` says, for the output projection too."""
    qk_norm: bool
    head_dim: int | None
    """Where `head_dim` is absent; None: hidden_size / num_attention_heads."""
    window_default: int | None
    """Where `sliding_window` is absent."""
    window_switch: bool
    """Whether `use_sliding_window` and `max_window_layers` decide which layers have the window."""


FAMILIES: Mapping[str, _Family] = {
    "LlamaForCausalLM": _Family(None, qk_norm=False, head_dim=None, window_default=None, window_switch=False),
    "MistralForCausalLM": _Family(
        False, qk_norm=False, head_dim=None, window_default=4096, window_switch=False
    ),
    "Qwen2ForCausalLM": _Family(True, qk_norm=False, head_dim=None, window_default=4096, window_switch=True),
    "Qwen3ForCausalLM": _Family(None, qk_norm=True, head_dim=128, window_default=4096, window_switch=True),
}
"""The architectures that agentlm computes."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape and the constants of one model."""

    architecture: str
    """One of `FAMILIES`."""
    layers: int
    hidden: int
    inter: int
    """Width of the gated feed-forward layer."""
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    """Rows of the embedding table; the tokenizer may know fewer."""
    max_position_embeddings: int
    norm_eps: float
    rope: Rope
    windows: tuple[int | None, ...]
    """Sliding window of each layer, in positions."""
    tied: bool
    """The output head is the embedding table."""
    qkv_bias: bool
    out_bias: bool
    """Bias of attention's output projection."""
    mlp_bias: bool
    qk_norm: bool
    """RMS norm of each query and key head."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    """Ids that end a generation; empty: none does."""
    dtype: str | None
    """What config.json says of the weights' type; the weights themselves decide."""
    quantization: Quantization | None = None
    """How the weights were narrowed."""

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Reads `config.json` and, if there, `generation_config.json`. Raises `ConfigError` and its kinds."""
        directory = Path(directory)
        config = read_json(directory / "config.json")
        if config is None:
            raise ConfigError(
                f"{directory} holds no config.json. Give a checkpoint's directory in the form of "
                "transformers' save_pretrained."
            )
        return cls.from_json(config, read_json(directory / "generation_config.json"))

    @classmethod
    def from_json(cls, config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> Self:
        """Reads the parsed config.json and generation_config.json. Raises `ConfigError` and its kinds."""
        architecture = _architecture(config)
        family = FAMILIES[architecture]
        _refuse_unknown_arithmetic(config, architecture)
        heads = _count(config, "num_attention_heads")
        hidden = _count(config, "hidden_size")
        layers = _count(config, "num_hidden_layers")
        if layers > _MOST_LAYERS:
            raise ConfigError(
                f"config.json gives num_hidden_layers = {layers}; at most {_MOST_LAYERS} are computed."
            )
        kv_heads = _count(config, "num_key_value_heads", heads)
        if heads % kv_heads:
            raise ConfigError(
                f"config.json gives num_attention_heads = {heads} and num_key_value_heads = {kv_heads}; "
                "the first must be a multiple of the second."
            )
        if config.get("head_dim") is None and family.head_dim is None and hidden % heads:
            raise ConfigError(
                f"config.json gives hidden_size = {hidden}, num_attention_heads = {heads} and no head_dim; "
                "without head_dim the first must be a multiple of the second."
            )
        head_dim = _count(config, "head_dim", family.head_dim or hidden // heads)
        if head_dim % 2:
            raise ConfigError(
                f"config.json gives a head_dim of {head_dim}; rotary embedding needs an even one."
            )
        max_positions = _count(config, "max_position_embeddings")
        vocab = _count(config, "vocab_size")
        biased = _flag(config, "attention_bias")
        return cls(
            architecture=architecture,
            layers=layers,
            hidden=hidden,
            inter=_count(config, "intermediate_size"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            vocab=vocab,
            max_position_embeddings=max_positions,
            norm_eps=_number(config, "rms_norm_eps", 1e-6),
            rope=_rope(config, max_positions),
            windows=_windows(config, architecture, family, layers),
            tied=_flag(config, "tie_word_embeddings"),
            qkv_bias=biased if family.qkv_bias is None else family.qkv_bias,
            out_bias=biased if family.qkv_bias is None else False,
            mlp_bias=_flag(config, "mlp_bias") if architecture == "LlamaForCausalLM" else False,
            qk_norm=family.qk_norm,
            bos_token_id=next(iter(_ids(config, "bos_token_id")), None),
            eos_token_ids=_eos(config, generation or {}, vocab),
            dtype=config.get("dtype") or config.get("torch_dtype"),
            quantization=Quantization.read(config),
        )

    @property
    def context_length(self) -> int:
        """Positions for which the rotary embedding is defined: the longest prompt and output together."""
        return self.rope.context_length(self.max_position_embeddings)

    @property
    def attention(self) -> tuple[AttentionSpec, ...]:
        """The constants of each layer's attention."""
        return tuple(
            AttentionSpec(self.heads, self.kv_heads, self.head_dim, self.head_dim**-0.5, window)
            for window in self.windows
        )


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is no such file."""
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid JSON ({error}). Fetch it again.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file} holds a {type(value).__name__}; a JSON object is needed. Fetch it again.")
    return value


def _architecture(config: Mapping[str, Any]) -> str:
    """The supported one of config.json's `architectures`."""
    given = config.get("architectures") or []
    for name in given if isinstance(given, list) else []:
        if isinstance(name, str) and name in FAMILIES:
            return name
    raise UnsupportedModelError(
        f"config.json gives architectures = {shown(given)} (model_type {shown(config.get('model_type'))}); agentlm "
        f"computes {', '.join(FAMILIES)}. Use a model of one of these."
    )


def _refuse_unknown_arithmetic(config: Mapping[str, Any], architecture: str) -> None:
    """Refuses keys that would change what is computed in a way that the decoder does not know."""
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedModelError(
            f"config.json gives hidden_act = {shown(activation)}; the {architecture} decoder computes 'silu'."
        )
    for key in ("num_experts", "num_local_experts", "n_routed_experts"):
        if config.get(key):
            raise UnsupportedModelError(
                f"config.json gives {key} = {shown(config[key])}: a mixture of experts, which agentlm does not compute. "
                "Use a dense model."
            )


def _rope(config: Mapping[str, Any], max_positions: int) -> Rope:
    """The rotary embedding's parameters, from either spelling."""
    # transformers lets a `rope_scaling` win over `rope_parameters`.
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"config.json gives rope parameters {shown(given)}; a JSON object is needed.")
    kind = given.get("rope_type") or given.get("type") or "default"
    if kind not in ROPE_KINDS or any(isinstance(value, Mapping) for value in given.values()):
        raise UnsupportedModelError(
            f"config.json asks for rotary embedding of type {shown(kind)} ({shown(dict(given))}); agentlm computes "
            f"{', '.join(ROPE_KINDS)}, one for all layers. Use a model with one of these."
        )
    rotary = given.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if rotary not in (None, 1, 1.0):
        raise UnsupportedModelError(
            f"config.json gives partial_rotary_factor = {shown(rotary)}; agentlm rotates whole heads (1.0) only."
        )
    # Wavelengths grow with each pair of elements; yarn divides by the logarithm.
    theta = _number(
        given, "rope_theta", _number(config, "rope_theta", 10_000.0, least=1), least=1, above=kind == "yarn"
    )
    if kind == "default":
        return Rope(kind="default", theta=theta)
    factor = _number(given, "factor", None, least=1)
    # Of the two places for the pretraining context transformers prefers the outer one.
    original = _count(
        config,
        "original_max_position_embeddings",
        _count(given, "original_max_position_embeddings", max_positions),
    )
    if kind == "llama3":
        low = _number(given, "low_freq_factor", None, least=0, above=True)
        high = _number(given, "high_freq_factor", None)
        if high <= low:
            raise ConfigError(
                f"config.json gives high_freq_factor = {high} and low_freq_factor = {low}; it must be larger."
            )
        return Rope(kind, theta, factor, original, low_freq_factor=low, high_freq_factor=high)
    if kind == "yarn":
        scale = given.get("attention_factor")
        return Rope(
            kind,
            theta,
            factor,
            original,
            attention_factor=None if scale is None else _number(given, "attention_factor", None),
            beta_fast=_number(given, "beta_fast", 32.0) or 32.0,
            beta_slow=_number(given, "beta_slow", 1.0) or 1.0,
            mscale=_number(given, "mscale", 0.0),
            mscale_all_dim=_number(given, "mscale_all_dim", 0.0),
            truncate=bool(given.get("truncate", True)),
        )
    return Rope(kind, theta, factor, original)


def _windows(
    config: Mapping[str, Any], architecture: str, family: _Family, layers: int
) -> tuple[int | None, ...]:
    """Each layer's sliding window."""
    window = config.get("sliding_window", family.window_default)
    if architecture == "LlamaForCausalLM" or (
        family.window_switch and not _flag(config, "use_sliding_window")
    ):
        window = None
    elif window is not None:
        window = _count(config, "sliding_window", family.window_default)
    windows: tuple[int | None, ...]
    if family.window_switch:
        first = _number(config, "max_window_layers", 28)
        windows = tuple(window if layer >= first else None for layer in range(layers))
    else:
        windows = (window,) * layers
    types = config.get("layer_types")
    if types is None:
        return windows
    by_type = {"full_attention": None, "sliding_attention": window}
    if not isinstance(types, list):
        raise ConfigError(f"config.json gives layer_types = {shown(types)}; a list of names is needed.")
    unknown = sorted({kind if isinstance(kind, str) else shown(kind) for kind in types} - by_type.keys())
    if unknown or len(types) != layers:
        raise UnsupportedModelError(
            f"config.json gives {len(types)} layer_types for {layers} layers"
            + (f", among them {shown(unknown)}" if unknown else "")
            + f"; one of {sorted(by_type)} for each layer is needed."
        )
    typed = tuple(by_type[kind] for kind in types)
    if not family.window_switch and typed != windows:
        raise UnsupportedModelError(
            f"config.json gives layer_types that differ from layer to layer; {architecture} has one kind of attention "
            f"with sliding_window = {window}. Remove layer_types or name the architecture that knows them."
        )
    return typed


def _count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A positive integer; `default` where the key is absent or null."""
    value = config.get(key)
    value = default if value is None else value
    if value is None:
        raise ConfigError(f"config.json lacks {shown(key)}; a positive integer is needed.")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 < value <= _MOST:
        raise ConfigError(
            f"config.json gives {key} = {shown(value)}; a positive integer, at most {_MOST}, is needed."
        )
    return value


def _number(
    config: Mapping[str, Any], key: str, default: float | None, *, least: int = 0, above: bool = False
) -> float:
    """A number from `least` on (`above` it, if so said); `default` where the key is absent or null."""
    allowed = f"a number {'above' if above else 'not below'} {least}"
    value = config.get(key)
    value = default if value is None else value
    if value is None:
        raise ConfigError(f"config.json lacks {shown(key)}; {allowed} is needed.")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= LARGEST or (above and value == least):
        raise ConfigError(
            f"config.json gives {key} = {shown(value)}; {allowed}, at most {LARGEST}, is needed."
        )
    return float(value)


def _flag(config: Mapping[str, Any], key: str) -> bool:
    """A boolean; false where the key is absent or null."""
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"config.json gives {key} = {shown(value)}; true or false is needed.")
    return bool(value)


def _eos(config: Mapping[str, Any], generation: Mapping[str, Any], vocab: int) -> tuple[int, ...]:
    """The ids that end a generation: generation_config.json's, else config.json's."""
    for name, settings in (("generation_config.json", generation), ("config.json", config)):
        if ids := _ids(settings, "eos_token_id"):
            if max(ids) >= vocab:
                raise ConfigError(
                    f"{name} gives eos_token_id = {shown(settings['eos_token_id'])}; ids from 0 to {vocab - 1} are "
                    f"needed, since vocab_size is {vocab}."
                )
            return ids
    return ()


def _ids(config: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """One token id or a list of them, as a tuple without repetition."""
    value = config.get(key)
    listed = [] if value is None else value if isinstance(value, list) else [value]
    if any(type(token) is not int or token < 0 for token in listed):
        raise ConfigError(
            f"The model's configuration gives {key} = {shown(value)}; a token id or a list of them is needed."
        )
    return tuple(dict.fromkeys(listed))
