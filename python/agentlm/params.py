"""What a caller may ask of the sampler and of a request's end. Refuses to know an engine's own limits.

An engine checks what depends on it (lengths, how many stop strings) when a request is submitted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Self

from agentlm.errors import InvalidRequestError, shown
from agentlm.grammar import Grammar, check_unicode

_SMALLEST_FACTOR, _LARGEST_FACTOR = 1e-15, 1e15
"""Of what logits are divided by: beyond, they do not stay finite in float32."""
_FACTORS = f"from {_SMALLEST_FACTOR:g} to {_LARGEST_FACTOR:g}"
MAX_LOGIT_BIAS = 1024
"""Most entries of `logit_bias`."""
_ID_DIGITS = 20
"""Longer texts are no token ids."""


class Unnamed(int):
    """A number that no caller named: it gives way where it does not fit."""


_OPTIONAL = frozenset({"max_new_tokens", "top_k", "seed", "top_p", "min_p", "typical_p"})
"""Fields that None turns off."""

_INTEGERS = (
    ("max_new_tokens", 1, 2**32 - 1),
    ("min_new_tokens", 0, 2**32 - 1),
    ("top_k", 1, 2**32 - 1),
    ("seed", 0, 2**64 - 1),
    ("top_n_tokens", 0, 2**32 - 1),
)

_NUMBERS: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
    (
        "temperature",
        f">= 0, and if not 0 {_FACTORS}",
        lambda x: x == 0 or _SMALLEST_FACTOR <= x <= _LARGEST_FACTOR,
    ),
    ("top_p", "> 0 and <= 1", lambda x: 0 < x <= 1),
    ("min_p", ">= 0 and < 1", lambda x: 0 <= x < 1),
    ("typical_p", "> 0 and <= 1", lambda x: 0 < x <= 1),
    ("repetition_penalty", f"> 0, {_FACTORS}", lambda x: _SMALLEST_FACTOR <= x <= _LARGEST_FACTOR),
    ("frequency_penalty", "from -2 to 2", lambda x: -2 <= x <= 2),
    ("presence_penalty", "from -2 to 2", lambda x: -2 <= x <= 2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a request is sampled and when it ends. Names and meanings are TGI's.

    Out-of-range values raise `InvalidRequestError`.
    """

    max_new_tokens: int | None = Unnamed(256)
    """Most tokens to generate, > 0; None fills the context. By default 256, or fewer where the context ends sooner."""
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
    prompt_logprobs: bool = False
    """Report each prompt token's log-probability, too, and with `top_n_tokens` the most likely tokens at its place."""
    logit_bias: Mapping[int, float] | None = field(default=None, hash=False)
    """Added to the logits of these token ids: at most 1024, each from -100 to 100."""
    grammar: Grammar | None = None
    """What the generated text must look like."""
    watermark: bool = False
    """Favour a pseudo-random half of the vocabulary, chosen anew by each token, so that the text can be recognised."""

    def __post_init__(self) -> None:
        value: Any
        stop: Any = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, Sequence) or not all(isinstance(one, str) and one for one in stop):
            raise InvalidRequestError(
                f"`stop` must be strings, none of them empty. Given: {shown(self.stop)}"
            )
        for one in stop:
            check_unicode(one, "`stop`")
        object.__setattr__(self, "stop", tuple(stop))
        for name, low, high in _INTEGERS:
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
                raise InvalidRequestError(
                    f"`{name}` must be an integer from {low} to {high}. Given: {shown(value)}"
                )
        for name, allowed, fits in _NUMBERS:
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if not fits(_float(value)):
                raise InvalidRequestError(f"`{name}` must be a number {allowed}. Given: {shown(value)}")
        for name in ("ignore_eos", "logprobs", "prompt_logprobs", "watermark"):
            if not isinstance(value := getattr(self, name), bool):
                raise InvalidRequestError(f"`{name}` must be True or False. Given: {shown(value)}")
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            raise InvalidRequestError(
                f"`grammar` must be a Grammar, such as Grammar.regex('[a-z]+'). Given: {shown(self.grammar)}"
            )
        if self.logit_bias is not None:
            object.__setattr__(self, "logit_bias", _logit_bias(self.logit_bias))
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise InvalidRequestError(
                f"`min_new_tokens` must be at most `max_new_tokens`. Given: {self.min_new_tokens} and "
                f"{self.max_new_tokens}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads a plain dictionary, as JSON gives it; an unknown key is refused.

        `grammar` may be in its plain form (`Grammar.from_dict`), and the ids of `logit_bias` may be text.
        Raises `InvalidRequestError`.
        """
        if not isinstance(values, Mapping):
            raise InvalidRequestError(
                f"sampling parameters must be a mapping such as {{'temperature': 0.7}}. Given: {shown(values)}"
            )
        known = {one.name for one in fields(cls)}
        if unknown := sorted(map(shown, set(values) - known)):
            raise InvalidRequestError(
                f"unknown sampling parameters {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        read = dict(values)
        if isinstance(grammar := values.get("grammar"), Mapping):
            read["grammar"] = Grammar.from_dict(grammar)
        if isinstance(bias := values.get("logit_bias"), Mapping):
            read["logit_bias"] = {_id(token): value for token, value in bias.items()}
        return cls(**read)


def _float(value: Any) -> float:
    """The number, or NaN, which fits no range, where it is none or larger than any float."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _id(token: Any) -> Any:
    """A token id that JSON wrote as a key; anything else as it is."""
    is_id = isinstance(token, str) and token.isascii() and token.isdecimal() and len(token) <= _ID_DIGITS
    return int(token) if is_id else token


def _logit_bias(given: Any) -> dict[int, float]:
    """The biases by token id, checked. Raises `InvalidRequestError`."""
    if not isinstance(given, Mapping):
        raise InvalidRequestError(
            f"`logit_bias` must be a mapping of token ids to numbers. Given: {shown(given)}"
        )
    if len(given) > MAX_LOGIT_BIAS:
        raise InvalidRequestError(
            f"`logit_bias` must have at most {MAX_LOGIT_BIAS} token ids. Given: {len(given)}"
        )
    for token, value in given.items():
        if isinstance(token, bool) or not isinstance(token, Integral) or not 0 <= int(token) < 2**32:
            raise InvalidRequestError(
                f"`logit_bias` must name token ids from 0 to the vocabulary's last. Given: {shown(token)}"
            )
        if not -100 <= _float(value) <= 100:
            raise InvalidRequestError(
                f"`logit_bias` must be numbers from -100 to 100. Given: {shown(value)} for token {token}"
            )
    return {int(token): float(value) for token, value in given.items()}
