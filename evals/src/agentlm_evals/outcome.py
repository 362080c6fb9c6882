"""How an episode ended and what it is worth. Refuses to know tasks, models and files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agentlm_evals.errors import ConfigError


class Outcome(StrEnum):
    """The four ends that every score tells apart."""

    RIGHT = "right"
    WRONG = "wrong"
    FORMAT_OR_LIMIT = "format or limit"
    """The reply could not be read, or a budget was spent: the model's doing, worth what the task's rules say (mostly 0)."""
    HARNESS_FAULT = "harness fault"
    """Ours, the server's or the environment's doing: never a wrong answer, never left out."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one episode is worth."""

    outcome: Outcome
    value: float
    """In [0, 1] for shares and rewards; MT-Bench's rating is in [1, 10]. A harness fault has 0 and is not averaged."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """JSON values for who reads the trajectory: what was extracted, which rule decided."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.value <= 10.0:
            raise ConfigError(
                f"a score's value is {self.value!r}; it must be in [0, 1], or in [1, 10] for ratings"
            )


def right(value: float = 1.0, **details: Any) -> Score:
    """The task is solved. A task with partial reward says itself from which value on that is."""
    return Score(Outcome.RIGHT, value, details)


def wrong(value: float = 0.0, **details: Any) -> Score:
    """The model answered in due form, and the answer is not the right one; `value` is the partial reward, if any."""
    return Score(Outcome.WRONG, value, details)


def format_or_limit(why: str, value: float = 0.0, **details: Any) -> Score:
    """The reply could not be read, or a limit ended the episode."""
    return Score(Outcome.FORMAT_OR_LIMIT, value, {"why": why, **details})


def harness_fault(why: str, **details: Any) -> Score:
    """The episode says nothing about the model."""
    return Score(Outcome.HARNESS_FAULT, 0.0, {"why": why, **details})
