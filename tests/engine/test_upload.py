"""Weights on their way to a device: a staging buffer is filled again when its copy has ended, and not before."""

import pytest
import torch

from agentlm.ops import upload as uploads
from agentlm.ops.upload import Upload


class Queue:
    """Device memory that is written when somebody waits for it, as late as a GPU might."""

    def __init__(self, size):
        self.memory, self._waiting, self._done = torch.zeros(size, dtype=torch.uint8), [], 0

    def __getitem__(self, where):
        return _Piece(self, where)

    def put(self, where, source):
        self._waiting.append((where, source))

    def event(self):
        return _Event(self)

    def run(self, until):
        for where, source in self._waiting[self._done : until]:
            self.memory[where] = source
        self._done = max(self._done, until)

    @property
    def length(self):
        return len(self._waiting)


class _Piece:
    def __init__(self, queue, where):
        self._queue, self._where = queue, where

    def copy_(self, source, non_blocking):
        assert non_blocking, "the file is read meanwhile"
        self._queue.put(self._where, source)


class _Event:
    def __init__(self, queue):
        self._queue, self._at = queue, 0

    def record(self):
        self._at = self._queue.length

    def synchronize(self):
        self._queue.run(self._at)


@pytest.mark.parametrize("size", [3, 8, 16, 61])
def test_pieces_arrive_whole(monkeypatch, size):
    queue = Queue(2 * size)
    monkeypatch.setattr(uploads, "STAGE_BYTES", 8)
    monkeypatch.setattr(torch.cuda, "Event", queue.event)
    upload = Upload(torch.device("cpu"))
    upload._stages = [torch.zeros(8, dtype=torch.uint8) for _ in range(2)]
    given = torch.arange(2 * size, dtype=torch.uint8)
    upload._send(given[:size], Part(queue, 0))
    upload._send(given[size:], Part(queue, size))
    upload.finish()
    assert torch.equal(queue.memory, given)


def test_a_piece_is_read_while_the_one_before_crosses_the_bus(monkeypatch):
    queue = Queue(16)
    monkeypatch.setattr(uploads, "STAGE_BYTES", 8)
    monkeypatch.setattr(torch.cuda, "Event", queue.event)
    upload = Upload(torch.device("cpu"))
    upload._stages = [torch.zeros(8, dtype=torch.uint8) for _ in range(2)]
    upload._send(torch.arange(16, dtype=torch.uint8), queue)
    assert queue.length == 2
    assert not queue.memory.any(), "nobody has waited yet"


class Part:
    """A tensor of the device's, from `start` on."""

    def __init__(self, queue, start):
        self._queue, self._start = queue, start

    def __getitem__(self, where):
        return self._queue[slice(self._start + where.start, self._start + where.stop)]
