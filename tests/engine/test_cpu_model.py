"""The CPU engine against transformers: every family, every instruction set, to the end of the context."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from agentlm.model.config import ModelConfig
from agentlm.runtime.memory import BLOCK_SIZE
from tests.engine.cpu_models import (
    CONTEXT,
    ISAS,
    TIE,
    checkpoint,
    compare,
    need_isa,
    opened,
    run,
)
from tests.model import families

MEAN_BOUND = 1e-4
MAX_BOUND = 1e-3


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("seed", families.SEEDS)
@pytest.mark.parametrize("case", families.CASES)
def test_greedy_to_the_end_of_the_context_equals_transformers(
    case: str, seed: int, isa: str, record_property: Callable[[str, object], None]
) -> None:
    need_isa(isa)
    directory = checkpoint(case, seed)
    assert ModelConfig.load(directory).layers >= 4
    # The shortest prompt generates the whole context; the longest begins beyond every window and original context.
    references = [families.reference(case, seed)[i] for i in (0, -1)]
    with opened(directory, cpu_isa=isa) as llm:
        runs = run(llm, [r.prompt for r in references])
    assert [len(r.prompt) + len(r.tokens) for r in runs] == [CONTEXT, CONTEXT]
    assert CONTEXT // BLOCK_SIZE >= 8
    compared = compare(directory, runs)
    assert 2.5 < compared.spread < 3.5
    assert compared.mean < MEAN_BOUND
    assert compared.largest < MAX_BOUND
    # Where the choice is nearly a tie either side may be right. Nowhere else, and hardly ever.
    record_property("differing_tokens", compared.differing)
    assert all(gap < TIE for gap in compared.differing_gaps)
    assert compared.differing <= 1
    # And transformers' own decoding, through its cache, begins the same.
    assert all(gap > 1e-4 for theirs in references for gap in theirs.gaps)
    for ours, theirs in zip(runs, references, strict=True):
        assert ours.tokens[: len(theirs.tokens)] == theirs.tokens


@cache
def transformers_greedy(directory: Path, prompt: tuple[int, ...], new_tokens: int) -> list[int]:
    """What transformers' own `generate` appends, whatever its end-of-sequence ids."""
    import torch

    with torch.no_grad():
        ids = families.load_transformers(directory).generate(
            torch.tensor([prompt]),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return [int(token) for token in ids[0, len(prompt) :]]


@pytest.mark.parametrize("isa", ISAS)
def test_a_real_checkpoint_equals_transformers_to_the_end_of_its_context(data_dir: Path, isa: str) -> None:
    need_isa(isa)
    directory = data_dir / "models" / "dreams-260k"
    config = ModelConfig.load(directory)
    with opened(directory, cpu_isa=isa) as llm:
        prompts = [llm.tokenize(text) for text in ("A gentle hum", "I remember", "The")]
        runs = run(llm, prompts, vocab=config.vocab, context=config.context_length)
    assert config.context_length >= 8 * BLOCK_SIZE
    for ours in runs:
        assert len(ours.prompt) + len(ours.tokens) == config.context_length
        assert ours.tokens == transformers_greedy(directory, tuple(ours.prompt), len(ours.tokens))
    compared = compare(directory, runs)
    assert compared.mean < MEAN_BOUND
    assert compared.largest < MAX_BOUND
    assert runs[0].completion.text.strip().startswith("of probability unfold, as I sense the nodes")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("case", ["llama3", "qwen2", "qwen3-tied"])
def test_a_16_bit_checkpoint_is_computed_as_exactly_as_a_32_bit_one(case: str, dtype: str) -> None:
    directory = checkpoint(case, 0, dtype)
    # "auto" keeps the checkpoint's storage, which loses nothing.
    with opened(directory, dtype="auto") as llm:
        assert llm.info.dtype == dtype
        runs = run(llm, families.prompts(0), new_tokens=64)
    compared = compare(directory, runs)
    assert compared.mean < MEAN_BOUND
    assert compared.largest < MAX_BOUND
    assert all(gap < TIE for gap in compared.differing_gaps)


ROUNDED: dict[str, tuple[dict[str, str], float, float]] = {
    # Mean and largest difference from float32, about half as much again as the worst case has.
    "weights in float16": ({"dtype": "float16"}, 6e-3, 0.1),
    "weights in bfloat16": ({"dtype": "bfloat16"}, 5e-2, 0.5),
    "keys and values in float16": ({"kv_cache_dtype": "float16"}, 4e-3, 0.06),
}


@pytest.mark.parametrize("storage", ROUNDED)
@pytest.mark.parametrize(
    ("case", "isa"), [(case, "auto") for case in families.CASES] + [("llama2-biases", isa) for isa in ISAS]
)
def test_rounded_storage_stays_within_its_bound(case: str, isa: str, storage: str) -> None:
    need_isa(isa)
    settings, mean, largest = ROUNDED[storage]
    directory = checkpoint(case)
    with opened(directory, cpu_isa=isa, **settings) as llm:
        runs = run(llm, families.prompts(0), new_tokens=32)
    compared = compare(directory, runs)
    assert compared.mean < mean
    assert compared.largest < largest
    # A choice can turn over only where it was closer than what its two logits may move.
    assert all(gap < 2 * largest for gap in compared.differing_gaps)
    # The rounding is real: a setting that is ignored would agree far better.
    assert compared.mean > MEAN_BOUND
