"""Kernels are tested on a GPU where there is one, else in Triton's interpreter."""

import math

import pytest
import torch

from tests.kernels.interpreter import interpret_without_gpu

# Before any kernel is imported.
interpret_without_gpu()

BAND = 16384
"""Bytes on either side of a guarded tensor: a row of an activation."""
NAMES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "fp8",
    torch.int32: "int32",
    torch.int8: "int8",
}


def pytest_make_parametrize_id(val: object) -> str | None:
    """Types are named as the field names them, instead of `dtype0`."""
    return NAMES.get(val) if isinstance(val, torch.dtype) else None


class Guarded:
    """A tensor full of `fill` between two bands that nobody may write: of NaN, or of large integers."""

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, fill: float = math.nan
    ) -> None:
        band = torch.full((dtype.itemsize,), 0x5A, dtype=torch.uint8)
        if dtype.is_floating_point:
            band = torch.tensor([math.nan]).to(dtype).view(torch.uint8)
        is_band = math.isnan(fill) and not dtype.is_floating_point
        inside = band if is_band else torch.tensor([fill]).to(dtype).view(torch.uint8)
        size = math.prod(shape) * dtype.itemsize
        around = band.repeat(BAND // dtype.itemsize)
        self._before = torch.cat((around, inside.repeat(math.prod(shape)), around))
        self._whole = self._before.clone().to(device)
        self.tensor = self._whole[BAND : BAND + size].view(dtype).view(shape)

    def check(self) -> None:
        """Raises an AssertionError if a byte of the bands is not what it was."""
        is_changed = self._whole.cpu() != self._before
        for name, band in (("before its beginning", is_changed[:BAND]), ("past its end", is_changed[-BAND:])):
            at = band.nonzero().flatten().tolist()
            assert not at, f"{len(at)} bytes are written {name}: {at[0]} to {at[-1]} of {BAND}"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def guarded(device):
    """Makes guarded tensors: `guarded(shape, dtype, fill=nan)`."""
    return lambda shape, dtype, fill=math.nan: Guarded(shape, dtype, device, fill)
