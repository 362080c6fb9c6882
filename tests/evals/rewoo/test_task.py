"""ReWOO: plans carried out with the real tools, both gradings, and what is drawn from the sets."""

import asyncio
import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from agentlm_evals.errors import ConfigError, DataError
from agentlm_evals.harness.episode import Episode
from agentlm_evals.harness.plan import RunSettings, plan_task
from agentlm_evals.harness.run import run_episode
from agentlm_evals.models.scripted import ScriptedModel
from agentlm_evals.models.template import llama2
from agentlm_evals.outcome import Outcome, right, wrong
from agentlm_evals.protocols import AGENTLM, AGENTTUNING, Protocol
from agentlm_evals.protocols.source import load
from agentlm_evals.task import Sample, Setting, Source, resolve_options, scripted
from agentlm_evals.tasks.rewoo import TASK, items, texts
from agentlm_evals.tasks.rewoo.grading import by_rule, verdict
from agentlm_evals.tasks.rewoo.plan import read_call, read_plan

OURS = Protocol(AGENTLM)


def setting(directory: Path | None = None, protocol: Protocol = OURS, **options: str) -> Setting:
    return Setting(Source(directory), protocol, resolve_options(TASK, options))


def run_all(where: Setting, chosen, judgement: str | None = None):
    """(sample, agent) to scores and episodes, all with the same tools."""

    async def run_them():
        plan = plan_task(TASK, where, RunSettings())
        by_id = {sample.id: sample for sample in plan.samples}
        done = []
        async with TASK.environment(where) as environment:
            for name, agent in chosen(by_id) if callable(chosen) else chosen:
                episode = Episode(
                    sample=by_id[name],
                    setting=where,
                    model=ScriptedModel(agent),
                    decoding=plan.decoding,
                    environment=environment,
                    judge=None if judgement is None else ScriptedModel(lambda _: judgement, "a judge"),
                )
                done.append(((await run_episode(plan, episode)).score, episode))
        return done

    return asyncio.run(run_them())


def gold_of(where: Setting, **kwargs):
    return run_all(where, lambda by_id: [(n, TASK.gold(s, AGENTLM)) for n, s in by_id.items()], **kwargs)


def test_own_questions_have_a_gold_path_and_nothing_scores_nothing():
    assert [score.outcome.value for score, _ in gold_of(setting())] == ["right"] * 22
    nothing = run_all(setting(), lambda by_id: [(name, TASK.nothing()) for name in by_id])
    assert {score.outcome for score, _ in nothing} == {Outcome.FORMAT_OR_LIMIT}
    assert {sample.category for sample in TASK.samples(setting())} == items.TOOLSETS.keys() - {"trivia_qa"}


def test_our_plans_find_what_the_answer_needs():
    evidence = {episode.sample.id: episode.notes["evidence"] for _, episode in gold_of(setting())}
    assert "Hedda Lund" in evidence["own-01"]["#E1"]
    assert "born in Aldersund" in evidence["own-01"]["#E2"]
    assert evidence["own-06"] == {"#E1": "2160"}
    assert evidence["own-08"] == {"#E1": "x = 11"}
    assert "2,300 people" in evidence["own-10"]["#E2"]
    assert "nine stations" in evidence["own-20"]["#E1"]
    assert "Edda Roth" in evidence["own-21"]["#E1"]
    assert evidence["own-22"]["#E2"] == "6"


def test_the_model_is_its_own_tool_and_earlier_results_go_into_later_inputs():
    plan = "Plan: a\n#E1 = Wikipedia[Orr]\nPlan: b\n#E2 = LLM[How long? #E1]\nPlan: c\n#E3 = Nothing[x]"
    prompts = []

    def agent(prompt):
        prompts.append(prompt)
        return [plan, "96 km", "yes"][len(prompts) - 1]

    ((score, episode),) = run_all(setting(), [("own-05", agent)])
    assert score.outcome is Outcome.RIGHT
    assert "How long? [The Orr is a river of 96 km" in prompts[1][-1].content
    assert episode.notes["evidence"]["#E2"] == "96 km"
    assert episode.notes["evidence"]["#E3"] == texts.NOTHING
    assert prompts[2][-1].content.count("Plan: ") == 3
    assert [len(prompt) for prompt in prompts] == [2, 2, 2]
    assert [message.role for message in episode.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]


def test_a_judge_decides_where_there_is_one():
    def judged(said):
        ((score, _),) = run_all(
            setting(), [("own-01", scripted("Plan: a\n#E1 = LLM[b]", "x"))], judgement=said
        )
        return score

    assert judged("CORRECT").outcome is Outcome.RIGHT
    assert judged("Grade: incorrect").outcome is Outcome.WRONG
    assert judged("Hm.").outcome is Outcome.HARNESS_FAULT
    assert judged("CORRECT").details["graded by"] == "a judge"
    assert judged("CORRECT").details["right by our rule"] is False


@pytest.mark.parametrize(
    ("said", "grade"),
    [("CORRECT", True), ("INCORRECT", False), ("It is correct.", True), ("8", None), ("", None)],
)
def test_grades(said, grade):
    assert verdict(said) is grade


@pytest.mark.parametrize(
    ("given", "answer", "is_right"),
    [
        ("The Vesk.", "Vesk", True),
        ("Yes, it is.", "Yes", True),
        ("Yes and no", "Yes", False),
        ("implausible", "plausible", False),
        ("The statement is plausible", "plausible", True),
        ("The total is 2,160 crowns.", "2160", True),
        ("2161", "2160", False),
        ("48 + 24 = 72", "72", True),
        ("48 + 24 = 72", "48", False),
        ("It falls 45 m in 3 s", "45 m", False),
        ("26.5 hours", "Can be one of ['26.5 h', '26.5 hours']", True),
        ("7.19 km", "Can be one of ['7187 m', '7.2 km']", True),
        ("26.5 m", "Can be one of ['26.5 h']", False),
        ("", "Vesk", False),
    ],
)
def test_our_rule(given, answer, is_right):
    assert by_rule(given, answer) is is_right


def test_plans_are_read_line_by_line_and_names_have_one_digit():
    reply = "Sure!\nPlan: one\n#E1 = LLM[a [b] c]\n#E10 = LLM[x]\nnoise\nPlan: two\n#E2 = just text\n#Ex = y"
    plan = read_plan(reply, nothing="none")
    assert plan.steps == ["Plan: one", "Plan: two"]
    assert plan.calls == {"#E1": "LLM[a [b] c]", "#E10": "none", "#E2": "just text"}
    call = read_call("LLM[a #E1 #E9]", {"#E1": "X"})
    assert (call.tool, call.text) == ("LLM", "a [X] #E9")
    assert read_call("just text", {}) is None


PUBLISHED = Protocol(
    AGENTTUNING,
    {
        "system": "S", "planner.prefix": "PP ", "planner.suffix": "PS ", "solver.prefix": "SP ", "solver.suffix": "SS ",
        "tools": "Tools:\n", "tool": "{0}[input]: {1}\n", "evidence": "{0}\nEvidence:\n{1}\n", "none": "none",
        "llm": "Short. {0}", "shots": "shots ", "shots.hotpot_qa": "hotpot ", "shots.trivia_qa": "trivia ",
        "Google": "g", "Wikipedia": "w", "WolframAlpha": "a", "Calculator": "c", "LLM": "l", "SearchSOTU": "in {0}",
        "SearchSOTU.document": "sotu",
    },
)  # fmt: skip


def test_the_published_dialogue_is_put_together_as_the_originals():
    plan = "Plan: a\n#E1 = LLM[b]\n[INST] more"
    ((score, episode),) = run_all(setting(protocol=PUBLISHED), [("own-02", scripted(plan, "Vesk [INST] x"))])
    question = episode.sample.input["question"]
    assert score.outcome is Outcome.RIGHT
    assert (
        episode.messages[1].content
        == f"PP Tools:\nWikipedia[input]: w\nLLM[input]: l\n\nhotpot PS {question}\n"
    )
    assert episode.messages[3].content == f"SP {question}\nPlan: a\nEvidence:\nVesk\nSS {question}\n"
    assert episode.decoding.truncate == 4000


def test_a_published_step_without_evidence_ends_the_episode():
    plan = "Plan: a\nPlan: b\n#E1 = LLM[b]"
    ((published, _), (ours, _)) = (
        run_all(setting(protocol=protocol), [("own-02", scripted(plan, "Vesk"))])[0]
        for protocol in (PUBLISHED, OURS)
    )
    assert published.outcome is Outcome.FORMAT_OR_LIMIT
    assert ours.outcome is Outcome.RIGHT


def test_fifty_of_each_set_are_drawn_as_pandas_draws_them(data_dir):
    samples = TASK.samples(setting(data_dir))
    counts = {}
    for sample in samples:
        counts[sample.category] = counts.get(sample.category, 0) + 1
    assert counts == dict.fromkeys(items.TOOLSETS.keys() - {"trivia_qa"}, 50)
    # pandas 3.1.1: DataFrame({"x": range(75)}).sample(50, random_state=2024).index[:5]
    assert items.drawn(75)[:5] == [3, 2, 67, 68, 54]
    assert len(set(items.drawn(2290))) == 50
    assert TASK.versions(setting(data_dir))["without"] == "trivia_qa"


def test_real_questions_have_a_gold_path(data_dir):
    scores = [score for score, _ in gold_of(setting(data_dir))]
    assert [score.details for score in scores if score.outcome is not Outcome.RIGHT] == []
    assert len(scores) == 300


def test_trivia_qa_completes_the_set_where_its_file_is(data_dir, tmp_path):
    for name in ("rewoo", "gsm8k", "hotpotqa"):
        (tmp_path / name).mkdir()
        for path in (data_dir / name).iterdir():
            (tmp_path / name / path.name).symlink_to(path)
    # As `datasets` writes the split: an answer has a value and other names for it.
    rows = [{"question": f"Who is {at}?", "answer": {"value": f"N{at}", "aliases": []}} for at in range(60)]
    file = tmp_path / "rewoo" / "trivia_qa.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = setting(tmp_path)
    samples = TASK.samples(where)
    assert len(samples) == TASK.max_samples == 350
    first = next(sample for sample in samples if sample.category == "trivia_qa")
    assert (first.id, first.target) == (f"trivia_qa/{items.drawn(60)[0]}", f"N{items.drawn(60)[0]}")
    assert "without" not in TASK.versions(where)
    file.write_text(json.dumps({"question": "Who?", "answer": "N"}))
    with pytest.raises(DataError, match=r"trivia_qa\.jsonl:1 has no question, or no answer with a value"):
        TASK.samples(where)


def test_a_file_of_questions_says_whose_tools_they_have(tmp_path):
    file = tmp_path / "mine.jsonl"
    row = {"question": "Who rules Vesk?", "answer": "Ada", "kind": "hotpot_qa"}
    context = [["Vesk", ["Vesk is a town. ", "Ada rules it."]]]
    file.write_text(json.dumps(row | {"context": context}) + "\n" + json.dumps(row | {"kind": "gsm8k"}))
    where = Setting(Source(file=file), OURS, resolve_options(TASK, {}))
    assert [sample.id for sample in TASK.samples(where)] == ["hotpot_qa/0", "gsm8k/1"]
    plan = "Plan: Look it up.\n#E1 = Wikipedia[Vesk]"
    ((score, episode),) = run_all(where, [("hotpot_qa/0", scripted(plan, "Ada"))])
    assert score.outcome is Outcome.RIGHT
    assert episode.notes["evidence"] == {"#E1": "Vesk is a town. Ada rules it."}
    for other in ({}, row | {"kind": "poetry"}, row | {"answer": 1}):
        file.write_text(json.dumps(other))
        with pytest.raises(DataError, match=r"mine\.jsonl:1 must have `question`, `answer` and `kind`"):
            TASK.samples(where)
    file.write_text(json.dumps(row | {"context": [1]}))
    with pytest.raises(DataError, match=r"mine\.jsonl:1: `context` is not a list"):
        run_all(where, [("hotpot_qa/0", scripted(plan, "Ada"))])


def test_a_folder_without_any_set_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"strategy_qa\.csv"):
        TASK.samples(setting(tmp_path))


def test_live_tools_want_their_keys(tmp_path):
    assert TASK.requirements(setting(tools="live"))[0].how.startswith("-T rewoo.keys=FOLDER")
    assert TASK.requirements(setting(tools="live", keys=str(tmp_path))) == []
    with pytest.raises(ConfigError, match=r"serper\.key"):
        run_all(setting(tools="live", keys=str(tmp_path)), [])


def test_the_report_has_exact_match_and_f1():
    scores = {"a": [right(exact=True, f1=1.0)], "b": [wrong(exact=False, f1=0.5)]}
    assert TASK.numbers(scores) == {"exact match": 50.0, "F1": 75.0}


DIALOGUES = [
    (
        "hotpot_qa",
        "On which river does Aldersund lie?",
        [
            """Plan: Find the town.\n#E1 = Wikipedia[Aldersund]
Plan: Read.\n#E2 = LLM[Which river? Given context: #E1]\n[INST] more""",
            " the Vesk\n",
            "Vesk",
        ],
        {"Aldersund": "Aldersund lies on the Vesk."},
        [
            "34891123121e74db2711fd9572111abab2491396c7f0d528653c652722acaea7",
            "ef5dd1521258245e16c68969117e071a167cc96b7113439779f9ee4ab70f4fff",
            "9488f5ebb06a59fcffbf0fa067ada10aae81597199a24f3575ee1d075390c36f",
        ],
    ),
    (
        "sotu_qa",
        "How many stations? ",
        [
            """Plan: Search.\n#E1 = SearchSOTU[stations]
Plan: Sum.\n#E2 = Calculator[4 + 5]\nPlan: None.\n#E3 = Wikipedia[x]""",
            "9",
        ],
        {"stations": "nine stations", "4 + 5": "9"},
        [
            "8f3734093989480ce0044cc4e6b653502b212609af4210a2ae136bc4d502a7f9",
            "bfb9910a4224d24b874c6885207216d7874cd033ee4290eeca11dcb5dbb4e1b3",
        ],
    ),
]
"""(set, question, replies, tools' results, SHA-256 of the prompts that the original makes of them, its tools stubbed)."""


@pytest.mark.parametrize(("kind", "question", "replies", "results", "prompts"), DIALOGUES)
def test_the_published_dialogue_is_the_originals_to_the_byte(kind, question, replies, results, prompts):
    if not (directory := os.environ.get("AGENTLM_PROTOCOLS")):
        pytest.skip("needs a checkout of THUDM/AgentTuning: $AGENTLM_PROTOCOLS names no directory")
    protocol = load("rewoo", Path(directory))

    async def tool(text: str) -> str:
        return results[text]

    episode = Episode(
        Sample("1", {"question": question, "kind": kind}, "x"),
        Setting(Source(), protocol, resolve_options(TASK, {})),
        ScriptedModel(scripted(*replies)),
        TASK.decoding(protocol.name),
        environment=dict.fromkeys(("Wikipedia", "SearchSOTU", "Calculator", "Google"), tool),
    )
    asyncio.run(TASK.solve(episode))
    assert protocol.template == "llama-2"
    assert [sha256(llama2(call.prompt).encode()).hexdigest() for call in episode.calls] == prompts
