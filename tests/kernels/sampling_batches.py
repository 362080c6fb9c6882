"""Batches to sample: records by the names of their words, and what a launch reads and writes, between guards."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from agentlm_kernels import words
from agentlm_kernels.sampling import ResultsLayout, SamplerBuffers, SamplerSettings, sample_fast, sample_full
from agentlm_kernels.sampling.reference import reference_sample

UNTOUCHED = 0x5A5A5A5A
MAX_MODEL_LEN = 64
TOP_CAP = 8
REALS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)
DEFAULTS: dict[str, Any] = {
    "temperature": 1.0, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0, "seed_lo": 7, "seed_hi": 1,
}  # fmt: skip


def record(flags: int = 0, **given: Any) -> Tensor:
    """A record's words, int32 `[24]`: `record(top_k=5, temperature=0.5)`."""
    out = torch.zeros(words.RECORD_WORDS.value, dtype=torch.int32)
    out[words.FLAGS.value] = flags
    for name, value in (DEFAULTS | given).items():
        at = getattr(words, name.upper()).value
        if name in REALS:
            out[at] = torch.tensor(value, dtype=torch.float32).view(torch.int32)
        else:
            out[at] = value
    return out


@dataclass
class Request:
    """One row: its record, its tokens, what is added to some logits, and what may be sampled."""

    record: Tensor
    logits: Tensor
    history: list[int]
    biases: list[tuple[int, float]] = field(default_factory=list)
    allowed: list[int] | None = None


class Batch:
    """Requests on a device, in shuffled rows, with padding between them."""

    def __init__(
        self, requests: list[Request], guarded: Any, device: torch.device, settings: SamplerSettings,
        *, width: int, padding: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        n, rows = len(requests) + len(padding), len(requests) + 3
        self.settings, self.device = settings, device
        self.layout = ResultsLayout(max(rows, n), TOP_CAP, 4)
        self.buffers = SamplerBuffers.allocate(n, 0, settings.vocab, device)
        generator = torch.Generator().manual_seed(len(requests))
        places = torch.randperm(rows, generator=generator).tolist()
        # Past the vocabulary lies what would win.
        logits = torch.full((n, width), float("inf"))
        sample_row = torch.full((n,), -1, dtype=torch.int32)
        sample_position = torch.full((n,), 1 << 30, dtype=torch.int32)
        records = torch.full((rows + 1, words.RECORD_WORDS.value), UNTOUCHED, dtype=torch.int32)
        tokens = torch.full((rows + 1, MAX_MODEL_LEN), UNTOUCHED, dtype=torch.int32)
        biases = torch.full((rows + 1, 2 * 16), UNTOUCHED, dtype=torch.int32)
        masks = torch.full((n, -(-width // 32)), UNTOUCHED, dtype=torch.int32)
        waiting = iter(zip(requests, places, strict=False))
        for sample in range(n):
            if sample in padding:
                continue
            request, row = next(waiting)
            logits[sample, : settings.vocab] = request.logits
            sample_row[sample], sample_position[sample] = row, len(request.history)
            records[row] = request.record
            records[row, words.N_BIAS.value] = len(request.biases)
            tokens[row, : len(request.history)] = torch.tensor(request.history, dtype=torch.int32)
            for i, (token, bias) in enumerate(request.biases):
                biases[row, 2 * i] = token
                biases[row, 2 * i + 1] = torch.tensor(bias).view(torch.int32)
            if request.allowed is not None:
                masks[sample] = bits(request.allowed, masks.shape[1])
        self.results = guarded((self.layout.words,), torch.int32, UNTOUCHED)
        self.tokens = guarded((rows + 1, MAX_MODEL_LEN), torch.int32, UNTOUCHED)
        self.tokens.tensor.copy_(tokens)
        self.given = [x.to(device) for x in (logits, sample_row, sample_position, records)]
        self.biases, self.masks = biases.to(device), masks.to(device)

    def expected(self) -> tuple[Tensor, Tensor]:
        """The results and the tokens that the reference writes."""
        results = torch.full((self.layout.words,), UNTOUCHED, dtype=torch.int32)
        tokens = self.tokens.tensor.cpu().clone()
        given = [x.cpu() for x in self.given]
        reference_sample(
            *given, tokens, self.biases.cpu(), self.masks.cpu(), self.settings, results, self.layout
        )  # fmt: skip
        return results, tokens

    def full(self) -> None:
        """Launches `sample_full`."""
        sample_full(
            *self.given, self.tokens.tensor, self.biases, self.masks, self.buffers, self.settings, self.results.tensor,
            self.layout,
        )  # fmt: skip

    def fast(self) -> None:
        """Launches `sample_fast`."""
        sample_fast(
            *self.given, self.tokens.tensor, self.buffers, self.settings, self.results.tensor, self.layout
        )

    def check(self, expected: tuple[Tensor, Tensor]) -> None:
        """Raises an AssertionError if something else was written, or the workspace is not left as it was."""
        results, tokens = expected
        self.results.check()
        self.tokens.check()
        check_results(self.results.tensor.cpu(), results, self.layout)
        assert torch.equal(self.tokens.tensor.cpu(), tokens), "tokens of rows"
        assert not self.buffers.counts.any(), "counts are left in the workspace"


def check_results(given: Tensor, expected: Tensor, layout: ResultsLayout, start: int = 0) -> None:
    """Ids and untouched words are equal, log-probabilities close."""
    rows, cells = layout.max_rows, layout.max_rows * layout.top_cap
    scores, score_cells = layout.max_scores, layout.max_scores * layout.top_cap
    at = 0
    sections = (
        ("ids", rows, False), ("log-probabilities", rows, True), ("top ids", cells, False),
        ("top log-probabilities", cells, True), ("scores", scores, True), ("scores' top ids", score_cells, False),
        ("scores' top log-probabilities", score_cells, True),
    )  # fmt: skip
    for name, n, is_real in sections:
        ours, theirs = given[at : at + n], expected[at : at + n]
        at += n
        if is_real:
            is_set = theirs != UNTOUCHED
            assert torch.equal(ours[~is_set], theirs[~is_set]), (
                f"{name}: cells are written that nobody asked for"
            )
            ours, theirs = ours[is_set].view(torch.float32), theirs[is_set].view(torch.float32)
            torch.testing.assert_close(
                ours, theirs, atol=2e-5, rtol=2e-6, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}"
            )
        else:
            wrong = (ours != theirs).nonzero().flatten().tolist()
            assert not wrong, f"{name}: at {wrong}: {ours[wrong].tolist()}, not {theirs[wrong].tolist()}"


def bits(allowed: list[int], width: int) -> Tensor:
    """A mask of ids as int32 words."""
    out = torch.zeros(width, dtype=torch.int64)
    for token in allowed:
        out[token // 32] |= 1 << (token % 32)
    return torch.where(out >= 1 << 31, out - (1 << 32), out).int()


def settings(
    vocab: int, device: torch.device, eos: tuple[int, ...] = (1, 2), **given: Any
) -> SamplerSettings:
    """Settings of a vocabulary."""
    return SamplerSettings(torch.tensor(eos, dtype=torch.int32, device=device), vocab, **given)
