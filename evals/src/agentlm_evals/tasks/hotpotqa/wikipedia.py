"""The live Wikipedia in the place of an encyclopedia, as the original asked it. Refuses to know questions and models.

Its pages change, so that two runs are not the same evaluation.
"""

from typing import Any

import httpx

from agentlm_evals.errors import EnvironmentFault
from agentlm_evals.tasks.hotpotqa.reading import Article

API = "https://en.wikipedia.org/w/api.php"
_AGENT = "agentlm-evals (https://github.com/agentlm/agentlm)"
"""Wikipedia asks programs for a name."""
_SIMILAR = 10


class Wikipedia:
    """English Wikipedia by its API: the best match of its search is the article that is meant."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def find(self, name: str) -> Article | None:
        """The best match; None if there is none, or it only lists what the name may mean.

        Raises:
            EnvironmentFault: Wikipedia does not answer.
        """
        titles = await self.similar(name)
        if not titles:
            return None
        answer = await self._ask(
            prop="extracts|pageprops",
            explaintext="1",
            ppprop="disambiguation",
            redirects="1",
            titles=titles[0],
        )
        page = answer["query"]["pages"][0]
        if page.get("missing") or "disambiguation" in page.get("pageprops", {}) or not page.get("extract"):
            return None
        paragraphs = tuple(str(page["extract"]).split("\n\n"))
        return Article(str(page["title"]), paragraphs[0], paragraphs)

    async def similar(self, name: str) -> list[str]:
        """What its search finds.

        Raises:
            EnvironmentFault: Wikipedia does not answer.
        """
        answer = await self._ask(list="search", srprop="", srlimit=str(_SIMILAR), srsearch=name)
        return [str(hit["title"]) for hit in answer["query"]["search"]]

    async def _ask(self, **query: str) -> dict[str, Any]:
        try:
            answer = await self._client.get(
                API,
                params={"action": "query", "format": "json", "formatversion": "2", **query},
                headers={"User-Agent": _AGENT},
            )
            answer.raise_for_status()
            body: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise EnvironmentFault(f"Wikipedia does not answer: {error}") from error
        if "query" not in body:
            raise EnvironmentFault(f"Wikipedia refuses: {body.get('error', body)}")
        return body
