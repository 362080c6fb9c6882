"""MT-Bench's single-answer grading: what a judge is asked, and how its rating is read. Refuses to know who judges.

FastChat's own judge prompts are used where the data have them; the others here are our wording of the same request.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from agentlm_evals.errors import DataError
from agentlm_evals.model import Message
from agentlm_evals.task import read_lines

NEEDS_REFERENCE = ("math", "reasoning", "coding")
"""Categories that are judged beside a reference answer."""
LOW, HIGH = 1.0, 10.0
MAX_TOKENS = 2048
PUBLISHED_JUDGES = ("gpt-4", "gpt-4-0314", "gpt-4-0613")
"""GPT-4 of 2023, by the names that its vendor gives it; its later namesakes (gpt-4o, gpt-4-turbo) rate otherwise."""

_RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")

_ASK = (
    "Rate how good an assistant's answer is: is it helpful, relevant, correct, thorough, creative and detailed? {more}"
    "First explain your judgement in a few sentences and be as objective as you can. Then give the rating from 1 to 10 in "
    "exactly this form: [[rating]], for example: Rating: [[5]]."
)
_WITH_REFERENCE = "Compare it with the reference answer, and name its mistakes. "
_SECOND = "There are two questions; rate the answer to the second one. "


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """One request to a judge. The texts hold the names in braces that FastChat's do."""

    system: str
    template: str


OWN: Mapping[str, JudgePrompt] = {
    "single-v1": JudgePrompt(
        _ASK.format(more=""),
        "# Question\n{question}\n\n# The assistant's answer\n{answer}\n\n# End of the answer",
    ),
    "single-math-v1": JudgePrompt(
        _ASK.format(more=_WITH_REFERENCE),
        "# Question\n{question}\n\n# Reference answer\n{ref_answer_1}\n\n"
        "# The assistant's answer\n{answer}\n\n# End of the answer",
    ),
    "single-v1-multi-turn": JudgePrompt(
        _ASK.format(more=_SECOND),
        "# First question\n{question_1}\n\n# The assistant's answer\n{answer_1}\n\n# Second question\n{question_2}\n\n"
        "# The assistant's answer\n{answer_2}\n\n# End of the answer",
    ),
    "single-math-v1-multi-turn": JudgePrompt(
        _ASK.format(more=_SECOND + _WITH_REFERENCE),
        "# First question\n{question_1}\n\n# Reference answer\n{ref_answer_1}\n\n# Second question\n{question_2}\n\n"
        "# Reference answer\n{ref_answer_2}\n\n# The assistant's first answer\n{answer_1}\n\n"
        "# The assistant's second answer\n{answer_2}\n\n# End of the answer",
    ),
}


def incomparable(judge: str, origin: str) -> str | None:
    """Why ratings by this judge may not stand beside the published ones; None: they may.

    Args:
        judge: Its name.
        origin: Where it answers, a host name; whoever serves a model here may call it anything.
    """
    if all(_is_local(host.strip()) for host in origin.split(",")):
        return "local judge"
    return None if judge.lower() in PUBLISHED_JUDGES else "the published judge is GPT-4 of 2023"


def _is_local(host: str) -> bool:
    try:
        return not ip_address(host.strip("[]")).is_global
    except ValueError:
        # A bare name is a machine of the house; an empty one this process.
        return "." not in host or host.endswith((".local", ".localhost", ".internal", ".lan"))


def read_prompts(path: Path) -> Mapping[str, JudgePrompt]:
    """FastChat's file of judge prompts.

    Raises:
        DataError: It lacks one of the four for single answers.
    """
    found = {str(row.get("name")): row for row in read_lines(path)}
    try:
        return {
            name: JudgePrompt(str(found[name]["system_prompt"]), str(found[name]["prompt_template"]))
            for name in OWN
        }
    except KeyError as error:
        raise DataError(f"{path} has no judge prompt {error}") from error


def request(
    prompts: Mapping[str, JudgePrompt],
    category: str,
    questions: Sequence[str],
    answers: Sequence[str],
    references: Sequence[str] | None,
    turn: int,
) -> list[Message]:
    """What the judge is asked about the answer of turn 1 or 2.

    Raises:
        DataError: The category is judged beside a reference answer, and there is none.
    """
    needs = category in NEEDS_REFERENCE
    if needs and (references is None or len(references) < turn):
        raise DataError(f"a question of the category {category} has no reference answer for turn {turn}")
    name = ("single-math-v1" if needs else "single-v1") + ("-multi-turn" if turn == 2 else "")
    values = {"question": questions[0], "answer": answers[0]}
    values |= {f"question_{at}": text for at, text in enumerate(questions, 1)}
    values |= {f"answer_{at}": text for at, text in enumerate(answers, 1)}
    values |= {f"ref_answer_{at}": text for at, text in enumerate(references or (), 1)}
    prompt = prompts[name]
    return [Message("system", prompt.system), Message("user", prompt.template.format(**values))]


def rating(judgement: str) -> float | None:
    """The rating in a judgement, double brackets before single ones; None if there is none on the scale."""
    found = _RATING.search(judgement) or _BACKUP.search(judgement)
    value = float(found[1]) if found else None
    return value if value is not None and LOW <= value <= HIGH else None
