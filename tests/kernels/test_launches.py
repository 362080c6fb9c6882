"""How the largest step that a configuration allows is launched: grids that a GPU takes.

The interpreter takes any grid; CUDA ends the second and third dimension at 65,535 programs.
"""

import pytest
import torch
from triton.runtime import interpreter

from agentlm_kernels import int4_linear
from agentlm_kernels.arena import Expansion, Rows, apply_changes, expand
from agentlm_kernels.attention import AttentionStep, DecodeWorkspace, SplitPolicy, paged_decode, paged_prefill
from agentlm_kernels.embedding import embed
from agentlm_kernels.fp8_linear import narrow_rows
from agentlm_kernels.int4_linear import widen_int4
from agentlm_kernels.int8_linear import widen_bytes
from agentlm_kernels.invariant_linear import invariant_linear
from agentlm_kernels.lora import lora
from agentlm_kernels.norm import add_rms_norm, rms_norm
from agentlm_kernels.quantized_linear import QuantizedWeight, quantized_linear
from agentlm_kernels.rope_cache import rope_cache
from agentlm_kernels.sampling import (
    ResultsLayout,
    SamplerBuffers,
    SamplerSettings,
    sample_fast,
    sample_full,
    score_rows,
)
from agentlm_kernels.swiglu import swiglu

TOKENS = 2**20
"""The largest `max_batch_prefill_tokens`."""
ROWS = 4096
"""The largest `max_batch_size`."""
HIDDEN, INTER, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 4096, 14336, 64, 8, 128, 152064

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="launches are looked at in the interpreter")


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")


def ints(*shape):
    return meta(*shape, dtype=torch.int32)


@pytest.fixture
def grids(monkeypatch):
    """Grids of what is launched; nothing is computed."""
    found = {}

    def launch(self, *_args, **_options):
        found[self.fn.__name__] = self.grid

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch)
    # There is no driver to be asked.
    monkeypatch.setattr(int4_linear, "_is_nvidia", lambda _: False)
    return found


def attention():
    cache = [meta(4096, KV_HEADS, 16, HEAD_DIM) for _ in range(2)]
    qkv, out = meta(TOKENS, (HEADS + 2 * KV_HEADS) * HEAD_DIM), meta(TOKENS, HEADS * HEAD_DIM)
    policy = SplitPolicy.for_step(ROWS, KV_HEADS)
    step = AttentionStep(
        ints(ROWS + 1), ints(ROWS), ints(ROWS), ints(ROWS + 1, 512), ints(ROWS * 64), ints(1)
    )
    given = {"heads": HEADS, "scale": 1.0, "out": out}
    paged_prefill(qkv, *cache, step, **given)
    workspace = DecodeWorkspace.allocate(ROWS, HEADS, KV_HEADS, HEAD_DIM, "meta")
    paged_decode(qkv[:ROWS], *cache, step, policy, workspace, **given)
    tables = [meta(8192, HEAD_DIM // 2, dtype=torch.float32) for _ in range(2)]
    rope_cache(qkv, ints(TOKENS), ints(TOKENS), *tables, *cache, HEADS, KV_HEADS, HEAD_DIM)


def layer():
    x = meta(TOKENS, HIDDEN)
    embed(meta(VOCAB, HIDDEN), ints(TOKENS))
    rms_norm(x, meta(HIDDEN), 1e-5)
    add_rms_norm(x, x, meta(HIDDEN), 1e-5)
    swiglu(meta(TOKENS, 2 * INTER))
    invariant_linear(x, meta(VOCAB, HIDDEN))
    narrow_rows(x)
    lora(
        x,
        ints(TOKENS),
        meta(4, 16, HIDDEN),
        meta(4, INTER, 16),
        meta(4, dtype=torch.float32),
        meta(TOKENS, INTER),
    )


def narrow():
    data, scales = meta(VOCAB, HIDDEN, dtype=torch.int8), meta(VOCAB, dtype=torch.float32)
    packed, parameters = meta(VOCAB, HIDDEN // 4, dtype=torch.int16), ints(VOCAB, HIDDEN // 128)
    for weight in (
        QuantizedWeight("int8", data, scales, HIDDEN),
        QuantizedWeight("int4", packed, parameters, HIDDEN, 128),
    ):
        quantized_linear(meta(TOKENS, HIDDEN), weight, invariant=True)
    widen_bytes(data, scales, meta(VOCAB, HIDDEN))
    widen_int4(packed, parameters, 128, meta(VOCAB, HIDDEN))


def plan():
    rows = Rows.allocate(ROWS, 131072, "meta")
    apply_changes(ints(1 << 20), rows, ROWS)
    into = Expansion.allocate(ROWS, TOKENS, 256, "meta")
    expand(ints(1 << 20), rows, into, ROWS, SplitPolicy.for_step(ROWS, KV_HEADS))


def sampling():
    layout, settings = ResultsLayout(ROWS, 20, 256), SamplerSettings(ints(2), VOCAB)
    buffers = SamplerBuffers.allocate(ROWS, 256, VOCAB, "meta")
    logits = meta(ROWS, VOCAB, dtype=torch.float32)
    given = (logits, ints(ROWS), ints(ROWS), ints(ROWS + 1, 24), ints(ROWS + 1, 131072))
    into = (buffers, settings, ints(layout.words), layout)
    sample_fast(*given, *into)
    sample_full(*given, ints(ROWS + 1, 2048), ints(ROWS, VOCAB // 32), *into)
    score_rows(logits[:256], ints(256), ints(256), ints(ROWS + 1, 24), *into)


@pytest.mark.parametrize("launch", [attention, layer, narrow, plan, sampling])
def test_the_largest_step_has_grids_that_a_gpu_takes(grids, launch):
    launch()
    assert len(grids) > 1
    assert {name: grid for name, grid in grids.items() if max((*grid[1:], 1)) > 65535} == {}
    assert all(grid[0] < 2**31 for grid in grids.values())
