"""Safetensors checkpoints: what is read, and what every kind of damage is told as."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from agentlm.errors import (
    CorruptFileError,
    MissingShardError,
    MissingTensorError,
    QuantizedModelError,
    TruncatedFileError,
    WeightsNotFoundError,
)
from agentlm.model.weights import INDEX_NAME, Checkpoint
from tests.model.safetensors_files import write_safetensors

TENSORS: dict[str, Any] = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.arange(5, dtype=np.float16),
    "c": np.zeros((0, 4), dtype=np.float32),
    "scalar": np.array(2.5, dtype=np.float32),
}


def write_sharded(directory: Path) -> None:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, file in names.items():
        save_file({name: TENSORS[name]}, directory / file)
    (directory / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def test_tensors_are_read_as_safetensors_writes_them(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = Checkpoint.open(tmp_path)
    assert len(checkpoint) == 4
    assert "a" in checkpoint
    for name, expected in TENSORS.items():
        tensor = checkpoint.tensor(name, expected.shape)
        assert tensor.dtype == {"float32": "F32", "float16": "F16"}[expected.dtype.name]
        assert (tensor.shape, tensor.nbytes) == (expected.shape, expected.nbytes)
        assert tensor.bytes().tobytes() == expected.tobytes()
        assert tensor.file.name == "model.safetensors"


def test_a_tensor_outlives_its_checkpoint(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    tensor = Checkpoint.open(tmp_path).tensor("a")
    gc.collect()
    assert tensor.bytes().view(np.float32)[11] == 11


def test_shards_are_found_through_the_index(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    save_file({"other": TENSORS["a"]}, tmp_path / "consolidated.safetensors")
    checkpoint = Checkpoint.open(tmp_path)
    assert [tensor.name for tensor in checkpoint.tensors()] == ["a", "b"]
    assert checkpoint.tensor("b").file.name == "model-00002-of-00002.safetensors"


def test_iteration_reports_bytes(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    calls: list[tuple[int, int, str]] = []
    assert len(list(Checkpoint.open(tmp_path).tensors(lambda *call: calls.append(call)))) == 2
    assert calls == [(48, 58, "a"), (58, 58, "b")]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingShardError, match=r"names 2 files.*model-00002-of-00002.*run it again"):
        Checkpoint.open(tmp_path)


def test_shards_without_their_index_still_tell_how_many_they_are(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    (tmp_path / INDEX_NAME).unlink()
    assert len(Checkpoint.open(tmp_path)) == 2
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingShardError, match="one of 2 shards"):
        Checkpoint.open(tmp_path)


def test_an_index_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    index["weight_map"]["z"] = "model-00001-of-00002.safetensors"
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(MissingTensorError, match=r"model-00001-of-00002.*'z'"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / INDEX_NAME).write_text(content)
    with pytest.raises(CorruptFileError, match="weight_map"):
        Checkpoint.open(tmp_path)


def test_one_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    save_file({"a": TENSORS["a"]}, tmp_path / "adapter.safetensors")
    save_file({"a": TENSORS["a"]}, tmp_path / "model.safetensors")
    with pytest.raises(CorruptFileError, match=r"'a' is in .*adapter.*model"):
        Checkpoint.open(tmp_path)


def cut(keep: int) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        raw = file.read_bytes()
        file.write_bytes(raw[:keep])

    return damage


def patch(at: int, new: bytes) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        raw = bytearray(file.read_bytes())
        raw[at : at + len(new)] = new
        file.write_bytes(bytes(raw))

    return damage


def header(**changes: object) -> Callable[[Path], None]:
    return lambda file: write_safetensors(file, {"a": ("F32", (2,), bytes(8))}, **changes)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (cut(0), TruncatedFileError, "has 0 bytes"),
        (cut(5), TruncatedFileError, "has 5 bytes"),
        (cut(20), TruncatedFileError, "header alone needs"),
        (cut(-1), TruncatedFileError, r"tensor '.*' ends at byte"),
        (lambda f: f.write_bytes(b"version https://git-lfs"), TruncatedFileError, "Git LFS.*lfs pull"),
        (patch(7, b"\xff"), CorruptFileError, "claims a header"),
        (patch(8, b"!"), CorruptFileError, "not valid JSON"),
        (patch(8, b"\xff\xfe"), CorruptFileError, "not valid JSON"),
        (lambda f: f.write_bytes(f.read_bytes() + b"x"), CorruptFileError, "tensors end at"),
        (header(a={"dtype": "F32", "shape": [2]}), CorruptFileError, "data_offsets are needed"),
        (header(a={"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}), CorruptFileError, "fit together"),
        (header(a={"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}), CorruptFileError, "fit together"),
        (header(a={"dtype": "F4", "shape": [2], "data_offsets": [8, 0]}), CorruptFileError, r"bytes 8\.\.0"),
        (header(a=7), CorruptFileError, "describes tensor 'a' as 7"),
    ],
)
def test_damage_is_told_with_the_files_name(
    tmp_path: Path, damage: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, file)
    damage(file)
    with pytest.raises(error, match=message) as caught:
        Checkpoint.open(tmp_path)
    assert type(caught.value) is error
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", r"PyTorch pickle.*only safetensors.*'auto'.*AutoTokenizer.*save_pretrained"),
        ("consolidated.00.pth", r"PyTorch pickle.*save_pretrained"),
        ("model.Q4_K_M.gguf", r"GGUF.*original checkpoint"),
        ("readme.txt", r"holds no \*\.safetensors"),
    ],
)
def test_other_formats_are_refused_with_the_way_out(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WeightsNotFoundError, match=message):
        Checkpoint.open(tmp_path)


def test_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match="not a directory"):
        Checkpoint.open(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.qweight", "x.weight_packed"])
def test_quantized_tensors_are_refused(tmp_path: Path, name: str) -> None:
    save_file({name: np.zeros(4, dtype=np.int32)}, tmp_path / "model.safetensors")
    with pytest.raises(QuantizedModelError, match="quantized from"):
        Checkpoint.open(tmp_path)
