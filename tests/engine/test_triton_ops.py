"""Weights and adapters on a GPU: what an exchange writes over, what a table holds when it grows or is given again."""

from dataclasses import fields

import pytest
import torch

from agentlm.config import EngineConfig
from agentlm.model import adapter
from agentlm.model.config import ModelConfig
from agentlm.model.weights import Checkpoint
from agentlm.ops.adapters import AdapterTables
from agentlm.ops.upload import Upload
from agentlm.runtime import device as devices
from agentlm.runtime.cuda_model import CudaModel
from agentlm_kernels.quantized_linear import QuantizedWeight
from tests.engine.adapters import write_adapter
from tests.engine.cpu_models import checkpoint

CPU = torch.device("cpu")


def opened(directory, **settings):
    config = EngineConfig(model=str(directory), backend="cuda", **{"dtype": "float32"} | settings)
    return CudaModel(
        ModelConfig.load(directory), Checkpoint.open(directory), config, devices.Interpreted(), None
    )


def held(ops):
    """Every tensor that the operations read, in the order in which they were bound."""
    found = [*ops._vectors, *ops._tables]
    for bound in ops._linears:
        parts = [bound.weight]
        if isinstance(bound.weight, QuantizedWeight):
            parts = [getattr(bound.weight, part.name) for part in fields(bound.weight)]
        found += [part for part in (*parts, bound.bias) if isinstance(part, torch.Tensor)]
    return found


@pytest.mark.parametrize(
    ("case", "quantize"), [("qwen2", None), ("qwen2", "int8"), ("qwen2", "int4"), ("qwen3-tied", None)]
)
def test_exchanged_weights_lie_where_the_old_ones_lay(case, quantize):
    # Captured launches read these addresses.
    first, second = checkpoint(case), checkpoint(case, 1)
    model, expected = opened(first, quantize=quantize), held(opened(second, quantize=quantize).ops)
    assert any(bound.bias is not None for bound in model.ops._linears) == (case == "qwen2")
    addresses = [tensor.data_ptr() for tensor in held(model.ops)]
    before = [tensor.clone() for tensor in held(model.ops)]
    model.refill(Checkpoint.open(second))
    after = held(model.ops)
    assert [tensor.data_ptr() for tensor in after] == addresses
    assert all(map(torch.equal, after, expected))
    assert not any(map(torch.equal, after, before)), "the two checkpoints differ in every tensor"


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_half_precision_is_kept_and_the_rest_becomes_bfloat16(stored):
    assert opened(checkpoint("llama2", 0, stored), dtype="auto").dtype == {"float16": "float16"}.get(
        stored, "bfloat16"
    )


@pytest.fixture
def parts(tmp_path):
    """The parts of an adapter of so high a rank."""
    base = checkpoint("qwen3-tied")
    model = opened(base)

    def of(rank):
        directory = tmp_path / f"{rank}"
        write_adapter(base, directory, rank, rank=rank)
        return adapter.resolve(adapter.load_adapter(directory, model.config), model.decoder)

    return of


def tables():
    return AdapterTables(CPU, torch.float32, lambda: 1 << 30)


def check(found, number, parts):
    """The number's places hold these parts, and zeros past their rank."""
    for part in parts:
        stretch = found._stretches[part.linear][part.offset]
        rank = part.a.shape[0]
        a, b = (Upload(CPU).rows([matrix], torch.float32) for matrix in (part.a, part.b))
        assert torch.equal(stretch.a[number - 1, :rank], a)
        assert torch.equal(stretch.b[number - 1, :, :rank], b)
        assert not stretch.a[number - 1, rank:].any()
        assert not stretch.b[number - 1, :, rank:].any()
        assert stretch.scale[number - 1] == part.scale


def test_a_table_that_grows_keeps_what_it_held(parts):
    found = tables()
    low, high = parts(4), parts(20)
    # By its rank, then by its number.
    assert [found.load(*given, Upload(CPU)) for given in ((1, low), (2, low), (3, high), (5, low))] == [
        True, False, True, True,
    ]  # fmt: skip
    for number, given in ((1, low), (2, low), (3, high), (5, low)):
        check(found, number, given)


def test_a_number_that_is_given_again_has_nothing_of_the_adapter_before(parts):
    # Nor of one whose reading was given up halfway, which nobody unloads.
    found = tables()
    low, high = parts(4), parts(12)
    found.load(1, high, Upload(CPU))
    assert not found.load(1, low[:-1], Upload(CPU))
    check(found, 1, low[:-1])
    left = found._stretches[low[-1].linear][low[-1].offset]
    assert left.scale[0] == 0
    assert not left.a[0].any()
    found.load(1, high, Upload(CPU))
    found.unload(1)
    assert not any(
        s.a.any() or s.b.any() or s.scale.any() for f in found._stretches.values() for s in f.values()
    )
