"""A small HTTP server whose answers a test scripts. Refuses to know the protocols."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]
Handler = Callable[[str, str, Any], Reply]
"""(method, path, body) to (status, body) or (status, body, headers)."""


@dataclass
class Scripted:
    """What was asked, and where."""

    port: int = 0
    asked: list[tuple[str, str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def bodies(self, path: str) -> list[Any]:
        return [body for _, asked, body in self.asked if asked == path]


@contextlib.asynccontextmanager
async def scripted_server(handler: Handler) -> AsyncIterator[Scripted]:
    """A server on a free port, gone afterwards."""
    state = Scripted()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.split("\r\n")
                method, path, _ = first.split(" ")
                length = next(
                    (int(x.split(":")[1]) for x in lines if x.lower().startswith("content-length")), 0
                )
                data = await reader.readexactly(length)
                body = json.loads(data) if data else None
                state.asked.append((method, path, body))
                status, answer, *more = handler(method, path, body)
                text = json.dumps(answer).encode()
                headers = "".join(f"{name}: {value}\r\n" for name, value in (more[0] if more else {}).items())
                writer.write(
                    f"HTTP/1.1 {status} X\r\n{headers}content-length: {len(text)}\r\n\r\n".encode() + text
                )
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()


INFO = {
    "model_id": "m",
    "model_sha": None,
    "max_total_tokens": 100,
    "max_input_tokens": 99,
    "max_concurrent_requests": 7,
}


def tgi(generate: Callable[[Any], Reply], **info: Any) -> Handler:
    """A TGI server of the first generation: no chat route."""

    def handle(method: str, path: str, body: Any) -> Reply:
        if path == "/health":
            return 200, None
        if path == "/info":
            return 200, INFO | info
        return generate(body) if path == "/generate" else (404, None)

    return handle


def said(text: str, reason: str = "eos_token") -> Reply:
    """TGI's answer."""
    return 200, {
        "generated_text": text,
        "details": {"finish_reason": reason, "generated_tokens": 3, "prefill": []},
    }
