"""What a step costs: floating-point operations and bytes, computed from shapes. Refuses to know clocks and devices at hand.

Operations are the model's own (a multiplication and an addition are two): what is computed again under activation
checkpointing is not counted, as in the usual meaning of MFU.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from agentlm.model.config import ModelConfig
from agentlm.model.layout import EMBEDDING, HEAD, tensor_shapes
from agentlm.tuning.config import TARGETS, TuneConfig

PEAKS: Mapping[str, float] = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}
"""Dense bfloat16 operations a second by a part of the GPU's name, from NVIDIA's data sheets (SXM parts)."""
MEMORY: Mapping[str, float] = {"B200": 180e9, "H200": 141e9, "H100": 80e9, "A100": 80e9, "L40S": 48e9}
"""Bytes of each, from the same sheets."""
UTILISATION = 0.39
"""Share of the peak that the estimate assumes: torchtitan's published figure for an 8B model in bfloat16 on 8 H100."""
LOGITS_BYTES = 3 * (256 << 20)
"""A piece of float32 logits, its gradient in bfloat16 and what is being added: kernels' `PIECE` bounds it."""


def step_operations(
    config: ModelConfig, *, tokens: int, trained: int, attended: int, lora: bool = False
) -> float:
    """Floating-point operations of forward and backward.

    `attended` is the sum of the squares of the conversations' lengths; causal attention computes half of it. Under LoRA
    the weights' own gradients fall away; what is added is small and left out.
    """
    backward = 1 if lora else 2
    matrices = _matrices(config)
    head = config.vocab * config.hidden
    attention = 2 * attended * config.heads * config.head_dim * config.layers
    return (2 * matrices * tokens + 2 * head * trained) * (1 + backward) + 3 * attention


def peak(name: str) -> float | None:
    """The peak of a GPU by its name; None if it is not known."""
    return next((value for part, value in PEAKS.items() if part in name), None)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run would take on some GPUs: computed, not measured."""

    gpus: int
    gpu: str
    hours: float
    tokens_per_second: float
    """On all of them."""
    weights: float
    """Bytes a GPU, as what follows: the float32 weights, or frozen ones as they are computed with."""
    gradients: float
    states: float
    gathered: float
    """What is gathered of other ranks' weights, in the type that is computed with."""
    activations: float

    @property
    def memory(self) -> float:
        """Bytes a GPU, without what the allocator wastes."""
        return self.weights + self.gradients + self.states + self.gathered + self.activations


def estimate(tune: TuneConfig, config: ModelConfig, gpus: int, gpu: str) -> Estimate:
    """What a run of `training.steps` steps of full packs takes on so many GPUs that share it by FSDP.

    Each pack counts as one conversation: the most that attention can cost.
    """
    training, length = tune.training, tune.data.length
    if training.steps is None:
        raise ValueError("an estimate needs a number of steps")
    tokens = training.batch * length
    operations = step_operations(
        config, tokens=tokens, trained=tokens, attended=training.batch * length**2, lora=tune.lora is not None
    )
    per_second = gpus * PEAKS[gpu] * UTILISATION
    all_weights = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    trained = (
        all_weights if tune.lora is None else _lora_parameters(config, tune.lora.rank, tune.lora.targets)
    )
    element = 2 if training.dtype == "bfloat16" else 4
    frozen = 0 if tune.lora is None else all_weights * element
    layer = (all_weights - _tables(config)) / config.layers
    # Two layers at a time (the next one comes while one computes), and the tables throughout.
    gathered = element * (2 * layer + _tables(config)) if training.dtype == "bfloat16" or gpus > 1 else 0
    state = 4 if training.optimizer_state == "bfloat16" else 8
    return Estimate(
        gpus=gpus,
        gpu=gpu,
        hours=operations * training.steps / per_second / 3600,
        tokens_per_second=tokens * per_second / operations,
        weights=(4 * trained + frozen) / gpus,
        gradients=4 * trained / gpus,
        states=state * trained / gpus,
        gathered=gathered,
        activations=_activations(tune, config, element),
    )


def _matrices(config: ModelConfig) -> int:
    """Elements of all layers' matrices."""
    return sum(
        math.prod(shape)
        for name, shape in tensor_shapes(config).items()
        if len(shape) == 2 and name not in (EMBEDDING, HEAD)
    )


def _tables(config: ModelConfig) -> int:
    return config.vocab * config.hidden * (1 if config.tied else 2)


def _lora_parameters(config: ModelConfig, rank: int, targets: tuple[str, ...]) -> int:
    assert set(targets) <= set(TARGETS)
    return sum(
        rank * sum(shape)
        for name, shape in tensor_shapes(config).items()
        if name.removesuffix(".weight").rpartition(".")[2] in targets and name.endswith(".weight")
    )


def _activations(tune: TuneConfig, config: ModelConfig, element: int) -> float:
    """Bytes that the way back needs of one micro-batch: what each operation keeps, tensor by tensor."""
    tokens = tune.training.micro_batch * tune.data.length
    kv = config.kv_heads * config.head_dim
    q = config.heads * config.head_dim
    # Two norms' inputs and outputs; q, k and v rotated, attention's output; gate, up and their product.
    layer = tokens * element * (4 * config.hidden + 2 * q + 2 * kv + 3 * config.inter)
    border = tokens * element * 2 * config.hidden
    layers = config.layers * border + layer if _checkpointed(tune) else config.layers * layer
    of_head = 0 if tune.lora is not None else 4 * config.vocab * config.hidden
    return layers + LOGITS_BYTES + of_head


def _checkpointed(tune: TuneConfig) -> bool:
    return tune.training.activation_checkpointing == "layers"


def told(tune: TuneConfig, config: ModelConfig, gpu: str) -> list[str]:
    """The estimate for 1 and 8 GPUs with its inputs, in lines."""
    training = tune.training
    parameters = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    steps, tokens = training.steps or 0, training.batch * tune.data.length
    lora = "" if tune.lora is None else f", LoRA of rank {tune.lora.rank}"
    inputs = (
        (
            f"model: {_short(parameters, _COUNTS)} parameters, {config.layers} layers, hidden {config.hidden}, "
            f"vocabulary {config.vocab}"
        ),
        (
            f"run: {steps:,} steps of {training.batch} packs of {tune.data.length:,} tokens, all of them full: "
            f"{_short(steps * tokens, _COUNTS)} tokens"
        ),
        (
            f"computed in {training.dtype}, optimizer state {training.optimizer_state}, "
            f"micro-batch {training.micro_batch}, activation checkpointing {training.activation_checkpointing}{lora}"
        ),
        (
            f"{gpu}: {PEAKS[gpu] / 1e12:.0f} TFLOP/s dense bfloat16, {MEMORY[gpu] / 1e9:.0f} GB (data sheet); "
            f"{UTILISATION:.0%} of the peak (assumed: torchtitan's published 8B figure on 8 H100)"
        ),
    )
    lines = ["Estimated from shapes, not measured. Inputs:", *(f"  {line}" for line in inputs)]
    for gpus in (1, 8):
        one = estimate(tune, config, gpus, gpu)
        fits = "fits" if one.memory < 0.92 * MEMORY[gpu] else "does not fit"
        parts = {
            "weights": one.weights,
            "gradients": one.gradients,
            "optimizer": one.states,
            "gathered": one.gathered,
            "activations and logits": one.activations,
        }
        lines.append(
            f"{gpus} × {gpu}: {_short(3600 * one.hours, _TIMES)}, {one.tokens_per_second:,.0f} tokens/s, "
            f"{_short(one.memory, _BYTES)} a GPU "
            f"({fits}): {', '.join(f'{name} {_short(size, _BYTES)}' for name, size in parts.items())}"
        )
    return lines


_COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_TIMES = ((3600, "h"), (60, "min"), (1, "s"))
_BYTES = ((1e9, "GB"), (1e6, "MB"))


def _short(number: float, units: tuple[tuple[float, str], ...]) -> str:
    """In the largest unit that it reaches, to about three digits."""
    size, unit = next(((size, unit) for size, unit in units if number >= size), units[-1])
    value = number / size
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
