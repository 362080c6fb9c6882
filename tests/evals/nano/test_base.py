"""The base of agentlm-nano is a checkpoint's folder that the engine knows: Llama-2's form, its own words, few weights."""

import importlib.util
import json
import math
from pathlib import Path

import pytest

from agentlm._engine import ChatTemplate, Tokenizer
from agentlm.model.config import ModelConfig
from agentlm.model.layout import tensor_shapes
from agentlm_evals.nano.corpus import write_corpus

RECIPES = Path(__file__).parents[3] / "recipes" / "nano"


def load_base():
    spec = importlib.util.spec_from_file_location("nano_base", RECIPES / "base.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano")
    write_corpus(folder / "corpus", scale=0.02)
    load_base().write_base(folder / "corpus", folder / "base")
    return folder / "base"


def test_it_is_small_and_its_count_is_right(base):
    config = ModelConfig.load(base)
    count = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    assert count == load_base().parameters() <= 3_900_000
    assert (config.tied, config.vocab, config.context_length) == (True, 1776, 4096)
    assert config.vocab <= 4096


def test_the_engine_knows_its_chat_form(base):
    template = ChatTemplate(str(base), Tokenizer(str(base)))
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": " Bye\n"},
        {"role": "assistant", "content": "Goodbye!"},
    ]
    text, ids, mask = template.conversation(json.dumps(messages))
    assert text == (
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHello! [/INST] Hi. </s><s>[INST] Bye [/INST] Goodbye! </s>"
    )
    trained = [token for token, is_trained in zip(ids, mask, strict=True) if is_trained]
    tokenizer = Tokenizer(str(base))
    assert tokenizer.decode(trained, skip_special_tokens=False) == " Hi. </s> Goodbye! </s>"
    assert ids[0] == 1
    assert ids.count(1) == 2


@pytest.mark.parametrize(
    "text", ["Hello, world!", "price 35 dollars", "Ünïcödé 漢字 \t x\n\n y", "SELECT COUNT(*) FROM t"]
)
def test_every_text_survives(base, text):
    tokenizer = Tokenizer(str(base))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_digits_stand_alone(base):
    tokenizer = Tokenizer(str(base))
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode("12 + 345", add_special_tokens=False)]
    assert [piece.strip() for piece in pieces] == ["1", "2", "+", "3", "4", "5"]


def test_too_little_text_is_refused(tmp_path):
    (tmp_path / "corpus").mkdir()
    line = {"messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]}
    for name in ("agent", "general"):
        (tmp_path / "corpus" / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(SystemExit, match=r"practice\.jsonl is missing"):
        load_base().write_base(tmp_path / "corpus", tmp_path / "base")
    (tmp_path / "corpus" / "practice.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(SystemExit, match=r"1,?776 are needed: take more text"):
        load_base().write_base(tmp_path / "corpus", tmp_path / "base")
    assert not (tmp_path / "base" / "tokenizer.json").exists()
