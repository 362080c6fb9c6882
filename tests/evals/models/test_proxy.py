"""Servers behind a proxy: who is asked through it, in which words, and what is said when it refuses."""

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentlm_evals.cli import cli
from agentlm_evals.errors import ConfigError, ModelError
from agentlm_evals.model import Decoding
from agentlm_evals.models.connect import connect
from agentlm_evals.models.pool import Pool
from agentlm_evals.models.proxy import Proxies, Proxy
from tests.evals.proxy import listening
from tests.evals.server import said, scripted_server, tgi

GREEDY = Decoding(max_new_tokens=4)


class Between:
    """A proxy that connects whoever asks with one server, whatever its name."""

    def __init__(self, target: int, status: str = "200 OK") -> None:
        self.target = target
        self.status = status
        self.port = 0
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head.decode())
            if not self.status.startswith("200"):
                writer.write(f"HTTP/1.1 {self.status}\r\nContent-Length: 0\r\n\r\n".encode())
                writer.close()
                return
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
            if head.startswith(b"CONNECT"):
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                first, rest = head.split(b"\r\n", 1)
                method, url, version = first.split(b" ")
                path = b"/" + url.split(b"/", 3)[3]
                to_server.write(b" ".join((method, path, version)) + b"\r\n" + rest)
            await asyncio.gather(copy(reader, to_server), copy(from_server, writer))


async def copy(one: asyncio.StreamReader, other: asyncio.StreamWriter) -> None:
    """Passes on what comes, to its end."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await one.read(65536):
            other.write(data)
            await other.drain()
        other.close()


def between(target: int, status: str = "200 OK") -> contextlib.AbstractAsyncContextManager[Between]:
    return listening(Between(target, status))


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Of judge.test, trusted as the system's are."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: it makes the certificate")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", str(key), "-out", str(cert), "-subj", "/CN=judge.test"]
    command += ["-addext", "subjectAltName=DNS:judge.test"]
    subprocess.run(command, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    return key, cert


async def test_a_server_behind_tls_is_reached_by_a_tunnel(certificate: tuple[Path, Path]) -> None:
    key, cert = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    async with scripted_server(tgi(lambda _: said("Hi"))) as plain:

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """TLS in front of the scripted server."""
            from_server, to_server = await asyncio.open_connection("127.0.0.1", plain.port)
            await asyncio.gather(copy(reader, to_server), copy(from_server, writer))

        secure = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context)
        async with between(secure.sockets[0].getsockname()[1]) as proxy:
            environment = {"HTTPS_PROXY": f"http://me:pass%20word@127.0.0.1:{proxy.port}"}
            pool = Pool(["https://judge.test"], proxies=Proxies.from_environment(environment), api_key="k")
            model = await connect(pool, wait=5)
            assert (await model.generate("x", GREEDY, 0)).text == "Hi"
            await pool.close()
        secure.close()
    assert {head.split("\r\n")[0] for head in proxy.heads} == {"CONNECT judge.test:443 HTTP/1.1"}
    allowed = b64encode(b"me:pass word").decode()
    assert f"Proxy-Authorization: Basic {allowed}\r\n" in proxy.heads[0]
    # The server's key is for the server.
    assert "Bearer" not in "".join(proxy.heads)
    assert plain.bodies("/generate")


async def test_plain_http_is_asked_by_its_whole_address() -> None:
    async with scripted_server(tgi(lambda _: said("Hi"))) as server, between(server.port) as proxy:
        proxies = Proxies.from_environment({"http_proxy": f"127.0.0.1:{proxy.port}"})
        pool = Pool(["http://gpu.test:8000/llm"], proxies=proxies)
        assert (await pool.probe("/info"))[0] is not None
        await pool.close()
    first, host, *_ = proxy.heads[0].split("\r\n")
    assert (first, host) == ("GET http://gpu.test:8000/llm/info HTTP/1.1", "Host: gpu.test:8000")


async def test_a_proxy_that_refuses_is_named_without_its_password() -> None:
    async with between(9, "407 Proxy Authentication Required") as proxy:
        url = f"http://me:secret@127.0.0.1:{proxy.port}"
        pool = Pool(["https://judge.test"], proxies=Proxies.from_environment({"ALL_PROXY": url}))
        with pytest.raises(ModelError) as caught:
            await connect(pool, wait=0.1)
        await pool.close()
    message = f"the proxy http://127.0.0.1:{proxy.port} answered 407 to CONNECT judge.test:443"
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("direct", "url", "is_asked"),
    [
        ("", "https://a.example", True),
        ("", "http://a.example", False),  # no proxy for this scheme
        ("", "https://127.0.0.1:1", False),
        ("", "https://localhost", False),
        ("", "https://0.0.0.0:80", False),
        ("", "https://[::1]:1", False),
        ("*", "https://a.example", False),
        ("example", "https://a.example", False),
        (".example", "https://a.example", False),
        ("*.example", "https://a.example", False),
        ("b.example, A.example", "https://a.example", False),
        ("a.example", "https://data.example", True),
        ("a.example:443", "https://a.example", False),
        ("a.example:444", "https://a.example", True),
        ("10.0.0.0/8", "https://10.1.2.3", False),
        ("10.0.0.0/8", "https://11.1.2.3", True),
        ("10.1.2.3", "https://10.1.2.3:8000", False),
        ("10.1.2.3:8000", "https://10.1.2.3:8000", False),
        ("10.1.2.3:8001", "https://10.1.2.3:8000", True),
        ("", "https://a.example:999999", False),  # no URL
    ],
)
def test_who_is_asked_through_it(direct: str, url: str, is_asked: bool) -> None:
    proxies = Proxies.from_environment({"https_proxy": "http://p:3128", "NO_PROXY": direct})
    assert proxies.of(url) == (Proxy("p", 3128) if is_asked else None)


def test_small_letters_come_first_and_empty_is_none() -> None:
    proxies = Proxies.from_environment(
        {"https_proxy": "http://a", "HTTPS_PROXY": "http://b", "http_proxy": "", "all_proxy": "http://c:9"}
    )
    assert (proxies.of("https://x"), proxies.of("http://x")) == (Proxy("a", 80), Proxy("c", 9))
    assert Proxies.from_environment({}).of("https://x") is None


@pytest.mark.parametrize("url", ["socks5://me:secret@p:1080", "https://p:3128", "http://", "http://p:x"])
def test_a_proxy_that_is_not_spoken_is_refused_aloud(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="the environment's HTTPS_PROXY is no proxy") as caught:
        Proxies.from_environment({"HTTPS_PROXY": url})
    assert "secret" not in str(caught.value)


def test_the_command_says_that_a_proxy_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setattr("agentlm_evals.models.pool.Pool.wait_well", _not_well)
    asked = ["eval", "gsm8k", "--own-samples", "--url", "https://judge.test", "-o", str(tmp_path / "run")]
    result = CliRunner().invoke(cli, asked)
    assert "https://judge.test is asked through the environment's proxy http://127.0.0.1:9" in result.output


async def _not_well(pool: Pool, seconds: float) -> None:
    del pool, seconds
    raise ModelError("not well")
