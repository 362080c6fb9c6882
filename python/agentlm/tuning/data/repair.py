"""Small repairs of conversations whose turns do not alternate, as general chats from the web often are.

Refuses to invent text: turns are dropped or joined, never written.
"""

from dataclasses import replace

from agentlm.tuning.data.html_text import plain
from agentlm.tuning.record import Conversation, Message


def without_html(conversation: Conversation) -> Conversation:
    """The conversation with the remnants of web pages taken out of what the assistant says."""
    messages = tuple(
        replace(message, content=plain(message.content))
        if message.role == "assistant" and message.content is not None
        else message
        for message in conversation.messages
    )
    return replace(conversation, messages=messages)


def repaired(conversation: Conversation) -> Conversation:
    """The conversation with alternating turns, as far as dropping and joining can give them.

    Empty turns go; then an assistant's turns before the first user's; turns of one speaker in a row become one, with an
    empty line between (an assistant's only where both are trained or neither is); user's turns at the end go. May be left
    without messages worth training on; then it is returned as it was.
    """
    messages = [
        message for message in conversation.messages if message.tool_calls or (message.content or "").strip()
    ]
    head = [message for message in messages[:1] if message.role == "system"]
    turns = messages[len(head) :]
    while turns and turns[0].role != "user":
        turns = turns[1:]
    joined: list[Message] = []
    for message in turns:
        if joined and _join(joined[-1], message):
            joined[-1] = replace(joined[-1], content=f"{joined[-1].content}\n\n{message.content}")
        else:
            joined.append(message)
    while joined and joined[-1].role != "assistant":
        joined.pop()
    if not joined:
        return conversation
    return replace(conversation, messages=(*head, *joined))


def _join(first: Message, second: Message) -> bool:
    return (
        first.role == second.role
        and first.role in ("user", "assistant")
        and first.loss == second.loss
        and not first.tool_calls
        and not second.tool_calls
        and first.name == second.name
    )
