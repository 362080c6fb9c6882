"""Operations that are not computed but recorded, as one captures a CUDA graph: the CPU executor replays them each step.

Run the decoder once against `TapeOps`, then `finish`. Refuses to know steps: token and sample counts stay symbolic.
"""

from collections.abc import Sequence

from agentlm._engine import CpuBackend, Tape, TapeBuilder
from agentlm.model.weights import TensorRef
from agentlm.ops.protocol import AttentionSpec, Linear, Table, Vector


class Activation:
    """A buffer of the tape. Its memory is used again once Python forgets it, as the decoder's own variables do."""

    __slots__ = ("_tape", "buffer")

    def __init__(self, tape: TapeBuilder, buffer: int) -> None:
        self._tape = tape
        self.buffer = buffer

    def __del__(self) -> None:
        self._tape.release(self.buffer)


class TapeOps:
    """Records one forward pass for the CPU executor. `dtype` is the storage of matrices."""

    def __init__(self, backend: CpuBackend, attention: Sequence[AttentionSpec], dtype: str) -> None:
        self._tape = TapeBuilder(
            backend, [(a.heads, a.kv_heads, a.head_dim, a.scale, a.window) for a in attention], dtype
        )

    def finish(self, logits: Activation) -> Tape:
        """The recorded pass, ending in `logits` `[samples, vocab]`."""
        return self._tape.finish(logits.buffer)

    def bind_linear(self, weights: Sequence[TensorRef], biases: Sequence[TensorRef] | None) -> Linear:
        """Packs matrices `[out_i, in]` as one, rows in the order given."""
        return Linear(self._tape.bind_linear([place(w) for w in weights], [place(b) for b in biases or ()]))

    def bind_vector(self, weight: TensorRef) -> Vector:
        """Copies a vector `[dim]`."""
        return Vector(self._tape.bind_vector(place(weight)))

    def bind_table(self, weight: TensorRef) -> Table:
        """Copies an embedding table `[vocab, hidden]`."""
        return Table(self._tape.bind_table(place(weight)))

    def embed(self, table: Table) -> Activation:
        """The rows of the step's token ids."""
        return self._new(self._tape.embed(table))

    def rms_norm(self, x: Activation, weight: Vector, eps: float) -> Activation:
        """The norm of `x`."""
        return self._new(self._tape.rms_norm(x.buffer, weight, eps))

    def add_rms_norm(self, residual: Activation, x: Activation, weight: Vector, eps: float) -> Activation:
        """Adds `x` to `residual`, and returns the norm of the sum."""
        return self._new(self._tape.add_rms_norm(residual.buffer, x.buffer, weight, eps))

    def linear(self, x: Activation, linear: Linear) -> Activation:
        """`x @ weightᵀ + bias`."""
        return self._new(self._tape.linear(x.buffer, linear))

    def attention(
        self, qkv: Activation, layer: int, q_norm: Vector | None, k_norm: Vector | None, eps: float
    ) -> Activation:
        """Rotary embedding, cache write and paged causal attention."""
        return self._new(self._tape.attention(qkv.buffer, layer, q_norm, k_norm, eps))

    def swiglu(self, gate_up: Activation) -> Activation:
        """`silu(gate) * up`."""
        return self._new(self._tape.swiglu(gate_up.buffer))

    def sample_rows(self, x: Activation) -> Activation:
        """The rows whose next token is wanted."""
        return self._new(self._tape.sample_rows(x.buffer))

    def _new(self, buffer: int) -> Activation:
        return Activation(self._tape, buffer)


def place(tensor: TensorRef) -> tuple[int, str, tuple[int, ...]]:
    """A tensor as the extension takes it: address, element type, shape."""
    return tensor.address, tensor.dtype, tensor.shape
