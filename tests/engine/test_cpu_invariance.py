"""A request's tokens and log-probabilities do not depend on its company, its chunks or its luck with the cache.

Every comparison is to the last bit: linears and attention reduce in an order of their own.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from agentlm import SamplingParams
from agentlm.runtime.memory import BLOCK_SIZE
from tests.engine.cpu_models import (
    CONTEXT,
    GREEDY,
    ISAS,
    VOCAB,
    Run,
    checkpoint,
    generate_together,
    need_isa,
    opened,
    run,
)
from tests.model import families

NEW_TOKENS = 24
ROWS = 4
"""Requests in a ragged batch: one of each length of `families.PROMPT_LENGTHS`."""

SAMPLED = SamplingParams(ignore_eos=True, temperature=0.9, top_p=0.95, top_k=50, seed=7)


@cache
def alone(case: str, seed: int, isa: str = "auto", params: SamplingParams = GREEDY) -> list[Run]:
    """Each prompt of the batch in an engine step of its own."""
    with opened(checkpoint(case, seed), cpu_isa=isa) as llm:
        return [run(llm, [prompt], NEW_TOKENS, params)[0] for prompt in families.prompts(seed)]


def assert_same(runs: list[Run], expected: list[Run]) -> None:
    assert [r.tokens for r in runs] == [r.tokens for r in expected]
    assert all(ours.same_as(theirs) for ours, theirs in zip(runs, expected, strict=True))


def blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_SIZE)


def bytes_of(case: str, num_blocks: int) -> int:
    """Bytes of so many float32 blocks of a case's model."""
    with opened(checkpoint(case)) as llm:
        return num_blocks * llm.info.kv_cache_bytes // llm.info.num_blocks


CASES_AND_SEEDS = [
    pytest.param(case, seed, id=f"{case}-{seed}") for case in families.CASES for seed in families.SEEDS
]


@pytest.mark.parametrize(("case", "seed"), CASES_AND_SEEDS)
def test_in_a_ragged_batch(case: str, seed: int) -> None:
    with opened(checkpoint(case, seed)) as llm:
        runs = run(llm, families.prompts(seed), NEW_TOKENS)
        stats = llm.stats()
    assert_same(runs, alone(case, seed))
    # A step or two may have gone ahead with the first of them.
    assert NEW_TOKENS <= stats["steps"] < 1.5 * NEW_TOKENS


@pytest.mark.parametrize(("case", "seed"), CASES_AND_SEEDS)
def test_with_the_prefill_in_chunks(case: str, seed: int) -> None:
    with opened(checkpoint(case, seed), max_batch_prefill_tokens=32, max_batch_size=ROWS) as llm:
        for prompt, expected in zip(families.prompts(seed), alone(case, seed), strict=True):
            before = llm.stats()["steps"]
            runs = run(llm, [prompt], NEW_TOKENS)
            assert llm.stats()["steps"] - before == -(-len(prompt) // 32) + NEW_TOKENS - 1
            assert_same(runs, [expected])
        # And mixed with others' decodes.
        assert_same(run(llm, families.prompts(seed), NEW_TOKENS), alone(case, seed))


@pytest.mark.parametrize(("case", "seed"), CASES_AND_SEEDS)
def test_after_a_prefix_hit(case: str, seed: int) -> None:
    prompts = families.prompts(seed)
    with opened(checkpoint(case, seed), prefix_cache=True) as llm:
        assert_same(run(llm, prompts, NEW_TOKENS), alone(case, seed))
        assert llm.stats()["prefix_hit_tokens"] == 0
        again = run(llm, prompts, NEW_TOKENS)
        hits = llm.stats()["prefix_hit_tokens"]
    assert_same(again, alone(case, seed))
    # Full blocks, and at least the last token is computed.
    cached = [(len(prompt) - 1) // BLOCK_SIZE * BLOCK_SIZE for prompt in prompts]
    assert [r.completion.usage.cached_tokens for r in again] == cached
    assert hits == sum(cached) > 0


@pytest.mark.parametrize(("case", "seed"), CASES_AND_SEEDS)
def test_after_preemption(case: str, seed: int) -> None:
    prompts = families.prompts(seed)
    # One more than the longest request needs, far fewer than all of them.
    memory = bytes_of(case, blocks(len(prompts[-1]) + NEW_TOKENS) + 1)
    with opened(checkpoint(case, seed), kv_cache_memory=memory) as llm:
        # A second of each length competes for the blocks.
        runs = run(llm, [prompts[1], prompts[2], prompts[2], prompts[1], prompts[3], prompts[0]], NEW_TOKENS)
        assert llm.stats()["preemptions"] > 0
    expected = alone(case, seed)
    assert_same(runs, [expected[i] for i in (1, 2, 2, 1, 3, 0)])


@pytest.mark.parametrize("case", families.CASES)
def test_after_preemption_with_a_prefix_cache_and_chunks(case: str) -> None:
    prompts = families.prompts(0)
    memory = bytes_of(case, blocks(len(prompts[-1]) + NEW_TOKENS) + 1)
    settings = {"prefix_cache": True, "max_batch_prefill_tokens": 32, "max_batch_size": ROWS}
    with opened(checkpoint(case), kv_cache_memory=memory, **settings) as llm:
        for _ in range(2):
            runs = run(llm, [prompts[i] for i in (1, 2, 2, 1, 3, 0)], NEW_TOKENS)
            assert_same(runs, [alone(case, 0)[i] for i in (1, 2, 2, 1, 3, 0)])
        stats = llm.stats()
    assert stats["preemptions"] > 0
    assert stats["prefix_hit_tokens"] > 0


@pytest.mark.parametrize("case", families.CASES)
def test_a_conversation_continues_from_cached_output(case: str) -> None:
    opening = families.prompts(0)[2]
    with opened(checkpoint(case), prefix_cache=True) as llm:
        first = run(llm, [opening], 40)[0]
        turn = opening + first.tokens + families.prompts(1)[1]
        second = run(llm, [turn], NEW_TOKENS)[0]
        # The last sampled token was never computed; everything before it was.
        assert second.completion.usage.cached_tokens == (len(opening) + 40 - 1) // BLOCK_SIZE * BLOCK_SIZE
    with opened(checkpoint(case)) as llm:
        assert_same([second], run(llm, [turn], NEW_TOKENS))


@pytest.mark.parametrize("case", families.CASES)
def test_teacher_forced_rows_equal_generated_ones(case: str) -> None:
    """A prefill gives the row that decoding gave at the same position."""
    generated = alone(case, 0)[1]
    with opened(checkpoint(case)) as llm:
        for n in (1, 5, NEW_TOKENS - 1):
            ahead = run(llm, [generated.prompt + generated.tokens[:n]], 1)[0]
            assert np.array_equal(ahead.rows[0], generated.rows[n])


@pytest.mark.parametrize("case", families.CASES)
def test_with_two_threads(case: str) -> None:
    with opened(checkpoint(case), threads=2) as llm:
        assert_same(run(llm, families.prompts(0), NEW_TOKENS), alone(case, 0))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", families.CASES)
def test_on_each_instruction_set(case: str, isa: str) -> None:
    """Batch, chunks, prefix hit and preemption at once, against the same instruction set alone."""
    need_isa(isa)
    prompts = families.prompts(0)
    order = (1, 2, 2, 1, 3, 0)
    memory = bytes_of(case, blocks(len(prompts[-1]) + NEW_TOKENS) + 1)
    with opened(
        checkpoint(case),
        cpu_isa=isa,
        threads=2,
        prefix_cache=True,
        kv_cache_memory=memory,
        max_batch_prefill_tokens=32,
        max_batch_size=ROWS,
    ) as llm:
        for _ in range(2):
            assert_same(
                run(llm, [prompts[i] for i in order], NEW_TOKENS), [alone(case, 0, isa)[i] for i in order]
            )
        stats = llm.stats()
    assert stats["preemptions"] > 0
    assert stats["prefix_hit_tokens"] > 0


STORAGES: dict[str, dict[str, Any]] = {
    "float16": {"dtype": "float16", "kv_cache_dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16", "kv_cache_dtype": "float16"},
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("case", ["llama2-biases", "qwen2-window", "qwen3"])
def test_in_16_bit_storage(case: str, storage: str, isa: str) -> None:
    need_isa(isa)
    prompts = families.prompts(0)
    settings = STORAGES[storage] | {"cpu_isa": isa}
    with opened(checkpoint(case), **settings) as llm:
        expected = [run(llm, [prompt], NEW_TOKENS)[0] for prompt in prompts]
    chunked = {"max_batch_prefill_tokens": 32, "max_batch_size": ROWS, "prefix_cache": True, "threads": 2}
    with opened(checkpoint(case), **settings, **chunked) as llm:
        for _ in range(2):
            assert_same(run(llm, prompts, NEW_TOKENS), expected)
        assert llm.stats()["prefix_hit_tokens"] > 0


@pytest.mark.parametrize(("case", "seed"), CASES_AND_SEEDS)
def test_sampled_with_a_seed_alone_in_a_full_batch_and_preempted(case: str, seed: int) -> None:
    expected = alone(case, seed, params=SAMPLED)
    # The noise matters: these are not the greedy tokens.
    assert [r.tokens for r in expected] != [r.tokens for r in alone(case, seed)]
    prompts = families.prompts(seed)
    several = [SAMPLED] * ROWS + [replace(SAMPLED, seed=100 + i) for i in range(12)]
    together = [replace(one, max_new_tokens=NEW_TOKENS, top_n_tokens=VOCAB) for one in several]
    with opened(checkpoint(case, seed), max_batch_size=16) as llm:
        full = generate_together(llm, prompts * 4, together)
        assert llm.stats()["steps"] < 1.5 * NEW_TOKENS
    assert [list(c.token_ids) for c in full[:ROWS]] == [r.tokens for r in expected]
    assert [c.logprobs for c in full[:ROWS]] == [r.completion.logprobs for r in expected]
    # Another seed, another continuation.
    assert all(full[i].token_ids != full[i % ROWS].token_ids for i in range(ROWS, 16))
    memory = bytes_of(case, blocks(len(prompts[-1]) + NEW_TOKENS) + 1)
    with opened(checkpoint(case, seed), kv_cache_memory=memory) as llm:
        assert_same(
            run(llm, [prompts[i] for i in (1, 2, 2, 1, 3, 0)], NEW_TOKENS, SAMPLED),
            [expected[i] for i in (1, 2, 2, 1, 3, 0)],
        )
        assert llm.stats()["preemptions"] > 0


def test_many_long_requests_in_little_memory_lose_nothing() -> None:
    """Every request runs to the end of the context while the cache holds two of them."""
    case = "llama3"
    rng = np.random.default_rng(5)
    prompts = [[int(t) for t in rng.integers(0, VOCAB, n)] for n in rng.integers(1, 120, 12)]
    params = [replace(GREEDY, max_new_tokens=CONTEXT - len(prompt)) for prompt in prompts]
    with opened(checkpoint(case), max_batch_size=1) as llm:
        one = llm.generate(prompts, params)
    memory = bytes_of(case, 2 * blocks(CONTEXT))
    with opened(checkpoint(case), kv_cache_memory=memory, prefix_cache=True) as llm:
        many = generate_together(llm, prompts, params)
        stats = llm.stats()
    assert stats["preemptions"] >= 4
    assert [c.token_ids for c in many] == [c.token_ids for c in one]
    assert all(c.finish_reason == "length" for c in many)
    assert stats["blocks_held"] == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch_prefill_tokens": 16, "max_batch_size": 16},
        {"max_batch_prefill_tokens": 33, "max_batch_size": 3},
        {"max_batch_size": 1},
        {"max_batch_size": 2, "threads": 5},
        {"steps_in_flight": 2},
        {"steps_in_flight": 2, "prefix_cache": True, "max_batch_prefill_tokens": 32, "max_batch_size": ROWS},
    ],
    ids=str,
)
def test_with_any_limits_of_a_step(settings: dict[str, Any]) -> None:
    for case in ("llama2-biases", "qwen2-window", "qwen3-tied"):
        with opened(checkpoint(case), **settings) as llm:
            for _ in range(2):
                assert_same(run(llm, families.prompts(0), NEW_TOKENS), alone(case, 0))
