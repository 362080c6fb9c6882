"""Cgroups: what is written into version 2's files, and that nothing stays behind; the kernel's part is in test_sandbox."""

import os
import time
from pathlib import Path

import pytest

from agentlm_evals.sandbox import caps
from agentlm_evals.sandbox.limits import MIB, Limits

LIMITS = Limits(memory=64 * MIB, processes=10, cpus=0.5)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Version 2's files in a plain folder: /app.slice/mine.scope, where the scope gives its children no controllers."""
    for place, available, enabled in (
        ("", "cpu memory pids", "cpu memory pids"),
        ("app.slice", "cpu memory pids", "cpu memory pids"),
        ("app.slice/mine.scope", "", ""),
    ):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "cgroup.controllers").write_text(available)
        (tmp_path / place / "cgroup.subtree_control").write_text(enabled)
    return tmp_path


def test_a_sandbox_lies_beside_the_scope_that_can_have_no_children(tree: Path) -> None:
    group = caps._create_v2("agentlm-1-2", tree, "app.slice/mine.scope", LIMITS)
    assert group is not None
    made = tree / "app.slice" / "agentlm-1-2"
    assert {path.name: path.read_text() for path in made.iterdir()} == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "12",
        "cpu.max": "50000 100000",
    }
    assert group.describe() == "cgroup v2 (memory, pids, cpu)"


def test_controllers_that_could_be_given_are_asked_for(tree: Path) -> None:
    control = tree / "app.slice" / "cgroup.subtree_control"
    control.write_text("cpu")
    assert caps._enabled_v2(tree / "app.slice", asking=False) == ["cpu"]
    assert caps._enabled_v2(tree / "app.slice", asking=True) == ["+memory", "+pids"], (
        "a plain file keeps what was written"
    )
    assert control.read_text() == "+memory +pids"


def test_without_memory_and_processes_there_is_no_cgroup(tree: Path) -> None:
    for place in ("", "app.slice"):
        for name in ("cgroup.controllers", "cgroup.subtree_control"):
            (tree / place / name).write_text("hugetlb")
    assert caps._create_v2("agentlm-1-2", tree, "app.slice/mine.scope", LIMITS) is None
    assert caps._create_v2("agentlm-1-2", tree, "../elsewhere", LIMITS) is None


def test_what_a_killed_keeper_left_is_swept(tmp_path: Path) -> None:
    dead, living, young = "agentlm-999999999-1", f"agentlm-{os.getpid()}-1", "agentlm-999999998-1"
    for name in (dead, living, young, "others"):
        (tmp_path / name).mkdir()
        if name != young:
            os.utime(tmp_path / name, (time.time() - 3600,) * 2)
    caps._sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {living, young, "others"}
