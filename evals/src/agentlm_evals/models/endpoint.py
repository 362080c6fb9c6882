"""One server's address and the connections to it. Refuses to know what is asked and what to do when it fails."""

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from agentlm_evals.errors import ConfigError
from agentlm_evals.models.proxy import DIRECT, Proxies
from agentlm_evals.models.wire import Address, Wire, WireError

MOST_TEXT = 1000
"""Bytes of a body that a message could quote."""
RECHECK_SECONDS = 2.0
"""How long a server that failed is left alone before it is asked again whether it is there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer."""

    status: int
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: Any
    """The decoded JSON; None where the body is none."""
    text: str
    """The body's beginning, for messages."""


class TransportError(Exception):
    """No complete answer came: refused, reset, timed out, or cut off. Always worth asking again."""


class Endpoint:
    """A base URL, its connections and whether it is well."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        headers: dict[str, str],
        tls: ssl.SSLContext,
        proxies: Proxies = DIRECT,
    ) -> None:
        try:
            parts = urlsplit(url)
            is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_right = False
        if not is_right:
            raise ConfigError(
                f"the server's URL is {url!r}; it must be http://HOST:PORT or https://HOST:PORT"
            )
        self.url = url.rstrip("/").removesuffix("/v1")
        self._address = Address(self.url, tls, proxies.of(self.url))
        self.host = self._address.host
        self.place = (self._address.named.lower(), self._address.is_secure, self._address.prefix)
        """However the URL is written."""
        self.in_flight = 0
        self.requests = 0
        self._failed_at: float | None = None
        self._timeout = timeout
        self._headers = headers
        self._idle: list[Wire] = []
        """The one used last is taken first, so that few are open."""

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

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """One request.

        Raises:
            TransportError: No complete answer came.
        """
        wire = self._idle.pop() if self._idle else Wire(self._address, self._headers)
        self.in_flight += 1
        self.requests += 1
        try:
            content = None if body is None else json.dumps(body, ensure_ascii=False).encode(errors="replace")
            reply = await wire.ask(method, path, content, self._timeout)
        except WireError as error:
            raise TransportError(str(error)) from error
        finally:
            self.in_flight -= 1
            self._idle.append(wire)
        try:
            decoded = json.loads(reply.body)
        except ValueError:
            decoded = None
        return Answer(reply.status, reply.headers, decoded, reply.body[:MOST_TEXT].decode(errors="replace"))

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
        await asyncio.gather(*(wire.close() for wire in self._idle))
