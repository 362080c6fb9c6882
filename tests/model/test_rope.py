"""Rotary embedding against transformers' own, for every kind and over long contexts."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from agentlm.model import rope
from agentlm.model.config import ModelConfig
from agentlm.model.random import both_spellings

KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "default-qwen": {"rope_type": "default", "rope_theta": 1000000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn-mscale": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "mscale": 0.707,
        "mscale_all_dim": 0.5,
        "truncate": False,
    },
    "yarn-attention-factor": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 16384,
        "attention_factor": 1.25,
    },
}
POSITIONS = 32768


@pytest.mark.parametrize("head_dim", [16, 64, 96, 128])
@pytest.mark.parametrize("kind", KINDS)
def test_tables_equal_transformers(kind: str, head_dim: int) -> None:
    config = LlamaConfig(
        hidden_size=head_dim * 2,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=POSITIONS,
        **both_spellings({"rope_parameters": dict(KINDS[kind])}),
    )
    theirs = LlamaRotaryEmbedding(config)
    ours = ModelConfig.from_json(config.to_dict() | {"architectures": ["LlamaForCausalLM"]}).rope
    frequencies, scale = rope.inverse_frequencies(ours, head_dim)
    assert scale == theirs.attention_scaling
    # Two libraries' float32 powers may differ in the last bit, which llama3's and yarn's sums carry on.
    np.testing.assert_allclose(frequencies, theirs.inv_freq.numpy(), rtol=2.5e-7)
    cos, sin = rope.tables(ours, head_dim, POSITIONS)
    assert cos.shape == sin.shape == (POSITIONS, head_dim // 2)
    assert cos.dtype == sin.dtype == np.float32
    # In those pairs the angle differs by as much of itself; in all others by nothing.
    same = frequencies == theirs.inv_freq.numpy()
    assert same.mean() > 0.9
    theirs_cos, theirs_sin = theirs(torch.zeros(1), torch.arange(POSITIONS)[None])
    for table, other in ((cos, theirs_cos), (sin, theirs_sin)):
        other_half = other[0, :, : head_dim // 2].numpy()
        np.testing.assert_allclose(table[:, same], other_half[:, same], atol=2.5e-7)
        np.testing.assert_allclose(table, other_half, atol=2.5e-7 * POSITIONS)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("default", 1000), ("linear", 4000), ("dynamic", 1000), ("llama3", 1000), ("yarn", 32768)],
)
def test_context_length_follows_the_kind(kind: str, expected: int) -> None:
    given = {"architectures": ["LlamaForCausalLM"], "rope_parameters": KINDS[kind]}
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 300,
        "max_position_embeddings": 1000,
    }
    assert ModelConfig.from_json(given | sizes).context_length == expected
