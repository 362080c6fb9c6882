"""A town, kept out of training: find the way to a place whose neighbours are shown only when one is there.

Refuses to know replies and rounds. The streets are a tree, so that every place can be reached and the way back is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from agentlm_evals.environments.form import STEP
from agentlm_evals.environments.world import Advice, Game, World, words

INSTRUCTION = (
    "You walk through a town. Each turn reply with a line THOUGHT: and a line ACTION:. The action is go to PLACE, where "
    "the place is one that you see from where you are."
)

PLACES = (
    "station",
    "market",
    "church",
    "school",
    "park",
    "museum",
    "bridge",
    "harbour",
    "theatre",
    "tower",
    "mill",
    "garden",
)


@dataclass(slots=True)
class Town(Game):
    """One walk."""

    streets: dict[str, list[str]]
    goal: str
    here: str
    path: list[str] = field(default_factory=list)
    """From the start to here, without detours: the way back."""
    visited: set[str] = field(default_factory=set)
    opening: str = ""
    reward: float = 0.0
    done: bool = False

    def __post_init__(self) -> None:
        self.visited.add(self.here)
        self.opening = f"{self._view()}\nYour task is to: go to the {self.goal}."

    def _view(self) -> str:
        return f"You are at the {self.here}. You see {words(self.streets[self.here])}."

    def act(self, action: str) -> str:
        """See `Game.act`."""
        place = action.removeprefix("go to ").removeprefix("the ").strip()
        if not action.startswith("go to ") or place not in self.streets[self.here]:
            return "Nothing happens."
        if self.path and self.path[-1] == place:
            self.path.pop()
        else:
            self.path.append(self.here)
        self.here = place
        self.visited.add(place)
        if place == self.goal:
            self.done, self.reward = True, 1.0
        return self._view()

    def advise(self) -> Advice:
        """See `Game.advise`: the goal if it is in sight, else a place not yet seen, else back the way it came."""
        near = self.streets[self.here]
        if self.goal in near:
            return Advice(f"I see the {self.goal}.", f"go to {self.goal}")
        fresh = [place for place in near if place not in self.visited]
        if fresh:
            return Advice(f"I look for the {self.goal}. I try the {fresh[0]}.", f"go to {fresh[0]}")
        return Advice("I have seen all of this. I go back.", f"go to {self.path[-1]}")

    def slips(self) -> Sequence[str]:
        """See `Game.slips`."""
        return [f"go to {place}" for place in self.streets if place not in self.streets[self.here]]


def _deal(rng: Random) -> Town:
    """A tree over five to seven places."""
    places = rng.sample(PLACES, rng.randint(5, 7))
    streets: dict[str, list[str]] = {place: [] for place in places}
    for index, place in enumerate(places[1:], 1):
        other = rng.choice(places[max(0, index - 3) : index])
        streets[place].append(other)
        streets[other].append(place)
    for near in streets.values():
        rng.shuffle(near)
    start = places[0]
    far = [place for place in places if place != start and place not in streets[start]]
    return Town(streets, rng.choice(far or places[1:]), start)


TOWN = World(name="town", held_in=False, rounds=16, instruction=INSTRUCTION, form=STEP, deal=_deal)
