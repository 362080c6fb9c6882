"""A sandbox's root made of this machine's own programs, read-only, for code that needs an interpreter and no system.

Nothing of the machine but its programs and libraries is there: no home, no configuration beyond the dynamic linker's.
Refuses to know what is run.
"""

import os
import sys
from pathlib import Path

from agentlm_evals.sandbox.image import SHIFTED
from agentlm_evals.sandbox.limits import Layout

_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/ld.so.cache")


def interpreter() -> str:
    """This Python's own path, without a virtual environment around it."""
    return str(Path(sys._base_executable).resolve())  # type: ignore[attr-defined]  # undocumented, and what venv itself uses


def host_layout(*, capabilities: bool = False) -> Layout:
    """The machine's programs and this Python's own folder, at their own places."""
    folders = [name for name in _PROGRAMS if Path(name).exists()]
    for prefix in (sys.base_prefix, sys.base_exec_prefix, str(Path(interpreter()).parent.parent)):
        if not any(Path(prefix).is_relative_to(known) for known in folders):
            folders.append(prefix)
    return Layout(
        binds=tuple((folder, folder) for folder in folders),
        shifted=SHIFTED if os.geteuid() == 0 else 0,
        capabilities=capabilities,
    )
