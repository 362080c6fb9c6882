"""Triton's interpreter, mended for narrow floats, so that kernels can be tested where there is no GPU.

The interpreter keeps bfloat16 as the integers of its bits: it calculates with those, and cuts instead of rounding when it
narrows; its rounding to float8 loses carries. GPUs widen, calculate in float32 and round to nearest even, and so does the
mended one. It is written against Triton 3.6 to 3.9. Refuses to know kernels.
"""

import os
from typing import Any

import numpy as np
import torch


def interpret_without_gpu() -> bool:
    """Makes kernels that are imported from now on run in the interpreter, if there is no GPU; whether it does.

    Triton decides this when a kernel is decorated, those of its own library too: nothing may import triton before.
    """
    if torch.cuda.is_available():
        return False
    os.environ["TRITON_INTERPRET"] = "1"
    _mend()
    return True


def widened(bits: Any) -> Any:
    """The float32 numbers of bfloat16 bits (uint16)."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def narrowed(values: Any) -> Any:
    """The bits of float32 numbers rounded to the nearest bfloat16, of two equally near ones to the even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).reshape(np.shape(values))
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def widened_float8(bits: Any, dtype: torch.dtype) -> Any:
    """The float32 numbers of float8 bits (uint8)."""
    return torch.from_numpy(np.array(bits, order="C")).view(dtype).float().numpy()


def narrowed_float8(values: Any, dtype: torch.dtype) -> Any:
    """The bits of float32 numbers rounded to the nearest float8; past the largest, to the largest, as GPUs do."""
    wide = torch.from_numpy(np.array(values, dtype=np.float32, order="C"))
    largest = torch.finfo(dtype).max
    return wide.clamp(-largest, largest).to(dtype).view(torch.uint8).numpy()


def _mend() -> None:
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    if isinstance(tl.sum, JITFunction):
        raise RuntimeError(
            "triton was imported before TRITON_INTERPRET was set, so that its own library would be compiled: "
            "set TRITON_INTERPRET=1 from the start"
        )
    builder: Any = interpreter.InterpreterBuilder
    if getattr(builder, "is_mended", False):
        return
    handle = interpreter.TensorHandle
    float8 = {tl.float8e4nv: torch.float8_e4m3fn, tl.float8e5: torch.float8_e5m2}
    stored = {tl.bfloat16: np.uint16, tl.float8e4nv: np.uint8, tl.float8e5: np.uint8}

    def wide(operand: Any) -> Any:
        """The operand in float32 where it is narrow. What a comparison gave is labelled as its operands were."""
        kind, data = operand.dtype.scalar, operand.data
        # Not `stored.get`: numpy takes None for float64.
        if kind not in stored or data.dtype != stored[kind]:
            return operand
        return handle(
            widened(data) if kind == tl.bfloat16 else widened_float8(data, float8[kind]), tl.float32
        )

    def narrow(data: Any, kind: Any) -> Any:
        return handle(narrowed(data) if kind == tl.bfloat16 else narrowed_float8(data, float8[kind]), kind)

    def in_float32(name: str) -> None:
        """Makes a method of the builder widen bfloat16 operands and round what comes out."""
        old = getattr(builder, name)

        def calculate(self: Any, *args: Any) -> Any:
            operands = [a for a in args if isinstance(a, handle)]
            if not any(a.dtype.scalar == tl.bfloat16 and a.data.dtype == np.uint16 for a in operands):
                return old(self, *args)
            result = old(self, *(wide(a) if isinstance(a, handle) else a for a in args))
            return (
                handle(result.data, tl.int1)
                if result.data.dtype == np.bool_
                else narrow(result.data, tl.bfloat16)
            )

        setattr(builder, name, calculate)

    for name in ("binary_op", "unary_op", "create_rsqrt", "create_erf", "create_fma", "create_clampf"):
        in_float32(name)

    old_dot, old_cast, old_fp = builder.create_dot, builder.cast_impl, builder.create_fp_to_fp

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return old_dot(self, wide(a), wide(b), *rest)

    def cast_impl(self: Any, src: Any, target: Any) -> Any:
        widest = wide(src)
        if target.scalar not in stored:
            return old_cast(self, widest, target)
        return narrow(widest.data.astype(np.float32), target.scalar)

    def create_fp_to_fp(self: Any, src: Any, target: Any, rounding: Any) -> Any:
        if rounding is not None and "RTZ" in str(rounding):
            return old_fp(self, src, target, rounding)
        known = {tl.float16, tl.float32, tl.float64, *stored}
        if src.dtype.scalar not in known or target.scalar not in known:
            return old_fp(self, src, target, rounding)
        return cast_impl(self, src, target)

    def get_bf16(self: Any, value: float) -> Any:
        return narrow(np.array([value], np.float32), tl.bfloat16)

    builder.create_dot, builder.cast_impl, builder.create_fp_to_fp = create_dot, cast_impl, create_fp_to_fp
    builder.get_bf16 = get_bf16
    builder.is_mended = True
