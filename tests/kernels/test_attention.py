"""Paged attention against plain torch: decodes, prefills, chunks and mixtures of them."""

from dataclasses import replace

import pytest
import torch

from agentlm_kernels.attention import (
    AT_ONCE,
    BLOCK_SIZE,
    MAX_SPLITS,
    AttentionStep,
    DecodeWorkspace,
    SplitPolicy,
    decode_work,
    paged_decode,
    paged_prefill,
    reference_attention,
)

SHAPES = [(8, 2, 16), (4, 4, 8), (7, 1, 24), (6, 2, 64)]
"""Query heads, key-value heads, head dimension."""
MIXED = [(1, 1), (1, 70), (5, 5), (1, 300), (33, 90), (2, 2), (1, 16), (3, 40)]
"""Queries and keys of each entry."""


class Case:
    """A step over a cache of random values, whose unused positions are NaN."""

    def __init__(self, device, entries, heads, kv_heads, head_dim, dtype=torch.float32, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.heads, self.scale = heads, head_dim**-0.5
        lengths = [q for q, _ in entries]
        contexts = [context for _, context in entries]
        blocks = [-(-context // BLOCK_SIZE) for context in contexts]
        order = torch.randperm(sum(blocks) + 3, generator=generator)
        rows = torch.randperm(len(entries) + 2, generator=generator)[: len(entries)]
        tables = torch.full((len(entries) + 2, max(blocks, default=0) + 2), 2**30, dtype=torch.int32)
        caches = [torch.full((len(order), kv_heads, BLOCK_SIZE, head_dim), float("nan")) for _ in range(2)]
        at = 0
        for row, n, context in zip(rows.tolist(), blocks, contexts, strict=True):
            cells = order[at : at + n]
            tables[row, :n] = cells.int()
            at += n
            for cache in caches:
                values = torch.randn(n * BLOCK_SIZE, kv_heads, head_dim, generator=generator)
                values[context:] = float("nan")
                cache[cells] = values.view(n, BLOCK_SIZE, kv_heads, head_dim).transpose(1, 2)
        self.k, self.v = (cache.to(device, dtype) for cache in caches)
        width = (heads + 2 * kv_heads) * head_dim
        self.q = torch.randn(sum(lengths), width, generator=generator).to(device, dtype)
        q_start = torch.tensor([0, *lengths]).cumsum(0).int().to(device)
        context_len = torch.tensor(contexts, dtype=torch.int32, device=device)
        self.policy = SplitPolicy(64, 8)
        work, n_work = decode_work(q_start, context_len, self.policy)
        self.step = AttentionStep(
            q_start, context_len, rows.int().to(device), tables.to(device), work, n_work
        )
        self.workspace = DecodeWorkspace.allocate(max(len(entries), 1), heads, kv_heads, head_dim, device)

    def run(self, guarded, window=None, min_q=2):
        head_dim = self.k.shape[-1]
        out = guarded((self.q.shape[0], self.heads * head_dim), self.q.dtype)
        given = {"heads": self.heads, "scale": self.scale, "window": window, "out": out.tensor}
        if min_q > 1:
            paged_decode(self.q, self.k, self.v, self.step, self.policy, self.workspace, **given)
        paged_prefill(self.q, self.k, self.v, self.step, min_q=min_q, **given)
        out.check()
        assert (self.workspace.arrivals == 0).all()
        return out.tensor.view(-1, self.heads, head_dim).float()

    def expected(self, window=None):
        return reference_attention(
            self.q, self.k, self.v, self.step, heads=self.heads, scale=self.scale, window=window
        )


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
def test_a_mixed_step_is_what_torch_computes(device, guarded, heads, kv_heads, head_dim):
    case = Case(device, MIXED, heads, kv_heads, head_dim)
    torch.testing.assert_close(case.run(guarded), case.expected(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [1, 7, 64, 1000])
def test_a_window_hides_what_lies_before_it(device, guarded, window):
    case = Case(device, MIXED, 4, 2, 16, seed=1)
    torch.testing.assert_close(case.run(guarded, window), case.expected(window), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [32, 128])
def test_narrow_types_are_as_close_as_their_rounding(device, guarded, dtype, head_dim):
    case = Case(device, [(1, 130), (20, 40), (1, 3)], 8, 2, head_dim, dtype, seed=2)
    torch.testing.assert_close(case.run(guarded), case.expected(), atol=2e-2, rtol=2e-2)


def test_halves_hold_the_weights_of_small_float8_values(device, guarded):
    # A weight times the scale of a value of a thousandth is below a half's smallest number.
    case = Case(device, [(1, 1500), (3, 900)], 2, 2, 32, torch.float16, seed=6)
    keys, values = case.k.nan_to_num(0).float(), case.v.nan_to_num(0).float() * 1e-3
    scales = [x.abs().amax(-1).clamp_min(1e-12) / 448 for x in (keys, values)]
    case.k, case.v = (
        (x / scale[..., None]).to(torch.float8_e4m3fn)
        for x, scale in zip((keys, values), scales, strict=True)
    )
    out = guarded((case.q.shape[0], 2 * 32), case.q.dtype)
    given = {"heads": 2, "scale": case.scale, "k_scale": scales[0], "v_scale": scales[1]}
    paged_decode(case.q, case.k, case.v, case.step, case.policy, case.workspace, out=out.tensor, **given)
    paged_prefill(case.q, case.k, case.v, case.step, out=out.tensor, **given)
    expected = reference_attention(case.q, case.k, case.v, case.step, **given)
    error = (out.tensor.view(-1, 2, 32).float() - expected).norm() / expected.norm()
    assert error < 0.005


def test_padding_entries_are_left_alone(device, guarded):
    case = Case(device, [(1, 40), (1, 0), (1, 0)], 4, 2, 16, seed=3)
    out = case.run(guarded)
    torch.testing.assert_close(out[:1], case.expected()[:1], atol=2e-5, rtol=1e-4)
    assert out[1:].isnan().all()


def test_one_kernel_gives_a_query_the_same_bits_in_any_company(device, guarded):
    alone = Case(device, [(1, 90)], 8, 2, 16, seed=4)
    token = alone.run(guarded, min_q=1)
    longer = Case(device, [(17, 90)], 8, 2, 16, seed=4)
    longer.k, longer.v, longer.q[-1] = alone.k, alone.v, alone.q[-1]
    longer.step = replace(longer.step, entry_row=alone.step.entry_row, block_tables=alone.step.block_tables)
    assert torch.equal(longer.run(guarded, min_q=1)[-1], token[-1])


def test_how_keys_are_cut_changes_only_rounding(device, guarded):
    case = Case(device, [(1, 500), (1, 64)], 4, 2, 16, seed=5)
    cut = case.run(guarded)
    case.policy = SplitPolicy(1024, 8)
    work, n_work = decode_work(case.step.q_start, case.step.context_len, case.policy)
    case.step = replace(case.step, work=work, n_work=n_work)
    assert n_work.item() == 2
    torch.testing.assert_close(case.run(guarded), cut, atol=2e-5, rtol=1e-4)


def test_the_policy_fills_the_gpu_with_few_requests_and_hardly_splits_with_many():
    assert SplitPolicy.for_step(1, 8) == SplitPolicy(128, 49)
    assert SplitPolicy.for_step(256, 8) == SplitPolicy(4096, 8)


@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8, 32])
def test_pieces_of_few_long_requests_fill_whole_turns(kv_heads):
    for entries in range(1, AT_ONCE // kv_heads + 1):
        splits = SplitPolicy.for_step(entries, kv_heads).max_splits
        pieces = entries * kv_heads * splits
        assert 6 <= splits <= MAX_SPLITS
        assert splits == MAX_SPLITS or pieces / (-(-pieces // AT_ONCE) * AT_ONCE) > 0.85
