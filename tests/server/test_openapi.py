"""The server against its own document: whatever a body is, there is no 500, and each answer is of the schema of its status.

`AGENTLM_API_EXAMPLES=2000` looks longer, and each time elsewhere.
"""

import functools
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.small import make_small
from tests.server.bodies import WRONG, bodies, changed
from tests.server.described import KEY, Described, is_allowed
from tests.server.live import served

EXAMPLES = int(os.environ.get("AGENTLM_API_EXAMPLES", "0"))
ROUTES = [
    "/generate",
    "/generate_stream",
    "/",
    "/v1/chat/completions",
    "/v1/completions",
    "/invocations",
    "/vertex",
    "/tokenize",
    "/chat_tokenize",
    "/adapters",
    "/weights/reload",
    "/sleep",
]
LEAVING_HINTS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def examples(count):
    """So many examples, the same ones each time, unless more are asked for."""
    number, fixed = (EXAMPLES, False) if EXAMPLES else (count, True)
    return settings(
        max_examples=number,
        derandomize=fixed,
        database=None,
        deadline=None,
        suppress_health_check=LEAVING_HINTS,
    )


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    model = make_small(tmp_path_factory.mktemp("model"))
    limits = ("--max-total-tokens", 64, "--max-input-tokens", 48, "--max-concurrent-requests", 8)
    with served(
        "--model", model, "--backend", "mock", "--mock-step-time", 0, "--api-key", KEY, *limits
    ) as live:
        yield live


@pytest.fixture(scope="module")
def described(live):
    described = Described(live.port)
    yield described
    assert described.call("GET", "/health")[0] == 200
    described.connection.close()
    # The key is only for routes that cost something.
    live.wait_idle()


@functools.cache
def strategy(described, path):
    return bodies(described.request_schema(path))


def ask(described, path, body):
    """An answer that the document tells of; a sleeping engine is woken."""
    answer = described.post(path, body)
    described.check(path, "post", answer)
    if path == "/sleep":
        described.check("/wake", "post", described.post("/wake", {}))
    elif path == "/adapters" and answer[0] == 200:
        described.call("DELETE", "/adapters/" + "".join(f"%{byte:02x}" for byte in body["name"].encode()))
    return answer


def test_every_route_with_a_body_is_tried(described):
    found = {path for path, method, operation in described.operations() if "requestBody" in operation}
    assert found == {*ROUTES, "/wake"}


def test_answers_without_a_body_are_as_described(described):
    tried = 0
    for path, method, _ in described.operations():
        if method == "get":
            described.check(path, method, described.call("GET", path))
            tried += 1
    described.check("/adapters/{name}", "delete", described.call("DELETE", "/adapters/unknown"))
    assert tried >= 9


@pytest.mark.parametrize("path", ROUTES)
def test_what_is_allowed_is_answered_as_described(described, path):
    statuses = set()

    @examples(60)
    @given(body=strategy(described, path))
    def answered(body):
        status, _, text = ask(described, path, body)
        statuses.add(status)
        assert status < 500, text

    answered()
    assert 200 in statuses


@pytest.mark.parametrize("path", ROUTES)
def test_what_is_not_allowed_is_refused_as_described(described, path):
    schema = described.request_schema(path)
    refused = 0

    @examples(60)
    @given(body=strategy(described, path), where=st.integers(0, 99), what=WRONG)
    def refuse(body, where, what):
        nonlocal refused
        body = changed(body, where, what)
        status, media, text = ask(described, path, body)
        assert status < 500, text
        if not is_allowed(schema, body):
            refused += 1
            event = media.startswith("text/event-stream") and text.startswith('data: {"error"')
            assert status >= 400 or event, f"{body} is taken"

    refuse()
    assert refused > 10


@pytest.mark.parametrize("path", ROUTES)
def test_what_is_no_json_of_that_route_is_refused_as_described(described, path):
    @examples(10)
    @given(
        body=st.binary(max_size=40) | st.text().map(str.encode),
        media=st.sampled_from(["application/json", "text/plain"]),
    )
    def refuse(body, media):
        answer = described.call("POST", path, body, media)
        described.check(path, "post", answer)
        if path == "/sleep" and answer[0] == 200:
            described.check("/wake", "post", described.post("/wake", {}))
        assert answer[0] < 500, answer

    refuse()
