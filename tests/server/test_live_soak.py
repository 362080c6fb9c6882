"""A server under a thousand careless clients: it still answers, no block is lost, memory stays flat."""

import contextlib
import random
import threading
from pathlib import Path

import pytest

from tests.model.small import make_small
from tests.server.live import Live, events, served

REQUESTS = 1000
CLIENTS = 8

BODIES = (
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"inputs": 5}',
    b'{"inputs": "x", "parameters": {"max_new_tokens": -1}}',
    b'{"inputs": "x", "parameters": {"temperature": -4}}',
    b'{"inputs": "x", "parameters": {"temperature": 1e400}}',
    b'{"inputs": "x", "parameters": {"top_p": 7, "seed": -1}}',
    b'{"inputs": "x", "parameters": {"stop": ["a", "b", "c", "d", "e", "f"]}}',
    b'{"inputs": "x", "parameters": {"best_of": 99999999}}',
    b'{"inputs": "x", "parameters": {"top_n_tokens": 4294967295}}',
    b'{"inputs": "x", "parameters": {"max_new_tokens": 4294967295}}',
    b'{"inputs": "' + b"word " * 20_000 + b'"}',
    b'{"inputs": "", "parameters": {}}',
)
"""What no server should take; each is answered with an error."""


def careless(live: Live, index: int) -> str:
    """One request of a random kind; returns what became of it."""
    draw = random.Random(index)
    kind = draw.choice(("whole", "stream", "leave", "leave", "absurd"))
    parameters = {
        "max_new_tokens": draw.randint(1, 20),
        "temperature": draw.choice([0.5, 1.0]),
        "seed": index,
    }
    prompt = draw.choice(["shared beginning, ", "other "]) * draw.randint(1, 8) + str(index)
    if kind == "absurd":
        route, body = draw.choice(["/generate", "/generate_stream"]), draw.choice(BODIES)
        status, answer = live.call("POST", route, body)
        # A stream tells what it refuses as its first event, as TGI's does.
        assert 400 <= status < 500 or (status == 200 and '"error"' in answer), (
            route,
            body[:80],
            status,
            answer,
        )
        return "refused"
    if kind == "whole":
        status, answer = live.generate(prompt, **parameters)
        assert status == 200, answer
        return "answered"
    connection, response = live.stream(
        prompt, **{**parameters, "max_new_tokens": 400 if kind == "leave" else 10}
    )
    with contextlib.closing(connection), contextlib.closing(response):
        assert response.status == 200
        for number, event in enumerate(events(response)):
            assert "error" not in event
            if kind == "leave" and number >= draw.randint(0, 5):
                return "left"
    return "answered"


@pytest.mark.slow
def test_a_thousand_careless_requests_leave_nothing_behind(tmp_path):
    model = make_small(tmp_path)
    arguments = ("--backend", "mock", "--mock-step-time", "0.001", "--max-total-tokens", "1024")
    with served("--model", model, *arguments) as live:
        blocks = live.usable_blocks()
        became: dict[str, int] = {}
        failures: list[BaseException] = []

        def client(indices: range) -> None:
            try:
                for index in indices:
                    fate = careless(live, index)
                    became[fate] = became.get(fate, 0) + 1
            except BaseException as error:
                failures.append(error)

        def run(first: int, last: int) -> None:
            clients = [
                threading.Thread(target=client, args=(range(first + start, last, CLIENTS),))
                for start in range(CLIENTS)
            ]
            for thread in clients:
                thread.start()
            for thread in clients:
                thread.join()

        run(0, REQUESTS // 4)
        live.wait_idle()
        measured = Path("/proc/self/statm").exists()
        warm = live.resident() if measured else 0
        run(REQUESTS // 4, REQUESTS)
        assert failures == []
        assert sorted(became) == ["answered", "left", "refused"]
        live.wait_idle()
        assert live.usable_blocks() == blocks
        assert live.metric('agentlm_blocks{state="limbo"}') == 0
        assert live.call("GET", "/health")[0] == 200
        assert live.generate("still there?", max_new_tokens=3)[0] == 200
        if measured:
            # Allocators keep some; a leak of whole requests (long prompts, queues) would be far more.
            assert live.resident() - warm < 48 << 20
