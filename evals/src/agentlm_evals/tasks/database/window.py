"""What AgentBench's client shows a model of a held-in task's dialogue: the window of 3,500 segments, each message stripped.

The database and the operating system task use it under the published protocol. Refuses to know tasks.
"""

from collections.abc import Sequence
from dataclasses import replace

from agentlm_evals.model import Message
from agentlm_evals.tasks.card_game.window import window as newest


def window(messages: Sequence[Message]) -> list[Message]:
    """The first message and the newest that fit, without blanks and line breaks round them."""
    return [replace(message, content=message.content.strip()) for message in newest(messages)]
