"""The part `kernels-check`: the kernels' and the runner's own tests, compiled for this GPU, in a pytest of their own."""

import importlib.util
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from bench.gpu.child import Say, Setup
from bench.gpu.record import Row
from bench.gpu.run import environment
from bench.install import ROOT

TESTS = ("tests/kernels", "tests/engine/test_cuda_runner.py", "tests/model/test_quantized.py")
NOT_HERE = ("test_compile.py", "test_compilations.py", "test_interpreter.py", "test_launches.py")
"""They compile without a GPU, and test what stands in for one."""
PROCESSES = 12
"""At once: compiling takes most of the time, and each holds a context on the GPU."""
TEST_SECONDS = 60
MOST_FAILURES = 40


def run(setup: Setup, say: Say) -> None:
    """Runs the tests; their failures are rows."""
    report = Path(setup.work) / "kernels.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *TESTS, "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command += [f"--ignore={TESTS[0]}/{name}" for name in NOT_HERE if (ROOT / TESTS[0] / name).is_file()]
    if importlib.util.find_spec("xdist") and not setup.rehearse:
        command += ["-n", str(PROCESSES)]
    if importlib.util.find_spec("pytest_timeout"):
        command += [f"--timeout={TEST_SECONDS}"]
    if setup.rehearse:
        command += ["-k", "swiglu"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(setup.rehearse), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=max(setup.left - 5, 1),
        )  # fmt: skip
        said, code = done.stdout + done.stderr, str(done.returncode)
    except subprocess.TimeoutExpired as error:
        said, code = _text(error.stdout) + _text(error.stderr), "none in time"
    print(said[-8000:])
    if report.is_file():
        for row in junit_rows(report.read_text(encoding="utf-8")):
            say(**row)
    else:
        lines = [line for line in said.splitlines() if line.strip()]
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
        for i, line in enumerate(failed[:MOST_FAILURES]):
            say(f"line {i + 1}", error=line[:400])
        say("tests", error=f"pytest ended with {code} and wrote no report: {' / '.join(lines[-3:])[:400]}")


def junit_rows(text: str) -> list[Row]:
    """Counts by file, then each failure with the first lines of its reason."""
    by_file: dict[str, dict[str, int]] = {}
    failures: list[Row] = []
    for case in ElementTree.fromstring(text).iter("testcase"):
        file = case.get("classname", "").rpartition(".")[2]
        counts = by_file.setdefault(file, {"passed": 0, "failed": 0, "skipped": 0})
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if bad is not None:
            counts["failed"] += 1
            if len(failures) < MOST_FAILURES:
                failures.append({"name": f"{file}::{case.get('name')}", "error": _reason(bad)})
        elif case.find("skipped") is not None:
            counts["skipped"] += 1
        else:
            counts["passed"] += 1
    totals = {key: sum(counts[key] for counts in by_file.values()) for key in ("passed", "failed", "skipped")}
    rows: list[Row] = [{"name": "tests", **totals}]
    rows += [
        {"name": file, **counts, "minor": counts["failed"] == 0} for file, counts in sorted(by_file.items())
    ]
    return rows + failures


def _reason(bad: ElementTree.Element) -> str:
    """The message, or the lines of the traceback that pytest marks as the error."""
    marked = [line[1:].strip() for line in (bad.text or "").splitlines() if line.startswith("E  ")]
    return " / ".join((marked or (bad.get("message") or "").splitlines())[:3])[:400]


def _text(said: bytes | str | None) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said or ""
