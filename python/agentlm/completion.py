"""What a request gives back."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["length", "eos_token", "stop_sequence"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts and wall-clock marks of one request."""

    prompt_tokens: int
    completion_tokens: int
    """Generated tokens, the end-of-sequence token included."""
    cached_tokens: int
    """Prompt tokens whose keys and values came from the prefix cache."""
    queue_seconds: float
    """From submission to the first step that computed it."""
    first_token_seconds: float
    """From submission to the first token."""
    total_seconds: float
    """From submission to the end."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished request."""

    text: str
    """The generated text: without special tokens, ending before the stop string."""
    token_ids: tuple[int, ...]
    """The generated ids, end-of-sequence included."""
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[float, ...] | None = None
    """Natural logarithm of each token's probability, if asked for."""
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None
    """At each position the most likely (id, log-probability), most likely first, if asked for."""
    stop: str | None = None
    """The stop string that ended it."""
    prompt_logprobs: tuple[float | None, ...] | None = None
    """Natural logarithm of each prompt token's probability after those before it, None for the first, if asked for."""
    prompt_top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None
    """At each place in the prompt the most likely (id, log-probability), none for the first, if both were asked for."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One streamed token."""

    text: str
    """Text that this token released; may be empty while a character or a stop string is incomplete."""
    token_id: int
    index: int
    """1 for the first generated token."""
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...]
    completion: Completion | None = None
    """The finished request, on the last chunk only."""
