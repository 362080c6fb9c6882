"""The words of a plan: offsets that the device reads, as `engine/core/src/arena.rs` lays them out. Refuses to read them.

Every kernel and the runner's host side take them from here; `tests/kernels/test_words.py` holds them to the Rust file.
"""

import triton.language as tl

# Of the header.
N_ENTRIES = tl.constexpr(4)
N_TOKENS = tl.constexpr(5)
N_SAMPLES = tl.constexpr(6)
MAX_Q_LEN = tl.constexpr(7)
N_INITS = tl.constexpr(9)
N_BLOCK_DIFFS = tl.constexpr(10)
OFF_ENTRIES = tl.constexpr(11)
OFF_INITS = tl.constexpr(12)
OFF_BLOCK_DIFFS = tl.constexpr(13)
OFF_TOKENS = tl.constexpr(14)
USED_WORDS = tl.constexpr(15)
N_SCORES_IN_ALL = tl.constexpr(16)
HEADER_WORDS = tl.constexpr(32)

# Of an entry.
ROW = tl.constexpr(0)
Q_START = tl.constexpr(1)
Q_LEN = tl.constexpr(2)
COMPUTED = tl.constexpr(3)
SAMPLE_INDEX = tl.constexpr(4)
SAMPLE_POSITION = tl.constexpr(5)
SCORE_INDEX = tl.constexpr(6)
N_SCORES = tl.constexpr(7)
ENTRY_WORDS = tl.constexpr(8)

# Of an init, which is also a row's sampling record; it begins with the row.
N_KNOWN = tl.constexpr(1)
TOKENS_START = tl.constexpr(2)
N_PROMPT = tl.constexpr(3)
FLAGS = tl.constexpr(4)
TEMPERATURE = tl.constexpr(5)
TOP_K = tl.constexpr(6)
TOP_P = tl.constexpr(7)
MIN_P = tl.constexpr(8)
TYPICAL_P = tl.constexpr(9)
REPETITION_PENALTY = tl.constexpr(10)
FREQUENCY_PENALTY = tl.constexpr(11)
PRESENCE_PENALTY = tl.constexpr(12)
SEED_LO = tl.constexpr(13)
SEED_HI = tl.constexpr(14)
PARALLEL_SAMPLE = tl.constexpr(15)
TOP_N = tl.constexpr(16)
MIN_NEW_TOKENS = tl.constexpr(17)
N_BIAS = tl.constexpr(18)
BIAS_START = tl.constexpr(19)
ADAPTER = tl.constexpr(20)
RECORD_WORDS = tl.constexpr(24)

# Bits of its flags.
GREEDY = tl.constexpr(1)
LOGPROBS = tl.constexpr(2)
RAW_LOGPROBS = tl.constexpr(4)
OPENAI_PENALTIES = tl.constexpr(8)
BAN_EOS = tl.constexpr(16)
CONSTRAINED = tl.constexpr(32)
WATERMARK = tl.constexpr(64)

# Of a block diff, before its ids.
DIFF_WORDS = tl.constexpr(3)
