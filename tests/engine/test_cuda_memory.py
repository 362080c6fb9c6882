"""What is left for keys and values on a GPU: all that steps take besides is counted. Tensors have no memory here."""

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agentlm.config import EngineConfig
from agentlm.errors import OutOfMemoryError
from agentlm.model.config import ModelConfig
from agentlm.model.random import Shape, family_config, write_model
from agentlm.model.weights import Checkpoint
from agentlm.runtime import device as devices
from agentlm.runtime import engine
from agentlm.runtime.cuda_memory import StepSizes, kv_budget
from agentlm.runtime.cuda_model import CudaModel, attach
from agentlm.runtime.cuda_steps import CudaSteps
from agentlm.runtime.memory import MAX_BLOCKS, plan_kv_cache
from agentlm_kernels.arena import Expansion, Rows
from tests.engine.cpu_models import checkpoint

GIB = 1 << 30
BYTES = 1000
"""Of one block, where nothing is computed."""


class Weighing(TorchDispatchMode):
    """Adds up the bytes of every tensor that is made within it; what is given back is not taken off."""

    def __init__(self):
        super().__init__()
        self.bytes, self._seen = 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            storage = one.untyped_storage() if isinstance(one, torch.Tensor) else None
            if storage is not None and storage._cdata not in self._seen:
                # Held, so that no other storage takes its address.
                self._seen[storage._cdata] = storage
                self.bytes += storage.nbytes()
        return out


class Weighed(devices.Interpreted):
    """A device of so many free bytes whose tensors have no memory."""

    place = torch.device("meta")

    def __init__(self, free):
        self.free = free

    def free_bytes(self):
        return self.free

    def peak_of(self, run):
        with Weighing() as weighing:
            run()
        return weighing.bytes


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """One narrow layer under a vocabulary as of a large model."""
    shape = Shape(layers=1, hidden=32, inter=32, heads=2, kv_heads=2, vocab=32768, context=512)
    return write_model(tmp_path_factory.mktemp("models") / "wide", family_config("llama2", shape, "float32"))


def opened(directory: Path, config: EngineConfig, device: devices.Device) -> CudaModel:
    return CudaModel(ModelConfig.load(directory), Checkpoint.open(directory), config, device, None)


def test_steps_fit_beside_the_keys_and_values(wide_model, monkeypatch):
    # The kernels of the largest step take no memory worth counting; all that lies beside them does.
    monkeypatch.setattr(CudaModel, "forward", lambda *_: None)
    config = EngineConfig(
        model=str(wide_model),
        backend="cuda",
        dtype="float32",
        max_batch_size=4096,
        max_batch_prefill_tokens=4112,
    )
    model = opened(wide_model, config, Weighed(8 * GIB))
    budget = kv_budget(model, config)
    with Weighing() as beside:
        CudaSteps(model, StepSizes.foreseen(config, 512), 1, [2], [])
    assert beside.bytes > 2 * GIB
    assert 0.5 * GIB < budget <= 0.92 * 8 * GIB - beside.bytes


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "fp8"])
def test_a_block_takes_the_bytes_that_are_counted(kind):
    directory = checkpoint("qwen3-tied")
    config = EngineConfig(model=str(directory), backend="cuda", dtype="float32", kv_cache_dtype=kind)
    model = opened(directory, config, Weighed(GIB))
    taken = []
    for blocks in (1, 6):
        with Weighing() as weighing:
            expansion, rows = Expansion.allocate(1, 1, 1, "meta"), Rows.allocate(1, 1, "meta")
            attach(model, expansion, rows, blocks, 1)
        taken.append(weighing.bytes)
    assert taken[1] - taken[0] == 5 * model.bytes_per_block


def test_a_step_that_does_not_fit_is_told_with_numbers(wide_model, monkeypatch):
    monkeypatch.setattr(CudaModel, "forward", lambda *_: None)
    config = EngineConfig(model=str(wide_model), backend="cuda", dtype="float32", max_batch_size=4096)
    with pytest.raises(OutOfMemoryError, match=r"leave 1073741824 bytes.*a step needs \d+.*max_batch_size"):
        kv_budget(opened(wide_model, config, Weighed(GIB)), config)


@pytest.mark.parametrize(("prefill", "rows"), [(4112, 64 + 256), (None, 64 + 256), (90, 90)])
def test_the_largest_step_samples_all_rows_and_scores_a_prompt(wide_model, monkeypatch, prefill, rows):
    asked = []
    monkeypatch.setattr(
        CudaModel, "forward", lambda _, shape, logits: asked.append((shape.rows, len(logits), shape.tokens))
    )
    config = EngineConfig(
        model=str(wide_model),
        backend="cuda",
        dtype="float32",
        max_batch_size=64,
        max_batch_prefill_tokens=prefill,
    )
    kv_budget(opened(wide_model, config, Weighed(8 * GIB)), config)
    assert asked == [(rows, rows, prefill or 4096)]


@pytest.mark.parametrize(
    "settings", [{}, {"max_batch_size": 3, "max_top_n_tokens": 20, "max_total_tokens": 100}]
)
def test_an_engine_asks_for_what_was_foreseen(settings):
    directory = checkpoint("llama2")
    config = EngineConfig(model=str(directory), backend="cpu", **settings)
    model = ModelConfig.load(directory)
    foreseen = StepSizes.foreseen(config, model.context_length)
    plan = plan_kv_cache(
        BYTES, model.context_length, config.max_batch_size, 2**40, config.max_total_tokens, 0
    )
    rings = engine._engine(config, engine._tokenizer(config, directory), plan, [2], model.vocab).rings()
    asked = (rings.max_rows, foreseen.tokens, rings.max_scores, rings.max_model_len)
    assert foreseen == StepSizes(*asked, rings.arena_words, rings.results_words, rings.top_cap)


def test_a_slot_fits_a_word():
    plan = plan_kv_cache(1, 2**21, 4096, 2**40, None, 0)
    assert plan.num_blocks == MAX_BLOCKS
    assert (plan.num_blocks - 1) * 16 + 15 == 2**31 - 1
