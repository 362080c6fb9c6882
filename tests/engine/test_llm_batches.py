"""A batch of prompts: some refused, some that fail, more than there are places, answers as they finish."""

import threading
import time

import pytest

from agentlm import LLM, SamplingParams
from agentlm.errors import GenerationError, InvalidRequestError, OverloadedError
from tests.engine.idle import SECONDS, wait_idle
from tests.model import families
from tests.model.small import make_small

SHORT = SamplingParams(max_new_tokens=6, ignore_eos=True)
LONG = SamplingParams(max_new_tokens=3000, ignore_eos=True)
NOT_FINITE = "the model's logits for this request hold no finite number"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def mock(model):
    with LLM(model, backend="mock", mock_step_time=0.002, progress=False) as llm:
        yield llm


# refused before anything is computed


def test_one_bad_prompt_fails_the_call_before_anything_is_computed(mock):
    steps = wait_idle(mock)["steps"]
    with pytest.raises(InvalidRequestError):
        mock.generate([[5, 6], [7, 8], [5] * 5000], SamplingParams(max_new_tokens=2000, ignore_eos=True))
    with pytest.raises(InvalidRequestError, match="2 prompts but 1"):
        mock.generate([[5], [6]], [SamplingParams()])
    assert wait_idle(mock)["steps"] == steps


def test_a_refusal_says_which_prompt_it_means(mock):
    with pytest.raises(InvalidRequestError, match=r"^prompt 2: `inputs`") as told:
        mock.generate(["a", "b", [5] * 100_000])
    assert told.value.prompt == 2
    with pytest.raises(InvalidRequestError, match=r"^`inputs`"):
        mock.generate([5] * 100_000)


# failed while it was computed: logits that are not finite


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """An engine whose logits behind the token `bad` are no numbers, and what it should say to `[5, 6]`."""
    directory = families.write(tmp_path_factory.mktemp("broken"), "llama2", seed=0)
    settings = {"dtype": "float32", "threads": 1, "max_total_tokens": 128, "progress": False}
    with LLM(directory, **settings) as llm:
        [sound] = llm.generate([[5, 6]], SHORT)
    # A token that a sound request never reads.
    bad = next(token for token in range(30, 256) if token not in sound.token_ids)
    with LLM(families.poison(directory, bad), **settings) as llm:
        yield llm, bad, sound.token_ids


def test_a_failed_request_leaves_the_others_their_answers(broken):
    llm, bad, sound = broken
    prompts = [[5, 6], [5, bad], [5, 6], [7, bad], [5, 6]]
    with pytest.raises(GenerationError) as told:
        llm.generate(prompts, SHORT)
    assert str(told.value) == f"2 of 5 requests failed; the first, prompt 1: {NOT_FINITE}"
    assert told.value.failed == {1: NOT_FINITE, 3: NOT_FINITE}
    assert [one and one.token_ids for one in told.value.completions] == [sound, None, sound, None, sound]
    # What failed has left nothing behind in the blocks that others are given next.
    ended = dict(llm.as_completed(prompts, SHORT))
    assert sorted(ended) == [0, 1, 2, 3, 4]
    assert {index for index, one in ended.items() if isinstance(one, GenerationError)} == {1, 3}
    assert [ended[index].token_ids for index in (0, 2, 4)] == [sound] * 3
    wait_idle(llm)


def test_one_failed_request_is_told_as_it_is(broken):
    llm, bad, sound = broken
    with pytest.raises(GenerationError, match=f"^{NOT_FINITE}$"):
        llm.generate([[5, bad]], SHORT)
    with pytest.raises(GenerationError, match=f"^{NOT_FINITE}$"):
        list(llm.stream([5, bad], SHORT))
    assert llm.generate([[5, 6]], SHORT)[0].token_ids == sound


# answers as they finish


def test_dropping_the_iterator_of_what_is_finished_aborts_the_rest(mock):
    lengths = [SamplingParams(max_new_tokens=n, ignore_eos=True) for n in (2, 3000)]
    running = mock.as_completed([[5], [6]], lengths)
    assert next(running)[0] == 0
    running.close()
    wait_idle(mock)


# more prompts than places


@pytest.fixture(scope="module")
def narrow(model):
    """Takes three requests at once."""
    with LLM(model, backend="mock", mock_step_time=0.002, max_concurrent_requests=3, progress=False) as llm:
        yield llm


def test_a_batch_is_submitted_as_places_become_free_and_keeps_its_order(mock, narrow):
    prompts = [[5 + index, 6, 7] for index in range(20)]
    params = [SamplingParams(max_new_tokens=1 + (7 * index) % 13, ignore_eos=True) for index in range(20)]
    expected = [one.token_ids for one in mock.generate(prompts, params)]
    assert [one.token_ids for one in narrow.generate(prompts, params)] == expected
    wait_idle(narrow)


def test_places_are_filled_while_the_caller_looks_at_an_answer(narrow):
    steps = wait_idle(narrow)["steps"]
    running = narrow.as_completed([[index] for index in range(5, 11)], SHORT)
    next(running)
    deadline = time.monotonic() + SECONDS
    # One at least that had waited runs on, although nobody asks for its answer yet: twice six steps in all.
    while narrow.stats()["steps"] < steps + 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert narrow.stats()["steps"] >= steps + 12
    assert len(list(running)) == 5
    wait_idle(narrow)


def test_a_dropped_batch_frees_its_places_and_submits_no_more(narrow):
    running = narrow.as_completed([[5]] * 50, [SHORT, *[LONG] * 49])
    next(running)
    running.close()
    wait_idle(narrow)
    assert len(narrow.generate([[5]] * 4, SHORT)) == 4


def test_a_batch_waits_for_places_that_others_hold(narrow):
    held = [narrow.stream([5 + index], LONG) for index in range(3)]
    for stream in held:
        next(stream)
    # A request of its own is refused.
    with pytest.raises(OverloadedError):
        next(narrow.stream("alone"))
    answers: list = []
    thread = threading.Thread(target=lambda: answers.extend(narrow.generate([[20], [21]], SHORT)))
    thread.start()
    time.sleep(0.1)
    assert not answers
    held[0].close()
    thread.join(SECONDS)
    assert [len(one.token_ids) for one in answers] == [6, 6]
    for stream in held:
        stream.close()
    wait_idle(narrow)
