"""Adds a LoRA adapter to its model, tensor by tensor, on the CPU: memory holds one matrix at a time.

Refuses to know training.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from agentlm.errors import ConfigError
from agentlm.model.adapter import LoraModule, load_adapter
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import checked
from agentlm.model.layout import tensor_shapes
from agentlm.model.weights import Checkpoint
from agentlm.ops.dtypes import TORCH_DTYPES
from agentlm.tuning.export import SHARD_BYTES, TEMPLATE_NAME, copy_companions, write_weights
from agentlm.tuning.lora import stored
from agentlm.tuning.model import stored_tensors


def merge(
    base: Path,
    adapter: Path,
    output: Path,
    *,
    progress: Callable[[int, int, str], None] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes the model `base` with `adapter` added to it to `output`, whole or not at all, in the base's own type.

    The sum is made in float32 and rounded once. `progress(tensors done, tensors in all, name)` is called after each.
    Raises `ConfigError` if `output` is there, `AdapterError` if the adapter is not one of this model's.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} is there and not empty: choose another output")
    checkpoint = Checkpoint.open(base)
    config = checked(ModelConfig.load(base), checkpoint)
    modules = load_adapter(adapter, config)
    shapes = tensor_shapes(config)
    dtype = TORCH_DTYPES[checkpoint.tensor(next(iter(shapes))).dtype]
    beside = output.with_name(f".{output.name}.merging")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        tensors = _merged(config, checkpoint, modules, progress)
        write_weights(beside, shapes, tensors, dtype, shard_bytes=shard_bytes)
        # What the adapter was trained under is the merged model's.
        template = adapter / TEMPLATE_NAME
        copy_companions(
            base, beside, dtype, tied=config.tied, template=str(template) if template.is_file() else None
        )
        if output.is_dir():
            output.rmdir()
        beside.rename(output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return output


def _merged(
    config: ModelConfig,
    checkpoint: Checkpoint,
    modules: dict[str, LoraModule],
    progress: Callable[[int, int, str], None] | None,
) -> Iterator[tuple[str, Tensor]]:
    total = len(tensor_shapes(config))
    for done, (name, tensor) in enumerate(stored_tensors(config, checkpoint), 1):
        module = modules.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if module is not None:
            tensor = torch.addmm(tensor.float(), stored(module.b), stored(module.a), alpha=module.scale)
        yield name, tensor
        if progress is not None:
            progress(done, total, name)
