"""Every kernel compiles for GPUs that are not here, within the registers and memory that are recorded.

`AGENTLM_COMPILE_TARGETS` names targets of `compile_gate.py`, separated by commas, or is `all`; without it, Hopper.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.compile_cases import CASES
from tests.kernels.compile_gate import Kernel, Outcome, faults, read_table

GATE = Path(__file__).with_name("compile_gate.py")


@pytest.mark.slow
def test_kernels_compile_within_what_is_recorded():
    targets = os.environ.get("AGENTLM_COMPILE_TARGETS", "sm_90").split(",")
    command = [sys.executable, str(GATE), *(word for target in targets for word in ("--target", target))]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout


def outcome(**changed):
    counts = dict.fromkeys(("wgmma", "mma", "tcgen05", "async16", "load16", "store16"), 1)
    given = {"registers": 100, "spills": 0, "shared": 10000, "grid": (1,), "counts": counts} | changed
    kernel = Kernel(name="_norm", warps=4, stages=2, blocks=1, seconds=0.0, **given)
    return Outcome("norm", "sm_90", [kernel])


RECORDED = {"norm:_norm": {"registers": 100, "spills": 0, "shared": 10000}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"registers": 108, "shared": 11000}, ""),
        ({"registers": 109}, "takes 109 registers, 100 before"),
        ({"spills": 8}, "spills 8 bytes, 0 before"),
        ({"shared": 11001}, "takes 11001 bytes of shared memory, 10000 before"),
        ({"grid": (1, 70000)}, "more than 65535"),
        ({"counts": dict.fromkeys(("async16", "load16"), 0) | {"store16": 1}}, "has no load16"),
    ],
)
def test_growth_and_what_is_missing_are_faults(changed, said):
    found = list(faults(outcome(**changed), RECORDED))
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_what_is_not_recorded_is_a_fault_where_there_is_a_table():
    assert list(faults(outcome(), None)) == []
    assert list(faults(outcome(spills=8), None)) == ["norm for sm_90: _norm spills 8 bytes"]
    assert "is not in the table" in next(faults(outcome(), {}))


def test_the_table_knows_no_case_that_is_gone():
    recorded = {
        name.split(":")[0] for targets in read_table().values() for t in targets.values() for name in t
    }
    assert recorded <= set(CASES)
