"""Random checkpoints: complete model directories without a download, for trials, tests and benchmarks.

Refuses to know torch: tensors are drawn, rounded and written one after the other with numpy, so that memory stays
small. The same arguments give the same bytes.

    python -m agentlm.model.random 1.1b DIRECTORY --dtype bfloat16
"""

import argparse
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from agentlm.model.config import ModelConfig
from agentlm.model.layout import EMBEDDING, FINAL_NORM, HEAD, tensor_shapes
from agentlm.model.random_tokenizer import BOS_ID, EOS_ID, write_tokenizer

Family = Literal["llama2", "llama3", "mistral", "qwen2", "qwen3"]
Dtype = Literal["float32", "float16", "bfloat16"]

_SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_CHUNK = 1 << 22
"""Elements drawn at a time."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of a model."""

    layers: int
    hidden: int
    inter: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    head_dim: int | None = None
    tied: bool = False


SHAPES: Mapping[str, Shape] = {
    "small": Shape(layers=4, hidden=128, inter=352, heads=4, kv_heads=2, vocab=512, context=1024),
    "15m": Shape(layers=6, hidden=288, inter=768, heads=6, kv_heads=6, vocab=32000, context=2048, tied=True),
    "110m": Shape(layers=12, hidden=768, inter=2048, heads=12, kv_heads=12, vocab=32000, context=2048),
    "1.1b": Shape(layers=22, hidden=2048, inter=5632, heads=32, kv_heads=4, vocab=32000, context=2048),
}
"""Named shapes. 15m, 110m and 1.1b read so many weights a decode step; the last is TinyLlama's."""


def family_config(family: Family, shape: Shape, dtype: Dtype = "float32") -> dict[str, Any]:
    """The config.json of a model of this family, as transformers 5 spells it."""
    architecture = {
        "llama2": "LlamaForCausalLM",
        "llama3": "LlamaForCausalLM",
        "mistral": "MistralForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
    }[family]
    config: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inter,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim or shape.hidden // shape.heads,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": shape.tied,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "dtype": dtype,
    }
    if family == "llama3":
        config["rope_parameters"] = {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": max(shape.context // 8, 16),
        }
    elif family == "mistral":
        config["sliding_window"] = max(shape.context // 8, 16)
    elif family == "qwen2":
        config["use_sliding_window"] = False
        config["rope_parameters"]["rope_theta"] = 1000000.0
    elif family == "qwen3":
        config["use_sliding_window"] = False
        config["attention_bias"] = False
        config["rope_parameters"]["rope_theta"] = 1000000.0
    return config


def write_model(
    directory: str | Path, config_json: Mapping[str, Any], *, seed: int = 0, spread: float = 3.0
) -> Path:
    """Writes a whole model directory: config in both spellings, generation config, weights of its dtype, tokenizer.

    `spread` is about the standard deviation of the logits. Raises `ConfigError` if the configuration is not one that
    agentlm computes.
    """
    directory = Path(directory)
    config = ModelConfig.from_json(config_json)
    directory.mkdir(parents=True, exist_ok=True)
    write_weights(directory / "model.safetensors", config, seed=seed, spread=spread)
    write_tokenizer(directory, config.vocab, config.context_length)
    generation = {"bos_token_id": config.bos_token_id, "eos_token_id": list(config.eos_token_ids)}
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2), encoding="utf-8")
    (directory / "config.json").write_text(
        json.dumps(both_spellings(config_json), indent=2), encoding="utf-8"
    )
    return directory


def both_spellings(config_json: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of transformers 5 with what transformers 4 reads in the place of `rope_parameters`.

    That one knows no such key, and would compute another model without a word.
    """
    spelled = dict(config_json)
    if rope := dict(spelled.get("rope_parameters") or {}):
        theta = rope.pop("rope_theta", None)
        if theta is not None:
            spelled["rope_theta"] = theta
        if rope.get("rope_type", "default") != "default":
            spelled["rope_scaling"] = rope
    return spelled


def write_weights(file: Path, config: ModelConfig, *, seed: int, spread: float) -> None:
    """Writes the tensors of a configuration as one safetensors file, of the configuration's dtype (float32 if none)."""
    dtype = config.dtype or "float32"
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensor_shapes(config).items():
        nbytes = math.prod(shape) * (4 if dtype == "float32" else 2)
        header[name] = {
            "dtype": _SAFETENSORS_DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, offset + nbytes],
        }
        offset += nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as out:
        out.write(len(encoded).to_bytes(8, "little"))
        out.write(encoded)
        for index, (name, shape) in enumerate(tensor_shapes(config).items()):
            for values in _draw(name, shape, config, np.random.default_rng((seed, index)), spread):
                out.write(_rounded(values, dtype).tobytes())


def _draw(
    name: str, shape: tuple[int, ...], config: ModelConfig, rng: np.random.Generator, spread: float
) -> Iterator[npt.NDArray[np.float32]]:
    """One tensor's elements in pieces, scaled so that activations stay near 1 and attention is neither flat nor sharp."""
    part = name.split(".")[-2]
    if part.endswith("norm"):
        gain = 1.4 if part in ("q_norm", "k_norm") else 1.0
        values = gain * rng.uniform(0.5, 1.5, shape).astype(np.float32)
        if name == FINAL_NORM and config.tied:
            # Without random signs a tied head would favour the token just read.
            values *= rng.choice(np.array([-1, 1], dtype=np.float32), shape)
        yield values
        return
    fan_in = 1.0 / math.sqrt(shape[-1])
    if name.endswith(".bias"):
        scale = 0.5 if part in ("q_proj", "k_proj", "v_proj") else 0.1
    elif name == HEAD or (name == EMBEDDING and config.tied):
        scale = spread / math.sqrt(config.hidden)
    elif name == EMBEDDING:
        scale = 1.0
    else:
        scale = fan_in * {"q_proj": 1.5, "k_proj": 1.5, "v_proj": 2.0, "gate_proj": 1.5}.get(part, 1.0)
    left = math.prod(shape)
    while left > 0:
        piece = rng.standard_normal(min(left, _CHUNK), dtype=np.float32)
        piece *= np.float32(scale)
        yield piece
        left -= len(piece)


def _rounded(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """The values in a checkpoint's type, rounded to nearest even; bfloat16 as its bits."""
    if dtype != "bfloat16":
        return values.astype(dtype)
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def main() -> None:
    """The command line: writes one named shape."""
    parser = argparse.ArgumentParser(prog="python -m agentlm.model.random", description=main.__doc__)
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--family", choices=get_args(Family), default="llama2")
    parser.add_argument("--dtype", choices=get_args(Dtype), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spread", type=float, default=3.0, help="standard deviation of the logits, about")
    given = parser.parse_args()
    config = family_config(given.family, SHAPES[given.shape], given.dtype)
    print(os.fspath(write_model(given.directory, config, seed=given.seed, spread=given.spread)))


if __name__ == "__main__":
    main()
