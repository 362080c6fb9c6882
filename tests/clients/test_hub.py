"""huggingface_hub's InferenceClient in its last three majors: whole, streaming, sync, async, and its typed errors."""

import json
import re

import pytest

from tests.clients.told import raised, trip, value

PROMPT = "A gentle hum"
STOPS = "`stop` supports up to 4 stop sequences. Given: 5"
CHAT = {
    "messages": [{"role": "user", "content": "Say something."}],
    "max_tokens": 8,
    "temperature": 0.7,
    "seed": 1,
}


@pytest.fixture(scope="module", params=["huggingface-hub-0", "huggingface-hub-1", "huggingface-hub-2"])
def told(request, talk):
    return talk(request.param, "hub.py")


@pytest.fixture(scope="module")
def generated(live):
    """What the server says to a plain client."""
    status, answer = live.generate(PROMPT, max_new_tokens=12, details=True)
    assert status == 200
    return answer


def test_text_is_the_servers(told, generated):
    text = generated["generated_text"]
    assert value(told, "text") == value(told, "text_on_generate") == value(told, "text_later") == text
    assert value(told, "text_with_prompt") == PROMPT + text, "the root returns the prompt too, as TGI's does"
    assert value(told, "many_at_once") == [text] * 8


def test_details_are_the_servers(told, generated):
    details, wanted = value(told, "text_details"), generated["details"]
    assert details["text"] == generated["generated_text"]
    assert details["tokens"] == [[token["id"], token["text"], token["special"]] for token in wanted["tokens"]]
    assert (details["finish"], details["count"]) == (wanted["finish_reason"], wanted["generated_tokens"])
    assert all(logprob <= 0 for logprob in details["logprobs"])
    assert all(top >= 2 for top in details["top"])
    assert details["seed"] is None, "nothing is drawn"


def test_prompt_tokens_have_log_probabilities(told):
    ids, logprobs = zip(*value(told, "text_details")["prefill"], strict=True)
    assert ids == (256, *PROMPT.encode())
    assert logprobs[0] is None
    assert all(logprob < 0 for logprob in logprobs[1:])


def test_a_stream_has_each_token_and_the_text_last(told, generated):
    events = value(told, "text_stream_details")
    assert events["tokens"] == value(told, "text_details")["tokens"]
    assert events["texts"] == [None] * (len(events["tokens"]) - 1) + [generated["generated_text"]]
    assert (events["count"], events["finish"]) == (
        len(events["tokens"]),
        generated["details"]["finish_reason"],
    )
    texts = [text for _, text, _ in events["tokens"]]
    assert value(told, "text_stream") == value(told, "text_stream_later") == texts


def test_a_seed_repeats_what_was_drawn(told):
    first, again, other = value(told, "text_seeded")
    assert first == again != other


def test_grammars_bind_the_text(told):
    assert re.fullmatch("(yes|no), [0-9]{2}", value(told, "text_regex"))
    trip(value(told, "text_json"))
    trip(value(told, "chat_schema"))


def test_a_chat_is_the_servers(told, live):
    status, answer = live.call("POST", "/v1/chat/completions", CHAT)
    assert status == 200
    [choice] = answer["choices"]
    content, finish = choice["message"]["content"], choice["finish_reason"]
    count = answer["usage"]["completion_tokens"]
    for case in ("chat", "chat_by_the_other_name", "chat_later"):
        assert value(told, case)[:3] == [content, finish, count]
    assert value(told, "chat_stream") == value(told, "chat_stream_later") == [content, finish, [count]]


def test_a_tool_is_called(told):
    kind, name, arguments, finish = value(told, "chat_tool")
    assert (kind, name, finish) == ("function", "travel", "tool_calls")
    trip(arguments if isinstance(arguments, str) else json.dumps(arguments))


@pytest.mark.parametrize("case", ["text_refused", "text_stream_refused", "text_refused_later"])
def test_a_refusal_is_a_validation_error(told, case):
    error = raised(told, case)
    assert error["raised"] == "ValidationError"
    assert STOPS in error["text"]


@pytest.mark.parametrize("case", ["chat_refused", "chat_stream_refused"])
def test_a_refused_chat_is_an_http_error_before_the_first_byte(told, case):
    error = raised(told, case)
    assert "HfHubHTTPError" in error["kinds"]
    assert error["status"] == 422
    assert "`max_tokens` must be strictly positive" in error["text"]


def test_a_key_and_a_place_are_needed(told):
    assert raised(told, "without_key")["status"] == 401
    assert isinstance(value(told, "with_key"), str)
    assert raised(told, "overloaded")["raised"] == "OverloadedError"


def test_the_endpoint_is_known_as_tgis(told):
    assert value(told, "endpoint") == [True, "text-generation-router", 2]
