"""The chat forms that are known by heart: trainer, jinja2, transformers and server agree on every token.

What is trained is exactly what the assistant writes, its turn end included.
"""

import json
from pathlib import Path

import pytest

from agentlm.tuning.data import audit
from agentlm.tuning.data.rendering import Renderer
from agentlm.tuning.record import Message
from tests.tuning.data import checkpoints
from tests.tuning.data.conversations import STEPS, chat, conversation, episode

TEMPLATES = Path(__file__).parent / "templates"
"""Written for the tests after each family's form."""

FORMS = {
    "llama-2": ("</s>", ()),
    "llama-3": ("<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")),
    "chatml": ("<|im_end|>", ("<|im_start|>",)),
    "mistral": ("</s>", ()),
}
"""Turn end, and the other special tokens."""

GOLDEN = {
    "one turn": chat("Hi", "Hello"),
    "an episode": episode(*STEPS),
    "spaces and lines around": chat("  Hi \n", "\n Hello\n\nthere  ", "x", " y "),
    "many scripts": chat("Grüße, 你好 👋🏽", "नमस्ते — ça va? ﷺ"),
    "turns that are not trained": conversation(
        [
            Message("user", "a"),
            Message("assistant", "Ok.", loss=False),
            Message("user", "b"),
            Message("assistant", "c"),
        ]
    ),
}
SYSTEM = conversation([Message("system", "Be kind."), *GOLDEN["an episode"].messages])


def write(folder, form):
    """A checkpoint of this form: the small random model's tokenizer with the form's special tokens added."""
    end, others = FORMS[form]
    checkpoints.checkpoint(folder, (TEMPLATES / f"{form}.jinja").read_text().rstrip("\n"), eos_token=end)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    known = max(token["id"] for token in tokenizer["added_tokens"])
    first = 1 + max(known, *tokenizer["model"]["vocab"].values())
    for number, text in enumerate((end, *others), first):
        tokenizer["added_tokens"].append({
            "id": number, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True,
        })  # fmt: skip
    file.write_text(json.dumps(tokenizer))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": first}))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    return folder


@pytest.fixture(scope="module")
def auditors(tmp_path_factory):
    made = {}

    def auditor(form):
        if form not in made:
            renderer = Renderer(write(tmp_path_factory.mktemp("form") / "model", form))
            made[form] = audit.Auditor(renderer, audit.AuditSettings(4096))
        return made[form]

    return auditor


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("form", FORMS)
def test_trainer_jinja2_transformers_and_server_agree(auditors, form, name):
    row = GOLDEN[name]
    auditor = auditors(form)
    assert auditor.reference == "jinja2 and the checkpoint's tokenizer, by transformers"
    rendered, faults = auditor.faults(row)
    assert faults == []
    tokenizer = auditor.renderer.tokenizer
    trained = [token for token, on in zip(rendered.ids, rendered.trained, strict=True) if on]
    said = tokenizer.decode(trained, skip_special_tokens=False).split(FORMS[form][0])
    answers = [message.content.strip() for message in row.messages if message.trained]
    assert [text.strip() for text in said] == [*answers, ""]


@pytest.mark.parametrize("form", FORMS)
def test_a_system_message_is_taken_or_refused_but_never_lost(auditors, form):
    rendered, faults = auditors(form).faults(SYSTEM)
    if form == "mistral":
        assert [reason for reason, _ in faults] == ["template"]
    else:
        assert faults == []
        assert "Be kind." in rendered.text
