"""The part `sampling`: the fast and the full sampler over whole vocabularies."""

import struct
from dataclasses import dataclass

import torch

from agentlm_kernels import words
from agentlm_kernels.sampling import (
    ResultsLayout,
    SamplerBuffers,
    SamplerSettings,
    sample_fast,
    sample_full,
)
from bench.gpu.child import Say, Setup
from bench.gpu.timing import seconds_of

SAMPLES = (1, 64, 256)
VOCABULARIES = (128256, 151936)
TOP_CAP = 5
HISTORY = 1024
"""Tokens that a row knows."""


@dataclass(frozen=True, slots=True)
class Wish:
    """How every row of a launch is sampled."""

    name: str
    full: bool
    flags: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    top_n: int = 0

    def record(self, seed: int) -> list[int]:
        """The words of a row's record."""
        record = [0] * words.RECORD_WORDS.value

        def real(at: int, value: float) -> None:
            (record[at],) = struct.unpack("<i", struct.pack("<f", value))

        record[words.N_PROMPT.value] = HISTORY // 2
        record[words.FLAGS.value] = self.flags
        record[words.TOP_K.value] = self.top_k
        record[words.SEED_LO.value] = seed
        record[words.TOP_N.value] = self.top_n
        real(words.TEMPERATURE.value, self.temperature)
        real(words.TOP_P.value, self.top_p)
        real(words.TYPICAL_P.value, 1.0)
        real(words.REPETITION_PENALTY.value, self.repetition_penalty)
        return record


WISHES = (
    Wish("fast, greedy", False, flags=words.GREEDY.value),
    Wish("fast, temperature 1", False),
    Wish("full, top-k 50, top-p 0.9", True, top_k=50, top_p=0.9),
    Wish("full, top-p 0.95", True, top_p=0.95),
    Wish("full, penalty, 5 log-probabilities", True, words.LOGPROBS.value, repetition_penalty=1.1, top_n=5),
)


def run(setup: Setup, say: Say) -> None:
    """Every wish at every size."""
    for vocab in (5000,) if setup.rehearse else VOCABULARIES if setup.long else VOCABULARIES[:1]:
        _run(setup, say, vocab, (2,) if setup.rehearse else SAMPLES)
    if not setup.long and not setup.rehearse:
        _run(setup, say, VOCABULARIES[1], SAMPLES[-1:])


def _run(setup: Setup, say: Say, vocab: int, counts: tuple[int, ...]) -> None:
    place, most = setup.device, max(counts)
    # A spread as of a trained model: few tokens hold the mass.
    logits = torch.randn(most, vocab, dtype=torch.float32, device=place) * 3
    buffers = SamplerBuffers.allocate(most, 0, vocab, place)
    eos = torch.tensor([2], dtype=torch.int32, device=place)
    settings = SamplerSettings(eos, vocab)
    layout = ResultsLayout(most, TOP_CAP, 0)
    results = torch.zeros(max(layout.words, 1), dtype=torch.int32, device=place)
    tokens = torch.randint(0, vocab, (most + 1, HISTORY + 1), dtype=torch.int32, device=place)
    biases = torch.zeros(most + 1, 2048, dtype=torch.int32, device=place)
    masks = torch.zeros(most, -(-vocab // 32), dtype=torch.int32, device=place)
    position = torch.full((most,), HISTORY, dtype=torch.int32, device=place)
    rows = torch.arange(most, dtype=torch.int32, device=place)
    for wish in WISHES:
        records = torch.tensor([wish.record(row) for row in range(most + 1)], dtype=torch.int32, device=place)
        for n in counts:
            with say.case(f"{wish.name}, {n} x {vocab}"):

                def sample(_: int, n: int = n, wish: Wish = wish, records: torch.Tensor = records) -> None:
                    if wish.full:
                        sample_full(
                            logits[:n], rows[:n], position[:n], records, tokens, biases, masks[:n], buffers,
                            settings, results, layout,
                        )  # fmt: skip
                    else:
                        sample_fast(
                            logits[:n], rows[:n], position[:n], records, tokens, buffers, settings, results,
                            layout,
                        )  # fmt: skip

                results.fill_(-2)
                seconds = seconds_of(sample)
                ids = results[:n]
                if not bool(((ids >= 0) & (ids < vocab)).all()):
                    raise ArithmeticError(f"ids are no tokens: {ids[:4].tolist()}")
                read = 4 * n * vocab / seconds
                say(
                    f"{wish.name}, {n} x {vocab}",
                    us=seconds * 1e6,
                    gb_per_s=read / 1e9,
                    of_read=setup.of_read(read),
                )
