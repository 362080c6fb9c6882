"""Checkpoints are on the disk before they have their names, and what has no name yet is none."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from agentlm.tuning.checkpoint import Checkpoints, Progress
from agentlm.tuning.parallel import Ranks

ONE = Ranks(0, 1, torch.device("cpu"), 1, None, owned=False)


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.rename

    def synced(handle: int) -> None:
        done.append(("synced", str(Path(f"/proc/self/fd/{handle}").readlink())))
        fsync(handle)

    def renamed(self: Path, target: Any) -> Path:
        done.append(("named", str(target)))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    checkpoints = Checkpoints(tmp_path, ONE, keep=2)
    checkpoints.save(Progress(3, 30, 20, 1.5), {"model.w": torch.arange(4.0)}, {"identity": {}})
    place = tmp_path / "step-00000003"
    named = done.index(("named", str(place)))
    before = {path for what, path in done[:named] if what == "synced"}
    beside = tmp_path / ".step-00000003"
    assert {str(beside), *(str(beside / path.name) for path in place.iterdir())} <= before
    # And the name, before anything that it replaces goes.
    assert ("synced", str(tmp_path)) in done[named:]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ONE, keep=1)
    for step in (1, 2):
        checkpoints.save(Progress(step, 30, 20, 1.5), {"model.w": torch.arange(4.0) * step}, {"identity": {}})
    # Half-written ones, and what somebody else put there.
    (tmp_path / ".step-00000009").mkdir()
    (tmp_path / "step-00000008").mkdir()
    assert checkpoints.steps() == [2]
    found = torch.zeros(4)
    assert checkpoints.load(2, {"model.w": found}) == Progress(2, 30, 20, 1.5)
    assert found.tolist() == [0.0, 2.0, 4.0, 6.0]
