"""The operations in plain torch: the yardstick for other devices, and differentiable. Refuses to know speed.

Dtypes follow transformers: norms and the softmax are computed in float32, everything else in the dtype given.
Gradients reach `ReferenceOps.parameters`, which holds each tensor under its checkpoint name, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from agentlm.model import rope
from agentlm.model.config import ModelConfig
from agentlm.model.weights import TensorRef
from agentlm.ops.dtypes import TORCH_DTYPES
from agentlm.ops.protocol import AttentionSpec, Linear, Table, Vector


@dataclass(slots=True)
class Activation:
    """An activation that can be replaced in place, so that autograd sees no tensor overwritten."""

    value: Tensor


@dataclass(slots=True)
class KvCache:
    """Keys (rotated) and values of one sequence: per layer `[computed positions, kv_heads, head_dim]`."""

    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    @property
    def computed(self) -> int:
        """Positions cached."""
        return self.keys[0].shape[0] if self.keys else 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds positions to a layer and returns all of its keys and values."""
        if layer in self.keys:
            keys = torch.cat((self.keys[layer], keys))
            values = torch.cat((self.values[layer], values))
        self.keys[layer], self.values[layer] = keys, values
        return keys, values


@dataclass(slots=True)
class Chunk:
    """What a step computes of one sequence: the tokens that follow those in its cache."""

    ids: Sequence[int]
    cache: KvCache = field(default_factory=KvCache)
    sample: Literal["none", "last", "all"] = "last"
    """Which of the chunk's positions want logits."""


class ReferenceOps:
    """`Ops[Activation]` in torch. A step is set with `begin`, then a decoder's `forward` is run."""

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        self.dtype = dtype
        self.device = torch.device(device)
        self.specs: tuple[AttentionSpec, ...] = config.attention
        cos, sin = rope.tables(config.rope, config.head_dim, config.context_length)
        self.cos = torch.from_numpy(cos).to(self.device, dtype)
        self.sin = torch.from_numpy(sin).to(self.device, dtype)
        self.parameters: dict[str, Tensor] = {}
        self._linears: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        self._names: list[str] = []
        self._chunks: list[Chunk] = []
        self._computed: list[int] = []

    def begin(self, chunks: Sequence[Chunk]) -> None:
        """Sets the step: its tokens are the chunks' ids, one chunk after the other. The caches grow as it is computed."""
        self._chunks = list(chunks)
        self._computed = [chunk.cache.computed for chunk in chunks]

    def bind_linear(self, weights: Sequence[TensorRef], biases: Sequence[TensorRef] | None) -> Linear:
        """See `Ops`."""
        self._linears.append((tuple(map(self._bind, weights)), tuple(map(self._bind, biases or ()))))
        return Linear(len(self._linears) - 1)

    def bind_vector(self, weight: TensorRef) -> Vector:
        """See `Ops`."""
        self._names.append(self._bind(weight))
        return Vector(len(self._names) - 1)

    def bind_table(self, weight: TensorRef) -> Table:
        """See `Ops`."""
        self._names.append(self._bind(weight))
        return Table(len(self._names) - 1)

    def embed(self, table: Table) -> Activation:
        """See `Ops`."""
        ids = torch.tensor([token for chunk in self._chunks for token in chunk.ids], device=self.device)
        return Activation(F.embedding(ids, self.parameters[self._names[table]]))

    def rms_norm(self, x: Activation, weight: Vector, eps: float) -> Activation:
        """See `Ops`."""
        return Activation(self._norm(x.value, weight, eps))

    def add_rms_norm(self, residual: Activation, x: Activation, weight: Vector, eps: float) -> Activation:
        """See `Ops`."""
        residual.value = residual.value + x.value
        return Activation(self._norm(residual.value, weight, eps))

    def linear(self, x: Activation, linear: Linear) -> Activation:
        """See `Ops`."""
        weights, biases = self._linears[linear]
        parts = [
            F.linear(x.value, self.parameters[weight], self.parameters[biases[i]] if biases else None)
            for i, weight in enumerate(weights)
        ]
        return Activation(torch.cat(parts, dim=-1))

    def attention(
        self, qkv: Activation, layer: int, q_norm: Vector | None, k_norm: Vector | None, eps: float
    ) -> Activation:
        """See `Ops`."""
        spec = self.specs[layer]
        heads = qkv.value.view(-1, spec.heads + 2 * spec.kv_heads, spec.head_dim)
        q, k, v = torch.split(heads, [spec.heads, spec.kv_heads, spec.kv_heads], dim=1)
        q = q if q_norm is None else self._norm(q, q_norm, eps)
        k = k if k_norm is None else self._norm(k, k_norm, eps)
        outputs: list[Tensor] = []
        start = 0
        for chunk, computed in zip(self._chunks, self._computed, strict=True):
            tokens = slice(start, start + len(chunk.ids))
            positions = torch.arange(computed, computed + len(chunk.ids), device=self.device)
            keys, values = chunk.cache.append(layer, self._rotate(k[tokens], positions), v[tokens])
            outputs.append(_attend(self._rotate(q[tokens], positions), keys, values, positions, spec))
            start = tokens.stop
        return Activation(torch.cat(outputs).flatten(1))

    def swiglu(self, gate_up: Activation) -> Activation:
        """See `Ops`."""
        gate, up = gate_up.value.chunk(2, dim=-1)
        return Activation(F.silu(gate) * up)

    def sample_rows(self, x: Activation) -> Activation:
        """See `Ops`."""
        rows: list[int] = []
        start = 0
        for chunk in self._chunks:
            end = start + len(chunk.ids)
            rows.extend(
                {"none": range(0), "last": range(end - 1, end), "all": range(start, end)}[chunk.sample]
            )
            start = end
        return Activation(x.value[torch.tensor(rows, dtype=torch.long, device=self.device)])

    def _bind(self, tensor: TensorRef) -> str:
        """Copies a tensor in under its name, once."""
        if tensor.name not in self.parameters:
            # The copy is aligned; the map need not be.
            raw = torch.from_numpy(tensor.bytes().copy())
            typed = raw.view(TORCH_DTYPES[tensor.dtype]).reshape(tensor.shape)
            self.parameters[tensor.name] = typed.to(self.device, self.dtype)
        return tensor.name

    def _norm(self, x: Tensor, weight: Vector, eps: float) -> Tensor:
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        return self.parameters[self._names[weight]] * wide.to(x.dtype)

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotates each head's first half against its second: `x` is `[tokens, heads, head_dim]`."""
        cos, sin = self.cos[positions, None], self.sin[positions, None]
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _attend(q: Tensor, keys: Tensor, values: Tensor, positions: Tensor, spec: AttentionSpec) -> Tensor:
    """Attention of one sequence's queries, at `positions`, over its keys, at 0, 1, ...: `[tokens, heads, head_dim]`."""
    group = spec.heads // spec.kv_heads
    keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
    scores = torch.einsum("qhd,khd->hqk", q, keys) * spec.scale
    distance = positions[:, None] - torch.arange(keys.shape[0], device=keys.device)
    seen = distance >= 0 if spec.window is None else (distance >= 0) & (distance < spec.window)
    weights = F.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.einsum("hqk,khd->qhd", weights, values)
