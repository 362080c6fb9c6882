"""Loops and repetitions: an agent that does the same again and again, and text that runs in a circle.

Refuses to know tasks: it compares actions and words.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

LONGEST_PERIOD = 4
"""Actions in the longest cycle that is looked for."""

TAIL = 400
"""Words, and characters, at a text's end that are searched for a circle: one that a model fell into goes on to the end."""
LONGEST_CIRCLE = 40
"""Words, or characters, in the longest circle that is looked for."""
CIRCLED_WORDS = 24
"""A circle counts when it fills at least so many words: a refrain or a table's rule does not."""
CIRCLED_CHARACTERS = 64
"""The same for a circle of characters: text without spaces, as Chinese is, or a broken encoding."""
SPOKEN_WORDS = 20
"""A chat's answers with fewer words may repeat where the questions do not: `Ok.`, `Yes.`, `Go on.`"""
RUN = 256
"""One character so many times in a row is no text, wherever it stands: rules of tables are shorter."""
LINE_LENGTH = 20
"""Characters that a line must have for its repetition to count: brackets and rules of tables have fewer."""


_RUN = re.compile(rf"(\S)\1{{{RUN - 1},}}")


class Step(NamedTuple):
    """One turn of the assistant. Texts are compared as they are."""

    said: str
    """The whole turn."""
    action: str
    """What it does: the action in it, else the whole turn."""
    before: str
    """What others said since the assistant's turn before."""
    after: str
    """And what they said then; empty where nobody did."""


def loop(steps: Sequence[Step], times: int, *, is_agent: bool) -> str | None:
    """The first cycle of up to `LONGEST_PERIOD` turns that runs `times` times without a break, in words.

    An agent's turns are the same if all their words are (three times in a row is AgentTuning's repetition failure), or if
    the same action is answered in the same way: to turn page after page is no loop. A chat's are the same if question and
    answer are, or if a long answer is.
    """
    if is_agent:
        words = [step.said for step in steps]
        deeds = [f"{step.action}\0{_answer(steps, index)}" for index, step in enumerate(steps)]
    else:
        words = [
            step.said if len(step.said.split()) >= SPOKEN_WORDS else f"{index}\0"
            for index, step in enumerate(steps)
        ]
        deeds = [f"{step.before}\0{step.said}" for step in steps]
    found = cycle(words, times) or cycle(deeds, times)
    if found is None:
        return None
    shown = ", ".join(f"{step.action!r:.60}" for step in steps[found[0] : found[1]])
    return f"the assistant does {shown} {times} times in a row"


def _answer(steps: Sequence[Step], index: int) -> str:
    """How the turn was answered; the last, which nobody answers, as the one before it with the same action was."""
    step = steps[index]
    if step.after or index + 1 < len(steps):
        return step.after
    return next((other.after for other in reversed(steps[:index]) if other.action == step.action), "")


def cycle(turns: Sequence[str], times: int) -> tuple[int, int] | None:
    """The last round of the first cycle of up to `LONGEST_PERIOD` that runs `times` times: its first turn, and its end."""
    for period in range(1, LONGEST_PERIOD + 1):
        # How many turns in a row equal the one a period before them.
        equal = 0
        for index in range(period, len(turns)):
            equal = equal + 1 if turns[index] == turns[index - period] else 0
            if equal >= period * (times - 1):
                return index - period + 1, index + 1
    return None


def repeated_text(text: str, times: int) -> str | None:
    """A line that stands `times` times in a row, a long run of one character, or a circle to the text's end, in words.

    A circle is of words or of characters, with a letter in it: rules of tables and matrices of zeros are none.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    equal = 1
    for before, line in pairwise(lines):
        equal = equal + 1 if line == before else 1
        if equal >= times and len(line) >= LINE_LENGTH:
            return f"the line {line!r:.60} stands {times} times in a row"
    if run := _RUN.search(text):
        return f"the character {run.group(1)!r} stands {len(run.group()):,} times in a row"
    words = text.split()[-TAIL:]
    circle = _circle(words, times, LONGEST_CIRCLE, CIRCLED_WORDS)
    if circle is None:
        characters = list(text.rstrip()[-TAIL:])
        circle = _circle(characters, times, LONGEST_CIRCLE, CIRCLED_CHARACTERS)
        return None if circle is None else f"the text ends in a circle of {''.join(circle)!r:.60}"
    return f"the text ends in a circle of {' '.join(circle)!r:.60}"


def _circle(parts: Sequence[str], times: int, longest: int, least: int) -> Sequence[str] | None:
    """The shortest circle with a letter in which the parts end, if it runs `times` times and fills `least` parts."""
    for period in range(1, min(longest, len(parts) // times) + 1):
        equal = 0
        for index in range(len(parts) - 1, period - 1, -1):
            if parts[index] != parts[index - period]:
                break
            equal += 1
        circle = parts[-period:]
        if equal + period >= max(period * times, least):
            return circle if any(letter.isalpha() for part in circle for letter in part) else None
    return None
