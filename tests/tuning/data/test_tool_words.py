"""Tools in words: a model is trained on the very prompt that `agentlm serve` will give it."""

import json
from pathlib import Path

import pytest

from agentlm.tuning.data import formats, rows
from agentlm.tuning.data.errors import RowError
from agentlm.tuning.data.formats.context import Context
from agentlm.tuning.data.rendering import Renderer
from agentlm.tuning.data.tool_words import in_words
from agentlm.tuning.record import Message
from tests.server.live import Live
from tests.tuning.data import checkpoints
from tests.tuning.data.conversations import conversation

SAMPLES = Path(__file__).parent / "samples"


def tool(name, **more):
    return {"type": "function", "function": {"name": name, **more}}


def call(number, name, **arguments):
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


SCHEMA = {"type": "object", "properties": {"größe": {"type": "number", "minimum": 0.5}}, "required": []}
TURNS = [
    Message("user", "Wie groß?"),
    Message("assistant", "I look.", tool_calls=(call(1, "measure", größe=1.5, unit="m"), call(2, "other"))),
    Message("tool", "7", tool_call_id="call_2"),
    Message("tool", "8 é", tool_call_id="call_1"),
    Message("user", "And now?"),
    Message("assistant", None, tool_calls=(call(3, "measure", deep={"a": [1, None, True]}),)),
    Message("tool", "9", tool_call_id="call_3"),
    Message("assistant", "Done."),
]
TOOLS = (tool("measure", parameters=SCHEMA, description="Measures \"it\"", strict=True), tool("other"))  # fmt: skip

CONVERSATIONS = {
    "calls, results in another order, a question after results": conversation(TURNS, tools=TOOLS),
    "the tools go to the system message": conversation([Message("system", "Be brief."), *TURNS], tools=TOOLS),
    "calls of tools that are not offered": conversation(TURNS),
    "tools without a call": conversation([TURNS[0], TURNS[-1]], tools=TOOLS[:1]),
    **{
        f"{path.name}:{row.line}": formats.convert(row.value, Context("s", "id"))[1]
        for path in (SAMPLES / "openai.jsonl", SAMPLES / "sharegpt.jsonl")
        for row in rows.read(path)
        if ("tools" in row.value or "functions" in row.value)
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoints.checkpoint(tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture(scope="module")
def server(model):
    live = Live("--model", model, "--backend", "mock").wait_ready()
    yield live
    live.stop()


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_words_are_the_servers(server, model, name):
    whole = CONVERSATIONS[name]
    asked = [message.to_dict() for message in whole.messages[:-1]]
    for message in asked:
        message.pop("loss", None)
        for each in message.get("tool_calls", ()):  # as a client writes them
            each["function"] = {**each["function"], "arguments": json.dumps(each["function"]["arguments"])}
    body = {"model": "m", "messages": asked}
    if whole.tools:
        body["tools"] = [dict(each) for each in whole.tools]
    status, reply = server.call("POST", "/chat_tokenize", body)
    assert status == 200, reply
    trained = Renderer(model).render(in_words(whole)).text
    prompt = reply["templated_text"]
    assert trained.startswith(prompt)
    assert trained == f"{prompt}{whole.messages[-1].content}<|end|>"


def test_nothing_of_tools_is_left():
    words = in_words(CONVERSATIONS["the tools go to the system message"])
    assert words.tools is None
    assert [message.role for message in words.messages] == [
        "system", "user", "assistant", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert not any(message.tool_calls for message in words.messages)


def test_loss_flags_stay():
    silent = Message("assistant", None, loss=False, tool_calls=(call(1, "f"),))
    words = in_words(conversation([TURNS[0], silent, Message("tool", "1", tool_call_id="call_1"), TURNS[-1]]))
    assert [message.trained for message in words.messages] == [False, False, False, True]


def test_a_tool_without_a_name_is_refused():
    with pytest.raises(RowError, match=r"tools\[0\] must have a function with a name"):
        in_words(conversation([TURNS[0]], tools=({"type": "function"},)))
