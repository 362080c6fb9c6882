"""A library's catalogue, kept out of training: search, open the right record, borrow or reserve it.

Refuses to know replies and rounds.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from agentlm_evals.environments.form import CLICK
from agentlm_evals.environments.world import Advice, Game, World

INSTRUCTION = (
    "You use a library. Each turn reply with Thought: and Action:, where the action is search[keywords] or click[value] "
    "and the value is one of the clickables. Borrow the book that is asked for; reserve it if it is not in."
)

SUBJECTS = ("birds", "rivers", "stars", "bread", "boats", "trees", "roads", "bridges")
STYLES = ("short", "old", "new", "little", "great")
AUTHORS = ("Brown", "Green", "Miller", "Baker", "Stone", "Hill", "Wood", "Young")


@dataclass(frozen=True, slots=True)
class Book:
    """A record of the catalogue."""

    code: str
    style: str
    subject: str
    author: str
    is_in: bool

    @property
    def title(self) -> str:
        """As the list shows it."""
        return f"the {self.style} book of {self.subject}"


@dataclass(slots=True)
class Library(Game):
    """One wish. The right book is worth half, the right way to get it the other half."""

    books: list[Book]
    wanted: Book
    results: list[Book] = field(default_factory=list)
    page: Book | None = None
    opening: str = ""
    reward: float = 0.0
    done: bool = False

    def __post_init__(self) -> None:
        self.opening = self._show()

    @property
    def clickables(self) -> list[str]:
        """What can be clicked on the present page."""
        if self.page:
            return ["back", "borrow", "reserve"]
        return ["back", *(book.code for book in self.results)] if self.results else ["search"]

    def _show(self) -> str:
        text = f"Instruction: I want {self.wanted.title} by {self.wanted.author}. [SEP] Search"
        if self.page:
            state = "in" if self.page.is_in else "not in"
            text = f"{self.page.title} [SEP] by {self.page.author} [SEP] {state}"
        elif self.results:
            text = " [SEP] ".join(f"{book.code} {book.title}, {book.author}" for book in self.results)
        actions = {"has_search_bar": not self.results and not self.page, "clickables": self.clickables}
        return f"Observation:\n{text}\n\nAvailable Actions:\n{json.dumps(actions)}"

    def act(self, action: str) -> str:
        """See `Game.act`."""
        verb, _, rest = action.partition("[")
        value = rest.removesuffix("]").strip().lower()
        if verb == "search":
            if not self.results and not self.page:
                asked = set(value.split())
                self.results = [b for b in self.books if b.subject in asked or b.author.lower() in asked]
        elif value == "back" and value in self.clickables:
            if not self.page:
                self.results = []
            self.page = None
        elif self.page and value in ("borrow", "reserve"):
            self.done = True
            is_right = self.page == self.wanted
            self.reward = 0.5 * is_right + 0.5 * (is_right and (value == "borrow") == self.page.is_in)
        elif not self.page:
            self.page = next((book for book in self.results if book.code.lower() == value), None)
        return self._show()

    def advise(self) -> Advice:
        """See `Game.advise`."""
        if self.page == self.wanted:
            if self.page.is_in:
                return Advice("The book is in. I borrow it.", "click[borrow]")
            return Advice("The book is not in. I reserve it.", "click[reserve]")
        if self.page:
            return Advice("This is not the book that I want.", "click[back]")
        if self.results and self.wanted in self.results:
            return Advice(
                f"{self.wanted.code} is the book by {self.wanted.author}.", f"click[{self.wanted.code}]"
            )
        if self.results:
            return Advice("The book is not among these.", "click[back]")
        return Advice(f"I search for a book of {self.wanted.subject}.", f"search[{self.wanted.subject}]")

    def slips(self) -> Sequence[str]:
        """See `Game.slips`."""
        return [] if self.page else [f"click[{book.code}]" for book in self.results if book != self.wanted]


def _deal(rng: Random) -> Library:
    """The wanted book, two others on its subject and two by its author."""
    subject, author, style = rng.choice(SUBJECTS), rng.choice(AUTHORS), rng.choice(STYLES)
    codes = iter(f"L{code}" for code in rng.sample(range(10, 100), 8))
    wanted = Book(next(codes), style, subject, author, rng.random() < 0.6)
    others = [name for name in AUTHORS if name != author]
    books = [wanted]
    books += [
        Book(next(codes), rng.choice(STYLES), subject, rng.choice(others), rng.random() < 0.5)
        for _ in range(2)
    ]
    subjects = rng.sample([name for name in SUBJECTS if name != subject], 2)
    books += [Book(next(codes), rng.choice(STYLES), name, author, rng.random() < 0.5) for name in subjects]
    rng.shuffle(books)
    return Library(books, wanted)


LIBRARY = World(name="library", held_in=False, rounds=10, instruction=INSTRUCTION, form=CLICK, deal=_deal)
