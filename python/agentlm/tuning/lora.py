"""LoRA in training: what is added to a model, where it starts, and peft's files. Refuses to know steps and ranks.

LoRA: arXiv:2106.09685. A starts as peft starts it (Kaiming uniform with a = √5, which is ±1/√in), B at zero.
"""

import math
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agentlm.errors import AdapterError
from agentlm.model.adapter import CONFIG_NAME, WEIGHTS_NAME, LoraModule, load_adapter
from agentlm.model.config import ModelConfig
from agentlm.model.weights import TensorRef
from agentlm.ops.dtypes import TORCH_DTYPES
from agentlm.tuning.config import LoraSection, ModelSection
from agentlm.tuning.export import TEMPLATE_NAME, write_json, write_safetensors
from agentlm.tuning.model import TrainableDecoder

_HALVES = {"lora_a": "A", "lora_b": "B"}


def lora_shapes(lora: LoraSection, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the matrices that are added to a model with tensors of these `shapes`."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and module.rpartition(".")[2] in lora.targets:
            found[f"{module}.lora_a"] = (lora.rank, shape[1])
            found[f"{module}.lora_b"] = (shape[0], lora.rank)
    return found


def lora_tensors(
    model: TrainableDecoder, seed: int, adapter: Mapping[str, LoraModule] | None
) -> Iterator[tuple[str, Tensor]]:
    """The added matrices' first values, float32: an adapter's, or new ones that depend on name and seed only."""
    for name, parameter in model.named_parameters():
        module, _, half = name.rpartition(".")
        if half not in _HALVES:
            continue
        if adapter is not None:
            yield name, stored(adapter[module].a if half == "lora_a" else adapter[module].b)
        elif half == "lora_b":
            yield name, torch.zeros(parameter.shape)
        else:
            generator = torch.Generator().manual_seed((seed << 32) ^ zlib.crc32(name.encode()))
            bound = 1 / math.sqrt(parameter.shape[1])
            yield name, torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)


def load_matching(lora: LoraSection, config: ModelConfig) -> Mapping[str, LoraModule]:
    """The adapter that a run goes on from. Raises `AdapterError` if it is not what [lora] describes."""
    assert lora.adapter is not None
    modules = load_adapter(lora.adapter, config)
    ranks = sorted({module.a.shape[0] for module in modules.values()})
    scales = sorted({module.scale for module in modules.values()})
    targets = sorted({name.rpartition(".")[2] for name in modules})
    expected = [lora.alpha / lora.rank]
    if ranks != [lora.rank] or scales != expected or targets != sorted(lora.targets):
        raise AdapterError(
            f"{lora.adapter} has rank {ranks}, scale alpha/rank {scales} and targets {targets}; [lora] says rank "
            f"{lora.rank}, scale {expected} and targets {sorted(lora.targets)}. Make them equal."
        )
    if len(modules) != len(targets) * config.layers:
        raise AdapterError(
            f"{lora.adapter} adapts {len(modules)} linears, not every layer's: merge it, and train on"
        )
    return modules


def write_adapter(
    directory: Path, lora: LoraSection, base: ModelSection, tensors: Mapping[str, Tensor]
) -> None:
    """Writes peft's two files, and the template if it is not the base model's own.

    `tensors` are the added matrices by their parameters' names.
    """
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, half = name.rpartition(".")
        named[f"base_model.model.{module}.lora_{_HALVES[half]}.weight"] = tensor
    write_safetensors(
        directory / WEIGHTS_NAME,
        {name: tuple(tensor.shape) for name, tensor in named.items()},
        named.items(),
        torch.float32,
    )
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.path,
        "revision": base.revision,
        "r": lora.rank,
        # Peft's own files hold an integer, and not every reader takes another number.
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(lora.targets),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
    }
    write_json(directory / CONFIG_NAME, settings)
    if base.chat_template is not None:
        shutil.copyfile(base.chat_template, directory / TEMPLATE_NAME)


def stored(tensor: TensorRef) -> Tensor:
    """A tensor of a file, float32, copied out of it."""
    raw = torch.from_numpy(tensor.bytes().copy())
    return raw.view(TORCH_DTYPES[tensor.dtype]).reshape(tensor.shape).float()
