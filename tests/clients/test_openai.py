"""The package openai: chat and completions, whole, streaming, parsed, with tools, sync, async, and its typed errors."""

import json

import pytest

from tests.clients.told import raised, trip, value

PROMPT = "A gentle hum"
CHAT = {"messages": [{"role": "user", "content": "Say something."}], "max_tokens": 8, "seed": 1}


@pytest.fixture(scope="module")
def told(talk):
    return talk("openai", "openai_client.py")


@pytest.fixture(scope="module")
def content(live):
    """What the server says in the chat that the script asks for."""
    status, answer = live.call("POST", "/v1/chat/completions", CHAT)
    assert status == 200
    return answer["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def text(live):
    """What the server continues the prompt with."""
    status, answer = live.generate(PROMPT, max_new_tokens=12)
    assert status == 200
    return answer["generated_text"]


def test_the_model_is_listed(told, small_model):
    assert value(told, "models") == [str(small_model)]


def test_a_chat_is_the_servers(told, content):
    answer = value(told, "chat")
    assert (answer["text"], answer["role"], answer["object"]) == (content, "assistant", "chat.completion")
    assert answer["id"].startswith("chatcmpl-")
    prompt, completion, total = answer["usage"]
    assert prompt + completion == total
    for case in ("chat_as_openai_clients_ask", "chat_parts", "chat_later"):
        assert value(told, case)["text"] == content
    assert value(told, "many_at_once") == [content] * 8
    assert value(told, "chat_longer_name")["usage"][1] <= 5


def test_two_choices_are_two(told):
    (first, one), (second, other) = value(told, "chat_two")
    assert (first, second) == (0, 1)
    assert one != other


@pytest.mark.parametrize("case", ["chat_stream", "chat_stream_later"])
def test_a_stream_is_openais(told, content, case):
    stream, whole = value(told, case), value(told, "chat")
    assert stream["text"] == content
    assert stream["roles"] == ["assistant"]
    assert stream["finish"] == [whole["finish"]]
    assert stream["usage"] == [whole["usage"][1]]
    assert stream["ids"] == 1


def test_the_stream_helpers_put_it_together(told, content):
    assert value(told, "chat_stream_helper") == [content, content]
    assert value(told, "chat_stream_helper_later") == content


def test_log_probabilities_are_per_token(told):
    tokens = value(told, "chat_logprobs")
    assert len(tokens) == value(told, "chat")["usage"][1]
    for _, logprob, top in tokens:
        assert logprob <= 0
        assert len(top) >= 2
        assert [likely for _, likely in top] == sorted((likely for _, likely in top), reverse=True)
        assert logprob <= top[0][1]


def test_a_bias_makes_a_token_certain(told):
    answer = value(told, "chat_bias")
    assert (answer["text"], answer["finish"]) == ("A" * 8, "length")


def test_a_stop_string_is_cut(told):
    assert value(told, "chat_stop") == ["", "stop"]


def test_formats_bind_the_text(told):
    answer = value(told, "chat_object")
    assert answer["finish"] == "stop"
    assert isinstance(json.loads(answer["text"]), dict)
    kind, city = value(told, "chat_parsed")
    assert kind == "Trip"
    assert {city, value(told, "chat_parsed_later")} <= {"Oslo", "Rome"}


@pytest.mark.parametrize("case", ["chat_tool", "chat_tool_required"])
def test_a_tool_is_called(told, case):
    (kind, name, arguments, has_id), finish = value(told, case)
    assert (kind, name, has_id, finish) == ("function", "travel", True, "tool_calls")
    trip(arguments)


def test_a_tool_call_is_streamed_with_its_id_once(told):
    stream = value(told, "chat_tool_stream")
    [call] = stream["calls"]
    assert (len(call["ids"]), call["names"], stream["finish"]) == (1, ["travel"], "tool_calls")
    trip(call["arguments"])


def test_the_helper_parses_a_tool_call(told):
    (kind, name, arguments, has_id), city = value(told, "chat_tool_helper")
    assert (kind, name, has_id) == ("function", "travel", True)
    assert trip(arguments) == city


def test_tools_may_be_left_alone_and_answered(told):
    assert isinstance(value(told, "chat_tool_none")["text"], str)
    assert isinstance(value(told, "chat_tool_answered")["text"], str)


def test_a_completion_is_the_servers(told, text):
    assert value(told, "completion")[0] == value(told, "completion_later") == text
    assert value(told, "completion_ids") == text, "ids with the tokenizer's own first one are the text"
    streamed, ends, usage = value(told, "completion_stream")
    assert (streamed, len(ends), len(usage)) == (text, 1, 1)
    assert ends[0] == value(told, "completion")[1]


def test_several_prompts_have_their_choices_in_order(told):
    choices = value(told, "completion_several")
    assert [index for index, _ in choices] == [0, 1, 2, 3]
    assert choices[0][1] == choices[1][1] != choices[2][1] == choices[3][1], (
        "greedy: two of each prompt are the same"
    )


def test_an_echo_has_the_prompts_log_probabilities(told, text):
    echo = value(told, "completion_echo")
    prompt, completion = echo["usage"]
    assert echo["text"].startswith(PROMPT)
    assert (PROMPT + text).startswith(echo["text"])
    assert prompt == 1 + len(PROMPT)
    assert echo["tokens"] == len(echo["logprobs"]) == len(echo["top"]) == prompt + completion
    assert (echo["logprobs"][0], echo["top"][0]) == (None, None)
    assert all(logprob <= 0 for logprob in echo["logprobs"][1:])
    assert all(top >= 1 for top in echo["top"][1:])


def test_a_stream_may_be_left_early(told, content, live):
    assert value(told, "a_stream_left_early") == content
    live.wait_idle()


@pytest.mark.parametrize(
    ("case", "kind", "status", "param", "told_text"),
    [
        ("refused", "UnprocessableEntityError", 422, "top_p", "`top_p` must be >= 0.0 and <= 1.0"),
        ("refused_later", "UnprocessableEntityError", 422, "top_p", "`top_p` must be >= 0.0 and <= 1.0"),
        (
            "refused_stream",
            "UnprocessableEntityError",
            422,
            "max_tokens",
            "`max_tokens` must be strictly positive",
        ),
        ("refused_schema", "UnprocessableEntityError", 422, "response_format", "grammar is not valid: "),
        ("too_long", "UnprocessableEntityError", 422, "prompt", "must be <= 512"),
        ("without_key", "AuthenticationError", 401, None, "a valid API key is needed"),
        ("overloaded", "RateLimitError", 429, None, "Model is overloaded"),
    ],
)
def test_errors_have_their_classes_and_say_why(told, case, kind, status, param, told_text):
    error = raised(told, case)
    assert (error["raised"], error["status_code"], error["param"]) == (kind, status, param)
    assert told_text in error["text"]


def test_a_full_server_says_when_to_come_again(told):
    assert int(raised(told, "overloaded")["headers"]["retry-after"]) >= 1
    assert value(told, "with_key")["role"] == "assistant"


def test_a_route_that_is_not_there_is_not_found(told):
    assert raised(told, "no_such_route")["raised"] == "NotFoundError"
