"""What the CPU engine samples: the distribution it should be, and the same tokens for the same seed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from agentlm import LLM, SamplingParams
from tests.engine.cpu_models import ISAS, VOCAB, checkpoint, need_isa, opened, run
from tests.model import families

Probabilities = npt.NDArray[np.float64]

PROMPT = families.prompts(0)[1]
DRAWS = 3000


def softmax(logprobs: Probabilities, temperature: float) -> Probabilities:
    scaled = np.exp((logprobs - logprobs.max()) / temperature)
    return scaled / scaled.sum()


def only(p: Probabilities, kept: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Probabilities:
    result = np.zeros_like(p)
    result[kept] = p[kept]
    return result / result.sum()


def top_k(p: Probabilities, k: int) -> Probabilities:
    return only(p, np.argsort(-p)[:k])


def top_p(p: Probabilities, mass: float) -> Probabilities:
    order = np.argsort(-p)
    return only(p, order[: int(np.searchsorted(np.cumsum(p[order]), mass)) + 1])


def min_p(p: Probabilities, share: float) -> Probabilities:
    return only(p, p >= share * p.max())


def typical(p: Probabilities, mass: float) -> Probabilities:
    surprise = -np.log(p)
    distance = np.abs(surprise - (p * surprise).sum())
    order = np.argsort(distance)
    return only(p, order[: int(np.searchsorted(np.cumsum(p[order]), mass)) + 1])


def row(llm: LLM) -> Probabilities:
    """The log-probabilities of what follows `PROMPT`."""
    return run(llm, [PROMPT], 1)[0].rows[0]


def draw(llm: LLM, params: SamplingParams, n: int = DRAWS) -> npt.NDArray[np.int64]:
    """The first token after `PROMPT`, for seeds 0 to n - 1."""
    each = [replace(params, max_new_tokens=1, seed=seed) for seed in range(n)]
    return np.array([c.token_ids[0] for c in llm.generate([PROMPT] * n, each)])


def chi_square(tokens: npt.NDArray[np.int64], p: Probabilities) -> float:
    """Pearson's statistic as a standard normal deviate (Wilson and Hilferty, 1931); rare tokens share a cell."""
    expected = p * len(tokens)
    counts = np.bincount(tokens, minlength=VOCAB).astype(float)
    often = expected >= 5
    assert often.sum() >= 4
    rest = expected[~often].sum()
    if rest == 0:
        assert counts[~often].sum() == 0
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], rest)
    if rest < 5:
        observed, wanted = observed[:-1], wanted[:-1]
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    freedom = len(wanted) - 1
    scale = 2 / (9 * freedom)
    return float(((statistic / freedom) ** (1 / 3) - (1 - scale)) / np.sqrt(scale))


PLAIN = SamplingParams(temperature=1.0, ignore_eos=True)
SETTINGS: dict[str, tuple[SamplingParams, Callable[[Probabilities], Probabilities]]] = {
    "temperature 1": (PLAIN, lambda row: softmax(row, 1.0)),
    "temperature 0.7": (replace(PLAIN, temperature=0.7), lambda row: softmax(row, 0.7)),
    "temperature 1.5": (replace(PLAIN, temperature=1.5), lambda row: softmax(row, 1.5)),
    "top_k": (replace(PLAIN, top_k=6), lambda row: top_k(softmax(row, 1.0), 6)),
    "top_p": (replace(PLAIN, top_p=0.8), lambda row: top_p(softmax(row, 1.0), 0.8)),
    "min_p": (replace(PLAIN, min_p=0.05), lambda row: min_p(softmax(row, 1.0), 0.05)),
    "typical_p": (replace(PLAIN, typical_p=0.7), lambda row: typical(softmax(row, 1.0), 0.7)),
    "top_k, then top_p of what is left": (
        replace(PLAIN, temperature=1.3, top_k=20, top_p=0.7),
        lambda row: top_p(top_k(softmax(row, 1.3), 20), 0.7),
    ),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_samples_follow_the_distribution(setting: str) -> None:
    params, expected = SETTINGS[setting]
    with opened(checkpoint("llama3")) as llm:
        logprobs = row(llm)
        tokens = draw(llm, params)
    p = expected(logprobs)
    # Nothing that a filter dropped, and all of the rest by its share. Seeds are fixed: this passes or fails for ever.
    assert set(tokens.tolist()) <= set(np.flatnonzero(p).tolist())
    assert abs(chi_square(tokens, p)) < 3.3
    # The check can tell: a temperature a fifth higher would not pass.
    assert chi_square(tokens, only(softmax(logprobs, params.temperature * 1.2), p > 0)) > 3.3


@pytest.mark.parametrize("isa", ISAS)
def test_each_instruction_set_samples_the_distribution(isa: str) -> None:
    need_isa(isa)
    with opened(checkpoint("qwen3"), cpu_isa=isa) as llm:
        tokens = draw(llm, replace(PLAIN, top_p=0.9), 1500)
        p = top_p(softmax(row(llm), 1.0), 0.9)
    assert set(tokens.tolist()) <= set(np.flatnonzero(p).tolist())
    assert abs(chi_square(tokens, p)) < 3.3


def test_positions_of_one_request_draw_independently() -> None:
    """With an almost flat distribution, a noise that forgot the position would repeat itself."""
    with opened(checkpoint("llama3")) as llm:
        flat = replace(PLAIN, temperature=1e4, seed=11)
        tokens = run(llm, [PROMPT], 240, flat)[0].tokens
    counts = np.bincount(tokens, minlength=VOCAB)
    assert counts.max() <= 6
    assert len(set(tokens)) > 130


def test_one_seed_gives_one_continuation_and_another_seed_another() -> None:
    params = [replace(PLAIN, seed=seed, max_new_tokens=24) for seed in (1, 1, 2, 2**64 - 1)]
    with opened(checkpoint("llama2")) as llm:
        first, again, other, last = (c.token_ids for c in llm.generate([PROMPT] * 4, params))
    assert first == again
    assert len({first, other, last}) == 3


def test_without_a_seed_each_request_draws_its_own() -> None:
    with opened(checkpoint("llama2")) as llm:
        several = llm.generate([PROMPT] * 8, replace(PLAIN, max_new_tokens=24))
    assert len({c.token_ids for c in several}) == 8


def test_top_k_of_one_and_temperature_zero_are_greedy() -> None:
    with opened(checkpoint("mistral")) as llm:
        greedy = run(llm, [PROMPT], 24)[0]
        one = run(llm, [PROMPT], 24, replace(PLAIN, top_k=1, seed=3))[0]
        none = run(llm, [PROMPT], 24, SamplingParams(ignore_eos=True, top_p=0.5, seed=3))[0]
    assert one.tokens == none.tokens == greedy.tokens
    assert greedy.tokens == greedy.rows.argmax(axis=1).tolist()


def test_frequency_and_presence_penalties_lower_what_was_generated() -> None:
    """OpenAI's formula, checked at every step of a greedy run on the raw log-probabilities."""
    params = SamplingParams(ignore_eos=True, frequency_penalty=1.5, presence_penalty=0.5)
    with opened(checkpoint("llama2")) as llm:
        plain = run(llm, [PROMPT], 40)[0]
        punished = run(llm, [PROMPT], 40, params)[0]
    counts = np.zeros(VOCAB)
    for token, raw in zip(punished.tokens, punished.rows, strict=True):
        assert token == int((raw - 1.5 * counts - 0.5 * (counts > 0)).argmax())
        counts[token] += 1
    assert len(set(punished.tokens)) > len(set(plain.tokens))


def test_a_large_repetition_penalty_repeats_nothing() -> None:
    params = SamplingParams(ignore_eos=True, repetition_penalty=1e6)
    with opened(checkpoint("llama2")) as llm:
        tokens = run(llm, [PROMPT], 40, params)[0].tokens
    assert len(set(tokens)) == 40
    assert not set(tokens) & set(PROMPT)
