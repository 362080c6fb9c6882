"""AgentBench's view of a long dialogue: the first message and the newest that fit in 3,500 segments. Knows no tokenizer.

Both held-in tasks of this wheel's published protocol use it. Facts: a segment is a run of up to seven letters, or any other
character but space and line break.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from agentlm_evals.model import Message

MOST = 3500
LETTERS = 7


def segments(text: str) -> int:
    """How many segments a text has."""
    count = 0
    for is_letter, run in groupby(text, str.isalpha):
        if is_letter:
            count += -(-sum(1 for _ in run) // LETTERS)
        else:
            count += sum(1 for char in run if char not in " \n")
    return count


def window(messages: Sequence[Message]) -> Sequence[Message]:
    """What of a dialogue the model is shown; the first message says how many others it is not."""
    first, rest = messages[0], list(messages[1:])
    total = segments(first.content)
    kept: list[Message] = []
    for message in reversed(rest):
        total += segments(message.content)
        if total >= MOST:
            break
        kept.insert(0, message)
    if kept and kept[0].role == "user" and len(kept) < len(rest):
        kept.pop(0)
    omitted = len(rest) - len(kept)
    if omitted:
        first = replace(first, content=f"{first.content}\n\n[NOTICE] {omitted} messages are omitted.")
    return [first, *kept]
