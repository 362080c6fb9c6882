"""A server of this machine that a benchmark starts: a port for it, and when it answers. Refuses to know what it serves."""

import http.client
import socket
import subprocess
import time

from bench.peers.engine import EngineBrokenError

POLL_SECONDS = 0.1


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def wait_until_ready(server: "subprocess.Popen[bytes]", port: int, seconds: float) -> None:
    """Returns once `/health` answers 200. Raises `EngineBrokenError` when the server ends, or is not ready in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if server.poll() is not None:
            raise EngineBrokenError(f"the server ended with {server.returncode} while starting")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(POLL_SECONDS)
    raise EngineBrokenError(f"the server was not ready after {seconds} s")
