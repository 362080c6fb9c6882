"""A desk with a calculator, kept out of training: sums in steps. Refuses to know replies and rounds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from agentlm_evals.environments.form import ACT
from agentlm_evals.environments.world import Advice, Game, World

INSTRUCTION = (
    "You have a calculator. Each turn reply with Think: and Act:. Act is calc with one operation, such as 3 + 4, in a "
    "block of calc, or answer(...) when the question is answered."
)

_OPERATION = re.compile(r"\s*(-?\d{1,9})\s*([-+*])\s*(-?\d{1,9})\s*")
VERBS = {"+": "Add {0}.", "-": "Subtract {0}.", "*": "Multiply by {0}."}


@dataclass(slots=True)
class Desk(Game):
    """One chain of operations."""

    first: int
    chain: list[tuple[str, int]]
    shown: list[int] = field(default_factory=list)
    """Results of the chain's operations that were taken in order."""
    opening: str = ""
    reward: float = 0.0
    done: bool = False

    def __post_init__(self) -> None:
        steps = " ".join(VERBS[sign].format(number) for sign, number in self.chain)
        self.opening = f"Take {self.first}. {steps} What is the result?"

    def _result(self, left: int, sign: str, right: int) -> int:
        return left + right if sign == "+" else left - right if sign == "-" else left * right

    @property
    def _gold(self) -> int:
        value = self.first
        for sign, number in self.chain:
            value = self._result(value, sign, number)
        return value

    def _next(self) -> tuple[int, str, int] | None:
        if len(self.shown) == len(self.chain):
            return None
        left = self.shown[-1] if self.shown else self.first
        return (left, *self.chain[len(self.shown)])

    def act(self, action: str) -> str:
        """See `Game.act`."""
        kind, _, body = action.partition(": ")
        if kind in ("answer", "finish"):
            self.done, self.reward = True, float(body.strip() == str(self._gold))
            return ""
        found = _OPERATION.fullmatch(body)
        if kind != "calc" or not found:
            return "The calculator shows: error"
        operation = (int(found.group(1)), found.group(2), int(found.group(3)))
        result = self._result(*operation)
        if operation == self._next():
            self.shown.append(result)
        return f"The calculator shows: {result}"

    def advise(self) -> Advice:
        """See `Game.advise`."""
        if step := self._next():
            left, sign, right = step
            return Advice(f"I calculate {left} {sign} {right}.", f"calc: {left} {sign} {right}")
        return Advice(f"The answer is {self.shown[-1]}.", f"answer: {self.shown[-1]}")

    def slips(self) -> Sequence[str]:
        """See `Game.slips`."""
        return ["calc: 1 / 2", f"calc: {self.first} + 0"]


def _deal(rng: Random) -> Desk:
    first = rng.randint(2, 40)
    chain: list[tuple[str, int]] = []
    for _ in range(rng.randint(1, 3)):
        sign = rng.choice("+-*")
        chain.append((sign, rng.randint(2, 9) if sign == "*" else rng.randint(2, 40)))
    return Desk(first, chain)


DESK = World(name="desk", held_in=False, rounds=8, instruction=INSTRUCTION, form=ACT, deal=_deal)
