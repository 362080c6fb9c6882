"""A closed corpus of short articles, found by title and searched by BM25. Refuses to know questions and models."""

import re
import unicodedata
from collections.abc import Iterable

import bm25s
import Stemmer

from agentlm_evals.tasks.hotpotqa.reading import Article

SIMILAR = 5
"""Titles that are offered where none is the one asked for."""
_SIGNS = re.compile(r"[\W_]+")
_ASIDE = re.compile(r"\s*\([^)]*\)\s*$")


class Articles:
    """The corpus, in the place of an encyclopedia. Shared by all episodes; nothing in it changes."""

    def __init__(self, articles: Iterable[Article]) -> None:
        by_title: dict[str, Article] = {}
        for article in articles:
            known = by_title.get(article.title)
            if known is None or len(article.text) > len(known.text):
                by_title[article.title] = article
        self.articles = [by_title[title] for title in sorted(by_title)]
        self._names: dict[str, Article] = {}
        bare: dict[str, list[Article]] = {}
        for article in self.articles:
            self._names.setdefault(_plain(article.title), article)
            bare.setdefault(_plain(_ASIDE.sub("", article.title)), []).append(article)
        # "Mercury" means "Mercury (planet)" where there is no other.
        for name, meant in bare.items():
            if len(meant) == 1:
                self._names.setdefault(name, meant[0])
        self._stemmer = Stemmer.Stemmer("english")
        self._index = bm25s.BM25()
        texts = [f"{article.title} {article.title} {article.text}" for article in self.articles]
        self._index.index(self._tokens(texts), show_progress=False)

    def __len__(self) -> int:
        return len(self.articles)

    async def find(self, name: str) -> Article | None:
        """The article of this title; case, signs and accents are forgiven."""
        return self._names.get(_plain(name))

    async def similar(self, name: str) -> list[str]:
        """Titles of the articles that match best, the best first."""
        most = min(SIMILAR, len(self.articles))
        found, scores = self._index.retrieve(self._tokens([name]), k=most, show_progress=False)
        pairs = zip(found[0].tolist(), scores[0].tolist(), strict=True)
        return [self.articles[at].title for at, score in pairs if score > 0]

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        tokens: list[list[str]] = bm25s.tokenize(
            texts, stopwords="en", stemmer=self._stemmer, return_ids=False, show_progress=False
        )
        return tokens


def _plain(text: str) -> str:
    """A title as it is compared."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return _SIGNS.sub(" ", "".join(char for char in letters if not unicodedata.combining(char))).strip()
