"""The order of a conversation's turns: who may speak after whom. Refuses to know what is said."""

from agentlm.tuning.record import Conversation


def fault(conversation: Conversation) -> str | None:
    """What is wrong with the order, in words; None for a sound one.

    At most one system message, first; then the user and the assistant in turn, the assistant last; where the assistant
    calls tools, their results come before anybody else speaks, at most one for each call. Nobody says nothing.
    """
    messages = conversation.messages
    for index, message in enumerate(messages):
        if not (message.content or "").strip() and not message.tool_calls:
            return f"messages[{index}] of the {message.role} is empty"
    start = 1 if messages[0].role == "system" else 0
    if start == len(messages):
        return "there is nothing but a system message"
    if messages[start].role != "user":
        return f"the {messages[start].role} speaks first; the user must"
    before = "user"
    open_calls = 0
    for index, message in enumerate(messages[start + 1 :], start + 1):
        role = message.role
        if role == "system":
            return f"messages[{index}] is the system's; only the first may be"
        if role == "tool":
            if open_calls == 0:
                return f"messages[{index}] is the result of a call that nobody made"
            open_calls -= 1
        elif role == "user" and before == "user":
            return f"messages[{index}]: the user speaks twice"
        elif role == "user" and open_calls:
            return f"messages[{index}]: the user speaks before the tools answered"
        elif role == "assistant" and before == "assistant":
            return f"messages[{index}]: the assistant speaks twice"
        elif role == "assistant":
            open_calls = len(message.tool_calls)
        before = role
    if before != "assistant":
        return f"the {before} speaks last; the assistant must"
    return None
