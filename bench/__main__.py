"""The command `python -m bench`: installs the peers, measures what is missing, prints and writes the report."""

import argparse
import os
import signal
import subprocess
import sys

from bench import cells, machine, report
from bench.install import ROOT, PeerMissingError, install
from bench.peers import PEERS, PeerInfo
from bench.results import Record
from bench.run import jobs, run

PAGE = ROOT / "docs" / "benchmarks.md"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="the small model, short contexts, two batch sizes"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PATTERN", help="cells such as 110m/float16/decode"
    )
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME", help="these engines only: " + ", ".join(p.name for p in PEERS)
    )
    parser.add_argument("--again", action="store_true", help="measure the chosen cells again")
    parser.add_argument("--name", help="the record in bench/results; by default named after the machine")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="compute threads of every engine"
    )
    parser.add_argument(
        "--report", action="store_true", help="only write docs/benchmarks.md and its picture from the record"
    )
    return parser.parse_args()


def chosen_peers(names: list[str] | None) -> list[PeerInfo]:
    """The engines of these names, all when none is named. Ends the program for an unknown name."""
    if names is None:
        return list(PEERS)
    unknown = set(names) - {peer.name for peer in PEERS}
    if unknown:
        sys.exit(
            f"no engine is called {', '.join(sorted(unknown))}; known: {', '.join(peer.name for peer in PEERS)}"
        )
    return [peer for peer in PEERS if peer.name in names]


def measure(given: argparse.Namespace, record: Record) -> int:
    """Fills the record; the number of cells that failed in this run."""
    # Others on the machine only lower what is measured: a limit is the best that was ever reached.
    machine.build_limits()
    found = machine.measure_limits(given.threads)
    record.limits = found if record.limits is None else found.or_better(record.limits)
    wanted = cells.matching(cells.all_cells(given.quick), given.only)
    peers = chosen_peers(given.peers)
    if given.again:
        for cell in wanted:
            for peer in peers:
                record.measured.pop((peer.name, cell.key), None)
    for key in [key for key, one in record.measured.items() if one.error]:
        del record.measured[key]
    installed = install(given.threads)
    record.versions = machine.versions(installed.python)
    commit = machine.commit()
    failed = 0
    for job in jobs(wanted, peers, record):
        print(f"{job.peer.name}: {job.model}, {job.precision}, {len(job.cells)} cells", flush=True)
        for measured in run(job, installed, given.threads, commit):
            figure = f"{measured.median:.4g} tokens/s" if measured.median else f"failed: {measured.error}"
            print(f"  {measured.cell}: {figure} ({len(measured.values)} repetitions)", flush=True)
            failed += measured.median is None
            record.put(measured)
            record.save()
    record.save()
    subprocess.run(
        [
            installed.python,
            "-m",
            "bench.plot",
            record.file.stem,
            PAGE.with_name(report.picture(record.file.stem)),
        ],
        cwd=ROOT,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return failed


def main() -> int:
    """Runs the command; 1 when a peer is missing or a cell failed. Missed goals are shown, and not an error."""
    given = arguments()
    # A terminated run takes its workers with it, as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    described = machine.describe(given.threads)
    record = Record.open(given.name or machine.slug(described))
    record.machine = described
    failed = 0
    if not given.report:
        try:
            failed = measure(given, record)
        except PeerMissingError as error:
            print(error, file=sys.stderr)
            return 1
    text = report.markdown(record)
    print(text)
    if not given.quick:
        report.write_machine(PAGE, record.file.stem, text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
