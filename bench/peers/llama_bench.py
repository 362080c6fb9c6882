"""llama.cpp by its own measuring programs: llama-bench for one request, llama-batched-bench for several at once."""

import json
import subprocess
from collections.abc import Iterator

from bench.cells import CONTEXT_TOKENS, DECODE_STEPS, PREFILL_TOKENS, Cell
from bench.peers.engine import REPETITIONS, SEGMENT_STEPS, EngineBrokenError, Setup


class Engine:
    """Each cell is a run of a program; the model is in the page cache after the first."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def close(self) -> None:
        """Nothing outlives a cell."""

    def measure(self, cell: Cell) -> Iterator[float]:
        """Yields tokens per second, one value a repetition."""
        if cell.kind == "prefill":
            yield from self._alone(["-p", str(PREFILL_TOKENS[cell.context]), "-n", "0"])
        elif cell.batch == 1:
            depth = str(CONTEXT_TOKENS[cell.context])
            yield from self._alone(["-p", "0", "-n", str(DECODE_STEPS), "-d", depth])
        else:
            yield from self._together(cell)

    def _alone(self, arguments: list[str]) -> list[float]:
        said = self._run("llama-bench", [*arguments, "-r", str(REPETITIONS), "-o", "json"])
        samples: list[float] = json.loads(said)[0]["samples_ts"]
        return samples

    def _together(self, cell: Cell) -> Iterator[float]:
        depth = CONTEXT_TOKENS[cell.context]
        short = cell.context == "short"
        steps = DECODE_STEPS if short else SEGMENT_STEPS
        arguments = [
            "-npp",
            str(depth),
            "-ntg",
            str(steps),
            "-npl",
            ",".join([str(cell.batch)] * REPETITIONS),
            "-c",
            str(cell.batch * (depth + steps)),
        ]
        if not short:
            # One prompt is computed and copied to each request's own part of the cache: minutes less of prefill.
            arguments.append("-pps")
        said = self._run("llama-batched-bench", [*arguments, "--output-format", "jsonl"])
        rates = [
            json.loads(line[line.index("{") :])["speed_tg"]
            for line in said.splitlines()
            if '"speed_tg"' in line
        ]
        if not rates:
            raise EngineBrokenError(f"llama-batched-bench printed no figures: {said[-500:]}")
        yield from rates

    def _run(self, program: str, arguments: list[str]) -> str:
        path = self._setup.programs / program
        command = [str(path), "-m", str(self._setup.model), "-t", str(self._setup.threads), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise EngineBrokenError(f"{program} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout
