"""The part `quantized`: products with narrow weights, by the bytes of these, beside bfloat16 and torch's own int4."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.gpu.child import Say, Setup
from bench.gpu.timing import seconds_of, sets_for

SHAPES = ((28672, 4096), (4096, 14336))
"""Rows and columns of a weight: gate and up, and down of Llama-3-8B."""
ROWS = (1, 16, 256)
BITS = {"int8": 8, "int4": 4, "fp8": 8}
GROUP = 128


def run(setup: Setup, say: Say) -> None:
    """Every kind at every number of rows of x, the general product first."""
    shapes = ((64, 256),) if setup.rehearse else SHAPES if setup.long else SHAPES[:1]
    for n, k in shapes:
        weight = torch.randn(n, k, dtype=setup.dtype, device=setup.device) * k**-0.5
        beside: dict[int, float] = {}
        with say.case(f"bf16 {n}x{k}"):
            _measure(f"bf16 {n}x{k}", weight, setup, say, beside, weight.nbytes, lambda w: w, _multiply)
        for kind, bits in BITS.items():
            with say.case(f"{kind} {n}x{k}"):
                ours = importlib.import_module("agentlm_kernels.quantized_linear")
                quantize = getattr(ours, f"quantize_{kind}")
                _measure(
                    f"{kind} {n}x{k}",
                    weight,
                    setup,
                    say,
                    beside,
                    n * k * bits // 8,
                    quantize,
                    ours.quantized_linear,
                )
        with say.case(f"torch int4 {n}x{k}"):
            _measure(
                f"torch int4 {n}x{k}",
                weight,
                setup,
                say,
                beside,
                n * k // 2,
                _torch_int4,
                _torch_int4_multiply,
            )


def _multiply(x: Tensor, weight: Tensor) -> Tensor:
    return torch.nn.functional.linear(x, weight)


def _measure(
    name: str, weight: Tensor, setup: Setup, say: Say, beside: dict[int, float], read: int,
    prepare: Callable[[Tensor], Any], multiply: Callable[[Tensor, Any], Tensor],
) -> None:  # fmt: skip
    """Times at each number of rows; `beside` is filled by the general product, and read by the others."""
    sets = min(sets_for(read, setup.rehearse), 8)
    operands = [prepare(weight if i == 0 else weight.clone()) for i in range(sets)]
    is_first = not beside
    for m in (2,) if setup.rehearse else ROWS:
        x = torch.randn(m, weight.shape[1], dtype=setup.dtype, device=setup.device)
        seconds = seconds_of(_call(multiply, x, operands), sets)
        exact = x.float() @ weight.float().t()
        error = float((multiply(x, operands[0]).float() - exact).norm() / exact.norm())
        if is_first:
            beside[m] = seconds
        say(
            f"{name}, {m} rows",
            us=seconds * 1e6,
            gb_per_s=read / seconds / 1e9,
            of_read=setup.of_read(read / seconds),
            times_bf16=beside.get(m, seconds) / seconds,
            error=None if error == error else "its result is not finite",
            relative_error=error,
        )


def _call(
    multiply: Callable[[Tensor, Any], Tensor], x: Tensor, operands: list[Any]
) -> Callable[[int], object]:
    return lambda i: multiply(x, operands[i])


def _torch_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounded to 16 steps a group, in the packing that torch's kernel reads."""
    n, k = weight.shape
    groups = weight.float().view(n, k // GROUP, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).clamp(min=1e-6)
    steps = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.int32).view(n, k)
    packed = (steps[:, ::2] << 4 | steps[:, 1::2]).to(torch.uint8)
    # The kernel multiplies steps minus 8.
    scales_zeros = torch.stack((scale, low + 8 * scale), -1).transpose(0, 1).contiguous().to(weight.dtype)
    return torch.ops.aten._convert_weight_to_int4pack(packed, 8), scales_zeros


def _torch_int4_multiply(x: Tensor, weight: tuple[Tensor, Tensor]) -> Tensor:
    y: Tensor = torch.ops.aten._weight_int4pack_mm(x, weight[0], GROUP, weight[1])
    return y
