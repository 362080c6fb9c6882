"""The original judge's recorded matches, read into our engine's words. Refuses to play them."""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentlm_evals.tasks.card_game.recording import Decision
from agentlm_evals.tasks.card_game.rules import Hit, Kind, Passive

State = list[list[tuple[int, int, int, bool, bool]]]
"""Of each side by position: kind, health, attack, whether it is revealed, whether it is dead."""


@dataclass(frozen=True, slots=True)
class Step:
    """A decision, what was so before it, and what the judge says it did."""

    player: int
    decisions_before: int
    state: State
    decision: Decision
    events: list[Hit | Passive] | None
    """None of a guess."""


@dataclass(frozen=True, slots=True)
class OriginalMatch:
    """A recorded match."""

    name: str
    line_ups: tuple[list[Kind], list[Kind]]
    steps: list[Step]
    final: State

    @property
    def programs(self) -> tuple[str, str]:
        """Who played each seat, out of a name such as `r_b1b2_3.json`."""
        seats = self.name.split("_")[1]
        return f"baseline{seats[1]}", f"baseline{seats[3]}"


def matches(archive: Path) -> Iterator[OriginalMatch]:
    """Every match of the archive."""
    with tarfile.open(archive) as packed:
        for member in packed:
            file = packed.extractfile(member) if member.name.endswith(".json") else None
            if file is not None:
                rows = [row for row in json.load(io.TextIOWrapper(file, encoding="utf-8")) if row]
                yield _match(Path(member.name).name, rows)


def _match(name: str, rows: list[dict[str, Any]]) -> OriginalMatch:
    first, second = (
        [Kind(fish["id"]) for fish in sorted(row["operation"][0]["Fish"], key=lambda fish: int(fish["pos"]))]
        for row in rows[:2]
    )
    return OriginalMatch(
        name, (first, second), [_step(row) for row in rows[2:] if row.get("operation")], _state(rows[-1])
    )


def _state(row: dict[str, Any]) -> State:
    sides = sorted(row["players"], key=lambda side: int(side["id"]))
    return [
        [
            # The judge lets a dead fish's health stand below 0 for a while.
            (fish["id"], max(fish["hp"], 0), fish["atk"], fish["is_expose"], fish["state"] == 2)
            for fish in sorted(side["fight_fish"], key=lambda fish: int(fish["pos"]))
        ]
        for side in sides
    ]


def _step(row: dict[str, Any]) -> Step:
    (operation,) = row["operation"]
    decision: list[Any]
    if operation["Action"] == "Null":
        decision = ["skip"]
    elif operation["Action"] == "Assert":
        decision = ["guess", operation["Pos"], operation["id"]]
    elif operation["Type"] == 0:
        decision = ["attack", operation["MyPos"], operation["EnemyPos"]]
    else:
        decision = ["skill", operation["MyPos"], *(operation["MyList"] or [None])]
    events = _events(operation["ActionInfo"]) if "ActionInfo" in operation else None
    return Step(operation["ID"], row["state"] - 1, _state(row), decision, events)


def _events(info: dict[str, Any]) -> list[Hit | Passive]:
    found: dict[int, Hit | Passive] = {}
    for hit in info.get("hit", ()):
        found[hit["time"]] = Hit(hit["player"], hit["target"], hit["value"], hit["traceable"])
    for passive in info.get("passive", ()):
        found[passive["time"]] = Passive(passive["player"], passive["source"], passive["type"] == "counter")
    return [found[time] for time in sorted(found)]
