"""`agentlm serve` as operators see it: HTTPS, log lines, the port for metrics alone, and what is refused at the start."""

import contextlib
import json
import os
import re
import resource
import shutil
import socket
import ssl
import subprocess
import time
from http.client import HTTPConnection, HTTPSConnection
from urllib.request import urlopen

import pytest

from tests.model.small import make_small
from tests.server.live import SECONDS, Live, events, free_port, served

MOCK = ("--backend", "mock", "--mock-step-time", "0.002")
REQUEST = {"inputs": "a secret", "parameters": {"max_new_tokens": 3}}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that nobody has signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    files = ["-nodes", "-out", made, "-keyout", key]
    subprocess.run([*command, *subject, *files], check=True, capture_output=True)
    return made, key


@pytest.fixture(scope="module")
def secure(model, certificate):
    made, key = certificate
    with served("--model", model, *MOCK, "--ssl-certfile", made, "--ssl-keyfile", key) as live:
        yield live


def https(live, certificate, path, body):
    connection = HTTPSConnection(
        "127.0.0.1", live.port, timeout=SECONDS, context=ssl.create_default_context(cafile=certificate[0])
    )
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    return connection, connection.getresponse()


def idle(live, certificate):
    """Waits until the server has nothing to do; `wait_idle` speaks no TLS."""
    context = ssl.create_default_context(cafile=certificate[0])
    deadline = time.monotonic() + SECONDS
    while True:
        with urlopen(f"https://127.0.0.1:{live.port}/metrics", timeout=SECONDS, context=context) as answer:
            metrics = answer.read().decode()
        if "\nagentlm_unfinished 0\n" in metrics:
            return metrics
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_answers_and_streams_come_by_https(secure, certificate):
    assert any("ready: https://" in line for line in secure.lines)
    connection, response = https(secure, certificate, "/generate", REQUEST)
    with contextlib.closing(connection):
        whole = json.loads(response.read())["generated_text"]
    connection, response = https(secure, certificate, "/generate_stream", REQUEST)
    with contextlib.closing(connection):
        assert connection.sock.version() in ("TLSv1.2", "TLSv1.3")
        streamed = list(events(response))
    assert len(streamed) == 3
    assert streamed[-1]["generated_text"] == whole


def test_nothing_passes_tls_by(secure, certificate):
    body = {"inputs": "a", "parameters": {"max_new_tokens": 50, "ignore_eos_token": True}}
    context = ssl.create_default_context(cafile=certificate[0])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    data = json.dumps(body).encode()
    head = f"POST /generate_stream HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    seen, said = b"", b""
    with socket.create_connection(("127.0.0.1", secure.port), timeout=SECONDS) as raw:
        sent = False
        while not said.endswith(b"0\r\n\r\n"):
            with contextlib.suppress(ssl.SSLWantReadError):
                if not sent:
                    session.do_handshake()
                    session.write(f"{head}\r\n\r\n".encode() + data)
                    sent = True
                said += session.read(65536)
                continue
            raw.sendall(outgoing.read())
            seen += (got := raw.recv(65536))
            assert got, said
            incoming.write(got)
    assert said.count(b"data: ") == 50
    assert b"data: " not in seen


def test_a_disconnect_under_tls_frees_the_request(secure, certificate):
    body = {"inputs": "never mind", "parameters": {"max_new_tokens": 3000, "ignore_eos": True}}
    for path in ("/generate_stream", "/generate"):
        before = re.search(r"\nagentlm_aborted (\d+)\n", idle(secure, certificate))
        context = ssl.create_default_context(cafile=certificate[0])
        connection = HTTPSConnection("127.0.0.1", secure.port, timeout=SECONDS, context=context)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        if path == "/generate_stream":
            connection.getresponse().readline()
        else:
            time.sleep(0.2)
        connection.close()
        # The engine counts it with its next step.
        deadline = time.monotonic() + SECONDS
        wanted = f"\nagentlm_aborted {int(before[1]) + 1}\n"
        while wanted not in idle(secure, certificate):
            assert time.monotonic() < deadline, path
            time.sleep(0.02)


def test_plain_http_on_the_https_port_is_cut_off(secure):
    with socket.create_connection(("127.0.0.1", secure.port), timeout=SECONDS) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while got := raw.recv(4096):
                answer += got
    assert b"HTTP" not in answer


def refusal(*arguments: object) -> str:
    live = Live("--port", 0, *arguments)
    try:
        assert live.wait_exit() not in (0, None)
    finally:
        live.stop()
    return "\n".join(live.lines)


@pytest.mark.parametrize("wrong", ["a missing file", "no certificate", "another key", "a key alone"])
def test_a_bad_certificate_is_one_clear_line(model, certificate, tmp_path, wrong):
    made, key = certificate
    if wrong == "a missing file":
        said = refusal("--model", model, *MOCK, "--ssl-certfile", tmp_path / "none.pem", "--ssl-keyfile", key)
        wanted = f"error: cannot read the certificate {tmp_path}/none.pem: No such file"
    elif wrong == "no certificate":
        said = refusal("--model", model, *MOCK, "--ssl-certfile", key)
        wanted = f"error: cannot read the certificate {key}: it holds no `BEGIN CERTIFICATE` section"
    elif wrong == "another key":
        other = tmp_path / "other.pem"
        command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        subprocess.run([*command, "-out", other], check=True, capture_output=True)
        said = refusal("--model", model, *MOCK, "--ssl-certfile", made, "--ssl-keyfile", other)
        wanted = f"error: the private key {other} does not belong to the certificate {made}"
    else:
        said = refusal("--model", model, *MOCK, "--ssl-keyfile", key)
        wanted = "error: `ssl_keyfile` is "
    assert said.startswith(wanted)
    assert len(said.splitlines()) == 1


def logged(*arguments, model, ask=None):
    """The lines of a server's requests, after one that is answered, one that is refused and a look at its health."""
    with served("--model", model, *MOCK, *arguments) as live:
        (ask or asked)(live)
        live.process.terminate()
        assert live.wait_exit() == 0
    return [line for line in live.lines if "ready: " not in line and "chat template" not in line]


def asked(live):
    connection, response = live.send("POST", "/generate", REQUEST)
    with contextlib.closing(connection):
        assert response.status == 200
        response.read()
    assert live.generate("a secret", temperature=-1)[0] == 422
    assert live.call("GET", "/health")[0] == 200


@pytest.mark.parametrize(
    ("level", "statuses"),
    [
        ("off", []),
        ("error", []),
        ("warn", [422]),
        ("info", [200, 422]),
        ("DEBUG,tokio=info", [200, 422, 200]),
    ],
)
def test_a_level_chooses_the_requests_that_are_logged(model, level, statuses):
    lines = [line for line in logged("--log-level", level, model=model) if " request " in line]
    assert [int(re.search(r" status=(\d+) ", line)[1]) for line in lines] == statuses
    assert not any("secret" in line for line in lines)


def test_a_line_says_who_asked_for_what_and_how_it_went(model):
    def ask(live):
        connection = HTTPConnection("127.0.0.1", live.port, timeout=SECONDS)
        names = {
            "Content-Type": "application/json",
            "X-Request-Id": "mine",
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        }
        connection.request("POST", "/generate_stream", json.dumps(REQUEST), names)
        with contextlib.closing(connection):
            response = connection.getresponse()
            assert response.headers["x-request-id"] == "mine"
            assert len(list(events(response))) == 3

    lines = [line for line in logged("--log-level", "info", model=model, ask=ask) if " request " in line]
    assert len(lines) == 1
    time_of = r"\d+\.\d{3}"
    assert re.fullmatch(
        r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO request method=POST path=/generate_stream status=200 id=mine "
        r"trace_id=4bf92f3577b34da6a3ce929d0e0e4736 prompt_tokens=\d+ generated_tokens=3 finish_reason=length "
        rf"queue_ms={time_of} inference_ms={time_of} total_ms={time_of}",
        lines[0],
    )


def test_json_lines_hold_the_same_and_prompts_only_on_request(model):
    arguments = ("--log-level", "info", "--json-output", "--log-prompts")
    lines = [json.loads(line) for line in logged(*arguments, model=model)]
    assert {"SIGTERM" in line["message"] for line in lines} == {True, False}
    assert all(list(line)[:3] == ["timestamp", "level", "message"] for line in lines)
    answered, refused = (line for line in lines if line["message"] == "request")
    assert (answered["level"], answered["path"], answered["status"]) == ("INFO", "/generate", 200)
    assert (answered["generated_tokens"], answered["finish_reason"]) == (3, "length")
    assert json.loads(answered["body"]) == REQUEST
    assert (refused["level"], refused["error"], refused["status"]) == ("WARN", "validation", 422)


@pytest.mark.parametrize(
    "behind", ["a full disk", "a pipe that nobody reads", "a pipe that is closed", "nothing"]
)
def test_a_log_that_cannot_be_written_holds_nobody_up(model, behind):
    port = free_port()
    arguments = [
        "--port",
        port,
        "--model",
        model,
        "--backend",
        "mock",
        "--mock-step-time",
        "0",
        "--log-prompts",
    ]
    arguments += ["--log-level", "debug"]
    reading, writing = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    stderr, before = {
        "a full disk": (full, None),
        "a pipe that nobody reads": (writing, None),
        "a pipe that is closed": (writing, None),
        "nothing": (None, lambda: os.close(2)),
    }[behind]
    live = Live(*arguments, stderr=stderr, before=before)
    os.close(writing)
    os.close(full)
    if behind == "a pipe that is closed":
        os.close(reading)
    live.port = port
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                live.call("GET", "/health")
                break
            assert time.monotonic() < deadline
            assert live.process.poll() is None
            time.sleep(0.05)
        # More than a pipe holds.
        for _ in range(20):
            assert live.generate("x" * 10_000, max_new_tokens=1, truncate=5)[0] == 200
        lost = live.metric("agentlm_log_lines_dropped")
        assert lost > 0 if behind in ("a full disk", "a pipe that is closed") else lost == 0
        live.process.terminate()
        assert live.process.wait(SECONDS) == 0
    finally:
        live.stop()
        if behind != "a pipe that is closed":
            os.close(reading)


def test_metrics_have_a_port_of_their_own(model):
    port = free_port()
    with served("--model", model, *MOCK, "--prometheus-port", port) as live:
        assert f"metrics alone: http://127.0.0.1:{port}/metrics" in live.lines
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS) as answer:
            assert b"# TYPE tgi_request_count counter\n" in answer.read()


def test_a_taken_port_for_metrics_is_said_and_survived(model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with served("--model", model, *MOCK, "--prometheus-port", port) as live:
            [said] = [line for line in live.lines if line.startswith("no port for metrics alone: ")]
            assert f"cannot listen on 127.0.0.1:{port}: " in said
            assert live.call("GET", "/health")[0] == 200


def test_a_client_that_does_not_read_is_cut_off(model):
    body = {
        "inputs": "never read",
        "parameters": {"max_new_tokens": 4000, "ignore_eos_token": True, "top_n_tokens": 5},
    }
    data = json.dumps(body).encode()
    head = f"POST /generate_stream HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    with (
        served(
            "--model", model, "--backend", "mock", "--mock-step-time", "0.001", "--write-timeout", "0.5"
        ) as live,
        socket.socket() as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", live.port))
        client.sendall(f"{head}\r\n\r\n".encode() + data)
        deadline = time.monotonic() + SECONDS
        while live.metric("agentlm_aborted") == 0:
            assert time.monotonic() < deadline
            assert live.metric('agentlm_finished{reason="length"}') == 0, "it ran to its end"
            time.sleep(0.05)
        live.wait_idle()


def test_a_log_level_of_no_meaning_is_refused(model):
    said = refusal("--model", model, *MOCK, "--log-level", "loud")
    assert "'loud' is not one of off, error, warn, info, debug, trace" in said


def test_connections_are_not_bounded_by_the_shells_soft_limit(model):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    arguments = ("--model", model, "--backend", "mock")
    live = Live(
        "--port", 0, *arguments, before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    )
    connections = []
    try:
        live.wait_ready()
        for _ in range(300):
            connection = HTTPConnection("127.0.0.1", live.port, timeout=SECONDS)
            connection.request("GET", "/health")
            assert connection.getresponse().read() == b""
            connections.append(connection)
    finally:
        for connection in connections:
            connection.close()
        live.stop()
