"""Rotary position embedding: inverse frequencies and cosine/sine tables. Refuses to know config.json and torch.

The arithmetic follows transformers' `modeling_rope_utils` step by step, in float32 where it uses float32: an angle
at position 100,000 is sensitive to the last bit of a frequency.
Sources: RoPE arXiv:2104.09864; YaRN arXiv:2309.00071; llama3 as published with Llama 3.1.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn"]
ROPE_KINDS: tuple[str, ...] = get_args(RopeKind)
"""The types of rotary embedding that agentlm computes."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rope:
    """Parameters of a rotary embedding; those that a kind does not use keep their defaults."""

    kind: str
    """One of `ROPE_KINDS`."""
    theta: float
    """Base of the wavelengths."""
    factor: float = 1.0
    """By how much the context is extended."""
    original_positions: int = 0
    """Context of the pretraining (llama3, yarn)."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float | None = None
    """Yarn: scale of cosine and sine; None: by the paper's formula."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    truncate: bool = True

    def context_length(self, max_position_embeddings: int) -> int:
        """Positions that may be computed.

        `max_position_embeddings` counts unextended positions for linear scaling, and may do so for yarn. Under dynamic
        scaling it is the limit: beyond it every key already cached would have to be rotated anew.
        """
        if self.kind == "linear":
            return int(max_position_embeddings * self.factor)
        if self.kind == "yarn":
            return max(max_position_embeddings, int(self.original_positions * self.factor))
        return max_position_embeddings


def inverse_frequencies(rope: Rope, head_dim: int) -> tuple[Floats, float]:
    """Radians per position for each pair of elements, float32 `[head_dim / 2]`, and the scale of cosine and sine."""
    wavelengths = _powers(rope.theta, head_dim)
    frequencies = np.float32(1.0) / wavelengths
    if rope.kind == "linear":
        return frequencies / np.float32(rope.factor), 1.0
    if rope.kind == "llama3":
        return _llama3(rope, frequencies), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, wavelengths, head_dim), _yarn_scale(rope)
    # Dynamic scaling equals the default up to `max_position_embeddings`, and `context_length` ends there.
    return frequencies, 1.0


def tables(rope: Rope, head_dim: int, positions: int) -> tuple[Floats, Floats]:
    """Cosines and sines, the attention factor applied: two float32 arrays `[positions, head_dim / 2]`."""
    frequencies, scale = inverse_frequencies(rope, head_dim)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
    # One rounding from float64 is closer to every library's float32 cosine than these are to each other.
    wide = angles.astype(np.float64)
    cos, sin = np.cos(wide).astype(np.float32), np.sin(wide).astype(np.float32)
    return cos * np.float32(scale), sin * np.float32(scale)


def _powers(theta: float, head_dim: int) -> Floats:
    """`theta ** (2i / head_dim)`, the exponent and the result rounded to float32."""
    exponents = np.arange(0, head_dim, 2).astype(np.float32) / np.float32(head_dim)
    powers = np.float64(np.float32(theta)) ** exponents.astype(np.float64)
    return cast(Floats, powers.astype(np.float32))


def _llama3(rope: Rope, frequencies: Floats) -> Floats:
    """Long wavelengths are stretched by the factor, short ones kept, those between interpolated."""
    context = rope.original_positions
    low, high = rope.low_freq_factor, rope.high_freq_factor
    factor = np.float32(rope.factor)
    lengths = np.float32(2 * math.pi) / frequencies
    stretched = np.where(lengths > np.float32(context / low), frequencies / factor, frequencies)
    smooth = (np.float32(context) / lengths - np.float32(low)) / np.float32(high - low)
    between = (np.float32(1) - smooth) * stretched / factor + smooth * stretched
    is_between = ~(lengths < np.float32(context / high)) & ~(lengths > np.float32(context / low))
    return cast(Floats, np.where(is_between, between, stretched).astype(np.float32))


def _yarn(rope: Rope, wavelengths: Floats, head_dim: int) -> Floats:
    """Pairs that turn often in the original context are kept, those that turn seldom interpolated, with a ramp between."""

    def pair_turning(turns: float) -> float:
        """The (fractional) element index that makes so many turns over the original context."""
        return (
            head_dim * math.log(rope.original_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
        )

    low, high = pair_turning(rope.beta_fast), pair_turning(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept = np.float32(1) - np.clip(ramp, 0, 1)
    extrapolated = np.float32(1) / wavelengths
    interpolated = np.float32(1) / (np.float32(rope.factor) * wavelengths)
    return cast(Floats, interpolated * (np.float32(1) - kept) + extrapolated * kept)


def _yarn_scale(rope: Rope) -> float:
    """The scale of cosine and sine, which sharpens attention over long contexts."""

    def scale(weight: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)
