"""How many cores the CPU runner takes: those that it may run on, within its control groups' quotas."""

import pytest

from agentlm.runtime import cpu
from tests.engine import control_groups


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        (None, {}, []),
        ("0::/\n", {"cpu.max": "max 100000"}, []),
        ("0::/\n", {"cpu.max": "200000 100000"}, [2]),
        ("0::/\n", {"cpu.max": "200001 100000"}, [3]),
        (None, {"cpu.max": "1000 100000"}, [1]),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, [3]),
        ("0::/a/b\n", {"a/b/cpu.max": "500000 100000", "cpu.max": "100000 100000"}, [5, 1]),
        ("0::/a/b\n", {"a/c/cpu.max": "100000 100000"}, []),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": -1, "cpu/cpu.cfs_period_us": 100000}, []),
        ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": 150000, "cpu/cpu.cfs_period_us": 100000}, [2]),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": 250000, "cpu/a/cpu.cfs_period_us": 50000}, [5]),
    ],
)
def test_each_quota_that_holds_for_the_process_is_read_in_whole_cores(tmp_path, membership, files, cores):
    assert cpu.group_cores(control_groups.write(tmp_path, membership, files)) == cores


def test_no_more_cores_are_used_than_the_quota_allows(monkeypatch):
    monkeypatch.setattr(cpu, "group_cores", lambda _root: [10**6, 1])
    assert cpu.usable_cores() == 1
    monkeypatch.setattr(cpu, "group_cores", lambda _root: [10**6])
    assert 1 <= cpu.usable_cores() < 10**6
