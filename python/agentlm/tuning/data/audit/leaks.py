"""Text that belongs to a template and not into a message: foreign special tokens, turn marks, unfilled placeholders.

Text in code (fenced or between back-ticks) is left alone: people talk about templates. Refuses to know any one tokenizer.
"""

import re
from collections.abc import Iterator

from agentlm.tuning.record import Conversation

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)

SPECIAL = re.compile(
    r"<\|[A-Za-z_][\w/ -]{0,40}\|>"  # ChatML, Llama-3, Phi, GPT: <|im_start|>, <|eot_id|>, <|user|>, <|endoftext|>
    r"|\[/?INST\]|<</?SYS>>"  # Llama-2, Mistral
    r"|\[(?:gMASK|sop|TOOL_CALLS|/?AVAILABLE_TOOLS|/?TOOL_RESULTS)\]"  # ChatGLM, Mistral
    r"|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|</?s>(?!\w)"  # Gemma; SentencePiece's control pieces
    r"|<｜[^｜\n]{1,40}｜>"  # DeepSeek
)
"""Special tokens of the chat forms that are about."""

TURN = re.compile(
    r"^#{2,3} ?(?:Human|Assistant|User|System|Instruction|Input|Response):"  # Vicuna's first form, Alpaca
    r"|^(?:USER|ASSISTANT): "  # Vicuna
    r"|\n\n(?:Human|Assistant): ",  # Anthropic's old completions
    re.MULTILINE,
)
"""Marks by which chat forms without special tokens tell turns apart."""

PLACEHOLDER = re.compile(
    r"\{\{-?\s*[A-Za-z_][\w.\[\]'\"]*\s*-?\}\}"  # {{ messages[0].content }}
    r"|\{%-?\s*(?:if|for|set|else|elif|end\w+|generation)\b[^%]{0,500}%\}"
    r"|(?<![\w$\\])\{(?:instruction|input|output|question|answer|prompt|response|context|query|system_message)\}",
    re.IGNORECASE,
)
"""What a template leaves where nobody filled it in."""


def leaks(conversation: Conversation) -> Iterator[tuple[int, str]]:
    """Each message that holds such text, by its place, and what it is.

    Special tokens and turn marks are looked for in every message; placeholders in what the system and the assistant say, as
    a user may ask for help with a template.
    """
    for index, message in enumerate(conversation.messages):
        text = _CODE.sub(" ", message.content or "")
        patterns = [("a special token of a chat form", SPECIAL), ("a turn mark of a chat form", TURN)]
        if message.role == "system" or message.trained:
            patterns.append(("a placeholder that nobody filled in", PLACEHOLDER))
        for what, pattern in patterns:
            if found := pattern.search(text):
                yield index, f"{what}: {found.group().strip()!r:.60}"
                break
