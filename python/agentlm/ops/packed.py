"""The operations of training: differentiable, over a packed context, whose conversations never see each other.

Weights are modules that hold parameters under their checkpoint names. With a tensor-parallel group each rank holds its
share of the heads, of the feed-forward's width and of the vocabulary, and the residual stream is whole on every rank.
Refuses to know losses, optimizers and files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from agentlm.model import rope
from agentlm.model.config import ModelConfig
from agentlm.model.weights import TensorRef
from agentlm.ops.differentiable import (
    copied_to,
    from_slots,
    linears,
    rms_norm,
    rotated,
    summed_over,
    swiglu,
    to_slots,
)
from agentlm.ops.protocol import AttentionSpec, Linear, Table, Vector

PADDING = 1.25
"""How much longer than its shortest conversation the longest of a group may be: what padding may cost attention."""


class Weight(nn.Module):
    """A matrix or vector, perhaps with a bias and low-rank additions. Computes nothing itself."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    lora_a: nn.Parameter | None
    lora_b: nn.Parameter | None

    def __init__(self, shape: tuple[int, ...], *, biased: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.register_parameter("bias", nn.Parameter(torch.empty(shape[0])) if biased else None)
        self.register_parameter("lora_a", None)
        self.register_parameter("lora_b", None)
        self.lora_scale = 0.0

    def add_lora(self, rank: int, scale: float) -> None:
        """Adds `scale * B A` to the matrix: A is `[rank, in]`, B `[out, rank]`."""
        out, into = self.weight.shape
        self.lora_a = nn.Parameter(torch.empty(rank, into, device=self.weight.device))
        self.lora_b = nn.Parameter(torch.empty(out, rank, device=self.weight.device))
        self.lora_scale = scale


@dataclass(frozen=True, slots=True)
class _Group:
    """Conversations of about one length, computed together."""

    start: int
    """First slot."""
    count: int
    length: int
    """Slots of each."""


@dataclass(frozen=True, slots=True)
class PackedContext:
    """What attention reads of a step: which tokens belong to one conversation. Made once a step, for all layers."""

    ids: Tensor
    """int64 `[tokens]`"""
    positions: Tensor
    """int64 `[tokens]`, from 0 in each conversation."""
    borders: Tensor
    """int32 `[conversations + 1]`: where each begins, and the end."""
    longest: int
    groups: tuple[_Group, ...]
    token_of_slot: Tensor | None
    """int64 `[slots]`; None: slots are tokens, in their order."""
    slot_of_token: Tensor | None

    @classmethod
    def make(
        cls, ids: npt.NDArray[np.int32], lengths: Sequence[int], device: torch.device | str = "cpu"
    ) -> "PackedContext":
        """The context of conversations of these lengths, one after the other in `ids`."""
        starts = np.concatenate(([0], np.cumsum(lengths)))
        if starts[-1] != len(ids) or min(lengths, default=0) < 1:
            raise ValueError(f"lengths {list(lengths)} do not divide {len(ids)} tokens into conversations")
        positions = np.concatenate([np.arange(length) for length in lengths])
        groups: list[_Group] = []
        token_of_slot: list[npt.NDArray[np.int64]] = []
        slot_of_token = np.empty(len(ids), dtype=np.int64)
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        slot = 0
        while order:
            length = lengths[order[0]]
            count = sum(1 for index in order if lengths[index] * PADDING >= length)
            members, order = order[:count], order[count:]
            groups.append(_Group(slot, count, length))
            for index in members:
                # What pads follows the conversation, so that causal attention keeps it from being read.
                tokens = starts[index] + np.minimum(np.arange(length), lengths[index] - 1)
                token_of_slot.append(tokens)
                slot_of_token[starts[index] : starts[index + 1]] = slot + np.arange(lengths[index])
                slot += length
        is_plain = slot == len(ids) and bool((slot_of_token == np.arange(len(ids))).all())
        return cls(
            ids=torch.from_numpy(ids.astype(np.int64)).to(device),
            positions=torch.from_numpy(positions).to(device),
            borders=torch.from_numpy(starts.astype(np.int32)).to(device),
            longest=max(lengths),
            groups=tuple(groups),
            token_of_slot=None if is_plain else torch.from_numpy(np.concatenate(token_of_slot)).to(device),
            slot_of_token=None if is_plain else torch.from_numpy(slot_of_token).to(device),
        )


@dataclass(slots=True)
class Activation:
    """An activation, or several that a protocol's one consists of side by side (q | k | v, gate | up)."""

    parts: tuple[Tensor, ...]

    @property
    def value(self) -> Tensor:
        """The only part."""
        (only,) = self.parts
        return only


class PackedOps:
    """`Ops[Activation]` with gradients. A step is set with `begin`; it is over when its way back is."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Weight],
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """`weights` are by tensor name without `.weight`; `group` holds the tensor-parallel ranks."""
        self.config = config
        self.weights = weights
        self.group = group
        self.shares = 1 if group is None else dist.get_world_size(group)
        self.specs: tuple[AttentionSpec, ...] = config.attention
        self._context: PackedContext | None = None
        self.turns: tuple[Tensor, Tensor] | None = None
        """Cosines and sines of the step's positions, float32 [tokens, 1, head_dim / 2]."""
        self._linears: list[tuple[Weight, ...]] = []
        self._names: list[Weight] = []
        self._by_row: list[bool] = []
        self._tables: tuple[Tensor, Tensor] | None = None

    def begin(self, context: PackedContext) -> None:
        """Sets the step."""
        cos, sin = self._rotary(context)
        self._context = context
        self.turns = (cos[context.positions, None], sin[context.positions, None])

    @property
    def context(self) -> PackedContext:
        """The step that was set."""
        if self._context is None:
            raise RuntimeError("no step was begun")
        return self._context

    def bind_linear(self, weights: Sequence[TensorRef], biases: Sequence[TensorRef] | None) -> Linear:
        """See `Ops`. Biases are the weights' own."""
        bound = tuple(self._weight(weight) for weight in weights)
        if any((weight.bias is not None) != (biases is not None) for weight in bound):
            raise ValueError(f"{[weight.name for weight in weights]}: biases do not fit the modules")
        self._linears.append(bound)
        self._by_row.append(weights[0].name.endswith(("o_proj.weight", "down_proj.weight")))
        return Linear(len(self._linears) - 1)

    def bind_vector(self, weight: TensorRef) -> Vector:
        """See `Ops`."""
        self._names.append(self._weight(weight))
        return Vector(len(self._names) - 1)

    def bind_table(self, weight: TensorRef) -> Table:
        """See `Ops`."""
        self._names.append(self._weight(weight))
        return Table(len(self._names) - 1)

    def embed(self, table: Table) -> Activation:
        """See `Ops`."""
        rows, ids = local(self._names[table].weight), self.context.ids
        if self.group is None:
            return Activation((F.embedding(ids, rows),))
        ids = ids - dist.get_rank(self.group) * rows.shape[0]
        is_own = (ids >= 0) & (ids < rows.shape[0])
        own = F.embedding(ids.clamp(0, rows.shape[0] - 1), rows) * is_own[:, None]
        return Activation((summed_over(own, self.group),))

    def rms_norm(self, x: Activation, weight: Vector, eps: float) -> Activation:
        """See `Ops`."""
        return Activation((self._norm(x.value, weight, eps),))

    def add_rms_norm(self, residual: Activation, x: Activation, weight: Vector, eps: float) -> Activation:
        """See `Ops`."""
        residual.parts = (residual.value + x.value,)
        return Activation((self._norm(residual.value, weight, eps),))

    def linear(self, x: Activation, linear: Linear) -> Activation:
        """See `Ops`. Matrices bound together give parts."""
        weights = self._linears[linear]
        by_row = self._by_row[linear]
        given = x.value if by_row else copied_to(x.value, self.group)
        outs = [
            self._with_lora(out, given, weight, by_row)
            for out, weight in zip(linears(given, [local(w.weight) for w in weights]), weights, strict=True)
        ]
        if by_row:
            outs = [summed_over(out, self.group) for out in outs]
        return Activation(
            tuple(
                out if weight.bias is None else out + local(weight.bias)
                for out, weight in zip(outs, weights, strict=True)
            )
        )

    def attention(
        self, qkv: Activation, layer: int, q_norm: Vector | None, k_norm: Vector | None, eps: float
    ) -> Activation:
        """See `Ops`; there is no cache, and a conversation's tokens see those before them."""
        spec = self.specs[layer]
        q, k, v = (part.view(len(part), -1, spec.head_dim) for part in qkv.parts)
        # Each rank norms its own heads, so that its gradient of the weight is one of several.
        q = q if q_norm is None else self._norm(q, q_norm, eps, shared=True)
        k = k if k_norm is None else self._norm(k, k_norm, eps, shared=True)
        assert self.turns is not None, "attention belongs to a step"
        q, k = rotated(q, *self.turns), rotated(k, *self.turns)
        return Activation((self.attend(q, k, v, layer),))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Each token's heads, one after the other [tokens, heads * head_dim], of rotated ones [tokens, heads, head_dim]."""
        attend = _attend_varlen if q.is_cuda else _attend_groups
        return attend(q, k, v, self.context, self.specs[layer]).flatten(1)

    def swiglu(self, gate_up: Activation) -> Activation:
        """See `Ops`."""
        gate, up = gate_up.parts
        return Activation((swiglu(gate, up),))

    def sample_rows(self, x: Activation) -> Activation:
        """See `Ops`: every token's."""
        return x

    def _weight(self, tensor: TensorRef) -> Weight:
        return self.weights[tensor.name.removesuffix(".weight")]

    def _norm(self, x: Tensor, vector: Vector, eps: float, shared: bool = False) -> Tensor:
        weight = local(self._names[vector].weight)
        if shared:
            weight = copied_to(weight, self.group)
        return rms_norm(x, weight, eps)

    def _with_lora(self, out: Tensor, x: Tensor, weight: Weight, by_row: bool) -> Tensor:
        if weight.lora_a is None or weight.lora_b is None:
            return out
        a, b = local(weight.lora_a), local(weight.lora_b)
        # One of the two is whole on every rank, and each rank's gradient of it one of several.
        a, b = (a, copied_to(b, self.group)) if by_row else (copied_to(a, self.group), b)
        return torch.addmm(out, x @ a.t(), b.t(), alpha=weight.lora_scale)

    def _rotary(self, context: PackedContext) -> tuple[Tensor, Tensor]:
        """Cosines and sines, float32, of the positions met so far."""
        held = 0 if self._tables is None else len(self._tables[0])
        if self._tables is None or context.longest > held:
            if context.longest > self.config.context_length:
                raise ValueError(
                    f"a conversation has {context.longest} tokens; the model has {self.config.context_length} positions"
                )
            wanted = min(self.config.context_length, 1 << math.ceil(math.log2(context.longest)))
            cos, sin = rope.tables(self.config.rope, self.config.head_dim, wanted)
            device = context.ids.device
            self._tables = (torch.from_numpy(cos).to(device), torch.from_numpy(sin).to(device))
        return self._tables


def local(parameter: Tensor) -> Tensor:
    """This rank's share of a parameter; the whole where it is not shared out."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _attend_groups(q: Tensor, k: Tensor, v: Tensor, context: PackedContext, spec: AttentionSpec) -> Tensor:
    """Attention of conversations of about one length at a time, the shorter ones padded at their end."""
    if context.token_of_slot is not None and context.slot_of_token is not None:
        q, k, v = (to_slots(x, context.token_of_slot, context.slot_of_token) for x in (q, k, v))
    outputs = []
    for group in context.groups:
        taken = slice(group.start, group.start + group.count * group.length)
        own_q, own_k, own_v = (
            x[taken].view(group.count, group.length, -1, spec.head_dim).transpose(1, 2) for x in (q, k, v)
        )
        mask = _window(group.length, spec.window, q.device)
        out = F.scaled_dot_product_attention(
            own_q, own_k, own_v, attn_mask=mask, is_causal=mask is None, scale=spec.scale, enable_gqa=True
        )
        outputs.append(out.transpose(1, 2).reshape(group.count * group.length, -1, spec.head_dim))
    out = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return out if context.slot_of_token is None else from_slots(out, context.slot_of_token)


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Which keys each query sees; None where that is all up to its own."""
    if window is None or window >= length:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


def _attend_varlen(q: Tensor, k: Tensor, v: Tensor, context: PackedContext, spec: AttentionSpec) -> Tensor:
    """Torch's flash attention over conversations of any lengths, on a GPU."""
    from torch.nn.attention.varlen import varlen_attn

    left = -1 if spec.window is None else spec.window - 1
    out = varlen_attn(
        q, k, v, context.borders, context.borders, context.longest, context.longest,
        scale=spec.scale, window_size=(left, 0), enable_gqa=True,
    )  # fmt: skip
    assert isinstance(out, Tensor)
    return out
