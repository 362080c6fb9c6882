"""What AgentBench's client asks of a model: of a long dialogue the first message and what else fits, sampled at 0.7.

Facts: AgentTuning e33a45d, AgentBench.old/src/agent.py. Refuses to know tokens and tasks.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from math import ceil

from agentlm_evals.model import Decoding, Message

CONTEXT = 4096
"""Tokens of prompt and reply."""
SEGMENTS = 3500
"""Of a dialogue that is shown."""
_LONGEST = 7
"""Letters of one segment."""


def sampled(max_new_tokens: int) -> Decoding:
    """How its client has a reply sampled: it says greedy, and a temperature that its server took for sampling.

    The server keeps of the prompt what leaves room for the reply in 4,096 tokens.
    """
    return Decoding(max_new_tokens=max_new_tokens, temperature=0.7, truncate=CONTEXT - max_new_tokens)


def window(messages: Sequence[Message]) -> list[Message]:
    """Messages from the newest back while they are fewer than `SEGMENTS` with the first one, which is always there.

    The rest begins with a model's turn. If messages are left out, the first one says how many.
    """
    first, *later = messages
    segments = _segments(first.content)
    kept: list[Message] = []
    for message in reversed(later):
        segments += _segments(message.content)
        if segments >= SEGMENTS:
            break
        kept.insert(0, message)
    if kept and kept[0].role == "user":
        del kept[0]
    omitted = len(later) - len(kept)
    if omitted:
        first = replace(first, content=f"{first.content}\n\n[NOTICE] {omitted} messages are omitted.")
    return [first, *kept]


def stripped_window(messages: Sequence[Message]) -> list[Message]:
    """The same of a held-in task's dialogue, whose client strips each message of blanks and line breaks round it."""
    return [replace(message, content=message.content.strip()) for message in window(messages)]


def _segments(text: str) -> int:
    """Runs of up to seven letters, and every other character that is neither a blank nor a line's end."""
    segments = 0
    for are_letters, run in groupby(text, str.isalpha):
        if are_letters:
            segments += ceil(sum(1 for _ in run) / _LONGEST)
        else:
            segments += sum(char not in " \n" for char in run)
    return segments
