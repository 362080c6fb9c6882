"""Puts the peers into `.bench/`: a virtual environment, and llama.cpp built for this machine.

Refuses to know what is measured. A peer that cannot be installed ends the run: a table with a hole says nothing.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".bench"
REQUIREMENTS = ROOT / "bench" / "peers.txt"
CONSTRAINTS = ROOT / "constraints.txt"
LLAMA_PACKAGE = "llama-cpp-python"
LLAMA_PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-server")
CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


class PeerMissingError(RuntimeError):
    """A peer could not be installed; the message says which and what the tool said."""


@dataclass(frozen=True, slots=True)
class Peers:
    """Where the peers are."""

    python: Path
    """The interpreter of `.bench/venv`."""
    programs: Path
    """The folder with llama.cpp's programs."""


def install(jobs: int) -> Peers:
    """Installs what is missing; quick when nothing is. `jobs` compilers run at once. Raises `PeerMissingError`."""
    HOME.mkdir(exist_ok=True)
    python = _environment()
    return Peers(python=python, programs=_llama(python, jobs))


def _environment() -> Path:
    python = HOME / "venv" / "bin" / "python"
    wanted = REQUIREMENTS.read_text(encoding="utf-8") + CONSTRAINTS.read_text(encoding="utf-8")
    stamp = HOME / "venv" / ".installed"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    if not python.exists():
        _call("the peers' environment", [uv, "venv", "--quiet", "--python", sys.executable, HOME / "venv"])
    packages = HOME / "packages.txt"
    packages.write_text(
        "".join(f"{name}\n" for name in _requirements() if not name.startswith(LLAMA_PACKAGE)),
        encoding="utf-8",
    )
    command: list[str | Path] = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "-c",
        CONSTRAINTS,
        "-r",
        packages,
    ]
    _call("transformers and CTranslate2", command)
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _requirements() -> list[str]:
    lines = (line.strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _llama(python: Path, jobs: int) -> Path:
    pin = next(name for name in _requirements() if name.startswith(LLAMA_PACKAGE))
    place = HOME / pin.replace("==", "-")
    programs = place / "build" / "bin"
    if all((programs / name).is_file() for name in LLAMA_PROGRAMS):
        return programs
    source = _llama_source(pin, place)
    tools = python.parent
    cmake: list[str | Path] = [
        tools / "cmake",
        "-S",
        source,
        "-B",
        place / "build",
        "-G",
        "Ninja",
        *CMAKE_OPTIONS,
    ]
    cmake.append(f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}")
    _call("llama.cpp (configure)", cmake)
    build: list[str | Path] = [
        tools / "cmake",
        "--build",
        place / "build",
        "-j",
        str(jobs),
        "--target",
        *LLAMA_PROGRAMS,
    ]
    print(f"building llama.cpp with {jobs} compilers: about twenty minutes of one core", flush=True)
    _call("llama.cpp (build)", build)
    return programs


def _llama_source(pin: str, place: Path) -> Path:
    """The sources of llama.cpp as they lie in the package's source archive."""
    if not (place / "source").is_dir():
        place.mkdir(exist_ok=True)
        seed = HOME / "pip"
        if not (seed / "bin" / "pip").exists():
            # uv has no `download`; pip has, and does not come with uv's environments.
            _call("pip", [sys.executable, "-m", "venv", seed])
        download: list[str | Path] = [
            seed / "bin" / "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            LLAMA_PACKAGE,
        ]
        _call("llama.cpp's sources", [*download, "--dest", place, pin])
        archive = next(place.glob("*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(place / "unpacked", filter="data")
        next((place / "unpacked").iterdir()).rename(place / "source")
        archive.unlink()
    return place / "source" / "vendor" / "llama.cpp"


def _call(what: str, command: Sequence[str | Path]) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise PeerMissingError(f"could not install {what}: `{' '.join(map(str, command))}` failed:\n{said}")


if __name__ == "__main__":
    print(install(int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count() or 1))
