"""Writes a model directory that the server loads as it lies: weights in safetensors, config.json, tokenizer.

Tensors come one at a time and go straight to their shard. Refuses to know how they were trained.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agentlm.model.weights import INDEX_NAME
from agentlm.ops.dtypes import TORCH_DTYPES

SHARD_BYTES = 5 << 30
"""Most bytes of a weights file, as transformers writes them."""
NAMES = {torch_dtype: name for name, torch_dtype in TORCH_DTYPES.items()}
CONFIG_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
TEMPLATE_NAME = "chat_template.jinja"
COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", TEMPLATE_NAME, "chat_template.json",
)  # fmt: skip
"""What else a model directory holds, copied as far as it is there."""


def write_weights(
    directory: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes tensors that come in the order of `shapes`, rounded to `dtype`; an index names shards if there are several."""
    coming = iter(tensors)
    shards = list(_shards(shapes, dtype, shard_bytes))
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        single = len(shards) == 1
        file = "model.safetensors" if single else f"model-{number:05}-of-{len(shards):05}.safetensors"
        index.update(dict.fromkeys(names, file))
        own = {name: shapes[name] for name in names}
        write_safetensors(directory / file, own, (next(coming) for _ in names), dtype)
    if len(shards) > 1:
        total = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
        write_json(directory / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": index})


def write_safetensors(
    file: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
) -> None:
    """Writes one safetensors file, a tensor at a time, in the order of `shapes`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for (name, shape), (given, tensor) in zip(shapes.items(), tensors, strict=True):
            if given != name or tuple(tensor.shape) != tuple(shape):
                raise ValueError(
                    f"tensor {given!r} {list(tensor.shape)} came where {name!r} {list(shape)} was due"
                )
            plain = tensor.detach().to("cpu", dtype).contiguous()
            out.write(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        out.flush()
        os.fsync(out.fileno())


def copy_companions(
    base: Path, directory: Path, dtype: torch.dtype, *, tied: bool, template: str | None = None
) -> None:
    """Writes config.json with what the weights have become, and copies tokenizer, template and generation settings."""
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    config["dtype"] = CONFIG_NAMES[dtype]
    config["tie_word_embeddings"] = tied
    write_json(directory / "config.json", config)
    for name in COMPANIONS:
        if (base / name).is_file():
            shutil.copyfile(base / name, directory / name)
    if template is not None:
        shutil.copyfile(template, directory / TEMPLATE_NAME)
        # One template: what the settings name beside it would be another.
        _without_template(directory)


def _without_template(directory: Path) -> None:
    (directory / "chat_template.json").unlink(missing_ok=True)
    file = directory / "tokenizer_config.json"
    if file.is_file():
        settings = json.loads(file.read_text(encoding="utf-8"))
        if settings.pop("chat_template", None) is not None:
            write_json(file, settings)


def _shards(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, most: int) -> Iterator[list[str]]:
    names: list[str] = []
    held = 0
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        if names and held + size > most:
            yield names
            names, held = [], 0
        names.append(name)
        held += size
    if names:
        yield names


def write_json(file: Path, value: Any) -> None:
    """Writes a value as people read JSON, and sees it onto the disk."""
    with file.open("w", encoding="utf-8") as out:
        out.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        out.flush()
        os.fsync(out.fileno())
