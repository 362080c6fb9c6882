"""Small random checkpoints of every kind of model that agentlm computes, and what transformers makes of them.

Shared by the tests of every backend: `write` a case, ask `reference` for the truth, compare.
"""

import functools
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agentlm.model.layout import EMBEDDING
from agentlm.model.random import Shape, family_config, write_model

SEEDS = (0, 1, 2)

_GQA = Shape(layers=4, hidden=64, inter=160, heads=8, kv_heads=2, vocab=288, context=256)
_MHA = Shape(layers=4, hidden=64, inter=160, heads=4, kv_heads=4, vocab=288, context=256)
_TIED = Shape(layers=4, hidden=64, inter=160, heads=4, kv_heads=2, vocab=288, context=256, tied=True)
_WIDE_HEADS = Shape(layers=4, hidden=64, inter=160, heads=4, kv_heads=2, vocab=288, context=256, head_dim=32)
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}

CASES: Mapping[str, dict[str, Any]] = {
    "llama2": family_config("llama2", _MHA),
    "llama2-tied": family_config("llama2", _TIED),
    "llama2-biases": family_config("llama2", _GQA) | {"attention_bias": True, "mlp_bias": True},
    "llama2-linear-rope": family_config("llama2", _MHA)
    | {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    "llama3": family_config("llama3", _GQA),
    "mistral": family_config("mistral", _GQA),
    "qwen2": family_config("qwen2", _GQA),
    "qwen2-yarn": family_config("qwen2", _TIED) | {"rope_parameters": _YARN},
    "qwen2-window": family_config("qwen2", _GQA)
    | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    "qwen3": family_config("qwen3", _WIDE_HEADS),
    "qwen3-tied": family_config("qwen3", _TIED),
}
"""config.json of each case; four layers, float32."""

PROMPT_LENGTHS = (1, 13, 40, 90)
"""The longest reach beyond every window and beyond yarn's and llama3's original context."""
NEW_TOKENS = 8


@dataclass(frozen=True)
class Reference:
    """One prompt, continued greedily by transformers in float32."""

    prompt: list[int]
    tokens: list[int]
    """The `NEW_TOKENS` ids chosen; an end-of-sequence id does not end them."""
    gaps: list[float]
    """For each of them the largest logit minus the second largest: how far from a tie it was."""
    logprobs: npt.NDArray[np.float32]
    """Log-probabilities `[len(prompt) + len(tokens), vocab]` of what follows each position."""


def write(directory: Path, case: str, seed: int, dtype: str = "float32") -> Path:
    """Writes a case's checkpoint directory."""
    return write_model(directory, CASES[case] | {"dtype": dtype}, seed=seed)


def poison(directory: Path, *ids: int) -> Path:
    """Makes the embeddings of these ids no numbers: no logit behind one of them is finite. Of a float32 checkpoint."""
    file = directory / "model.safetensors"
    raw = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8:start])[EMBEDDING]
    begin, end = entry["data_offsets"]
    table = np.frombuffer(raw, np.float32, (end - begin) // 4, start + begin).reshape(entry["shape"])
    table[list(ids)] = np.nan
    file.write_bytes(raw)
    return directory


def without_chat_template(model: Path, directory: Path) -> Path:
    """A copy of a model that brings no chat template."""
    shutil.copytree(model, directory)
    file = directory / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    del settings["chat_template"]
    file.write_text(json.dumps(settings), encoding="utf-8")
    return directory


def prompts(seed: int, vocab: int = 288) -> list[list[int]]:
    """One prompt of each length of `PROMPT_LENGTHS`."""
    rng = np.random.default_rng(seed)
    return [[int(token) for token in rng.integers(0, vocab, length)] for length in PROMPT_LENGTHS]


def load_transformers(directory: Path, dtype: str = "float32") -> Any:
    """The checkpoint as transformers' own model, in eager attention."""
    import torch
    from transformers import AutoModelForCausalLM

    # Matrices this small gain nothing from threads, and lose much where other processes use the cores.
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, dtype), attn_implementation="eager"
    ).eval()


@functools.cache
def reference(case: str, seed: int) -> list[Reference]:
    """What transformers computes of a case's `prompts(seed)` with the float32 weights of that seed."""
    with tempfile.TemporaryDirectory() as directory:
        return transformers_reference(write(Path(directory), case, seed), prompts(seed))


def transformers_reference(directory: Path, given: Sequence[list[int]]) -> list[Reference]:
    """What transformers computes of each prompt alone."""
    import torch

    model = load_transformers(directory)
    results = []
    with torch.no_grad():
        for prompt in given:
            ids = torch.tensor([prompt])
            tokens: list[int] = []
            cache = None
            while len(tokens) < NEW_TOKENS:
                out = model(ids, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                tokens.append(int(out.logits[0, -1].argmax()))
                ids = torch.tensor([tokens[-1:]])
            logits = model(torch.tensor([prompt + tokens])).logits[0].float()
            top = logits[len(prompt) - 1 : -1].topk(2).values
            results.append(
                Reference(
                    prompt=prompt,
                    tokens=tokens,
                    gaps=(top[:, 0] - top[:, 1]).tolist(),
                    logprobs=torch.log_softmax(logits, dim=-1).numpy(),
                )
            )
    return results
