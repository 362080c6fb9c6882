"""HotpotQA: the closed corpus, an episode's steps, F1 by hand, and the dialogue as the original has it."""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentlm_evals.errors import DataError, EnvironmentFault, LimitReached
from agentlm_evals.harness.doctor import examine
from agentlm_evals.harness.episode import Episode
from agentlm_evals.model import Decoding, Prompt
from agentlm_evals.models.scripted import ScriptedModel
from agentlm_evals.outcome import Outcome
from agentlm_evals.protocols import AGENTLM, Protocol
from agentlm_evals.protocols.source import load
from agentlm_evals.task import Agent, Sample, Setting, Source, scripted
from agentlm_evals.tasks.hotpotqa import TASK, read_action
from agentlm_evals.tasks.hotpotqa.articles import Articles
from agentlm_evals.tasks.hotpotqa.reading import Article, Encyclopedia, NothingOpenError, Visit
from agentlm_evals.tasks.hotpotqa.scoring import f1, is_exact
from agentlm_evals.tasks.hotpotqa.wikipedia import Wikipedia

OWN = Setting(Source(), Protocol(AGENTLM))
FIXED = json.loads((Path(__file__).parent / "published.json").read_text())


def article(title: str, *sentences: str) -> Article:
    return Article(title, " ".join(sentences), sentences)


CORPUS = Articles(
    [
        article("Ambrel", "The Ambrel is the longest river.", "It rises on Mount Harrick."),
        article("Verano de Escándalo (1998)", "A show in Madero."),
        article("Mercury (planet)", "The planet."),
        article("Mercury (element)", "The metal."),
        article("Mount Harrick", "The highest mountain.", "A river rises on it.", "Nobody lives on it."),
    ]
)


def episode(agent: Agent, encyclopedia: Encyclopedia = CORPUS, setting: Setting = OWN) -> Episode:
    sample = Sample("1", {"question": "How long is it?", "type": "bridge", "titles": []}, "ten miles", "easy")
    return Episode(
        sample, setting, ScriptedModel(agent), Decoding(256, stop=("\n",)), environment=encyclopedia
    )


# --- the corpus ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("Ambrel", "Ambrel"),
        ("  the-ambrel", None),
        ("AMBREL.", "Ambrel"),
        ("Verano de Escandalo (1998)", "Verano de Escándalo (1998)"),
        ("Verano de Escándalo", "Verano de Escándalo (1998)"),
        ("Mercury (element)", "Mercury (element)"),
        # It could be either.
        ("Mercury", None),
    ],
)
async def test_titles_are_found_whatever_their_signs(name: str, title: str | None) -> None:
    found = await CORPUS.find(name)
    assert (found and found.title) == title


async def test_a_search_without_an_article_names_those_that_match_best() -> None:
    assert await CORPUS.similar("the highest mountains") == ["Mount Harrick"]
    assert set(await CORPUS.similar("rivers rising on a mountain")) == {"Ambrel", "Mount Harrick"}
    assert await CORPUS.similar("?") == []
    visit = Visit(CORPUS)
    assert (
        await visit.search("highest mountain")
        == "Could not find [highest mountain]. Similar: ['Mount Harrick']"
    )


async def test_keywords_are_looked_up_one_sentence_after_the_other() -> None:
    visit = Visit(CORPUS)
    with pytest.raises(NothingOpenError):
        visit.lookup("on it")
    await visit.search("Mount Harrick")
    assert visit.lookup("on it") == "(Result 1/2) A river rises on it."
    assert visit.lookup("ON IT") == "(Result 2/2) Nobody lives on it."
    assert visit.lookup("on it") == "No More Results"
    assert visit.lookup("river") == "(Result 1/1) A river rises on it."
    assert visit.lookup("whale") == "No Results"
    await visit.search("nowhere")
    with pytest.raises(NothingOpenError):
        visit.lookup("river")


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "right", "value"),
    [
        ("the River Ambrel!", "river ambrel", 1),
        ("Ambrel", "river Ambrel", 2 / 3),
        ("the long river Ambrel", "river Ambrel", 4 / 5),
        ("yes", "no", 0),
        ("yes it is", "yes", 0),
        ("yes", "yes, of course", 0),
        ("Yes.", "yes", 1),
        ("", "Ambrel", 0),
        ("the", "Ambrel", 0),
    ],
)
def test_f1_by_hand(answer: str, right: str, value: float) -> None:
    assert f1(answer, right) == pytest.approx(value)


def test_an_answer_is_right_to_the_word_else_worth_its_f1() -> None:
    sample = Sample("1", {}, "river Ambrel", "easy")
    score = TASK.score(sample, "The river Ambrel", AGENTLM)
    assert (score.outcome, score.value) == (Outcome.RIGHT, 1)
    score = TASK.score(sample, "Ambrel", AGENTLM)
    assert (score.outcome, score.value) == (Outcome.WRONG, pytest.approx(2 / 3))
    assert not is_exact("Ambrel river", "river Ambrel")


# --- an episode ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("Search[Ambrel]", ("Search", "Ambrel")),
        ("Search[Ambrel].", ("Search", "Ambrel")),
        ("Finish[a [b] c]", ("Finish", "a [b] c")),
        ("Lookup[x] and more", ("Lookup", "x")),
        ("I would search", ("I would search", "")),
        ("", ("", "")),
    ],
)
def test_how_an_action_is_read(reply: str, action: tuple[str, str]) -> None:
    assert read_action(reply) == action


async def test_every_step_is_a_thought_an_action_and_what_is_seen() -> None:
    prompts: list[str] = []
    replies = iter(["It is a river.", "Search[Ambrel]", "Done.", "Finish[96 miles]"])

    def agent(prompt: Prompt) -> str:
        assert isinstance(prompt, str)
        prompts.append(prompt)
        return next(replies)

    run = episode(agent)
    assert await TASK.solve(run) == "96 miles"
    assert prompts[0].endswith("(END OF EXAMPLES)\nQuestion: How long is it?\nThought 1:")
    assert prompts[1].endswith("\nThought 1: It is a river.\nAction 1:")
    seen = "\nObservation 1: The Ambrel is the longest river. It rises on Mount Harrick."
    assert prompts[2].endswith(f"\nAction 1: Search[Ambrel]{seen}\nThought 2:")
    assert [message.role for message in run.messages] == ["user", "assistant", "user", "assistant"]
    assert run.messages[1].content == "Thought 1: It is a river.\nAction 1: Search[Ambrel]"
    assert run.messages[3].content == "Thought 2: Done.\nAction 2: Finish[96 miles]"


async def test_ten_steps_without_an_answer_are_the_limit() -> None:
    run = episode(scripted("AAAAA"))
    with pytest.raises(LimitReached, match="no answer in 10 steps"):
        await TASK.solve(run)
    assert len(run.calls) == 20
    assert (
        run.messages[2].content
        == "Observation 1: That is no action. Use Search[title], Lookup[keyword] or Finish[answer]."
    )


async def test_the_gold_answers_of_our_own_samples_are_right_and_nothing_else_is() -> None:
    finding = await examine(TASK, OWN)
    assert (finding.gold, finding.solved, finding.nothing_solved) == (24, 24, 0)


def test_our_own_samples_cover_every_level_and_kind_of_answer() -> None:
    samples = TASK.samples(OWN)
    assert {sample.category for sample in samples} == {"easy", "medium", "hard"}
    assert {sample.input["type"] for sample in samples} == {"bridge", "comparison"}
    assert {"yes", "no"} < {sample.target for sample in samples}
    assert any(str(sample.target).isdecimal() for sample in samples)


async def test_the_gold_answers_of_the_official_set_are_right(data_dir: Path) -> None:
    setting = Setting(Source(data_dir), Protocol(AGENTLM))
    finding = await examine(TASK, setting)
    assert (finding.gold, finding.solved, finding.nothing_solved) == (300, 300, 0)
    async with TASK.environment(setting) as articles:
        assert isinstance(articles, Articles)
        assert len(articles) == 2958


def test_items_that_are_none_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text('{"id": "1", "question": "?"}\n')
    with pytest.raises(
        DataError, match="HotpotQA's item 0 has no answer, context, level, supporting_facts, type"
    ):
        TASK.samples(Setting(Source(file=file), Protocol(AGENTLM)))


# --- the live Wikipedia ----------------------------------------------------------------------------------------------


def _wikipedia(request: httpx.Request) -> httpx.Response:
    """Answers as the API does, of three pages."""
    query = request.url.params
    if query.get("list") == "search":
        found = {"ambrel river": ["Ambrel", "Brenn"], "mercury": ["Mercury"], "nothing": []}[
            query["srsearch"]
        ]
        return httpx.Response(200, json={"query": {"search": [{"title": title} for title in found]}})
    page: dict[str, Any] = {"title": query["titles"], "extract": "The first.\n\nThe second river."}
    if query["titles"] == "Mercury":
        page["pageprops"] = {"disambiguation": ""}
    return httpx.Response(200, json={"query": {"pages": [page]}})


async def test_the_live_search_opens_its_best_match() -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(_wikipedia)) as client:
        visit = Visit(Wikipedia(client))
        assert await visit.search("ambrel river") == "The first."
        assert visit.lookup("river") == "(Result 1/1) The second river."
        assert await visit.search("mercury") == "Could not find [mercury]. Similar: ['Mercury']"
        assert await visit.search("nothing") == "Could not find [nothing]. Similar: []"


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(503),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"error": {"code": "ratelimited"}}),
    ],
)
async def test_a_wikipedia_that_does_not_answer_is_a_harness_fault(answer: httpx.Response) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _request: answer)) as client:
        with pytest.raises(EnvironmentFault, match="Wikipedia"):
            await Wikipedia(client).find("x")


def test_the_search_is_on_every_row() -> None:
    assert TASK.versions(OWN)["search"].startswith("hotpotqa-closed, bm25s ")
    live = Setting(Source(), Protocol(AGENTLM), {"search": "wikipedia"})
    assert TASK.versions(live) == {"search": "live Wikipedia"}


# --- the published protocol ------------------------------------------------------------------------------------------


class Pages:
    """The pages that the original was given in Wikipedia's place when these dialogues were made."""

    async def find(self, name: str) -> Article | None:
        paragraphs = FIXED["pages"].get(name)
        return paragraphs and Article(name, paragraphs[0], tuple(paragraphs))

    async def similar(self, name: str) -> list[str]:
        return list(FIXED["pages"])


@pytest.mark.parametrize("at", range(3))
async def test_the_published_dialogue_is_the_originals_to_the_byte(at: int) -> None:
    """SHA-256 of every prompt that the original made with these replies, LangChain's explorer of documents in it."""
    if not (directory := os.environ.get("AGENTLM_PROTOCOLS")):
        pytest.skip("needs a checkout of THUDM/AgentTuning: $AGENTLM_PROTOCOLS names no directory")
    dialogue = FIXED["dialogues"][at]
    prompts: list[str] = []
    replies = iter(dialogue["replies"])

    def agent(prompt: Prompt) -> str:
        prompts.append(str(prompt))
        return str(next(replies))

    sample = Sample("1", {"question": dialogue["question"]}, dialogue["answer"], "easy")
    setting = Setting(Source(), load("hotpotqa", Path(directory)))
    model = ScriptedModel(agent)
    run = Episode(sample, setting, model, Decoding(256, stop=("\n",)), environment=Pages())
    try:
        answer = await TASK.solve(run)
    except LimitReached:
        answer = ""
    assert answer == dialogue["given"]
    assert f1(answer, sample.target) == pytest.approx(dialogue["f1"])
    assert [sha256(prompt.encode()).hexdigest() for prompt in prompts] == dialogue["sha256"]


async def test_the_published_protocol_ends_where_its_prompt_is_too_long() -> None:
    texts = dict.fromkeys(("thought", "action", "observation", "nothing open", "invalid", "examples"), "x")
    texts["instruction"] = "word " * 1700 + "{examples}{question}{scratchpad}"
    run = episode(scripted("x"), setting=Setting(Source(), Protocol("agenttuning", texts)))
    with pytest.raises(LimitReached, match="the protocol ends at 1700"):
        await TASK.solve(run)
    assert not run.calls
