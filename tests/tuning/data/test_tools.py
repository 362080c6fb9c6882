"""Tools: the trainer gives a template what the server gives it, in words where the template knows no tools."""

import json
from itertools import groupby
from pathlib import Path

import pytest

from agentlm.errors import ChatTemplateError
from agentlm.tuning.data import formats, rows
from agentlm.tuning.data.formats.context import Context
from agentlm.tuning.data.rendering import Renderer
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
TEMPLATES = {"words": checkpoints.SOUND, "tools": checkpoints.CALLS}


@pytest.fixture(scope="module", params=TEMPLATES)
def served(request, tmp_path_factory):
    """A checkpoint with a template that knows no tools, or one that does, and its server."""
    model = checkpoints.checkpoint(tmp_path_factory.mktemp("checkpoint") / "model", TEMPLATES[request.param])
    live = Live("--model", model, "--backend", "mock").wait_ready()
    yield Renderer(model), live
    live.stop()


def prompt_of_server(live, whole, until):
    """Ids of what a client gets who sends the messages before `until` as OpenAI's clients do."""
    asked = [message.to_dict() for message in whole.messages[:until]]
    for message in asked:
        message.pop("loss", None)
        for each in message.get("tool_calls", ()):
            each["function"] = {**each["function"], "arguments": json.dumps(each["function"]["arguments"])}
    body = {"model": "m", "messages": asked}
    if whole.tools:
        body["tools"] = [dict(each) for each in whole.tools]
    status, reply = live.call("POST", "/chat_tokenize", body)
    assert status == 200, reply
    return [token["id"] for token in reply["tokenize_response"]]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_each_turn_is_trained_from_where_the_server_s_prompt_ends(served, name):
    renderer, live = served
    whole = CONVERSATIONS[name]
    rendered = renderer.render(whole)
    places = [index for index, message in enumerate(whole.messages) if message.trained]
    starts, at = [], 0
    for trained, group in groupby(rendered.trained):
        starts += [at] if trained else []
        at += len(list(group))
    assert len(starts) == len(places)
    for start, place in zip(starts, places, strict=True):
        assert rendered.ids[:start] == prompt_of_server(live, whole, place)
        assert renderer.prompt(whole, place) == rendered.ids[:start]
    last = whole.messages[-1]
    assert rendered.text.endswith(f"{last.content}<|end|>")


def test_calls_are_trained_and_results_are_not(served):
    renderer, _ = served
    rendered = renderer.render(CONVERSATIONS["calls of tools that are not offered"])
    trained = renderer.tokenizer.decode(
        [token for token, on in zip(rendered.ids, rendered.trained, strict=True) if on],
        skip_special_tokens=False,
    )
    assert trained.count("measure") == 2
    assert "größe" in trained
    assert "8 é" not in trained
    assert trained.count("<|end|>") == 3


def test_a_template_without_tools_is_given_words(served):
    renderer, _ = served
    messages, tools = renderer.template_input(CONVERSATIONS["the tools go to the system message"])
    roles = [message["role"] for message in messages]
    if tools is None:
        assert roles == ["system", "user", "assistant", "user", "assistant", "user", "assistant"]
        assert not any(message.get("tool_calls") for message in messages)
    else:
        assert [each["function"]["name"] for each in tools] == ["measure", "other"]
        assert roles == [
            message.role for message in CONVERSATIONS["the tools go to the system message"].messages
        ]


def test_loss_flags_stay(served):
    renderer, _ = served
    silent = Message("assistant", None, loss=False, tool_calls=(call(1, "f"),))
    row = conversation([TURNS[0], silent, Message("tool", "1", tool_call_id="call_1"), TURNS[-1]])
    rendered = renderer.render(row)
    trained = [token for token, on in zip(rendered.ids, rendered.trained, strict=True) if on]
    assert renderer.tokenizer.decode(trained, skip_special_tokens=False) == "Done.<|end|>"


def test_what_the_server_would_refuse_is_refused(served):
    renderer, _ = served
    with pytest.raises(ChatTemplateError, match=r"`tools\[0\].function.name` must be 1 to 64 letters"):
        renderer.render(conversation([TURNS[0], TURNS[-1]], tools=(tool("no name"),)))
