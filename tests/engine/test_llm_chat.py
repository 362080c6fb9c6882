"""`LLM.chat`: rendering, a template of one's own, and what is told of messages that are none."""

import datetime
import json

import pytest

from agentlm import LLM, SamplingParams
from agentlm.errors import ChatTemplateError, InvalidMessageError, InvalidRequestError, NoChatTemplateError
from tests.model import families
from tests.model.small import make_small

HELLO = {"role": "user", "content": "hello"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def mock(model):
    with LLM(model, backend="mock", mock_step_time=0.001, progress=False) as llm:
        yield llm


def test_chat_generates_for_what_the_template_renders(mock):
    ids = mock.render_chat([HELLO])
    assert "hello" in mock.detokenize(ids)
    params = SamplingParams(max_new_tokens=5)
    [direct] = mock.generate([ids], params)
    assert mock.chat([HELLO], params)[0].token_ids == direct.token_ids
    assert [one.token_ids for one in mock.chat([[HELLO]] * 3, params)] == [direct.token_ids] * 3


def test_every_value_that_json_holds_reaches_the_template(model, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text(
        "{{ messages[0].content }}|{{ messages[0].extra.list[1] }}|{{ messages[1].extra is none }}"
    )
    messages = [
        {"role": "user", "content": 'Grüße, 東京 🙂 "', "extra": {"list": [1, 2.5]}},
        {"role": "x", "content": "", "extra": None},
    ]
    with LLM(model, backend="mock", progress=False, chat_template=file) as llm:
        assert llm.detokenize(llm.render_chat(messages)).lower() == 'grüße, 東京 🙂 "|2.5|true'
        assert llm.render_chat(tuple(messages)) == llm.render_chat(messages)


def test_messages_are_read_as_the_server_reads_them(model, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages | tojson }}{% if tools %}{{ tools }}{% endif %}")
    call = {"id": "call-0001", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
    messages = [
        {
            "role": "user",
            "name": None,
            "content": ({"type": "text", "text": "a"}, {"type": "text", "text": "b"}),
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    with LLM(model, backend="mock", progress=False, chat_template=file) as llm:
        shown = llm.detokenize(llm.render_chat(messages))
    first, second = json.loads(shown)
    assert first == {"role": "user", "content": "ab"}
    assert second["tool_calls"][0]["function"]["arguments"] == {"x": 1}


def test_text_parts_are_the_text_that_they_hold(mock):
    parts = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "ello"}]}]
    assert mock.render_chat(parts) == mock.render_chat([HELLO])


def test_a_model_without_a_template_says_so_when_it_is_needed(model, tmp_path):
    with LLM(families.without_chat_template(model, tmp_path / "bare"), backend="mock", progress=False) as llm:
        assert len(llm.generate("a prompt", SamplingParams(max_new_tokens=2))) == 1
        for messages in ([HELLO], [[HELLO], [HELLO]]):
            with pytest.raises(
                NoChatTemplateError, match=f"^{tmp_path / 'bare'}: the checkpoint has no chat template"
            ):
                llm.chat(messages)


@pytest.mark.parametrize(
    ("file", "template", "told"),
    [
        ("tokenizer_config.json", 5, "gives chat_template = 5; text is needed"),
        ("tokenizer_config.json", [{"name": "default"}], "gives chat_template = .*`name` and `template`"),
        ("tokenizer_config.json", ["x"], "gives chat_template = "),
        ("tokenizer_config.json", {"default": 5}, "gives chat_template = "),
        ("chat_template.json", True, "gives chat_template = True"),
        ("chat_template.jinja", None, "is no file"),
    ],
)
def test_a_template_that_can_be_none_is_not_called_missing(model, tmp_path, file, template, told):
    directory = families.without_chat_template(model, tmp_path / "odd")
    if template is None:
        (directory / file).mkdir()
    else:
        (directory / file).write_text(json.dumps({"chat_template": template}))
    with (
        LLM(directory, backend="mock", progress=False) as llm,
        pytest.raises(NoChatTemplateError, match=f"^{directory / file} {told}"),
    ):
        llm.chat([HELLO])


@pytest.mark.parametrize("template", ["mine", [{"name": "default", "template": "mine"}], {"default": "mine"}])
def test_a_template_may_be_text_or_several_by_name(model, tmp_path, template):
    directory = families.without_chat_template(model, tmp_path / "odd")
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": None}))
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    with LLM(directory, backend="mock", progress=False) as llm:
        assert llm.detokenize(llm.render_chat([HELLO])) == "mine"


def test_a_template_that_refuses_names_the_conversation(mock):
    pirate = {"role": "pirate", "content": "Arr"}
    with pytest.raises(ChatTemplateError, match=r"^The roles are") as told:
        mock.chat([pirate])
    assert not isinstance(told.value, NoChatTemplateError)
    with pytest.raises(ChatTemplateError, match=r"^conversation 1: The roles are"):
        mock.chat([[HELLO], [pirate]])


def itself() -> list:
    """A list that holds itself."""
    looped: list = []
    looped.append(looped)
    return looped


def deep(levels: int) -> list:
    """Lists in lists."""
    nested: list = []
    for _ in range(levels):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("Hi", ["a chat must be a list of messages", "'Hi'"]),
        (b"Hi", ["a chat must be a list of messages", "b'Hi'"]),
        (HELLO, ["a chat must be a list of messages", "hello"]),
        (5, ["a chat must be a list of messages", "5"]),
        (None, ["a chat must be a list of messages", "None"]),
        ([5], ["conversation 0 must be a list of messages", "5"]),
        (["Hi"], ["conversation 0 must be a list of messages", "'Hi'"]),
        ([[HELLO], HELLO], ["conversation 1 must be a list of messages", "hello"]),
        ([HELLO, "Hi"], ["message 1: a message must be a mapping", "'Hi'"]),
        ([[HELLO], ["Hi"]], ["conversation 1: message 0: a message must be a mapping", "'Hi'"]),
        ([HELLO, {5: "x"}], ["message 1: keys must be text", "5"]),
        ([{"role": "user", "content": {1, 2}}], ["message 0: 'content' must be what JSON can hold", "set"]),
        ([HELLO, {"role": "user", "at": datetime.date(2024, 5, 1)}], ["message 1: 'at'", "text", "date"]),
        ([{"content": float("nan")}], ["message 0: 'content'", "finite numbers", "float"]),
        ([{"content": "half \ud83d"}], ["message 0: 'content'", "text", "surrogates"]),
        ([{"half \ud83d": "x"}], ["message 0: 'half \\ud83d'", "surrogates"]),
        ([{"content": itself()}], ["message 0: 'content'", "list"]),
        ([{"content": deep(100_000)}], ["message 0: 'content'", "list"]),
        ([{"content": "x"}], ["message 0: 'role' must be text", "None"]),
        ([HELLO, {"role": 5, "content": "x"}], ["message 1: 'role' must be text", "5"]),
        ([HELLO | {"name": 5}], ["message 0: 'name' must be text", "5"]),
        ([HELLO | {"tool_call_id": 5}], ["message 0: 'tool_call_id' must be text", "5"]),
        ([HELLO | {"content": 5}], ["message 0: 'content' must be text", "text parts", "5"]),
        ([HELLO | {"content": ["Hi"]}], ["message 0: 'content' must be text", "text parts", "'Hi'"]),
        ([HELLO | {"content": [{"text": "Hi"}]}], ["message 0: 'content' must be text", "text parts"]),
        ([{"role": "user"}], ["`messages[0]` must have `content`: a string or a list of text parts"]),
        ([{"role": "user", "content": None}], ["`messages[0]` must have `content`"]),
        (
            [HELLO | {"content": [{"type": "text"}]}],
            ["`messages[0].content`: a part of type `text` must have"],
        ),
        (
            [HELLO, HELLO | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            ["`messages[1].content`: a part of type `image_url` is not supported"],
        ),
        ([HELLO | {"tool_calls": "x"}], ["`messages[0].tool_calls` must be a list"]),
        ([[HELLO], [{"role": "user"}]], ["conversation 1: `messages[0]` must have `content`"]),
        ([[HELLO], [HELLO, {"content": object()}]], ["conversation 1: message 1: 'content'", "object"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else None,
)
def test_what_is_no_message_is_told_with_its_place(mock, given, named):
    with pytest.raises(InvalidMessageError) as caught:
        mock.chat(given)
    assert isinstance(caught.value, InvalidRequestError)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, TypeError)
    for word in named:
        assert word in str(caught.value)


@pytest.mark.parametrize("given", [5, "Hi", HELLO])
def test_a_conversation_to_render_must_be_a_list(mock, given):
    with pytest.raises(InvalidMessageError, match="a conversation must be a list of messages"):
        mock.render_chat(given)


def test_a_chat_template_can_be_given(model, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("mine: {{ messages[0].content }}")
    with LLM(model, backend="mock", progress=False, chat_template=file) as llm:
        assert llm.detokenize(llm.render_chat([HELLO])).strip() == "mine: hello"


@pytest.mark.parametrize("given", ["nowhere.jinja", "{{ messages }}" * 1000, "null\0byte"])
def test_a_template_that_is_not_there_is_told_before_anything_is_loaded(model, monkeypatch, given):
    monkeypatch.setattr("agentlm.llm.open_engine", lambda *_: pytest.fail("loaded all the same"))
    with pytest.raises(NoChatTemplateError, match="`chat_template` must be a file") as told:
        LLM(model, backend="mock", progress=False, chat_template=given)
    assert len(str(told.value)) < 200


@pytest.mark.parametrize("text", ["{% if %}", None])
def test_a_template_that_cannot_be_used_is_told_when_the_engine_opens(model, tmp_path, monkeypatch, text):
    from agentlm.runtime.engine import open_engine

    file = tmp_path / "mine.jinja"
    if text is None:
        file.mkdir()
    else:
        file.write_text(text)
    opened = []
    monkeypatch.setattr(
        "agentlm.llm.open_engine", lambda *arguments: opened.append(open_engine(*arguments)) or opened[-1]
    )
    with pytest.raises(NoChatTemplateError, match=str(file)):
        LLM(model, backend="mock", progress=False, chat_template=file)
    # The engine that was opened for it is closed again.
    assert opened[0].engine.health()[0] == "closed"
