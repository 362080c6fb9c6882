"""Narrow matrices of GPTQ and AWQ checkpoints on their way to a device, in the layout of our kernels. Refuses to widen."""

from collections.abc import Sequence

from agentlm.errors import QuantizedModelError
from agentlm.model.quantized import NarrowRef
from agentlm.model.weights import TensorRef
from agentlm.ops.dtypes import STORED_DTYPES
from agentlm.ops.upload import Upload
from agentlm_kernels.quantized_linear import QuantizedWeight, concatenate, from_awq, from_gptq

OTHERWISE = "Use another quantization of the model, or backend='cpu', which widens it."
MULTIPLE = 128
"""Groups of columns are 32, 64 or a multiple of so many: what the kernels unpack together."""


def narrow_weight(matrix: NarrowRef, upload: Upload) -> QuantizedWeight:
    """The matrix as the kernels read it. Raises `QuantizedModelError` where they cannot."""
    how, columns = matrix.quantization, matrix.shape[1]
    group = how.group or columns
    if group not in (32, 64) and group % MULTIPLE:
        raise QuantizedModelError(
            f"{matrix.words.name!r} in {matrix.file} has groups of {group} columns; on a GPU they are 32, 64 or a multiple "
            f"of {MULTIPLE}. {OTHERWISE}"
        )
    words, zeros, scales = (
        upload.rows([part], STORED_DTYPES[part.dtype]) for part in (matrix.words, matrix.zeros, matrix.scales)
    )
    if how.method == "awq":
        return from_awq(words, zeros, scales, group)
    order = matrix.group_of_column
    g_idx = None if order is None else upload.rows([order], STORED_DTYPES[order.dtype])
    try:
        return from_gptq(words, zeros, scales, g_idx, how.zeros_are_less_one, group)
    except ValueError as error:
        raise QuantizedModelError(f"{matrix.words.name!r} in {matrix.file}: {error}") from error


def put_together(narrow: Sequence[QuantizedWeight], weights: Sequence[TensorRef]) -> QuantizedWeight:
    """Matrices that are multiplied as one. Raises `QuantizedModelError` where they cannot be."""
    names = ", ".join(weight.name for weight in weights)
    try:
        return concatenate(narrow)
    except ValueError as error:
        raise QuantizedModelError(f"{names} are computed as one matrix, but {error}. {OTHERWISE}") from error
