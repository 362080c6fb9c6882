"""What the machine allows: the bytes and operations of a workload against measured limits. Refuses to know engines."""

from dataclasses import dataclass

from bench.cells import CONTEXT_TOKENS, DECODE_STEPS, PREFILL_TOKENS, Cell


@dataclass(frozen=True, slots=True)
class Limits:
    """The measured limits of the machine with the threads of the run."""

    bytes_per_second: float
    """Reading from memory."""
    flops: float
    """fp32 multiply-adds in registers, two operations each."""

    def mean(self, other: "Limits") -> "Limits":
        """The middle of each."""
        return Limits((self.bytes_per_second + other.bytes_per_second) / 2, (self.flops + other.flops) / 2)

    def or_better(self, other: "Limits") -> "Limits":
        """The larger of each."""
        return Limits(max(self.bytes_per_second, other.bytes_per_second), max(self.flops, other.flops))


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The sizes of a Llama model that decide its cost."""

    layers: int
    hidden: int
    inter: int
    heads: int
    kv_heads: int
    vocab: int

    @property
    def head_dim(self) -> int:
        """Elements of one head."""
        return self.hidden // self.heads

    @property
    def layer_weights(self) -> int:
        """Elements of all matrices of all layers, without embedding and head."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.inter)

    @property
    def head_weights(self) -> int:
        """Elements of the output head."""
        return self.vocab * self.hidden

    def attention_flops(self, positions: int) -> int:
        """Operations of scores and values of one token over so many positions."""
        return 4 * self.layers * self.heads * self.head_dim * positions

    def kv_bytes(self, positions: int, element: int) -> int:
        """Bytes of keys and values of so many positions."""
        return 2 * self.layers * self.kv_heads * self.head_dim * positions * element


DIMENSIONS = {
    "110m": Dimensions(layers=12, hidden=768, inter=2048, heads=12, kv_heads=12, vocab=32000),
    "1.1b": Dimensions(layers=22, hidden=2048, inter=5632, heads=32, kv_heads=4, vocab=32000),
}


def limit(cell: Cell, limits: Limits) -> float | None:
    """The most tokens per second that the machine allows, None for the agents: what counts there is not recomputing.

    Prefill: linears and causal attention against the arithmetic peak; the head is computed once.
    Decode: each step reads the weights and the cache once and computes every token; the slower of the two decides.
    """
    if cell.kind == "agents":
        return None
    model = DIMENSIONS[cell.model]
    element = 4 if cell.precision == "float32" else 2
    if cell.kind == "prefill":
        tokens = PREFILL_TOKENS[cell.context]
        causal = model.attention_flops(1) * tokens * (tokens + 1) // 2
        return tokens * limits.flops / (2 * model.layer_weights * tokens + 2 * model.head_weights + causal)
    positions = CONTEXT_TOKENS[cell.context] + DECODE_STEPS // 2
    weights = model.layer_weights + model.head_weights
    read = weights * element + cell.batch * model.kv_bytes(positions, element)
    computed = cell.batch * (2 * weights + model.attention_flops(positions))
    return cell.batch / max(read / limits.bytes_per_second, computed / limits.flops)


def bound(cell: Cell, limits: Limits) -> str:
    """Which limit decides a decode or prefill cell: "bandwidth" or "arithmetic"."""
    more_bandwidth = limit(cell, Limits(2 * limits.bytes_per_second, limits.flops))
    return "arithmetic" if more_bandwidth == limit(cell, limits) else "bandwidth"
