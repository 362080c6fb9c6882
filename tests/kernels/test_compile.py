"""Every kernel compiles for GPUs that are not here, within the registers and memory that are recorded.

`AGENTLM_COMPILE_TARGETS` names targets of `compile_gate.py`, separated by commas, or is `all`; without it, Hopper.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.compile_cases import CASES
from tests.kernels.compile_gate import INSTRUCTIONS, TARGETS, Kernel, Outcome, faults, read_table

GATE = Path(__file__).with_name("compile_gate.py")
KERNELS = Path(__file__).parents[2] / "kernels" / "src" / "agentlm_kernels"


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
    counts = dict.fromkeys(INSTRUCTIONS, 1)
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
        ({"counts": dict.fromkeys(INSTRUCTIONS, 1) | {"async16": 0, "load16": 0}}, "has no load16"),
        ({"counts": dict.fromkeys(INSTRUCTIONS, 1) | {"store": 0}}, "writes nothing"),
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


NO_FLOAT8 = {"sm_80": {"_narrow_rows"}, "gfx942": {"_narrow_rows"}}
GAPS = {("3.6", "gfx942"): {"_narrow_rows", "adjust", "penalise", "choose"}}
"""See `sampling/full`."""


def test_every_kernel_is_compiled_for_every_target_that_can():
    # A kernel is what is launched, with a grid in brackets.
    launched = {
        name
        for file in KERNELS.rglob("*.py")
        for name in re.findall(r"\b(\w+)\[(?:\(|grid\b)", file.read_text())
    }
    assert len(launched) > 25
    for version, targets in read_table().items():
        assert set(targets) == set(TARGETS)
        for target, found in targets.items():
            missing = launched - {name.split(":")[1].split("#")[0] for name in found}
            assert missing == GAPS.get((version, target), NO_FLOAT8.get(target, set())), (version, target)


HANDOVER = """
    st.global.b32 [a], r;
    bar.sync 0;
    @p atom.global.gpu.acq_rel.add.u32 r, [b], 1;
    ld.global.cg.b32 r, [a];
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("bar.sync 0;", ""),
        ("acq_rel", "relaxed"),
        ("cg.b32", "b32"),
        ("    @p", "    st.global.b32 [a], r;\n    @p"),
    ],
)
def test_what_is_left_for_another_program_is_handed_over_in_order(old, new):
    found = re.findall(INSTRUCTIONS["handover"], HANDOVER.replace(old, new) if old else HANDOVER)
    assert bool(found) == (not old)
