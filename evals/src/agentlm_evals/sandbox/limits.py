"""What a sandbox may take and what it is made of, as JSON-able records. Refuses to know how that is enforced.

Standard library only: the keeper reads these records too.
"""

from dataclasses import asdict, dataclass
from typing import Any

MIB = 1 << 20
OUT_OF_MEMORY = 9
"""The keeper's exit status when the sandbox ended at its memory cap."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps on one sandbox, all of its processes together where not said otherwise."""

    memory: int = 512 * MIB
    """Bytes, files in the sandbox's own writable layer included."""
    disk: int = 256 * MIB
    """Bytes of the writable layer."""
    files: int = 50_000
    """Inodes of the writable layer."""
    processes: int = 128
    """Processes and threads."""
    cpu_seconds: int = 120
    """Of one process."""
    open_files: int = 1024
    """Of one process."""
    cpus: float = 1.0
    """Processors' worth of time a second; needs a cgroup."""

    def __post_init__(self) -> None:
        for name, least in (("memory", 16 * MIB), ("disk", MIB), ("files", 100), ("processes", 4)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.cpu_seconds < 1 or self.open_files < 16 or self.cpus <= 0:
            raise ValueError("cpu_seconds must be at least 1, open_files at least 16 and cpus above 0")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a sandbox sees as its file system."""

    root: str = ""
    """A root file system used as the overlay's lower layer; empty: an empty root with `binds` only, no overlay."""
    binds: tuple[tuple[str, str], ...] = ()
    """(path outside, path inside), read-only."""
    shifted: int = 0
    """First user id outside that owns the files of `root` (id 0 inside); 0: the caller's own id is root inside."""
    hostname: str = "sandbox"
    capabilities: bool = True
    """Whether root inside keeps a container's usual capabilities; without them it may not even change an owner."""


def to_json(limits: Limits, layout: Layout, stage: str, *, cgroup: bool) -> dict[str, Any]:
    """The keeper's order."""
    return {"limits": asdict(limits), "layout": asdict(layout), "stage": stage, "cgroup": cgroup}
