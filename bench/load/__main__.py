"""The command `python -m bench.load`: thousands of connections on the mock backend, then on a real small model.

Half of the connections read slowly, a tenth of the streams are cut by the client. 1 when an answer is lost or wrong, a
block leaks or memory grows. Linux only.
"""

import argparse
import asyncio
import datetime
import gc
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agentlm import __version__
from bench import machine
from bench.install import ROOT
from bench.load import report
from bench.load.served import TooFewDescriptorsError, allow_descriptors, served
from bench.load.traffic import Shape, Tally, references, run

MOCK = "mock"
MODEL = "model"
MOCK_STEP_SECONDS = 0.1
"""2,000 streams then are 20,000 tokens a second: what a large GPU's server sends, and what a client in Python can read."""
MOCK_LENGTHS = (32, 64, 128)
MODEL_LENGTHS = (8, 16, 32)
"""A small machine computes some thousands of tokens a second for all connections together."""
MODEL_CACHE = "128M"
SPARE_REQUESTS = 64
SPARE_TOKENS = 512


def main() -> int:
    """Runs both servers under load; 1 when anything is wrong, 2 when it cannot be run."""
    given = _arguments()
    try:
        allow_descriptors(given.connections)
    except TooFewDescriptorsError as error:
        print(error, file=sys.stderr)
        return 2
    result: dict[str, Any] = {
        "machine": machine.describe(os.cpu_count() or 1),
        "commit": machine.commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"agentlm": __version__, "python": platform.python_version(), "rustc": _rustc()},
        "runs": {},
    }
    for name, seconds in ((MOCK, given.mock_seconds), (MODEL, given.model_seconds)):
        if seconds > 0:
            result["runs"][name] = _measure(name, seconds, given)
    print(report.table(result))
    if given.out is not None:
        for path in report.write(result, given.out, machine.slug(result["machine"])):
            print(f"written: {path}")
    found = [f"{name}: {fault}" for name, one in result["runs"].items() for fault in one["faults"]]
    for fault in found:
        print(fault, file=sys.stderr)
    return 1 if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--connections", type=_positive, default=2000)
    parser.add_argument("--mock-seconds", type=float, default=300.0, help="0: not on the mock backend")
    parser.add_argument("--model-seconds", type=float, default=60.0, help="0: not on a model")
    parser.add_argument("--model", help="a checkpoint folder; without one, agentlm-nano")
    parser.add_argument(
        "--mock-step-time", type=float, default=MOCK_STEP_SECONDS, help="seconds a step of the mock"
    )
    parser.add_argument(
        "--ramp-seconds", type=float, default=15.0, help="in which the connections are opened"
    )
    parser.add_argument("--slow-share", type=_share, default=0.5)
    parser.add_argument("--cut-share", type=_share, default=0.1)
    parser.add_argument(
        "--patience", type=float, default=180.0, help="seconds after which an answer counts as lost"
    )
    parser.add_argument(
        "--answer-tokens",
        type=_positive,
        nargs="+",
        help="lengths of answers, any of which a request asks for",
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench" / "results", help="folder of load-<machine>.json and .md"
    )
    parser.add_argument("--no-write", dest="out", action="store_const", const=None, help="print only")
    return parser.parse_args()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but is {value}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, but is {value}")
    return value


def _measure(name: str, seconds: float, given: argparse.Namespace) -> dict[str, Any]:
    lengths = tuple(given.answer_tokens or (MOCK_LENGTHS if name == MOCK else MODEL_LENGTHS))
    shape = Shape(
        connections=given.connections,
        seconds=seconds,
        ramp_seconds=given.ramp_seconds,
        slow_share=given.slow_share,
        cut_share=given.cut_share,
        lengths=lengths,
        patience_seconds=given.patience,
    )
    flags = ["--max-concurrent-requests", str(given.connections + SPARE_REQUESTS)]
    if name == MOCK:
        flags += ["--backend", "mock", "--mock-step-time", str(given.mock_step_time)]
        # Every stream has a token at every step, and new ones find room beside them.
        flags += ["--max-batch-size", str(given.connections + SPARE_REQUESTS)]
        flags += ["--max-batch-prefill-tokens", str(2 * given.connections + SPARE_TOKENS)]
    else:
        # As many blocks as are written to within seconds: a cache that is still being filled would look like a leak.
        flags += ["--backend", "cpu", "--kv-cache-memory", MODEL_CACHE]
        flags += ["--model", given.model] if given.model else []
    tally = Tally()
    with served(flags) as server:
        total = sum(server.blocks().values())
        expected = asyncio.run(references(server.port, lengths))
        others = machine.Others(os.getsid(0))
        cpu = _own_cpu_seconds()
        # An answer's pieces have no cycles, and a pause of the collector would look like the server's.
        gc.collect()
        gc.freeze()
        planned = round(shape.ramp_seconds + shape.seconds)
        with (
            tqdm(total=planned, desc=name, unit="s", disable=not sys.stderr.isatty()) as bar,
            server.watched(min(1.0, seconds / 10)) as watched,
        ):

            def progress(tally: Tally) -> None:
                bar.n = min(round(bar.format_dict["elapsed"]), planned)
                bar.set_postfix(
                    whole=tally.whole, cut=tally.cut, lost=tally.lost + tally.wrong, refresh=False
                )
                bar.refresh() if bar.n != bar.last_print_n else None

            asyncio.run(run(server.port, shape, expected, tally, progress))
        blocks = server.wait_idle()
        cpu = _own_cpu_seconds() - cpu
        share = others.share()
    shown = " ".join(["serve", *(Path(flag).name if os.sep in flag else flag for flag in flags)])
    return {
        "server": shown,
        **report.summary(shape, tally, watched, blocks, cpu),
        "others_share": share,
        "faults": report.faults(tally, watched, blocks, total),
    }


def _own_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _rustc() -> str:
    return subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout.split()[
        1
    ]


if __name__ == "__main__":
    sys.exit(main())
