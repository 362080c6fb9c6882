"""The mock backend under grammars: what is bound to a schema is a whole document of it, so that clients can be tested.

Also which names of models a server answers to.
"""

import contextlib
import json
import re

import pytest

from tests.model.small import make_small
from tests.server.live import events, served

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Where?"}]
PLACE = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2},
        "sizes": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        "kind": {"enum": ["town", "village"]},
        "note": {"type": "string"},
    },
    "required": ["city", "sizes", "kind"],
}
TOOL = {"type": "function", "function": {"name": "visit", "parameters": PLACE}}


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    model = make_small(tmp_path_factory.mktemp("cache"))
    with served("--model", model, "--backend", "mock", "--mock-step-time", "0", "--strict-model") as server:
        yield server


def fits(place):
    """Whether a value is one of `PLACE`."""
    sizes = place["sizes"]
    assert set(place) >= {"city", "sizes", "kind"}
    assert set(place) <= set(PLACE["properties"])
    assert len(place["city"]) >= 2
    assert len(sizes) >= 2
    assert all(isinstance(size, int) for size in sizes)
    return place["kind"] in ("town", "village")


def chat(live, **fields):
    status, answer = live.call("POST", CHAT, {"messages": MESSAGES, "max_tokens": 200, **fields})
    assert status == 200, answer
    return answer["choices"][0]


def test_a_chat_is_a_document_of_its_schema_and_always_the_same(live):
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}
    choice = chat(live, response_format=form)
    assert choice["finish_reason"] == "stop"
    assert fits(json.loads(choice["message"]["content"]))
    assert chat(live, response_format=form, seed=7, temperature=0.3)["message"] == choice["message"]
    body = {"messages": MESSAGES, "response_format": form, "stream": True}
    connection, response = live.send("POST", CHAT, body)
    with contextlib.closing(connection):
        deltas = [event["choices"][0]["delta"].get("content") or "" for event in events(response)]
    assert "".join(deltas) == choice["message"]["content"]


def test_any_object_and_other_grammars_are_followed_to_their_end(live):
    assert isinstance(
        json.loads(chat(live, response_format={"type": "json_object"})["message"]["content"]), dict
    )
    chosen = chat(live, guided_choice=["north", "south"])
    assert (chosen["message"]["content"] in ("north", "south"), chosen["finish_reason"]) == (True, "stop")
    status, answer = live.generate("code", grammar={"type": "regex", "value": "[a-f0-9]{4,40}"}, details=True)
    assert (status, answer["details"]["finish_reason"]) == (200, "eos_token")
    assert re.fullmatch("[a-f0-9]{4,40}", answer["generated_text"])


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "visit"}}])
def test_a_forced_call_has_arguments_of_its_schema(live, choice):
    answer = chat(live, tools=[TOOL], tool_choice=choice)
    assert answer["finish_reason"] == "tool_calls"
    for call in answer["message"]["tool_calls"]:
        assert call["function"]["name"] == "visit"
        assert fits(json.loads(call["function"]["arguments"]))


def test_a_text_without_a_grammar_is_as_long_as_it_may_be(live):
    status, answer = live.generate("on and on", max_new_tokens=150, details=True)
    assert status == 200
    assert answer["details"]["generated_tokens"] == 150
    assert answer["details"]["finish_reason"] == "length"


def test_a_strict_server_knows_its_own_names_only(live):
    body = {"prompt": "hi", "max_tokens": 1}
    served_name = live.call("GET", "/v1/models")[1]["data"][0]["id"]
    for name in (None, "tgi", "dummy", served_name):
        status, answer = live.call("POST", "/v1/completions", {**body, "model": name})
        assert (status, answer["model"]) == (200, served_name)
    status, answer = live.call("POST", "/v1/completions", {**body, "model": "gpt-4o"})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert answer["error"]["message"] == "The model `gpt-4o` does not exist"
