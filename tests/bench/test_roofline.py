"""The limits follow from bytes and operations that can be counted by hand."""

import pytest

from agentlm.model.config import ModelConfig
from agentlm.model.layout import tensor_shapes
from agentlm.model.random import SHAPES, family_config
from bench.cells import Cell
from bench.roofline import DIMENSIONS, Limits, bound, limit


@pytest.mark.parametrize("model", DIMENSIONS)
def test_weights_are_those_of_the_random_models(model: str) -> None:
    config = ModelConfig.from_json(family_config("llama2", SHAPES[model]))
    shapes = tensor_shapes(config)
    matrices = sum(
        rows * columns
        for name, (rows, *rest) in shapes.items()
        if "embed_tokens" not in name
        for columns in rest
    )
    dimensions = DIMENSIONS[model]
    assert dimensions.layer_weights + dimensions.head_weights == matrices


def test_one_request_is_bound_by_reading_the_weights() -> None:
    limits = Limits(bytes_per_second=10e9, flops=1e15)
    cell = Cell("1.1b", "float16", "decode", 1, "short")
    weights = DIMENSIONS["1.1b"].layer_weights + DIMENSIONS["1.1b"].head_weights
    assert limit(cell, limits) == pytest.approx(10e9 / (2 * weights), rel=0.01)
    assert bound(cell, limits) == "bandwidth"


def test_many_requests_are_bound_by_arithmetic_and_gain_nothing_from_half_precision() -> None:
    limits = Limits(bytes_per_second=1e15, flops=100e9)
    half, single = (
        limit(Cell("110m", precision, "decode", 16, "2k"), limits) for precision in ("float16", "float32")
    )
    assert half == single
    assert bound(Cell("110m", "float16", "decode", 16, "2k"), limits) == "arithmetic"


def test_a_longer_prefill_has_more_attention_a_token() -> None:
    limits = Limits(bytes_per_second=10e9, flops=100e9)
    short, long = (
        limit(Cell("110m", "float32", "prefill", 1, context), limits) for context in ("short", "2k")
    )
    assert short is not None
    assert long is not None
    assert long < short


def test_agents_have_no_limit() -> None:
    assert limit(Cell("110m", "float32", "agents", 16, "30"), Limits(10e9, 100e9)) is None
