"""A served process in its operator's hands: adapters of one batch, weights exchanged in place, sleep."""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.engine.adapters import write_adapter, write_merged
from tests.model.small import make_small
from tests.server.live import SECONDS, Live, events, served

KEY = "sesame"
PROMPT = "The quick brown fox jumps over the lazy dog, and then"
NAMES = ("one", "two")
TOKENS = 48
"""So many steps that requests sent at the same time meet in some."""


def asked(live: Live, method: str, path: str, body: object = None) -> tuple[int, dict]:
    return live.call(method, path, body, KEY)


def adapted(live: Live, adapter: str | None) -> str:
    parameters = {"max_new_tokens": TOKENS, "ignore_eos": True} | ({"adapter_id": adapter} if adapter else {})
    status, answer = asked(live, "POST", "/generate", {"inputs": PROMPT, "parameters": parameters})
    assert status == 200, answer
    return answer["generated_text"]


def completed(live: Live, model: str | None, prompt: str = PROMPT) -> dict:
    body = {"prompt": prompt, "model": model, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    status, answer = asked(live, "POST", "/v1/completions", body)
    assert status == 200, answer
    return answer


def predicted(live: Live, *adapters: str | None) -> list[str]:
    """By `/vertex`, which always samples: from one token."""
    parameters = {"max_new_tokens": TOKENS, "ignore_eos": True, "top_k": 1}
    instances = [
        {"inputs": PROMPT, "parameters": parameters | ({"adapter_id": adapter} if adapter else {})}
        for adapter in adapters
    ]
    status, answer = asked(live, "POST", "/vertex", {"instances": instances})
    assert status == 200, answer
    return answer["predictions"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def cpu(base, tmp_path_factory):
    """A server that computes; its adapters were loaded while it served."""
    folder = tmp_path_factory.mktemp("adapters")
    arguments = ("--threads", 1, "--max-total-tokens", 512, "--api-key", KEY)
    with served("--model", base, "--backend", "cpu", *arguments) as live:
        for seed, name in enumerate(NAMES, start=1):
            write_adapter(base, folder / name, seed)
            body = {"name": name, "path": str(folder / name)}
            assert asked(live, "POST", "/adapters", body) == (200, body)
        yield live


def test_adapters_of_one_batch_give_each_request_its_own_text(cpu):
    alone = {name: adapted(cpu, name) for name in (None, *NAMES)}
    assert len(set(alone.values())) == 3, "each adapter makes a difference"
    before = {name: cpu.metric(f"tgi_batch_next_size_{name}") for name in ("sum", "count")}
    chosen = [None, *NAMES] * 3
    with ThreadPoolExecutor(2 * len(chosen) + 1) as pool:
        whole = [pool.submit(adapted, cpu, name) for name in chosen]
        others = [pool.submit(completed, cpu, name) for name in chosen]
        predictions = pool.submit(predicted, cpu, None, *NAMES)
        assert [text.result() for text in whole] == [alone[name] for name in chosen]
        assert [one.result()["choices"][0]["text"] for one in others] == [alone[name] for name in chosen]
        assert predictions.result() == [alone[name] for name in (None, *NAMES)]
    after = {name: cpu.metric(f"tgi_batch_next_size_{name}") for name in ("sum", "count")}
    mean = (after["sum"] - before["sum"]) / (after["count"] - before["count"])
    assert mean > 2, "they were computed together"


def test_an_adapter_and_its_base_share_no_prefix(cpu):
    prompt = "Once upon a time, so long ago that nobody knows, a hen and a fox lived in one house."

    def cached(model: str | None) -> int:
        return completed(cpu, model, prompt)["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert [cached(name) for name in (None, *NAMES)] == [0, 0, 0]
    assert all(cached(name) > 0 for name in (None, *NAMES))


def test_exchanged_weights_answer_and_the_port_stays_open(cpu, base, tmp_path):
    other = write_merged(base, tmp_path / "other", write_adapter(base, tmp_path / "merged", 3))
    plain = adapted(cpu, None)
    seen, over = [], threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(cpu.call("GET", "/health")[0])

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        version = asked(cpu, "POST", "/weights/reload", {"path": str(other)})[1]["weight_version"]
        changed = adapted(cpu, None)
        status, answer = asked(cpu, "POST", "/weights/reload", {"path": str(tmp_path / "nowhere")})
        assert (status, "nowhere" in answer["error"]) == (422, True)
        assert adapted(cpu, None) == changed, "what cannot be loaded changes nothing"
        again = asked(cpu, "POST", "/weights/reload", {"path": str(base)})[1]
        assert again == {"weight_version": version + 1, "asleep": False}
        assert adapted(cpu, None) == plain != changed
        over.set()
        looking.result()
    assert set(seen) == {200}


def test_exchanged_weights_are_not_told_by_the_commit_of_the_first(base, tmp_path):
    snapshot = tmp_path / "snapshots" / ("0123456789" * 4)
    snapshot.parent.mkdir()
    snapshot.symlink_to(base)
    with served("--model", snapshot, "--backend", "mock", "--api-key", KEY) as live:
        assert live.call("GET", "/info")[1]["model_sha"] == snapshot.name
        asked(live, "POST", "/weights/reload")
        assert live.call("GET", "/info")[1]["model_sha"] is None


@pytest.fixture
def mock(base):
    arguments = ("--backend", "mock", "--mock-step-time", "0.01", "--api-key", KEY)
    with served("--model", base, *arguments) as live:
        yield live


@contextlib.contextmanager
def streaming(live: Live, tokens: int):
    """A stream's events, the first of which has come."""
    body = {"inputs": "go on", "parameters": {"max_new_tokens": tokens, "ignore_eos": True}}
    connection, response = live.send("POST", "/generate_stream", body, KEY)
    with contextlib.closing(connection):
        stream = events(response)
        next(stream)
        yield stream


def test_who_drains_waits_as_long_as_he_says_and_others_no_longer(mock):
    short = {"inputs": "new", "parameters": {"max_new_tokens": 1}}
    with streaming(mock, 3000) as stream, ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        drain = pool.submit(asked, mock, "POST", "/weights/reload", {"timeout": 1})
        time.sleep(0.3)
        # It comes while the engine drains, and is answered once that was given up.
        assert asked(mock, "POST", "/generate", short)[0] == 200
        waited = time.monotonic() - began
        status, answer = drain.result()
        assert (status, answer["error_type"]) == (504, "timeout")
        assert 0.9 < waited < SECONDS
        assert next(stream)["generated_text"] is None, "nobody was harmed"
    mock.wait_idle()
    assert asked(mock, "POST", "/weights/reload")[1] == {"weight_version": 1, "asleep": False}


def test_who_aborts_does_not_wait(mock):
    with streaming(mock, 3000) as stream:
        status, answer = asked(mock, "POST", "/weights/reload", {"mode": "abort"})
        assert (status, answer["weight_version"]) == (200, 1)
        *_, last = stream
    assert last["error"] == "Request failed during generation: the request was aborted by `reload_weights`"
    assert last["error_type"] == "generation"


def test_a_sleeping_server_keeps_requests_until_it_is_woken(mock):
    assert asked(mock, "POST", "/sleep")[1] == {"weight_version": 0, "asleep": True}
    short = {"inputs": "asleep", "parameters": {"max_new_tokens": 1}}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(asked, mock, "POST", "/generate", short)
        time.sleep(0.3)
        assert not waiting.done()
        assert mock.call("GET", "/health")[0] == 200
        assert asked(mock, "POST", "/wake")[1] == {"weight_version": 0, "asleep": False}
        assert waiting.result()[0] == 200
