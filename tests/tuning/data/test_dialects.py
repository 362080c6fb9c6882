"""Dialects of the formats: what a row becomes; and for each refusal of a row, a nearly equal one that passes."""

import pytest

from agentlm.tuning.data import formats
from agentlm.tuning.data.errors import RowError
from agentlm.tuning.data.formats.context import Context

CONTEXT = Context("s", "s-1")
HI = {"from": "human", "value": "Hi"}
HELLO = {"from": "gpt", "value": "Hello"}
CALL = {"name": "add", "arguments": {"a": 1}}


def read(row, name=None, context=CONTEXT):
    """The format that a row was read in, and its record."""
    found, made = formats.convert(row, context, formats.named(name) if name else None)
    return found.name, made


def said(row, **more):
    return [(message.role, message.content) for message in read(row, **more)[1].messages]


def chat(*turns, **fields):
    return {"id": "x", "conversations": list(turns), **fields}


def openai(*messages, **fields):
    return {"messages": list(messages), **fields}


USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
BOTH = [("user", "Hi"), ("assistant", "Hello")]


@pytest.mark.parametrize(
    "row",
    [
        chat(HI, HELLO),
        {"conversation": [HI, HELLO]},
        {"items": [HI, HELLO], "condition": "GPT4", "system": ""},
        {
            "conversations": [
                {"role": "user", "content": "Hi", "weight": 0.0},
                {"role": "assistant", "content": "Hello", "weight": 1.0},
            ]
        },
        chat(
            {"from": "Human ", "value": "Hi", "markdown": None},
            {"from": "ChatGPT", "value": "Hello", "markdown": None},
        ),
        {"conversation": [{"input": "Hi", "output": "Hello"}], "source": "capybara"},
        {"conversation": [{"system": None, "input": "Hi", "output": "Hello", "need_eos_token": True}]},
        {
            "conversation_hash": "h",
            "model": "gpt-4",
            "language": "English",
            "conversation": [
                {
                    "role": "user",
                    "content": "Hi",
                    "country": "France",
                    "hashed_ip": "1",
                    "redacted": False,
                    "toxic": False,
                },
                {
                    "role": "assistant",
                    "content": "Hello",
                    "timestamp": "t",
                    "turn_identifier": 7,
                    "redacted": False,
                },
            ],
        },
        {"conversations": '[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]'},
    ],
    ids=[
        "conversations",
        "conversation",
        "items of OpenChat",
        "weights of SlimOrca",
        "speakers written otherwise",
        "pairs of Capybara",
        "pairs of XTuner",
        "what WildChat tells of a turn",
        "turns as JSON text",
    ],
)
def test_dialects_of_sharegpt_become_the_same_chat(row):
    name, made = read(row)
    assert (name, [(message.role, message.content) for message in made.messages]) == ("sharegpt", BOTH)
    assert made.messages[1].trained


def test_pairs_keep_their_system_prompt_and_their_loss():
    pairs = [
        {"system": "Be brief.", "input": "a", "output": "b", "output_with_loss": False},
        {"input": "c", "output": "d"},
    ]
    _, made = read({"conversation": pairs})
    assert [(message.role, message.content) for message in made.messages] == [
        ("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"),
    ]  # fmt: skip
    assert [message.trained for message in made.messages] == [False, False, False, False, True]


@pytest.mark.parametrize(
    "row",
    [
        chat(HI, HELLO, task="maze", item="7"),
        openai(USER, ANSWER, task="maze", item="7"),
        {"instruction": "Hi", "output": "Hello", "task": "maze", "item": "7"},
    ],
)
def test_a_row_that_says_its_task_and_item_keeps_them(row):
    _, made = read(row, context=Context("s", "s-1", task="other"))
    assert (made.task, made.item) == ("maze", "7")
    row = {key: value for key, value in row.items() if key != "task"}
    assert read(row, context=Context("s", "s-1", task="other"))[1].task == "other"


def test_rows_of_others_with_a_records_keys_are_theirs():
    row = {"id": "1", "source": "tulu", "messages": [USER, ANSWER]}
    assert (read(row)[0], read(row)[1].source) == ("agentlm", "tulu")
    name, made = read({**row, "dataset": "x", "num_turns": 2})
    assert (name, made.source, [(message.role, message.content) for message in made.messages]) == (
        "openai",
        "s",
        BOTH,
    )


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (chat(HI, HELLO, id="a"), "a"),
        (chat(HI, HELLO, id=7), "7"),
        ({"conversation_id": "b", "conversation": [HI, HELLO]}, "b"),
        ({"conversation_hash": "c", "conversation": [HI, HELLO]}, "c"),
        ({"idx": 4, "conversations": [HI, HELLO]}, "4"),
        (chat(HI, HELLO, id=None), "s-1"),
    ],
)
def test_ids_have_many_names(row, name):
    assert read(row)[1].id == name


def test_only_a_trajectory_is_split_at_its_observations():
    report = "Hypothesis: it turns blue.\nObservation: it turned green.\nConclusion: it does not."
    assert said({"instruction": "Report.", "output": report}) == [("user", "Report."), ("assistant", report)]
    assert said({"instruction": "Report.", "output": report.partition("\n")[2]})[1][1].startswith(
        "Observation: it"
    )
    react = "Action: look\nObservation: green\nFinal Answer: green"
    assert said({"instruction": "Colour?", "output": react}) == [
        ("user", "Colour?"),
        ("assistant", "Action: look"),
        ("user", "Observation: green"),
        ("assistant", "Final Answer: green"),
    ]


STEP = {"class_": "text_observation", "source": "user", "content": "Hi"}
SAY = {"class_": "message_action", "content": "Hello"}
PAIR = {"state": "You are here.", "action": "look"}
GO = {"state_action_pairs": [PAIR], "task_description": "go"}


def adp(*parts):
    return {"content": list(parts)}


def ask(**fields):
    return {"instruction": "a", "output": "b", **fields}


REFUSED = {
    "an unknown speaker": (
        "unknown speaker 'narrator'",
        chat(HI, {"from": "narrator", "value": "x"}),
        chat(HI, {"from": "bard", "value": "x"}),
    ),
    "a turn that is no text": (
        "conversations[1] must be text; it is 3",
        chat(HI, {"from": "gpt", "value": 3}),
        chat(HI, HELLO),
    ),
    "a turn without text": (
        "conversations[1] must be text; it is None",
        chat(HI, {"from": "gpt"}),
        chat(HI, HELLO),
    ),
    "a turn that is no object": ("conversations[0] must be an object", chat("Hi"), chat(HI, HELLO)),
    "a turn with a key that may hold text": (
        "conversations[1]: unknown key 'image'",
        chat(HI, {**HELLO, "image": "a.png"}),
        chat(HI, {**HELLO, "image": None}),
    ),
    "a pair with such a key": (
        "conversation[0]: unknown key 'image' beside input and output",
        {"conversation": [{"input": "Hi", "output": "Hello", "image": "a.png"}]},
        {"conversation": [{"input": "Hi", "output": "Hello", "image": None}]},
    ),
    "no turns": ("conversations is empty", chat(), chat(HI, HELLO)),
    "turns that are no list": (
        "must be a list of turns",
        {"conversations": '{"a": 1}'},
        {"conversations": '[{"from": "human", "value": "a"}]'},
    ),
    "a loss that is no flag": (
        "conversations[1]: loss must be true, false or null; it is 1",
        chat(HI, {**HELLO, "loss": 1}),
        chat(HI, {**HELLO, "loss": True}),
    ),
    "a loss on what the model does not write": (
        "conversations[0]: loss is true on a turn of the user",
        chat({**HI, "loss": True}, HELLO),
        chat({**HI, "loss": False}, HELLO),
    ),
    "a weight between 0 and 1": (
        "messages[1]: weight must be 0 or 1; it is 0.5",
        openai(USER, {**ANSWER, "weight": 0.5}),
        openai(USER, {**ANSWER, "weight": 1.0}),
    ),
    "a call that is no JSON": (
        "conversations[1] is text, but no JSON",
        chat(HI, {"from": "function_call", "value": "add(1)"}),
        chat(HI, {"from": "function_call", "value": '{"name": "add", "arguments": {}}'}),
    ),
    "a call without a name": (
        "messages[1]: tool_calls must be a call",
        openai(USER, {"role": "assistant", "tool_calls": [{"id": "c", "function": {"arguments": "{}"}}]}),
        openai(USER, {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "add"}}]}),
    ),
    "a call whose arguments are no object": (
        "arguments must be an object; they are [1]",
        openai(USER, {"role": "assistant", "tool_calls": [{"function": {**CALL, "arguments": "[1]"}}]}),
        openai(USER, {"role": "assistant", "tool_calls": [{"function": {**CALL, "arguments": '{"a": 1}'}}]}),
    ),
    "no call where one was announced": (
        "conversations[1] holds no call",
        chat(HI, {"from": "function_call", "value": "[]"}),
        chat(HI, {"from": "function_call", "value": '[{"name": "add"}]'}),
    ),
    "a tool without a name": (
        "tools[0] must be a function with a name",
        chat(HI, HELLO, tools=[{"description": "adds"}]),
        chat(HI, HELLO, tools=[{"name": "add"}]),
    ),
    "tools that are no list": (
        "tools must be a list; they are 3",
        chat(HI, HELLO, tools=3),
        chat(HI, HELLO, tools=[]),
    ),
    "tools that are no JSON": (
        "tools is text, but no JSON",
        chat(HI, HELLO, tools="add"),
        chat(HI, HELLO, tools=""),
    ),
    "a reward that is no number": (
        "reward must be a number; it is '1'",
        chat(HI, HELLO, reward="1"),
        chat(HI, HELLO, reward=1),
    ),
    "a name that is no text": (
        "messages[0]: name must be text; it is 7",
        openai({**USER, "name": 7}, ANSWER),
        openai({**USER, "name": "Ann"}, ANSWER),
    ),
    "a picture": (
        "holds a part of type 'image_url'; only text can be trained on",
        openai({"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url"}]}, ANSWER),
        openai({"role": "user", "content": [{"type": "text", "text": "Hi"}]}, ANSWER),
    ),
    "sound": (
        "messages[1]: 'audio' cannot be kept",
        openai(USER, {**ANSWER, "audio": {"id": "a"}}),
        openai(USER, {**ANSWER, "audio": None}),
    ),
    "no messages": ("messages must be a list with at least one message; it is []", openai(), openai(USER)),
    "null without a call": (
        "messages[1]: content may be null only beside tool_calls",
        openai(USER, {"role": "assistant", "content": None}),
        openai(USER, {"role": "assistant", "content": None, "refusal": "No."}),
    ),
    "a role of another format": (
        "messages[0]: unknown role 'tool_call'",
        openai({"role": "tool_call", "content": "x"}),
        openai({"role": "tool", "content": "x"}),
    ),
    "AgentTraj's item that is no name": (
        "item_id must be text or a number; it is ''",
        {**chat(HI, HELLO), "item_id": ""},
        {**chat(HI, HELLO), "item_id": 0},
    ),
    "an action of ADP without its text": (
        "content[1]: content must be text; it is None",
        adp(STEP, {"class_": "message_action"}),
        adp(STEP, SAY),
    ),
    "an unknown class of ADP": (
        "content[1]: unknown class_ 'dream_action'",
        adp(STEP, {**SAY, "class_": "dream_action"}),
        adp(STEP, SAY),
    ),
    "a class of ADP that is none": (
        "content[1] must be an object with class_",
        adp(STEP, {"content": "x"}),
        adp(STEP, SAY),
    ),
    "a picture of ADP": (
        "content[0] is a picture",
        adp({"class_": "image_observation"}, SAY),
        adp(STEP, SAY),
    ),
    "a page of ADP that is only a picture": (
        "content[0] shows a picture only",
        adp({"class_": "web_observation", "image_observation": {"a": 1}}, SAY),
        adp({"class_": "web_observation", "image_observation": {"a": 1}, "html": "<p>"}, SAY),
    ),
    "a page of ADP without text": (
        "content[0] has neither axtree nor html",
        adp({"class_": "web_observation"}, SAY),
        adp({"class_": "web_observation", "axtree": "x"}, SAY),
    ),
    "a json_observation of ADP": (
        "content[0] is a json_observation",
        adp({"class_": "json_observation"}, SAY),
        adp(STEP, SAY),
    ),
    "an API's arguments that are no object": (
        "content[1]: kwargs must be an object",
        adp(STEP, {"class_": "api_action", "function": "f", "kwargs": [1]}),
        adp(STEP, {"class_": "api_action", "function": "f", "kwargs": {}}),
    ),
    "an unknown source of ADP": (
        "content[0]: source must be user, agent or environment",
        adp({**STEP, "source": "moon"}, SAY),
        adp({**STEP, "source": "os"}, SAY),
    ),
    "an instruction without its output": (
        "output or response or completion must be text; it is None",
        ask(output=None),
        ask(),
    ),
    "an input that is no text": ("input must be text; it is 3", ask(input=3), ask(input="3")),
    "a history that is no pairs": (
        "history must be a list of pairs of text",
        ask(history=[["c"]]),
        ask(history=[["c", "d"]]),
    ),
    "a history that is no list": (
        "history must be a list of pairs of text",
        ask(history="c"),
        ask(history=[]),
    ),
    "a pair without its action": (
        "state_action_pairs[0] must have state and action",
        {**GO, "state_action_pairs": [{**PAIR, "action": " "}]},
        GO,
    ),
    "pairs without their goal": (
        "task_description must be text; it is None",
        {**GO, "task_description": None},
        GO,
    ),
    "no pairs": (
        "state_action_pairs is empty",
        {**GO, "state_action_pairs": []},
        GO,
    ),
    "a record with a misspelt key": (
        "unknown key 'rewards'",
        {"id": "1", "source": "s", "messages": [USER], "tags": [], "rewards": 1},
        {"id": "1", "source": "s", "messages": [USER], "tags": [], "reward": 1},
    ),
    "a row that is no object": ("a row must be an object; it is [1]", [1], chat(HI, HELLO)),
    "a row in no format": ("in none of the formats", {"question": "a"}, ask()),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_rejected_and_what_nearly_equal_passes(case):
    reason, bad, good = REFUSED[case]
    with pytest.raises(RowError) as refused:
        read(bad)
    assert reason in str(refused.value)
    assert read(good)[1].messages
