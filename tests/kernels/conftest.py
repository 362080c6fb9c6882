"""Kernels are tested on a GPU where there is one, else in Triton's interpreter."""

import math

import pytest
import torch

from tests.kernels.interpreter import interpret_without_gpu

# Before any kernel is imported.
interpret_without_gpu()

GUARD = 64
"""Elements on either side of a guarded tensor."""


class Guarded:
    """A tensor of NaN between two bands of NaN; nobody may write the bands."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        n = math.prod(shape)
        self._whole = torch.full((n + 2 * GUARD,), float("nan"), dtype=dtype, device=device)
        self.tensor = self._whole[GUARD : GUARD + n].view(shape)

    def check(self) -> None:
        assert self._whole[:GUARD].isnan().all(), "written before its beginning"
        assert self._whole[-GUARD:].isnan().all(), "written past its end"


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def guarded(device):
    """Makes guarded tensors: `guarded(shape, dtype)`."""
    return lambda shape, dtype: Guarded(shape, dtype, device)
