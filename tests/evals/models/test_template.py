"""Named chat templates: llama-2 as FastChat 0.2.31 writes it, ChatML, none."""

import pytest

from agentlm_evals.errors import ConfigError
from agentlm_evals.model import Message
from agentlm_evals.models.template import chatml, llama2, plain


def turns(*texts: str, system: str = "") -> list[Message]:
    roles = ("user", "assistant")
    begin = [Message("system", system)] if system else []
    return begin + [Message(roles[at % 2], text) for at, text in enumerate(texts)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (turns("u1"), "[INST] u1 [/INST]"),
        (turns("u1", "a1", "u2"), "[INST] u1 [/INST] a1 </s><s>[INST] u2 [/INST]"),
        (
            turns("u1", "a1", "u2", system="s"),
            "[INST] <<SYS>>\ns\n<</SYS>>\n\nu1 [/INST] a1 </s><s>[INST] u2 [/INST]",
        ),
        # An empty message is only its tag.
        (turns("u1", "", "u2"), "[INST] u1 [/INST][INST] u2 [/INST]"),
        # Blanks are content.
        (turns(" u1 \n"), "[INST]  u1 \n [/INST]"),
        # A last message of the assistant's is left open.
        (turns("u1", "Answer: "), "[INST] u1 [/INST] Answer: "),
    ],
)
def test_llama_2(messages: list[Message], text: str) -> None:
    assert llama2(messages) == text


def test_llama_2_wants_turns() -> None:
    with pytest.raises(ConfigError, match="message 1 is user's"):
        llama2([Message("user", "a"), Message("user", "b")])


def test_chatml() -> None:
    expected = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n"
    assert chatml(turns("u", system="s")) == expected
    assert chatml(turns("u", "An")).endswith("<|im_start|>assistant\nAn")


def test_plain() -> None:
    assert plain(turns("u", "a", "v", system="s")) == "s\n\nu\n\na\n\nv\n\n"
    assert plain(turns("u", "Answer:")) == "u\n\nAnswer:"
