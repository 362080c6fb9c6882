"""What Triton compiled in this process: a count, and a manifest of it for launchers that have no Python.

A kernel that is compiled, or loaded from Triton's cache on disk, while requests wait costs them milliseconds to seconds;
who serves takes the count after warming up and expects it to stay. Refuses to know what kernels compute.
"""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import triton
from triton import knobs

MANIFEST = "manifest.json"
FORMAT = 1
"""Of the manifest; changes when a reader of the old one would be wrong."""


@dataclass(frozen=True, slots=True)
class Compilation:
    """One kernel as it was compiled for one set of types, alignments and constants."""

    module: str
    function: str
    signature: Mapping[str, str]
    """Triton's type of each parameter, in order; `constexpr` is built in."""
    compiled: Any
    """Triton's own object."""

    def entry(self) -> tuple[dict[str, Any], bytes]:
        """What a launcher must know, and the binary."""
        metadata, asm = self.compiled.metadata, self.compiled.asm
        binary: bytes = asm["cubin" if "cubin" in asm else "hsaco"]
        return {
            "function": f"{self.module}.{self.function}",
            "symbol": metadata.name,
            "binary": sha256(binary).hexdigest(),
            "target": f"{metadata.target.backend}:{metadata.target.arch}",
            "parameters": [[name, kind] for name, kind in self.signature.items() if kind != "constexpr"],
            "constants": self._constants(),
            "warps": metadata.num_warps,
            "threads": metadata.num_warps * metadata.target.warp_size,
            "shared_bytes": metadata.shared,
            # Two pointers follow the parameters: memory that the kernel wants for itself, and a profiler's.
            "scratch_bytes": [
                getattr(metadata, "global_scratch_size", 0),
                getattr(metadata, "profile_scratch_size", 0),
            ],
        }, binary

    def _constants(self) -> dict[str, Any]:
        names = list(self.signature)
        constants = self.compiled.src.constants
        plain = bool | int | float | str | None
        return {
            names[path[0]]: value if isinstance(value, plain) else str(value)
            for path, value in sorted(constants.items())
        }


class CompilationLog:
    """Every compilation of this process since `watch`; may be read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: list[Compilation] = []

    @property
    def count(self) -> int:
        """How many there were."""
        return len(self._found)

    def write(self, directory: Path) -> Path:
        """Writes each binary as `<sha-256>.cubin` (`.hsaco`), and then `manifest.json`, complete or absent; its path."""
        directory.mkdir(parents=True, exist_ok=True)
        with self._lock:
            found = list(self._found)
        entries = []
        for compilation in found:
            entry, binary = compilation.entry()
            kind = "cubin" if entry["target"].startswith("cuda") else "hsaco"
            _replace(directory / f"{entry['binary']}.{kind}", binary)
            entries.append(entry)
        entries.sort(key=lambda entry: (entry["function"], entry["binary"]))
        text = json.dumps({"format": FORMAT, "triton": triton.__version__, "kernels": entries}, indent=1)
        _replace(directory / MANIFEST, text.encode())
        return directory / MANIFEST

    def _take(self, **what: Any) -> None:
        """Triton's hook behind a compilation."""
        function, description = what["fn"], what["compile"]
        kernels = function.jit_function.device_caches[description["device"]][0]
        signature = {
            name: kind if isinstance(kind, str) else str(kind)
            for name, kind in description["signature"].items()
        }
        compilation = Compilation(function.module, function.name, signature, kernels[description["key"]])
        with self._lock:
            self._found.append(compilation)


_log: CompilationLog | None = None


def watch() -> CompilationLog:
    """This process's log. Triton has one hook a process: the first call takes it, and raises if somebody else has it."""
    global _log
    if _log is None:
        if knobs.runtime.jit_post_compile_hook is not None:
            raise RuntimeError("triton's jit_post_compile_hook is taken: compilations cannot be counted")
        _log = CompilationLog()
        knobs.runtime.jit_post_compile_hook = _log._take
    return _log


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.write_bytes(content)
    fresh.replace(path)
