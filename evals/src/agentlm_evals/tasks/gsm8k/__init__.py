"""GSM8K: grade-school word problems, eight worked examples, one reply whose last number counts.

The original takes the last run of digits, so that `20,800` is 800, `3.5` is 5 and a sign is lost. That rule decides under
the protocol `agenttuning`; ours reads whole numbers with sign, separators and decimals. Both verdicts are in every
score's details. Refuses to know servers.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from agentlm_evals.errors import DataError
from agentlm_evals.harness.episode import Episode
from agentlm_evals.model import Decoding
from agentlm_evals.outcome import Score, format_or_limit, right, wrong
from agentlm_evals.protocols import AGENTLM, AGENTTUNING
from agentlm_evals.task import Agent, Group, Metric, Sample, Setting, Task, own_samples, read_lines, scripted
from agentlm_evals.tasks.gsm8k.prompts import INSTRUCTION, READY, SHOTS, SYSTEM, question
from agentlm_evals.tasks.gsm8k.published import FILES, PUBLISHED

_GOLD = re.compile(r"####\s*(-?[0-9.,]+)")
_DIGITS = re.compile(r"\d+")
_NUMBER = re.compile(r"(?<![\w.])[-−]?\$?\d[\d,]*(?:\.\d+)?|(?<![\w.])[-−]?\$?\.\d+")
NEXT_QUESTION = "Question:"
"""Where a model that goes on to invent the next problem is cut."""


def number(text: str) -> Decimal | None:
    """A number as people write it: sign, thousands separators, a currency sign, decimals."""
    try:
        return Decimal(text.replace(",", "").replace("$", "").replace("−", "-"))
    except InvalidOperation:
        return None


def last_number(reply: str) -> Decimal | None:
    """The last number of a reply, read whole."""
    found = _NUMBER.findall(reply.split(NEXT_QUESTION)[0])
    return number(found[-1]) if found else None


def last_digits(reply: str) -> Decimal | None:
    """The original's rule: the last run of digits, evaluated as a number, so that a superfluous 0 before it spoils it."""
    found = _DIGITS.findall(reply.split(NEXT_QUESTION)[0])
    if not found or (len(found[-1]) > 1 and found[-1][0] == "0" and found[-1].strip("0")):
        return None
    return Decimal(found[-1])


class GSM8K(Task):
    """Accuracy over 1,319 problems."""

    name, title, group = "gsm8k", "GSM8K", Group.GENERAL
    metric = Metric("accuracy")
    published_mean = 52.82
    protocols = (AGENTLM, AGENTTUNING)
    max_samples = 1319
    sources = PUBLISHED
    source_files = FILES

    def samples(self, setting: Setting) -> list[Sample]:
        """The official test set (`gsm8k/test.jsonl`), or our own problems."""
        source = setting.source
        rows = (
            own_samples(__file__)
            if source.is_own
            else read_lines(source.path("gsm8k/test.jsonl", "test.jsonl"))
        )
        samples = []
        for index, row in enumerate(rows):
            gold = _GOLD.search(str(row.get("answer", "")))
            if gold is None or number(gold[1]) is None or not isinstance(row.get("question"), str):
                raise DataError(f"GSM8K's item {index} has no question or no answer of the form `#### 42`")
            samples.append(
                Sample(
                    str(row.get("id", index)), {"question": row["question"], "answer": row["answer"]}, gold[1]
                )
            )
        return samples

    def decoding(self, protocol: str) -> Decoding:
        """Greedy, 512 tokens."""
        del protocol  # the same in both
        return Decoding(max_new_tokens=512)

    async def solve(self, episode: Episode) -> Any:
        """One question after as many worked examples as fit the model's context: all eight but for the smallest."""
        shots = await episode.fitting(len(SHOTS), lambda count: self._pose(episode, count))
        episode.notes["shots"] = shots
        return await episode.ask()

    def _pose(self, episode: Episode, shots: int) -> None:
        texts = episode.texts
        published = episode.protocol == AGENTTUNING
        episode.system(texts["system"] if published else SYSTEM)
        episode.user(texts["instruction"] if published else INSTRUCTION)
        episode.example(texts["ready"] if published else READY)
        for index, (asked, worked) in enumerate(SHOTS[:shots]):
            episode.user(texts[f"shot{index}.question"] if published else question(asked))
            episode.example(texts[f"shot{index}.answer"] if published else worked)
        asked = str(episode.sample.input["question"])
        episode.user(texts["question"].format(asked) if published else question(asked))

    def score(self, sample: Sample, answer: Any, protocol: str) -> Score:
        """Right if the number is the gold one; a reply without any number has not the form."""
        gold = number(str(sample.target))
        fixed, original = last_number(str(answer)), last_digits(str(answer))
        given = original if protocol == AGENTTUNING else fixed
        details: dict[str, Any] = {
            "given": None if given is None else str(given),
            "right by whole number": fixed == gold,
            "right by last digits": original == gold,
        }
        if given is None:
            return format_or_limit("no number in the reply", **details)
        return right(**details) if given == gold else wrong(**details)

    def numbers(self, scores: Mapping[str, Sequence[Score]]) -> Mapping[str, float]:
        """The accuracy by each of the two rules, in percent, whichever decides: users trip over the difference."""
        rules = {"by whole number": "right by whole number", "by last digits": "right by last digits"}
        known = [score for of_sample in scores.values() for score in of_sample]
        return {
            name: 100 * sum(bool(score.details.get(key)) for score in known) / len(known)
            for name, key in rules.items()
        }

    def gold(self, sample: Sample, protocol: str) -> Agent | None:
        """The data set's own solution, without calculator marks; none where the original's rule cannot read it."""
        solution = re.sub(r"<<[^>]*>>", "", str(sample.input["answer"]))
        answer = number(str(sample.target))
        assert answer is not None  # `samples` saw to that
        if protocol == AGENTTUNING and last_digits(f"{answer.normalize():f}") != answer:
            # Two of the official items have a negative answer (489 and 1113): no reply is right by the last digits.
            return None
        # 10.00 is 10: the original's rule would read its last two digits.
        return scripted(f"{_GOLD.sub('', solution).rstrip()}\nThe answer is {answer.normalize():f}")


TASK = GSM8K()
