"""How fast `agentlm data contamination` reads training text: a gigabyte in five minutes on two cores is what it must do.

Text of our own making, whose words are as frequent as words are (Zipf), with some of the evaluation samples in it. What
was put in must be found, or nothing is recorded. Refuses to know how texts are compared.

    python -m bench.contamination                       # 1 GiB in JSON lines, words
    python -m bench.contamination --gib 0.1 --model DIR # the tokens of a checkpoint's tokenizer
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agentlm.tuning.contamination import EvaluationSample, Settings, scan
from bench.results import keep_cell

RESULTS = Path(__file__).parent / "results" / "contamination-cpu.json"
SAMPLES, SAMPLE_WORDS = 1319, 60
"""As many as GSM8K's test set has, and about as long."""
LEAKED = 13
"""Samples that are put into the text, all of them whole."""
RECORD_WORDS = 400
VOCABULARY = 50_000
BLOCK_RECORDS = 4096
"""Records that are made at a time: about 10 MiB."""


def vocabulary(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.str_]]:
    """Made-up words of 2 to 12 letters."""
    letters = np.asarray(list("etaoinshrdlucmfwypvbgkqjxz"))
    lengths = rng.integers(2, 13, VOCABULARY)
    drawn = letters[np.minimum(rng.geometric(0.12, int(lengths.sum())) - 1, 25)]
    ends = np.cumsum(lengths)
    return np.asarray(["".join(word) for word in np.split(drawn, ends[:-1])])


def texts(
    words: np.ndarray[Any, np.dtype[np.str_]], rng: np.random.Generator, count: int, length: int
) -> Iterator[str]:
    """So many texts of so many words, drawn by Zipf's law."""
    ranks = 1 / np.arange(1, VOCABULARY + 1)
    drawn = words[rng.choice(VOCABULARY, size=(count, length), p=ranks / ranks.sum())]
    return (" ".join(row) for row in drawn)


def write(file: Path, size: int, samples: list[str]) -> int:
    """Writes at least `size` bytes of records, the first `LEAKED` samples among them; the number of bytes."""
    rng = np.random.default_rng(1)
    words = vocabulary(np.random.default_rng(0))
    written = records = 0
    with file.open("w", encoding="utf-8") as out:
        while written < size:
            for text in texts(words, rng, BLOCK_RECORDS, RECORD_WORDS):
                if records % 997 == 0 and records // 997 < LEAKED:
                    text = f"{text} {samples[records // 997]} {text[:80]}"
                message = {"role": "user", "content": text}
                written += out.write(
                    json.dumps({"id": str(records), "source": "made", "messages": [message]}) + "\n"
                )
                records += 1
    return written


def measure(gib: float, threads: int, model: str | None) -> dict[str, Any]:
    """One scan. Raises `RuntimeError` if a sample that was put in is not found whole."""
    words = vocabulary(np.random.default_rng(0))
    samples = list(texts(words, np.random.default_rng(2), SAMPLES, SAMPLE_WORDS))
    given = [EvaluationSample(str(number), "made", (text,)) for number, text in enumerate(samples)]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "data.jsonl"
        size = write(file, int(gib * 2**30), samples)
        cpu = time.process_time()
        found = scan(given, [(file, "jsonl")], Settings(threads=threads, model=model))
        cpu = time.process_time() - cpu
    missed = [sample.id for sample in found.samples[:LEAKED] if sample.share < 1]
    if missed:
        raise RuntimeError(f"samples {', '.join(missed)} stand in the text and were not found whole")
    return {
        "bytes": size,
        "records": found.records,
        "tokens": found.tokens,
        "tokenization": "words" if model is None else Path(model).name,
        "seconds": found.seconds,
        "cpu_seconds": cpu,
        "mib_per_second": size / 2**20 / found.seconds,
        "gigabyte_seconds": found.seconds * 1e9 / size,
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.contamination", description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", help="A checkpoint whose tokenizer's tokens are compared.")
    parser.add_argument("--record", action="store_true", help="Keep the figures in bench/results.")
    given = parser.parse_args()
    cell = measure(given.gib, given.threads, given.model)
    print(json.dumps(cell, indent=2))
    if given.record:
        keep_cell(RESULTS, cell["tokenization"], cell, given.threads)


if __name__ == "__main__":
    main()
