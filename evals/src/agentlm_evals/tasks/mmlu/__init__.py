"""MMLU: multiple choice in 57 subjects, five worked examples, the letter that the model finds likeliest.

The letters are teacher-forced: the log-probability of each right after the prompt is asked of the server, nothing is
generated. A server that scores no prompts is refused; `-T mmlu.scoring=generated` has the model write the letter instead,
which is another number. Refuses to know servers.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentlm_evals.errors import DataError, FormatError
from agentlm_evals.harness.episode import Episode
from agentlm_evals.model import Decoding, Message
from agentlm_evals.outcome import Score, right, wrong
from agentlm_evals.protocols import AGENTLM, AGENTTUNING
from agentlm_evals.task import (
    Agent,
    Group,
    Metric,
    Option,
    Sample,
    Setting,
    Task,
    own_samples,
    read_lines,
    scripted,
)
from agentlm_evals.tasks.mmlu.published import FILES, PUBLISHED
from agentlm_evals.tasks.mmlu.subjects import GROUP_OF, GROUPS

LETTERS = "ABCD"
SHOTS = 5
WINDOW = 2048
"""Tokens that the original keeps of a longer prompt, one less than that; from the left."""
Shot = dict[str, Any]


class MMLU(Task):
    """Accuracy over 14,042 questions."""

    name, title, group = "mmlu", "MMLU", Group.GENERAL
    metric = Metric("accuracy")
    published_mean = 64.16
    protocols = (AGENTLM, AGENTTUNING)
    max_samples = 14042
    sources = PUBLISHED
    source_files = FILES
    options = (
        Option(
            "scoring",
            "letters",
            "letters: log-probabilities; generated: the model writes one",
            ("letters", "generated"),
        ),
    )

    def samples(self, setting: Setting) -> list[Sample]:
        """The official test questions with their subject's five worked examples, or our own."""
        source = setting.source
        if source.is_own:
            rows = own_samples(__file__)
        elif source.file is None and source.directory is not None and (csvs := _csv_folder(source.directory)):
            rows = _read_csvs(csvs)
        else:
            rows = read_lines(source.path("mmlu/mmlu.jsonl.gz", "mmlu/mmlu.jsonl", "mmlu.jsonl"))
        shots: dict[str, list[Shot]] = defaultdict(list)
        for row in rows:
            if row.get("split") == "dev":
                shots[str(row["subject"])].append(_checked(row))
        samples: list[Sample] = []
        counts: dict[str, int] = defaultdict(int)
        for row in rows:
            if row.get("split") == "dev":
                continue
            subject = str(row.get("subject"))
            item = _checked(row)
            samples.append(
                Sample(
                    id=str(row.get("id", f"{subject}-{counts[subject]}")),
                    input={**item, "subject": subject, "shots": shots[subject][:SHOTS]},
                    target=LETTERS[item["answer"]],
                    category=GROUP_OF.get(subject, "other"),
                )
            )
            counts[subject] += 1
        if not samples:
            raise DataError("MMLU's data hold no test question")
        if not source.is_own and (missing := {s for of in GROUPS.values() for s in of} - set(counts)):
            raise DataError(f"MMLU's data lack the subjects {', '.join(sorted(missing))}")
        return samples

    def decoding(self, protocol: str) -> Decoding:
        """One letter; the length is of the variant that generates it."""
        del protocol  # the same in both
        return Decoding(max_new_tokens=8)

    async def solve(self, episode: Episode) -> Any:
        """The four letters' log-probabilities, or what the model wrote."""
        published = episode.protocol == AGENTTUNING
        shots = await episode.fitting(
            len(episode.sample.input["shots"]), lambda count: self._pose(episode, count)
        )
        episode.notes["shots"] = shots
        opening = episode.texts["opening"].lstrip(" ") if published else "Answer:"
        if episode.setting.options["scoring"] == "generated":
            return {"text": await episode.ask()}
        prompt = [*episode.messages, Message("assistant", opening, loss=False)]
        scores = await episode.score(
            prompt, [f" {letter}" for letter in LETTERS], window=WINDOW if published else None
        )
        best = max(range(len(LETTERS)), key=lambda at: scores[at])
        episode.messages.append(Message("assistant", f"Answer: {LETTERS[best]}"))
        return {"scores": scores}

    def _pose(self, episode: Episode, shots: int) -> None:
        texts, item = episode.texts, episode.sample.input
        published = episode.protocol == AGENTTUNING
        subject = " ".join(str(item["subject"]).split("_")).strip()
        if published:
            episode.system(texts["system"].format(subject))
        else:
            episode.system(
                f"You answer multiple-choice questions about {subject} with one of the letters A, B, C and D."
            )
        for shot in item["shots"][:shots]:
            episode.user(self._question(episode, shot))
            begin = texts["answer"] if published else "Answer: "
            episode.example(begin + LETTERS[shot["answer"]])
        episode.user(self._question(episode, item))

    def _question(self, episode: Episode, item: Mapping[str, Any]) -> str:
        choices = zip(LETTERS, item["choices"], strict=True)
        if episode.protocol == AGENTTUNING:
            lines = [episode.texts["choice"].format(letter, text) for letter, text in choices]
            return str(episode.texts["question"].format(item["question"])) + "\n".join(lines)
        return "\n".join(
            [f"Question: {item['question']}", *(f"{letter}. {text}" for letter, text in choices)]
        )

    def score(self, sample: Sample, answer: Any, protocol: str) -> Score:
        """Right if the likeliest letter is the gold one; the first of two that are equally likely."""
        del protocol  # the same in both
        if "text" in answer:
            letter = _letter(str(answer["text"]))
        else:
            scores = list(answer["scores"])
            letter = LETTERS[scores.index(max(scores))]
        details = {"given": letter, "subject": sample.input["subject"]}
        return right(**details) if letter == sample.target else wrong(**details)

    def gold(self, sample: Sample, protocol: str) -> Agent:
        """The letter."""
        del protocol  # the same in both
        return scripted(str(sample.target))


def _letter(text: str) -> str:
    """The first letter that stands alone, after `Answer:` if that is there."""
    words = text.rpartition("Answer:")[2].replace(".", " ").replace(")", " ").replace("(", " ").split()
    for word in words:
        if word in LETTERS and len(word) == 1:
            return word
    raise FormatError(f"no letter from A to D in {text[:80]!r}")


def _checked(row: Mapping[str, Any]) -> Shot:
    choices, answer = row.get("choices"), row.get("answer")
    if isinstance(answer, str) and answer in LETTERS and len(answer) == 1:
        answer = LETTERS.index(answer)
    is_answer = isinstance(answer, int) and 0 <= answer < len(LETTERS)
    if not isinstance(choices, list) or len(choices) != len(LETTERS) or not is_answer:
        raise DataError(f"an MMLU item must have four choices and an answer from 0 to 3: {dict(row)}")
    return {"question": str(row["question"]), "choices": [str(one) for one in choices], "answer": answer}


def _csv_folder(directory: Path) -> Path | None:
    """The folder with `test/` and `dev/` of the authors' own archive."""
    for folder in (directory / "mmlu" / "data", directory / "mmlu", directory / "data"):
        if (folder / "test").is_dir() and (folder / "dev").is_dir():
            return folder
    return None


def _read_csvs(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for split in ("dev", "test"):
        for path in sorted((folder / split).glob(f"*_{split}.csv")):
            subject = path.name.removesuffix(f"_{split}.csv")
            with path.open(newline="", encoding="utf-8") as file:
                for line in csv.reader(file):
                    if len(line) != 2 + len(LETTERS):
                        raise DataError(f"{path}: a line has {len(line)} cells, not 6")
                    question, *choices, answer = line
                    rows.append(
                        {
                            "split": split,
                            "subject": subject,
                            "question": question,
                            "choices": choices,
                            "answer": answer,
                        }
                    )
    return rows


TASK = MMLU()
