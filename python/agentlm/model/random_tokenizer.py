"""A byte-level tokenizer and a chat template of our own for random models. Refuses to know weights.

Token ids: 0..255 are the bytes, then `SPECIALS`, then made-up words that fill the vocabulary. No text is encoded to
a made-up word; a random model samples them, and they read as text.
"""

import json
from pathlib import Path
from typing import Any

SPECIALS = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
"""Special tokens, in the order of their ids."""
BOS_ID = 256
EOS_ID = 257
SMALLEST_VOCAB = 256 + len(SPECIALS)

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message.role not in ['system', 'user', 'assistant', 'tool'] -%}"
    "{{- raise_exception('The roles are system, user, assistant and tool; given: ' + message.role) -}}"
    "{%- endif -%}"
    "{{- '<|' + message.role + '|>' + message.content + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""Turns as `<|role|>content<|end|>`."""

_SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvwxyzq" for vowel in "aeiou"]


def write_tokenizer(directory: Path, vocab: int, context: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json for `vocab` ids, at least `SMALLEST_VOCAB`."""
    if vocab < SMALLEST_VOCAB:
        raise ValueError(
            f"A vocabulary of {vocab} is too small: bytes and special tokens need {SMALLEST_VOCAB}."
        )
    ids = {symbol: byte for byte, symbol in enumerate(_byte_symbols())}
    ids.update((special, 256 + i) for i, special in enumerate(SPECIALS))
    ids.update(("Ġ" + _word(i), SMALLEST_VOCAB + i) for i in range(vocab - SMALLEST_VOCAB))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": 256 + i,
                "content": special,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, special in enumerate(SPECIALS)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": SPECIALS[0], "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": SPECIALS[0], "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {SPECIALS[0]: {"id": SPECIALS[0], "ids": [BOS_ID], "tokens": [SPECIALS[0]]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [],
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIALS[0],
        "eos_token": SPECIALS[1],
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _byte_symbols() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE.

    GPT-2's mapping: printable Latin-1 characters stand for themselves, the rest for U+0100 onwards in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _word(index: int) -> str:
    """The index-th made-up word: syllables as digits of a bijective numeral."""
    syllables: list[str] = []
    index += 1
    while index > 0:
        index, digit = divmod(index - 1, len(_SYLLABLES))
        syllables.append(_SYLLABLES[digit])
    return "".join(reversed(syllables))
