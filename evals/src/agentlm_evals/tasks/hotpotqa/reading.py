"""One episode's way through an encyclopedia: which article is open, how far a keyword was looked up.

Refuses to know where articles come from.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Article:
    """An article, or what there is of it."""

    title: str
    text: str
    """Its first paragraph: what a search shows."""
    passages: tuple[str, ...]
    """What a keyword is looked up in: sentences of the closed corpus, paragraphs of Wikipedia."""


class Encyclopedia(Protocol):
    """Where articles come from."""

    async def find(self, name: str) -> Article | None:
        """The article that is meant, or None."""

    async def similar(self, name: str) -> list[str]:
        """Titles that could be meant, the likeliest first."""


class NothingOpenError(Exception):
    """A keyword is to be looked up, and no article is open."""


class Visit:
    """One episode's way. What it says of what is not there is LangChain 0.0.174's, which the original asked."""

    def __init__(self, encyclopedia: Encyclopedia) -> None:
        self._encyclopedia = encyclopedia
        self._open: Article | None = None
        self._keyword = ""
        self._shown = 0

    async def search(self, name: str) -> str:
        """The article's first paragraph, or titles like it; then no article is open."""
        self._open = await self._encyclopedia.find(name)
        if self._open is not None:
            return self._open.text
        return f"Could not find [{name}]. Similar: {await self._encyclopedia.similar(name)}"

    def lookup(self, keyword: str) -> str:
        """The next passage of the open article that holds the keyword.

        Raises:
            NothingOpenError: The last search opened no article.
        """
        if self._open is None:
            raise NothingOpenError
        if keyword.lower() != self._keyword:
            self._keyword, self._shown = keyword.lower(), 0
        else:
            self._shown += 1
        found = [passage for passage in self._open.passages if self._keyword in passage.lower()]
        if not found:
            return "No Results"
        if self._shown >= len(found):
            return "No More Results"
        return f"(Result {self._shown + 1}/{len(found)}) {found[self._shown].strip()}"
