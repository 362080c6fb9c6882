"""A checkpoint's or an adapter's JSON is read, or refused by an error of ours: engines read such files as they serve."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from agentlm.errors import AdapterError, AgentLMError, CheckpointError, ConfigError
from agentlm.model.adapter import load_adapter
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import checked
from agentlm.model.weights import Checkpoint
from tests.engine.adapters import write_adapter
from tests.model.small import make_small

NESTED: list[Any] = []
for _ in range(100_000):
    NESTED = [NESTED]
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**40, 2**70, 1e308, float("nan"), "", "x", "(", [], [1], ["("], [[1]], {}, {"(": 1},
    {"q_proj": "x"}, {"x": {"y": 1}}, {"*": 3}, {"rope_type": "yarn", "factor": 2}, {"rope_type": "linear", "factor": "x"},
    {"type": 5}, ["full_attention"], ["F32"], [2**63, 2**64], [-1, 2], [1.5, 2],
    10**400, 1e-320, {"quant_method": "gptq", "bits": 4, "group_size": 10**400},
    {"rope_type": "llama3", "factor": 2, "low_freq_factor": 0, "high_freq_factor": 4},
    {"rope_type": "yarn", "factor": 2, "rope_theta": 1}, {"rope_type": "yarn", "factor": 10**400},
]  # fmt: skip
EXTRA_CONFIG_KEYS = (
    "attention_bias", "head_dim", "hidden_act", "layer_types", "max_window_layers", "mlp_bias", "num_experts",
    "partial_rotary_factor", "quantization_config", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window",
    "use_sliding_window",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_small(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("adapter") / "one"
    write_adapter(base, directory, 1)
    return directory


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_any_value_in_a_model_s_configuration(base, architecture) -> None:
    checkpoint = Checkpoint.open(base)
    whole = json.loads((base / "config.json").read_bytes()) | {"architectures": [architecture]}
    refused = 0
    for key in sorted({*whole, *EXTRA_CONFIG_KEYS}):
        for value in (*VALUES, NESTED, [NESTED]):
            changed = whole | {"use_sliding_window": True, "sliding_window": 64, key: value}
            try:
                checked(ModelConfig.from_json(changed), checkpoint)
            except AgentLMError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("key", ["end", "settings"])
def test_a_model_s_configuration_that_cannot_be_read_is_told(base, tmp_path, key) -> None:
    name = {"end": "generation_config.json", "settings": "config.json"}[key]
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"{name} cannot be read"):
        ModelConfig.load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_configuration_nested_without_end_is_told(base, tmp_path, name) -> None:
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    (tmp_path / name).write_text('{"eos_token_id": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ConfigError, match=rf"{name} is not valid JSON"):
        ModelConfig.load(tmp_path)


def test_any_value_in_an_adapter_s_settings(base, adapter, tmp_path) -> None:
    config = ModelConfig.load(base)
    whole = json.loads((adapter / "adapter_config.json").read_bytes())
    (tmp_path / "adapter_model.safetensors").symlink_to(adapter / "adapter_model.safetensors")
    refused = 0
    for key in sorted({*whole, "alpha_pattern", "rank_pattern", "use_rslora", "modules_to_save"}):
        for value in VALUES:
            (tmp_path / "adapter_config.json").write_text(json.dumps(whole | {key: value}))
            try:
                load_adapter(tmp_path, config)
            except AdapterError:
                refused += 1
    assert refused > 50


def test_a_pattern_that_is_none_is_told(base, adapter, tmp_path) -> None:
    whole = json.loads((adapter / "adapter_config.json").read_bytes())
    (tmp_path / "adapter_model.safetensors").symlink_to(adapter / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(whole | {"alpha_pattern": {"(": 8}}))
    with pytest.raises(
        AdapterError, match=r"'alpha_pattern' to \{'\(': 8\}; it must map regular expressions"
    ):
        load_adapter(tmp_path, ModelConfig.load(base))


def test_any_value_in_a_header_of_weights(adapter, tmp_path) -> None:
    data = (adapter / "adapter_model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    name = next(name for name in header if name != "__metadata__")
    file = tmp_path / "model.safetensors"

    def opened(changed: Any) -> bool:
        text = json.dumps(changed).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + body)
        try:
            Checkpoint.open(tmp_path)
        except CheckpointError:
            return False
        return True

    assert opened(header)
    for value in VALUES:
        assert not opened(header | {name: value})
        for field in ("shape", "data_offsets"):
            assert not opened(header | {name: header[name] | {field: value}})
        # A type that is not known is refused when the tensor is wanted.
        opened(header | {name: header[name] | {"dtype": value}})


def test_weights_that_cannot_be_read_are_told(tmp_path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        Checkpoint.open(tmp_path)
