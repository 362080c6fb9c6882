"""ReWOO's seven sets of fifty questions, drawn as the original draws them, where their files are. Knows no models.

The original loads train splits and draws with pandas, which draws with NumPy's `RandomState(seed).choice`: the same here.
HotpotQA's train split is not at hand, so that its fifty are drawn from the 300 whose paragraphs are. TriviaQA is published
as archives of gigabytes, which nothing here fetches: its fifty are there where somebody put its train split in one file.
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


def _trivia_qa(path: Path) -> list[Row]:
    """Lines as the library `datasets` writes them: an answer is an object, whose `value` the original grades by."""
    rows = []
    for number, row in enumerate(read_lines(path), 1):
        answer = row.get("answer")
        value = answer.get("value") if isinstance(answer, dict) else None
        if not isinstance(row.get("question"), str) or not isinstance(value, str):
            raise DataError(f"{path}:{number} has no question, or no answer with a value")
        rows.append((row["question"], value))
    return rows


_SETS = (
    _Set("hotpot_qa", HOTPOTQA, _hotpotqa),
    _Set("trivia_qa", ("rewoo/trivia_qa.jsonl.gz", "rewoo/trivia_qa.jsonl"), _trivia_qa),
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
    """Fifty of each set whose file is there; of a file that was named every question.

    Raises:
        DataError: None is there, or one cannot be read.
    """
    return list(_published(source) if source.file is None else _named(source.file))


def _named(path: Path) -> Iterator[Sample]:
    """Lines with `question`, `answer` and `kind` (the set whose tools and examples are used); `context` may be there."""
    for number, row in enumerate(read_lines(path), 1):
        texts = [row.get(key) for key in ("question", "answer", "kind")]
        if not all(isinstance(text, str) for text in texts) or row["kind"] not in TOOLSETS:
            raise DataError(
                f"{path}:{number} must have `question`, `answer` and `kind` as texts, the kind one of {', '.join(TOOLSETS)}"
            )
        question, answer, kind = map(str, texts)
        yield Sample(f"{kind}/{number - 1}", {"question": question, "kind": kind}, answer, kind)


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
    """Sets whose files are not there."""
    lacking = []
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
    """HotpotQA's paragraphs, where they are; of a file that was named the `context` of its lines, in HotpotQA's form.

    Raises:
        DataError: A context has another form.
    """
    try:
        path = source.path(*HOTPOTQA)
    except DataError:
        return
    for number, row in enumerate(read_lines(path), 1):
        try:
            for title, sentences in row.get("context", []):
                yield Article(title, "".join(sentences).strip(), tuple(sentences))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}:{number}: `context` is not a list of [title, [sentence, ...]]"
            ) from error


def address(source: Source) -> str:
    """The State of the Union address; empty where it is not there."""
    if source.file is not None:
        return ""
    try:
        return source.path(*ADDRESS).read_text()
    except (DataError, OSError):
        return ""
