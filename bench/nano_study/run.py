"""Trains and tests the study's cells, the base first, in child processes. Refuses to know what a result means.

Everything lies in one folder, and what is complete there is not made again: a study that was stopped goes on.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import Queue
from random import Random
from typing import Any

from tqdm import tqdm

from agentlm_evals.environments import HELD_IN, HELD_OUT, Item, Split, World
from agentlm_evals.episode import play_all
from agentlm_evals.model import Decoding, Message, Model
from agentlm_evals.models.choice import ModelChoice, open_model, served_urls
from agentlm_evals.nano import chats
from agentlm_evals.nano.corpus import write_corpus
from bench.nano_study.plan import Cell, Size, cells, stages, to_toml
from bench.results import write_whole

ROOT = Path(__file__).resolve().parents[2]
GROUPS: dict[str, Sequence[World]] = {"held-in": HELD_IN, "held-out": HELD_OUT}
CONCURRENCY = 32
REPLY_TOKENS = 64
QUESTIONS_SEED = 7


def prepare(folder: Path, size: Size) -> None:
    """The corpus and the base's files."""
    if not (folder / "corpus" / "general.jsonl").is_file():
        write_corpus(folder / "corpus", scale=size.scale)
    if not (folder / "start" / "model.safetensors").is_file():
        _call([sys.executable, "recipes/nano/base.py", str(folder / "corpus"), str(folder / "start")])


def _call(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, cwd=ROOT)


def train(cell: Cell, size: Size, folder: Path) -> float:
    """Runs those of the cell's stages whose models are not there; seconds that this process took for them."""
    began = time.monotonic()
    for name, config in stages(cell, size, str(folder)).items():
        if (folder / name / "model" / "config.json").is_file():
            continue
        file = folder / f"{name}.toml"
        file.write_text(to_toml(config), encoding="utf-8")
        _call([sys.executable, "-m", "agentlm", "tune", str(file), "--resume"])
    return time.monotonic() - began


def items(worlds: Sequence[World], count: int) -> list[Item]:
    """The same test items for every cell, equally many of each world."""
    each = max(1, count // len(worlds))
    return [Item(world.name, Split.TEST, number) for world in worlds for number in range(each)]


def questions(count: int) -> list[chats.Exchange]:
    """The same questions for every cell, kinds in turn; none of them is in the corpus."""
    rng = Random(QUESTIONS_SEED)
    found: dict[str, chats.Exchange] = {}
    number = 0
    while len(found) < count:
        exchange = chats.draw(chats.TESTED[number % len(chats.TESTED)], Split.TEST, rng)
        found.setdefault(exchange.question, exchange)
        number += 1
    return list(found.values())


async def ask(model: Model, asked: Sequence[chats.Exchange]) -> list[float]:
    """1 for each question whose answer holds what is wanted, else 0."""
    free = asyncio.Semaphore(CONCURRENCY)

    async def one(exchange: chats.Exchange) -> float:
        async with free:
            reply = await model.generate([Message("user", exchange.question)], Decoding(REPLY_TOKENS), 0)
        return float(exchange.wanted in reply.text)

    return list(await asyncio.gather(*(one(exchange) for exchange in asked)))


async def _test(urls: Sequence[str], choice: ModelChoice, where: Path, size: Size) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    async with open_model(choice, urls) as model:
        for group, worlds in GROUPS.items():
            played = await play_all(
                items(worlds, size.episodes),
                model,
                where / f"{group}.jsonl",
                source=f"nano-study-{group}",
                concurrency=CONCURRENCY,
            )
            scores[group] = {record["item"]: record["reward"] for record in played}
            if faults := [record for record in played if record["reward"] is None]:
                raise RuntimeError(f"{len(faults)} episodes of {where} broke: {faults[0]['meta']['details']}")
        asked = questions(size.episodes)
        answers = await ask(model, asked)
        scores["general"] = dict(zip([exchange.question for exchange in asked], answers, strict=True))
    return scores


def test(cell: Cell, size: Size, folder: Path) -> dict[str, Any]:
    """Scores by group and item; kept in `scores.json`.

    Raises:
        RuntimeError: An episode ended by a fault: run again, and only those are played.
    """
    where = folder / cell.name
    kept = where / "scores.json"
    if kept.is_file():
        scores: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return scores
    choice = ModelChoice(model=str(where / "model"))
    with served_urls(choice) as (urls, _):
        scores = asyncio.run(_test(urls, choice, where, size))
    write_whole(kept, json.dumps(scores, indent=1))
    return scores


def shares(cores: Collection[int], at_once: int) -> list[set[int]]:
    """The cores of each cell that is made at the same time as others.

    Raises:
        ValueError: There are fewer cores than cells.
    """
    if not 1 <= at_once <= len(cores):
        raise ValueError(
            f"{at_once} cells at once; this machine's {len(cores)} cores allow 1 to {len(cores)}"
        )
    ordered = sorted(cores)
    return [set(ordered[number::at_once]) for number in range(at_once)]


def run(folder: Path, size: Size, at_once: int = 1) -> dict[str, dict[str, Any]]:
    """The whole study; scores by cell.

    Args:
        folder: Where everything lies.
        size: How much of everything.
        at_once: Cells that are made at the same time, each on its share of the cores, once there is a base.

    Raises:
        ValueError: `at_once` is more than the cores.
    """
    own: Queue[set[int]] = Queue()
    for share in shares(os.sched_getaffinity(0), at_once):
        own.put(share)
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, size)
    base, *others = cells(size)
    results: dict[str, dict[str, Any]] = {}

    def make(cell: Cell) -> None:
        seconds = train(cell, size, folder)
        results[cell.name] = test(cell, size, folder)
        done.update()
        print(f"{cell.name}: trained in {seconds:.0f} s", file=sys.stderr)

    with tqdm(total=1 + len(others), desc="cells", disable=not sys.stderr.isatty()) as done:
        make(base)
        # A thread's cores are its child processes' too, and how many there are is how many threads these take.
        with ThreadPoolExecutor(at_once, initializer=lambda: os.sched_setaffinity(0, own.get())) as pool:
            for future in as_completed([pool.submit(make, cell) for cell in others]):
                if future.exception() is not None:
                    pool.shutdown(wait=False, cancel_futures=True)
                future.result()
    return results
