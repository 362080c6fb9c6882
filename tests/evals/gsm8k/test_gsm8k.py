"""GSM8K: how numbers are read, what the gold answers score, and the dialogue as the original has it."""

import os
from collections import Counter
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import pytest

from agentlm_evals.harness.doctor import examine
from agentlm_evals.harness.episode import Episode
from agentlm_evals.model import Decoding
from agentlm_evals.models.choice import ModelChoice, open_model
from agentlm_evals.models.scripted import ScriptedModel
from agentlm_evals.models.template import llama2
from agentlm_evals.outcome import Outcome, format_or_limit
from agentlm_evals.protocols import AGENTLM, AGENTTUNING, Protocol
from agentlm_evals.protocols.source import load
from agentlm_evals.task import Sample, Setting, Source, scripted
from agentlm_evals.tasks.gsm8k import TASK, last_digits, last_number
from tests.evals.server import said, scripted_server, tgi

OWN = Setting(Source(), Protocol(AGENTLM))


@pytest.mark.parametrize(
    ("reply", "whole", "digits"),
    [
        ("The answer is 42", "42", "42"),
        ("It costs $20,800.", "20800", "800"),
        ("So it is 3.5", "3.5", "5"),
        ("The temperature is -8 degrees", "-8", "8"),
        ("That is −8.", "-8", "8"),
        ("7 + 5 = 12. Question: What is 99?", "12", "12"),
        ("10 - 3 = 7", "7", "7"),
        ("a range of 3-7", "7", "7"),
        ("The answer is 007", "7", None),
        ("It is $.50", "0.50", "50"),
        ("no number here", None, None),
        ("", None, None),
    ],
)
def test_the_last_number_by_both_rules(reply: str, whole: str | None, digits: str | None) -> None:
    assert last_number(reply) == (whole and Decimal(whole))
    assert last_digits(reply) == (digits and Decimal(digits))


def test_a_reply_without_a_number_has_not_the_form() -> None:
    sample = Sample("1", {"question": "?", "answer": "#### 5"}, "5")
    assert TASK.score(sample, "five", AGENTLM).outcome is Outcome.FORMAT_OR_LIMIT
    assert TASK.score(sample, "5", AGENTLM).outcome is Outcome.RIGHT
    assert TASK.score(sample, "6", AGENTLM).outcome is Outcome.WRONG


def test_both_verdicts_are_kept_whichever_decides() -> None:
    sample = Sample("1", {"question": "?", "answer": "#### 20800"}, "20800")
    ours, original = (TASK.score(sample, "It is 20,800", name) for name in (AGENTLM, AGENTTUNING))
    assert (ours.outcome, original.outcome) == (Outcome.RIGHT, Outcome.WRONG)
    assert ours.details["right by last digits"] is False
    assert original.details["right by whole number"] is True


async def test_the_gold_answers_of_our_own_samples_are_right_and_nothing_else_is() -> None:
    finding = await examine(TASK, OWN)
    assert (finding.gold, finding.solved, finding.nothing_solved) == (24, 24, 0)


def test_our_own_samples_cover_signs_decimals_and_separators() -> None:
    targets = [str(sample.target) for sample in TASK.samples(OWN)]
    assert any("-" in target for target in targets)
    assert any("." in target for target in targets)
    assert any("," in target for target in targets)


async def test_the_gold_answers_of_the_official_set_are_right() -> None:
    source = Source(_data())
    finding = await examine(TASK, Setting(source, Protocol(AGENTLM)))
    assert (finding.gold, finding.solved, finding.nothing_solved) == (1319, 1319, 0)
    finding = await examine(TASK, Setting(source, Protocol(AGENTTUNING, Texts())))
    # Items 489 and 1113 have a negative answer, which the original's rule never reads.
    assert (finding.gold, finding.solved, finding.without) == (1317, 1317, 2)


class Texts(dict[str, str]):
    """Stands for the published texts where only the scorer is asked."""

    def __missing__(self, key: str) -> str:
        return "{0}" if key == "question" else key


def _data() -> Path:
    if not (directory := os.environ.get("AGENTLM_DATA")):
        pytest.skip("needs the official items: $AGENTLM_DATA names no directory")
    return Path(directory)


DIALOGUES = {
    "How many legs do 3 dogs have?": "fd93aeab2fef52d6cf7556555ea6e9f233c666ca46f3f6cadd9fb2120af228d3",
    "  Two {braces} and a newline\nhere?": "56e31a97a5bb555271030502c5af7154cc079d6102bb40108cbf9409f7bfcb26",
}
"""SHA-256 of the prompts that the original makes of these questions, by running it with FastChat 0.2.31."""


@pytest.mark.parametrize("question", DIALOGUES)
async def test_the_published_dialogue_is_the_originals_to_the_byte(question: str) -> None:
    if not (directory := os.environ.get("AGENTLM_PROTOCOLS")):
        pytest.skip("needs a checkout of THUDM/AgentTuning: $AGENTLM_PROTOCOLS names no directory")
    protocol = load("gsm8k", Path(directory))
    episode = Episode(
        Sample("1", {"question": question, "answer": "#### 12"}, "12"),
        Setting(Source(), protocol),
        ScriptedModel(scripted("12")),
        Decoding(max_new_tokens=512),
    )
    await TASK.solve(episode)
    assert protocol.template == "llama-2"
    assert sha256(llama2(episode.messages[:-1]).encode()).hexdigest() == DIALOGUES[question]


async def test_what_reaches_a_tgi_server_is_the_originals_prompt_to_the_byte() -> None:
    if not (directory := os.environ.get("AGENTLM_PROTOCOLS")):
        pytest.skip("needs a checkout of THUDM/AgentTuning: $AGENTLM_PROTOCOLS names no directory")
    question, digest = next(iter(DIALOGUES.items()))
    protocol = load("gsm8k", Path(directory))
    sample = Sample("1", {"question": question, "answer": "#### 12"}, "12")
    async with scripted_server(tgi(lambda _: said("The answer is 12"))) as server:
        async with open_model(ModelChoice(), [server.url]) as model:
            episode = Episode(
                sample,
                Setting(Source(), protocol),
                model.with_template(str(protocol.template)),
                TASK.decoding(AGENTTUNING),
            )
            answer = await TASK.solve(episode)
        (body,) = server.bodies("/generate")
    assert sha256(body["inputs"].encode()).hexdigest() == digest
    assert body["parameters"] == {"max_new_tokens": 512, "details": True, "do_sample": False}
    assert TASK.score(sample, answer, AGENTTUNING).outcome is Outcome.RIGHT


def test_examples_are_not_to_be_trained_on() -> None:
    episode = Episode(TASK.samples(OWN)[0], OWN, ScriptedModel(scripted("12")), Decoding(max_new_tokens=512))
    TASK._pose(episode, 8)
    turns = Counter((message.role, message.loss) for message in episode.messages)
    assert turns == {("system", True): 1, ("user", True): 10, ("assistant", False): 9}


def test_the_report_has_the_number_by_both_rules() -> None:
    sample = Sample("1", {"question": "?", "answer": "#### 3.5"}, "3.5")
    other = Sample("2", {"question": "?", "answer": "#### 20"}, "20")
    scores = {
        "1": [TASK.score(sample, "The answer is 3.5", AGENTLM)],
        "2": [TASK.score(other, "The answer is 20", AGENTLM), format_or_limit("too long")],
    }
    found = TASK.numbers(scores)
    assert found == pytest.approx({"by whole number": 200 / 3, "by last digits": 100 / 3})
