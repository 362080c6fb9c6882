"""Writes a file system of control groups as a process sees it. Refuses to know what reads it."""

from collections.abc import Mapping
from pathlib import Path


def write(root: Path, membership: str | None, files: Mapping[str, object]) -> Path:
    """`/proc/self/cgroup` with this text, or none, and these files below `/sys/fs/cgroup`; returns `root`."""
    texts = {f"sys/fs/cgroup/{name}": f"{text}\n" for name, text in files.items()}
    if membership is not None:
        texts["proc/self/cgroup"] = membership
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def memory(group: str, limit: object, used: int, cache: int = 0) -> dict[str, object]:
    """Version 2's files of one group's memory; `group` ends in a slash, or is empty for the mount's own."""
    return {
        f"{group}memory.max": limit,
        f"{group}memory.current": used,
        f"{group}memory.stat": f"anon 1\ninactive_file {cache}\nslab 2",
    }


def memory_1(group: str, limit: int, used: int, cache: int = 0) -> dict[str, object]:
    """Version 1's files, likewise."""
    return {
        f"memory/{group}memory.limit_in_bytes": limit,
        f"memory/{group}memory.usage_in_bytes": used,
        f"memory/{group}memory.stat": f"cache {cache}\ntotal_inactive_file {cache}\ninactive_file 7",
    }
