"""Writes and reads safetensors files byte by byte, so that tests can damage them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RawTensor = tuple[str, tuple[int, ...], bytes]
"""Element type, shape, bytes."""


def write_safetensors(file: Path, tensors: Mapping[str, RawTensor], **changes: Any) -> None:
    """Writes a file; `changes` replace entries of its header."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    encoded = json.dumps(header | changes).encode()
    body = b"".join(data for _, _, data in tensors.values())
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)


def read_tensors(file: Path) -> dict[str, RawTensor]:
    """All tensors of a sound file."""
    raw = file.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    return {
        name: (
            e["dtype"],
            tuple(e["shape"]),
            raw[start + e["data_offsets"][0] : start + e["data_offsets"][1]],
        )
        for name, e in header.items()
    }
