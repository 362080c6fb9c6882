"""One-step word problems with GSM8K's form of answer, worked. Refuses to know who solves them.

Numbers are small: sums up to 100, differences up to 60, products and quotients of the small multiplication table. There are
many wordings, so that what is learnt is which operation a text asks for, not a few sentences.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Mary", "Nina",
    "Paul", "Rosa", "Sam", "Tom",
)  # fmt: skip
ROLES = ("farmer", "teacher", "baker", "painter", "gardener", "driver", "sailor", "miller")
THINGS = (
    "apples", "books", "pens", "eggs", "cups", "stones", "cards", "coins", "flowers", "balls", "boxes", "keys", "plums",
    "stamps", "shells", "pencils", "beads", "marbles", "sweets", "bottles", "cakes", "hens", "trees", "chairs", "nuts",
    "pears", "buttons", "letters", "candles", "tickets", "bricks", "fish", "loaves", "hats", "spoons", "potatoes",
)  # fmt: skip
PEOPLE = ("children", "pupils", "people", "friends", "guests", "girls", "boys", "workers")
GROUPS = ("boxes", "bags", "baskets", "rows", "plates", "jars", "crates", "bowls", "packets", "piles")
LENGTHS = ("metres", "kilometres", "centimetres", "miles")
MONEY = ("dollars", "cents")
COLOURS = ("red", "blue", "green", "white", "black", "yellow")
TIMES = (("on Monday", "on Tuesday"), ("in the morning", "in the evening"), ("yesterday", "today"),
         ("in May", "in June"), ("at first", "later"), ("before lunch", "after lunch"))  # fmt: skip

SUMS = (
    "{who} has {a} {things}. {other} gives {who} {b} more. How many {things} does {who} have now? | {things}",
    "There are {a} {things} on the table and {b} {things} on the shelf. How many {things} are there? | {things}",
    "{who} has {a} {things} and {other} has {b} {things}. How many {things} do they have together? | {things}",
    "{who} buys {a} {things} {then} and {b} {things} {later}. How many {things} does {who} buy? | {things}",
    "A basket holds {a} {colour} {things} and {b} {shade} ones. How many {things} does it hold? | {things}",
    "{who} finds {a} {things} {then} and {b} more {later}. How many {things} has {who} found? | {things}",
    "{a} {people} are in a hall and {b} more come in. How many {people} are there then? | {people}",
    "{who} had {a} {things} and got {b} more. How many {things} has {who} now? | {things}",
    "{who} needs {a} {lengths} of rope and {b} {lengths} of wire. How long are both, in {lengths}? | {lengths}",
    "A pen is {a} {money} and a notebook is {b} {money}. What do the two cost, in {money}? | {money}",
    "{who} is {a} years old. How old is {who} in {b} years? | years",
    "{who} wins {a} points in one game and {b} points in the next. How many points are that in all? | points",
    "A shop sells {a} {things} {then} and {b} {later}. How many {things} does it sell in total? | {things}",
    "The lake is {a} {lengths} away. The inn is {b} {lengths} behind it. How far off is the inn, in {lengths}? | {lengths}",
    "The heap of {things} grows from {a} by {b}. How many {things} are in it now? | {things}",
    "{who} adds {b} {things} to {a} {things}. How many {things} are there? | {things}",
    "{other} has {a} {things}. {who} has {b} more than {other}. How many {things} does {who} have? | {things}",
    "It is {a} degrees. By noon it gets {b} degrees warmer. How many degrees is it at noon? | degrees",
)
DIFFERENCES = (
    "{who} has {a} {things}. {who} gives {b} to {other}. How many {things} are left? | {things}",
    "There are {a} {things} in a box. {who} takes out {b}. How many {things} are left in the box? | {things}",
    "{who} has {a} {things} and {other} has {b} {things}. How many more {things} does {who} have? | {things}",
    "{who} had {a} {things} and lost {b} of them. How many {things} does {who} have now? | {things}",
    "A hall has room for {a} {people}. {b} are there already. How many more {people} can come? | {people}",
    "Of {a} {things}, {b} are broken. How many {things} are whole? | {things}",
    "{who} bakes {a} {things} and eats {b}. How many {things} remain? | {things}",
    "{a} {people} are on a boat. {b} get off. How many {people} stay on it? | {people}",
    "{who} pays {b} {money} out of {a} {money}. How many {money} has {who} left? | {money}",
    "A string is {a} {lengths} long. {b} {lengths} are cut off. How long is the rest, in {lengths}? | {lengths}",
    "{who} wants {a} {things} and has {b}. How many {things} are missing? | {things}",
    "A tower has {a} steps. {who} has gone up {b}. How many steps are left? | steps",
    "It was {a} degrees {then} and fell by {b} degrees. How many degrees is it now? | degrees",
    "{who} is {a} years old and {other} is {b}. How many years older is {who}? | years",
    "There are {a} {things}: {b} are {colour} and the others {shade}. How many {things} are {shade}? | {things}",
    "A shop had {a} {things} and sold {b}. How many {things} has it now? | {things}",
    "{a} {people} live in a village. {b} leave. How many {people} live there then? | {people}",
    "{other} has {a} {things}. {who} has {b} fewer. How many {things} does {who} have? | {things}",
)
PRODUCTS = (
    "There are {a} {groups} with {b} {things} each. How many {things} are there? | {things}",
    "{who} buys {a} {groups} of {things}. There are {b} {things} in each. How many {things} does {who} buy? | {things}",
    "One of the {things} costs {b} {money}. What do {a} of them cost in {money}? | {money}",
    "Each of {a} {people} has {b} {things}. How many {things} have they in all? | {things}",
    "{a} {people} bring {b} {things} each. How many {things} are that? | {things}",
    "A wall is {a} metres long and {b} metres high. How many square metres is it? | square metres",
    "A field has {a} rows of {b} {things}. How many {things} are in the field? | {things}",
    "{who} runs {b} {lengths} a day. How many {lengths} are that in {a} days? | {lengths}",
    "{who} gets {b} {money} an hour. How many {money} does {who} get for {a} hours? | {money}",
    "A bell rings {b} times a day. How many times does it ring in {a} days? | times",
    "A house has {b} windows. How many windows have {a} such houses? | windows",
    "{other} has {b} {things}. {who} has {a} times as many. How many {things} does {who} have? | {things}",
    "A bag weighs {b} kilograms. What do {a} bags weigh, in kilograms? | kilograms",
    "{a} tickets are sold at {b} {money} each. How many {money} is that? | {money}",
    "Every one of {a} carts carries {b} {things}. How many {things} do they carry? | {things}",
    "A wagon goes {b} kilometres in an hour. How far does it go in {a} hours, in kilometres? | kilometres",
    "{who} fills {a} {groups}, {b} {things} in each. How many {things} does {who} need? | {things}",
    "One cake takes {b} eggs. How many eggs do {a} cakes take? | eggs",
)
QUOTIENTS = (
    "{who} puts {a} {things} into {b} {groups}, the same number in each. How many {things} are in each? | {things}",
    "{a} {things} are shared among {b} {people}. How many {things} does each get? | {things}",
    "{who} divides {a} {things} equally among {b} friends. How many {things} does each friend get? | {things}",
    "{b} {people} share {a} {money} equally. How many {money} does each get? | {money}",
    "{a} {things} stand in {b} equal rows. How many {things} are in a row? | {things}",
    "{who} packs {a} {things}, {b} to a box. How many boxes does {who} need? | boxes",
    "{b} tickets cost {a} {money}. What does one ticket cost, in {money}? | {money}",
    "A board of {a} {lengths} is sawn into {b} equal pieces. How long is each, in {lengths}? | {lengths}",
    "{who} reads {a} pages in {b} days, the same number each day. How many pages a day are that? | pages",
    "A cart goes {a} kilometres in {b} hours. How many kilometres does it go in one hour? | kilometres",
    "{b} {people} carry {a} {things}, each the same number. How many {things} does each carry? | {things}",
    "How many {groups} of {b} {things} can be made of {a} {things}? | {groups}",
    "{a} {people} sit at {b} tables, as many at each. How many {people} sit at a table? | {people}",
    "{who} cuts {a} {lengths} of cloth into {b} parts that are equal. How many {lengths} is a part? | {lengths}",
    "{who} spends {a} {money} on {b} {things}. How many {money} is each? | {money}",
)
WORDINGS: Mapping[str, Sequence[str]] = {"+": SUMS, "-": DIFFERENCES, "*": PRODUCTS, "/": QUOTIENTS}
"""By operation: texts and, behind the bar, what the answer counts."""
SIGNS = tuple(WORDINGS)
_SENTENCE = re.compile(r"(?:^|[.?] )[a-z]")


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
        return f"{self.a} {self.sign} {self.b} = {self.result} {self.unit}".rstrip() + "."

    @property
    def working(self) -> str:
        """The solution as GSM8K writes it, without calculator marks."""
        return f"{self.sum}\n#### {self.result}"

    @property
    def reply(self) -> str:
        """The solution as our GSM8K task asks for it."""
        return f"{self.sum} The answer is {self.result}"


def operands(sign: str, rng: Random) -> tuple[int, int]:
    """Two numbers for which the operation gives a natural number."""
    if sign == "+":
        return rng.randint(1, 60), rng.randint(1, 40)
    if sign == "-":
        a = rng.randint(2, 60)
        return a, rng.randint(1, a - 1)
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return (a, b) if sign == "*" else (a * b, b)


def draw_sum(rng: Random) -> Problem:
    """A problem without words; each of the four operations is equally likely."""
    sign = rng.choice(SIGNS)
    a, b = operands(sign, rng)
    return Problem("", a, sign, b, "")


def draw(rng: Random) -> Problem:
    """A problem; each of the four operations is equally likely."""
    sign = rng.choice(SIGNS)
    a, b = operands(sign, rng)
    who, other = rng.sample((*NAMES, *(f"the {role}" for role in ROLES)), 2)
    colour, shade = rng.sample(COLOURS, 2)
    then, later = rng.choice(TIMES)
    text = rng.choice(WORDINGS[sign]).format(
        a=a, b=b, who=who, other=other, colour=colour, shade=shade, then=then, later=later, things=rng.choice(THINGS),
        people=rng.choice(PEOPLE), groups=rng.choice(GROUPS), lengths=rng.choice(LENGTHS), money=rng.choice(MONEY),
    )  # fmt: skip
    question, unit = _SENTENCE.sub(lambda start: start[0].upper(), text).split(" | ")
    return Problem(question, a, sign, b, unit)
