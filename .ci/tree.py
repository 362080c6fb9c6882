"""What must hold for the tree as a whole: no paths of a machine, no registry addresses, no long files, one version.

Reads tracked files only. Refuses to know what any of them is for.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

LONGEST = 600
# Longer than LONGEST, with the reason.
LONG_FOR_A_REASON: dict[str, str] = {}

# Code packages only: an address of a registry in a tracked file ties the project to one line to it.
REGISTRY = re.compile(r"://[a-z.-]*(crates|pypi|pythonhosted|debian|npm)[a-z.-]*/")
HOME = re.compile(r"(?<![\w.])/(home/[a-z]\w*|Users/[A-Za-z]\w*|root)/")


def machine_paths() -> re.Pattern[str]:
    """Where this clone and its owner live, and home folders in general."""
    here = Path.cwd()
    own = {str(path) for path in (here, here.parent, Path.home()) if len(path.parts) > 1}
    own -= {"/tmp", "/var/tmp", "/opt", "/srv", "/usr/src", "/usr/local/src"}
    places = "|".join(re.escape(path) for path in sorted(own))
    return re.compile(rf"{HOME.pattern}|(?<![\w.])(?:{places})/")


def tracked() -> list[Path]:
    """The files of the tree, as Git lists them."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True, text=True)
    return [Path(name) for name in listed.stdout.split("\0") if name and Path(name).is_file()]


def addresses(path: Path, machine: re.Pattern[str]) -> list[str]:
    """Lines of a text file that name a machine or a registry."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []
    wrong = []
    for number, line in enumerate(lines, start=1):
        if machine.search(line):
            wrong.append(f"{path}:{number}: a path of one machine: {line.strip()[:120]}")
        if REGISTRY.search(line) and path.suffix != ".lock":
            wrong.append(f"{path}:{number}: the address of a package registry: {line.strip()[:120]}")
    if path.suffix in {".rs", ".py"} and len(lines) > LONGEST and str(path) not in LONG_FOR_A_REASON:
        wrong.append(f"{path}: {len(lines)} lines, at most {LONGEST} without a reason in .ci/tree.py")
    return wrong


def versions() -> list[str]:
    """The three wheels carry the Cargo workspace's version."""
    version = tomllib.loads(Path("Cargo.toml").read_text(encoding="utf-8"))["workspace"]["package"]["version"]
    wrong = []
    for name in ("kernels/src/agentlm_kernels/__init__.py", "evals/src/agentlm_evals/__init__.py"):
        if f'__version__ = "{version}"' not in Path(name).read_text(encoding="utf-8"):
            wrong.append(f'{name}: __version__ must be "{version}", the version in Cargo.toml')
    return wrong


def main() -> int:
    """Print what does not hold; 1 when there is anything."""
    machine = machine_paths()
    wrong = [line for path in tracked() for line in addresses(path, machine)] + versions()
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
