"""Fuzzes every target for some minutes with libFuzzer, one after the other, and writes what came of it. `make fuzz`.

Needs a nightly compiler and cargo-fuzz. What is found keeps growing in a folder of its own; `--minimise` takes the
inputs that reach the most from there into the committed corpus. Refuses to know what a target checks.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGETS = ("json", "templates", "grammars", "sse", "conversations", "text", "tools")
LOG = ROOT / "bench" / "results" / "fuzz.md"
PARTS = ("engine/core", "engine/host", "engine/text", "engine/server", "engine/fuzz/src")
"""What is fuzzed."""
BUILT = "built-from"
"""In the work folder: the commit of the binaries there."""
INPUT_SECONDS = 25
"""An input that takes longer is a finding."""
MEMORY_MIB = 4096
COMMITTED_BYTES = 24_000
COMMITTED_INPUTS = 80
"""Bounds of each target's committed corpus, which is chosen from the few inputs that together reach everything."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a target's run showed."""

    target: str
    minutes: float
    executions: int
    coverage: int
    features: int
    corpus: int
    findings: list[str]
    """Files of the inputs that failed."""
    commit: str
    date: str


def main() -> int:
    """Runs the targets; 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python engine/fuzz/run.py", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument(
        "--work", type=Path, default=Path.home() / ".cache" / "agentlm" / "fuzz", help="build and corpus"
    )
    parser.add_argument(
        "--minimise", action="store_true", help="write the committed corpus anew from what was found"
    )
    parser.add_argument("--log", type=Path, default=LOG)
    given = parser.parse_args()
    unknown = sorted(set(given.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no target is named {', '.join(unknown)}: there are {', '.join(TARGETS)}")
    targets = given.targets or list(TARGETS)
    if given.minimise:
        for target in targets:
            minimise(target, given.work)
        return 0
    build(given.work)
    found = []
    for target in targets:
        outcome = fuzz(target, given.minutes, given.work)
        record(outcome, given.work, given.log)
        found += [f"{target}: {path}" for path in outcome.findings]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


def build(work: Path) -> None:
    """Compiles all targets. Ends the program with a line when a tool is missing."""
    if subprocess.run(["cargo", "fuzz", "--version"], capture_output=True, check=False).returncode:
        sys.exit("cargo-fuzz is missing: cargo install --locked cargo-fuzz")
    if subprocess.run(["cargo", "+nightly", "--version"], capture_output=True, check=False).returncode:
        sys.exit("a nightly compiler is missing: rustup toolchain install nightly --profile minimal")
    # The checks stay in: an assertion that fails or an integer that overflows is a finding.
    # What runs is what stood here when the build began, whatever is committed while it runs.
    source = commit()
    options = ["--fuzz-dir", str(HERE), "--target-dir", str(work), "--features", "fuzzer"]
    subprocess.run(
        ["cargo", "+nightly", "fuzz", "build", *options, "--release", "--debug-assertions"], check=True
    )
    write(work / BUILT, source + "\n")


def built_from(work: Path) -> str:
    """The commit that `build` compiled."""
    return (work / BUILT).read_text(encoding="utf-8").strip()


def binary(target: str, work: Path) -> Path:
    """What `build` made."""
    (path,) = work.glob(f"*/release/{target}")
    return path


def fuzz(target: str, minutes: float, work: Path) -> Outcome:
    """Runs one target for so long, again from where it stopped when an input fails."""
    corpus, failed = work / "corpus" / target, work / "failed" / target
    for folder in (corpus, failed):
        folder.mkdir(parents=True, exist_ok=True)
    before = inputs(failed)
    until = time.monotonic() + 60 * minutes
    executions = coverage = features = size = 0
    while (left := int(until - time.monotonic())) > 0:
        command = [str(binary(target, work)), str(corpus), str(HERE / "corpus" / target)]
        command += [f"-max_total_time={left}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={MEMORY_MIB}"]
        command += [f"-dict={HERE / 'dictionaries' / f'{target}.dict'}", f"-artifact_prefix={failed}/"]
        command += ["-print_final_stats=1", "-max_len=4096"]
        with (work / f"{target}.log").open("wb") as log:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
        told = (work / f"{target}.log").read_text(encoding="utf-8", errors="replace")
        ran = re.findall(r"^stat::number_of_executed_units:\s*(\d+)", told, re.MULTILINE)
        executions += int(ran[-1]) if ran else 0
        lines = re.findall(r"^#\d+\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)", told, re.MULTILINE)
        if lines:
            coverage, features, size = (
                max(now, then)
                for now, then in zip(
                    (int(value) for value in lines[-1]), (coverage, features, size), strict=True
                )
            )
        print(f"{target}: {executions} executions, {coverage} edges, {features} features", flush=True)
        if len(inputs(failed) - before) > 4:
            break
    findings = sorted(str(path) for path in inputs(failed) - before)
    spent = minutes - max(until - time.monotonic(), 0) / 60
    return Outcome(
        target, round(spent, 1), executions, coverage, features, size, findings, built_from(work), today()
    )


def inputs(failed: Path) -> set[Path]:
    """The inputs that failed: what was merely slow, on a machine that others use, is no finding."""
    return {path for path in failed.iterdir() if not path.name.startswith("slow-unit")}


def minimise(target: str, work: Path) -> None:
    """Writes the committed corpus: some of the inputs that together reach everything, and all that ever failed."""
    merged = work / "merged" / target
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    committed = HERE / "corpus" / target
    command = [str(binary(target, work)), "-set_cover_merge=1", f"-rss_limit_mb={MEMORY_MIB}", str(merged)]
    subprocess.run([*command, str(committed), str(work / "corpus" / target)], check=True, capture_output=True)
    names = chosen(merged)
    for name in names:
        shutil.copy(merged / name, committed / name)
    for path in committed.iterdir():
        # What once failed keeps its name; everything that libFuzzer named was chosen anew.
        if re.fullmatch(r"[0-9a-f]{40}", path.name) and path.name not in names:
            path.unlink()
    print(f"{target}: {len(names)} inputs of {len(list(merged.iterdir()))}")


def chosen(merged: Path) -> set[str]:
    """Names of inputs of every size, as many as may be committed."""
    paths = sorted(merged.iterdir(), key=lambda path: path.stat().st_size)
    step = max(len(paths) / COMMITTED_INPUTS, 1.0)
    kept, names = 0, set()
    for place in range(min(COMMITTED_INPUTS, len(paths))):
        path = paths[int(place * step)]
        kept += path.stat().st_size
        if kept > COMMITTED_BYTES:
            break
        names.add(path.name)
    return names


def record(outcome: Outcome, work: Path, log: Path) -> None:
    """Takes one outcome into the log, beside the newest of every other target."""
    path = work / "outcomes.json"
    outcomes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    outcomes[outcome.target] = asdict(outcome)
    write(path, json.dumps(outcomes, indent=1) + "\n")
    rows = [Outcome(**outcomes[target]) for target in TARGETS if target in outcomes]
    about = (
        f"libFuzzer through cargo-fuzz with AddressSanitizer, {nightly()}, on {platform.machine()} "
        f"({os.cpu_count()} cores, shared). Written by `make fuzz`; what the targets check: "
        f"[fuzzing](../../docs/fuzzing.md)."
    )
    head = "| target | minutes | executions | edges | features | inputs kept | failed inputs | built from, date |"
    lines = ["# Fuzzing", "", about, "", head, "| --- " * head.count(" | ") + "| --- |"]
    for row in rows:
        lines.append(
            f"| `{row.target}` | {row.minutes} | {row.executions} | {row.coverage} | {row.features} | {row.corpus} "
            f"| {len(row.findings)} | {row.commit}, {row.date} |"
        )
    write(log, "\n".join(lines) + "\n")


def write(path: Path, text: str) -> None:
    """Replaces a file at once."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def commit() -> str:
    """The commit, with "+" when what is fuzzed differs from it."""
    head = _output(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    return head + "+" if _output(["git", "-C", str(ROOT), "status", "--porcelain", "--", *PARTS]) else head


def today() -> str:
    """The date, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def nightly() -> str:
    """The compiler."""
    return _output(["rustc", "+nightly", "--version"])


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
