"""ReWOO's seven sets of fifty questions, drawn as the original draws them, where their files are. Knows no models.

The original loads train splits and draws with pandas, which draws with NumPy's `RandomState(seed).choice`: the same here.
HotpotQA's train split is not at hand, so that its fifty are drawn from the 300 whose paragraphs are; TriviaQA is left out.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentlm_evals.errors import DataError
from agentlm_evals.task import Sample, Source, read_lines
from agentlm_evals.tasks.hotpotqa.reading import Article

SEED = 2024
EACH = 50
HOTPOTQA = ("hotpotqa/bolaa_300.jsonl.gz", "hotpotqa/bolaa_300.jsonl")
ADDRESS = ("rewoo/state_of_the_union.txt",)
TOOLSETS = {
    "hotpot_qa": ("Wikipedia", "LLM"),
    "trivia_qa": ("Wikipedia", "LLM"),
    "gsm8k": ("LLM", "WolframAlpha", "Calculator"),
    "strategy_qa": ("Wikipedia", "LLM", "WolframAlpha", "Calculator", "Google"),
    "physics_question": ("Wikipedia", "LLM", "WolframAlpha", "Calculator", "Google"),
    "sports_understanding": ("Wikipedia", "LLM", "WolframAlpha", "Calculator", "Google"),
    "sotu_qa": ("LLM", "Calculator", "Google", "SearchSOTU"),
}
"""By set, in the order in which the planner is told of them."""
Row = tuple[str, str]
"""Question and answer."""


@dataclass(frozen=True, slots=True)
class _Set:
    name: str
    files: tuple[str, ...]
    read: Callable[[Path], list[Row]]


def _csv(question: str, answer: str) -> Callable[[Path], list[Row]]:
    def read(path: Path) -> list[Row]:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                return [(row[question], row[answer]) for row in csv.DictReader(file)]
        except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{path} is not a table with the columns {question} and {answer}: {error}"
            ) from error

    return read


def _gsm8k(path: Path) -> list[Row]:
    return [(str(row["question"]), str(row["answer"]).split("#### ")[-1]) for row in read_lines(path)]


def _hotpotqa(path: Path) -> list[Row]:
    return [(str(row["question"]), str(row["answer"])) for row in read_lines(path)]


_SETS = (
    _Set("hotpot_qa", HOTPOTQA, _hotpotqa),
    _Set("gsm8k", ("gsm8k/train.jsonl.gz", "gsm8k/train.jsonl"), _gsm8k),
    _Set("strategy_qa", ("rewoo/strategy_qa.csv",), _csv("input", "target")),
    _Set("physics_question", ("rewoo/physics_question.csv",), _csv("input", "target")),
    _Set("sports_understanding", ("rewoo/sports_understanding.csv",), _csv("input", "target")),
    _Set("sotu_qa", ("rewoo/SOTU_QA.csv",), _csv("question", "answer")),
)


def drawn(count: int, most: int = EACH) -> list[int]:
    """The places that the original draws from so many rows."""
    return [int(at) for at in np.random.RandomState(SEED).choice(count, min(most, count), replace=False)]


def published(source: Source) -> list[Sample]:
    """Fifty of each set whose file is there.

    Raises:
        DataError: None is there, or one cannot be read.
    """
    return list(_published(source))


def _published(source: Source) -> Iterator[Sample]:
    found = False
    for one in _SETS:
        try:
            path = source.path(*one.files)
        except DataError:
            continue
        found = True
        rows = one.read(path)
        for at in drawn(len(rows)):
            question, answer = rows[at]
            yield Sample(f"{one.name}/{at}", {"question": question, "kind": one.name}, answer, one.name)
    if not found:
        raise DataError(f"{source.directory} holds none of ReWOO's sets (rewoo/strategy_qa.csv and others)")


def missing(source: Source) -> list[str]:
    """Sets whose files are not there; TriviaQA always."""
    lacking = ["trivia_qa"]
    for one in _SETS:
        try:
            source.path(*one.files)
        except DataError:
            lacking.append(one.name)
    return lacking


def own(rows: Sequence[dict[str, Any]]) -> list[Sample]:
    """The wheel's own questions."""
    return [
        Sample(
            row["id"],
            {"question": row["question"], "kind": row["kind"], "plan": row["plan"]},
            row["answer"],
            row["kind"],
        )
        for row in rows
        if row["type"] == "question"
    ]


def own_articles(rows: Sequence[dict[str, Any]]) -> Iterator[Article]:
    """The wheel's own encyclopedia."""
    for row in rows:
        if row["type"] == "article":
            yield Article(row["title"], row["text"], (row["text"],))


def own_address(rows: Sequence[dict[str, Any]]) -> str:
    """The wheel's own address."""
    return "\n\n".join(str(row["text"]) for row in rows if row["type"] == "address")


def articles(source: Source) -> Iterator[Article]:
    """HotpotQA's paragraphs, where they are."""
    try:
        path = source.path(*HOTPOTQA)
    except DataError:
        return
    for row in read_lines(path):
        for title, sentences in row["context"]:
            yield Article(title, "".join(sentences).strip(), tuple(sentences))


def address(source: Source) -> str:
    """The State of the Union address; empty where it is not there."""
    try:
        return source.path(*ADDRESS).read_text()
    except (DataError, OSError):
        return ""
