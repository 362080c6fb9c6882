"""The container's health check says what the server's /health says."""

import contextlib
import os
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.server.live import free_port

SCRIPT = Path(__file__).parents[2] / "docker" / "healthcheck.py"


@contextlib.contextmanager
def answering(status: int, certificate: tuple[Path, Path] | None = None):
    """The port of a server whose /health has this status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def check(port: int, **variables: str) -> tuple[int, str]:
    environment = {**os.environ, "PORT": str(port), "http_proxy": "http://127.0.0.1:9", **variables}
    ran = subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=30
    )
    return ran.returncode, ran.stderr


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_the_status_decides(status, code):
    with answering(status) as port:
        found, told = check(port)
    assert found == code
    assert (str(status) in told) == (code == 1)


def test_nobody_there_is_unwell():
    port = free_port()
    assert check(port)[0] == 1


def test_a_server_with_a_certificate_is_asked_by_tls(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=elsewhere",
    ]
    try:
        subprocess.run(
            [*command, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed: it makes the certificate")
    with answering(200, (certificate, key)) as port:
        assert check(port, SSL_CERTFILE=str(certificate)) == (0, "")
        assert check(port)[0] == 1
