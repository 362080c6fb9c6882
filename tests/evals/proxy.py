"""A proxy that fails some requests on purpose, each time in another way. Refuses to know what is asked."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from itertools import count
from typing import Protocol, TypeVar


class Flaky:
    """Passes requests on to a server, but for one in `every`."""

    def __init__(self, target: int, every: int) -> None:
        self.target = target
        self.every = every
        self.port = 0
        self.passed = 0
        self.failed = 0
        self._number = count(1)
        self._ways = count()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                body = await reader.readexactly(length)
                if head.startswith(b"POST") and next(self._number) % self.every == 0:
                    self.failed += 1
                    await self._fail(writer)
                    break
                self.passed += 1
                writer.write(await self._ask(head, body))
                await writer.drain()
        writer.close()

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        upstream, to = await asyncio.open_connection("127.0.0.1", self.target)
        to.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1) + body)
        answer = await upstream.read()
        to.close()
        return answer.replace(b"connection: close\r\n", b"", 1)

    async def _fail(self, writer: asyncio.StreamWriter) -> None:
        """A refusal, an error, no answer at all, one that breaks off, and ones that claim success and hold no text."""
        way = next(self._ways) % 6
        if way == 0:
            writer.write(_answer(500, {"error": "the server is ill", "error_type": "internal"}))
        elif way == 1:
            writer.write(_answer(429, {"error": "overloaded"}, "Retry-After: 0\r\n"))
        elif way == 2:
            writer.write(_answer(200, {"generated_text": "The answer is 1"}).split(b"is 1")[0])
        elif way == 3:
            writer.write(_answer(200, {"surprise": "no text"}))
        elif way == 4:
            writer.write(
                _answer(424, {"error": "Request failed during generation", "error_type": "generation"})
            )
        await writer.drain()


def _answer(status: int, body: object, more: str = "") -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}content-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


class Serving(Protocol):
    """What answers connections at a port."""

    port: int

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...


S = TypeVar("S", bound=Serving)


@contextlib.asynccontextmanager
async def listening(proxy: S) -> AsyncIterator[S]:
    """Serves on a free port, gone afterwards."""
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()


def flaky(target: int, every: int = 5) -> contextlib.AbstractAsyncContextManager[Flaky]:
    """A proxy on a free port, gone afterwards."""
    return listening(Flaky(target, every))
