"""The workers: what a plan's tools give. Local ones by default; the originals' services by their keys. Knows no planner."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
from anyio.to_thread import run_sync

from agentlm_evals.errors import ConfigError, EnvironmentFault
from agentlm_evals.tasks.hotpotqa.articles import Articles
from agentlm_evals.tasks.hotpotqa.reading import Article, Encyclopedia, Visit
from agentlm_evals.tasks.rewoo.algebra import AlgebraError, solve_apart
from agentlm_evals.tasks.rewoo.calculator import ExpressionError, calculate, written

Tool = Callable[[str], Awaitable[str]]
SNIPPETS = 3
SNIPPET = 300
"""Characters."""
PASSAGE = 1000
"""Characters of a document's passage, about what the original's vector store keeps together."""
SERPER, WOLFRAM = "https://google.serper.dev/search", "https://api.wolframalpha.com/v1/result"
CANNOT = "It cannot be worked out: {0}"


async def calculator(text: str) -> str:
    """The value of an arithmetic expression; the original has a language model write a program, and runs it."""
    try:
        return written(calculate(text))
    except ExpressionError as error:
        return CANNOT.format(error)


async def wolfram(text: str) -> str:
    """An equation's solutions: arithmetic by the calculator, all else by sympy."""
    try:
        return written(calculate(text))
    except ExpressionError:
        pass
    try:
        return await run_sync(solve_apart, text)
    except AlgebraError as error:
        return CANNOT.format(error)


def encyclopedia(source: Encyclopedia) -> Tool:
    """The first paragraph of the article that is meant, or titles like it."""

    async def search(text: str) -> str:
        return await Visit(source).search(text)

    return search


class _Nothing:
    """An encyclopedia without articles."""

    async def find(self, name: str) -> Article | None:
        del name
        return None

    async def similar(self, name: str) -> list[str]:
        del name
        return []


def _library(articles: Iterable[Article]) -> Encyclopedia:
    found = list(articles)
    return Articles(found) if found else _Nothing()


def snippets(source: Encyclopedia) -> Tool:
    """What matches best, some lines each: a search engine over the articles."""

    async def search(text: str) -> str:
        found = [
            article
            for name in (await source.similar(text))[:SNIPPETS]
            if (article := await source.find(name))
        ]
        return (
            " ".join(f"{article.title}: {article.text[:SNIPPET]}" for article in found)
            or "No good result found"
        )

    return search


def passages(text: str) -> list[Article]:
    """A document as passages of whole paragraphs."""
    parts: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        if parts and len(parts[-1]) + len(paragraph) < PASSAGE:
            parts[-1] += f"\n\n{paragraph}"
        elif paragraph.strip():
            parts.append(paragraph)
    return [Article(f"passage {number}", part, (part,)) for number, part in enumerate(parts, 1)]


def document(source: Encyclopedia) -> Tool:
    """The passage of a document that matches best."""

    async def search(text: str) -> str:
        names = await source.similar(text)
        article = await source.find(names[0]) if names else None
        return article.text if article else "No passage matches"

    return search


def local_tools(articles: Iterable[Article], address: str) -> dict[str, Tool]:
    """Every tool but the language model, over local documents."""
    corpus = _library(articles)
    return {
        "Wikipedia": encyclopedia(corpus),
        "Google": snippets(corpus),
        "WolframAlpha": wolfram,
        "Calculator": calculator,
        "SearchSOTU": document(_library(passages(address))),
    }


# --- the originals' services ---------------------------------------------------------------------------------------


def read_key(folder: Path, name: str) -> str:
    """A key as the original keeps it: a file `serper.key`, `wolfram.key` in a folder.

    Raises:
        ConfigError: There is none.
    """
    path = folder / f"{name}.key"
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"rewoo.keys names a folder without {name}.key: {error}") from error


def live_tools(client: httpx.AsyncClient, folder: Path, wikipedia: Encyclopedia) -> dict[str, Tool]:
    """Google by Serper, WolframAlpha and Wikipedia. What they give changes from day to day."""
    serper, app = read_key(folder, "serper"), read_key(folder, "wolfram")

    async def google(text: str) -> str:
        answer = await _ask(client, "POST", SERPER, json={"q": text}, headers={"X-API-KEY": serper})
        return _google_text(answer.json())

    async def alpha(text: str) -> str:
        answer = await _ask(client, "GET", WOLFRAM, params={"i": text, "appid": app}, allowed=(200, 501))
        return answer.text.strip() if answer.status_code == 200 else "Wolfram Alpha wasn't able to answer it"

    return {"Google": google, "WolframAlpha": alpha, "Wikipedia": encyclopedia(wikipedia)}


def _google_text(body: Mapping[str, Any]) -> str:
    box = body.get("answerBox") or {}
    if direct := box.get("answer") or box.get("snippet") or box.get("snippetHighlighted"):
        return str(direct)
    parts = []
    if graph := body.get("knowledgeGraph"):
        parts += [str(graph[name]) for name in ("title", "type", "description") if graph.get(name)]
    parts += [str(hit["snippet"]) for hit in body.get("organic", [])[:10] if hit.get("snippet")]
    return " ".join(parts) or "No good Google Search Result was found"


async def _ask(
    client: httpx.AsyncClient, method: str, url: str, allowed: tuple[int, ...] = (200,), **arguments: Any
) -> httpx.Response:
    try:
        answer = await client.request(method, url, **arguments)
    except httpx.HTTPError as error:
        raise EnvironmentFault(f"{url} does not answer: {error}") from error
    if answer.status_code not in allowed:
        raise EnvironmentFault(f"{url} answered {answer.status_code}: {answer.text[:200]}")
    return answer
