"""What a decoder asks of a device: the protocol that every set of operations answers. Refuses to know models and kernels.

An `Ops` object stands for one device with its bound weights. It also knows the step being computed (token ids,
positions, block tables, which rows are sampled), so none of these pass through the decoder: it can be run once
against a recording `Ops`, and the record replayed for steps of any size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType, Protocol, TypeVar

from agentlm.model.weights import TensorRef

T = TypeVar("T")
"""An activation `[tokens, dim]` of the device; what it is, is the ops object's business."""

Linear = NewType("Linear", int)
"""Handle of a bound matrix (with its bias), given out by the ops object that bound it."""
Vector = NewType("Vector", int)
"""Handle of a bound vector."""
Table = NewType("Table", int)
"""Handle of a bound embedding table."""


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """The constants of one layer's attention."""

    heads: int
    """Query heads; a multiple of `kv_heads`."""
    kv_heads: int
    head_dim: int
    """Elements of one head; even."""
    scale: float
    """Factor on query·key before the softmax."""
    window: int | None
    """A query at position p sees the keys at p - window < position <= p; all up to p if None."""


class Ops(Protocol[T]):
    """The operations of one decoder forward pass. `tokens` is the step's number of tokens, `rows` of its samples."""

    def bind_linear(self, weights: Sequence[TensorRef], biases: Sequence[TensorRef] | None) -> Linear:
        """Binds matrices `[out_i, in]` of one element type as a single one, rows in the order given (q|k|v, gate|up).

        `biases` are `[out_i]`, one a matrix.
        """
        ...

    def bind_vector(self, weight: TensorRef) -> Vector:
        """Binds a vector `[dim]`."""
        ...

    def bind_table(self, weight: TensorRef) -> Table:
        """Binds an embedding table `[vocab, hidden]`. With tied embeddings the same tensor is also bound as a linear."""
        ...

    def embed(self, table: Table) -> T:
        """The rows of the step's token ids: `[tokens, hidden]`, a new activation."""
        ...

    def rms_norm(self, x: T, weight: Vector, eps: float) -> T:
        """`x / sqrt(mean(x²) + eps) * weight` over the last dimension, as a new activation."""
        ...

    def add_rms_norm(self, residual: T, x: T, weight: Vector, eps: float) -> T:
        """Adds `x` to `residual` in place, and returns the norm of the sum as a new activation."""
        ...

    def linear(self, x: T, linear: Linear) -> T:
        """`x @ weightᵀ + bias`: `[rows of x, out]`."""
        ...

    def attention(self, qkv: T, layer: int, q_norm: Vector | None, k_norm: Vector | None, eps: float) -> T:
        """Causal attention of the step's tokens over their requests' cached and new positions.

        `qkv` is `[tokens, (heads + 2 * kv_heads) * head_dim]`. Per head: RMS norm of q and k where a weight
        `[head_dim]` is given, then rotary embedding of q and k (halves rotated, not interleaved), then k and v are
        written to the layer's cache. Returns `[tokens, heads * head_dim]`. Query head h reads key head
        `h // (heads // kv_heads)`. The layer's `AttentionSpec` and the rotary tables belong to the ops object.
        """
        ...

    def swiglu(self, gate_up: T) -> T:
        """`silu(gate) * up` of `[tokens, gate | up]`: `[tokens, inter]`."""
        ...

    def sample_rows(self, x: T) -> T:
        """The rows whose next token is wanted, in the order of the step's samples: `[rows, dim]`."""
        ...
