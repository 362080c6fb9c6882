"""MMLU: the letters, the gold answers, and the prompt as the original has it."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from agentlm_evals.errors import DataError, FormatError
from agentlm_evals.harness.doctor import examine
from agentlm_evals.harness.episode import Episode
from agentlm_evals.model import Message
from agentlm_evals.models.scripted import ScriptedModel
from agentlm_evals.models.template import llama2
from agentlm_evals.outcome import Outcome
from agentlm_evals.protocols import AGENTLM, Protocol
from agentlm_evals.protocols.source import load
from agentlm_evals.task import Sample, Setting, Source, resolve_options, scripted
from agentlm_evals.tasks.mmlu import TASK
from agentlm_evals.tasks.mmlu.subjects import GROUPS

OWN = Setting(Source(), Protocol(AGENTLM), resolve_options(TASK, {}))


def test_there_are_57_subjects_in_four_groups() -> None:
    assert [len(subjects) for subjects in GROUPS.values()] == [19, 13, 13, 12]


@pytest.mark.parametrize("scoring", ["letters", "generated"])
async def test_the_gold_answers_of_our_own_samples_are_right(scoring: str) -> None:
    finding = await examine(
        TASK, Setting(Source(), Protocol(AGENTLM), resolve_options(TASK, {"scoring": scoring}))
    )
    assert (finding.gold, finding.solved) == (24, 24)


async def test_the_gold_answers_of_the_official_set_are_right() -> None:
    if not (directory := os.environ.get("AGENTLM_DATA")):
        pytest.skip("needs the official items: $AGENTLM_DATA names no directory")
    setting = Setting(Source(Path(directory)), Protocol(AGENTLM), resolve_options(TASK, {}))
    samples = TASK.samples(setting)
    assert len(samples) == 14042
    assert all(len(sample.input["shots"]) == 5 for sample in samples)
    finding = await examine(TASK, setting, 500)
    assert (finding.gold, finding.solved) == (500, 500)


def test_the_likeliest_letter_counts_and_the_first_of_equals() -> None:
    sample = TASK.samples(OWN)[0]
    assert sample.target == "C"
    assert TASK.score(sample, {"scores": [-3.0, -2.0, -1.0, -4.0]}, AGENTLM).outcome is Outcome.RIGHT
    assert TASK.score(sample, {"scores": [-1.0, -1.0, -1.0, -1.0]}, AGENTLM).details["given"] == "A"


@pytest.mark.parametrize(
    ("text", "letter"), [("C", "C"), ("Answer: (B).", "B"), ("A. Because", "A"), ("I say D", "D")]
)
def test_a_generated_letter(text: str, letter: str) -> None:
    assert TASK.score(TASK.samples(OWN)[0], {"text": text}, AGENTLM).details["given"] == letter


def test_a_reply_without_a_letter_has_not_the_form() -> None:
    with pytest.raises(FormatError, match="no letter"):
        TASK.score(TASK.samples(OWN)[0], {"text": "All of them"}, AGENTLM)


PROMPT = "50fbc067116723724cd464ff9c438b88973bf80349acd5c5c61bc84ef9bb7146"
"""SHA-256 of the original's prompt for the item below, by running it with FastChat 0.2.31."""


async def test_the_published_prompt_is_the_originals_to_the_byte() -> None:
    if not (directory := os.environ.get("AGENTLM_PROTOCOLS")):
        pytest.skip("needs a checkout of THUDM/AgentTuning: $AGENTLM_PROTOCOLS names no directory")
    shots = [
        {
            "question": f"Which letter comes number {at}?",
            "choices": [f"{letter}{at}" for letter in "abcd"],
            "answer": at % 4,
        }
        for at in range(5)
    ]
    item = {
        "question": "What is 2 + 2?\nChoose.",
        "choices": ["3", "4", "5", "22"],
        "subject": "high_school_us_history",
    }
    setting = Setting(Source(), load("mmlu", Path(directory)), resolve_options(TASK, {}))
    model = _Recorder()
    episode = Episode(Sample("1", item | {"shots": shots}, "B"), setting, model, TASK.decoding("agenttuning"))
    await TASK.solve(episode)
    assert sha256(llama2(model.prompt).encode()).hexdigest() == PROMPT


class _Recorder(ScriptedModel):
    def __init__(self) -> None:
        super().__init__(scripted("B"))
        self.prompt: list[Message] = []

    async def score(self, prompt, continuations, window=None):
        self.prompt = list(prompt)
        assert window == 2048
        return await super().score(prompt, continuations, window)


def test_the_authors_own_csv_files_are_read(tmp_path: Path) -> None:
    for split in ("dev", "test"):
        (tmp_path / "mmlu" / "data" / split).mkdir(parents=True)
        (tmp_path / "mmlu" / "data" / split / f"anatomy_{split}.csv").write_text(
            '"Which, of these?",None,NA,c,d,B\n'
        )
    with pytest.raises(DataError, match="lack the subjects abstract_algebra"):
        TASK.samples(Setting(Source(tmp_path), Protocol(AGENTLM)))
    file = tmp_path / "mmlu.jsonl"
    file.write_text(
        '{"split": "test", "subject": "anatomy", "question": "?", "choices": ["a"], "answer": 0}\n'
    )
    with pytest.raises(DataError, match="four choices"):
        TASK.samples(Setting(Source(file=file), Protocol(AGENTLM)))
