"""The study's command line: `python -m bench.nano_study` (an hour and a half on two cores), `--rehearse` for minutes."""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path

from bench.machine import commit, describe
from bench.nano_study.plan import FULL, REHEARSAL
from bench.nano_study.report import summarise, table
from bench.nano_study.run import ROOT, run, shares
from bench.results import write_whole


def main() -> None:
    """Runs what is missing, then prints the table and writes the record."""
    cores = os.sched_getaffinity(0)
    parser = argparse.ArgumentParser(prog="python -m bench.nano_study", description=main.__doc__)
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "nano-study", help="where runs are kept"
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes: whether all of it runs")
    parser.add_argument("--record", type=Path, help="a JSON file for the results")
    parser.add_argument(
        "--at-once",
        type=int,
        default=min(2, len(cores)),
        help="tunings at once, each on its share of the cores",
    )
    given = parser.parse_args()
    try:
        shares(cores, given.at_once)
    except ValueError as error:
        parser.error(f"--at-once: {error}")
    size = REHEARSAL if given.rehearse else FULL
    folder = given.folder.resolve() / ("rehearsal" if given.rehearse else "full")
    rows = summarise(run(folder, size, given.at_once), size)
    print(table(rows))
    if given.record:
        body = {"machine": describe(len(cores)), "commit": commit(), "size": asdict(size), "rows": rows}
        write_whole(given.record, json.dumps(body, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
