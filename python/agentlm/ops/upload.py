"""Weights on their way to a device: from the file's map through page-locked memory. Refuses to know what they mean."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from agentlm.model.weights import TensorRef
from agentlm.ops.dtypes import STORED_DTYPES

STAGE_BYTES = 64 << 20
"""Bytes of one of the two staging buffers: large enough for the bus, small enough to be page-locked in no time."""


class Upload:
    """Copies tensors to `device`. While one piece crosses the bus the next is read from the file."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stages: list[Tensor] = []
        self._free: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0

    def rows(self, tensors: Sequence[TensorRef], dtype: torch.dtype) -> Tensor:
        """The tensors below each other, converted to `dtype`: `[sum of rows, …]`."""
        shape = (sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:])
        whole = torch.empty(shape, dtype=dtype, device=self.device)
        start = 0
        for tensor in tensors:
            part = whole[start : start + tensor.shape[0]]
            start += tensor.shape[0]
            self._copy(tensor, part)
        return whole

    def _copy(self, tensor: TensorRef, part: Tensor) -> None:
        kind = STORED_DTYPES[tensor.dtype]
        with warnings.catch_warnings():
            # torch has no read-only tensors and says so; nobody writes to this one.
            warnings.simplefilter("ignore", UserWarning)
            raw = torch.from_numpy(tensor.bytes())
        if self.device.type != "cuda":
            # The map need not be aligned; a copy is.
            part.copy_(raw.clone().view(kind).view(tensor.shape))
            return
        same = kind == part.dtype
        target = part if same else torch.empty(tensor.shape, dtype=kind, device=self.device)
        self._send(raw, target.view(-1).view(torch.uint8))
        if not same:
            part.copy_(target)

    def _send(self, raw: Tensor, target: Tensor) -> None:
        if not self._stages:
            self._stages = [torch.empty(STAGE_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        for start in range(0, raw.numel(), STAGE_BYTES):
            piece = raw[start : start + STAGE_BYTES]
            stage = self._stages[self._turn][: piece.numel()]
            if (sent := self._free[self._turn]) is not None:
                sent.synchronize()
            # torch copies with all its threads.
            stage.copy_(piece)
            target[start : start + piece.numel()].copy_(stage, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._free[self._turn] = event
            self._turn ^= 1

    def finish(self) -> None:
        """Waits for what is on its way, and frees the staging memory."""
        for event in self._free:
            if event is not None:
                event.synchronize()
        self._stages, self._free = [], [None, None]
