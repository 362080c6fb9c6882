"""The process that builds a sandbox, and the sandbox's process 1. Refuses to know tasks, and outlives nobody.

Three processes: the *keeper* (outside; makes cgroup and mounts, watches memory, ends when its owner's end of standard
input closes), the *porter* (owns the user namespace) and *process 1* (inside; starts what it is asked to, reaps, and ends
with the control socket). When any of them goes, the kernel ends the rest: the namespace dies with its process 1.

Run as root, root inside is an id that owns nothing outside, and the porter has an id of its own, so that the limit on
processes holds for the whole sandbox even without a cgroup. Run as anybody else, root inside is that user, alone.

Standard library only; everything is imported before the root changes. Started by `box.Sandbox`:
`python -m agentlm_evals.sandbox.keeper CONTROL_FD`.
"""

import contextlib
import os
import resource
import select
import signal
import socket
import stat
import sys
from pathlib import Path

from agentlm_evals.sandbox import caps, namespaces
from agentlm_evals.sandbox.init import serve
from agentlm_evals.sandbox.limits import OUT_OF_MEMORY, Layout, Limits
from agentlm_evals.sandbox.wire import receive, send

OWNER_BASE = 0x7F00_0000
"""A porter's user id is this plus its process id: nobody else's, now or as long as it lives."""
IDS = 65536
WATCH_SECONDS = 0.1
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def _make_root(stage: str, layout: Layout, limits: Limits, *, privileged: bool) -> str:
    """Mounts the sandbox's root below `stage`; returns it. Whoever mounts sets the caps on size."""
    size = f"size={limits.disk},nr_inodes={limits.files},mode=0755"
    namespaces.mount(
        "tmpfs", stage, "tmpfs", namespaces.MS_NODEV | namespaces.MS_NOSUID * (not layout.root), size
    )
    root = Path(stage, "root")
    root.mkdir()
    owner = layout.shifted if privileged else 0
    if layout.root:
        upper, work = Path(stage, "upper"), Path(stage, "work")
        for directory in (upper, work):
            directory.mkdir(mode=0o755)
            os.chown(directory, owner, owner)
        data = f"lowerdir={layout.root},upperdir={upper},workdir={work}" + (
            "" if privileged else ",userxattr"
        )
        namespaces.mount("overlay", str(root), "overlay", namespaces.MS_NODEV, data)
    else:
        os.chown(root, owner, owner)
        namespaces.bind(str(root), str(root))
    for name in ("proc", "sys", "dev", "tmp"):
        directory = root / name
        if not directory.exists():
            directory.mkdir()
            os.chown(directory, owner, owner)
    if not layout.root:
        (root / "tmp").chmod(0o1777)
    for outside, inside in layout.binds:
        target = root / inside.lstrip("/")
        if Path(outside).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        namespaces.bind(outside, str(target), read_only=True)
    _make_devices(root / "dev", owner)
    return str(root)


def _make_devices(directory: Path, owner: int) -> None:
    """A /dev with what programs expect, bound from outside: nobody inside can make device nodes."""
    namespaces.mount(
        "tmpfs", str(directory), "tmpfs", namespaces.MS_NOSUID, "size=64k,nr_inodes=64,mode=0755"
    )
    os.chown(directory, owner, owner)
    for name in _DEVICES:
        (directory / name).touch()
        namespaces.mount(f"/dev/{name}", str(directory / name), flags=namespaces.MS_BIND)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        (directory / name).symlink_to(target)
    for name in ("pts", "shm"):
        (directory / name).mkdir()
        os.chown(directory / name, owner, owner)


def _enter_root(root: str, layout: Layout) -> None:
    """Process 1's part: what belongs to its own namespaces is mounted, then the old root is left behind."""
    safe = namespaces.MS_NOSUID | namespaces.MS_NODEV | namespaces.MS_NOEXEC
    # Process 1 cannot be looked into; who may not look is not shown it, as nothing in /proc is forbidden to real root.
    namespaces.mount("proc", f"{root}/proc", "proc", safe, "hidepid=2")
    if Path(f"{root}/proc/tty/driver").is_dir():  # the machine's own root alone may list it
        namespaces.mount("tmpfs", f"{root}/proc/tty/driver", "tmpfs", safe | namespaces.MS_RDONLY, "size=4k")
    namespaces.mount("sysfs", f"{root}/sys", "sysfs", safe | namespaces.MS_RDONLY)
    namespaces.mount(
        "devpts",
        f"{root}/dev/pts",
        "devpts",
        namespaces.MS_NOSUID | namespaces.MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620",
    )
    namespaces.mount("tmpfs", f"{root}/dev/shm", "tmpfs", safe, "size=16m,nr_inodes=1024,mode=1777")
    # Without namespaces of its own a process inside cannot win back the right to mount: file systems in memory have no cap.
    Path(f"{root}/proc/sys/user/max_user_namespaces").write_text("0")
    namespaces.bind(f"{root}/proc/sys", f"{root}/proc/sys", read_only=True)
    socket.sethostname(layout.hostname)
    namespaces.raise_loopback()
    namespaces.bind(root, root)
    namespaces.pivot_root(root)


def _porter(
    stage: str,
    layout: Layout,
    limits: Limits,
    control: socket.socket,
    ready: int,
    mapped: int,
    *,
    privileged: bool,
) -> int:
    """Makes the namespaces, starts process 1 in them and waits for it. Runs in a child of the keeper."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("/proc/self/oom_score_adj").write_text("1000")
    if privileged:
        os.setgroups([])
        if layout.shifted:
            # The namespace's limit on processes is its maker's, and counts everybody inside.
            most = limits.processes + 2
            resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
            own = OWNER_BASE + os.getpid()
            os.setresgid(own, own, own)
            os.setresuid(own, own, own)
    namespaces.unshare(
        namespaces.CLONE_NEWUSER
        | namespaces.CLONE_NEWNS
        | namespaces.CLONE_NEWPID
        | namespaces.CLONE_NEWNET
        | namespaces.CLONE_NEWIPC
        | namespaces.CLONE_NEWUTS
        | namespaces.CLONE_NEWCGROUP
    )
    os.write(ready, b"1")
    if os.read(mapped, 1) != b"1":
        return 1
    if privileged:
        os.setresgid(0, 0, 0)
        os.setgroups([])
        os.setresuid(0, 0, 0)
    namespaces.die_with_parent()
    if privileged:
        root = str(Path(stage, "root"))
    else:
        namespaces.mount("none", "/", flags=namespaces.MS_REC | namespaces.MS_PRIVATE)
        root = _make_root(stage, layout, limits, privileged=False)
    child = os.fork()
    if child == 0:
        namespaces.die_with_parent()
        namespaces.forbid_tracing()
        try:
            _enter_root(root, layout)
            send(control, {"ready": True})
            code = serve(control, limits, capabilities=layout.capabilities)
        except OSError as error:
            _report(control, error)
            code = 1
        os._exit(code)
    control.close()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def _report(control: socket.socket, error: Exception) -> None:
    with contextlib.suppress(OSError):
        send(control, {"error": str(error)})


def _map_ids(pid: int, shifted: int, *, privileged: bool) -> None:
    if privileged:
        Path(f"/proc/{pid}/uid_map").write_text(f"0 {shifted} {IDS}\n")
        Path(f"/proc/{pid}/gid_map").write_text(f"0 {shifted} {IDS}\n")
        return
    Path(f"/proc/{pid}/setgroups").write_text("deny")
    Path(f"/proc/{pid}/uid_map").write_text(f"0 {os.getuid()} 1\n")
    Path(f"/proc/{pid}/gid_map").write_text(f"0 {os.getgid()} 1\n")


def _watch(porter: int, most: int | None) -> int:
    """Until the porter ends or the owner does; past `most` bytes of memory the sandbox ends. Returns an exit status."""
    handle = os.pidfd_open(porter)
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    poller.register(0, select.POLLIN | select.POLLHUP)
    is_over = False
    while not is_over:
        events = poller.poll(None if most is None else WATCH_SECONDS * 1000)
        is_over = most is not None and caps.takes_more(porter, most)
        if events:
            break
    with contextlib.suppress(ProcessLookupError):
        os.kill(porter, signal.SIGKILL)
    # Process 1 becomes ours when the porter is gone, and ends only after everything in its namespace has.
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    return OUT_OF_MEMORY if is_over else 0


def main() -> int:
    """The keeper itself."""
    control = socket.socket(fileno=int(sys.argv[1]))
    order = receive(control)
    if order is None:
        return 1
    limits = Limits(**order[0]["limits"])
    body = order[0]["layout"]
    layout = Layout(**{**body, "binds": tuple((a, b) for a, b in body["binds"])})
    stage = str(order[0]["stage"])
    privileged = os.geteuid() == 0
    namespaces.adopt_orphans()
    group = caps.create(limits) if order[0]["cgroup"] else None
    try:
        return _keep(stage, layout, limits, control, group, privileged=privileged)
    except OSError as error:
        _report(control, error)
        return 1
    finally:
        if group is not None:
            group.remove()
        # The owner removes it too, unless it was killed.
        with contextlib.suppress(OSError):
            namespaces.unmount(stage)
        with contextlib.suppress(OSError):
            Path(stage).rmdir()


def _keep(
    stage: str,
    layout: Layout,
    limits: Limits,
    control: socket.socket,
    group: caps.Cgroup | None,
    *,
    privileged: bool,
) -> int:
    if privileged:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        namespaces.mount("none", "/", flags=namespaces.MS_REC | namespaces.MS_PRIVATE)
        _make_root(stage, layout, limits, privileged=True)
    ready_in, ready_out = os.pipe()
    mapped_in, mapped_out = os.pipe()
    porter = os.fork()
    if porter == 0:
        os.close(ready_in)
        os.close(mapped_out)
        code = 1
        try:
            code = _porter(stage, layout, limits, control, ready_out, mapped_in, privileged=privileged)
        except OSError as error:
            _report(control, error)
        os._exit(code)
    os.close(ready_out)
    os.close(mapped_in)
    if os.read(ready_in, 1) == b"1":
        if group is not None:
            group.add(porter)
        _map_ids(porter, layout.shifted, privileged=privileged)
        send(control, {"caps": group.describe() if group else "rlimits"})
        os.write(mapped_out, b"1")
    control.close()
    if group is None:
        return _watch(porter, limits.memory)
    code = _watch(porter, None)
    return OUT_OF_MEMORY if group.out_of_memory() else code


if __name__ == "__main__":
    if not stat.S_ISSOCK(os.fstat(int(sys.argv[1])).st_mode):
        sys.exit("the keeper is started by a sandbox, not by hand")
    sys.exit(main())
