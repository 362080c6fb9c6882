"""One-step word problems with GSM8K's form of answer, worked. Refuses to know who solves them.

Numbers are small: sums and differences up to 60, products and quotients of the small multiplication table.
"""

from dataclasses import dataclass
from random import Random

NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Mary", "Nina",
    "Paul", "Rosa", "Sam", "Tom",
)  # fmt: skip
THINGS = (
    "apples", "books", "pens", "eggs", "cups", "stones", "cards", "coins", "flowers", "balls", "boxes", "keys", "plums",
    "stamps", "shells",
)  # fmt: skip
GROUPS = ("boxes", "bags", "baskets", "rows", "plates")

SUMS = (
    "{name} has {a} {things}. {other} gives {name} {b} more. How many {things} does {name} have now?",
    "There are {a} {things} on the table and {b} {things} on the shelf. How many {things} are there?",
    "{name} has {a} {things} and {other} has {b} {things}. How many {things} do they have together?",
    "{name} buys {a} {things} on Monday and {b} {things} on Tuesday. How many {things} does {name} buy?",
)
DIFFERENCES = (
    "{name} has {a} {things}. {name} gives {b} to {other}. How many {things} are left?",
    "There are {a} {things} in a box. {name} takes out {b}. How many {things} are left in the box?",
    "{name} has {a} {things} and {other} has {b} {things}. How many more {things} does {name} have?",
    "{name} had {a} {things} and lost {b} of them. How many {things} does {name} have now?",
)
PRODUCTS = (
    "There are {a} {groups} with {b} {things} each. How many {things} are there?",
    "{name} buys {a} {groups} of {things}. There are {b} {things} in each. How many {things} does {name} buy?",
    "One of the {things} costs {b} dollars. What do {a} of them cost in dollars?",
)
QUOTIENTS = (
    "{name} puts {a} {things} into {b} {groups}, the same number in each. How many {things} are in each?",
    "{a} {things} are shared among {b} children. How many {things} does each child get?",
)
SIGNS = ("+", "-", "*", "/")


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem in words and its numbers."""

    question: str
    a: int
    sign: str
    b: int
    unit: str

    @property
    def result(self) -> int:
        """The answer."""
        return {"+": self.a + self.b, "-": self.a - self.b, "*": self.a * self.b, "/": self.a // self.b}[
            self.sign
        ]

    @property
    def sum(self) -> str:
        """The one step in a line."""
        return f"{self.a} {self.sign} {self.b} = {self.result} {self.unit}."

    @property
    def working(self) -> str:
        """The solution as GSM8K writes it, without calculator marks."""
        return f"{self.sum}\n#### {self.result}"


def operands(sign: str, rng: Random) -> tuple[int, int]:
    """Two numbers for which the operation gives a natural number."""
    if sign == "+":
        return rng.randint(1, 60), rng.randint(1, 40)
    if sign == "-":
        a = rng.randint(2, 60)
        return a, rng.randint(1, a - 1)
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return (a, b) if sign == "*" else (a * b, b)


def draw(rng: Random) -> Problem:
    """A problem; each of the four operations is equally likely."""
    sign = rng.choice(SIGNS)
    a, b = operands(sign, rng)
    text = rng.choice({"+": SUMS, "-": DIFFERENCES, "*": PRODUCTS, "/": QUOTIENTS}[sign])
    name, other = rng.sample(NAMES, 2)
    things = rng.choice(THINGS)
    question = text.format(name=name, other=other, a=a, b=b, things=things, groups=rng.choice(GROUPS))
    return Problem(question, a, sign, b, "dollars" if "dollars" in text else things)
