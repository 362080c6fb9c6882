"""Several servers of one model: load, health, patience. Refuses to know what a request means.

A request goes to the server with the fewest unfinished ones among those that are well. What may succeed when asked again
is asked again, somewhere else if there is a choice; whatever is left after that is an error and never an answer.
"""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agentlm_evals.clock import excuse
from agentlm_evals.errors import ConfigError, ModelError, RefusedError
from agentlm_evals.models.endpoint import Answer, Endpoint, TransportError
from agentlm_evals.models.proxy import DIRECT, Proxies

_log = logging.getLogger(__name__)
FIRST_WAIT = 0.1
LONGEST_WAIT = 10.0
RETRIED = frozenset({408, 409, 421, 424, 425, 429})
"""Statuses below 500 that may pass: busy, too early, an engine that failed in this request. All from 500 on may, too."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request is asked again."""

    attempts: int = 12
    seconds: float = 900.0
    """All attempts of a request together."""
    timeout: float = 600.0
    """One attempt."""

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.seconds <= 0 or self.timeout <= 0:
            raise ConfigError("attempts must be at least 1, and seconds and timeout more than 0")


@dataclass(slots=True)
class Traffic:
    """What went over the wire; for the progress line and the log."""

    requests: int = 0
    retries: int = 0
    waited: float = 0.0
    """Seconds between attempts."""


Accept = Callable[[Answer], Any]
"""Reads a successful answer; ValueError, KeyError, TypeError or IndexError say that it is none: the server failed."""


class Pool:
    """The servers of one model."""

    def __init__(
        self,
        urls: Sequence[str],
        patience: Patience | None = None,
        api_key: str | None = None,
        proxies: Proxies = DIRECT,
    ) -> None:
        if not urls:
            raise ConfigError("no server was given: --url, --host with --port, or --model")
        self.patience = patience or Patience()
        self.traffic = Traffic()
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        tls = ssl.create_default_context()
        self.endpoints = [
            Endpoint(url, timeout=self.patience.timeout, headers=headers, tls=tls, proxies=proxies)
            for url in urls
        ]
        # Twice is twice the load on it, and half of what it says that it takes.
        if len({endpoint.place for endpoint in self.endpoints}) != len(urls):
            raise ConfigError(f"a server is named twice: {', '.join(urls)}")
        self._jitter = random.Random(0)

    def _choose(self, avoid: Endpoint | None) -> Endpoint:
        """The least loaded server that is well; if none is, the least loaded of all: it is asked whether it came back."""
        return min(
            self.endpoints,
            key=lambda endpoint: (
                endpoint.is_suspect,
                endpoint is avoid,
                endpoint.in_flight,
                endpoint.requests,
            ),
        )

    async def ask(self, method: str, path: str, body: Any, accept: Accept) -> Any:
        """What `accept` makes of an answer.

        Raises:
            RefusedError: A server understood the request and refused it.
            ModelError: No server gave an answer in the time and number of attempts allowed.
        """
        begun = time.monotonic()
        last, why = None, ""
        for attempt in range(1, self.patience.attempts + 1):
            endpoint = self._choose(last)
            self.traffic.requests += 1
            wait = None
            asked = time.monotonic()
            try:
                answer = await endpoint.ask(method, path, body)
                if answer.status == 200:
                    result = accept(answer)
                    endpoint.succeeded()
                    return result
                why = f"HTTP {answer.status}: {_message(answer)}"
                if answer.status < 500 and answer.status not in RETRIED:
                    raise Refusal(answer.status, _message(answer), f"{endpoint.url}{path} answered {why}")
                if answer.status != 429:
                    endpoint.failed()
                wait = _retry_after(answer)
            except TransportError as error:
                why = str(error)
                endpoint.failed()
            except (ValueError, KeyError, TypeError, IndexError) as error:
                why = f"an answer that cannot be read ({type(error).__name__}: {error})"
                endpoint.failed()
            last = endpoint
            if wait is None:
                # With another server at hand there is nothing to wait for at first.
                others = any(not one.is_suspect for one in self.endpoints)
                step = FIRST_WAIT * 2 ** (attempt - 1)
                wait = 0.0 if others and attempt == 1 else step * self._jitter.uniform(0.5, 1.0)
            wait = min(wait, LONGEST_WAIT)
            left = self.patience.seconds - (time.monotonic() - begun) - wait
            if attempt == self.patience.attempts or left <= 0:
                break
            self.traffic.retries += 1
            self.traffic.waited += wait
            excuse(time.monotonic() - asked + wait)
            await asyncio.sleep(wait)
        raise ModelError(
            f"no answer to {method} {path} after {attempt} attempts in {time.monotonic() - begun:.0f} s; the last: {why}"
        )

    async def probe(self, path: str) -> list[Answer | None]:
        """What each server answers to a GET, None where nothing came; asked once."""

        async def one(endpoint: Endpoint) -> Answer | None:
            try:
                return await endpoint.ask("GET", path)
            except TransportError:
                return None

        return list(await asyncio.gather(*(one(endpoint) for endpoint in self.endpoints)))

    async def wait_well(self, seconds: float) -> None:
        """Returns once every server is well.

        Raises:
            ModelError: One is not, after so many seconds; the message names it.
        """
        until = time.monotonic() + seconds
        is_said = False
        while True:
            states = await asyncio.gather(*(endpoint.ailment() for endpoint in self.endpoints))
            if not any(states):
                return
            down = ", ".join(
                f"{one.url} ({why})" for one, why in zip(self.endpoints, states, strict=True) if why
            )
            if time.monotonic() >= until:
                raise ModelError(f"no healthy server at {down} after {seconds:g} s; is it running?")
            if not is_said:
                # Who mistyped a port need not wait to the end.
                _log.warning("waiting up to %g s for %s", seconds, down)
                is_said = True
            await asyncio.sleep(0.5)

    async def close(self) -> None:
        """Closes every connection."""
        await asyncio.gather(*(endpoint.close() for endpoint in self.endpoints))


class Refusal(RefusedError):  # noqa: N818  # what the server said, rather than an error of ours
    """A refusal with what the server said, for who can tell a prompt that is too long from a mistake."""

    def __init__(self, status: int, said: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.said = said


def _message(answer: Answer) -> str:
    """The server's own words, in TGI's or OpenAI's form."""
    body = answer.body
    if isinstance(body, dict):
        error = body.get("error", body.get("message"))
        if isinstance(error, dict):
            error = error.get("message")
        if isinstance(error, str):
            return error
    return answer.text[:300]


def _retry_after(answer: Answer) -> float | None:
    try:
        return max(float(answer.headers["retry-after"]), 0.0)
    except (KeyError, ValueError):
        return None
