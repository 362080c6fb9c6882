"""The few system calls that build a sandbox, by ctypes. Refuses to know in which order they are made.

Numbers are those of <sched.h>, <sys/mount.h>, <sys/prctl.h>, <linux/capability.h>. Standard library only.
"""

import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 40
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1

KEPT_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 19, 27, 29, 31)
"""What root of a container keeps: Docker's default set (CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP), and SYS_PTRACE, without which root does not see other
users' processes here. They hold in the sandbox's own user namespace only."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """New namespaces for this process. Raises OSError."""
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mounts one file system. Raises OSError that names the target."""
    _check(
        _libc.mount(
            source.encode(),
            target.encode(),
            kind.encode() or None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        ),
        f"mount of {kind or source} on {target}",
    )


def unmount(target: str) -> None:
    """Takes a mount away, in use or not. Raises OSError that names the target."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount of {target}")


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """A bind mount; read-only needs a second call, which must repeat the flags that the mount already has."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        status = os.statvfs(target).f_flag  # ST_NOSUID, ST_NODEV, ST_NOEXEC have the values of the MS_ flags
        kept = status & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def pivot_root(new: str) -> None:
    """Makes a mount point the root and lets go of the old one. Raises OSError."""
    os.chdir(new)
    # With both arguments ".", the old root lands on top of the new one and is detached from there (pivot_root(2)).
    _check(_libc.syscall(_pivot_root_number(), b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


def _pivot_root_number() -> int:
    numbers = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
    machine = os.uname().machine
    if machine not in numbers:
        raise OSError(f"no number of pivot_root is known for {machine}")
    return numbers[machine]


def die_with_parent() -> None:
    """SIGKILL for this process when its parent's thread ends. A change of ids clears it."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def adopt_orphans() -> None:
    """Descendants whose parent ends become this process's children, so that it can wait for them."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def forbid_tracing() -> None:
    """Nobody inside the sandbox may read or trace this process."""
    _check(_libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def no_new_privileges() -> None:
    """set-user-id programs give nothing from here on."""
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")


def drop_capabilities(kept: tuple[int, ...]) -> None:
    """Leaves only `kept` in every capability set of this process and its children."""
    for number in range(_LAST_CAPABILITY + 1):
        if number not in kept and _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            code = ctypes.get_errno()
            if code != 22:  # EINVAL: this kernel has fewer capabilities
                raise OSError(code, f"prctl(PR_CAPBSET_DROP, {number}): {os.strerror(code)}")
    low = sum(1 << number for number in kept if number < 32)
    high = sum(1 << (number - 32) for number in kept if number >= 32)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = struct.pack("=6I", low, low, 0, high, high, 0)
    _check(_libc.capset(header, sets), "capset")


def raise_loopback() -> None:
    """Brings `lo` of the network namespace up: the one interface that a sandbox has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
