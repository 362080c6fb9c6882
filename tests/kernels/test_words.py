"""The words of a plan are those of the engine's own file."""

import re
from pathlib import Path

import pytest

from agentlm_kernels import words

ARENA = Path(__file__).parents[2] / "engine" / "core" / "src" / "arena.rs"
OTHER_NAMES = {
    ("header", "N_SCORES"): "N_SCORES_IN_ALL",
    ("header", "WORDS"): "HEADER_WORDS",
    ("entry", "WORDS"): "ENTRY_WORDS",
    ("init", "WORDS"): "RECORD_WORDS",
    ("init", "SAMPLE_INDEX"): "PARALLEL_SAMPLE",
    ("block_diff", "WORDS"): "DIFF_WORDS",
}
UNREAD = {
    ("header", name) for name in ("MAGIC", "VERSION", "STEP_LO", "STEP_HI", "MAX_CONTEXT")
} | {("block_diff", "ROW"), ("block_diff", "START"), ("block_diff", "LEN")}  # fmt: skip


def rust_words():
    for section, body in re.findall(r"pub mod (\w+) \{(.*?)\n\}", ARENA.read_text(), re.DOTALL):
        for name, value in re.findall(r"pub const (\w+): (?:usize|u32) = (\d+);", body):
            yield section, name, int(value)


@pytest.mark.parametrize(("section", "name", "value"), list(rust_words()))
def test_a_word_is_the_engines(section, name, value):
    if (section, name) in UNREAD:
        return
    assert getattr(words, OTHER_NAMES.get((section, name), name)).value == value


def test_every_word_was_found():
    assert len(list(rust_words())) > 50
