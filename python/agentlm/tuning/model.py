"""The decoder as a module that can be trained, sharded and checkpointed. Refuses to know data, optimizers and steps.

It is the server's decoder, run against `PackedOps`; its parameters have the checkpoint's names, so that what is trained
is served as it lies.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from agentlm.model.config import ModelConfig
from agentlm.model.decoder import Decoder
from agentlm.model.layout import EMBEDDING, HEAD, tensor_shapes
from agentlm.model.weights import Checkpoint, TensorRef
from agentlm.ops.differentiable import copied_to, linear_loss
from agentlm.ops.dtypes import TORCH_DTYPES
from agentlm.ops.packed import Activation, PackedContext, PackedOps, Weight, local
from agentlm.tuning.compiled import BACKEND, CompiledLayers

INITIAL_SPREAD = 0.02
"""Standard deviation of a new model's matrices: Llama's `initializer_range`."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward pass computes: packed conversations and the tokens that are trained."""

    context: PackedContext
    rows: Tensor
    """int64 `[trained]`: the tokens after which a trained token comes."""
    targets: Tensor
    """int64 `[trained]`: those trained tokens."""

    @property
    def tokens(self) -> int:
        """Tokens computed."""
        return len(self.context.ids)


class TrainableLayer(nn.Module):
    """One layer: holds its weights, and is the unit of sharding and of activation checkpointing."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self.self_attn = nn.Module()
        self.mlp = nn.Module()
        self.checkpointed = False

    def bind(self, decoder: Decoder, ops: PackedOps, compiled: CompiledLayers | None = None) -> None:
        """Says what the layer computes with."""
        self._decoder, self._ops, self._compiled = decoder, ops, compiled

    def forward(self, residual: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """The residual stream after `x` and attention were added, and what the layer is still to add to it."""
        if self.checkpointed and torch.is_grad_enabled():
            # Nothing random happens in a layer: no generator's state need be kept.
            out: tuple[Tensor, Tensor] = checkpoint(
                self._compute, residual, x, use_reentrant=False, preserve_rng_state=False
            )
            return out
        return self._compute(residual, x)

    def _compute(self, residual: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor]:
        if self._compiled is not None:
            return self._compiled.layer(self._ops, self.index, residual, x)
        stream = Activation((residual,))
        out = self._decoder.layer(self._ops, self.index, stream, None if x is None else Activation((x,)))
        return stream.value, out.value


class TrainableDecoder(nn.Module):
    """A decoder whose parameters are called as in its checkpoint: `model.layers.0.self_attn.q_proj.weight`."""

    def __init__(self, config: ModelConfig) -> None:
        """Allocates the parameters on torch's default device and leaves them as memory happens to be."""
        super().__init__()
        self.config = config
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([TrainableLayer(index) for index in range(config.layers)])
        shapes = tensor_shapes(config)
        for name, shape in shapes.items():
            if not name.endswith(".weight"):
                continue
            path, _, attribute = name.removesuffix(".weight").rpartition(".")
            weight = Weight(shape, biased=f"{name.removesuffix('weight')}bias" in shapes)
            self.get_submodule(path).add_module(attribute, weight)
        self.bind(None)

    @property
    def layers(self) -> list[TrainableLayer]:
        """The layers, in order."""
        return [
            layer
            for layer in self.model.get_submodule("layers").children()
            if isinstance(layer, TrainableLayer)
        ]

    def add_lora(self, targets: Sequence[str], rank: int, scale: float) -> None:
        """Freezes every weight and adds low-rank matrices to the layers' linears of these names."""
        self.requires_grad_(False)
        for layer in self.layers:
            for name, module in layer.named_modules():
                if isinstance(module, Weight) and name.rpartition(".")[2] in targets:
                    module.add_lora(rank, scale)

    def bind(self, group: dist.ProcessGroup | None) -> None:
        """Binds the decoder to the weights; `group` are the ranks that share each tensor out, if any do."""
        weights = {name: module for name, module in self.named_modules() if isinstance(module, Weight)}
        self.ops = PackedOps(self.config, weights, group)
        self.decoder = Decoder.bind(self.config, declared(self.config), self.ops)
        for layer in self.layers:
            layer.bind(self.decoder, self.ops)

    def compile_layers(self, backend: str = BACKEND) -> None:
        """Lets torch compile what layers compute outside of attention, when it is first computed.

        The weights are laid out by then, and each rank holds whole matrices.
        """
        assert self.ops.group is None, "collectives are not compiled"
        one = declared(replace(self.config, layers=1))
        compiled = CompiledLayers(self.config, self.ops.weights, one, backend)
        for layer in self.layers:
            layer.bind(self.decoder, self.ops, compiled)

    def forward(self, batch: Batch, scale: float | Tensor) -> tuple[Tensor, Tensor]:
        """`scale` (one, or one a trained token) times their cross-entropies, added up, and each one's log-probability.

        The way back must be gone before the next call: the step's context is held by the operations.
        """
        hidden = self.hidden(batch.context)
        head = self.get_submodule((EMBEDDING if self.config.tied else HEAD).removesuffix(".weight"))
        assert isinstance(head, Weight)
        return linear_loss(hidden, local(head.weight), batch.rows, batch.targets, scale, self.ops.group)

    def hidden(self, context: PackedContext) -> Tensor:
        """What the head reads: `[tokens, hidden]`."""
        self.ops.begin(context)
        residual = self.ops.embed(self.decoder.embedding).value
        x: Tensor | None = None
        for layer in self.layers:
            residual, x = layer(residual, x)
        last = None if x is None else Activation((x,))
        normed = self.decoder.last_norm(self.ops, Activation((residual,)), last)
        # Each rank's share of the head gives a part of the gradient.
        return copied_to(normed.value, self.ops.group)


def declared(config: ModelConfig) -> Checkpoint:
    """A configuration's tensors by name and shape, without bytes: what a decoder is bound by before weights are there."""
    nothing = np.empty(0, dtype=np.uint8)
    return Checkpoint(
        Path("(to be trained)"),
        {
            name: TensorRef(name, "F32", shape, 0, 4 * math.prod(shape), Path("(to be trained)"), nothing)
            for name, shape in tensor_shapes(config).items()
        },
    )


def stored_tensors(config: ModelConfig, checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a checkpoint, in its own type, copied out of the file as it is asked for."""
    for name, shape in tensor_shapes(config).items():
        tensor = checkpoint.tensor(name, shape)
        # The copy is aligned; the map need not be.
        yield name, torch.from_numpy(tensor.bytes().copy()).view(TORCH_DTYPES[tensor.dtype]).reshape(shape)


def random_tensors(config: ModelConfig, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a new model, float32: a function of its name and the seed only.

    Matrices are normal with `INITIAL_SPREAD`, those that write to the residual stream narrower by the square root of
    twice the layers (GPT-2's rule), norms 1 and biases 0.
    """
    for name, shape in tensor_shapes(config).items():
        if len(shape) == 1:
            yield name, torch.full(shape, 0.0 if name.endswith(".bias") else 1.0)
            continue
        spread = INITIAL_SPREAD
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            spread /= math.sqrt(2 * config.layers)
        generator = torch.Generator().manual_seed((seed << 32) ^ zlib.crc32(name.encode()))
        yield name, torch.empty(shape).normal_(0.0, spread, generator=generator)
