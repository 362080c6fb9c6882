"""What a run leaves: a model's directory or an adapter's, there when it is whole and not before.

All ranks come here together, for each holds a part of the weights; the first one writes. Refuses to know steps.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from agentlm.errors import AgentLMError
from agentlm.model.config import ModelConfig
from agentlm.model.layout import tensor_shapes
from agentlm.tuning.checkpoint import TuneError
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.export import CONFIG_NAMES, copy_companions, write_weights
from agentlm.tuning.lora import write_adapter
from agentlm.tuning.merge import merge
from agentlm.tuning.model import TrainableDecoder
from agentlm.tuning.parallel import Ranks, whole


def write_result(
    model: TrainableDecoder, config: TuneConfig, base: Path, stored: ModelConfig, ranks: Ranks, place: Path
) -> None:
    """Writes the model, or under [lora] the adapter, to `place`. Raises `TuneError` if there is no room for it."""
    if config.lora is None:
        write_model(model, config, base, stored, ranks, place)
        return
    lora = config.lora
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def write(directory: Path, tensors: Iterator[tuple[str, Tensor]]) -> None:
        write_adapter(directory, lora, config.model, dict(tensors))

    _written(place, ((name, whole(p)) for name, p in trained.items()), write, ranks)


def write_model(
    model: TrainableDecoder, config: TuneConfig, base: Path, stored: ModelConfig, ranks: Ranks, place: Path
) -> None:
    """Writes a whole model to `place`, low-rank additions merged into it, in the base model's own type."""
    if config.lora is not None:
        adapter = place.with_name(f"{place.name}.adapter")
        write_result(model, config, base, stored, ranks, adapter)

        def add(directory: Path, _: Iterator[tuple[str, Tensor]]) -> None:
            directory.rmdir()
            merge(base, adapter, directory)
            shutil.rmtree(adapter)

        _written(place, iter(()), add, ranks)
        return
    parameters = dict(model.named_parameters())
    shapes = tensor_shapes(stored)
    dtype = stored_dtype(config, stored)

    def write(directory: Path, tensors: Iterator[tuple[str, Tensor]]) -> None:
        write_weights(directory, shapes, tensors, dtype)
        template = config.model.chat_template
        copy_companions(base, directory, dtype, tied=stored.tied, template=template)

    _written(place, ((name, whole(parameters[name])) for name in shapes), write, ranks)


def stored_dtype(config: TuneConfig, stored: ModelConfig) -> torch.dtype:
    """What the base model is stored in, or was meant to be by its config.json."""
    named = {name: dtype for dtype, name in CONFIG_NAMES.items()}
    return named.get(stored.dtype or "", named[config.training.dtype])


def _written(
    place: Path,
    tensors: Iterator[tuple[str, Tensor]],
    write: Callable[[Path, Iterator[tuple[str, Tensor]]], None],
    ranks: Ranks,
) -> None:
    """Has the first rank write a directory beside its place and rename it; the others ask for the tensors with it."""
    beside = place.with_name(f".{place.name}")
    failed: Exception | None = None
    if ranks.first:
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            write(beside, tensors)
            shutil.rmtree(place, ignore_errors=True)
            beside.rename(place)
        except (OSError, AgentLMError) as error:
            failed = error
            shutil.rmtree(beside, ignore_errors=True)
    # A whole tensor takes every rank: one that has failed still gives its part.
    for _ in tensors:
        pass
    if ranks.any(failed is not None):
        raise TuneError(f"{place} could not be written: {failed or 'see the first rank'}") from failed
