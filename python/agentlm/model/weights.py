"""Checkpoints on disk: safetensors files, mapped into memory and checked. Refuses to know models, devices and torch.

The format: 8 bytes little-endian header length, a JSON header `{name: {dtype, shape, data_offsets}}`, then the data;
offsets count from the end of the header (the safetensors library's format description).
"""

import json
import math
import mmap
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agentlm.errors import (
    CheckpointError,
    CorruptFileError,
    MissingShardError,
    MissingTensorError,
    QuantizedModelError,
    TensorDtypeError,
    TensorShapeError,
    TruncatedFileError,
    UnexpectedTensorError,
    WeightsNotFoundError,
)
from agentlm.model.hub import CONVERT

INDEX_NAME = "model.safetensors.index.json"
"""The file that maps tensor names to shards."""

ELEMENT_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes per element of the safetensors types that have whole bytes."""

WEIGHT_DTYPES = ("F32", "F16", "BF16")
"""Element types that agentlm computes from."""

MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit."""

Progress = Callable[[int, int, str], None]
"""Called as `progress(bytes done, bytes in all, tensor name)` after each tensor."""


@dataclass(frozen=True, slots=True)
class TensorRef:
    """One tensor's bytes in a memory map: row-major, little-endian, not necessarily aligned to its element size."""

    name: str
    dtype: str
    """Safetensors name of the element type, such as `BF16`."""
    shape: tuple[int, ...]
    address: int
    """Address of the first byte; valid while this object lives."""
    nbytes: int
    file: Path
    owner: npt.NDArray[np.uint8] = field(repr=False, compare=False)
    """The mapped file's bytes; held so that `address` stays valid."""

    def bytes(self) -> npt.NDArray[np.uint8]:
        """The tensor's bytes, read-only, without a copy: shape `[nbytes]`."""
        start = self.address - self.owner.ctypes.data
        return self.owner[start : start + self.nbytes]


class Checkpoint:
    """The tensors of one checkpoint directory by name. The maps live as long as it, or any `TensorRef` of it, lives."""

    def __init__(self, directory: Path, tensors: Mapping[str, TensorRef]) -> None:
        """Use `Checkpoint.open`."""
        self.directory = directory
        self._tensors = dict(tensors)

    @classmethod
    def open(cls, directory: str | Path) -> "Checkpoint":
        """Maps a directory's safetensors files: those the index names, or every one if there is no index.

        Raises `WeightsNotFoundError`, `MissingShardError`, `MissingTensorError`, `CorruptFileError`,
        `TruncatedFileError`, `QuantizedModelError`, `CheckpointError` for a file that cannot be read.
        """
        tensors = cls.map(directory)
        narrow = next(
            (name for name in tensors if name.endswith((".qweight", ".qzeros", ".weight_packed"))), None
        )
        if narrow is not None:
            raise QuantizedModelError(
                f"{tensors[narrow].file} holds quantized weights (tensor {narrow!r}); here float32, float16 and bfloat16 "
                "are needed. Use the model that this one was quantized from. (GPTQ and AWQ checkpoints whose config.json "
                "says so can be served.)"
            )
        return cls(Path(directory), tensors)

    @staticmethod
    def map(directory: str | Path) -> dict[str, TensorRef]:
        """Every tensor of a directory's files by name, narrow ones too. Raises as `open` does."""
        directory = Path(directory)
        index = directory / INDEX_NAME
        tensors: dict[str, TensorRef] = {}
        if index.is_file():
            by_file = _read_index(index)
        else:
            files = sorted(
                p for p in directory.glob("*.safetensors") if not p.name.startswith("consolidated")
            )
            if not files:
                raise _no_safetensors(directory)
            _check_shard_names(directory, files)
            by_file = {file: [] for file in files}
        for file, names in by_file.items():
            try:
                found = _map_file(file)
            except OSError as error:
                raise CheckpointError(f"{file} cannot be read: {error}") from error
            missing = sorted(set(names) - found.keys())
            if missing:
                raise MissingTensorError(
                    f"{INDEX_NAME} says that {file} holds tensor {missing[0]!r} ({len(missing)} such in all), "
                    "and it does not. Fetch both files again."
                )
            for name in sorted(found.keys() & tensors.keys()):
                raise CorruptFileError(
                    f"Tensor {name!r} is in {tensors[name].file} and in {file}. "
                    "Keep the files of one checkpoint only in the directory."
                )
            tensors.update(found)
        return tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def nbytes_of(self, name: str) -> int:
        """Bytes of the tensor that `tensor` gives for a name. Raises `MissingTensorError`."""
        return self.tensor(name).nbytes

    def tensors(self, progress: Progress | None = None) -> Iterator[TensorRef]:
        """Every tensor, in the files' order; `progress` is called when the next one is asked for."""
        done, total = 0, self.nbytes
        for tensor in self._tensors.values():
            yield tensor
            done += tensor.nbytes
            if progress is not None:
                progress(done, total, tensor.name)

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> TensorRef:
        """The tensor of this name, of this shape if one is given, of a type that agentlm computes from.

        Raises `MissingTensorError`, `TensorShapeError`, `TensorDtypeError`.
        """
        found = self._tensors.get(name)
        if found is None:
            raise MissingTensorError(
                f"The checkpoint {self.directory} lacks tensor {name!r}"
                + (f" of shape {list(shape)}" if shape is not None else "")
                + ". It is incomplete or its config.json belongs to another model: fetch it again."
            )
        if shape is not None and found.shape != shape:
            raise TensorShapeError(
                f"Tensor {name!r} in {found.file} has shape {list(found.shape)}; config.json asks for {list(shape)}. "
                "The weights and config.json belong to different models: fetch both again."
            )
        if found.dtype not in WEIGHT_DTYPES:
            raise TensorDtypeError(
                f"Tensor {name!r} in {found.file} has element type {found.dtype}; agentlm computes from "
                f"{', '.join(WEIGHT_DTYPES)}. Use a checkpoint in one of these."
            )
        return found

    def check(self, shapes: Mapping[str, tuple[int, ...]], ignored: Callable[[str], bool]) -> None:
        """Checks that exactly these tensors are there, apart from those for which `ignored(name)` holds.

        Raises as `tensor` does, and `UnexpectedTensorError`.
        """
        for name, shape in shapes.items():
            self.tensor(name, shape)
        extra = [name for name in self._tensors if name not in shapes and not ignored(name)]
        if extra:
            raise UnexpectedTensorError(
                f"{self._tensors[extra[0]].file} holds tensor {extra[0]!r} ({len(extra)} such in all), which config.json "
                "has no place for; leaving it out would compute another model. Check that config.json belongs to "
                "these weights."
            )


def _read_index(index: Path) -> dict[Path, list[str]]:
    """Shards in the index's order with their tensors' names. Raises `CorruptFileError`, `MissingShardError`."""
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        by_file: dict[Path, list[str]] = {}
        for name, file in weight_map.items():
            by_file.setdefault(index.parent / file, []).append(name)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFileError(
            f"{index} is not an index of the form {{'weight_map': {{tensor: file}}}} ({error}). Fetch it again."
        ) from error
    missing = [file.name for file in by_file if not file.is_file()]
    if missing:
        raise MissingShardError(
            f"{index} names {len(by_file)} files, and {len(missing)} are missing: {', '.join(missing[:4])}"
            f"{', ...' if len(missing) > 4 else ''}. The download did not finish: run it again."
        )
    return by_file


def _check_shard_names(directory: Path, files: list[Path]) -> None:
    """Without an index, the numbers in `model-00001-of-00003.safetensors` still say whether all are there."""
    for file in files:
        total = file.stem.rpartition("-of-")[2]
        if "-of-" in file.stem and total.isdigit() and int(total) != len(files):
            raise MissingShardError(
                f"{file} is one of {int(total)} shards; {directory} holds {len(files)} and no {INDEX_NAME}. "
                "The download did not finish: run it again."
            )


def _no_safetensors(directory: Path) -> CheckpointError:
    """The error for a directory without safetensors: by what it holds instead."""
    if not directory.is_dir():
        return WeightsNotFoundError(
            f"{directory} is not a directory. Give the directory that holds config.json."
        )
    for pattern, kind in (("*.bin", "PyTorch pickle"), ("*.pth", "PyTorch pickle"), ("*.gguf", "GGUF")):
        other = next(iter(sorted(directory.glob(pattern))), None)
        if other is not None:
            way = (
                CONVERT.format(given=str(directory))
                if kind != "GGUF"
                else "Use the model's original checkpoint: a GGUF file is already converted for another engine."
            )
            return WeightsNotFoundError(
                f"{directory} holds {kind} weights ({other.name}); agentlm reads only safetensors. {way}"
            )
    return WeightsNotFoundError(
        f"{directory} holds no *.safetensors file. Give a directory with weights in safetensors."
    )


def _map_file(file: Path) -> dict[str, TensorRef]:
    """Maps one safetensors file and checks its header against its size."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        head = handle.read(8)
        if head == b"version ":
            raise TruncatedFileError(
                f"{file} is a Git LFS pointer, not the file itself. Run `git lfs pull` there."
            )
        if len(head) < 8:
            raise TruncatedFileError(
                f"{file} has {size} bytes; a safetensors file has at least 8. Fetch it again."
            )
        length = struct.unpack("<Q", head)[0]
        if length > MAX_HEADER_BYTES:
            raise CorruptFileError(
                f"{file} claims a header of {length} bytes; at most {MAX_HEADER_BYTES} are allowed. "
                "It is not a safetensors file, or damaged: fetch it again."
            )
        if 8 + length > size:
            raise TruncatedFileError(
                f"{file} has {size} bytes; its header alone needs {8 + length}. The download did not finish: run it again."
            )
        try:
            header = json.loads(handle.read(length))
            if not isinstance(header, dict):
                raise ValueError("not a JSON object")
        except (ValueError, RecursionError) as error:
            raise CorruptFileError(
                f"The header of {file} is not valid JSON ({error}). Fetch it again."
            ) from error
        mapped = np.frombuffer(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
    header.pop("__metadata__", None)
    start, tensors, last = 8 + length, {}, 0
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(file, name, entry)
        if start + end > size:
            raise TruncatedFileError(
                f"{file} has {size} bytes; tensor {name!r} ends at byte {start + end}. "
                "The download did not finish: run it again."
            )
        last = max(last, end)
        tensors[name] = TensorRef(
            name=name,
            dtype=dtype,
            shape=shape,
            address=mapped.ctypes.data + start + begin,
            nbytes=end - begin,
            file=file,
            owner=mapped,
        )
    if start + last != size:
        raise CorruptFileError(
            f"{file} has {size} bytes; its tensors end at byte {start + last}. Its header is damaged: fetch it again."
        )
    return dict(sorted(tensors.items(), key=lambda item: item[1].address))


def _entry(file: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """One header entry as (dtype, shape, begin, end), checked against itself."""
    try:
        dtype, shape, (begin, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        numbers_fit = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(
            f"{file} describes tensor {name!r} as {entry!r}; dtype, shape and data_offsets are needed. Fetch it again."
        ) from error
    if not numbers_fit or (dtype in ELEMENT_BYTES and end - begin != math.prod(shape) * ELEMENT_BYTES[dtype]):
        raise CorruptFileError(
            f"{file} gives tensor {name!r} type {dtype}, shape {list(shape)} and bytes {begin}..{end}, which do not fit "
            "together. Fetch it again."
        )
    if end < begin:
        raise CorruptFileError(f"{file} gives tensor {name!r} bytes {begin}..{end}. Fetch it again.")
    return dtype, shape, begin, end
