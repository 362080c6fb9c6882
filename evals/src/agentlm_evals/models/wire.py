"""One HTTP/1.1 connection that is used again and again. Refuses to know what is asked, and what to do when it fails.

A general client costs 2.5 ms of CPU a request with 200 connections, most of it bookkeeping that a pool of servers does not
need; this one costs a tenth. A run's first requests then come together, and a server is full within a few of its steps.
"""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from agentlm_evals.models.proxy import Proxy

CONNECT_SECONDS = 10.0
_LONGEST_HEAD = 1 << 20
_NO_BODY = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    """By their names in lower case; of a name that comes twice the last."""
    body: bytes


class WireError(Exception):
    """No complete answer came: refused, reset, timed out, cut off, or it was no HTTP."""


class Address:
    """Where a server is, taken apart once, and the proxy that stands before it."""

    def __init__(self, url: str, tls: ssl.SSLContext, proxy: Proxy | None = None) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.is_secure = parts.scheme == "https"
        self.port = parts.port or (443 if self.is_secure else 80)
        self.prefix = parts.path.rstrip("/")
        self.tls = tls if self.is_secure else None
        name = f"[{self.host}]" if ":" in self.host else self.host
        self.named = name if self.port == (443 if self.is_secure else 80) else f"{name}:{self.port}"
        """As the header `Host` has it."""
        self.proxy = proxy
        self.tunnel = f"{name}:{self.port}" if proxy is not None and self.is_secure else None
        """What a proxy is asked to connect us with: through it goes TLS, which it cannot read."""
        # Plain HTTP is read by the proxy, which wants the whole address.
        self.before_path = (
            f"http://{self.named}{self.prefix}" if proxy and not self.is_secure else self.prefix
        )


class Wire:
    """A connection. One request at a time; after an error it is closed."""

    def __init__(self, address: Address, headers: Mapping[str, str]) -> None:
        self._address = address
        lines = {
            "Host": address.named,
            "User-Agent": "agentlm-evals",
            "Accept": "application/json",
            **headers,
        }
        if address.proxy is not None and address.tunnel is None and address.proxy.authorization is not None:
            lines["Proxy-Authorization"] = address.proxy.authorization
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: bytes | None, seconds: float) -> Reply:
        """One request and its whole answer.

        Raises:
            WireError: None came.
        """
        # A server may have closed an idle connection a moment ago: that is no failure of the request.
        was_open = self._writer is not None
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await self._ask(method, path, body)
                except (asyncio.IncompleteReadError, ConnectionError) as error:
                    is_stale = was_open and not getattr(error, "partial", b"")
                    if not is_stale:
                        raise
                    await self.close()
                    return await self._ask(method, path, body)
        except TimeoutError as error:
            await self.close()
            raise WireError(str(error) or f"no answer in {seconds:g} s") from error
        except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as error:
            await self.close()
            raise WireError(f"{type(error).__name__}: {error}") from error
        except BaseException:
            # What is left of the answer would be taken for the next one's.
            await self.close()
            raise

    async def _ask(self, method: str, path: str, body: bytes | None) -> Reply:
        if self._writer is None:
            await self._open()
        assert self._writer is not None
        assert self._reader is not None
        head = f"{method} {self._address.before_path}{path} HTTP/1.1\r\n{self._headers}"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + (body or b""))
        await self._writer.drain()
        status = 100
        while 100 <= status < 200:  # an interim answer is followed by the real one
            version, status, headers = _read_head(await self._reader.readuntil(b"\r\n\r\n"))
        content, is_whole = await self._body(status, headers)
        says = headers.get("connection", "").lower()
        if not is_whole or "close" in says or (version == "HTTP/1.0" and "keep-alive" not in says):
            await self.close()
        return Reply(status, headers, content)

    async def _open(self) -> None:
        address, proxy = self._address, self._address.proxy
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                self._reader, self._writer = await asyncio.open_connection(
                    proxy.host.strip("[]") if proxy else address.host,
                    proxy.port if proxy else address.port,
                    ssl=None if proxy else address.tls,
                    limit=_LONGEST_HEAD,
                )
                if proxy and address.tunnel is not None:
                    await self._dig(proxy, address.tunnel)
        except TimeoutError as error:
            raise ConnectionError(f"no connection in {CONNECT_SECONDS:g} s") from error

    async def _dig(self, proxy: Proxy, target: str) -> None:
        """A tunnel to the server, by the proxy's leave, and TLS through it."""
        assert self._reader is not None
        assert self._writer is not None
        allowed = f"Proxy-Authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
        self._writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{allowed}\r\n".encode())
        _, status, _ = _read_head(await self._reader.readuntil(b"\r\n\r\n"))
        if not 200 <= status < 300:
            raise ConnectionError(f"the proxy {proxy.shown} answered {status} to CONNECT {target}")
        assert self._address.tls is not None
        await self._writer.start_tls(self._address.tls, server_hostname=self._address.host)

    async def _body(self, status: int, headers: Mapping[str, str]) -> tuple[bytes, bool]:
        """The answer's body, and whether the connection may be used again after it."""
        assert self._reader is not None
        if status in _NO_BODY:
            return b"", True
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return await self._chunks(), True
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"])), True
        return await self._reader.read(), False

    async def _chunks(self) -> bytes:
        assert self._reader is not None
        parts = bytearray()
        while True:
            line = await self._reader.readuntil(b"\r\n")
            length = int(line.split(b";")[0].strip(), 16)
            if length == 0:
                break
            parts += await self._reader.readexactly(length)
            if await self._reader.readexactly(2) != b"\r\n":
                raise ValueError("a chunk does not end where it says")
        while await self._reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers
        return bytes(parts)

    async def close(self) -> None:
        """Closes the connection; the next request opens another."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
            with suppress(OSError, ssl.SSLError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()


def _read_head(head: bytes) -> tuple[str, int, dict[str, str]]:
    """Version, status and headers. ValueError where it is no HTTP."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise ValueError(f"the answer begins with {first[:40]!r}, which is no HTTP/1")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return version, int(rest[:3]), headers
