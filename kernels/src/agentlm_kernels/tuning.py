"""Launch parameters measured on real GPUs, as data: `tuned/<GPU name>.json`. Nothing is tuned at run time.

A file maps a kernel's name to a map from a shape's key to its parameters. Where there is no entry, kernels choose by rule.
"""

import json
from functools import cache
from importlib import resources

import torch


def tuned(kernel: str, key: str) -> dict[str, int] | None:
    """The parameters measured for a kernel at a shape on this process's GPU; None if there are none."""
    return _table(_gpu_name()).get(kernel, {}).get(key)


@cache
def _gpu_name() -> str:
    return torch.cuda.get_device_name().replace(" ", "-") if torch.cuda.is_available() else ""


@cache
def _table(gpu: str) -> dict[str, dict[str, dict[str, int]]]:
    file = resources.files("agentlm_kernels") / "tuned" / f"{gpu}.json"
    if not gpu or not file.is_file():
        return {}
    table: dict[str, dict[str, dict[str, int]]] = json.loads(file.read_text())
    return table
