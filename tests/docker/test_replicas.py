"""The load balancer of the replica example, in front of two live servers: both are used, and one may fail."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from tests.docker.linters import DOCKER
from tests.model.small import make_small
from tests.server.live import SECONDS, Live, events, free_port, served

CADDY = shutil.which("caddy")
pytestmark = pytest.mark.skipif(
    CADDY is None, reason="caddy is not installed: it is the load balancer of the example"
)


@pytest.fixture
def servers(tmp_path):
    model = make_small(tmp_path)
    arguments = ("--model", model, "--backend", "mock", "--mock-step-time", "0.005", "-g", "0")
    with served(*arguments) as one, served(*arguments) as other:
        yield one, other


@pytest.fixture
def balanced(servers):
    """The servers as one, as their clients see them."""
    port = free_port()
    variables = {
        "LISTEN": f"127.0.0.1:{port}",
        "SERVERS": " ".join(f"127.0.0.1:{live.port}" for live in servers),
    }
    command = [CADDY, "run", "--config", DOCKER / "Caddyfile", "--adapter", "caddyfile"]
    process = subprocess.Popen(command, env={**os.environ, **variables}, stderr=subprocess.DEVNULL)
    whole = Live.__new__(Live)
    whole.port = port
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                assert whole.call("GET", "/health")[0] == 200
                break
            except ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield whole
    finally:
        process.terminate()
        process.wait(SECONDS)


def test_requests_go_to_both(servers, balanced):
    streams = [balanced.stream("at once", max_new_tokens=40, ignore_eos=True) for _ in range(8)]
    for connection, response in streams:
        # `read` raises if the balancer cut the answer, which reading by lines would not tell.
        status, text = response.status, response.read().decode()
        connection.close()
        assert (status, text.count("data: ")) == (200, 40), text
    answered = [live.metric("tgi_request_success") for live in servers]
    assert sum(answered) == 8
    assert min(answered) >= 3


def test_a_stream_is_passed_on_as_it_comes(balanced):
    connection, response = balanced.stream("bit by bit", max_new_tokens=100, ignore_eos=True)
    began = time.monotonic()
    arrivals = [time.monotonic() - began for _ in events(response)]
    connection.close()
    assert arrivals[0] < arrivals[-1] / 4, "the first event does not wait for the last"


def test_a_client_that_leaves_ends_its_request(servers, balanced):
    # From 2.6.3 on, `flush_interval -1` would let the server go on: see the Caddyfile.
    connection, response = balanced.stream("and gone", max_new_tokens=3000, ignore_eos=True)
    assert next(events(response))["index"] == 1
    response.close()
    connection.close()
    for live in servers:
        live.wait_idle()
    assert sum(live.metric("agentlm_aborted") for live in servers) == 1


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_is_gone_is_not_missed(servers, balanced, end):
    servers[0].signal(end)
    servers[0].process.wait(SECONDS)
    # Old releases of the balancer cannot send a body a second time; what has none finds the other server at once, and from
    # then on everything does.
    for _ in range(10):
        assert balanced.call("GET", "/info")[0] == 200
    for _ in range(10):
        assert balanced.generate("still there", max_new_tokens=2)[0] == 200
    assert servers[1].metric("tgi_request_success") == 10
