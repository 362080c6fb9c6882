"""Text of unknown origin as people may see it: what would command a terminal, or turn the text around, is written out.

Refuses to change anything that is only displayed: letters of all scripts, line breaks and tabs stay as they are.
"""

_KEPT = "\n\t"
_WRITTEN_OUT = {
    **{
        code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in _KEPT
    },  # control pictures, such as ␛
    0x7F: "\u2421",
    **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)},
    # Overrides, embeddings and isolates of writing direction; Unicode's annex 9.
    **{code: f"<U+{code:04X}>" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    0x2028: "<U+2028>",
    0x2029: "<U+2029>",
}


def visible(text: str) -> str:
    """The text with control characters and turns of direction written out."""
    return text.translate(_WRITTEN_OUT)
