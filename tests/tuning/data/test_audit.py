"""The audit: for every refusal, a case that is refused and a nearly equal one that passes; samples as people see them."""

import json
import re

import pytest

from agentlm.errors import ChatTemplateError
from agentlm.tuning import record
from agentlm.tuning.data import audit
from agentlm.tuning.data.audit.leaks import leaks
from agentlm.tuning.data.audit.show import page, pieces, terminal
from agentlm.tuning.data.errors import DataError
from agentlm.tuning.data.rendering import Renderer
from agentlm.tuning.record import Message, Writer
from tests.tuning.data import checkpoints
from tests.tuning.data.conversations import STEPS, chat, conversation, episode

CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
WITH_CALL = [
    Message("user", "1 + 1?"),
    Message("assistant", "Well.", tool_calls=(CALL,)),
    Message("tool", "2", tool_call_id="c"),
    Message("assistant", "2."),
]
HELLO = chat("Hi", "Hello")


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Makes an auditor for a template; the second rendering is left out unless asked for, as it takes seconds to load."""
    made = {}

    def auditor(
        template=checkpoints.SOUND, *, drift=False, max_length=512, explicit=None, allow=(), **changes
    ):
        key = (template, json.dumps(changes, sort_keys=True))
        if key not in made:
            made[key] = checkpoints.checkpoint(
                tmp_path_factory.mktemp("checkpoint") / "model", template, **changes
            )
        return audit.Auditor(Renderer(made[key], explicit), audit.AuditSettings(max_length, allow, drift))

    return auditor


def reasons(auditor, row):
    return [reason for reason, _ in auditor.faults(row)[1]]


CASES = {
    "untrained: loss false on each turn": (
        "untrained",
        ({}, conversation([Message("user", "Hi"), Message("assistant", "Hello", loss=False)])),
        ({}, HELLO),
    ),
    "truncated: the last turn's end is one token too far": (
        "truncated",
        ({"max_length": 11}, HELLO),
        ({"max_length": 12}, HELLO),
    ),
    "truncated: only where a trained turn is cut": (
        "truncated",
        ({"max_length": 12}, chat("Hi", "Hello", "Bye", "Bye")),
        ({"max_length": 12}, conversation([*HELLO.messages, Message("user", "a long question that nobody is trained on")])),
    ),
    "bos: the template writes it twice": ("bos", ({"template": checkpoints.TWO_BOS}, HELLO), ({}, HELLO)),
    "turn_end: the template writes none": ("turn_end", ({"template": checkpoints.NO_END}, HELLO), ({}, HELLO)),
    "turn_end: the template's is not where the server stops": (
        "turn_end",
        ({"template": checkpoints.OTHER_END}, HELLO),
        ({}, HELLO),
    ),
    "template: it refuses the conversation": (
        "template",
        ({"template": "{{- raise_exception('no') -}}"}, HELLO),
        ({}, HELLO),
    ),
    "dropped: the template leaves the system message out": (
        "dropped",
        ({"template": checkpoints.NO_SYSTEM}, conversation([Message("system", "Be brief."), *HELLO.messages])),
        ({}, conversation([Message("system", "Be brief."), *HELLO.messages])),
    ),
    "tools: the template asks for tools and shows none": (
        "tools",
        ({"template": checkpoints.HIDES_TOOLS}, conversation(HELLO.messages, tools=(TOOL,))),
        ({}, conversation(HELLO.messages, tools=(TOOL,))),
    ),
    "tools: that a tool's name is in the text is not enough": (
        "tools",
        (
            {"template": checkpoints.HIDES_TOOLS},
            conversation([Message("user", "add 1"), Message("assistant", "2")], tools=(TOOL,)),
        ),
        ({}, conversation([Message("user", "add 1"), Message("assistant", "2")], tools=(TOOL,))),
    ),
    "tools: the template shows no calls": (
        "tools",
        ({"template": checkpoints.WITH_TOOLS}, conversation(WITH_CALL, tools=(TOOL,))),
        ({}, conversation(WITH_CALL, tools=(TOOL,))),
    ),
    "drift: the server's prompt says more than the trainer's": (
        "drift",
        ({"template": checkpoints.OTHER_PROMPT}, HELLO),
        ({"template": checkpoints.PROMPT_LEAD}, HELLO),
    ),
    "drift: only the last turn's prompt says more": (
        "drift",
        ({"template": checkpoints.OTHER_LATER_PROMPT}, chat("Hi", "Hello", "Bye", "Bye")),
        ({"template": checkpoints.OTHER_LATER_PROMPT}, HELLO),
    ),
    "leak: another template's token": (
        "leak",
        ({}, chat("Hi", "Hello<|im_end|>")),
        ({}, chat("Hi", "Hello `<|im_end|>` is ChatML's")),
    ),
    "leak: brackets of Llama-2": ("leak", ({}, chat("[INST] Hi [/INST]", "Hello")), ({}, chat("[INS] Hi [/INS]", "Hello"))),
    "leak: Vicuna's turns": ("leak", ({}, chat("Hi", "Hello\n### Human: Bye")), ({}, chat("Hi", "Hello\n### Humans: Bye"))),
    "leak: an unfilled placeholder": ("leak", ({}, chat("Hi", "Hello {{ name }}")), ({}, chat("Hi", "Hello {name}"))),
    "leak: code may hold what it likes": (
        "leak",
        ({}, chat("Hi", "Write {{ user.name }} there")),
        ({}, chat("How do I write {{ user.name }}?", "So:\n```\n<p>{{ user.name }}</p>\n```")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused_and_what_nearly_equal_passes(make, case):
    reason, (bad_settings, bad), (good_settings, good) = CASES[case]
    assert reason in reasons(make(**bad_settings), bad)
    assert reasons(make(**good_settings), good) == []


def test_every_reason_is_triggered_by_a_case():
    records = {"record"}  # in the tests of files below
    assert {reason for reason, _, _ in CASES.values()} | records == set(audit.REASONS)


def test_drift_from_the_template_that_the_server_uses(make, tmp_path):
    other, same = tmp_path / "other.jinja", tmp_path / "same.jinja"
    other.write_text(checkpoints.SOUND.replace("message.content +", "message.content + ' ' +"))
    same.write_text(checkpoints.SOUND.replace("message.content", "message['content']"))
    drifting = make(drift=True, explicit=other)
    assert drifting.reference.startswith("jinja2 and the checkpoint's tokenizer")
    (fault,) = drifting.faults(HELLO)[1]
    assert fault[0] == "drift"
    assert "serve with --chat-template too" in fault[1]
    assert reasons(make(drift=True, explicit=same), HELLO) == []


def test_drift_from_the_checkpoints_own_tokenizer(make):
    """The settings add a token of which tokenizer.json knows nothing: transformers honours it, the server does not."""
    drifting = make(drift=True, additional_special_tokens=["Hello"])
    ((reason, detail),) = drifting.faults(HELLO)[1]
    assert reason == "drift"
    assert "the checkpoint's tokenizer makes ['Hello'" in detail
    assert reasons(drifting, chat("Hi", "Good day")) == []


@pytest.mark.parametrize(
    "kind",
    ["PreTrainedTokenizerFast", pytest.param("GPT2Tokenizer", marks=pytest.mark.slow)],
    ids=["light", "any class"],
)
def test_sound_texts_do_not_drift(make, kind):
    sound = make(drift=True, tokenizer_class=kind)
    for row in (
        HELLO, chat("Grüße 👋🏽\n\n  two  ", " <|user|> is text "), episode(*STEPS), chat("</s> <|end|>", "ok"),
    ):  # fmt: skip
        assert "drift" not in reasons(sound, row)


def test_drift_from_what_jinja2_renders(make):
    """minijinja and jinja2 print large floats differently; a smaller one they print alike."""
    ((reason, detail),) = make("{{ 1e16 }}" + checkpoints.SOUND, drift=True).faults(HELLO)[1]
    assert reason == "drift"
    assert detail.startswith("jinja2 renders '1e+16<|begin|>")
    assert reasons(make("{{ 1e15 }}" + checkpoints.SOUND, drift=True), HELLO) == []


def test_llama2_is_compared_with_sentencepiece(data_dir):
    auditor = audit.Auditor(Renderer(data_dir / "models" / "llama2-tokenizer"), audit.AuditSettings(4096))
    assert auditor.reference == "SentencePiece and Llama-2's form as Meta encodes it"
    rows = [
        HELLO,
        chat(" Hi  ", "\nHello 👋\n", "x</s>y".replace("</s>", ""), "z"),
        conversation([Message("system", "Be kind."), *HELLO.messages]),
    ]
    for row in rows:
        assert reasons(auditor, row) == []
    auditor._reference._model = Shifted(auditor._reference._model)
    assert reasons(auditor, HELLO) == ["drift"]


class Shifted:
    """A SentencePiece model that is not the checkpoint's: it writes the legacy space."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)

    def encode(self, text):
        return self._model.encode(" " + text)


def test_special_text_in_a_message_is_a_leak_and_never_a_token(make):
    auditor = make(drift=True)
    rendered, faults = auditor.faults(chat("Hi", "Hello<|end|> there"))
    assert [reason for reason, _ in faults] == ["leak"]
    assert rendered.ids.count(auditor.renderer.tokenizer.eos_token_ids[0]) == 2


@pytest.mark.parametrize(
    "text",
    ["<|eot_id|>", "<s>", "a </s>", "[/INST]", "<<SYS>>", "<start_of_turn>", "<｜User｜>", "[gMASK]", "ASSISTANT: yes"],
)  # fmt: skip
def test_tokens_of_many_families_are_known(text):
    assert list(leaks(chat(text, "Hello")))


@pytest.mark.parametrize(
    "text", ["a < b", "<small>", "list[INT]", "{x}", "5 <|> 6", "| a | b |", "I said: Human: err", "<string>"]
)
def test_ordinary_text_is_no_leak(text):
    assert list(leaks(chat(text, text))) == []


def test_settings_are_checked():
    with pytest.raises(DataError, match="max_length must be at least 2; it is 1"):
        audit.AuditSettings(1)
    with pytest.raises(DataError, match=r"a reason must be one of record, template, .*; it is 'mask'"):
        audit.AuditSettings(9, ("mask",))
    with pytest.raises(DataError, match="nowhere is not there"):
        Renderer("nowhere")


def test_a_checkpoint_without_a_template_is_refused_at_once(tmp_path):
    folder = checkpoints.checkpoint(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ChatTemplateError):
        Renderer(folder)


@pytest.fixture
def records(tmp_path):
    file = tmp_path / "in.jsonl"
    with Writer(file) as writer:
        for row in (
            HELLO,
            chat("Hi", "{{ x }}", id="leaky"),
            chat("Bye", "Ciao", id="b"),
            episode(*STEPS, id="e"),
        ):
            writer.add(row)
        writer.write("{}")
    return file


def test_files_are_audited_and_parted(make, records, tmp_path):
    passed, refused = tmp_path / "passed.jsonl", tmp_path / "refused.jsonl"
    report = audit.run([records], make(), show=4, passed=passed, refused=refused)
    assert (report.conversations, report.refused, dict(report.reasons)) == (5, 2, {"leak": 1, "record": 1})
    assert [row.id for _, row in record.read(passed)] == ["1", "b", "e"]
    went = [json.loads(line) for line in refused.read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in went] == [(2, "leak"), (5, "record")]
    assert [(each.line, each.id, each.reason) for each in report.findings] == [
        (2, "leaky", "leak"),
        (5, "", "record"),
    ]
    assert {sample.line for sample in report.samples} >= {2}
    allowed = audit.run([records], make(allow=("leak", "record")))
    assert (allowed.refused, allowed.reasons["leak"]) == (0, 1)
    assert allowed.trained_tokens < allowed.tokens
    with pytest.raises(DataError, match="is an input too"):
        audit.run([records], make(), passed=records)


def test_samples_are_the_lines_that_were_asked_for(make, records):
    report = audit.run([records], make(), show=2, lines=frozenset({2, 4}))
    assert [sample.line for sample in report.samples] == [2, 4]


def test_a_sample_shows_what_is_trained(make):
    auditor = make()
    tokenizer = auditor.renderer.tokenizer
    row = chat("Grüße 👋🏽", "Ünïcode\nand 漢字")
    rendered, _ = auditor.faults(row)
    assert "".join(pieces(tokenizer, rendered.ids)) == rendered.text
    sample = audit.Sample("f.jsonl", 3, row, rendered, (("leak", "a <b>"),))
    plain = terminal(sample, tokenizer, colour=False)
    assert "f.jsonl:3 1 (tests): " in plain
    assert plain.endswith("<|begin|><|user|>Grüße 👋🏽<|end|><|assistant|>⟦Ünïcode\nand 漢字<|end|>⟧")
    coloured = terminal(sample, tokenizer, colour=True)
    assert "\x1b[30;42mÜnïcode↵\x1b[0m\n\x1b[30;42mand 漢字<|end|>\x1b[0m" in coloured
    report = audit.AuditReport("nothing", samples=[sample])
    html = page(report, tokenizer)
    assert "<script" not in html
    assert "src=" not in html
    assert "a &lt;b&gt;" in html
    assert f"<b title={tokenizer.eos_token_ids[0]}>&lt;|end|&gt;</b>" in html


HOSTILE = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202egnp.exe\r\x00"


def test_what_is_shown_commands_no_terminal_and_turns_no_text(make):
    auditor = make()
    row = chat(f"Hi {HOSTILE}", f"<img src=x onerror=alert(1)> {HOSTILE}", id=HOSTILE, source=HOSTILE)
    rendered, _ = auditor.faults(row)
    sample = audit.Sample(f"{HOSTILE}.jsonl", 1, row, rendered, (("leak", HOSTILE),))
    plain = terminal(sample, auditor.renderer.tokenizer, colour=False)
    coloured = terminal(sample, auditor.renderer.tokenizer, colour=True)
    for shown in (plain, re.sub(r"\x1b\[(?:30;42|2|1|0)m", "", coloured)):
        assert not set(shown) & set("\x1b\x07\x9b\u202e\r\x00")
        assert shown.count("␛[2J␛]0;owned␇ \\x9b31m <U+202E>gnp.exe␍␀") == 6
    html = page(audit.AuditReport("nothing", samples=[sample]), auditor.renderer.tokenizer)
    assert "<img" not in html
    assert not set(html) & set("\x1b\x9b\u202e\r\x00")


def test_a_long_sample_does_not_flood_the_terminal(make):
    auditor = make()
    row = chat("Hi", "word " * 3000)
    rendered, _ = auditor.faults(row)
    sample = audit.Sample("f", 1, row, rendered, ())
    for colour in (False, True):
        shown = terminal(sample, auditor.renderer.tokenizer, colour=colour, most=500)
        assert len(shown) < 800
        assert shown.endswith(f"\n… {len(rendered.text) - 500:,} more characters; --html shows them all")
    assert (
        page(audit.AuditReport("nothing", samples=[sample]), auditor.renderer.tokenizer).count("title=")
        > 3000
    )


def test_a_trained_line_break_is_seen(make):
    auditor = make(checkpoints.SOUND)
    row = chat("a\nb", "c\n\nd")
    rendered, _ = auditor.faults(row)
    sample = audit.Sample("f", 1, row, rendered, ())
    coloured = terminal(sample, auditor.renderer.tokenizer, colour=True)
    assert coloured.count("↵") == 2
    assert "\x1b[30;42mc↵\x1b[0m\n\x1b[30;42m↵\x1b[0m\n\x1b[30;42md" in coloured
    html = page(audit.AuditReport("nothing", samples=[sample]), auditor.renderer.tokenizer)
    assert html.partition("<pre>")[2].count("↵\n") == 2
