"""Rejection sampling in rounds: generate through a server, keep what scored, tune on it, and again.

What generates is any command that writes conversation records with rewards (an evaluation, an episode runner): this module
knows the server's address and the records only. AgentEvol's scheme (arXiv:2406.04151): each round trains the first
model anew on all that was kept, beside the configuration's own sources.
"""

import json
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from agentlm.errors import ConfigError
from agentlm.tuning.checkpoint import TuneError
from agentlm.tuning.config import SourceSection, TuneConfig
from agentlm.tuning.record import Conversation, Writer, read
from agentlm.tuning.run import run
from agentlm.tuning.served import Served

STDERR = 2
"""The descriptor of standard error."""
SOURCE = "evolved"
"""Name of the source that is kept."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did."""

    number: int
    generated: int
    kept: int
    """Of this round and all before, one a task and item."""
    model: Path | None
    """None if the round was interrupted."""


def evolve(
    config: TuneConfig,
    command: str,
    *,
    rounds: int,
    threshold: float,
    serve: str = "",
    say: Callable[[str], None] = lambda _: None,
) -> list[Round]:
    """Carries out the rounds, each in `output/round-N`; those that are finished are not done again.

    `command` is run with `{url}`, `{round}` and `{output}` filled in, the last a JSONL file that it must write; `serve`
    are further flags of `agentlm serve`. Raises `ConfigError` and `TuneError`.
    """
    if config.lora is not None or config.dpo is not None or config.model.init == "random":
        raise ConfigError("evolving serves and tunes whole models: leave [lora], [dpo] and `model.init` out")
    if "{output}" not in command or "{url}" not in command:
        raise ConfigError(
            f"the command must say {{url}} and {{output}}, which are filled in. Given: {command!r}"
        )
    if config.data.eta is not None and "agent" not in {source.group for source in config.data.sources}:
        raise ConfigError('`data.eta` needs a source of group "agent" beside what is kept')
    if any(source.name == SOURCE for source in config.data.sources):
        raise ConfigError(f"a source is called {SOURCE!r}, as what is kept will be: rename it")
    done: list[Round] = []
    model = config.model.path
    directory = Path(config.output)
    for number in range(1, rounds + 1):
        place = directory / f"round-{number}"
        place.mkdir(parents=True, exist_ok=True)
        generated = place / "generated.jsonl"
        if not generated.is_file():
            say(f"round {number}: generating with {model}")
            _generate(model, command, number, generated, shlex.split(serve))
        files = [directory / f"round-{one}" / "generated.jsonl" for one in range(1, number + 1)]
        kept = keep(files, place / "kept.jsonl", threshold)
        count = sum(1 for _ in read(generated))
        say(
            f"round {number}: {count} generated, {kept} kept in all (reward of at least {threshold:g}, one an item)"
        )
        if kept == 0:
            raise TuneError(
                f"round {number}: nothing reached a reward of {threshold:g} (see {generated}): lower it, or generate more"
            )
        outcome = run(_of_round(config, place), resume=True)
        done.append(Round(number, count, kept, outcome.result))
        if outcome.result is None:
            return done
        model = str(outcome.result)
    return done


def keep(files: list[Path], output: Path, threshold: float) -> int:
    """Writes the best record of each task and item whose reward reaches `threshold`; of equal ones the last."""
    best: dict[tuple[str | None, str], Conversation] = {}
    for file in files:
        for _, record in read(file):
            if record.reward is None or record.reward < threshold:
                continue
            own = (record.task, record.item or record.id)
            if own not in best or record.reward >= (best[own].reward or 0.0):
                best[own] = record
    with Writer(output) as writer:
        for record in best.values():
            writer.add(record)
    return len(best)


def _of_round(config: TuneConfig, place: Path) -> TuneConfig:
    """The configuration with what was kept beside its sources, weighing as much as their mean where they have weights."""
    weights = [source.weight for source in config.data.sources if source.weight is not None]
    kept = SourceSection(
        name=SOURCE,
        path=str(place / "kept.jsonl"),
        group=None if config.data.eta is None else "agent",
        weight=sum(weights) / len(weights) if weights else None,
    )
    data = replace(config.data, sources=(*config.data.sources, kept))
    return replace(config, output=str(place / "run"), data=data)


def _generate(model: str, command: str, number: int, output: Path, flags: list[str]) -> None:
    """Serves the model, runs the command against it, and takes its file once it has ended well."""
    beside = output.with_name(f".{output.name}")
    beside.unlink(missing_ok=True)
    with Served(model, flags, output.with_name("serve.log")) as server:
        # The command's other braces (a shell's, awk's, JSON's) are its own.
        filled = command
        for name, value in (("url", server.url), ("round", number), ("output", shlex.quote(str(beside)))):
            filled = filled.replace(f"{{{name}}}", str(value))
        # What it says is for a person: standard output is for what `told` gives a script.
        ran = subprocess.run(filled, shell=True, stdout=STDERR, check=False)
    if ran.returncode != 0:
        raise TuneError(f"`{filled}` ended with {ran.returncode}: nothing was kept of round {number}")
    if not beside.is_file():
        raise TuneError(f"`{filled}` ended well and wrote no {beside}")
    beside.replace(output)


def told(rounds: list[Round]) -> str:
    """The rounds as JSON, for a script."""
    return json.dumps(
        [
            {"round": one.number, "generated": one.generated, "kept": one.kept, "model": str(one.model or "")}
            for one in rounds
        ],
        indent=2,
    )
