"""Whether an answer is right: by a rule of ours, or by a judge. The original asks OpenAI's completion model.

Refuses to know planners and tools.
"""

import ast
import re

from agentlm_evals.model import Message
from agentlm_evals.tasks.hotpotqa.scoring import f1, plain

CORRECT, INCORRECT = "CORRECT", "INCORRECT"
_ALTERNATIVES = re.compile(r"Can be one of (\[.*\])", re.DOTALL)
_NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
_TOLERANCE = 0.01
"""Relative; the physics set's own alternatives differ by as much through rounding."""
_OPPOSITES = ({"yes", "no"}, {"plausible", "implausible"})

_SYSTEM = "You grade answers to questions, as a teacher would. You only see whether an answer is right in its facts."
_REQUEST = (
    "Grade the student's answer. It is correct if it says what the right answer says; other words, more detail or another "
    "order do no harm, as long as nothing contradicts it. Reply with one word: CORRECT or INCORRECT.\n\n"
    "Question: {question}\nRight answer: {answer}\nStudent's answer: {given}\nGrade:"
)


def alternatives(answer: str) -> list[str]:
    """The right answers: the physics set writes them as `Can be one of ['7187 m', '7 km']`."""
    found = _ALTERNATIVES.search(answer)
    if found is None:
        return [answer]
    try:
        options = ast.literal_eval(found[1])
    except (ValueError, SyntaxError):
        return [answer]
    return [str(option) for option in options] if isinstance(options, list) and options else [answer]


def numbers(text: str) -> list[float]:
    """Every number in a text."""
    return [float(found.replace(",", "").replace("−", "-")) for found in _NUMBER.findall(text)]


def matches(given: str, answer: str) -> bool:
    """Our rule for one right answer.

    The same text when written plainly; or the same verdict; or the same number, with the same unit if there is one.
    """
    wanted, said = plain(answer), plain(given)
    if wanted == said:
        return True
    for verdicts in _OPPOSITES:
        if wanted in verdicts:
            spoken = [word for word in said.split() if word in verdicts]
            return bool(spoken) and set(spoken) == {wanted}
    values, claimed = numbers(answer), numbers(given)
    if len(values) == 1 and claimed:
        unit = plain(_NUMBER.sub("", answer))
        if not unit:
            # Of several numbers the last is what the reply comes to: the ones before are on the way to it.
            return claimed[-1] == values[0]
        close = abs(claimed[-1] - values[0]) <= _TOLERANCE * abs(values[0])
        return close and unit.replace(" ", "") in said.replace(" ", "")
    return False


def by_rule(given: str, answer: str) -> bool:
    """Our rule: one of the right answers is matched."""
    return any(matches(given, option) for option in alternatives(answer))


def best_f1(given: str, answer: str) -> float:
    """Word F1 with the right answer that it is nearest to."""
    return max(f1(given, option) for option in alternatives(answer))


def request(question: str, answer: str, given: str) -> list[Message]:
    """What a judge is asked."""
    return [
        Message("system", _SYSTEM),
        Message(
            "user", _REQUEST.format(question=question.strip(), answer=answer, given=given.strip() or "(none)")
        ),
    ]


def verdict(judgement: str) -> bool | None:
    """The grade in a judgement; None if there is none."""
    found = re.search(rf"\b({INCORRECT}|{CORRECT})\b", judgement.upper())
    return None if found is None else found[1] == CORRECT
