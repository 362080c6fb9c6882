"""What a request may ask beyond sampling: biases, grammars, a watermark, the prompt's log-probabilities."""

import asyncio
import json
import re
import threading
from dataclasses import replace

import pytest

from agentlm import LLM, Grammar, SamplingParams
from agentlm.errors import InvalidRequestError
from tests.engine.idle import wait_idle
from tests.model.small import make_small

GREEDY = SamplingParams(max_new_tokens=12, ignore_eos=True)
PROMPT = list(range(40, 90))


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    model = make_small(tmp_path_factory.mktemp("cache"))
    settings = {"dtype": "float32", "threads": 1, "max_total_tokens": 512, "max_batch_size": 16}
    with LLM(model, progress=False, **settings) as llm:
        yield llm


# biases


def test_a_bias_is_added_to_its_tokens_logit_and_leaves_log_probabilities_raw(cpu):
    plain = cpu.generate([PROMPT], replace(GREEDY, logprobs=True))[0]
    unlikely = next(token for token in range(300, 400) if token not in plain.token_ids)
    biased = cpu.generate([PROMPT], replace(GREEDY, logprobs=True, logit_bias={unlikely: 100.0}))[0]
    assert biased.token_ids == (unlikely,) * 12
    # The model itself finds it no likelier than before.
    assert biased.logprobs[0] < plain.logprobs[0]
    without = replace(GREEDY, logit_bias=dict.fromkeys(plain.token_ids, -100.0))
    assert not {*cpu.generate([PROMPT], without)[0].token_ids} & {*plain.token_ids}


def test_a_bias_on_a_token_beyond_the_vocabulary_is_refused(cpu):
    with pytest.raises(InvalidRequestError, match=r"`logit_bias`.*512"):
        cpu.generate([PROMPT], SamplingParams(logit_bias={512: 1.0}))


# grammars

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "level": {"enum": ["low", "high"]}},
    "required": ["ok", "level"],
    "additionalProperties": False,
}


def fits_schema(text: str) -> bool:
    value = json.loads(text)
    return value.keys() == {"ok", "level"} and type(value["ok"]) is bool and value["level"] in ("low", "high")


@pytest.mark.parametrize(
    ("grammar", "fits"),
    [
        (Grammar.choice(["alpha", "beta", "Grüße"]), lambda text: text in ("alpha", "beta", "Grüße")),
        (Grammar.regex("[ab]{3}c?"), lambda text: re.fullmatch("[ab]{3}c?", text) is not None),
        (Grammar.json_schema(SCHEMA), fits_schema),
        (Grammar.lark('start: "x" | "y"'), lambda text: text in ("x", "y")),
    ],
    ids=lambda value: value.kind if isinstance(value, Grammar) else "",
)
def test_the_text_follows_the_grammar_and_others_of_the_batch_do_not(cpu, grammar, fits):
    free = cpu.generate([PROMPT], GREEDY)[0]
    drawn = SamplingParams(max_new_tokens=100, temperature=1.0, grammar=grammar)
    several = [replace(drawn, seed=1), GREEDY, replace(drawn, seed=2), replace(drawn, temperature=0.0)]
    answers = cpu.generate([PROMPT] * 4, several)
    assert answers[1].token_ids == free.token_ids
    for answer in (answers[0], *answers[2:]):
        assert answer.finish_reason == "eos_token"
        assert fits(answer.text), answer.text


def test_any_json_object_is_one(cpu):
    # A random model would write on and on: towards the end it is biased.
    brief = {ord("{"): 50.0, ord("}"): 100.0}
    params = SamplingParams(max_new_tokens=200, grammar=Grammar.json_object(), logit_bias=brief)
    [answer] = cpu.generate([PROMPT], params)
    assert answer.finish_reason == "eos_token"
    assert isinstance(json.loads(answer.text), dict)


def test_a_bad_grammar_is_refused_for_its_prompt_before_any_is_submitted(cpu):
    bad = replace(GREEDY, grammar=Grammar.regex("(unclosed"))
    steps = wait_idle(cpu)["steps"]
    with pytest.raises(InvalidRequestError, match=r"^prompt 1: grammar is not valid: ") as told:
        cpu.generate([PROMPT] * 3, [GREEDY, bad, GREEDY])
    assert told.value.prompt == 1
    assert "\n" not in str(told.value)
    with pytest.raises(InvalidRequestError, match=r"^grammar is not valid: "):
        next(cpu.stream(PROMPT, bad))
    assert wait_idle(cpu)["steps"] == steps


def test_an_event_loop_leaves_compiling_to_another_thread(cpu, monkeypatch):
    compiling = []

    def check(llm, ids, params, real=LLM._check):
        compiling.append(threading.current_thread())
        real(llm, ids, params)

    monkeypatch.setattr(LLM, "_check", check)
    schema = Grammar.json_schema({"type": "object", "properties": {"name": {"type": "string"}}})

    async def run():
        with pytest.raises(InvalidRequestError, match="grammar is not valid"):
            await cpu.agenerate(PROMPT, replace(GREEDY, grammar=Grammar.regex("(")))
        return await cpu.agenerate(PROMPT, replace(GREEDY, grammar=schema))

    assert asyncio.run(run()).text.startswith("{")
    assert len(compiling) == 2
    assert threading.main_thread() not in compiling


# the watermark


def test_a_watermark_changes_what_is_drawn_and_repeats(cpu):
    params = SamplingParams(max_new_tokens=40, temperature=1.0, seed=3, ignore_eos=True)
    marked = replace(params, watermark=True)
    plain, once, again = cpu.generate([PROMPT] * 3, [params, marked, marked])
    assert once.token_ids == again.token_ids
    assert once.token_ids != plain.token_ids


# the prompt's log-probabilities


def test_a_prompt_is_scored_as_its_tokens_were_when_they_were_generated(cpu):
    written = cpu.generate([PROMPT], replace(GREEDY, max_new_tokens=400, top_n_tokens=3))[0]
    # Longer than what is scored in one step.
    whole = [*PROMPT, *written.token_ids]
    params = SamplingParams(max_new_tokens=2, top_n_tokens=3, prompt_logprobs=True, ignore_eos=True)
    plain, scored = cpu.generate([whole] * 2, [replace(params, prompt_logprobs=False), params])
    assert plain.prompt_logprobs is None
    assert plain.prompt_top_logprobs is None
    assert scored.token_ids == plain.token_ids
    assert scored.logprobs == plain.logprobs
    assert len(scored.prompt_logprobs) == len(scored.prompt_top_logprobs) == len(whole)
    assert scored.prompt_logprobs[0] is None
    assert scored.prompt_top_logprobs[0] == ()
    assert all(-50 < logprob <= 0 for logprob in scored.prompt_logprobs[1:])
    # Equal to the last bit: a score does not depend on how the prompt was cut.
    assert scored.prompt_logprobs[len(PROMPT) :] == written.logprobs
    assert scored.prompt_top_logprobs[len(PROMPT) :] == written.top_logprobs


def test_streams_and_event_loops_have_the_prompts_scores_too(cpu):
    params = replace(GREEDY, prompt_logprobs=True)
    expected = cpu.generate([PROMPT], params)[0].prompt_logprobs
    assert len(expected) == len(PROMPT)
    chunks = list(cpu.stream(PROMPT, params))
    assert [chunk.index for chunk in chunks] == list(range(1, 13))
    assert chunks[-1].completion.prompt_logprobs == expected
    assert chunks[-1].completion.prompt_top_logprobs is None

    async def run():
        return await cpu.agenerate(PROMPT, params)

    assert asyncio.run(run()).prompt_logprobs == expected


def test_a_prompt_of_one_token_has_nothing_to_score(cpu):
    [answer] = cpu.generate([[5]], replace(GREEDY, prompt_logprobs=True))
    assert answer.prompt_logprobs == (None,)
