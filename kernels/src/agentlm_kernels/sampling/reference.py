"""The sampler in torch, row by row, in the order and the precision of `engine/cpu/src/sampler`: slow, to test against.

Same arguments as the kernels' launchers, without workspaces; the tensors may be anywhere. Refuses to be fast.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from agentlm_kernels import words
from agentlm_kernels.sampling.layout import FAILED, ResultsLayout, SamplerSettings

LARGEST = torch.finfo(torch.float32).max
HASH_KEY = 15_485_863
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def reference_philox(
    counter: tuple[Tensor | int, Tensor | int, int, int], key: tuple[int, int]
) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al., 2011): four int64 tensors of 32-bit words."""
    c = [torch.as_tensor(x, dtype=torch.int64) for x in counter]
    k = list(key)
    for _ in range(10):
        # Halves, so that no product leaves an int64.
        a, b = (_wide_product(m, x) for m, x in zip(_MULTIPLIERS, (c[0], c[2]), strict=True))
        c = [b[0] ^ c[1] ^ k[0], b[1], a[0] ^ c[3] ^ k[1], a[1]]
        k = [(x + w) & _LOW for x, w in zip(k, _WEYL, strict=True)]
    return [x.clone() for x in torch.broadcast_tensors(*c)]


def _wide_product(m: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """The high and the low 32 bits of a product of 32-bit words."""
    low = (x & 0xFFFF) * m
    high = (x >> 16) * m + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def reference_words(vocab: int, seed: int, position: int, sample: int) -> Tensor:
    """int64 `[vocab]`: each id's 32-bit word."""
    quads = torch.arange(-(-vocab // 4))
    drawn = reference_philox((quads, position & _LOW, sample & _LOW, 0), (seed & _LOW, (seed >> 32) & _LOW))
    return torch.stack(drawn, 1).flatten()[:vocab]


def reference_noise(drawn: Tensor) -> Tensor:
    """float32: standard Gumbel noise of words."""
    u = ((drawn >> 9).float() + 0.5) * 2.0**-23
    return -(-u.log()).log()


@dataclass(frozen=True)
class _Record:
    """A record's words by name."""

    ints: list[int]
    reals: list[float]

    @classmethod
    def read(cls, record: Tensor) -> "_Record":
        record = record.cpu().contiguous()
        return cls(record.tolist(), record.view(torch.float32).tolist())

    def word(self, at: object) -> int:
        return self.ints[int(getattr(at, "value", at))] & _LOW  # type: ignore[call-overload]

    def real(self, at: object) -> float:
        return self.reals[int(getattr(at, "value", at))]  # type: ignore[call-overload]

    def has(self, flag: object) -> bool:
        return bool(self.word(words.FLAGS) & int(getattr(flag, "value", flag)))  # type: ignore[call-overload]

    @property
    def seed(self) -> int:
        return self.word(words.SEED_LO) | self.word(words.SEED_HI) << 32


def reference_sample(
    logits: Tensor, sample_row: Tensor, sample_position: Tensor, records: Tensor, row_tokens: Tensor, biases: Tensor,
    masks: Tensor, settings: SamplerSettings, results: Tensor, layout: ResultsLayout,
) -> None:  # fmt: skip
    """Samples every row that is not padding; writes what `sample_full` writes."""
    for sample, (row, position) in enumerate(zip(sample_row.tolist(), sample_position.tolist(), strict=True)):
        if row < 0:
            continue
        record = _Record.read(records[row])
        pairs = biases[row].cpu()[: 2 * record.word(words.N_BIAS)].reshape(-1, 2)
        chosen, logprob, top = _sample(
            logits[sample].cpu(),
            record,
            row_tokens[row, :position].cpu().long(),
            pairs,
            masks[sample].cpu(),
            settings,
        )
        results[sample] = chosen
        _put(results, layout.max_rows + sample, logprob)
        at = 2 * layout.max_rows + sample * layout.top_cap
        _put_top(results, at, layout.max_rows * layout.top_cap, top, record.word(words.TOP_N), layout.top_cap)
        row_tokens[row, position] = max(chosen, 0)


def reference_score(
    logits: Tensor, score_row: Tensor, score_next: Tensor, records: Tensor, settings: SamplerSettings, results: Tensor,
    layout: ResultsLayout,
) -> None:  # fmt: skip
    """Log-probabilities of given tokens; writes what `score_rows` writes."""
    for at, (row, following) in enumerate(zip(score_row.tolist(), score_next.tolist(), strict=True)):
        if row < 0:
            continue
        record = _Record.read(records[row])
        x = _clean(logits[at].cpu()[: settings.vocab])
        logprob, top = math.nan, list[tuple[int, float]]()
        if 0 <= following < settings.vocab and x.max() > -math.inf:
            logprobs = _log_softmax(x)
            logprob = float(logprobs[following])
            top = _top(x, logprobs, x > -math.inf)
        _put(results, layout.score_start + at, logprob)
        start = layout.score_start + layout.max_scores + at * layout.top_cap
        _put_top(
            results, start, layout.max_scores * layout.top_cap, top, record.word(words.TOP_N), layout.top_cap
        )


def _put(results: Tensor, at: int, logprob: float) -> None:
    results[at] = torch.tensor(logprob, dtype=torch.float32).view(torch.int32)


def _put_top(
    results: Tensor, at: int, further: int, top: list[tuple[int, float]], wanted: int, cap: int
) -> None:
    for i in range(min(wanted, cap)):
        token, logprob = top[i] if i < len(top) else (-1, -math.inf)
        results[at + i] = token
        _put(results, at + further + i, logprob)


def _clean(x: Tensor) -> Tensor:
    return torch.where(x.isnan(), -math.inf, x.clamp(max=LARGEST))


def _log_softmax(x: Tensor) -> Tensor:
    """float64; those of minus infinity are that."""
    wide = x.double()
    return wide - wide.logsumexp(0)


def _top(x: Tensor, logprobs: Tensor, is_kept: Tensor) -> list[tuple[int, float]]:
    """The kept ids, the largest first, of equal ones the lowest."""
    order = torch.argsort(torch.where(is_kept, x, -math.inf), descending=True, stable=True)
    return [(i, float(logprobs[i])) for i in order[: int(is_kept.sum())].tolist()]


def _sample(
    logits: Tensor, record: _Record, history: Tensor, biases: Tensor, mask: Tensor, settings: SamplerSettings
) -> tuple[int, float, list[tuple[int, float]]]:
    raw = _clean(logits[: settings.vocab])
    x = _adjusted(raw, record, history, biases, mask, settings)
    if x.max() == -math.inf:
        return int(FAILED.value), -math.inf, []
    z, is_kept = x, x > -math.inf
    if record.has(words.GREEDY):
        chosen = int((x == x.max()).nonzero()[0])
    else:
        z = (x - x.max()) / torch.tensor(record.real(words.TEMPERATURE), dtype=torch.float32)
        is_kept = is_kept & _kept(z, record)
        drawn = reference_words(len(x), record.seed, len(history), record.word(words.PARALLEL_SAMPLE))
        noisy = torch.where(is_kept, z + reference_noise(drawn), -math.inf)
        chosen = int((noisy == noisy.max()).nonzero()[0])
    if not record.has(words.LOGPROBS) and record.word(words.TOP_N) == 0:
        return chosen, 0.0, []
    if record.has(words.RAW_LOGPROBS):
        z, is_kept = raw, raw > -math.inf
    logprobs = _log_softmax(torch.where(is_kept, z, -math.inf))
    return chosen, float(logprobs[chosen]), _top(z, logprobs, is_kept)


def _adjusted(
    raw: Tensor, record: _Record, history: Tensor, biases: Tensor, mask: Tensor, settings: SamplerSettings
) -> Tensor:
    x, vocab = raw.clone(), len(raw)
    if record.has(words.WATERMARK) and len(history):
        seed = HASH_KEY * int(history[-1])
        x[reference_words(vocab, seed, 0, 0) < settings.watermark_gamma * _LOW] += settings.watermark_delta
    x = _penalised(x, record, history)
    for token, bias in zip(biases[:, 0].tolist(), biases[:, 1].contiguous().view(torch.float32), strict=True):
        if 0 <= token < vocab:
            x[token] += bias
    eos = settings.eos_ids.long().cpu()
    must_end = False
    if record.has(words.CONSTRAINED):
        ids = torch.arange(vocab)
        allowed = ((mask.long()[ids // 32] >> (ids % 32)) & 1).bool()
        x[~allowed] = -math.inf
        must_end = int(allowed.sum()) <= int(allowed[eos].sum())
    generated = max(len(history) - record.word(words.N_PROMPT), 0)
    if not must_end and (record.has(words.BAN_EOS) or generated < record.word(words.MIN_NEW_TOKENS)):
        x[eos] = -math.inf
    return _clean(x)


def _penalised(x: Tensor, record: _Record, history: Tensor) -> Tensor:
    repetition, frequency = record.real(words.REPETITION_PENALTY), record.real(words.FREQUENCY_PENALTY)
    is_openai = record.has(words.OPENAI_PENALTIES)
    counts = torch.bincount(history[history < len(x)], minlength=len(x)).float()
    repeated = torch.where(x < 0, x * repetition, x / repetition)
    if not is_openai:
        if repetition == 1.0 and frequency == 0.0:
            return x
        return torch.where(counts > 0, repeated - frequency * (counts / len(history)), x)
    x = torch.where(counts > 0, repeated, x)
    generated = history[record.word(words.N_PROMPT) :]
    counts = torch.bincount(generated[generated < len(x)], minlength=len(x)).float()
    return torch.where(counts > 0, x - (frequency * counts + record.real(words.PRESENCE_PENALTY)), x)


def _kept(z: Tensor, record: _Record) -> Tensor:
    """Which tokens the filters leave; `z` are scaled logits, the largest 0."""
    kept = z > -math.inf
    mass = z.double().exp()
    k, p = record.word(words.TOP_K), record.real(words.TOP_P)
    min_p, typical = record.real(words.MIN_P), record.real(words.TYPICAL_P)
    if 0 < k < len(z):
        kept = kept & (z >= z.sort(descending=True).values[k - 1])
    if p < 1.0:
        order = torch.argsort(torch.where(kept, z, -math.inf), descending=True, stable=True)[
            : int(kept.sum())
        ]
        kept = _prefix(order, mass, p * float(mass[kept].sum()))
    if min_p > 0.0:
        kept = kept & (z >= torch.tensor(min_p, dtype=torch.float32).log().clamp(max=0.0))
    if typical < 1.0:
        total = float(mass[kept].sum())
        surprise = torch.where(kept, math.log(total) - z.double(), 0.0)
        entropy = float((mass / total * surprise)[kept].sum())
        distance = torch.where(kept, (surprise - entropy).abs(), math.inf)
        order = torch.argsort(distance, stable=True)[: int(kept.sum())]
        first = _prefix(order, mass, typical * total)
        kept = kept & (distance <= distance[first].max())
    return kept


def _prefix(order: Tensor, mass: Tensor, target: float) -> Tensor:
    """The first ids of an order that hold `target` together, as a mask."""
    before = mass[order].cumsum(0)
    n = int((before < target).sum()) + 1
    kept = torch.zeros(len(mass), dtype=torch.bool)
    kept[order[:n]] = True
    return kept
