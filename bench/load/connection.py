"""One client connection, as light as Python allows: it reads an answer at a pace, or cuts it, and knows when it is whole.

Knows HTTP/1.1 as far as agentlm's answers need it. Refuses to know what an answer says.
"""

import asyncio
import socket
import time
from dataclasses import dataclass
from typing import Final, cast

FAST_BUFFER: Final = bytearray(256 << 10)
"""One for all: what was read is taken out before the loop reads again."""
SLOW_BYTES: Final = 1024
SLOW_REST_SECONDS: Final = 0.5
SLOW_RECEIVE_BUFFER: Final = 4096
"""Bytes that the kernel keeps for a slow reader; the rest waits with the server."""


class LostAnswerError(Exception):
    """The connection ended, or the time was up, before the answer was whole."""


@dataclass(slots=True)
class Answer:
    """What came. Times in seconds since the request was sent."""

    status: int
    body: bytes
    first_event: float | None
    """None where the answer is no stream."""
    seconds: float


class Connection(asyncio.BufferedProtocol):
    """A connection that is kept from answer to answer."""

    def __init__(self, *, slow: bool) -> None:
        self._slow = slow
        self._space = bytearray(SLOW_BYTES) if slow else FAST_BUFFER
        self._view = memoryview(self._space)
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[Answer | None] | None = None
        self._sent = 0.0
        self._first_event: float | None = None
        self._body_at = -1
        self._length: int | None = None
        self._status = 0
        self._cut_at: int | None = None
        self._rest: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes, cut_after: int | None) -> "asyncio.Future[Answer | None]":
        """Sends a request. The answer is None when it was cut, which happens `cut_after` bytes of it have come."""
        if self._transport is None:
            raise LostAnswerError("not connected")
        self._received.clear()
        self._first_event, self._body_at, self._length, self._status = None, -1, None, 0
        self._cut_at = cut_after
        self._answer = asyncio.get_running_loop().create_future()
        self._sent = time.monotonic()
        self._transport.write(request)
        return self._answer

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Called by the loop."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Called by the loop."""
        self._received += self._view[:nbytes]
        answer, transport = self._answer, self._transport
        if answer is None or answer.done() or transport is None:
            return
        if self._first_event is None and b"data: " in self._received:
            self._first_event = time.monotonic() - self._sent
        if self._cut_at is not None and len(self._received) >= self._cut_at:
            answer.set_result(None)
            self.close()
            return
        if (body := self._whole()) is not None:
            answer.set_result(Answer(self._status, body, self._first_event, time.monotonic() - self._sent))
        elif self._slow and (self._first_event is not None or self._length is not None):
            # The first event is waited for without rest: its time says something about the server.
            transport.pause_reading()
            self._rest = asyncio.get_running_loop().call_later(SLOW_REST_SECONDS, self._go_on)

    def _go_on(self) -> None:
        if self.is_open and self._transport is not None:
            self._transport.resume_reading()

    def _whole(self) -> bytes | None:
        """The body, once all of it is there."""
        if self._body_at < 0:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._body_at = end + 4
            head = bytes(self._received[:end]).lower()
            self._status = int(head[9:12])
            if b"\r\ncontent-length: " in head:
                self._length = int(head.split(b"\r\ncontent-length: ", 1)[1].split(b"\r\n", 1)[0])
        if self._length is None:
            # No event holds a carriage return, so these bytes are the last chunk's.
            if not self._received.endswith(b"0\r\n\r\n"):
                return None
            return _joined(bytes(self._received[self._body_at :]))
        if len(self._received) < self._body_at + self._length:
            return None
        return bytes(self._received[self._body_at :])

    def eof_received(self) -> bool:
        """Called by the loop."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._transport = None
        if self._answer is not None and not self._answer.done():
            have = len(self._received)
            self._answer.set_exception(LostAnswerError(f"the connection ended after {have} bytes: {exc}"))

    def close(self) -> None:
        """Ends the connection at once, whatever was not read."""
        if self._rest is not None:
            self._rest.cancel()
        if self._transport is not None:
            self._transport.abort()


def _joined(chunked: bytes) -> bytes:
    """The chunks' contents."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = chunked.index(b"\r\n", at)
        size = int(chunked[at:end], 16)
        if not size:
            return b"".join(parts)
        parts.append(chunked[end + 2 : end + 2 + size])
        at = end + 4 + size


async def connect(port: int, *, slow: bool) -> Connection:
    """A new connection to a server of this machine. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    end = socket.socket()
    end.setblocking(False)
    try:
        if slow:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_RECEIVE_BUFFER)
        await loop.sock_connect(end, ("127.0.0.1", port))
        _, connection = await loop.create_connection(lambda: Connection(slow=slow), sock=end)
    except BaseException:
        end.close()
        raise
    return connection
