"""One connection: every way in which a body may end, and what is no answer."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest

from agentlm_evals.models.wire import Address, Wire, WireError

TLS = ssl.create_default_context()


class Raw:
    """A server that sends the next of some bytes for each request, and closes where they end with None."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while self.answers:
                self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
                answer = self.answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if self.answers and self.answers[0] is None:
                    self.answers.pop(0)
                    break
        writer.close()


@contextlib.asynccontextmanager
async def raw(*answers: bytes | None, path: str = "") -> AsyncIterator[tuple[Raw, Wire]]:
    state = Raw(*answers)
    server = await asyncio.start_server(state.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wire = Wire(Address(f"http://127.0.0.1:{port}{path}", TLS), {"Authorization": "Bearer k"})
    try:
        yield state, wire
    finally:
        await wire.close()
        server.close()


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Prompt-Tokens: 7\r\n\r\n{}"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\n{\r\n1\r\n}\r\n0\r\nTrailer: t\r\n\r\n"
)


async def test_bodies_by_length_and_by_chunks_leave_the_connection_open() -> None:
    async with raw(LENGTH, CHUNKED, LENGTH, path="/v1") as (server, wire):
        replies = [await wire.ask("GET", "/health", None, 5) for _ in range(3)]
        assert [reply.body for reply in replies] == [b"{}"] * 3
        assert replies[0].headers["x-prompt-tokens"] == "7"
        assert server.connections == 1
        assert server.heads[0].startswith("GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1:")
        assert "Authorization: Bearer k\r\n" in server.heads[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
async def test_a_body_up_to_the_end_and_a_goodbye_close_it(answer: bytes) -> None:
    async with raw(answer, None, LENGTH) as (server, wire):
        assert (await wire.ask("GET", "/", None, 5)).body == b"{}"
        assert (await wire.ask("GET", "/", None, 5)).body == b"{}"
        assert server.connections == 2


async def test_an_interim_answer_is_not_the_answer_and_some_have_no_body() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    async with raw(interim + LENGTH, b"HTTP/1.1 204 No Content\r\n\r\n", LENGTH) as (_, wire):
        assert [(await wire.ask("GET", "/", None, 5)).status for _ in range(3)] == [200, 204, 200]


async def test_a_connection_that_the_server_closed_meanwhile_is_replaced() -> None:
    async with raw(LENGTH, None, LENGTH) as (server, wire):
        await wire.ask("GET", "/", None, 5)
        await asyncio.sleep(0.05)
        assert (await wire.ask("POST", "/", b"{}", 5)).status == 200
        assert server.connections == 2


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((LENGTH[:-1], None), "IncompleteReadError"),
        ((CHUNKED[:50], None), "IncompleteReadError"),
        ((CHUNKED.replace(b"1;x=y", b"z"), None), "ValueError: invalid literal"),
        ((b"SSH-2.0-OpenSSH\r\n\r\n", None), "which is no HTTP/1"),
        ((None,), "IncompleteReadError"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", LENGTH), "no answer in 0.2 s"),
    ],
)
async def test_what_is_not_a_whole_answer_is_an_error(answers: tuple[bytes | None, ...], said: str) -> None:
    async with raw(*answers) as (_, wire):
        with pytest.raises(WireError, match=said):
            await wire.ask("GET", "/", None, 0.2)


async def test_a_request_that_is_given_up_leaves_nothing_behind() -> None:
    async with raw(LENGTH[:-1], LENGTH) as (server, wire):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await wire.ask("GET", "/", None, 5)
        # The rest of that answer must not be the next one's.
        server.answers = [LENGTH]
        assert (await wire.ask("GET", "/", None, 5)).body == b"{}"
        assert server.connections == 2


async def test_a_cancellation_while_it_closes_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: asyncio.StreamWriter) -> None:
        del self
        await asyncio.Event().wait()

    async with raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n") as (_, wire):
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.StreamWriter, "wait_closed", never)
            asking = asyncio.create_task(wire.ask("GET", "/", None, 5))
            await asyncio.sleep(0.2)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking


def test_addresses() -> None:
    assert Address("http://h", TLS).named == "h"
    assert Address("http://h:8080/x/", TLS).prefix == "/x"
    assert Address("https://[::1]:444", TLS).named == "[::1]:444"
    assert (Address("https://h", TLS).port, Address("https://h", TLS).named) == (443, "h")
