"""Triton's interpreter, mended for bfloat16, so that kernels can be tested where there is no GPU.

The interpreter keeps bfloat16 as the integers of its bits: it would multiply those in a dot, and cuts instead of rounding when it
narrows. Kernels do arithmetic in float32 and use bfloat16 at loads, stores and as operands of a dot alone, so that these two
places are all that is to be mended.
"""

import os
from typing import Any

import numpy as np
import torch


def interpret_without_gpu() -> bool:
    """Makes kernels that are imported from now on run in the interpreter, if there is no GPU; whether it does."""
    if torch.cuda.is_available():
        return False
    os.environ["TRITON_INTERPRET"] = "1"
    _mend()
    return True


def widened(bits: Any) -> Any:
    """The float32 numbers of bfloat16 bits (uint16)."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrowed(values: Any) -> Any:
    """The bits of float32 numbers rounded to the nearest bfloat16, of two equally near ones to the even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def _mend() -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    if getattr(builder, "is_mended", False):
        return
    handle, old_dot = interpreter.TensorHandle, builder.create_dot
    old_cast, old_fp = builder.cast_impl, builder.create_fp_to_fp

    def wide(operand: Any) -> Any:
        if operand.dtype.scalar == tl.bfloat16:
            return handle(widened(operand.data), tl.float32)
        return operand

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return old_dot(self, wide(a), wide(b), *rest)

    def converted(src: Any, target: Any) -> Any:
        kinds = src.dtype.scalar, target.scalar
        if kinds == (tl.float32, tl.bfloat16):
            return handle(narrowed(src.data), tl.bfloat16)
        if kinds == (tl.bfloat16, tl.float32):
            return handle(widened(src.data), tl.float32)
        return None

    def cast_impl(self: Any, src: Any, target: Any) -> Any:
        found = converted(src, target)
        return old_cast(self, src, target) if found is None else found

    def create_fp_to_fp(self: Any, src: Any, target: Any, rounding: Any) -> Any:
        found = converted(src, target)
        return old_fp(self, src, target, rounding) if found is None else found

    builder.create_dot, builder.cast_impl, builder.create_fp_to_fp = create_dot, cast_impl, create_fp_to_fp
    builder.is_mended = True
