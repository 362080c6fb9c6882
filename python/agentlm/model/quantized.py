"""Checkpoints of narrow weights: what stands for a matrix, checked, and widened where nobody multiplies narrow ones.

A matrix `[out, in]` called `x.weight` is stored as `x.qweight` (eight codes in a word), `x.qzeros`, `x.scales` and, of
GPTQ, `x.g_idx`. GPTQ packs along `in`, `[in / 8, out]`; AWQ along `out`, `[in, out / 8]`, in an order of its own. Zero
points are packed along `out` by both, `[groups, out / 8]`; scales are `[groups, out]`. Refuses to know devices and torch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agentlm.errors import MissingTensorError, QuantizedModelError, TensorShapeError, UnexpectedTensorError
from agentlm.model.config import read_json
from agentlm.model.quantization import Quantization
from agentlm.model.weights import Checkpoint, TensorRef

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbouring rows the n-th four bits of an AWQ word are of."""
IN_A_WORD = 8
ROWS = 256
"""Rows that are widened at a time: in float32 they take several times their memory."""
NUMPY_DTYPES = {"F16": np.float16, "F32": np.float32, "I32": np.int32}


@dataclass(frozen=True, slots=True)
class NarrowRef(TensorRef):
    """A matrix of narrow numbers. `shape` is the matrix's own; `nbytes` are those of all its parts."""

    quantization: Quantization
    words: TensorRef
    zeros: TensorRef
    scales: TensorRef
    group_of_column: TensorRef | None
    """int32 `[in]`, of GPTQ."""

    def bytes(self) -> npt.NDArray[np.uint8]:
        """There are none as of one tensor: see the parts, or `widened`."""
        raise TypeError(f"{self.name} is stored in parts")


class QuantizedCheckpoint(Checkpoint):
    """A checkpoint some of whose matrices are narrow; `tensor` gives `NarrowRef` for these."""

    def __init__(self, directory: Path, tensors: Mapping[str, TensorRef], quantization: Quantization) -> None:
        """Use `open_checkpoint`."""
        super().__init__(directory, tensors)
        self.quantization = quantization

    def is_narrow(self, name: str) -> bool:
        """Whether a matrix, by its name `….weight`, is stored narrow."""
        return name.endswith(".weight") and f"{name.removesuffix('.weight')}.qweight" in self._tensors

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> TensorRef:
        """See `Checkpoint`; narrow matrices are a `NarrowRef`."""
        if not self.is_narrow(name):
            return super().tensor(name, shape)
        stem = name.removesuffix(".weight")
        words = self._tensors[f"{stem}.qweight"]
        scales = super().tensor(f"{stem}.scales")
        if len(words.shape) != 2:
            raise TensorShapeError(
                f"Tensor {words.name!r} in {words.file} is {words.dtype} {list(words.shape)}; the words of a narrow matrix "
                "have two dimensions. Fetch the checkpoint again."
            )
        is_awq = self.quantization.method == "awq"
        into = words.shape[0] * (1 if is_awq else IN_A_WORD)
        out = words.shape[-1] * (IN_A_WORD if is_awq else 1)
        if shape is not None and shape != (out, into):
            raise TensorShapeError(
                f"Tensor {words.name!r} in {words.file} is of a matrix {[out, into]}; config.json asks for {list(shape)}. "
                "The weights and config.json belong to different models: fetch both again."
            )
        if out % IN_A_WORD or not into:
            raise TensorShapeError(
                f"Tensor {words.name!r} in {words.file} is of {out} rows of {into} columns; zero points are stored for a "
                f"multiple of {IN_A_WORD} rows, and a row has columns. Use another quantization of the model."
            )
        groups = -(-into // (self.quantization.group or into))
        zeros = self._part(f"{stem}.qzeros", "I32", (groups, out // IN_A_WORD))
        self._part(words.name, "I32", (into, out // IN_A_WORD) if is_awq else (into // IN_A_WORD, out))
        self._part(scales.name, scales.dtype, (groups, out))
        parts = [words, zeros, scales]
        order = None
        if self.quantization.is_reordered or f"{stem}.g_idx" in self._tensors:
            order = self._part(f"{stem}.g_idx", "I32", (into,))
            parts.append(order)
        return NarrowRef(
            name, words.dtype, (out, into), words.address, sum(part.nbytes for part in parts), words.file, words.owner,
            self.quantization, words, zeros, scales, order,
        )  # fmt: skip

    def check(self, shapes: Mapping[str, tuple[int, ...]], ignored: Callable[[str], bool]) -> None:
        """See `Checkpoint`. Biases of narrow matrices that config.json does not know may be there if they are zeros."""
        expected: set[str] = set()
        for name, shape in shapes.items():
            self.tensor(name, shape)
            stem = name.removesuffix(".weight")
            expected |= {f"{stem}.{part}" for part in _PARTS} if self.is_narrow(name) else {name}
        for name in self._tensors:
            if name in expected or ignored(name):
                continue
            is_zero_bias = name.endswith(".bias") and f"{name.removesuffix('.bias')}.qweight" in expected
            if not is_zero_bias or self._tensors[name].bytes().any():
                raise UnexpectedTensorError(
                    f"{self._tensors[name].file} holds tensor {name!r}, which config.json has no place for; leaving it "
                    "out would compute another model. Check that config.json belongs to these weights."
                )

    def _part(self, name: str, dtype: str, shape: tuple[int, ...]) -> TensorRef:
        found = self._tensors.get(name)
        if found is None:
            raise MissingTensorError(
                f"The checkpoint {self.directory} lacks tensor {name!r}, a part of a narrow matrix. It is incomplete or "
                "its quantization_config is another model's: fetch it again."
            )
        if (found.dtype, found.shape) != (dtype, shape):
            raise TensorShapeError(
                f"Tensor {name!r} in {found.file} is {found.dtype} {list(found.shape)}; its quantization_config asks for "
                f"{dtype} {list(shape)}. Fetch both again."
            )
        return found


_PARTS = ("qweight", "qzeros", "scales", "g_idx")


class WidenedCheckpoint(Checkpoint):
    """A quantized checkpoint as one of float weights: narrow matrices become float16 when they are asked for."""

    def __init__(self, narrow: QuantizedCheckpoint) -> None:
        super().__init__(narrow.directory, narrow._tensors)
        self.narrow = narrow

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> TensorRef:
        """See `Checkpoint`; the memory of a widened matrix goes with its `TensorRef`."""
        found = self.narrow.tensor(name, shape)
        if not isinstance(found, NarrowRef):
            return found
        raw = widened(found).reshape(-1).view(np.uint8)
        return TensorRef(name, "F16", found.shape, raw.ctypes.data, raw.nbytes, found.file, raw)

    def nbytes_of(self, name: str) -> int:
        """See `Checkpoint`."""
        found = self.narrow.tensor(name)
        return 2 * found.shape[0] * found.shape[1] if isinstance(found, NarrowRef) else found.nbytes

    def tensors(self, progress: Callable[[int, int, str], None] | None = None) -> Iterator[TensorRef]:
        """Those that are stored, narrow or not."""
        return self.narrow.tensors(progress)

    def check(self, shapes: Mapping[str, tuple[int, ...]], ignored: Callable[[str], bool]) -> None:
        """See `Checkpoint`."""
        self.narrow.check(shapes, ignored)


def open_checkpoint(directory: str | Path) -> Checkpoint:
    """A checkpoint of float weights, or a `QuantizedCheckpoint` where config.json says so.

    Raises as `Checkpoint.open` does, and `QuantizedModelError` for narrow weights that are not read.
    """
    quantization = Quantization.read(read_json(Path(directory) / "config.json") or {})
    if quantization is None:
        return Checkpoint.open(directory)
    found = Checkpoint.map(directory)
    if not any(name.endswith(".qweight") for name in found):
        raise QuantizedModelError(
            f"{directory} holds no narrow weights, and its config.json says that they are {quantization.method}'s. "
            "Fetch both again."
        )
    return QuantizedCheckpoint(Path(directory), found, quantization)


def widened(matrix: NarrowRef) -> npt.NDArray[np.float16]:
    """`(code - zero point) * scale`, rounded once: `[out, in]`.

    Raises `QuantizedModelError` where the parts mean no number, or one that float16 does not hold.
    """
    how = matrix.quantization
    out, into = matrix.shape
    words, zeros, scales = (_array(part) for part in (matrix.words, matrix.zeros, matrix.scales))
    zero = _codes(zeros, how.method)
    if how.zeros_are_less_one:
        # None below zero is stored as fifteen.
        zero = (zero + np.uint8(1)) & np.uint8(15)
    size = how.group or into
    group: npt.NDArray[Any] = np.arange(into) // size
    if matrix.group_of_column is not None:
        group = _array(matrix.group_of_column)
        if len(wrong := group[(group < 0) | (group >= len(scales))]):
            raise QuantizedModelError(
                f"Tensor {matrix.group_of_column.name!r} in {matrix.file} puts a column into group {wrong[0]}; there are "
                f"{len(scales)} groups, from 0 on. Fetch the checkpoint again."
            )
    has_neighbours = into % size == 0 and bool((group == np.arange(into) // size).all())
    wide = np.empty((out, into), np.float16)
    scale, zero = scales.astype(np.float32).T, zero.T
    for start in range(0, out, ROWS):
        rows = slice(start, start + ROWS)
        if how.method == "awq":
            codes = _codes(words[:, start // IN_A_WORD : (start + ROWS) // IN_A_WORD], how.method).T
        else:
            codes = _codes(np.ascontiguousarray(words[:, rows].T), how.method)
        values = codes.astype(np.float32)
        # What is no number, or too large, is told below.
        with np.errstate(over="ignore", invalid="ignore"):
            if has_neighbours:
                # Their numbers need not be spread out.
                grouped = values.reshape(len(values), -1, size)
                grouped -= zero[rows, :, None]
                grouped *= scale[rows, :, None]
            else:
                values = (values - zero[rows][:, group]) * scale[rows][:, group]
            wide[rows] = values
        if not np.isfinite(wide[rows]).all():
            raise QuantizedModelError(
                f"{matrix.name!r} in {matrix.file} has numbers that float16, to which it is widened, does not hold. Fetch "
                "the checkpoint again, or use another quantization of the model."
            )
    return wide


def _codes(words: npt.NDArray[np.int32], method: str) -> npt.NDArray[np.uint8]:
    """The eight numbers of each word, in their own order: the last dimension becomes eight times as long."""
    shifts = np.arange(0, 32, 4, dtype=np.int32)
    if method == "awq":
        shifts = shifts[np.argsort(AWQ_ORDER)]
    found = (words[..., None] >> shifts & 15).astype(np.uint8)
    return found.reshape(*words.shape[:-1], -1)


def _array(tensor: TensorRef) -> npt.NDArray[Any]:
    # The map need not be aligned; a copy is.
    raw = tensor.bytes().copy()
    if tensor.dtype == "BF16":
        wide = raw.view(np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).reshape(tensor.shape)
    return raw.view(NUMPY_DTYPES[tensor.dtype]).reshape(tensor.shape)
