"""How the two ends of a sandbox talk: JSON with a length before it and file descriptors beside it. Knows no meanings.

Standard library only.
"""

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("=I")
MOST = 64 << 20
"""Bytes of one message; a longer one is a defect or an attack."""


def send(channel: socket.socket, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    """One message. Raises OSError if the other end is gone."""
    body = json.dumps(message).encode()
    socket.send_fds(channel, [_LENGTH.pack(len(body))], list(descriptors))
    channel.sendall(body)


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One message and the descriptors that came with it; None when the other end is gone.

    Raises:
        ValueError: What came is no message.
    """
    head, descriptors, _, _ = socket.recv_fds(channel, _LENGTH.size, 8)
    while 0 < len(head) < _LENGTH.size:
        more = channel.recv(_LENGTH.size - len(head))
        if not more:
            return None
        head += more
    if not head:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MOST:
        raise ValueError(f"a message of {length} bytes; the most is {MOST}")
    body = bytearray()
    while len(body) < length:
        part = channel.recv(min(length - len(body), 1 << 20))
        if not part:
            return None
        body += part
    message = json.loads(bytes(body))
    if not isinstance(message, dict):
        raise ValueError("a message is not a JSON object")
    return message, descriptors
