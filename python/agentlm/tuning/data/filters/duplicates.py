"""Which conversations were seen before: by what they say, and by the item that they try.

Memory: about 100 bytes a conversation. Refuses to know which of two is the better one: the first stays.
"""

import hashlib
from collections import Counter

from agentlm.tuning.record import Conversation


class Seen:
    """What went by so far."""

    def __init__(self, per_item: int) -> None:
        self._per_item = per_item
        """Conversations of one task and item that stay; 0 sets no limit."""
        self._contents: set[bytes] = set()
        self._items: Counter[bytes] = Counter()

    def fault(self, conversation: Conversation) -> tuple[str, str] | None:
        """The kind of repetition and what is repeated, in words; a conversation that is none is remembered."""
        content = content_hash(conversation)
        if content in self._contents:
            return "duplicate", "an earlier conversation says the same"
        item = None
        if self._per_item and conversation.item is not None:
            item = _hash(conversation.task or conversation.source, conversation.item)
            if self._items[item] >= self._per_item:
                times = "once" if self._per_item == 1 else f"{self._per_item} times"
                return (
                    "item",
                    f"item {conversation.item!r:.80} of {conversation.task} is there {times} already",
                )
        self._contents.add(content)
        if item is not None:
            self._items[item] += 1
        return None


def content_hash(conversation: Conversation) -> bytes:
    """16 bytes that are equal for conversations that say the same with the same tools, white space and case aside."""
    parts: list[str] = [str(tool) for tool in conversation.tools or ()]
    for message in conversation.messages:
        parts += [message.role, " ".join((message.content or "").lower().split())]
        parts += [str(call["function"]) for call in message.tool_calls]
    return _hash(*parts)


def _hash(*parts: str) -> bytes:
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode()
        made.update(len(data).to_bytes(8, "little"))
        made.update(data)
    return made.digest()
