"""The virtual environments of other people's clients: one each, with pinned versions, kept outside the clone.

Refuses to know what is tested. `requirements/NAME.in` says which client; `NAME.txt` has every version, written by
`make constraints`.

    python -m tests.clients.environments        makes those that are missing; the first time needs a network
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = Path(__file__).parent / "requirements"
CLIENTS = tuple(sorted(file.stem for file in REQUIREMENTS.glob("*.in")))


def kept_in() -> Path:
    """The folder of all environments."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "agentlm" / "clients"


def directory(client: str) -> Path:
    """Where a client's environment is or will be: other pins or another Python make another one."""
    pins = (REQUIREMENTS / f"{client}.txt").read_bytes()
    version = ".".join(map(str, sys.version_info[:2]))
    digest = hashlib.sha256(pins + version.encode()).hexdigest()[:12]
    return kept_in() / f"{client}-{digest}"


def python(client: str) -> Path | None:
    """The interpreter of a client's environment, if that is there."""
    found = directory(client) / "bin" / "python"
    return found if found.exists() else None


def make(client: str) -> None:
    """Makes a client's environment. It gets its name when it is whole, so that nobody ever meets half of one."""
    target = directory(client)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{client}.", dir=target.parent))
    try:
        _uv("venv", "--quiet", "--relocatable", "--allow-existing", "--python", sys.executable, made)
        pins = REQUIREMENTS / f"{client}.txt"
        _uv(
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--python",
            made / "bin" / "python",
            "--requirements",
            pins,
        )
        try:
            made.rename(target)
        except OSError:
            # Another process was quicker.
            if not python(client):
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _uv(*arguments: object) -> None:
    program = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    subprocess.run([program, *map(str, arguments)], check=True)


def main() -> int:
    """Makes what is missing, and says so."""
    for client in CLIENTS:
        if not python(client):
            print(f"installing the client {client} into {directory(client)}", flush=True)
            make(client)
    return 0


if __name__ == "__main__":
    sys.exit(main())
