"""A layer's arithmetic, compiled by torch: what comes before attention and what follows it, each once for all layers.

Attention itself stays as it is. How a pack's conversations are grouped for it differs from pack to pack, and each grouping
would be a program of its own; the rest depends on the number of tokens only, which the programs leave open. Refuses to
know data, optimizers and steps.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from agentlm.errors import ConfigError
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import Decoder
from agentlm.model.weights import Checkpoint
from agentlm.ops.packed import Activation, PackedOps, Weight
from agentlm.ops.protocol import Linear, Vector

BACKEND = "inductor"


def check_compiler(device: torch.device) -> None:
    """Raises `ConfigError` if there is no compiler for what torch writes: C++ for a CPU, C beside Triton for a GPU."""
    from torch._inductor.config import cpp

    wanted = ("gcc", "clang") if device.type == "cuda" else tuple(name for name in cpp.cxx if name)
    if not any(shutil.which(name) for name in wanted):
        kind = "C" if device.type == "cuda" else "C++"
        raise ConfigError(
            f"`training.compile` = true needs a {kind} compiler, and none of {', '.join(wanted)} is on PATH: install one, "
            "or leave `training.compile` out (the results are the same)"
        )


class CompiledLayers:
    """The layers of one model, computed by compiled programs."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Weight], tensors: Checkpoint, backend: str
    ) -> None:
        """`weights` are the model's by tensor name without `.weight`; `tensors` those of a model of one layer."""
        # One layer's handles are every layer's, so that one program serves them all.
        one = replace(config, layers=1)
        self._ops: list[PackedOps] = []
        for index in range(config.layers):
            named = {
                name.replace(f"model.layers.{index}.", "model.layers.0."): weight
                for name, weight in weights.items()
                if not name.startswith("model.layers.") or name.startswith(f"model.layers.{index}.")
            }
            self._ops.append(PackedOps(one, named))
            self._decoder = Decoder.bind(one, tensors, self._ops[-1])
        self._before, self._after = _programs(backend)

    def layer(self, step: PackedOps, index: int, residual: Tensor, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """What `Decoder.layer` computes of the step that was set for the model's operations."""
        assert step.turns is not None, "a layer belongs to a step"
        ops, turns = self._ops[index], step.turns
        before, after = self._before, self._after
        if len(residual) < 2:
            # A program for any number of tokens is one for two and more.
            before, after = _before_attention, _after_attention
        residual, q, k, v = before(self._decoder, ops, _open(residual), _open(x), *map(_open, turns))
        out = step.attend(q, k, v, index)
        return after(self._decoder, ops, _open(residual), _open(out))  # type: ignore[no-any-return]


def _open(x: Any) -> Any:
    """The tensor, whose first dimension a program is to leave open."""
    if x is not None:
        torch._dynamo.maybe_mark_dynamic(x, 0)
    return x


@cache
def _programs(backend: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two halves, compiled when they are first called. More than a few variants of one are an error, not a slow run."""
    return (
        torch.compile(_before_attention, fullgraph=True, backend=backend),
        torch.compile(_after_attention, fullgraph=True, backend=backend),
    )


def _before_attention(
    decoder: Decoder, ops: PackedOps, residual: Tensor, x: Tensor | None, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stream = Activation((residual,))
    # Of the protocol's operations those that a layer uses.
    half: Any = _Half(ops, (cos, sin), None)
    decoder.layer(half, 0, stream, None if x is None else Activation((x,)))
    q, k, v = half.heads
    return stream.value, q, k, v


def _after_attention(
    decoder: Decoder, ops: PackedOps, residual: Tensor, out: Tensor
) -> tuple[Tensor, Tensor]:
    stream = Activation((residual,))
    half: Any = _Half(ops, None, out)
    added: Activation = decoder.layer(half, 0, stream, Activation(()))
    return stream.value, added.value


class _Half:
    """A layer's operations up to attention, or from there: what has no parts is passed on as it is."""

    def __init__(self, ops: PackedOps, turns: tuple[Tensor, Tensor] | None, out: Tensor | None) -> None:
        """`turns` for the first half, attention's result `out` for the second."""
        self.ops, self.turns, self.out = ops, turns, out
        self.heads: tuple[Tensor, ...] = ()

    def rms_norm(self, x: Activation, weight: Vector, eps: float) -> Activation:
        return self.ops.rms_norm(x, weight, eps)

    def add_rms_norm(self, residual: Activation, x: Activation, weight: Vector, eps: float) -> Activation:
        return self.ops.add_rms_norm(residual, x, weight, eps) if x.parts else x

    def linear(self, x: Activation, linear: Linear) -> Activation:
        return self.ops.linear(x, linear) if x.parts else x

    def swiglu(self, gate_up: Activation) -> Activation:
        return self.ops.swiglu(gate_up) if gate_up.parts else gate_up

    def attention(
        self, qkv: Activation, layer: int, q_norm: Vector | None, k_norm: Vector | None, eps: float
    ) -> Activation:
        if self.out is not None:
            return Activation((self.out,))
        assert self.turns is not None
        head_dim = self.ops.specs[layer].head_dim
        q, k, v = (part.view(len(part), -1, head_dim) for part in qkv.parts)
        q = q if q_norm is None else self.ops.rms_norm(Activation((q,)), q_norm, eps).value
        k = k if k_norm is None else self.ops.rms_norm(Activation((k,)), k_norm, eps).value
        self.heads = (_rotated(q, *self.turns), _rotated(k, *self.turns), v)
        return Activation(())


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """See `differentiable.rotated`, whose writing into halves torch does not compile; compiled, this is one pass, too."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
