"""MT-Bench: what a judge is asked, how its rating is read, and that a judge's failure is no low rating."""

import asyncio
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from agentlm_evals.errors import DataError, LimitReached
from agentlm_evals.harness.episode import Episode
from agentlm_evals.harness.plan import RunSettings, plan_task
from agentlm_evals.harness.run import run_episode
from agentlm_evals.models.scripted import ScriptedModel
from agentlm_evals.models.template import llama2
from agentlm_evals.outcome import Outcome, right
from agentlm_evals.protocols import AGENTLM, AGENTTUNING, Protocol
from agentlm_evals.protocols.source import load
from agentlm_evals.task import Sample, Setting, Source, scripted
from agentlm_evals.tasks.mt_bench import TASK
from agentlm_evals.tasks.mt_bench.judging import OWN, rating, read_prompts, request


def setting(directory: Path | None = None, protocol: Protocol = Protocol(AGENTLM)) -> Setting:  # noqa: B008
    return Setting(Source(directory), protocol)


def run(
    where: Setting,
    sample: str,
    replies: list[str],
    judgements: list[str] | None,
    judge: str = "gpt-4",
    origin: str = "api.openai.com",
    settings: RunSettings = RunSettings(),  # noqa: B008  # frozen
):
    asked = []

    def judging(prompt):
        asked.append(prompt)
        return judgements[len(asked) - 1]

    plan = plan_task(TASK, where, replace(settings, sample_ids=(sample,)))
    episode = Episode(
        sample=plan.samples[0],
        setting=where,
        model=ScriptedModel(scripted(*replies)),
        decoding=plan.decoding,
        overridden=plan.overridden,
        judge=None if judgements is None else ScriptedModel(judging, judge, origin),
    )
    return asyncio.run(run_episode(plan, episode)).score, episode, asked


def test_the_rating_of_a_question_is_the_mean_of_its_turns():
    score, episode, asked = run(
        setting(), "own-19", [" It is lighter. ", "Frozen."], ["Fine: [[8]]", "Rating: [[5.5]]"]
    )
    assert (score.outcome, score.value) == (Outcome.WRONG, 6.75)
    assert score.details["ratings"] == [8.0, 5.5]
    assert "It is lighter." in asked[0][1].content
    assert "Why does ice float on water?" in asked[0][1].content
    assert "Frozen." not in asked[0][1].content
    assert "Frozen." in asked[1][1].content
    assert [message.role for message in episode.messages] == ["user", "assistant", "user", "assistant"]


def test_a_judge_without_a_rating_is_a_fault_and_not_a_low_rating():
    score, *_ = run(setting(), "own-19", ["a"], ["I would say eight.", "[[7]]"])
    assert score.outcome is Outcome.HARNESS_FAULT
    assert score.details["why"] == "the judge gave no rating of turn 1"
    assert score.details["ratings"] == [None, 7.0]


def test_no_judge_is_a_fault_that_says_what_to_do():
    score, *_ = run(setting(), "own-19", ["a"], None)
    assert score.outcome is Outcome.HARNESS_FAULT
    assert "--judge-url" in score.details["why"]


@pytest.mark.parametrize(
    ("judge", "origin", "why"),
    [
        ("gpt-4", "api.openai.com", None),
        ("GPT-4-0613", "api.openai.com", None),
        ("gpt-4", "127.0.0.1", "local judge"),
        ("gpt-4", "gpu3", "local judge"),
        ("gpt-4", "10.0.0.7, 10.0.0.8", "local judge"),
        ("gpt-4o-mini", "api.openai.com", "the published judge is GPT-4 of 2023"),
        ("agentlm-7b", "judge.example.org", "the published judge is GPT-4 of 2023"),
    ],
)
def test_only_gpt_4s_ratings_are_comparable(judge, origin, why):
    _, episode, _ = run(setting(), "own-19", ["a"], ["[[8]]", "[[8]]"], judge, origin)
    assert (episode.notes["comparable"], episode.notes.get("incomparable")) == (why is None, why)
    assert episode.notes["judge"] == f"{judge} ({origin})"


def test_an_answer_too_long_for_the_judge_is_no_limit_of_the_models():
    def refuse(_prompt):
        raise LimitReached("the prompt does not fit")

    plan = plan_task(TASK, setting(), RunSettings(limit=1))
    episode = Episode(
        plan.samples[0], setting(), ScriptedModel(scripted("a")), plan.decoding, judge=ScriptedModel(refuse)
    )
    score = asyncio.run(run_episode(plan, episode)).score
    assert score.outcome is Outcome.HARNESS_FAULT
    assert "the judge cannot read the answer" in score.details["why"]


def test_a_temperature_of_the_command_line_is_every_categorys():
    settings = RunSettings(temperature=0.0)
    _, episode, _ = run(setting(), "own-01", ["a"], ["[[8]]", "[[8]]"], settings=settings)
    assert episode.sample.category == "writing"
    assert {call.decoding.temperature for call in episode.calls} == {0.0}


def test_temperatures_are_the_categories():
    found = {}
    for sample in TASK.samples(setting()):
        _, episode, _ = run(setting(), sample.id, ["a"], ["[[8]]", "[[8]]"])
        found[sample.category] = {call.decoding.temperature for call in episode.calls}
    assert found == {
        "writing": {0.7}, "roleplay": {0.7}, "extraction": {0.0}, "math": {0.0}, "coding": {0.0}, "reasoning": {0.0},
        "stem": {0.1}, "humanities": {0.1},
    }  # fmt: skip


def test_math_is_judged_beside_the_reference():
    _, _, asked = run(setting(), "own-10", ["72", "19"], ["[[10]]", "[[10]]"])
    assert "Width 6, length 12, area 72." in asked[0][1].content
    assert "91 - 72 = 19" in asked[1][1].content


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[[7]]", 7.0),
        ("Rating: [[9.5]] because", 9.5),
        ("[8]", 8.0),
        ("[1] is cited; [[3]]", 3.0),
        ("7/10", None),
        ("[[0]]", None),
        ("[[11]]", None),
        ("", None),
    ],
)
def test_ratings_are_read_in_double_brackets_first(text, value):
    assert rating(text) == value


def test_a_reference_that_is_missing_is_said():
    with pytest.raises(DataError, match="category math has no reference answer for turn 2"):
        request(OWN, "math", ["q", "r"], ["a", "b"], ["x"], 2)


def test_the_official_set_is_judged_with_fastchats_words(data_dir):
    where = setting(data_dir)
    samples = TASK.samples(where)
    assert len(samples) == TASK.max_samples == 80
    assert sum(1 for sample in samples if sample.input["category"] in ("math", "reasoning", "coding")) == 30
    assert TASK.versions(where) == {"judge prompts": "FastChat's"}
    assert TASK.versions(setting()) == {"judge prompts": "ours"}
    score, _, asked = run(where, "111", ["a", "b"], ["[[3]]", "[[4]]"])
    assert score.value == 3.5
    assert "[The Start of Reference Answer]" in asked[0][1].content
    assert "<|The Start of Reference Answer|>" in asked[1][1].content
    assert "{" not in asked[0][1].content.replace("{}", "")


def test_the_published_dialogue_has_its_system_prompt():
    where = setting(protocol=Protocol(AGENTTUNING, {"system": "Be nice."}))
    _, episode, _ = run(where, "own-01", ["a"], ["[[8]]", "[[8]]"])
    assert (episode.messages[0].role, episode.messages[0].content) == ("system", "Be nice.")
    assert episode.calls[0].decoding.max_new_tokens == 4096


def test_a_file_of_judge_prompts_that_lacks_one_is_refused(tmp_path):
    path = tmp_path / "judge_prompts.jsonl"
    path.write_text('{"name": "single-v1", "system_prompt": "s", "prompt_template": "t"}\n')
    with pytest.raises(DataError, match="single-math-v1"):
        read_prompts(path)


def test_the_report_has_each_turns_mean():
    scores = {"a": [right(8.0, ratings=[9.0, 7.0])], "b": [right(7.0, ratings=[8.0, 6.0])]}
    assert TASK.numbers(scores) == {"turn 1": 8.5, "turn 2": 6.5}


def test_own_questions_cover_the_eight_categories():
    samples = TASK.samples(setting())
    assert len(samples) == 24
    assert len({sample.category for sample in samples}) == 8


PROMPTS = [
    "16a6d9b2097e410ccc854d0b1176d9dbdac97fa0fe7bb7863ce8f50bccd7790c",
    "9ca27999394b42a284632d71ae570652c0b818bf49585496e9d56a784d3db45f",
]
"""SHA-256 of the prompts that the original makes of the two turns below, its requests stubbed, with FastChat 0.2.31."""


def test_the_published_dialogue_is_the_originals_to_the_byte():
    if not (directory := os.environ.get("AGENTLM_PROTOCOLS")):
        pytest.skip("needs a checkout of THUDM/AgentTuning: $AGENTLM_PROTOCOLS names no directory")
    protocol = load("mt-bench", Path(directory))
    body = {"turns": ["Why does ice float?\n", "And  then?"], "category": "stem", "reference": None}
    episode = Episode(
        sample=Sample("1", body),
        setting=setting(protocol=protocol),
        model=ScriptedModel(scripted(" It is lighter.\n", "Frozen.")),
        decoding=TASK.decoding(protocol.name),
        judge=ScriptedModel(lambda _: "[[8]]", "judge"),
    )
    asyncio.run(TASK.solve(episode))
    assert [sha256(llama2(call.prompt).encode()).hexdigest() for call in episode.calls] == PROMPTS
    assert {call.decoding.temperature for call in episode.calls} == {0.1}
