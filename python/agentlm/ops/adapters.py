"""Adapters (LoRA) on a GPU: for each stretch of a linear's outputs that is adapted, all adapters' matrices side by side.

A token names its adapter by number, so that one launch serves a batch of many. Tables have room for more than they hold:
loading an adapter then writes into memory that captured launches already read. Refuses to know files and requests.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agentlm.errors import ControlError
from agentlm.model.adapter import AdapterPart
from agentlm.ops.protocol import Linear
from agentlm.ops.upload import Upload
from agentlm_kernels.lora import lora

MIN_RANK = 16
"""What tensor cores multiply at least; lower ranks are filled up with zeros."""
MIN_ADAPTERS = 4
"""Adapters that the first table has room for."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The matrices of `n` outputs of one linear, from `offset` on."""

    offset: int
    a: Tensor
    """`[adapters, rank, in]`"""
    b: Tensor
    """`[adapters, n, rank]`"""
    scale: Tensor
    """`[adapters]`, float32; 0 where there is no adapter."""

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.a.nbytes + self.b.nbytes + self.scale.nbytes


class AdapterTables:
    """Every loaded adapter of one model. Adapter numbers start at 1; the engine gives the lowest free one."""

    def __init__(self, device: torch.device, dtype: torch.dtype, free_bytes: Callable[[], int]) -> None:
        self._device = device
        self._dtype = dtype
        self._free_bytes = free_bytes
        self._stretches: dict[Linear, dict[int, Stretch]] = {}
        self._adapters = 0
        self._rank = 0

    def load(self, number: int, parts: Sequence[AdapterPart], upload: Upload) -> bool:
        """Puts an adapter under its number; whether memory moved, so that captured launches are no longer right.

        Raises `ControlError` where the device has no room; nothing was changed then.
        """
        rank = max(self._rank, MIN_RANK, *(_power_of_two(part.a.shape[0]) for part in parts))
        adapters = max(self._adapters, MIN_ADAPTERS, _power_of_two(number))
        shapes = {
            (linear, offset): (stretch.b.shape[1], stretch.a.shape[2])
            for linear, found in self._stretches.items()
            for offset, stretch in found.items()
        }
        shapes |= {(part.linear, part.offset): (part.b.shape[0], part.a.shape[1]) for part in parts}
        held = sum(len(found) for found in self._stretches.values())
        has_moved = (rank, adapters) != (self._rank, self._adapters) or len(shapes) != held
        if has_moved:
            self._grow(adapters, rank, shapes)
        self._clear(number)
        for part in parts:
            stretch = self._stretches[part.linear][part.offset]
            own = part.a.shape[0]
            stretch.a[number - 1, :own].copy_(upload.rows([part.a], self._dtype))
            stretch.b[number - 1, :, :own].copy_(upload.rows([part.b], self._dtype))
            stretch.scale[number - 1] = part.scale
        upload.finish()
        return has_moved

    def unload(self, number: int) -> None:
        """Forgets an adapter; its place is the next one's of that number."""
        self._clear(number)

    def has(self, linear: Linear) -> bool:
        """Whether some adapter adds to this linear."""
        return linear in self._stretches

    def add(self, linear: Linear, x: Tensor, token_adapter: Tensor, y: Tensor) -> None:
        """Adds each token's adapter to `y` `[tokens, out]`, what `linear` gave for `x` `[tokens, in]`, in place."""
        for stretch in self._stretches.get(linear, {}).values():
            lora(x, token_adapter, stretch.a, stretch.b, stretch.scale, y, stretch.offset)

    def _grow(self, adapters: int, rank: int, shapes: dict[tuple[Linear, int], tuple[int, int]]) -> None:
        element = self._dtype.itemsize
        needed = sum(adapters * (rank * (n + k) * element + 4) for n, k in shapes.values())
        # Old tables and new ones are in memory at once.
        if needed > self._free_bytes():
            raise ControlError(
                f"{adapters} adapters of rank {rank} need {needed} bytes on the device, and {self._free_bytes()} are free. "
                "Unload some, or start with a smaller kv_cache_memory"
            )
        grown: dict[Linear, dict[int, Stretch]] = {}
        for (linear, offset), (n, k) in shapes.items():
            new = Stretch(
                offset,
                torch.zeros(adapters, rank, k, dtype=self._dtype, device=self._device),
                torch.zeros(adapters, n, rank, dtype=self._dtype, device=self._device),
                torch.zeros(adapters, dtype=torch.float32, device=self._device),
            )
            old = self._stretches.get(linear, {}).get(offset)
            if old is not None:
                new.a[: self._adapters, : self._rank].copy_(old.a)
                new.b[: self._adapters, :, : self._rank].copy_(old.b)
                new.scale[: self._adapters].copy_(old.scale)
            grown.setdefault(linear, {})[offset] = new
        self._stretches, self._adapters, self._rank = grown, adapters, rank

    def _clear(self, number: int) -> None:
        for found in self._stretches.values():
            for stretch in found.values():
                stretch.a[number - 1].zero_()
                stretch.b[number - 1].zero_()
                stretch.scale[number - 1] = 0.0


def _power_of_two(value: int) -> int:
    return 1 << math.ceil(math.log2(max(value, 1)))
