"""What a caller may ask of the sampler and of a request's end. Ranges are checked by the engine, once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from agentlm.errors import InvalidRequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a request is sampled and when it ends. Names and meanings are TGI's.

    Out-of-range values raise `InvalidRequestError` when the request is submitted.
    """

    max_new_tokens: int | None = 256
    """Most tokens to generate, > 0; None fills the context."""
    min_new_tokens: int = 0
    """End-of-sequence is not sampled before this many tokens."""
    ignore_eos: bool = False
    """An end-of-sequence token does not end the request."""
    temperature: float = 0.0
    """0 takes the most likely token; otherwise > 0."""
    top_k: int | None = None
    """Sample among the k most likely, k > 0; None is off."""
    top_p: float | None = None
    """Sample among the most likely tokens whose probabilities reach this sum, in (0, 1]; None is off."""
    min_p: float | None = None
    """Drop tokens less likely than this share of the most likely one, in [0, 1); None is off."""
    typical_p: float | None = None
    """Locally typical sampling's mass, in (0, 1]; None is off."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens seen in prompt or output, > 0; 1 is off."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time it was generated, in [-2, 2]."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of each token that was generated, in [-2, 2]."""
    seed: int | None = None
    """Seed of the sampling noise, 0 to 2**64 - 1; None draws one a request."""
    stop: Sequence[str] = ()
    """Strings that end the request wherever they appear; the text ends before them."""
    logprobs: bool = False
    """Report each token's log-probability (natural logarithm, from the raw logits)."""
    top_n_tokens: int = 0
    """Report this many most likely tokens at each position; implies `logprobs`."""

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        for name, low, high in (
            ("max_new_tokens", 1, 2**32 - 1),
            ("min_new_tokens", 0, 2**32 - 1),
            ("top_k", 1, 2**32 - 1),
            ("seed", 0, 2**64 - 1),
            ("top_n_tokens", 0, 2**32 - 1),
        ):
            value = getattr(self, name)
            if value is None and name in ("max_new_tokens", "top_k", "seed"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise InvalidRequestError(f"`{name}` must be an integer from {low} to {high}. Given: {value!r}")
        for name in ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty",
                     "presence_penalty"):  # fmt: skip
            value = getattr(self, name)
            if value is None and name in ("top_p", "min_p", "typical_p"):
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise InvalidRequestError(f"`{name}` must be a number. Given: {value!r}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Reads a plain dictionary; an unknown key is refused.

        Raises `InvalidRequestError`.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InvalidRequestError(f"unknown sampling parameters {unknown}; known: {sorted(known)}")
        return cls(**values)
