"""Elementary errors of a trajectory, by our own rules: the paper counts such errors and does not say how. Knows no task.

- repetition: the same reply (blanks aside) three times in a row, or the same line four times in a row within a reply;
- refusal: a reply begins by declining ("I cannot", "I'm sorry", "As an AI");
- invalid action: a reply had not the form that the task asks for and ended the episode, or the task noted actions that
  its environment does not know (`notes["invalid_actions"]`).
"""

import re
from collections.abc import Sequence

from agentlm_evals.harness.journal import Record
from agentlm_evals.outcome import Outcome

NAMES = ("invalid action", "repetition", "refusal")
_SAME_REPLIES = 3
_SAME_LINES = 4
_REFUSAL = re.compile(
    r"\s*(?:i(?: am|'m) sorry|sorry,|i (?:cannot|can't|can not|am unable|am not able)|unfortunately, i|as an ai)",
    re.I,
)


def _longest_streak(texts: Sequence[str]) -> int:
    longest = streak = 0
    last = None
    for text in texts:
        streak = streak + 1 if text == last and text else 1
        last = text
        longest = max(longest, streak)
    return longest


def errors(record: Record) -> set[str]:
    """Which of `NAMES` a trajectory shows."""
    replies = [str(call["text"]) for call in record.calls]
    found = set()
    flat = [" ".join(reply.split()) for reply in replies]
    lines = [[line.strip() for line in reply.splitlines() if line.strip()] for reply in replies]
    if _longest_streak(flat) >= _SAME_REPLIES or any(_longest_streak(one) >= _SAME_LINES for one in lines):
        found.add("repetition")
    if any(_REFUSAL.match(reply) for reply in replies):
        found.add("refusal")
    lost_form = (
        record.score.outcome is Outcome.FORMAT_OR_LIMIT and record.score.details.get("kind") != "limit"
    )
    if lost_form or record.notes.get("invalid_actions"):
        found.add("invalid action")
    return found
