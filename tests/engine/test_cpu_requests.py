"""How requests end on the CPU engine, and what they report."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agentlm import SamplingParams
from agentlm.errors import InvalidRequestError
from tests.engine.cpu_models import GREEDY, VOCAB, Run, checkpoint, opened, run
from tests.model import families

PROMPT = families.prompts(0)[1]
CASE = "qwen3"
LENGTH = 32


@pytest.fixture(scope="module")
def plain() -> Run:
    """The greedy continuation that the tests below cut short."""
    with opened(checkpoint(CASE)) as llm:
        return run(llm, [PROMPT], LENGTH)[0]


def with_eos(directory: Path, *ids: int) -> Path:
    """The same checkpoint with other end-of-sequence ids."""
    shutil.copytree(checkpoint(CASE), directory, dirs_exist_ok=True)
    (directory / "generation_config.json").write_text(
        json.dumps({"eos_token_id": list(ids)}), encoding="utf-8"
    )
    return directory


def test_an_end_of_sequence_token_ends_and_is_counted(tmp_path: Path, plain: Run) -> None:
    eos = plain.tokens[10]
    first = plain.tokens.index(eos)
    with opened(with_eos(tmp_path, 0, eos)) as llm:
        ended = llm.generate([PROMPT], SamplingParams(max_new_tokens=LENGTH))[0]
    assert ended.finish_reason == "eos_token"
    assert list(ended.token_ids) == plain.tokens[: first + 1]
    assert ended.usage.completion_tokens == first + 1
    assert ended.usage.prompt_tokens == len(PROMPT)


def test_ignore_eos_goes_on_with_the_same_tokens(tmp_path: Path, plain: Run) -> None:
    with opened(with_eos(tmp_path, plain.tokens[10])) as llm:
        ended = run(llm, [PROMPT], LENGTH, GREEDY)[0]
    assert ended.completion.finish_reason == "length"
    assert ended.same_as(plain)


def test_min_new_tokens_keeps_the_end_from_being_sampled(tmp_path: Path, plain: Run) -> None:
    eos = plain.tokens[10]
    first = plain.tokens.index(eos)
    with opened(with_eos(tmp_path, eos)) as llm:
        params = SamplingParams(min_new_tokens=first + 5)
        ours = run(llm, [PROMPT], LENGTH, params)[0]
        exact = run(llm, [PROMPT], LENGTH, replace(params, min_new_tokens=first))[0]
    assert len(ours.tokens) >= first + 5
    assert eos not in ours.tokens[: first + 5]
    # Where the end would have come, the second choice does.
    assert ours.tokens[:first] == plain.tokens[:first]
    assert ours.tokens[first] == int(np.argsort(-plain.rows[first])[1])
    # That many tokens may be followed by the end.
    assert exact.tokens == plain.tokens[: first + 1]


def test_length_ends_at_the_context(plain: Run) -> None:
    with opened(checkpoint(CASE), max_total_tokens=64) as llm:
        ended = llm.generate([PROMPT], replace(GREEDY, max_new_tokens=None))[0]
    assert ended.finish_reason == "length"
    assert len(PROMPT) + len(ended.token_ids) == 64
    assert list(ended.token_ids[:LENGTH]) == plain.tokens


def test_a_stop_string_ends_the_text_before_it(plain: Run) -> None:
    text = plain.completion.text
    stop = text[len(text) // 2 :][:3]
    assert len(stop) == 3
    with opened(checkpoint(CASE)) as llm:
        params = replace(GREEDY, max_new_tokens=LENGTH, stop=["never there", stop])
        ended = llm.generate([PROMPT], params)[0]
        chunks = list(llm.stream(PROMPT, params))
    assert ended.finish_reason == "stop_sequence"
    assert ended.stop == stop
    assert ended.text == text[: text.index(stop)]
    assert list(ended.token_ids) == plain.tokens[: len(ended.token_ids)]
    assert len(ended.token_ids) < LENGTH
    # Streamed text never shows what is then taken back.
    assert "".join(chunk.text for chunk in chunks) == ended.text
    assert chunks[-1].completion is not None
    assert chunks[-1].completion.finish_reason == "stop_sequence"


def test_a_stop_string_that_never_comes_loses_no_text(plain: Run) -> None:
    # It begins like the text's last character, and so is held back to the end.
    stop = plain.completion.text[-1] + "\x00never"
    with opened(checkpoint(CASE)) as llm:
        ended = llm.generate([PROMPT], replace(GREEDY, max_new_tokens=LENGTH, stop=[stop]))[0]
    assert ended.finish_reason == "length"
    assert ended.text == plain.completion.text


def test_top_tokens_are_sorted_complete_and_agree_with_the_logprobs(plain: Run) -> None:
    tops = plain.completion.top_logprobs
    assert tops is not None
    assert plain.completion.logprobs is not None
    for token, logprob, top in zip(plain.tokens, plain.completion.logprobs, tops, strict=True):
        values = [value for _, value in top]
        assert values == sorted(values, reverse=True)
        assert sorted(token for token, _ in top) == list(range(VOCAB))
        assert top[0] == (token, logprob)
        assert abs(np.exp(values).sum() - 1) < 1e-5


def test_fewer_top_tokens_are_the_first_of_all(plain: Run) -> None:
    tops = plain.completion.top_logprobs
    assert tops is not None
    with opened(checkpoint(CASE)) as llm:
        few = llm.generate([PROMPT], replace(GREEDY, max_new_tokens=LENGTH, top_n_tokens=3))[0]
        only = llm.generate([PROMPT], replace(GREEDY, max_new_tokens=LENGTH, logprobs=True))[0]
        none = llm.generate([PROMPT], replace(GREEDY, max_new_tokens=LENGTH))[0]
    assert few.top_logprobs == tuple(top[:3] for top in tops)
    assert few.logprobs == only.logprobs == plain.completion.logprobs
    assert only.top_logprobs is None
    assert none.logprobs is None


def test_logprobs_are_of_the_raw_logits_whatever_the_sampling() -> None:
    params = SamplingParams(ignore_eos=True, temperature=0.8, top_k=20, frequency_penalty=1.0, seed=4)
    with opened(checkpoint(CASE)) as llm:
        sampled = run(llm, [PROMPT], LENGTH, params)[0]
        forced = [run(llm, [PROMPT + sampled.tokens[:n]], 1)[0].rows[0] for n in range(LENGTH)]
    assert np.array_equal(sampled.rows, np.array(forced))
    assert sampled.completion.logprobs == tuple(sampled.rows[np.arange(LENGTH), sampled.tokens])


def test_a_stream_reports_what_generate_does(plain: Run) -> None:
    with opened(checkpoint(CASE)) as llm:
        chunks = list(llm.stream(PROMPT, replace(GREEDY, max_new_tokens=LENGTH, top_n_tokens=VOCAB)))
    assert [chunk.token_id for chunk in chunks] == plain.tokens
    assert [chunk.index for chunk in chunks] == list(range(1, LENGTH + 1))
    assert tuple(chunk.logprob for chunk in chunks) == plain.completion.logprobs
    assert tuple(chunk.top_logprobs for chunk in chunks) == plain.completion.top_logprobs
    assert "".join(chunk.text for chunk in chunks) == plain.completion.text


def test_a_dropped_stream_frees_its_blocks_and_disturbs_nobody(plain: Run) -> None:
    with opened(checkpoint(CASE)) as llm:
        stream = llm.stream(PROMPT, replace(GREEDY, max_new_tokens=200))
        assert next(stream).token_id == plain.tokens[0]
        stream.close()
        assert run(llm, [PROMPT], LENGTH)[0].same_as(plain)
        stats = llm.stats()
    assert stats["running"] == stats["queued"] == stats["blocks_held"] == 0


@pytest.mark.parametrize("token", [VOCAB, 2**31])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    with opened(checkpoint(CASE)) as llm, pytest.raises(InvalidRequestError):
        llm.generate([[1, token]], GREEDY)


def test_an_empty_prompt_is_refused() -> None:
    with opened(checkpoint(CASE)) as llm, pytest.raises(InvalidRequestError):
        llm.generate([[]], GREEDY)
