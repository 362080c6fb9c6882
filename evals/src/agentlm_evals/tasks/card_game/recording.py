"""A match as a list of decisions, from which it can be played again. Refuses to know who decided."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentlm_evals.errors import DataError
from agentlm_evals.tasks.card_game.rules import IllegalMoveError, Kind, Match, Move, Phase

Decision = Sequence[Any]
"""`["guess", position, kind]`, `["skip"]`, `["attack", position, target]`, `["skill", position, target or None]`, or
`["forfeit"]`."""


@dataclass(slots=True)
class RecordedMatch:
    """A match that writes down what is decided in it."""

    line_ups: tuple[list[Kind], list[Kind]]
    decisions: list[Decision] = field(default_factory=list)
    match: Match = field(init=False)

    def __post_init__(self) -> None:
        self.match = Match(*self.line_ups)

    def decide(self, decision: Decision) -> None:
        """Makes a decision and writes it down.

        Raises:
            IllegalMoveError: The rules do not allow it; nothing is written.
        """
        _apply(self.match, decision)
        self.decisions.append(list(decision))

    def to_json(self) -> dict[str, Any]:
        """Line-ups and decisions."""
        return {
            "line_ups": [[int(kind) for kind in side] for side in self.line_ups],
            "decisions": self.decisions,
        }


def replay(recorded: Any) -> Match:
    """Plays a recorded match again.

    Raises:
        DataError: It is not such a record, or holds a decision that the rules do not allow.
    """
    try:
        first, second = ([Kind(kind) for kind in side] for side in recorded["line_ups"])
        match = Match(first, second)
        for decision in recorded["decisions"]:
            _apply(match, decision)
    except (IllegalMoveError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"a recorded match cannot be played again: {error}") from error
    return match


def as_decision(match: Match, choice: tuple[int, Kind] | Move | None) -> Decision:
    """What a player chose, as it is written down."""
    if match.phase is Phase.GUESS:
        assert not isinstance(choice, Move)
        return ["skip"] if choice is None else ["guess", choice[0], int(choice[1])]
    assert isinstance(choice, Move)
    return ["skill" if choice.is_skill else "attack", choice.position, choice.target]


def _apply(match: Match, decision: Iterable[Any]) -> None:
    name, *values = decision
    if name == "guess":
        position, kind = values
        match.guess(position, Kind(kind))
    elif name == "skip":
        match.skip_guess()
    elif name in ("attack", "skill"):
        position, target = values
        match.act(Move(position, name == "skill", target))
    elif name == "forfeit":
        match.forfeit()
    else:
        raise IllegalMoveError(f"{name!r} is no decision")
