"""Programmatic dependent launch (NVIDIA Hopper and newer): a kernel begins while the one before it ends.

A decode is hundreds of kernels of a few microseconds; what each needs to begin would be as much again. With it, a kernel's
programs are placed as those of the kernel before leave, and wait there until its results lie in memory. The rule that keeps it
right: **every** kernel launched so waits (`after_previous`) before it touches memory that another kernel writes, in
every program. Weights, which nobody writes, may be read before.
"""

import os

import torch
import triton
import triton.language as tl


@triton.jit
def after_previous(OVERLAP: tl.constexpr):
    """Waits until all kernels before this one have ended, and lets the next one be placed."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


def overlaps(device: torch.device) -> bool:
    """Whether kernels of this device may overlap; AGENTLM_OVERLAP=0 says no."""
    if device.type == "meta":
        target = triton.runtime.driver.active.get_current_target()
        return target.backend == "cuda" and int(target.arch) >= 90
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and os.environ.get("AGENTLM_OVERLAP", "1") != "0"
        and torch.cuda.get_device_capability(device) >= (9, 0)
    )


_FOUND: dict[torch.device, bool] = {}


def launched(device: torch.device) -> dict[str, bool]:
    """What a launcher passes to a kernel: its switch, and the launch's where there is one."""
    if device.type == "meta":
        found = overlaps(device)
    else:
        if device not in _FOUND:
            _FOUND[device] = overlaps(device)
        found = _FOUND[device]
    return {"OVERLAP": True, "launch_pdl": True} if found else {"OVERLAP": False}
