"""Reading config.json: both spellings, transformers' defaults, and every refusal."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from agentlm.errors import ConfigError, QuantizedModelError, UnsupportedModelError
from agentlm.model.config import FAMILIES, ModelConfig
from agentlm.model.rope import Rope

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "vocab_size": 300,
    "max_position_embeddings": 512,
}
LLAMA3_SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


YARN = {"type": "yarn", "factor": 2.0}


def llama(**changes: Any) -> ModelConfig:
    return ModelConfig.from_json(LLAMA | changes)


def qwen(**changes: Any) -> ModelConfig:
    return llama(architectures=["Qwen2ForCausalLM"], **changes)


def test_both_spellings_read_the_same() -> None:
    four = llama(
        torch_dtype="bfloat16", rope_theta=5e5, rope_scaling={"rope_type": "llama3"} | LLAMA3_SCALING
    )
    five = llama(
        dtype="bfloat16", rope_parameters={"rope_type": "llama3", "rope_theta": 5e5} | LLAMA3_SCALING
    )
    assert four == five
    assert four.rope == Rope("llama3", 5e5, 8.0, 256, 1.0, 4.0)
    assert four.dtype == "bfloat16"


def test_the_oldest_spelling_names_the_rope_type_type() -> None:
    assert llama(rope_scaling={"type": "linear", "factor": 2.0}).rope.kind == "linear"


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
        {"attention_bias": True},
        {"mlp_bias": True, "rms_norm_eps": 1e-5},
        {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
    ],
    ids=lambda changes: ",".join(changes) or "defaults",
)
def test_transformers_own_configuration_reads_as_it_is(
    tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    sizes = {key: value for key, value in LLAMA.items() if key not in ("architectures", "model_type")}
    theirs = getattr(transformers, f"{family}Config")(
        architectures=[f"{family}ForCausalLM"],
        eos_token_id=[7, 9],
        **({"num_key_value_heads": 4} | sizes | changes),
    )
    theirs.save_pretrained(tmp_path)
    ours = ModelConfig.load(tmp_path)
    assert ours.kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (
        getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    )
    assert ours.tied == theirs.tie_word_embeddings
    assert ours.norm_eps == theirs.rms_norm_eps
    # transformers 5's name, and 4's.
    rope = getattr(theirs, "rope_parameters", None) or {"rope_theta": theirs.rope_theta}
    assert ours.rope.theta == rope["rope_theta"]
    assert ours.eos_token_ids == (7, 9)
    assert ours.qk_norm == (family == "Qwen3")
    model = transformers.AutoModelForCausalLM.from_config(theirs).model
    for layer, window in zip(model.layers, ours.windows, strict=True):
        assert ours.qkv_bias == (layer.self_attn.q_proj.bias is not None)
        assert ours.out_bias == (layer.self_attn.o_proj.bias is not None)
        assert ours.mlp_bias == (layer.mlp.down_proj.bias is not None)
        if family == "Mistral":
            assert window == theirs.sliding_window
        else:
            assert window == getattr(layer.self_attn, "sliding_window", None)


def test_end_of_sequence_ids_come_from_the_generation_config_first(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"eos_token_id": 2}))
    assert ModelConfig.load(tmp_path).eos_token_ids == (2,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6, 5]}))
    assert ModelConfig.load(tmp_path).eos_token_ids == (5, 6)
    (tmp_path / "generation_config.json").write_text(json.dumps({"max_length": 20}))
    assert ModelConfig.load(tmp_path).eos_token_ids == (2,)


def test_an_end_of_sequence_id_outside_the_vocabulary_is_refused_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"eos_token_id": 2}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 10**12}))
    with pytest.raises(
        ConfigError, match=r"^generation_config.json gives eos_token_id = 1000000000000; .* 299"
    ):
        ModelConfig.load(tmp_path)


def test_no_end_of_sequence_id_is_allowed() -> None:
    assert llama().eos_token_ids == ()


def test_layer_types_decide_where_the_family_mixes_windows() -> None:
    types = ["full_attention", "sliding_attention", "full_attention"]
    config = qwen(use_sliding_window=True, sliding_window=32, layer_types=types)
    assert config.windows == (None, 32, None)
    assert [spec.window for spec in config.attention] == [None, 32, None]


def test_attention_constants() -> None:
    spec = llama(num_key_value_heads=2).attention[0]
    assert (spec.heads, spec.kv_heads, spec.head_dim, spec.window) == (8, 2, 8, None)
    assert spec.scale == 8**-0.5


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"architectures": ["MixtralForCausalLM"]}, UnsupportedModelError, ", ".join(FAMILIES)),
        ({"architectures": None}, UnsupportedModelError, "LlamaForCausalLM"),
        ({"hidden_act": "gelu"}, UnsupportedModelError, r"hidden_act = 'gelu'.*'silu'"),
        (
            {"quantization_config": {"quant_method": "awq"}},
            QuantizedModelError,
            r"awq of None bits.*quantized from",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, QuantizedModelError, r"'fp8'"),
        ({"num_local_experts": 8}, UnsupportedModelError, r"mixture of experts.*dense"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, UnsupportedModelError, r"'longrope'.*yarn"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, UnsupportedModelError, "one for all"),
        ({"partial_rotary_factor": 0.5}, UnsupportedModelError, "whole heads"),
        ({"rope_scaling": {"type": "linear"}}, ConfigError, "lacks 'factor'"),
        (
            {"rope_scaling": {"type": "linear", "factor": 0.5}},
            ConfigError,
            r"factor = 0\.5; a number not below 1",
        ),
        ({"rope_scaling": "linear"}, ConfigError, "JSON object"),
        (
            {"rope_scaling": {"type": "llama3"} | LLAMA3_SCALING | {"high_freq_factor": 1}},
            ConfigError,
            "larger",
        ),
        ({"layer_types": ["full_attention"]}, UnsupportedModelError, "1 layer_types for 3 layers"),
        ({"layer_types": ["chunked_attention"] * 3}, UnsupportedModelError, "chunked_attention"),
        (
            {
                "architectures": ["MistralForCausalLM"],
                "sliding_window": 16,
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            },
            UnsupportedModelError,
            "one kind of attention",
        ),
        ({"num_key_value_heads": 3}, ConfigError, r"8.*3.*multiple"),
        ({"num_attention_heads": 7}, ConfigError, "no head_dim"),
        ({"head_dim": 7}, ConfigError, "even"),
        ({"hidden_size": None}, ConfigError, "lacks 'hidden_size'"),
        ({"vocab_size": -1}, ConfigError, "vocab_size = -1.*positive"),
        ({"num_hidden_layers": "3"}, ConfigError, "num_hidden_layers = '3'"),
        ({"rms_norm_eps": "small"}, ConfigError, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, ConfigError, "true or false"),
        ({"eos_token_id": "</s>"}, ConfigError, "eos_token_id = '</s>'"),
        ({"eos_token_id": [2, 300]}, ConfigError, r"eos_token_id = \[2, 300\]; ids from 0 to 299"),
        (
            {"rms_norm_eps": 10**400},
            ConfigError,
            r"rms_norm_eps = 1000\d+…; a number not below 0, at most 3\.4e",
        ),
        ({"rms_norm_eps": float("nan")}, ConfigError, "rms_norm_eps = nan; a number not below 0"),
        ({"rope_theta": 10**400}, ConfigError, r"rope_theta = 1000\d+…; a number not below 1, at most 3\.4e"),
        ({"rope_theta": 0}, ConfigError, "rope_theta = 0; a number not below 1"),
        ({"rope_theta": 0.5}, ConfigError, r"rope_theta = 0\.5; a number not below 1"),
        ({"rope_scaling": YARN, "rope_theta": 0}, ConfigError, "rope_theta = 0; a number not below 1"),
        ({"rope_scaling": YARN, "rope_theta": 1}, ConfigError, r"rope_theta = 1\.0; a number above 1"),
        ({"rope_scaling": YARN | {"rope_theta": 1}}, ConfigError, "rope_theta = 1; a number above 1"),
        ({"rope_scaling": YARN | {"factor": 10**400}}, ConfigError, "factor = 1000"),
        (
            {"rope_scaling": {"type": "llama3"} | LLAMA3_SCALING | {"low_freq_factor": 0}},
            ConfigError,
            "low_freq_factor = 0; a number above 0",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_is_not_known_is_refused_with_a_reason(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        llama(**changes)
    assert type(caught.value) is error


def test_a_directory_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config.json"):
        ModelConfig.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config.json"):
        ModelConfig.load(tmp_path)
