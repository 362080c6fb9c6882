"""Small conversations that tests bend until something is wrong with them."""

from agentlm.tuning.record import Conversation, Message

STEPS = (
    "THOUGHT: I look at the shelf.\nACTION: go to shelf 1",
    "THOUGHT: There is the key.\nACTION: take key 1 from shelf 1",
    "THOUGHT: I bring it to the door.\nACTION: go to door 1",
    "THOUGHT: It should fit.\nACTION: open door 1",
    "THOUGHT: Done.\nACTION: look",
    "THOUGHT: Really done.\nACTION: go to hall 1",
)


def chat(*texts, **fields):
    """A chat in which user and assistant say `texts` in turn."""
    roles = ("user", "assistant")
    messages = [Message(roles[index % 2], text) for index, text in enumerate(texts)]
    return conversation(messages, **fields)


def episode(*answers, task="alfworld", **fields):
    """An agent's trajectory with these turns of the assistant."""
    messages = []
    for index, answer in enumerate(answers):
        messages += [Message("user", f"You see room {index}."), Message("assistant", answer)]
    return conversation(messages, task=task, **fields)


def conversation(messages, **fields):
    """A record of messages."""
    return Conversation(**{"id": "1", "source": "tests", **fields, "messages": tuple(messages)})
