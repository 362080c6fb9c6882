"""Random checkpoints: reproducible, complete, with logits of the spread asked for, and made without torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from agentlm.model.config import ModelConfig
from agentlm.model.decoder import Decoder, checked
from agentlm.model.layout import EMBEDDING, tensor_shapes
from agentlm.model.random import SHAPES, Shape, family_config, write_model
from agentlm.model.random_tokenizer import EOS_ID, SMALLEST_VOCAB, SPECIALS
from agentlm.model.weights import Checkpoint
from agentlm.ops.reference import Chunk, ReferenceOps
from tests.model import families
from tests.model.small import make_small


def test_the_same_seed_gives_the_same_bytes_and_another_other_ones(tmp_path: Path) -> None:
    one = families.write(tmp_path / "1", "qwen3", seed=5)
    two = families.write(tmp_path / "2", "qwen3", seed=5)
    three = families.write(tmp_path / "3", "qwen3", seed=6)
    assert sorted(p.name for p in one.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()
    assert (one / "model.safetensors").read_bytes() != (three / "model.safetensors").read_bytes()


@pytest.mark.parametrize("case", families.CASES)
@pytest.mark.parametrize("left_out", [("rope_parameters",), ("rope_theta", "rope_scaling")], ids=["4", "5"])
def test_both_of_transformers_spellings_say_the_same(
    tmp_path: Path, case: str, left_out: tuple[str, ...]
) -> None:
    written = json.loads((families.write(tmp_path, case, seed=0) / "config.json").read_text())
    read = ModelConfig.from_json({key: value for key, value in written.items() if key not in left_out})
    assert read == ModelConfig.from_json(families.CASES[case])


@pytest.mark.parametrize("case", ["llama2", "llama2-tied", "qwen2", "qwen3"])
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_logits_have_the_spread_asked_for(tmp_path: Path, case: str, spread: float) -> None:
    directory = write_model(tmp_path, families.CASES[case], seed=0, spread=spread)
    checkpoint = Checkpoint.open(directory)
    config = checked(ModelConfig.load(directory), checkpoint)
    ops = ReferenceOps(config)
    decoder = Decoder.bind(config, checkpoint, ops)
    ops.begin([Chunk(prompt, sample="all") for prompt in families.prompts(0)])
    assert decoder.forward(ops).value.std().item() == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types_are_rounded_to_nearest_even(tmp_path: Path, dtype: str) -> None:
    wide = Checkpoint.open(families.write(tmp_path / "wide", "llama2", seed=1)).tensor(EMBEDDING)
    narrow = Checkpoint.open(families.write(tmp_path / "narrow", "llama2", seed=1, dtype=dtype)).tensor(
        EMBEDDING
    )
    torch_dtype = getattr(torch, dtype)
    expected = torch.from_numpy(wide.bytes().copy()).view(torch.float32).to(torch_dtype)
    assert torch.equal(torch.from_numpy(narrow.bytes().copy()).view(torch_dtype), expected)


def test_the_small_model_is_made_once(tmp_path: Path) -> None:
    directory = make_small(tmp_path)
    before = (directory / "model.safetensors").stat()
    assert make_small(tmp_path) == directory
    assert (directory / "model.safetensors").stat() == before
    assert [p.name for p in tmp_path.iterdir()] == [directory.name]
    config = ModelConfig.load(directory)
    assert (config.layers, config.hidden, config.vocab, config.context_length) == (4, 128, 512, 1024)
    Checkpoint.open(directory).check(tensor_shapes(config), lambda _: False)


def test_what_half_made_the_small_model_is_not_used(tmp_path: Path) -> None:
    leftover = tmp_path / "random-small-1.abc"
    leftover.mkdir()
    (leftover / "config.json").write_text("{")
    assert ModelConfig.load(make_small(tmp_path)).layers == 4


def test_the_tokenizer_is_byte_level_and_loads_everywhere(tmp_path: Path) -> None:
    directory = write_model(tmp_path, family_config("llama2", Shape(1, 8, 8, 1, 1, 600, 64)))
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 600
    text = "Grüße, 東京 🙂\n\x00\ttail "
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("a").ids == [256, 97]
    words = [tokenizer.decode([i]) for i in range(SMALLEST_VOCAB, 600)]
    assert len(set(words)) == len(words)
    assert all(word.strip().isalpha() for word in words)
    assert [tokenizer.token_to_id(special) for special in SPECIALS] == list(range(256, SMALLEST_VOCAB))


def test_the_chat_template_renders_turns_and_refuses_other_roles(tmp_path: Path) -> None:
    directory = write_model(tmp_path, family_config("llama2", Shape(1, 8, 8, 1, 1, 300, 64)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    assert tokenizer.eos_token_id == EOS_ID
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": " U "}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|begin|><|system|>S<|end|><|user|> U <|end|><|assistant|>"
    with pytest.raises(Exception, match="given: robot"):
        tokenizer.apply_chat_template([{"role": "robot", "content": ""}], tokenize=False)


def test_a_vocabulary_without_room_for_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="262"):
        write_model(tmp_path, family_config("llama2", Shape(1, 8, 8, 1, 1, 100, 64)) | {"eos_token_id": 2})


@pytest.mark.parametrize(("name", "millions"), [("15m", 15.2), ("110m", 109.5), ("1.1b", 1034.5)])
def test_named_shapes_read_their_name_in_weights_a_step(name: str, millions: float) -> None:
    config = ModelConfig.from_json(family_config("llama2", SHAPES[name]))
    shapes = tensor_shapes(config)
    read = sum(int(np.prod(shape)) for tensor, shape in shapes.items() if config.tied or tensor != EMBEDDING)
    assert read / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_command_line_writes_a_model(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentlm.model.random", "small", str(tmp_path / "m"), "--family", "qwen2"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    config = ModelConfig.load(tmp_path / "m")
    assert (config.architecture, config.dtype) == ("Qwen2ForCausalLM", "bfloat16")
