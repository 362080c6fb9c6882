"""TGI's own client, the package text-generation: whole, streaming, sync, async, and its typed errors."""

import pytest

from tests.clients.told import raised, trip, value

PROMPT = "A gentle hum"
STOPS = "`stop` supports up to 4 stop sequences. Given: 5"


@pytest.fixture(scope="module")
def told(talk):
    return talk("text-generation", "native.py")


@pytest.fixture(scope="module")
def generated(live):
    status, answer = live.generate(PROMPT, max_new_tokens=12, details=True)
    assert status == 200
    return answer


def test_an_answer_is_the_servers(told, generated):
    answer, wanted = value(told, "text"), generated["details"]
    assert answer["text"] == generated["generated_text"]
    assert answer["tokens"] == [[token["id"], token["text"], token["special"]] for token in wanted["tokens"]]
    assert (answer["finish"], answer["count"]) == (wanted["finish_reason"], wanted["generated_tokens"])
    assert (answer["prefill"], answer["seed"]) == ([], None)
    assert value(told, "text_later") == answer
    assert value(told, "many_at_once") == [answer["text"]] * 8


def test_a_stream_is_the_same_bit_by_bit(told):
    answer, stream = value(told, "text"), value(told, "text_stream")
    assert stream["tokens"] == answer["tokens"]
    assert stream["texts"] == [None] * (answer["count"] - 1) + [answer["text"]]
    assert (stream["finish"], stream["count"]) == (answer["finish"], answer["count"])
    assert value(told, "text_stream_later") == stream


@pytest.mark.parametrize(("case", "kept"), [("text_prefill", None), ("text_truncated", 4)])
def test_prompt_tokens_have_log_probabilities(told, case, kept):
    ids, logprobs = zip(*value(told, case)["prefill"], strict=True)
    text = PROMPT.encode() if kept is None else PROMPT.encode()[-kept:]
    assert ids == (256, *text)
    assert logprobs[0] is None
    assert all(logprob < 0 for logprob in logprobs[1:])


def test_the_best_of_two_has_the_other_beside_it(told):
    text, others = value(told, "text_best_of")
    assert isinstance(text, str)
    assert others == 1


def test_a_grammar_binds_the_text(told):
    trip(value(told, "text_json"))


def test_a_chat_whose_unset_fields_are_null_is_answered(told):
    role, content, finish, count = value(told, "chat")
    assert (role, type(content)) == ("assistant", str)
    assert finish in ("stop", "length")
    assert 1 <= count <= 8
    assert value(told, "chat_later") == [role, content, finish, count]


def test_a_tool_named_by_a_bare_word_is_called(told):
    kind, name, arguments = value(told, "chat_tool")
    assert (kind, name) == ("function", "travel")
    trip(arguments)


@pytest.mark.parametrize("case", ["text_refused", "text_stream_refused", "text_refused_later"])
def test_a_refusal_is_a_validation_error(told, case):
    error = raised(told, case)
    assert error["raised"] == "ValidationError"
    assert STOPS in error["text"]


def test_a_refused_chat_is_a_validation_error(told):
    error = raised(told, "chat_refused")
    assert error["raised"] == "ValidationError"
    assert "`max_tokens` must be strictly positive" in error["text"]


def test_a_full_server_is_an_overloaded_error(told):
    assert value(told, "with_key") == 2
    assert raised(told, "overloaded")["raised"] == "OverloadedError"
