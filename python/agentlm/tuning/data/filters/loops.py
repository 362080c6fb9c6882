"""Loops and repetitions: an agent that does the same again and again, and text that runs in a circle.

Refuses to know tasks: it compares actions and words.
"""

from collections.abc import Sequence
from itertools import pairwise

LONGEST_PERIOD = 4
"""Actions in the longest cycle that is looked for."""

TAIL_WORDS = 400
"""Words at a text's end that are searched for a circle: one that a model fell into goes on to the end."""
LONGEST_CIRCLE = 40
"""Words in the longest circle that is looked for."""
CIRCLED_WORDS = 24
"""A circle counts when it fills at least so many words: a refrain or a table's rule does not."""
LINE_LENGTH = 20
"""Characters that a line must have for its repetition to count: brackets and rules of tables have fewer."""


def repeated_action(actions: Sequence[str], times: int) -> str | None:
    """The first cycle of up to `LONGEST_PERIOD` actions that runs `times` times without a break, in words.

    Three times the same in a row is AgentTuning's repetition failure.
    """
    for period in range(1, LONGEST_PERIOD + 1):
        # How many actions in a row equal the one a period before them.
        equal = 0
        for index in range(period, len(actions)):
            equal = equal + 1 if actions[index] == actions[index - period] else 0
            if equal >= period * (times - 1):
                cycle = ", ".join(f"{action!r:.60}" for action in actions[index - period + 1 : index + 1])
                return f"the assistant does {cycle} {times} times in a row"
    return None


def repeated_text(text: str, times: int) -> str | None:
    """A line that stands `times` times in a row, or a circle of words that runs so often to the text's end, in words."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    equal = 1
    for before, line in pairwise(lines):
        equal = equal + 1 if line == before else 1
        if equal >= times and len(line) >= LINE_LENGTH:
            return f"the line {line!r:.60} stands {times} times in a row"
    words = text.split()[-TAIL_WORDS:]
    for period in range(1, min(LONGEST_CIRCLE, len(words) // times) + 1):
        equal = 0
        for index in range(len(words) - 1, period - 1, -1):
            if words[index] != words[index - period]:
                break
            equal += 1
        if equal + period >= max(period * times, CIRCLED_WORDS):
            return f"the text ends in a circle of {' '.join(words[-period:])!r:.60}"
    return None
