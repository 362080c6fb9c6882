"""Random checkpoints of real shapes, drawn on the GPU and streamed to a file: an 8 B model in seconds."""

import json
import math
from pathlib import Path

import torch

from agentlm.model.config import ModelConfig
from agentlm.model.layout import HEAD, tensor_shapes
from agentlm.model.random import Shape, family_config
from agentlm.model.random_tokenizer import write_tokenizer

MODELS = {
    "llama-2-7b": ("llama2", Shape(32, 4096, 11008, 32, 32, 32000, 4096)),
    "llama-3-8b": ("llama3", Shape(32, 4096, 14336, 32, 8, 128256, 8192)),
    "qwen3-8b": ("qwen3", Shape(36, 4096, 12288, 32, 8, 151936, 8192, head_dim=128)),
}
"""Family and dimensions of the published models."""


def checkpoint(name: str, root: Path, spread: float = 3.0) -> Path:
    """The directory of a model's random checkpoint in bfloat16, written if it is not there."""
    directory = root / name
    done = directory / "config.json"
    if done.is_file():
        return directory
    family, shape = MODELS[name]
    config_json = family_config(family, shape, "bfloat16")  # type: ignore[arg-type]
    config = ModelConfig.from_json(config_json)
    directory.mkdir(parents=True, exist_ok=True)
    shapes = tensor_shapes(config)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor, dims in shapes.items():
        end = offset + 2 * math.prod(dims)
        header[tensor] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    generator = torch.Generator("cuda").manual_seed(0)
    with (directory / "model.safetensors").open("wb") as out:
        out.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor, dims in shapes.items():
            if len(dims) == 1:
                values = torch.ones(dims, device="cuda", dtype=torch.bfloat16)
            else:
                scale = spread if tensor == HEAD else 1.0 if "embed" in tensor else 1.5
                values = torch.empty(dims, device="cuda", dtype=torch.bfloat16)
                values.normal_(
                    0, scale / math.sqrt(dims[-1] if "embed" not in tensor else 1), generator=generator
                )
            values.view(torch.uint8).cpu().numpy().tofile(out)
    write_tokenizer(directory, config.vocab, config.context_length)
    (directory / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 256, "eos_token_id": [257]})
    )
    done.write_text(json.dumps(config_json))
    return directory
