"""The operations on an NVIDIA GPU: Triton kernels, and torch's cuBLAS for the large products.

What a step computes lies in device memory at fixed places (`Expansion`), so that one pass of the decoder can be captured
and replayed. Products and norms are not computed when the decoder names them but when their values are needed: with
few rows a norm then becomes the beginning of the product behind it, and an addition or a SwiGLU the end of the product
before it. Refuses to know requests and graphs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentlm.errors import QuantizedModelError
from agentlm.model.layout import EMBEDDING, HEAD
from agentlm.model.quantized import NarrowRef
from agentlm.model.weights import TensorRef
from agentlm.ops.adapters import AdapterTables
from agentlm.ops.narrow import narrow_weight, put_together
from agentlm.ops.protocol import AttentionSpec, Linear, Table, Vector
from agentlm.ops.upload import Upload
from agentlm_kernels.arena import Expansion
from agentlm_kernels.attention import DecodeWorkspace, SplitPolicy, paged_decode, paged_prefill
from agentlm_kernels.embedding import embed, gather_rows
from agentlm_kernels.invariant_linear import invariant_linear
from agentlm_kernels.norm import add_rms_norm, rms_norm
from agentlm_kernels.quantized_linear import (
    QuantizedWeight,
    quantize_fp8,
    quantize_int4,
    quantize_int8,
    quantized_linear,
)
from agentlm_kernels.quantized_linear import regimes as quantized_regimes
from agentlm_kernels.rope_cache import rope_cache
from agentlm_kernels.skinny_linear import is_faster, skinny_linear
from agentlm_kernels.skinny_linear import regimes as skinny_regimes
from agentlm_kernels.swiglu import swiglu

_QUANTIZE = {"int8": quantize_int8, "int4": quantize_int4, "fp8": quantize_fp8}


@dataclass(frozen=True, slots=True)
class Bound:
    """A matrix `[out, in]` on the device, and its bias."""

    weight: Tensor | QuantizedWeight
    bias: Tensor | None
    handle: Linear


@dataclass(slots=True)
class Norm:
    """The norm of `x` times `weight`, not yet computed."""

    x: Tensor
    weight: Tensor
    eps: float
    value: Tensor | None = None


@dataclass(slots=True)
class Product:
    """`x @ weightᵀ + bias`, not yet computed."""

    x: "Value"
    linear: Bound


Value = Tensor | Norm | Product


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a launch must know of a step on the host."""

    entries: int
    tokens: int
    rows: int
    """Rows of logits."""
    has_decodes: bool
    has_prefills: bool
    policy: SplitPolicy
    has_adapters: bool = False


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's keys and values, `[blocks, kv_heads, 16, head_dim]`, and their scales where they are float8."""

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None


class TritonOps:
    """`Ops[Value]` on one device. Weights are bound first, then memory is given by `attach`; a step is set by `begin`."""

    def __init__(
        self,
        attention: Sequence[AttentionSpec],
        upload: Upload,
        dtype: torch.dtype,
        quantize_to: str | None = None,
        batch_invariant: bool = False,
    ) -> None:
        self.attention_specs = tuple(attention)
        self.dtype = dtype
        self.device = upload.device
        self._upload = upload
        self._quantize_to = quantize_to
        self._invariant = batch_invariant
        self._linears: list[Bound] = []
        self._vectors: list[Tensor] = []
        self._tables: list[Tensor] = []
        self._by_name: dict[str, Tensor] = {}
        self._refilling: _Refill | None = None
        self.adapters: AdapterTables | None = None

    @contextmanager
    def refilled_by(self, upload: Upload) -> Iterator[None]:
        """Within it, binding copies each weight over the one that was bound at its turn, and gives its handle again."""
        self._upload, self._refilling, self._by_name = upload, _Refill(), {}
        try:
            yield
        finally:
            self._refilling, self._by_name = None, {}

    def bind_linear(self, weights: Sequence[TensorRef], biases: Sequence[TensorRef] | None) -> Linear:
        """See `Ops`."""
        weight: Tensor | QuantizedWeight
        if narrow := [narrow_weight(w, self._upload) for w in weights if isinstance(w, NarrowRef)]:
            weight = put_together(narrow, weights)
        else:
            weight = self._matrix(weights)
            # The head decides between tokens that are close, and is read once a step: it keeps its bits.
            if self._quantize_to is not None and weights[0].name not in (HEAD, EMBEDDING):
                weight = _QUANTIZE[self._quantize_to](weight)
        bias = self._upload.rows(biases, self.dtype) if biases else None
        if self._refilling is not None:
            bound = self._linears[self._refilling.linears]
            self._refilling.linears += 1
            _overwrite(bound.weight, weight)
            if bound.bias is not None and bias is not None:
                bound.bias.copy_(bias)
            return bound.handle
        bound = Bound(weight, bias, Linear(len(self._linears)))
        self._linears.append(bound)
        return bound.handle

    def bind_vector(self, weight: TensorRef) -> Vector:
        """See `Ops`."""
        vector = self._upload.rows([weight], self.dtype)
        if self._refilling is not None:
            self._vectors[self._refilling.vectors].copy_(vector)
            self._refilling.vectors += 1
            return Vector(self._refilling.vectors - 1)
        self._vectors.append(vector)
        return Vector(len(self._vectors) - 1)

    def bind_table(self, weight: TensorRef) -> Table:
        """See `Ops`."""
        table = self._matrix([weight])
        if self._refilling is not None:
            self._tables[self._refilling.tables].copy_(table)
            self._refilling.tables += 1
            return Table(self._refilling.tables - 1)
        self._tables.append(table)
        return Table(len(self._tables) - 1)

    def _matrix(self, weights: Sequence[TensorRef]) -> Tensor:
        """A tied head is the table itself: it is in memory once."""
        if len(weights) > 1:
            return self._upload.rows(weights, self.dtype)
        name = weights[0].name
        if name not in self._by_name:
            self._by_name[name] = self._upload.rows(weights, self.dtype)
        return self._by_name[name]

    def attach(
        self,
        expansion: Expansion,
        block_tables: Tensor,
        cache: Sequence[LayerCache],
        cos: Tensor,
        sin: Tensor,
        workspace: DecodeWorkspace,
    ) -> None:
        """Gives the memory that steps are computed in. `cos` and `sin` are float32 `[positions, head_dim / 2]`."""
        self._expansion = expansion
        self._block_tables = block_tables
        self._cache = tuple(cache)
        self._cos, self._sin = cos, sin
        self._workspace = workspace

    def regimes(self) -> list[int]:
        """Numbers of rows, ascending, with which every kernel that any number of rows launches is launched once."""
        found: set[int] = set()
        for weight in (bound.weight for bound in self._linears):
            if isinstance(weight, QuantizedWeight):
                found |= quantized_regimes(weight.kind)
            else:
                found |= skinny_regimes(*weight.shape)
        return sorted(found)

    def begin(self, shape: StepShape) -> None:
        """Sets the step; what it computes lies in the expansion."""
        self._shape = shape
        self._step = self._expansion.attention(shape.entries, self._block_tables)

    def embed(self, table: Table) -> Value:
        """See `Ops`."""
        return embed(self._tables[table], self._expansion.token_ids[: self._shape.tokens])

    def rms_norm(self, x: Value, weight: Vector, eps: float) -> Value:
        """See `Ops`."""
        return Norm(self.value(x), self._vectors[weight], eps)

    def add_rms_norm(self, residual: Value, x: Value, weight: Vector, eps: float) -> Value:
        """See `Ops`."""
        total = self.value(residual)
        if isinstance(x, Product) and self._is_skinny(x):
            self._skinny(x, residual=total)
            self._adapt(x, total)
            return Norm(total, self._vectors[weight], eps)
        return add_rms_norm(total, self.value(x), self._vectors[weight], eps)

    def linear(self, x: Value, linear: Linear) -> Value:
        """See `Ops`."""
        return Product(x, self._linears[linear])

    def attention(
        self, qkv: Value, layer: int, q_norm: Vector | None, k_norm: Vector | None, eps: float
    ) -> Value:
        """See `Ops`."""
        spec, cache, at, shape = self.attention_specs[layer], self._cache[layer], self._expansion, self._shape
        rows = self.value(qkv)
        rope_cache(
            rows, at.positions[: shape.tokens], at.slots[: shape.tokens], self._cos, self._sin,
            cache.keys, cache.values, spec.heads, spec.kv_heads, spec.head_dim,
            q_norm=None if q_norm is None else self._vectors[q_norm],
            k_norm=None if k_norm is None else self._vectors[k_norm],
            eps=eps, k_scale=cache.key_scales, v_scale=cache.value_scales,
        )  # fmt: skip
        out = torch.empty(shape.tokens, spec.heads * spec.head_dim, dtype=rows.dtype, device=rows.device)
        given: dict[str, Any] = {
            "heads": spec.heads,
            "scale": spec.scale,
            "window": spec.window,
            "k_scale": cache.key_scales,
            "v_scale": cache.value_scales,
            "out": out,
        }
        if self._invariant:
            paged_prefill(rows, cache.keys, cache.values, self._step, min_q=1, **given)
            return out
        if shape.has_decodes:
            paged_decode(rows, cache.keys, cache.values, self._step, shape.policy, self._workspace, **given)
        if shape.has_prefills:
            paged_prefill(rows, cache.keys, cache.values, self._step, **given)
        return out

    def swiglu(self, gate_up: Value) -> Value:
        """See `Ops`."""
        if isinstance(gate_up, Product) and self._is_skinny(gate_up) and not self._is_adapted(gate_up):
            return self._skinny(gate_up, swiglu=True)
        return swiglu(self.value(gate_up))

    def sample_rows(self, x: Value) -> Value:
        """See `Ops`."""
        index = self._expansion.logits_token[: self._shape.rows]
        if isinstance(x, Norm) and x.value is None:
            return Norm(gather_rows(x.x, index), x.weight, x.eps)
        return gather_rows(self.value(x), index)

    def logits(self, head: Value, out: Tensor) -> None:
        """Computes what `Decoder.forward` gave into `out`, float32 `[rows, vocab]`."""
        if not isinstance(head, Product):
            raise TypeError(f"logits are the product of the head, not {type(head).__name__}")
        self._multiply(head, out)

    def value(self, x: Value) -> Tensor:
        """The values of `x`, computed now if they were not yet."""
        if isinstance(x, Tensor):
            return x
        if isinstance(x, Norm):
            if x.value is None:
                x.value = rms_norm(x.x, x.weight, x.eps)
            return x.value
        return self._multiply(x, None)

    def _is_skinny(self, product: Product) -> bool:
        x, weight = product.x, product.linear.weight
        if self._invariant or not isinstance(weight, Tensor) or isinstance(x, Product):
            return False
        rows = x.x.shape[0] if isinstance(x, Norm) else x.shape[0]
        return is_faster(rows, *weight.shape)

    def _skinny(
        self,
        product: Product,
        residual: Tensor | None = None,
        swiglu: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        x, linear = product.x, product.linear
        if not isinstance(linear.weight, Tensor):
            raise TypeError("a skinny product has a weight of its own type")
        if self._is_adapted(product):
            # The adapter reads what the product does.
            self.value(x)
        norm = x if isinstance(x, Norm) and x.value is None else None
        return skinny_linear(
            norm.x if norm is not None else self.value(x),
            linear.weight,
            linear.bias,
            norm_weight=None if norm is None else norm.weight,
            eps=0.0 if norm is None else norm.eps,
            residual=residual,
            swiglu=swiglu,
            out=out,
        )

    def _is_adapted(self, product: Product) -> bool:
        adapters = self.adapters
        return self._shape.has_adapters and adapters is not None and adapters.has(product.linear.handle)

    def _adapt(self, product: Product, y: Tensor) -> None:
        """Adds what the tokens' adapters add to the product, to `y`."""
        if self.adapters is not None and self._is_adapted(product):
            tokens = self._expansion.token_adapter[: self._shape.tokens]
            self.adapters.add(product.linear.handle, self.value(product.x), tokens, y)

    def _multiply(self, product: Product, out: Tensor | None) -> Tensor:
        y = self._multiplied(product, out)
        self._adapt(product, y)
        return y

    def _multiplied(self, product: Product, out: Tensor | None) -> Tensor:
        weight, bias = product.linear.weight, product.linear.bias
        if self._is_skinny(product):
            return self._skinny(product, out=out)
        x = self.value(product.x)
        if isinstance(weight, QuantizedWeight):
            return quantized_linear(x, weight, bias, out=out, invariant=self._invariant)
        if self._invariant:
            return invariant_linear(x, weight, bias, out=out)
        if out is None:
            return torch.nn.functional.linear(x, weight, bias)
        if x.is_cuda and x.dtype != torch.float32:
            # cuBLAS writes its float32 accumulators as they are.
            torch.mm(x, weight.t(), out_dtype=torch.float32, out=out)
        else:
            torch.mm(x, weight.t(), out=out)
        return out


@dataclass(slots=True)
class _Refill:
    """How many weights of each kind were copied over."""

    linears: int = 0
    vectors: int = 0
    tables: int = 0


def _overwrite(held: Tensor | QuantizedWeight, given: Tensor | QuantizedWeight) -> None:
    """Copies a matrix over one of the same kind and shape."""
    if isinstance(held, Tensor) and isinstance(given, Tensor):
        held.copy_(given)
    elif isinstance(held, QuantizedWeight) and isinstance(given, QuantizedWeight):
        if (held.order is None) != (given.order is None):
            raise QuantizedModelError(
                "the new weights' columns are in an order of their own where the old ones' are not, or the other way "
                "round: start a server for them"
            )
        held.data.copy_(given.data)
        held.scales.copy_(given.scales)
        if held.order is not None and given.order is not None:
            held.order.copy_(given.order)
    else:
        raise TypeError(f"a {type(given).__name__} cannot be copied over a {type(held).__name__}")
