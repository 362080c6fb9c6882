"""`agentlm serve` as a process: routes, disconnects, ends by signal, failures, refusals to start."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.model.small import make_small
from tests.server.live import SECONDS, Live, events, free_port, served

LONG = {"max_new_tokens": 3000, "ignore_eos_token": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def mock(model):
    with served("--model", model, "--backend", "mock", "--mock-step-time", "0.002") as live:
        yield live


@pytest.fixture(scope="module")
def cpu(model):
    with served("--model", model, "--threads", "1", "--max-total-tokens", "512") as live:
        yield live


@pytest.mark.parametrize("server", ["mock", "cpu"])
def test_a_prompt_is_answered_whole_and_as_a_stream(server, request):
    live = request.getfixturevalue(server)
    status, answer = live.generate("tell me", max_new_tokens=12, details=True)
    assert status == 200
    tokens = [token["id"] for token in answer["details"]["tokens"]]
    assert answer["details"]["generated_tokens"] == len(tokens)
    connection, response = live.stream("tell me", max_new_tokens=12)
    with contextlib.closing(connection):
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        streamed = list(events(response))
    assert [event["token"]["id"] for event in streamed] == tokens
    assert [event["generated_text"] for event in streamed[:-1]] == [None] * (len(streamed) - 1)
    assert streamed[-1]["generated_text"] == answer["generated_text"]


@pytest.mark.parametrize("server", ["mock", "cpu"])
def test_a_chat_is_streamed_in_openai_form(server, request):
    live = request.getfixturevalue(server)
    body = {"model": "x", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "seed": 3}
    status, whole = live.call("POST", "/v1/chat/completions", body)
    assert status == 200
    connection, response = live.send("POST", "/v1/chat/completions", {**body, "stream": True})
    with contextlib.closing(connection):
        text = response.read().decode()
    assert text.rstrip().endswith("data: [DONE]")
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    assert said == whole["choices"][0]["message"]["content"]


def test_health_info_and_metrics_answer(mock, model):
    assert mock.call("GET", "/health")[0] == 200
    status, info = mock.call("GET", "/info")
    assert (status, info["model_id"]) == (200, str(model))
    mock.generate("count me", max_new_tokens=2)
    assert mock.metric("tgi_request_success") >= 1
    assert mock.metric("agentlm_tokens_generated") >= 2


def test_an_openai_client_is_told_its_own_names(mock):
    status, answer = mock.call("POST", "/v1/completions", {"prompt": "a", "max_tokens": 0})
    assert (status, answer["error"]["param"]) == (422, "max_tokens")
    assert answer["error"]["message"] == "Input validation error: `max_tokens` must be strictly positive"


def test_dialect_compute_type_and_commit_come_from_outside(model, tmp_path, monkeypatch):
    snapshot = tmp_path / "snapshots" / ("0123456789" * 4)
    snapshot.parent.mkdir()
    snapshot.symlink_to(model)
    monkeypatch.setenv("COMPUTE_TYPE", "1-small-cpu")
    arguments = ("--model", snapshot, "--revision", "main", "--backend", "mock", "--api-dialect", "tgi")
    with served(*arguments) as live:
        assert live.call("GET", "/info")[1]["model_sha"] == snapshot.name
        status, answer = live.call("POST", "/v1/completions", {"prompt": "a", "max_tokens": 0})
        error = "Input validation error: `max_new_tokens` must be strictly positive"
        assert (status, answer) == (422, {"error": error, "error_type": "validation"})
        connection, response = live.stream("hello", max_new_tokens=1)
        with contextlib.closing(connection):
            assert response.headers["x-compute-type"] == "1-small-cpu"


def test_a_branch_is_no_commit():
    from agentlm.cli.serve import _commit

    commit = "0123456789" * 4
    assert _commit(Path("/cache/snapshots") / commit, "main") == commit
    assert _commit(Path("/models/mine"), commit) == commit
    assert _commit(Path("/models/mine"), "main") is None
    assert _commit(Path("/models") / commit, None) is None


def test_a_disconnect_frees_the_request(mock):
    mock.wait_idle()
    blocks = mock.usable_blocks()
    connection, response = mock.stream("never mind", **LONG)
    next(events(response))
    assert mock.metric("agentlm_unfinished") == 1
    before = mock.metric("agentlm_aborted")
    response.close()
    connection.close()
    mock.wait_idle()
    assert mock.usable_blocks() == blocks
    assert mock.metric("agentlm_aborted") == before + 1
    assert mock.metric("agentlm_tokens_generated") < 3000


def test_a_killed_client_frees_its_request(mock):
    code = (
        "import json, sys; from http.client import HTTPConnection\n"
        "connection = HTTPConnection('127.0.0.1', int(sys.argv[1]))\n"
        "connection.request('POST', '/generate_stream', sys.argv[2], {'Content-Type': 'application/json'})\n"
        "connection.getresponse().readline(); print('streaming', flush=True); sys.stdin.read()\n"
    )
    body = json.dumps({"inputs": "killed", "parameters": LONG})
    command = [sys.executable, "-c", code, str(mock.port), body]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "streaming\n"
        assert mock.metric("agentlm_unfinished") == 1
        client.kill()
    mock.wait_idle()
    assert mock.generate("and on", max_new_tokens=1)[0] == 200


@pytest.fixture
def slow(model):
    with served("--model", model, "--backend", "mock", "--mock-step-time", "0.02") as live:
        yield live


def test_sigterm_lets_a_stream_finish_and_exits_with_0(slow):
    connection, response = slow.stream("finish me", max_new_tokens=40, ignore_eos_token=True)
    with contextlib.closing(connection):
        stream = events(response)
        first = next(stream)
        slow.signal(signal.SIGTERM)
        rest = list(stream)
    assert first["token"]["text"] is not None
    assert len(rest) == 39
    assert rest[-1]["generated_text"] is not None
    assert slow.wait_exit() == 0
    assert slow.lines[-1] == "SIGTERM: finishing what is in flight (again: exit at once)"
    with (
        pytest.raises(ConnectionRefusedError),
        contextlib.closing(socket.create_connection(("127.0.0.1", slow.port))),
    ):
        pass


def test_a_signal_while_the_port_opens_is_one_that_drains(model):
    code = (
        "import os, signal, sys, agentlm._engine as extension\n"
        "from agentlm.cli.serve import command\n"
        "class Early:\n"
        "    opened, check_address = extension.Server, extension.Server.check_address\n"
        "    check_tls = extension.Server.check_tls\n"
        "    def __new__(cls, *arguments, **settings):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        return cls.opened(*arguments, **settings)\n"
        "extension.Server = Early\n"
        "command(sys.argv[1:])\n"
    )
    arguments = ["--hostname", "127.0.0.1", "--port", "0", "--model", str(model), "--backend", "mock"]
    command = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines()[-1] == "SIGTERM: finishing what is in flight (again: exit at once)"


def test_a_second_signal_exits_at_once(slow):
    connection, response = slow.stream("cut me", **LONG)
    with contextlib.closing(connection):
        next(events(response))
        slow.signal(signal.SIGINT)
        deadline = time.monotonic() + SECONDS
        while not slow.lines[-1].startswith("SIGINT") and time.monotonic() < deadline:
            time.sleep(0.02)
        slow.signal(signal.SIGTERM)
        assert slow.wait_exit() == 128 + signal.SIGTERM


def test_the_grace_period_ends_what_goes_on(model):
    with served("--model", model, "--backend", "mock", "--mock-step-time", "0.02", "-g", "0.2") as live:
        connection, response = live.stream("too long", **LONG)
        with contextlib.closing(connection):
            next(events(response))
            live.signal(signal.SIGTERM)
            assert "error" in response.read().decode()
        assert live.wait_exit() == 0


def test_a_step_that_hangs_ends_every_request_and_the_process(model):
    arguments = ("--backend", "mock", "--mock-step-time", "5", "--step-timeout", "0.5")
    with served("--model", model, *arguments) as live:
        connections = [live.stream("hang", max_new_tokens=5) for _ in range(3)]
        whole = live.generate("hang", max_new_tokens=5)
        assert whole[0] in (424, 500, 503)
        assert "error" in whole[1]
        for connection, response in connections:
            with contextlib.closing(connection):
                assert "error" in response.read().decode()
        assert live.wait_exit() == 1
        [error] = [line for line in live.lines if line.startswith("error: ")]
        assert "a step has run for" in error
        assert live.lines[-1] == error


def test_a_broken_model_turns_health_off(model):
    from agentlm._engine import Server
    from agentlm.config import EngineConfig
    from agentlm.errors import ConfigError
    from agentlm.runtime import engine as runtime
    from agentlm.runtime.mock import MockStepRunner

    class Breaks(MockStepRunner):
        steps = 0

        def launch(self, slot: int) -> None:
            self.steps += 1
            if self.steps > 5:
                raise RuntimeError("a wire came loose")
            super().launch(slot)

    original, runtime.MockStepRunner = runtime.MockStepRunner, Breaks
    try:
        running = runtime.open_engine(EngineConfig(model=str(model), backend="mock"))
    finally:
        runtime.MockStepRunner = original
    live = Live.__new__(Live)
    settings = {
        "hostname": "127.0.0.1", "port": 0, "model_id": "m", "model_sha": None, "max_concurrent_requests": 8,
        "max_client_batch_size": 4, "payload_limit": 10_000, "api_keys": [], "cors_allow_origin": [],
        "validation_workers": 1, "http_workers": 1, "compute_type": "mock",
    }  # fmt: skip
    with running:
        with pytest.raises(ConfigError, match='must be "openai" or "tgi", but is "latin"'):
            Server(running.engine, running.tokenizer, None, **settings, api_dialect="latin")
        server = Server(running.engine, running.tokenizer, None, **settings)
        live.port = int(server.address.rpartition(":")[2])
        assert live.call("GET", "/health")[0] == 200
        connection, response = live.stream("break", max_new_tokens=50)
        with contextlib.closing(connection):
            told = list(events(response))
        assert len(told) == 6
        assert "a wire came loose" in told[-1]["error"]
        assert live.call("GET", "/health")[0] == 503
        assert live.generate("more", max_new_tokens=1)[0] in (424, 503)
        assert running.engine.health() == ("failed", "RuntimeError: a wire came loose")
        server.begin_shutdown(0)
        server.wait()


def test_a_panic_is_recorded_and_leaves_no_traceback():
    from agentlm.runtime.engine import _run_quietly

    class PanicException(BaseException):
        """As the extension's: not an `Exception`."""

    class Panics:
        def next_step(self) -> int:
            raise PanicException("left: 1\nright: 2")

        def fail(self, why: str) -> None:
            self.why = why

        def abandon(self) -> None:
            self.abandoned = True

    engine = Panics()
    _run_quietly(engine, None)
    assert (engine.why, engine.abandoned) == ("PanicException: left: 1\nright: 2", True)


def test_a_failure_is_one_line(monkeypatch, capsys):
    from agentlm.cli import serve

    class Server:
        def begin_shutdown(self, grace: float) -> None:
            self.grace = grace

    codes = []
    monkeypatch.setattr(serve, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", codes.append)
    serve._failed("PanicException: left: 1\n  right: 2\n", serve._say)
    assert codes == [1]
    assert capsys.readouterr().err == "error: PanicException: left: 1 right: 2\n"


@pytest.mark.parametrize("behind", ["a full disk", "nothing"])
def test_whatever_is_behind_standard_error_is_survived(model, behind):
    port = free_port()
    arguments = ["--port", port, "--model", model, "--backend", "mock"]
    if behind == "nothing":
        live = Live(*arguments, stderr=None, before=lambda: os.close(2))
    else:
        with open("/dev/full", "w") as full:  # noqa: PTH123 - a device, not a path of ours
            live = Live(*arguments, stderr=full)
    live.port = port
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                assert live.generate("hello", max_new_tokens=2)[0] == 200
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                assert live.process.poll() is None
                time.sleep(0.05)
        live.signal(signal.SIGTERM)
        assert live.process.wait(SECONDS) == 0
    finally:
        live.stop()


def refusal(*arguments: object) -> str:
    """What a server that does not start says on standard error."""
    live = Live("--port", 0, *arguments)
    try:
        assert live.wait_exit() not in (0, None)
    finally:
        live.stop()
    return "\n".join(live.lines)


def test_a_taken_port_is_one_clear_line(model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refusal("--model", model, "--backend", "mock", "--port", port)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(port) in errors[0]
    assert said == errors[0], "nothing was loaded for a server that cannot answer"


def test_a_missing_shard_is_one_clear_line(model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "model.safetensors").rename(broken / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    said = refusal("--model", broken)
    assert said.startswith("error: ")
    assert "model-00002-of-00002.safetensors" in said
    assert len(said.splitlines()) == 1


def test_a_template_that_cannot_be_read_is_one_clear_line(model, tmp_path):
    template = tmp_path / "bad.jinja"
    template.write_text("{% for message in %}")
    said = refusal("--model", model, "--backend", "mock", "--chat-template", template)
    assert said.startswith("error: ")
    assert "bad.jinja" in said
