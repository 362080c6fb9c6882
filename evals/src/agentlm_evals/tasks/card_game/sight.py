"""What a player is told of a match: its own fish, of the enemy's what is visible, and what the last actions did."""

from collections.abc import Sequence
from dataclasses import dataclass

from agentlm_evals.tasks.card_game.rules import Guess, Kind, Match, Record


@dataclass(frozen=True, slots=True)
class OwnFish:
    """A fish of the player's."""

    kind: Kind
    health: int
    """0 if it is dead."""
    attack: int
    is_revealed: bool


@dataclass(frozen=True, slots=True)
class EnemyFish:
    """A fish of the enemy's; its attack is never told."""

    kind: Kind | None
    """None until it is revealed."""
    health: int
    """0 if it is dead."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A match as one player sees it when it has to decide."""

    player: int
    own: Sequence[OwnFish]
    """By position."""
    enemy: Sequence[EnemyFish]
    """By position."""
    own_record: Record | None
    """The player's last action."""
    enemy_record: Record | None
    """The enemy's."""
    last_guess: Guess | None
    """The player's last guess; None if it made none."""

    def own_living(self) -> list[int]:
        """Positions, in order."""
        return [at for at, fish in enumerate(self.own) if fish.health > 0]

    def enemy_living(self) -> list[int]:
        """Positions, in order."""
        return [at for at, fish in enumerate(self.enemy) if fish.health > 0]

    def guessable(self) -> list[int]:
        """Positions of living enemies whose kind is not revealed."""
        return [at for at in self.enemy_living() if self.enemy[at].kind is None]


def look(match: Match) -> Sight:
    """What the player whose turn it is sees."""
    player = match.player
    return Sight(
        player,
        [OwnFish(fish.kind, fish.health, fish.attack, fish.is_revealed) for fish in match.sides[player]],
        [EnemyFish(fish.kind if fish.is_revealed else None, fish.health) for fish in match.sides[1 - player]],
        match.records[player],
        match.records[1 - player],
        match.guesses[player],
    )
