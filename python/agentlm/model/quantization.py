"""How a checkpoint's weights were narrowed, read from config.json's `quantization_config`. Refuses to know tensors.

Read are GPTQ and AWQ of four bits, as AutoGPTQ, GPTQModel and AutoAWQ write them. Whatever else narrows weights, or would
change what the numbers mean, is refused with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from agentlm.errors import QuantizedModelError, shown

BITS = 4
METHODS = ("gptq", "awq")


@dataclass(frozen=True, slots=True)
class Quantization:
    """One checkpoint's narrow weights: codes of four bits, a scale and a zero point for each group of a row's columns."""

    method: str
    """One of `METHODS`."""
    group: int
    """Columns that share a scale; 0: all of a row."""
    zeros_are_less_one: bool = False
    """Zero points are stored less one: the first version of GPTQ's format."""
    is_reordered: bool = False
    """Groups are of columns in an order of their own (`desc_act`), which the tensors `g_idx` give."""

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Self | None:
        """What config.json says; None where weights are of their own type. Raises `QuantizedModelError`."""
        given = config.get("quantization_config") or config.get("compression_config")
        if not given:
            return None
        if not isinstance(given, Mapping):
            raise _refused(f"its quantization_config is {shown(given)}, no JSON object")
        method = given.get("quant_method", "unknown")
        if method not in METHODS:
            raise _refused(f"method {shown(method)}; {' and '.join(METHODS)} are read")
        bits = given.get("bits", given.get("w_bit"))
        if bits != BITS:
            raise _refused(f"{method} of {shown(bits)} bits; {BITS} are read")
        group = given.get("group_size", given.get("q_group_size"))
        if type(group) is not int or (group != -1 and group <= 0):
            raise _refused(
                f"group_size = {shown(group)}; a positive integer, or -1 for whole rows, is needed"
            )
        group = max(group, 0)
        return cls._awq(given, group) if method == "awq" else cls._gptq(given, group)

    @classmethod
    def _gptq(cls, given: Mapping[str, Any], group: int) -> Self:
        layout = "marlin" if given.get("is_marlin_format") else given.get("checkpoint_format", "gptq")
        if layout not in ("gptq", "gptq_v2"):
            raise _refused(f"GPTQ in the layout {shown(layout)}; 'gptq' and 'gptq_v2' are read")
        if given.get("pack_dtype", "int32") != "int32":
            raise _refused(f"GPTQ packed in {shown(given['pack_dtype'])}; 'int32' is read")
        if given.get("lm_head"):
            raise _refused("a head that was narrowed with the layers")
        if given.get("dynamic"):
            raise _refused("settings that differ from layer to layer ('dynamic')")
        return cls("gptq", group, layout == "gptq", bool(given.get("desc_act")))

    @classmethod
    def _awq(cls, given: Mapping[str, Any], group: int) -> Self:
        version = str(given.get("version", "gemm")).lower()
        if version != "gemm":
            raise _refused(f"AWQ in the layout {shown(version)}; 'gemm' is read")
        if given.get("backend", "autoawq") != "autoawq":
            raise _refused(f"AWQ written by {shown(given['backend'])}; AutoAWQ's layout is read")
        if not given.get("zero_point", True):
            raise _refused("AWQ without zero points")
        return cls("awq", group)


def _refused(what: str) -> QuantizedModelError:
    return QuantizedModelError(
        f"config.json says that the weights are quantized: {what}. Use another quantization of the model, or the model "
        "that this one was quantized from."
    )
