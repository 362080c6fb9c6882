"""tokenizer.model becomes a tokenizer.json that encodes as SentencePiece does."""

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from agentlm._engine import ChatTemplate, Tokenizer
from agentlm.errors import TokenizerError
from agentlm.model.tokenizer_conversion import ensure_tokenizer

TEXTS = [
    "A gentle hum",
    "  two leading spaces\n\nand     five, then " + " " * 100 + "a hundred",
    "x = [i**2 for i in range(10)]  # comment\n\treturn x",
    "Zürich, Łódź, Москва, 東京, 🙂👩‍👩‍👧, \u200b\ufeff, \x00\x07",
    "1234567890 3.14 1e-5",
    "",
]


@pytest.fixture(scope="module")
def llama2(data_dir: Path) -> Path:
    return data_dir / "models" / "llama2-tokenizer"


def load(directory: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))


def train(directory: Path, **settings: object) -> None:
    """A small SentencePiece model of our own."""
    corpus = directory / "corpus.txt"
    words = ["the cat sat on the mat", "a dog ran", "it is what it is", "nothing lasts", "read more books"]
    corpus.write_text("\n".join(words * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(directory / "tokenizer"),
        minloglevel=2,
        **({"vocab_size": 300, "byte_fallback": True, "model_type": "bpe"} | settings),
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint directory with a BPE model as Llama's are: byte fallback, text taken as it is."""
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    train(directory, normalization_rule_name="identity", remove_extra_whitespaces=False)
    return directory


def test_a_ready_tokenizer_is_used_as_it_lies(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert ensure_tokenizer(tmp_path, tmp_path / "cache") == tmp_path
    assert not (tmp_path / "cache").exists()


def test_llama2_encodes_as_sentencepiece_does(llama2: Path, tmp_path: Path) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(llama2 / "tokenizer.model"))
    ours = load(ensure_tokenizer(llama2, tmp_path))
    assert ours.encode("Hello world").ids == [1, 15043, 3186]
    for text in TEXTS:
        assert ours.encode(text).ids == [1, *pieces.encode(text)] or not text
        assert ours.decode(ours.encode(text).ids) == text


def test_a_chat_turn_is_encoded_as_if_it_came_first(llama2: Path, tmp_path: Path) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(llama2 / "tokenizer.model"))
    turn = pieces.encode("[INST] Hi [/INST]")
    ours = load(ensure_tokenizer(llama2, tmp_path))
    assert ours.encode("</s><s>[INST] Hi [/INST]", add_special_tokens=False).ids == [2, 1, *turn]


def test_a_chat_of_llama2_has_its_special_tokens(llama2: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(ensure_tokenizer(llama2, tmp_path))
    messages = [("user", "Hi"), ("assistant", "Yes"), ("user", "More")]
    given = json.dumps([{"role": role, "content": content} for role, content in messages])
    text, ids = ChatTemplate(llama2, tokenizer).prompt(given)
    assert text == "<s>[INST] Hi [/INST] Yes </s><s>[INST] More [/INST]"
    assert [token for token in ids if token < 3] == [1, 2, 1]
    assert tokenizer.eos_token_ids == [2]


def test_a_model_of_our_own_is_converted_once_and_kept(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ 1 }}"}))
    first = ensure_tokenizer(checkpoint, tmp_path / "cache")
    assert sorted(p.name for p in first.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert not (checkpoint / "tokenizer.json").exists()
    made = (first / "tokenizer.json").stat()
    assert ensure_tokenizer(checkpoint, tmp_path / "cache") == first
    assert (first / "tokenizer.json").stat() == made
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(checkpoint / "tokenizer.model"))
    text = "the cat   read what it is"
    assert load(first).encode(text).ids == [1, *pieces.encode(text)]


def test_the_ends_are_named_where_the_checkpoint_does_not(checkpoint: Path, tmp_path: Path) -> None:
    def written() -> object:
        return json.loads((ensure_tokenizer(checkpoint, tmp_path) / "tokenizer_config.json").read_text())

    assert written() == {"bos_token": "<s>", "eos_token": "</s>"}
    (checkpoint / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>"}))
    assert written() == {"eos_token": "</s>"}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    assert written() == {"eos_token": "</s>"}


def test_the_settings_decide_the_tokens_at_the_ends(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer_config.json").write_text(
        json.dumps({"add_bos_token": False, "add_eos_token": True})
    )
    ids = load(ensure_tokenizer(checkpoint, tmp_path)).encode("the cat").ids
    assert (ids[0] != 1, ids[-1]) == (True, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "unigram", "vocab_size": 280}, "cannot be converted"),
        ({"byte_fallback": False, "vocab_size": 60}, "cannot be converted"),
        ({"normalization_rule_name": "nmt_nfkc"}, r"encodes .* as .*SentencePiece as"),
    ],
)
def test_a_model_that_would_encode_otherwise_is_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    train(tmp_path, **settings)
    with pytest.raises(TokenizerError, match=message):
        ensure_tokenizer(tmp_path, tmp_path / "cache")


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x00not a model")
    with pytest.raises(TokenizerError, match=r"tokenizer.model cannot be converted.*cannot be read"):
        ensure_tokenizer(tmp_path, tmp_path / "cache")


def test_damaged_settings_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config.json is not valid JSON"):
        ensure_tokenizer(checkpoint, tmp_path / "cache")


def test_no_tokenizer_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        ensure_tokenizer(tmp_path, tmp_path)


def test_a_copy_elsewhere_shares_the_conversion(checkpoint: Path, tmp_path: Path) -> None:
    first = ensure_tokenizer(checkpoint, tmp_path / "cache")
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    assert ensure_tokenizer(copy, tmp_path / "cache") == first


def test_a_cache_that_cannot_be_written_is_named(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(TokenizerError, match=rf"cannot be kept in {file}.*`cache_dir`"):
        ensure_tokenizer(checkpoint, file)
