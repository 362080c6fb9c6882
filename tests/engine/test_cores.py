"""How many cores the CPU runner takes: those that it may run on, within its control group's quota."""

import pytest

from agentlm.runtime import cpu


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, []),
        ({"cpu.max": "max 100000"}, []),
        ({"cpu.max": "200000 100000"}, [2]),
        ({"cpu.max": "200001 100000"}, [3]),
        ({"cpu.max": "1000 100000"}, [1]),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, [2]),
    ],
)
def test_a_control_groups_quota_is_read_in_whole_cores(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert cpu.group_cores(tmp_path) == cores


def test_no_more_cores_are_used_than_the_quota_allows(monkeypatch):
    monkeypatch.setattr(cpu, "group_cores", lambda _root: [10**6, 1])
    assert cpu.usable_cores() == 1
    monkeypatch.setattr(cpu, "group_cores", lambda _root: [10**6])
    assert 1 <= cpu.usable_cores() < 10**6
