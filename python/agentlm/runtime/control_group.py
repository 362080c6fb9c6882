"""Where the control groups of this process lie: its own, and each that holds it. Refuses to know what they limit.

A limit of any of them holds for the process. The files are those of the kernel's documentation of control groups
(`Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/`), at the places where distributions mount them.
"""

from pathlib import Path


def levels(root: Path, version: int, controller: str) -> list[Path]:
    """Directories from the process's own group up to the mount's own, in a file system whose root is `root`.

    Of version 1 they are those of `controller`'s hierarchy. Directories that this process cannot see may be among them.
    """
    mount = root / "sys" / "fs" / "cgroup"
    if version == 1:
        mount /= controller
    own = _own(root / "proc" / "self" / "cgroup", version, controller)
    return [mount.joinpath(*own[:depth]) for depth in range(len(own), -1, -1)]


def _own(membership: Path, version: int, controller: str) -> list[str]:
    """The group's names below the mount; none where it lies outside of what is mounted, or nothing is known of it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        # Of the form `hierarchy:controllers:/path`; version 2 is hierarchy 0 and names no controllers.
        hierarchy, controllers, path = line.split(":", 2)
        meant = hierarchy == "0" if version == 2 else controller in controllers.split(",")
        if meant:
            names = [name for name in path.split("/") if name]
            return [] if ".." in names else names
    return []
