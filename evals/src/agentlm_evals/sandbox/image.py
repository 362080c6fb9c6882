"""The root file system that sandboxes lie over: a minimal Debian, built once into the user's cache by mmdebstrap.

Its files belong to ids that own nothing else on this machine, so that root in a sandbox is nobody outside. Refuses to know
what is run on it, and never uses this machine's own root: its files would answer questions such as "how many are in /etc".
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from agentlm_evals.errors import RequirementError

SHIFTED = 0x7001_0000
"""Id outside of id 0 inside: beyond what useradd, systemd and container engines give out."""
BUILD_SECONDS = 900
HOW = "install mmdebstrap (apt-get install mmdebstrap) and run as root once with a network that reaches a Debian mirror"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a root file system is made of; two equal recipes are one image."""

    suite: str = "bookworm"
    packages: tuple[str, ...] = ()
    mirror: str = ""
    """Empty: mmdebstrap's own choice for the suite."""
    hostname: str = "sandbox"
    version: int = 2
    """Of this file's own additions to the packages."""

    @property
    def key(self) -> str:
        """A name for the cache: 16 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def default_cache() -> Path:
    """Where images lie unless somebody says otherwise."""
    return Path.home() / ".cache" / "agentlm" / "sandbox"


def find(recipe: Recipe, cache: Path) -> Path | None:
    """The image's root, if it has been built."""
    root = cache / recipe.key / "root"
    return root if root.is_dir() else None


def can_build() -> bool:
    """Whether this process could build one, given a network."""
    return shutil.which("mmdebstrap") is not None and os.geteuid() == 0


def describe(root: Path) -> str:
    """Distribution and size, as results say it: `Debian GNU/Linux 12 (bookworm), 3f…`."""
    values = {}
    for line in (root / "etc" / "os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        values[name] = value.strip('"')
    release = root / "etc" / "debian_version"
    point = release.read_text().strip() if release.is_file() else ""
    return f"{values.get('PRETTY_NAME', 'unknown')} {point}, image {root.parent.name}"


def build(recipe: Recipe, cache: Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """The image's root, built if it is not there; two processes that want it at once build it once.

    Args:
        recipe: What it is made of.
        cache: The folder of images.
        say: Told what takes long.

    Raises:
        RequirementError: mmdebstrap is missing, may not, or failed; the message ends with its own last words.
    """
    if (root := find(recipe, cache)) is not None:
        return root
    if not can_build():
        raise RequirementError(
            f"there is no root file system for sandboxes in {cache}, and none can be built: {HOW}"
        )
    with _locked(cache, recipe.key):
        if (root := find(recipe, cache)) is not None:
            return root
        say(f"building a root file system for sandboxes in {cache / recipe.key} (once; about a minute)")
        with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as directory:
            archive = Path(directory, "root.tar")
            _bootstrap(recipe, archive)
            unpacked = Path(directory, "image")
            _unpack(archive, unpacked / "root")
            _finish(recipe, unpacked / "root")
            (unpacked / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
            # The temporary folder is private; the sandbox's own ids must reach what is inside.
            unpacked.chmod(0o755)
            unpacked.replace(cache / recipe.key)
    return cache / recipe.key / "root"


@contextmanager
def _locked(cache: Path, key: str) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _bootstrap(recipe: Recipe, archive: Path) -> None:
    # Kept: the logs of the installation, which every system that was ever installed has.
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--quiet", "--skip=cleanup/reproducible"]
    command += ["--include", ",".join(recipe.packages)] if recipe.packages else []
    command += [recipe.suite, str(archive)] + ([recipe.mirror] if recipe.mirror else [])
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError as error:
        words = error.stderr.strip().splitlines()[-3:]
        raise RequirementError(
            f"mmdebstrap failed: {' / '.join(words)}. It needs a network: {HOW}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise RequirementError(f"mmdebstrap was not done after {BUILD_SECONDS} s: {HOW}") from error


def _shift(member: tarfile.TarInfo, _path: str) -> tarfile.TarInfo | None:
    """Ids moved up; no devices, which a sandbox gets from its keeper."""
    if member.ischr() or member.isblk() or member.isfifo():
        return None
    return member.replace(uid=member.uid + SHIFTED, gid=member.gid + SHIFTED, uname="", gname="", deep=False)


def _unpack(archive: Path, root: Path) -> None:
    root.mkdir(parents=True)
    # The archive is mmdebstrap's own work of a moment ago: absolute links in it are a root file system's.
    with tarfile.open(archive) as source:
        source.extractall(root, numeric_owner=True, filter=_shift)
    os.chown(root, SHIFTED, SHIFTED)
    root.chmod(0o755)


def _finish(recipe: Recipe, root: Path) -> None:
    """Names that programs look up where there is no network."""
    for name, text in (
        ("hostname", f"{recipe.hostname}\n"),
        ("hosts", f"127.0.0.1\tlocalhost {recipe.hostname}\n::1\tlocalhost\n"),
        ("resolv.conf", ""),
    ):
        path = root / "etc" / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        os.chown(path, SHIFTED, SHIFTED)
