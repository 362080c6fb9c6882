"""A kitchen, kept out of training: follow a short recipe in its order. Refuses to know replies and rounds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from agentlm_evals.environments.form import STEP
from agentlm_evals.environments.world import Advice, Game, World, words

INSTRUCTION = (
    "You cook in a kitchen. Each turn reply with a line THOUGHT: and a line ACTION:. Actions: take FOOD, wash FOOD, "
    "cut FOOD, cook FOOD, serve FOOD. Follow the recipe in its order, and serve last."
)

FOODS = ("apple", "tomato", "potato", "egg", "bread", "carrot", "onion", "fish", "bean", "pear")
STEPS = ("wash", "cut", "cook")


@dataclass(slots=True)
class Kitchen(Game):
    """One recipe: take the food, one to three steps, serve. The reward is the share of the recipe that was done."""

    foods: list[str]
    food: str
    steps: list[str]
    taken: bool = False
    made: list[str] = field(default_factory=list)
    opening: str = ""
    reward: float = 0.0
    done: bool = False

    def __post_init__(self) -> None:
        self.opening = (
            f"You are in a kitchen. You see {words(self.foods)}.\n"
            f"The recipe is: {', '.join(f'{verb} the {self.food}' for verb in self._recipe)}."
        )

    @property
    def _recipe(self) -> list[str]:
        return ["take", *self.steps, "serve"]

    def act(self, action: str) -> str:
        """See `Game.act`. A step out of order spoils nothing: it is refused."""
        verb, _, food = action.partition(" ")
        food = food.removeprefix("the ").strip()
        if food not in self.foods or verb not in ("take", "serve", *STEPS):
            return "Nothing happens."
        if food != self.food or verb != self._recipe[len(self.made)]:
            return f"The recipe does not say to {verb} the {food} now."
        self.made.append(verb)
        self.reward = len(self.made) / len(self._recipe)
        self.done = verb == "serve"
        return f"You {verb} the {food}."

    def advise(self) -> Advice:
        """See `Game.advise`."""
        verb = self._recipe[len(self.made)]
        return Advice(f"The next step is to {verb} the {self.food}.", f"{verb} {self.food}")

    def slips(self) -> Sequence[str]:
        """See `Game.slips`."""
        return [f"take {food}" for food in self.foods if food != self.food]


def _deal(rng: Random) -> Kitchen:
    foods = rng.sample(FOODS, rng.randint(2, 4))
    return Kitchen(foods, rng.choice(foods), rng.sample(STEPS, rng.randint(1, 3)))


KITCHEN = World(name="kitchen", held_in=False, rounds=8, instruction=INSTRUCTION, form=STEP, deal=_deal)
