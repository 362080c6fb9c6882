"""What a step costs: against counted operations, and the recipe's estimate."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from agentlm.model.config import ModelConfig
from agentlm.ops.packed import PackedContext
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.model import Batch
from agentlm.tuning.work import estimate, peak, step_operations, told
from tests.tuning.runs import load, write_base

RECIPES = Path(__file__).parents[2] / "recipes"


def test_operations_are_those_that_torch_counts(tmp_path: Path) -> None:
    model = load(write_base(tmp_path))
    ids = torch.arange(96, dtype=torch.int32).numpy()
    context = PackedContext.make(ids, [96])
    rows = torch.arange(95)
    batch = Batch(context, rows, context.ids[1:])
    with FlopCounterMode(display=False) as counter:
        model(batch, 1.0)[0].backward()
    counted = counter.get_total_flops()
    config = model.config
    attention = 6 * 96**2 * config.heads * config.head_dim * config.layers
    ours = step_operations(config, tokens=96, trained=95, attended=96**2)
    # torch counts whole squares of attention and its recomputation in the way back; products are the same.
    assert ours - attention <= counted <= ours + 2 * attention


def test_lora_saves_the_gradients_of_weights(tmp_path: Path) -> None:
    config = ModelConfig.load(write_base(tmp_path))
    full = step_operations(config, tokens=100, trained=100, attended=0)
    assert step_operations(config, tokens=100, trained=100, attended=0, lora=True) == pytest.approx(
        full * 2 / 3
    )


def test_the_recipe_is_estimated_from_known_shapes() -> None:
    tune = TuneConfig.load(RECIPES / "agentlm-7b.toml")
    config = ModelConfig.load(RECIPES / "llama-2-7b")
    one, eight = (estimate(tune, config, gpus, "H200") for gpus in (1, 8))
    # 6.74 B parameters: 4 bytes each for weights and gradients, 8 for Adam.
    assert one.weights + one.gradients + one.states == pytest.approx(6.738e9 * 16, rel=1e-3)
    # The reference's count: 40.4 + 3.2 GFLOP a token, the embedding not multiplied with.
    assert one.tokens_per_second * 43.6e9 == pytest.approx(0.39 * 989e12, rel=0.05)
    assert eight.hours == pytest.approx(one.hours / 8)
    assert eight.memory < one.memory / 4


def test_memory_is_the_sum_of_its_parts() -> None:
    tune = TuneConfig.load(RECIPES / "agentlm-7b.toml", [("training.activation_checkpointing", "none")])
    one = estimate(tune, ModelConfig.load(RECIPES / "llama-2-7b"), 1, "H200")
    parts = (one.weights, one.gradients, one.states, one.gathered, one.activations)
    assert min(parts) > 1e9
    assert one.memory == sum(parts)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ([], ("model: 6.74 B parameters", ": 524 M tokens", "1 × H200: 16.", " h, ", "weights 27.0 GB")),
        (
            [("training.steps", 1), ("training.batch", 1), ("data.length", 512)],
            (": 0.51 k tokens", "1 × H200: 0.05 s, "),
        ),
    ],
)
def test_an_estimate_is_told_in_units_that_fit(
    changes: list[tuple[str, int]], lines: tuple[str, ...]
) -> None:
    tune = TuneConfig.load(RECIPES / "agentlm-7b.toml", changes)
    text = "\n".join(told(tune, ModelConfig.load(RECIPES / "llama-2-7b"), "H200"))
    for line in lines:
        assert line in text, text


def test_peaks_are_found_by_the_name_that_torch_gives() -> None:
    assert peak("NVIDIA H200") == 989e12
    assert peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak("AMD Instinct MI300X") is None
