"""One server's address and the connections to it. Refuses to know what is asked and what to do when it fails."""

import asyncio
import json
import ssl
import time
from dataclasses import dataclass
from typing import Any

import httpx

from agentlm_evals.errors import ConfigError

LANE = 8
"""Connections of one httpx client. Its pool is searched from end to end for every request: with 256 connections in one
client a request took 16 ms of CPU, in clients of 8 it takes 1 ms."""
RECHECK_SECONDS = 2.0
"""How long a server that failed is left alone before it is asked again whether it is there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer."""

    status: int
    headers: httpx.Headers
    body: Any
    """The decoded JSON; None where the body is none."""
    text: str


class TransportError(Exception):
    """No complete answer came: refused, reset, timed out, or cut off. Always worth asking again."""


class Endpoint:
    """A base URL, its connections and whether it is well."""

    def __init__(self, url: str, *, timeout: float, headers: dict[str, str], tls: ssl.SSLContext) -> None:
        parsed = httpx.URL(url)
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(
                f"the server's URL is {url!r}; it must be http://HOST:PORT or https://HOST:PORT"
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        self.host = parsed.host
        self.in_flight = 0
        self.requests = 0
        self._failed_at: float | None = None
        self._timeout = timeout
        self._headers = headers
        self._tls = tls
        self._idle: list[httpx.AsyncClient] = []
        """Each client as often as it has connections free; the one used last is taken first, so that few are open."""
        self._clients: list[httpx.AsyncClient] = []

    @property
    def is_suspect(self) -> bool:
        """Whether it failed a moment ago: others are asked first."""
        return self._failed_at is not None and time.monotonic() - self._failed_at < RECHECK_SECONDS

    def failed(self) -> None:
        """It is left alone for a while."""
        self._failed_at = time.monotonic()

    def succeeded(self) -> None:
        """It is well again."""
        self._failed_at = None

    def _client(self) -> httpx.AsyncClient:
        if not self._idle:
            client = httpx.AsyncClient(
                base_url=self.url,
                headers=self._headers,
                timeout=httpx.Timeout(self._timeout, connect=10.0),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
                verify=self._tls,
                # Proxies and credentials of the environment are not asked: only the URL that was given is spoken to.
                trust_env=False,
            )
            self._clients.append(client)
            self._idle.extend([client] * LANE)
        return self._idle.pop()

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """One request.

        Raises:
            TransportError: No complete answer came.
        """
        client = self._client()
        self.in_flight += 1
        self.requests += 1
        try:
            content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
            headers = {"Content-Type": "application/json"} if content else None
            response = await client.request(method, path, content=content, headers=headers)
        except (httpx.HTTPError, httpx.StreamError, OSError, ssl.SSLError) as error:
            raise TransportError(f"{type(error).__name__}: {error}") from error
        finally:
            self.in_flight -= 1
            self._idle.append(client)
        try:
            decoded = response.json()
        except ValueError:
            decoded = None
        return Answer(response.status_code, response.headers, decoded, response.text)

    async def ailment(self) -> str | None:
        """What is wrong by `/health`; None: nothing. A server without that route is well if it answers at all."""
        try:
            answer = await asyncio.wait_for(self.ask("GET", "/health"), 10.0)
        except TimeoutError:
            return "no answer in 10 s"
        except TransportError as error:
            return str(error)
        return None if answer.status < 500 else f"HTTP {answer.status}"

    async def close(self) -> None:
        """Closes every connection."""
        await asyncio.gather(*(client.aclose() for client in self._clients))
