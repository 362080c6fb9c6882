"""One engine in a process of its own: reads what to measure from its arguments, prints one JSON line a repetition.

    python -m bench.worker SETUP CELL…

Refuses to know the table. A line is {"cell", "value", "others", "at_most"}, {"cell", "limits"}, {"cell", "done": true}
or {"cell", "error"}.
"""

import importlib
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from bench.cells import Cell
from bench.machine import Others, measure_limits
from bench.peers import PEERS
from bench.peers.engine import Engine, Setup
from bench.roofline import Limits
from bench.workload import AtMost

BUDGET_SECONDS = 240
"""No further repetition of a cell begins after this time; the first one is always finished."""


REST_SECONDS = 0.5


def main() -> None:
    """Measures every cell; whatever an engine throws is its result in that cell, and the next one follows."""
    given = json.loads(sys.argv[1])
    setup = Setup(**{**given, "model": Path(given["model"]), "programs": Path(given["programs"])})
    info = next(peer for peer in PEERS if peer.name == setup.name)
    engine: Engine = importlib.import_module(f"bench.peers.{info.module}").Engine(setup)
    others = Others(os.getsid(0))
    try:
        for key in sys.argv[2:]:
            before = _limits(setup.threads)
            start = time.monotonic()
            others.restart()
            try:
                for value in engine.measure(Cell.from_key(key)):
                    at_most = isinstance(value, AtMost)
                    _say({"cell": key, "value": value, "others": others.share(), "at_most": at_most})
                    others.restart()
                    if at_most or time.monotonic() - start > BUDGET_SECONDS:
                        break
                _say({"cell": key, "limits": asdict(before.mean(_limits(setup.threads)))})
                _say({"cell": key, "done": True})
            except Exception as error:
                _say({"cell": key, "error": f"{type(error).__name__}: {error}"[:500]})
    finally:
        engine.close()


def _limits(threads: int) -> Limits:
    """What the machine allows at the moment: its clock and its neighbours change."""
    # The engine's threads may still wait for work with a busy loop.
    time.sleep(REST_SECONDS)
    return measure_limits(threads)


def _say(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
