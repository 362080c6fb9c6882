"""Plays episodes of the small worlds with a model and writes their trajectories. Refuses to know servers and benchmarks.

    python -m agentlm_evals.episode household shop --model DIRECTORY --count 200 --output FILE.jsonl

The file is conversation records, one a line, as `agentlm data` reads them. It is written line by line, and a run that was
interrupted goes on where it ended: episodes that are there are not played again, but for those that our side broke.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agentlm_evals.environments import WORLDS, Game, Item, Split, World, world_named
from agentlm_evals.environments.trajectory import first_message
from agentlm_evals.errors import ConfigError, DataError, EnvironmentFault, EpisodeEnd, EvalError, HarnessFault
from agentlm_evals.harness.episode import derive_seed
from agentlm_evals.model import Decoding, Message, Model
from agentlm_evals.models.choice import ModelChoice, open_model, served_urls
from agentlm_evals.models.proxy import DIRECT, Proxies
from agentlm_evals.outcome import Outcome, Score, format_or_limit, harness_fault, right, wrong


@dataclass(frozen=True, slots=True)
class Caps:
    """What one episode may spend."""

    rounds: int | None = None
    """Replies; None: the world's own number."""
    reply_tokens: int = 96
    """Of one reply."""
    tokens: int = 2_048
    """Of all replies together."""

    def __post_init__(self) -> None:
        for name in ("rounds", "reply_tokens", "tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn."""

    temperature: float = 0.0
    seed: int = 0

    def call_seed(self, item: Item, call: int) -> int:
        """A seed in [0, 2**31) for one call."""
        return derive_seed(self.seed, item.id, call) % (1 << 31)


@dataclass(frozen=True, slots=True)
class Played:
    """An episode that has ended."""

    item: Item
    messages: tuple[Message, ...]
    score: Score
    generated_tokens: int


async def play(
    world: World, item: Item, model: Model, *, caps: Caps | None = None, sampling: Sampling | None = None
) -> Played:
    """Plays one item to its end. A fault of ours or the server's is an outcome, and no exception."""
    caps, sampling = caps or Caps(), sampling or Sampling()
    game = world.begin(item)
    messages = [first_message(world, game)]
    rounds, spent = caps.rounds or world.rounds, 0
    score: Score | None = None
    try:
        for call in range(rounds):
            if spent >= caps.tokens:
                score = format_or_limit(f"the episode's {caps.tokens} tokens are spent", game.reward)
                break
            decoding = Decoding(min(caps.reply_tokens, caps.tokens - spent), temperature=sampling.temperature)
            reply = await model.generate(list(messages), decoding, sampling.call_seed(item, call))
            spent += reply.generated_tokens
            text = _writable(reply.text).strip()
            messages.append(Message("assistant", text))
            seen = _act(world, game, text)
            if game.done:
                break
            messages.append(Message("user", seen))
    except EpisodeEnd as end:
        score = format_or_limit(str(end), game.reward)
    except HarnessFault as fault:
        score = harness_fault(str(fault))
    return Played(item, tuple(messages), score or _judge(game, rounds), spent)


def _writable(text: str) -> str:
    """The text with U+FFFD for halves of characters, which JSON's escapes can bring in and no file can hold."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _act(world: World, game: Game, reply: str) -> str:
    """What the world shows after a reply; a world that breaks is our fault, and ends this episode and no other."""
    try:
        return game.act(world.form.read(reply))
    except EvalError:
        raise
    except Exception as error:
        raise EnvironmentFault(f"the world {world.name} broke: {type(error).__name__}: {error}") from error


def _judge(game: Game, rounds: int) -> Score:
    if not game.done:
        return format_or_limit(f"the {rounds} rounds are spent", game.reward)
    return right() if game.reward == 1.0 else wrong(game.reward)


def to_record(played: Played, *, source: str, model: str) -> dict[str, Any]:
    """The episode as a conversation record. A harness fault has no reward: it says nothing about the model."""
    score, world = played.score, WORLDS[played.item.world]
    is_fault = score.outcome is Outcome.HARNESS_FAULT
    return {
        "id": f"{source}/{played.item.id}",
        "source": source,
        "task": played.item.world,
        "item": played.item.id,
        "reward": None if is_fault else score.value,
        "tags": [
            "held-in" if world.held_in else "held-out",
            str(played.item.split),
            str(score.outcome).replace(" ", "-"),
        ],
        "messages": [message.to_json() for message in played.messages],
        "meta": {
            "outcome": str(score.outcome),
            "details": dict(score.details),
            "model": model,
            "generated_tokens": played.generated_tokens,
        },
    }


def _same_run(found: Iterable[dict[str, Any]], output: Path, **now: Any) -> None:
    """Refuses to go on with episodes of another model, source or way to draw: their scores would be told as this run's."""
    for record in found:
        then = {"source": record.get("source"), **record["meta"]}
        differs = [name for name, value in now.items() if name in then and then[name] != value]
        if differs:
            name = differs[0]
            raise DataError(
                f"{output} holds episodes whose {name} is {then[name]!r:.60}; this run's is {now[name]!r:.60}. "
                "Write to another file, or move this one away"
            )


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Finished episodes by item; those that ended by a fault are left out. A line that was cut off at the end is too.

    Raises:
        DataError: A line before the last is not JSON.
    """
    found: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return found
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            if record["meta"]["outcome"] != Outcome.HARNESS_FAULT:
                found[record["item"]] = record
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number} is no episode's record ({error}); move the file away"
            ) from error
    return found


def _rewrite(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Only whole lines of finished episodes, so that what is appended starts on a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    unfinished.write_text("".join(_line(record) for record in records), encoding="utf-8")
    unfinished.replace(path)


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


async def play_all(
    items: Sequence[Item],
    model: Model,
    output: Path,
    *,
    source: str,
    concurrency: int = 16,
    caps: Caps | None = None,
    sampling: Sampling | None = None,
) -> list[dict[str, Any]]:
    """Plays items that `output` does not have yet, appends each as it ends, and returns the records of all, in order.

    Raises:
        ConfigError: The concurrency is below 1, or two items are the same.
        DataError: The file is there and is not of episodes, or they are of another model, source or sampling.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency is {concurrency}; it must be at least 1")
    if len({item.id for item in items}) < len(items):
        raise ConfigError("an item is named twice: each is played once")
    done = read_records(output)
    drawn = {"temperature": (sampling or Sampling()).temperature, "seed": (sampling or Sampling()).seed}
    _same_run(done.values(), output, source=source, model=model.name, sampling=drawn)
    _rewrite(output, done.values())
    left = [item for item in items if item.id not in done]
    free = asyncio.Semaphore(concurrency)
    bar = tqdm(total=len(items), initial=len(items) - len(left), desc=source, disable=not sys.stderr.isatty())
    with output.open("a", encoding="utf-8") as out, bar:

        async def one(item: Item) -> None:
            async with free:
                played = await play(world_named(item.world), item, model, caps=caps, sampling=sampling)
            record = to_record(played, source=source, model=model.name)
            record["meta"]["sampling"] = drawn
            out.write(_line(record))
            out.flush()
            done[item.id] = record
            bar.update()

        async with asyncio.TaskGroup() as group:
            for item in left:
                group.create_task(one(item))
    return [done[item.id] for item in items]


def summary(records: Iterable[dict[str, Any]]) -> str:
    """One line a world: mean reward in per cent, and the four outcomes. Faults are counted, and not averaged."""
    by_world: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_world.setdefault(record["task"], []).append(record)
    lines = []
    for name, played in by_world.items():
        counts = {outcome: sum(r["meta"]["outcome"] == outcome for r in played) for outcome in Outcome}
        judged = [record["reward"] for record in played if record["reward"] is not None]
        mean = f"{100 * sum(judged) / len(judged):5.1f}" if judged else "    -"
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
        lines.append(f"{name:10} {mean}  ({told})")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m agentlm_evals.episode", description=main.__doc__)
    parser.add_argument("worlds", nargs="+", help=f"of {', '.join(WORLDS)}")
    parser.add_argument(
        "--model", help="a checkpoint, served for as long as the run takes; absent: the default model"
    )
    parser.add_argument("--url", action="append", default=[], help="a running server, instead of --model")
    parser.add_argument(
        "--api-key", default=os.environ.get("AGENTLM_API_KEY"), help="of --url's server [$AGENTLM_API_KEY]"
    )
    parser.add_argument("--split", choices=[str(split) for split in Split], default=str(Split.TEST))
    parser.add_argument("--first", type=int, default=0, help="number of the first item")
    parser.add_argument("--count", type=int, default=50, help="items of each world")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", default="agentlm-episodes", help="the records' source")
    parser.add_argument(
        "--output", type=Path, required=True, help="a JSONL file; an unfinished one is gone on with"
    )
    given = parser.parse_args()
    try:
        items = [
            Item(world_named(name).name, Split(given.split), given.first + number)
            for name in given.worlds
            for number in range(given.count)
        ]
        proxies = Proxies.from_environment(os.environ) if given.url else DIRECT
        choice = ModelChoice(
            model=given.model, urls=tuple(given.url), api_key=given.api_key or None, proxies=proxies
        )
        for line in choice.detours():
            print(line, file=sys.stderr)

        async def run(urls: Sequence[str], weights: str | None) -> list[dict[str, Any]]:
            async with open_model(choice, urls, weights) as model:
                return await play_all(
                    items,
                    model,
                    given.output,
                    source=given.source,
                    concurrency=given.concurrency,
                    sampling=Sampling(given.temperature, given.seed),
                )

        with served_urls(choice) as (urls, weights):
            print(summary(asyncio.run(run(urls, weights))))
    except EvalError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
