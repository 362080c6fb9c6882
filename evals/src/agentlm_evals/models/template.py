"""Chat templates by name, for servers that take only raw prompts. Refuses to know servers.

`llama-2` follows the rules of FastChat 0.2.31, which AgentLM was tuned on, down to their treatment of empty messages.
"""

from collections.abc import Callable, Sequence

from agentlm_evals.errors import ConfigError
from agentlm_evals.model import Message


def llama2(messages: Sequence[Message]) -> str:
    """FastChat 0.2.31's `llama-2`; the beginning-of-text token is the tokenizer's to add.

    A last message of the assistant's is left open: the model goes on where it ends.
    """
    turns = list(messages)
    system = turns.pop(0).content if turns and turns[0].role == "system" else ""
    text = f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n" if system else "[INST] "
    for index, message in enumerate(turns):
        is_user = message.role == "user"
        if is_user == bool(index % 2):
            raise ConfigError(
                f"the template llama-2 needs user and assistant in turn; message {index} is {message.role}'s"
            )
        tag = "[INST]" if is_user else "[/INST]"
        content = message.content
        if not content:
            text += tag
        elif index == 0:
            text += content + " "
        elif is_user:
            text += f"{tag} {content} "
        elif index == len(turns) - 1:
            return f"{text}{tag} {content}"
        else:
            text += f"{tag} {content} </s><s>"
    return text + "[/INST]"


def chatml(messages: Sequence[Message]) -> str:
    """ChatML, as Qwen's and many others' models have it."""
    parts = [f"<|im_start|>{message.role}\n{message.content}" for message in messages]
    if messages and messages[-1].role == "assistant":
        return "<|im_end|>\n".join(parts)
    return "".join(part + "<|im_end|>\n" for part in parts) + "<|im_start|>assistant\n"


def plain(messages: Sequence[Message]) -> str:
    """No template: the contents, a blank line between two. For models that were never taught to chat."""
    text = "\n\n".join(message.content.strip() for message in messages if message.content.strip())
    return text if messages and messages[-1].role == "assistant" else text + "\n\n"


TEMPLATES: dict[str, Callable[[Sequence[Message]], str]] = {
    "llama-2": llama2,
    "chatml": chatml,
    "plain": plain,
}
SERVER = "server"
"""The server's own chat template."""
