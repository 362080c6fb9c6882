"""The decoder of the Llama family, written once against the operations' protocol. Refuses to know devices and steps.

Llama, Mistral, Qwen2 and Qwen3 differ only by what their configuration says: biases, norms of query and key, windows
and whether the head is the embedding table.
"""

from dataclasses import dataclass, replace
from typing import Generic, Self

from agentlm.errors import TensorDtypeError
from agentlm.model.config import ModelConfig
from agentlm.model.layout import EMBEDDING, FINAL_NORM, HEAD, is_redundant, tensor_shapes
from agentlm.model.weights import Checkpoint, Progress, TensorRef
from agentlm.ops.protocol import Linear, Ops, T, Table, Vector


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One layer's bound weights."""

    input_norm: Vector
    qkv: Linear
    q_norm: Vector | None
    k_norm: Vector | None
    out: Linear
    mlp_norm: Vector
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model whose weights are bound to one ops object."""

    config: ModelConfig
    embedding: Table
    layers: tuple[DecoderLayer, ...]
    final_norm: Vector
    head: Linear

    @classmethod
    def bind(
        cls, config: ModelConfig, checkpoint: Checkpoint, ops: Ops[T], progress: Progress | None = None
    ) -> Self:
        """Binds every weight of a configuration that `checked` gave, in the order of the layers.

        `progress(bytes done, bytes in all, tensor name)` is called after each binding. Raises `TensorDtypeError`.
        """
        total = sum(checkpoint.nbytes_of(name) for name in tensor_shapes(config))
        binder = _Binder(checkpoint, ops, progress, total)
        embedding = binder.table(EMBEDDING)
        layers = tuple(
            DecoderLayer(
                input_norm=binder.vector(f"{p}input_layernorm"),
                qkv=binder.linear(f"{p}self_attn.", ("q_proj", "k_proj", "v_proj"), config.qkv_bias),
                q_norm=binder.vector(f"{p}self_attn.q_norm") if config.qk_norm else None,
                k_norm=binder.vector(f"{p}self_attn.k_norm") if config.qk_norm else None,
                out=binder.linear(f"{p}self_attn.", ("o_proj",), config.out_bias),
                mlp_norm=binder.vector(f"{p}post_attention_layernorm"),
                gate_up=binder.linear(f"{p}mlp.", ("gate_proj", "up_proj"), config.mlp_bias),
                down=binder.linear(f"{p}mlp.", ("down_proj",), config.mlp_bias),
            )
            for p in (f"model.layers.{layer}." for layer in range(config.layers))
        )
        final_norm = binder.vector(FINAL_NORM.removesuffix(".weight"))
        head = EMBEDDING if config.tied else HEAD
        return cls(
            config, embedding, layers, final_norm, binder.linear("", (head.removesuffix(".weight"),), False)
        )

    def forward(self, ops: Ops[T]) -> T:
        """Logits `[rows, vocab]` of the rows that the step samples; `ops` is the object the weights were bound to."""
        residual = ops.embed(self.embedding)
        x: T | None = None
        for index in range(len(self.layers)):
            x = self.layer(ops, index, residual, x)
        return ops.linear(ops.sample_rows(self.last_norm(ops, residual, x)), self.head)

    def layer(self, ops: Ops[T], index: int, residual: T, x: T | None) -> T:
        """One layer: what it adds to `residual`, which has taken in `x`, the addition of the layer before (None: none)."""
        layer, eps = self.layers[index], self.config.norm_eps
        x = _normed(ops, residual, x, layer.input_norm, eps)
        x = ops.linear(x, layer.qkv)
        x = ops.attention(x, index, layer.q_norm, layer.k_norm, eps)
        x = ops.linear(x, layer.out)
        x = ops.add_rms_norm(residual, x, layer.mlp_norm, eps)
        x = ops.swiglu(ops.linear(x, layer.gate_up))
        return ops.linear(x, layer.down)

    def last_norm(self, ops: Ops[T], residual: T, x: T | None) -> T:
        """What the head reads, `[tokens, hidden]`, once the last layer's addition `x` is taken in."""
        return _normed(ops, residual, x, self.final_norm, self.config.norm_eps)


def _normed(ops: Ops[T], residual: T, x: T | None, weight: Vector, eps: float) -> T:
    return ops.rms_norm(residual, weight, eps) if x is None else ops.add_rms_norm(residual, x, weight, eps)


def checked(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """The configuration as the weights show it, once the checkpoint holds exactly its tensors.

    Raises `MissingTensorError`, `UnexpectedTensorError`, `TensorShapeError`, `TensorDtypeError`.
    """
    config = _untied(config, checkpoint)
    checkpoint.check(tensor_shapes(config), lambda name: is_redundant(name, config))
    return config


def _untied(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """A tied model whose head is another matrix than its table is none: so reads it transformers 5.

    A head that repeats the table may be there and is not held twice.
    """
    by_name = {tensor.name: tensor for tensor in checkpoint.tensors() if tensor.name in (EMBEDDING, HEAD)}
    if not config.tied or len(by_name) < 2:
        return config
    table, head = by_name[EMBEDDING], by_name[HEAD]
    same = (head.dtype, head.shape) == (table.dtype, table.shape) and bool(
        (head.bytes() == table.bytes()).all()
    )
    return config if same else replace(config, tied=False)


class _Binder(Generic[T]):
    """Binds tensors by name and counts their bytes once."""

    def __init__(self, checkpoint: Checkpoint, ops: Ops[T], progress: Progress | None, total: int) -> None:
        self.checkpoint = checkpoint
        self.ops = ops
        self.progress = progress
        self.done: dict[str, int] = {}
        self.total = total

    def vector(self, name: str) -> Vector:
        weight = self.checkpoint.tensor(f"{name}.weight")
        handle = self.ops.bind_vector(weight)
        self.count([weight])
        return handle

    def table(self, name: str) -> Table:
        weight = self.checkpoint.tensor(name)
        handle = self.ops.bind_table(weight)
        self.count([weight])
        return handle

    def linear(self, prefix: str, names: tuple[str, ...], biased: bool) -> Linear:
        weights = [self.checkpoint.tensor(f"{prefix}{name}.weight") for name in names]
        biases = [self.checkpoint.tensor(f"{prefix}{name}.bias") for name in names] if biased else None
        dtypes = {weight.dtype for weight in weights}
        if len(dtypes) > 1:
            raise TensorDtypeError(
                f"Tensors {', '.join(repr(weight.name) for weight in weights)} have element types "
                f"{', '.join(sorted(dtypes))}; they are computed as one matrix and must share one. "
                "Save the checkpoint in a single dtype."
            )
        handle = self.ops.bind_linear(weights, biases)
        self.count([*weights, *(biases or ())])
        return handle

    def count(self, bound: list[TensorRef]) -> None:
        for tensor in bound:
            self.done[tensor.name] = tensor.nbytes
        if self.progress is not None:
            self.progress(sum(self.done.values()), self.total, bound[-1].name)
