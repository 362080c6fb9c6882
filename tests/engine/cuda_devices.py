"""Triton's interpreter in a GPU's place, for whole engines. Refuses to know models and requests.

Nothing may import agentlm's kernels before `interpret_without_gpu` has been asked.
"""

from agentlm.runtime import device as devices

UNKNOWN = 0x7FFFFFFF
"""What the host finds in a results slot before the device has written it."""


class LateResults(devices.Interpreted):
    """The interpreter, whose results reach the host when their event is waited for and no sooner, as a GPU's do.

    What lies in the ring when an event is recorded is hidden until then; what is written afterwards comes too late.
    """

    def __init__(self):
        self._pinned = []

    def pin(self, array):
        self._pinned.append(array)
        if len(self._pinned) == 2:
            array[:] = UNKNOWN
        return super().pin(array)

    def event(self):
        # The runner pins the plans' ring, then the results'.
        return _Arrival(self._pinned[1])


class _Arrival:
    """An event behind which some slots of a ring become known."""

    def __init__(self, ring):
        self._ring, self._hidden = ring, {}

    def record(self):
        written = (self._ring != UNKNOWN).any(axis=1).nonzero()[0]
        self._hidden = {slot: self._ring[slot].copy() for slot in written}
        self._ring[written] = UNKNOWN

    def synchronize(self):
        for slot, words in self._hidden.items():
            self._ring[slot] = words
