"""A household: find things, clean, heat or cool them, put them where they belong. After ALFWorld, in words of our own.

Refuses to know replies and rounds. Places are visited one at a time; what a closed place holds is seen once it is open.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from agentlm_evals.environments.form import STEP
from agentlm_evals.environments.world import Advice, Game, World, words

INSTRUCTION = (
    "You act in a household. Each turn reply with a line THOUGHT: and a line ACTION:. Actions: go to PLACE, open PLACE, "
    "take THING from PLACE, put THING in/on PLACE, clean THING with PLACE, heat THING with PLACE, cool THING with PLACE, "
    "use THING, look."
)

CLOSED = ("drawer", "cabinet", "fridge", "microwave", "box")
OPEN = ("table", "shelf", "desk", "bed", "sofa", "counter", "sink", "chair", "stand")
THINGS = {
    "clean": (
        "apple",
        "tomato",
        "potato",
        "cup",
        "mug",
        "plate",
        "bowl",
        "knife",
        "fork",
        "spoon",
        "pan",
        "cloth",
        "soap",
    ),
    "heat": ("apple", "tomato", "potato", "egg", "bread", "cup", "mug", "plate"),
    "cool": ("apple", "tomato", "potato", "egg", "bread", "cup", "mug", "bowl", "pan"),
}
OTHERS = (
    "book",
    "pen",
    "pencil",
    "phone",
    "watch",
    "key",
    "card",
    "candle",
    "vase",
    "pillow",
    "paper",
    "statue",
    "bottle",
)
ALL_THINGS = tuple(sorted({*OTHERS, *THINGS["clean"], *THINGS["heat"], *THINGS["cool"]}))
TOOL = {"clean": "sink", "heat": "microwave", "cool": "fridge"}
PAST = {"clean": "clean", "heat": "hot", "cool": "cool"}
NOTHING = "Nothing happens."


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted: `count` things of `kind`, treated, in a place of kind `target`; or one looked at under the lamp."""

    kind: str
    target: str
    treatment: str | None = None
    count: int = 1

    @property
    def text(self) -> str:
        """The goal as the opening says it."""
        if self.target == "lamp":
            return f"look at a {self.kind} under the lamp."
        if self.count > 1:
            return f"put two {self.kind}s in/on the {self.target}."
        state = f"{PAST[self.treatment]} " if self.treatment else ""
        return f"put a {state}{self.kind} in/on the {self.target}."


def _kind(name: str) -> str:
    return name.rsplit(" ", 1)[0]


@dataclass(slots=True)
class Household(Game):
    """One room. `contents` is the truth, `seen` what has been shown of it."""

    places: list[str]
    contents: dict[str, list[str]]
    goal: Goal
    here: str | None = None
    holding: str | None = None
    opened: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    treated: dict[str, set[str]] = field(default_factory=dict)
    opening: str = ""
    reward: float = 0.0
    done: bool = False

    def __post_init__(self) -> None:
        self.opening = f"You are in the middle of a room. You see {words(self.places)}.\nYour task is to: {self.goal.text}"

    # --- rules -------------------------------------------------------------------------------------------------------
    def act(self, action: str) -> str:
        """See `Game.act`."""
        verb, _, rest = action.partition(" ")
        if action.startswith("go to "):
            return self._go(action.removeprefix("go to "))
        if verb == "open":
            return self._open(rest)
        if verb == "take" and " from " in rest:
            return self._take(*rest.split(" from ", 1))
        if verb == "put" and " in/on " in rest:
            return self._put(*rest.split(" in/on ", 1))
        if verb in TOOL and " with " in rest:
            return self._treat(verb, *rest.split(" with ", 1))
        if verb == "use":
            return self._use(rest)
        if action == "look":
            return (
                self._look()
                if self.here
                else f"You are in the middle of a room. You see {words(self.places)}."
            )
        return NOTHING

    def _is_closed(self, place: str) -> bool:
        return _kind(place) in CLOSED and place not in self.opened

    def _look(self) -> str:
        assert self.here
        if self._is_closed(self.here):
            return f"The {self.here} is closed."
        self.seen.add(self.here)
        relation = "In" if _kind(self.here) in CLOSED else "On"
        return f"{relation} the {self.here}, you see {words(self.contents[self.here])}."

    def _go(self, place: str) -> str:
        if place not in self.contents or place == self.here:
            return NOTHING
        self.here = place
        return self._look()

    def _open(self, place: str) -> str:
        if place != self.here or not self._is_closed(place):
            return NOTHING
        self.opened.add(place)
        return f"You open the {place}. {self._look()}"

    def _take(self, thing: str, place: str) -> str:
        if place != self.here or self.holding or self._is_closed(place) or thing not in self.contents[place]:
            return NOTHING
        if _kind(thing) == "lamp":
            return NOTHING
        self.contents[place].remove(thing)
        self.holding = thing
        return f"You take the {thing} from the {place}."

    def _put(self, thing: str, place: str) -> str:
        if place != self.here or thing != self.holding or self._is_closed(place):
            return NOTHING
        self.contents[place].append(thing)
        self.seen.add(place)
        self.holding = None
        self._judge()
        return f"You put the {thing} in/on the {place}."

    def _treat(self, verb: str, thing: str, place: str) -> str:
        if place != self.here or thing != self.holding or _kind(place) != TOOL[verb]:
            return NOTHING
        state = self.treated.setdefault(thing, set())
        state -= {"heat", "cool"} if verb in ("heat", "cool") else set()
        state.add(verb)
        return f"You {verb} the {thing} with the {place}."

    def _use(self, thing: str) -> str:
        if (
            not self.here
            or self._is_closed(self.here)
            or _kind(thing) != "lamp"
            or thing not in self.contents[self.here]
        ):
            return NOTHING
        if self.goal.target == "lamp" and self.holding and _kind(self.holding) == self.goal.kind:
            self.done, self.reward = True, 1.0
        return f"You turn on the {thing}."

    def _fits(self, thing: str) -> bool:
        treatment = self.goal.treatment
        return _kind(thing) == self.goal.kind and (not treatment or treatment in self.treated.get(thing, ()))

    def _judge(self) -> None:
        for place in self.places:
            if (
                _kind(place) == self.goal.target
                and sum(map(self._fits, self.contents[place])) >= self.goal.count
            ):
                self.done, self.reward = True, 1.0

    # --- the expert --------------------------------------------------------------------------------------------------
    def advise(self) -> Advice:
        """See `Game.advise`: searches the places in the order in which the opening lists them."""
        goal, thing = self.goal, self.holding
        if thing is None:
            return self._fetch()
        if _kind(thing) != goal.kind:
            assert self.here
            if self._is_closed(self.here):
                return Advice(f"The {self.here} is closed. I open it.", f"open {self.here}")
            return Advice(f"I do not need the {thing}. I put it back.", f"put {thing} in/on {self.here}")
        if goal.treatment and goal.treatment not in self.treated.get(thing, ()):
            tool = next(place for place in self.places if _kind(place) == TOOL[goal.treatment])
            if self.here != tool:
                return Advice(
                    f"I have the {thing}. Now I {goal.treatment} it with the {tool}.", f"go to {tool}"
                )
            return Advice(
                f"I am at the {tool}. I {goal.treatment} the {thing}.",
                f"{goal.treatment} {thing} with {tool}",
            )
        if goal.target == "lamp":
            return self._light(thing)
        target = self._target()
        if self.here != target:
            return Advice(f"I have the {thing}. Now I bring it to the {target}.", f"go to {target}")
        if self._is_closed(target):
            return Advice(f"The {target} is closed. I open it.", f"open {target}")
        return Advice(f"I am at the {target}. I put the {thing} there.", f"put {thing} in/on {target}")

    def _target(self) -> str:
        """Where things shall go: the first place of the kind, or the one that holds one of two already."""
        targets = [place for place in self.places if _kind(place) == self.goal.target]
        begun = [
            place for place in targets if place in self.seen and any(map(self._fits, self.contents[place]))
        ]
        return (begun or targets)[0]

    def _known(self, kind: str) -> tuple[str, str] | None:
        """A thing of the kind that has been seen where it is not yet right, and its place."""
        for place in self.places:
            if place not in self.seen or (_kind(place) == self.goal.target and self.goal.count > 1):
                continue
            for thing in self.contents[place]:
                if _kind(thing) == kind:
                    return thing, place
        return None

    def _fetch(self) -> Advice:
        known = self._known(self.goal.kind)
        if known is None:
            return self._search(self.goal.kind)
        thing, place = known
        if self.here != place:
            return Advice(f"I saw a {self.goal.kind} at the {place}.", f"go to {place}")
        return Advice(f"I see the {thing}. I take it.", f"take {thing} from {place}")

    def _search(self, kind: str) -> Advice:
        if self.here and self._is_closed(self.here):
            return Advice(f"The {self.here} is closed. I open it.", f"open {self.here}")
        place = next(place for place in self.places if place not in self.seen)
        return Advice(f"I look for a {kind}. I try the {place}.", f"go to {place}")

    def _light(self, thing: str) -> Advice:
        known = self._known("lamp")
        if known is None:
            return self._search("lamp")
        lamp, place = known
        if self.here != place:
            return Advice(f"I have the {thing}. The {lamp} is at the {place}.", f"go to {place}")
        return Advice(f"I see the {lamp}. I use it.", f"use {lamp}")

    def slips(self) -> Sequence[str]:
        """See `Game.slips`."""
        elsewhere = [place for place in self.places if place != self.here]
        slips = [f"go to {elsewhere[len(self.seen) % len(elsewhere)]}", "look", f"open {elsewhere[0]}"]
        if self.here and self.holding is None and self.here in self.seen:
            slips += [
                f"take {thing} from {self.here}"
                for thing in self.contents[self.here]
                if _kind(thing) != "lamp"
            ]
        return slips


def _deal(rng: Random) -> Household:
    """Five to eight places; the tools that the goal needs are among them."""
    task = rng.choice(("put", "clean", "heat", "cool", "look", "two"))
    treatment = task if task in TOOL else None
    kinds = [TOOL[treatment]] if treatment else []
    others = [kind for kind in (*OPEN, *CLOSED) if kind not in kinds]
    kinds += rng.sample(others, rng.randint(4, 6) - len(kinds))
    places = [
        f"{kind} {number + 1}"
        for kind in kinds
        for number in range(1 if kind in TOOL.values() else rng.choice((1, 1, 2)))
    ]
    rng.shuffle(places)
    places = _in_order(
        places[:8] if treatment is None else [*[p for p in places if _kind(p) in kinds[:1]], *places][:8]
    )
    kind = rng.choice(THINGS[treatment] if treatment else ALL_THINGS)
    targets = sorted({_kind(place) for place in places} - ({TOOL[treatment]} if treatment else set()))
    target = "lamp" if task == "look" else rng.choice(targets)
    goal = Goal(kind, target, treatment, 2 if task == "two" else 1)
    contents: dict[str, list[str]] = {place: [] for place in places}
    homes = [place for place in places if _kind(place) != target]
    for number in range(goal.count):
        contents[rng.choice(homes)].append(f"{kind} {number + 1}")
    if target == "lamp":
        contents[rng.choice([place for place in places if _kind(place) not in CLOSED] or places)].append(
            "lamp 1"
        )
    for other in rng.sample([thing for thing in ALL_THINGS if thing != kind], rng.randint(2, 5)):
        contents[rng.choice(places)].append(f"{other} {rng.randint(1, 3)}")
    for things in contents.values():
        rng.shuffle(things)
    return Household(places, contents, goal)


def _in_order(places: Sequence[str]) -> list[str]:
    """Without doubles, numbers of a kind ascending from 1, so that a name says how many there are."""
    count: dict[str, int] = {}
    named: list[str] = []
    for place in dict.fromkeys(places):
        kind = _kind(place)
        count[kind] = count.get(kind, 0) + 1
        named.append(f"{kind} {count[kind]}")
    return named


HOUSEHOLD = World(name="household", held_in=True, rounds=24, instruction=INSTRUCTION, form=STEP, deal=_deal)
