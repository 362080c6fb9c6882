"""The command: chooses parts, runs each in a process of its own, keeps what they found."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.gpu.parts import PARTS

HERE = Path(__file__).parent.parent.parent


def main() -> int:
    """Runs the parts that are not there yet and fit the budget; gives 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results/gpu.json"))
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--again", action="store_true", help="measure parts that are there, too")
    parser.add_argument(
        "--budget", type=float, default=7200.0, help="seconds; a part that may not fit is not begun"
    )
    parser.add_argument(
        "--models", type=Path, default=Path("/tmp/agentlm-bench-models"), help="random checkpoints"
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        return _run_one(given.part, given.out, given.models)
    found: dict[str, Any] = json.loads(given.out.read_text()) if given.out.is_file() else {}
    began, failed = time.monotonic(), 0
    for name in given.only:
        part = PARTS[name]
        if name in found and "error" not in found[name] and not given.again:
            continue
        left = given.budget - (time.monotonic() - began)
        if left < part.seconds / 2:
            print(f"-- {name}: left out, {left:.0f} s are left and it may take {part.seconds}", flush=True)
            continue
        limit = min(part.seconds, left)
        start = time.monotonic()
        print(f"-- {name}", flush=True)
        command = [
            sys.executable,
            "-m",
            "bench.gpu",
            "--part",
            name,
            "--out",
            str(given.out),
            "--models",
            str(given.models),
        ]
        try:
            code = subprocess.run(command, timeout=limit, check=False, cwd=HERE).returncode
            error = None if code == 0 else f"exit status {code}"
        except subprocess.TimeoutExpired:
            error = f"not through after {limit:.0f} s"
        found = json.loads(given.out.read_text()) if given.out.is_file() else {}
        entry = found.setdefault(name, {})
        entry["seconds"] = round(time.monotonic() - start, 1)
        if error and "error" not in entry:
            entry["error"] = error
        failed += "error" in entry
        _write(given.out, found)
        print(f"-- {name}: {entry['seconds']} s {entry.get('error', '')[-1500:]}", flush=True)
    return 1 if failed else 0


def _run_one(name: str, out: Path, models: Path) -> int:
    import traceback

    found: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    try:
        entry: dict[str, Any] = {"result": PARTS[name].run(found, models)}
    except Exception:
        entry = {"error": traceback.format_exc()[-3000:]}
    found[name] = entry
    _write(out, found)
    return 1 if "error" in entry else 0


def _write(out: Path, found: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_suffix(".new")
    fresh.write_text(json.dumps(found, indent=1))
    fresh.replace(out)


if __name__ == "__main__":
    sys.exit(main())
