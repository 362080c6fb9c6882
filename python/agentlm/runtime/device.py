"""What a runner asks of a device besides kernels: page-locked memory, events, captured launches.

`Cuda` is an NVIDIA GPU. `Interpreted` is this machine's memory with Triton's interpreter for a GPU: it computes the same
step, slowly, and is what tests run. Refuses to know models and plans.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from agentlm.errors import BackendError


class Event(Protocol):
    """A point in the device's queue."""

    def record(self) -> None:
        """Sets the point behind all that was launched so far."""
        ...

    def synchronize(self) -> None:
        """Waits until the device is past it."""
        ...


class Graph(Protocol):
    """Launches that were captured."""

    def replay(self) -> None:
        """Launches them again."""
        ...


class Device(Protocol):
    """Where a runner computes."""

    place: torch.device
    name: str

    def enter(self) -> None:
        """Makes this thread launch to the device's queue, without gradients. To be called once by each launching thread."""
        ...

    def entered(self) -> AbstractContextManager[None]:
        """The same for a while: a caller's thread is left as it was."""
        ...

    def pin(self, array: npt.NDArray[Any]) -> Tensor:
        """A host tensor over `array`'s memory, page-locked until `release`."""
        ...

    def release(self) -> None:
        """Unlocks what was pinned."""
        ...

    def synchronize(self) -> None:
        """Waits for everything launched."""
        ...

    def event(self) -> Event:
        """A new event."""
        ...

    def capture(self, launches: Callable[[], None]) -> Graph:
        """Runs the launches once, so that all is compiled and allocated, then captures them."""
        ...

    def warm(self, launches: Callable[[], None]) -> None:
        """Runs launches whose results nobody wants, so that what they need is compiled."""
        ...

    def free_bytes(self) -> int:
        """Bytes that can be allocated."""
        ...

    def peak_of(self, run: Callable[[], None]) -> int:
        """Bytes that `run` needs at most beyond what was allocated before."""
        ...

    def give_back(self) -> None:
        """Gives memory that nothing holds any more back to the device, for other processes."""
        ...


class Cuda:
    """One NVIDIA GPU and one queue of it."""

    def __init__(self, index: int = 0) -> None:
        """Raises `BackendError` if there is no such GPU, or one older than Ampere."""
        if not torch.cuda.is_available():
            raise BackendError(
                "no NVIDIA GPU is usable: torch sees none. Check `nvidia-smi` and that torch was built for CUDA "
                f"(this one: {torch.version.cuda or 'without'}), or give backend='cpu'"
            )
        self.place = torch.device("cuda", index)
        self.name = torch.cuda.get_device_name(index)
        major, minor = torch.cuda.get_device_capability(index)
        if major < 8:
            raise BackendError(
                f"{self.name} has compute capability {major}.{minor}; 8.0 (Ampere) or newer is needed. "
                "Give backend='cpu'"
            )
        self._stream = torch.cuda.Stream(self.place)
        self._pool = torch.cuda.graph_pool_handle()
        self._pinned: list[Tensor] = []

    def enter(self) -> None:
        """See `Device`."""
        torch.cuda.set_device(self.place)
        torch.cuda.set_stream(self._stream)
        torch.set_grad_enabled(False)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """See `Device`."""
        with torch.cuda.device(self.place), torch.cuda.stream(self._stream), torch.no_grad():
            yield

    def pin(self, array: npt.NDArray[Any]) -> Tensor:
        """See `Device`."""
        tensor = torch.from_numpy(array)
        error = torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0)
        if int(error) != 0:
            raise BackendError(
                f"{tensor.nbytes} bytes of host memory cannot be page-locked: CUDA error {error}"
            )
        self._pinned.append(tensor)
        return tensor

    def release(self) -> None:
        """See `Device`."""
        for tensor in self._pinned:
            torch.cuda.cudart().cudaHostUnregister(tensor.data_ptr())
        self._pinned = []

    def synchronize(self) -> None:
        """See `Device`."""
        torch.cuda.synchronize(self.place)

    def event(self) -> Event:
        """See `Device`."""
        event: Event = torch.cuda.Event(blocking=True)
        return event

    def capture(self, launches: Callable[[], None]) -> Graph:
        """See `Device`. All graphs share one pool of memory: they never run at the same time."""
        launches()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # `torch.cuda.graph` would collect garbage and empty the cache at each capture: seconds for all of them.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            launches()
        finally:
            graph.capture_end()
        captured: Graph = graph
        return captured

    def warm(self, launches: Callable[[], None]) -> None:
        """See `Device`."""
        launches()
        self._stream.synchronize()

    def free_bytes(self) -> int:
        """See `Device`. What torch keeps for itself unused counts as free."""
        free, _total = torch.cuda.mem_get_info(self.place)
        kept = torch.cuda.memory_reserved(self.place) - torch.cuda.memory_allocated(self.place)
        return int(free) + int(kept)

    def peak_of(self, run: Callable[[], None]) -> int:
        """See `Device`."""
        torch.cuda.synchronize(self.place)
        before = torch.cuda.memory_allocated(self.place)
        torch.cuda.reset_peak_memory_stats(self.place)
        run()
        torch.cuda.synchronize(self.place)
        return int(torch.cuda.max_memory_allocated(self.place)) - before

    def give_back(self) -> None:
        """See `Device`."""
        self._pool = torch.cuda.graph_pool_handle()
        gc.collect()
        torch.cuda.empty_cache()


class _Done:
    """An event of a device that has computed everything by the time it is asked."""

    def record(self) -> None:
        """Nothing is in flight."""

    def synchronize(self) -> None:
        """Nothing is in flight."""


class _Again:
    """Launches that are simply run again."""

    def __init__(self, launches: Callable[[], None]) -> None:
        self.replay = launches


class Interpreted:
    """Triton's interpreter on this machine; `TRITON_INTERPRET=1` must be set before kernels are imported."""

    place = torch.device("cpu")
    name = "interpreter"

    def enter(self) -> None:
        """See `Device`."""
        torch.set_grad_enabled(False)

    def entered(self) -> AbstractContextManager[None]:
        """See `Device`."""
        return torch.no_grad()

    def pin(self, array: npt.NDArray[Any]) -> Tensor:
        """See `Device`."""
        return torch.from_numpy(array)

    def release(self) -> None:
        """Nothing was locked."""

    def synchronize(self) -> None:
        """Nothing is in flight."""

    def event(self) -> Event:
        """See `Device`."""
        return _Done()

    def capture(self, launches: Callable[[], None]) -> Graph:
        """See `Device`. Nothing is to be warmed up."""
        return _Again(launches)

    def warm(self, launches: Callable[[], None]) -> None:
        """Nothing is compiled."""

    def free_bytes(self) -> int:
        """A test's model is small."""
        return 1 << 30

    def peak_of(self, run: Callable[[], None]) -> int:
        """Runs it; host memory is not measured."""
        run()
        return 0

    def give_back(self) -> None:
        """Host memory goes with the tensors."""
