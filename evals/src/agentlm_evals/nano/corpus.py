"""Writes agentlm-nano's training text as conversation records. Refuses to know tokens, models and proportions of a mixture.

    python -m agentlm_evals.nano.corpus DIRECTORY

Four files: `agent.jsonl`, experts' trajectories on the train splits of the held-in worlds, `general.jsonl`, short chats,
`practice.jsonl`, copying and looking up, which a model from nothing must learn before either, and `arithmetic.jsonl`, many
sums and word problems in a row. They are a function of the arguments alone, byte for byte.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from agentlm_evals.environments import HELD_IN, Item, Split
from agentlm_evals.environments.trajectory import expert_trajectory
from agentlm_evals.environments.world import split_of
from agentlm_evals.errors import ConfigError
from agentlm_evals.nano import chats, problems
from agentlm_evals.tasks.gsm8k import prompts

SEED = 1
TRAJECTORIES: Mapping[str, int] = {"household": 4_500, "shop": 4_500, "database": 8_000, "shell": 8_000}
"""Of each world: short episodes more often, so that the four have similar shares of tokens."""
CHATS = 56_000
PRACTICES = 26_000
ARITHMETICS = 12_000
SLIP_SHARE = 0.25
SYSTEM = "You are a helpful, respectful and honest assistant."
"""The system prompt that AgentLM's clients send."""
SYSTEM_SHARE = 0.15
PROBLEM_SHARE = 0.3
"""Of chats that are one word problem alone."""
SERIES_SHARE = 0.08
"""Of chats that are a series of word problems in the form of our GSM8K task."""
SUMS_SHARE = 0.5
"""Of arithmetic that is sums without words."""
SOURCES = {"agent": "agentlm-worlds", "general": "agentlm-chats", "practice": "agentlm-practice",
           "arithmetic": "agentlm-arithmetic"}  # fmt: skip


def trajectories(seed: int, counts: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Experts' trajectories, the worlds one after the other; seeds draw from disjoint ranges of items."""
    for world in HELD_IN:
        for number in range(counts[world.name]):
            item = Item(world.name, Split.TRAIN, seed * 1_000_000 + number)
            yield expert_trajectory(world, item, slip_share=SLIP_SHARE, source=SOURCES["agent"])


def conversations(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Chats of one to three exchanges; talk that opens or closes a conversation stands first or last."""
    kinds, weights = list(chats.KINDS), [weight for _, weight in chats.KINDS.values()]
    for number in range(count):
        rng = Random(f"chat/{seed}/{number}")
        drawn = rng.random()
        if drawn < SERIES_SHARE:
            yield {
                "id": f"chat-{seed}-{number}",
                "source": SOURCES["general"],
                "tags": ["series"],
                "messages": series(rng),
            }
            continue
        if drawn < SERIES_SHARE + PROBLEM_SHARE:
            chosen = ["problem"]
        else:
            chosen = rng.choices(kinds, weights, k=rng.choice((1, 1, 2, 3)))
            chosen.sort(key=lambda kind: {"greeting": 0, "thanks": 2, "farewell": 3}.get(kind, 1))
        messages: list[dict[str, Any]] = []
        if rng.random() < SYSTEM_SHARE:
            messages.append({"role": "system", "content": SYSTEM})
        for kind in chosen:
            exchange = chats.draw(kind, Split.TRAIN, rng)
            messages.append({"role": "user", "content": exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer})
        yield {
            "id": f"chat-{seed}-{number}",
            "source": SOURCES["general"],
            "tags": sorted(set(chosen)),
            "messages": messages,
        }


def series(rng: Random) -> list[dict[str, Any]]:
    """The task's prompt with some of its worked examples, which are read and not trained on, then problems of ours."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": prompts.SYSTEM},
        {"role": "user", "content": prompts.INSTRUCTION},
        {"role": "assistant", "content": prompts.READY, "loss": False},
    ]
    for asked, worked in prompts.SHOTS[: rng.randint(0, len(prompts.SHOTS))]:
        messages.append({"role": "user", "content": prompts.question(asked)})
        messages.append({"role": "assistant", "content": worked, "loss": False})
    for problem in _for_training(rng, rng.randint(2, 6)):
        messages.append({"role": "user", "content": prompts.question(problem.question)})
        messages.append({"role": "assistant", "content": problem.reply})
    return messages


def _for_training(rng: Random, count: int) -> Iterator[problems.Problem]:
    """Word problems that no test asks."""
    while count:
        problem = problems.draw(rng)
        if {split_of(prompts.question(problem.question)), split_of(problem.question)} == {Split.TRAIN}:
            yield problem
            count -= 1


def arithmetic(rng: Random) -> list[dict[str, Any]]:
    """Sums in one list, or word problems one after the other in one of two forms of answer."""
    if rng.random() < SUMS_SHARE:
        drawn = [problems.draw_sum(rng) for _ in range(rng.randint(6, 20))]
        asked = ", ".join(f"{problem.a} {problem.sign} {problem.b}" for problem in drawn)
        return [
            {"role": "user", "content": f"Calculate {asked}."},
            {"role": "assistant", "content": "\n".join(problem.sum for problem in drawn)},
        ]
    as_task, messages = rng.random() < 0.5, []
    for problem in _for_training(rng, rng.randint(3, 8)):
        messages.append({"role": "user", "content": prompts.question(problem.question)})
        messages.append({"role": "assistant", "content": problem.reply if as_task else problem.working})
    return messages


def arithmetics(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Conversations of arithmetic alone."""
    for number in range(count):
        yield {
            "id": f"arithmetic-{seed}-{number}",
            "source": SOURCES["arithmetic"],
            "tags": [],
            "messages": arithmetic(Random(f"arithmetic/{seed}/{number}")),
        }


def practices(seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Conversations of copying alone."""
    for number in range(count):
        messages: list[dict[str, Any]] = []
        for exchange in chats.practice(Random(f"practice/{seed}/{number}")):
            messages.append({"role": "user", "content": exchange.question})
            messages.append({"role": "assistant", "content": exchange.answer})
        yield {
            "id": f"practice-{seed}-{number}",
            "source": SOURCES["practice"],
            "tags": [],
            "messages": messages,
        }


def write_lines(path: Path, records: Iterable[Mapping[str, Any]], total: int) -> None:
    """Writes records as JSONL, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w", encoding="utf-8") as out:
            for record in tqdm(records, total=total, desc=path.name, disable=not sys.stderr.isatty()):
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_corpus(directory: Path, *, seed: int = SEED, scale: float = 1.0) -> list[Path]:
    """Writes the files and returns their paths; `scale` makes them smaller or larger.

    Raises:
        ConfigError: The scale is not positive, or the seed is negative.
    """
    if not scale > 0:
        raise ConfigError(f"scale is {scale}; it must be greater than 0")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be 0 or more")
    counts = {name: max(1, round(scale * count)) for name, count in TRAJECTORIES.items()}
    talks, drills, sums = (max(1, round(scale * count)) for count in (CHATS, PRACTICES, ARITHMETICS))
    agent, general, practice, calculated = (directory / f"{name}.jsonl" for name in SOURCES)
    write_lines(agent, trajectories(seed, counts), sum(counts.values()))
    write_lines(general, conversations(seed, talks), talks)
    write_lines(practice, practices(seed, drills), drills)
    write_lines(calculated, arithmetics(seed, sums), sums)
    return [agent, general, practice, calculated]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m agentlm_evals.nano.corpus", description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the whole corpus; 1 is about 16 M tokens"
    )
    given = parser.parse_args()
    for path in write_corpus(given.directory, seed=given.seed, scale=given.scale):
        print(path)


if __name__ == "__main__":
    main()
