"""What a small text environment is: seeded items, a game with rules, an expert. Refuses to know models and files.

A world is read through words alone: what a game says and what its expert does depend on nothing that an agent could
not have read before. `Game.advise` is a function of the game's state, not a tape, so that an expert can go on from
wherever somebody else's actions have led.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from random import Random

from agentlm_evals.environments.form import Form
from agentlm_evals.errors import ConfigError

TEST_SHARE = 10
"""One opening in so many belongs to the test split."""
_MOST_DRAWS = 1000


class Split(StrEnum):
    """Openings are dealt to the splits by their text, so that no task of one is ever a task of the other."""

    TRAIN = "train"
    TEST = "test"


def split_of(opening: str) -> Split:
    """The split that an opening belongs to: a fixed function of its text."""
    bucket = int.from_bytes(sha256(opening.encode()).digest()[:4], "big")
    return Split.TEST if bucket % TEST_SHARE == 0 else Split.TRAIN


@dataclass(frozen=True, slots=True)
class Item:
    """One task of a world: which world, which split and a number, from which everything else is drawn."""

    world: str
    split: Split
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ConfigError(f"an item's number is {self.number}; it must be 0 or more")

    @property
    def id(self) -> str:
        """`household-train-17`."""
        return f"{self.world}-{self.split}-{self.number}"


@dataclass(frozen=True, slots=True)
class Advice:
    """What an expert thinks and does next."""

    thought: str
    action: str


class Game(ABC):
    """One item being played: a state machine over texts."""

    opening: str
    """The first thing an agent reads: where it is and what it shall do."""
    reward: float = 0.0
    """In [0, 1]; what counts is its value when the game is over or its rounds are spent."""
    done: bool = False

    @abstractmethod
    def act(self, action: str) -> str:
        """Takes an action in the words that the world's form reads and returns what is to be seen.

        An impossible action changes nothing and is told so. A game that is over is not to be asked again.
        """

    @abstractmethod
    def advise(self) -> Advice:
        """What the expert does in this state, knowing only what has been shown."""

    @abstractmethod
    def slips(self) -> Sequence[str]:
        """Actions that lead nowhere in this state and do no lasting harm: mistakes that an expert can recover from."""


@dataclass(frozen=True, slots=True)
class World:
    """A kind of game."""

    name: str
    held_in: bool
    """Whether its train split is for training; a held-out world is for tests only."""
    rounds: int
    """Replies that an agent has; the expert needs fewer in every item."""
    instruction: str
    """What an agent is told about actions and the form of replies, before the opening."""
    form: Form
    deal: Callable[[Random], Game]
    """Draws a game."""

    def begin(self, item: Item) -> Game:
        """The item's game, at its start; the same for the same item, in every process.

        Raises:
            ConfigError: The item is another world's.
        """
        if item.world != self.name:
            raise ConfigError(f"item {item.id} is no item of the world {self.name}")
        for draw in range(_MOST_DRAWS):
            game = self.deal(Random(f"{item.id}/{draw}"))
            if split_of(game.opening) == item.split:
                return game
        raise AssertionError(f"{self.name}: no opening in {_MOST_DRAWS} draws belongs to {item.split}")

    def reply(self, advice: Advice) -> str:
        """The expert's advice as an agent would write it."""
        return self.form.write(advice.thought, advice.action)


def words(items: Sequence[str]) -> str:
    """`a cup 1, a pen 2` for things in sight; `nothing` where there are none."""
    return ", ".join(f"a {item}" for item in items) or "nothing"
