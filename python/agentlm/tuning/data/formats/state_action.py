"""Trajectories as pairs of what an environment showed and what was done, with the thoughts taken out.

Each action is written in the ReAct form that ALFWorld's harness reads (`ACTION: ...`). Refuses to invent the thoughts.
"""

from collections.abc import Mapping
from typing import Any

from agentlm.tuning.data.errors import RowError
from agentlm.tuning.data.formats.context import Context, reward_of
from agentlm.tuning.record import Conversation, Message

INSTRUCTION = (
    "Interact with the environment to solve the task. Each turn you see what the environment shows; answer with your next "
    "action as `ACTION: your next action`."
)
"""Our own wording: the file has no instruction."""


def recognises(row: dict[str, Any]) -> bool:
    """Whether the row has pairs."""
    return isinstance(row.get("state_action_pairs"), list)


def convert(row: dict[str, Any], context: Context) -> Conversation:
    """The record of a trajectory. Raises `RowError`, `RecordError`."""
    name = row.get("task_instance_id") or row.get("id")
    name = str(name) if isinstance(name, str | int) else context.fallback_id
    task = name.partition("_")[0].lower() if "_" in name else None
    messages: list[Message] = []
    pairs = row.get("state_action_pairs")
    if not isinstance(pairs, list):
        raise RowError(f"state_action_pairs must be a list; it is {pairs!r:.60}")
    for index, pair in enumerate(pairs):
        state = pair.get("state") if isinstance(pair, Mapping) else None
        action = pair.get("action") if isinstance(pair, Mapping) else None
        if not isinstance(state, str) or not isinstance(action, str) or not action.strip():
            raise RowError(f"state_action_pairs[{index}] must have state and action; it is {pair!r:.60}")
        if index == 0:
            goal = row.get("task_description")
            if not isinstance(goal, str) or not goal.strip():
                raise RowError(f"task_description must be text; it is {goal!r:.60}")
            state = f"{INSTRUCTION}\n\n{state}\nYour task is to: {goal}"
        messages += [Message("user", state), Message("assistant", f"ACTION: {action}")]
    if not messages:
        raise RowError("state_action_pairs is empty")
    return Conversation(
        id=name,
        source=context.source,
        task=context.task or task,
        item=name,
        reward=reward_of(row),
        tags=(*context.tags, "no-thoughts"),
        messages=tuple(messages),
    )
