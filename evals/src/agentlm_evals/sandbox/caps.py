"""A cgroup for one sandbox, of version 2 or 1, wherever this process may make one. Refuses to know namespaces.

Without one the keeper watches memory itself and rlimits bound the rest; which it was is part of every result.
Standard library only.
"""

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from agentlm_evals.sandbox.limits import Limits

PREFIX = "agentlm-"
"""Of a cgroup's name; the keeper's process id follows."""
_CONTROLLERS = ("memory", "pids", "cpu")
_PERIOD_US = 100_000
_STALE_SECONDS = 60.0
"""Age of an empty cgroup from which its keeper is taken to have been killed before it could remove it."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _mounts() -> list[tuple[str, str, Path]]:
    """(file system type, super options, mount point) of every cgroup mount, from proc(5)'s mountinfo."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind.startswith("cgroup"):
            found.append((kind, options, Path(left.split()[4])))
    return found


def _own() -> dict[str, str]:
    """This process's path by controller; version 2's is under the empty name."""
    paths = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path.lstrip("/")
    return paths


@dataclass(slots=True)
class Cgroup:
    """The directories of one sandbox's cgroup: one under version 2, one a controller under version 1."""

    version: int
    directories: dict[str, Path] = field(default_factory=dict)

    def add(self, pid: int) -> None:
        """Moves a process into it; its children follow."""
        for directory in set(self.directories.values()):
            (directory / "cgroup.procs").write_text(str(pid))

    def describe(self) -> str:
        """As results say it."""
        return f"cgroup v{self.version} ({', '.join(self.directories)})"

    def out_of_memory(self) -> bool:
        """Whether the kernel killed something here for its memory."""
        directory = self.directories.get("memory")
        if directory is None:
            return False
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError):
            counts = dict(line.split() for line in (directory / name).read_text().splitlines())
            return int(counts.get("oom_kill", 0)) > 0
        return False

    def remove(self) -> None:
        """Once its processes are gone; the kernel needs a moment to notice."""
        for directory in set(self.directories.values()):
            for _ in range(50):
                try:
                    directory.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)


def _limit(name: str, directory: Path, limits: Limits, version: int) -> None:
    """Writes one controller's caps."""
    quota = int(limits.cpus * _PERIOD_US)
    if name == "pids":
        (directory / "pids.max").write_text(str(limits.processes + 2))
    elif name == "cpu" and version == 2:
        (directory / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
    elif name == "cpu":
        (directory / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (directory / "cpu.cfs_quota_us").write_text(str(quota))
    elif version == 2:
        (directory / "memory.max").write_text(str(limits.memory))
        with contextlib.suppress(OSError):  # no swap accounting: there is no swap to bound
            (directory / "memory.swap.max").write_text("0")
        (directory / "memory.oom.group").write_text("1")
    else:
        (directory / "memory.limit_in_bytes").write_text(str(limits.memory))
        with contextlib.suppress(OSError):
            (directory / "memory.memsw.limit_in_bytes").write_text(str(limits.memory))


def _enabled_v2(parent: Path, *, asking: bool) -> list[str]:
    """Controllers that children of this cgroup have; `asking`, those that it could give them are given if we may do so.

    A cgroup that holds processes cannot give any, save the root: then its own parent is asked.
    """
    control = parent / "cgroup.subtree_control"
    enabled = control.read_text().split()
    available = (parent / "cgroup.controllers").read_text().split()
    wanted = [one for one in _CONTROLLERS if one in available and one not in enabled]
    if asking and wanted:
        with contextlib.suppress(OSError):
            control.write_text(" ".join(f"+{one}" for one in wanted))
            enabled = control.read_text().split()
    return enabled


def _create_v2(name: str, mount: Path, own: str, limits: Limits) -> Cgroup | None:
    here = mount / own
    for parent in dict.fromkeys((here, here.parent, mount)):
        if not parent.is_relative_to(mount):
            continue
        with contextlib.suppress(OSError):
            # What the machine's root gives is for its owner to say.
            enabled = _enabled_v2(parent, asking=parent != mount or here == mount)
            if not {"memory", "pids"} <= set(enabled):
                continue
            _sweep(parent)
            directory = parent / name
            directory.mkdir()
            group = Cgroup(2, {c: directory for c in _CONTROLLERS if c in enabled})
            try:
                for controller in group.directories:
                    _limit(controller, directory, limits, 2)
            except OSError:
                directory.rmdir()
                continue
            return group
    return None


def _sweep(parent: Path) -> None:
    """Removes what keepers that were killed left behind. The kernel keeps whatever still has a process."""
    for directory in parent.glob(f"{PREFIX}*-*"):
        pid = directory.name.removeprefix(PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            is_old = time.time() - directory.stat().st_mtime > _STALE_SECONDS
            if is_old and not Path("/proc", pid).exists():
                directory.rmdir()


def _create_v1(name: str, mounts: dict[str, Path], own: dict[str, str], limits: Limits) -> Cgroup | None:
    group = Cgroup(1)
    for controller in _CONTROLLERS:
        if controller not in mounts:
            continue
        parent = mounts[controller] / own.get(controller, "")
        _sweep(parent)
        directory = parent / name
        made = False
        try:
            directory.mkdir()
            made = True
            _limit(controller, directory, limits, 1)
        except OSError:
            if made:
                directory.rmdir()
            continue
        group.directories[controller] = directory
    if "memory" not in group.directories:
        group.remove()
        return None
    return group


def create(limits: Limits) -> Cgroup | None:
    """A cgroup with these caps, or None where this process may make none that bounds memory."""
    name = f"{PREFIX}{os.getpid()}-{time.monotonic_ns()}"
    own = _own()
    mounts = _mounts()
    for kind, _, mount in mounts:
        if kind == "cgroup2" and (group := _create_v2(name, mount, own.get("", ""), limits)):
            return group
    first = {
        controller: mount
        for kind, options, mount in mounts
        if kind == "cgroup"
        for controller in options.split(",")
        if controller in _CONTROLLERS
    }
    return _create_v1(name, first, own, limits)


def _descendants(root: int) -> list[int]:
    found, left = [], [root]
    while left:
        pid = left.pop()
        found.append(pid)
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                left.extend(int(child) for child in (thread / "children").read_text().split())
    return found


def _pages(pid: int) -> int:
    """Bytes in memory, shared ones in full."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def _share(pid: int) -> int:
    """Bytes in memory, shared ones by this process's part of them; in full where that may not be read."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/smaps_rollup").read_text().partition("Pss:")[2].split()[0]) * 1024
    return _pages(pid)


def takes_more(root: int, most: int) -> bool:
    """Whether a process and its descendants hold more than `most` bytes: what is watched where there is no cgroup."""
    pids = _descendants(root)
    # The exact count takes longer, and is made only when the quick one, which is never less, is over.
    return sum(map(_pages, pids)) > most and sum(map(_share, pids)) > most
