"""The last observation of FireAct's trajectories, which says the reward and has no answer. Refuses to know formats."""

import re

_END = re.compile(r"Observation(?: \d+)?: Episode finished, reward = (-?\d+(?:\.\d+)?|True|False)\s*\Z")
_TRUTH = {"True": 1.0, "False": 0.0}


def reward_at_end(text: str) -> float | None:
    """The reward that a text, or its last line, says the episode finished with; None if it says nothing of the kind."""
    said = _END.search(text, text.rfind("\nObservation") + 1)
    if said is None:
        return None
    number = said.group(1)
    return _TRUTH[number] if number in _TRUTH else float(number)
