"""A checkpoint that we serve ourselves: `agentlm serve` as a child process. Refuses to know what is asked of it."""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from agentlm_evals.errors import ModelError, RequirementError

_READY = re.compile(r"\bready: (http://\S+) ")
_PR_SET_PDEATHSIG = 1
_CHUNK = 1 << 22
_DECIDING = frozenset(
    {
        ".safetensors",
        ".bin",
        ".pt",
        ".pth",
        ".gguf",
        ".npz",
        ".json",
        ".model",
        ".tiktoken",
        ".jinja",
        ".txt",
        ".py",
    }
)
"""Endings of a checkpoint's files that decide its answers, old formats of weights among them."""


def _serve_command() -> list[str]:
    if find_spec("agentlm") is not None:
        return [sys.executable, "-m", "agentlm", "serve"]
    if program := shutil.which("agentlm"):
        return [program, "serve"]
    raise RequirementError(
        "a checkpoint is served by the wheel `agentlm`, which is not installed: "
        "`pip install agentlm`, or name a running server by --url"
    )


def bundled_directory() -> Path | None:
    """Where the model lies that `agentlm serve` serves when none is named; None where another installation knows.

    Asked of a process of its own: this wheel imports nothing of that one.
    """
    if find_spec("agentlm") is None:
        return None
    code = "from agentlm.model import bundled; print(bundled.directory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    found = Path(done.stdout.strip())
    return found if done.returncode == 0 and found.is_dir() else None


@contextmanager
def serve(model: str | None, arguments: Sequence[str] = (), *, seconds: float = 900.0) -> Iterator[str]:
    """Serves a checkpoint for as long as the block runs, and gives the URL.

    Args:
        model: A directory or a hub name; None: what `agentlm serve` serves when nothing is named.
        arguments: More flags of `agentlm serve`.
        seconds: How long it may take to load.

    Raises:
        RequirementError: The wheel `agentlm` is not there.
        ModelError: The server ended, or was not ready in time; its last lines are in the message.
    """
    command = [*_serve_command(), "--hostname", "127.0.0.1", "--port", "0", "--log-level", "off"]
    if model is not None:
        command += ["--model-id", model]
    command += list(arguments)
    # A file, not a pipe: a server that writes much never waits for us to read.
    with tempfile.TemporaryFile("w+", prefix="agentlm-serve-") as log:
        parent = os.getpid()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C is ours to handle: the server goes on until the episodes in flight are stored.
            start_new_session=True,
            preexec_fn=(lambda: _die_with(parent)) if sys.platform == "linux" else None,
        )
        url: list[str] = []
        ready = threading.Event()

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                log.write(line)
                if not url and (found := _READY.search(line)):
                    url.append(found[1])
                    ready.set()
            ready.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            ready.wait(seconds)
            if not url:
                if process.poll() is None and not ready.is_set():
                    raise ModelError(f"`{' '.join(command)}` was not ready after {seconds:g} s")
                process.wait(10)
                reader.join(10)
                log.seek(0)
                said = " | ".join(log.read().strip().splitlines()[-5:])
                raise ModelError(f"`{' '.join(command)}` ended with code {process.returncode}: {said}")
            yield url[0]
        finally:
            _stop(process)
            reader.join(10)


def _die_with(parent: int) -> None:
    """In the child: it ends when we do, were we killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def weights_digest(directory: Path, notes: Path | None) -> str | None:
    """A SHA-256 over everything in a checkpoint that decides its answers: weights, configuration, tokenizer.

    Files are read once; `notes`, if given, remembers the digest of a file by its path, size and time of change.

    Returns:
        64 hex digits, or None if the directory is not there (a hub name).
    """
    if not directory.is_dir():
        return None
    known: dict[str, str] = {}
    if notes is not None and notes.is_file():
        try:
            known = json.loads(notes.read_text())
        except ValueError:
            # Another process is writing it, or was killed while it did: the files are read again.
            known = {}
    whole = sha256()
    for path in sorted(directory.iterdir()):
        if path.suffix not in _DECIDING or not path.is_file():
            continue
        status = path.stat()
        key = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        if key not in known:
            part = sha256()
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    part.update(chunk)
            known[key] = part.hexdigest()
        whole.update(f"{path.name}\0{known[key]}\n".encode())
    if notes is None:
        return whole.hexdigest()
    notes.parent.mkdir(parents=True, exist_ok=True)
    temporary = notes.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(known))
    temporary.replace(notes)
    return whole.hexdigest()
