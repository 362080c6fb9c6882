"""A quantizer of four bits, from the formats' definitions: checkpoints of GPTQ and AWQ, and the same model widened.

Numbers are rounded to the nearest code, without any of the methods' cleverness: what is tested is how they are stored.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

Floats = npt.NDArray[np.float32]
AWQ_PLACES = {0: 0, 2: 1, 4: 2, 6: 3, 1: 4, 3: 5, 5: 6, 7: 7}
"""Of each of eight neighbouring outputs, which four bits of an AWQ word it is in."""


@dataclass(frozen=True)
class Format:
    """A kind of quantized checkpoint."""

    method: str
    group: int = 32
    """-1: whole rows."""
    symmetric: bool = False
    reordered: bool = False
    version: int = 1

    @property
    def config(self) -> dict[str, Any]:
        """`quantization_config` of config.json."""
        common = {"quant_method": self.method, "bits": 4, "group_size": self.group}
        if self.method == "awq":
            return common | {"version": "gemm", "zero_point": True, "modules_to_not_convert": None}
        return common | {
            "desc_act": self.reordered,
            "sym": self.symmetric,
            "checkpoint_format": "gptq" if self.version == 1 else "gptq_v2",
        }


def write(base: Path, directory: Path, how: Format, keep: tuple[str, ...] = ()) -> Path:
    """Quantizes the linears of `base` into `directory`, and writes them widened into `directory`-widened.

    Linears with a name of `keep` in theirs stay as they are.
    """
    beside = directory.with_name(directory.name + "-widened")
    for place in (directory, beside):
        shutil.copytree(base, place)
    narrow, wide = {}, {}
    for name, weight in load_file(base / "model.safetensors").items():
        if not name.endswith("_proj.weight") or any(word in name for word in keep):
            narrow[name] = wide[name] = weight.astype(np.float16)
            continue
        parts, values = quantize(weight, how)
        narrow |= {name.replace("weight", part): x for part, x in parts.items()}
        wide[name] = values
    save_file(narrow, directory / "model.safetensors", metadata={"format": "pt"})
    save_file(wide, beside / "model.safetensors", metadata={"format": "pt"})
    for place in (directory, beside):
        config = json.loads((base / "config.json").read_text()) | {"dtype": "float16"}
        if place == directory:
            config["quantization_config"] = how.config
        (place / "config.json").write_text(json.dumps(config))
    return directory


def quantize(weight: Floats, how: Format) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float16]]:
    """A matrix `[out, in]` as its stored parts, and what these mean in float16."""
    out, into = weight.shape
    size = into if how.group == -1 else how.group
    # Columns of a group need not be neighbours.
    order = np.random.default_rng(into).permutation(into) if how.reordered else np.arange(into)
    group_of = np.empty(into, np.int32)
    group_of[order] = np.arange(into) // size
    groups = int(group_of.max()) + 1
    scales, zeros = np.zeros((groups, out), np.float16), np.zeros((groups, out), np.int64)
    for group in range(groups):
        own = weight[:, group_of == group].astype(np.float64)
        low, high = np.minimum(own.min(1), 0), np.maximum(own.max(1), 0)
        if how.symmetric:
            high = np.maximum(-low, high)
            low = -high
        scales[group] = np.maximum((high - low) / 15, 1e-6)
        zeros[group] = 8 if how.symmetric else np.rint(-low / scales[group]).clip(0, 15)
    scale, zero = scales[group_of].T.astype(np.float64), zeros[group_of].T
    codes = (np.rint(weight / scale) + zero).clip(0, 15).astype(np.int64)
    values = ((codes - zero) * scale).astype(np.float16)
    if how.method == "awq":
        return {"qweight": _pack_awq(codes.T), "qzeros": _pack_awq(zeros), "scales": scales}, values
    stored = (zeros - 1) & 15 if how.version == 1 else zeros
    parts = {"qweight": np.ascontiguousarray(_pack(codes).T), "qzeros": _pack(stored), "scales": scales}
    return parts | {"g_idx": group_of}, values


def _pack(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Eight neighbours of the last dimension in a word, the first in its lowest bits."""
    eights = codes.reshape(*codes.shape[:-1], -1, 8)
    words = sum(eights[..., i] << 4 * i for i in range(8))
    return np.asarray(words, np.uint32).view(np.int32)


def _pack_awq(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    eights = codes.reshape(*codes.shape[:-1], -1, 8)
    words = sum(eights[..., i] << 4 * place for i, place in AWQ_PLACES.items())
    return np.ascontiguousarray(words, np.uint32).view(np.int32)
