"""A model's reply to a decision. Refuses to know how the model was asked.

The first object in braces that makes a legal decision counts, wherever it stands in the reply; single quotes are taken for
double ones. What is legal depends on the protocol: the published one keeps the original client's checks, flaws included.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from agentlm_evals.errors import FormatError
from agentlm_evals.tasks.card_game.rules import Kind, Move
from agentlm_evals.tasks.card_game.sight import Sight

_OBJECT = re.compile(r"\{[\w\W]*?\}")
_KINDS = {kind.word: kind for kind in Kind}
_NOTHING = ("none", "skip", "pass")
"""A guess that is left out."""


def read_guess(reply: str, sight: Sight) -> tuple[int, Kind] | None:
    """A guess, or None for none.

    Raises:
        FormatError: The reply holds no legal guess; the message says why, for the model to read.
    """
    why = 'there is no object of the form {"guess_type": "...", "target_position": "..."} in it'
    for guess in _objects(reply):
        kind = _word(guess.get("guess_type"))
        if kind in _NOTHING:
            return None
        position = _position(guess.get("target_position"))
        if kind not in _KINDS:
            why = f"guess_type must be one of {', '.join(_KINDS)} or none; given: {guess.get('guess_type')!r}"
        elif position not in sight.guessable():
            allowed = ", ".join(map(str, sight.guessable()))
            given = guess.get("target_position")
            why = f"target_position must be a living enemy that is not revealed ({allowed}); given: {given!r}"
        else:
            return position, _KINDS[kind]
    raise FormatError(why)


def read_move(reply: str, sight: Sight) -> Move:
    """A move.

    Raises:
        FormatError: The reply holds no legal move; the message says why, for the model to read.
    """
    why = (
        'there is no object of the form {"pick_fish": "...", "action": "...", "target_position": "..."} in it'
    )
    for move in _objects(reply):
        try:
            return _move(move, sight)
        except FormatError as error:
            why = str(error)
    raise FormatError(why)


def _move(move: dict[str, Any], sight: Sight) -> Move:
    living = sight.own_living()
    ours = {sight.own[at].kind.word: at for at in living}
    fish, action = _word(move.get("pick_fish")), _word(move.get("action"))
    if fish not in ours:
        raise FormatError(
            f"pick_fish must be a living fish of yours ({', '.join(ours)}); given: {move.get('pick_fish')!r}"
        )
    position = ours[fish]
    target = _position(move.get("target_position"))
    if action == "normal":
        allowed, whom = sight.enemy_living(), "a living enemy"
    elif action != "active":
        raise FormatError(f"action must be normal or active; given: {move.get('action')!r}")
    elif _KINDS[fish].has_area_skill:
        return Move(position, is_skill=True)
    else:
        allowed, whom = (
            [mate for mate in living if mate != position],
            f"another living fish of yours, for {fish}'s skill",
        )
    if target not in allowed:
        places = ", ".join(map(str, allowed)) or "there is none"
        raise FormatError(
            f"target_position must be {whom} ({places}); given: {move.get('target_position')!r}"
        )
    return Move(position, action == "active", target)


def published_guess(reply: str, sight: Sight) -> tuple[int, Kind] | None:
    """A guess by the original client's checks: at any living enemy. It leaves out one at a revealed fish.

    Raises:
        FormatError: The reply holds none.
    """
    for guess in _objects(reply):
        kind, position = guess.get("guess_type"), str(guess.get("target_position"))
        living = [str(at) for at in sight.enemy_living()]
        if isinstance(kind, str) and kind in _KINDS and position in living:
            at = int(position)
            return (at, _KINDS[kind]) if at in sight.guessable() else None
    raise FormatError("no guess in the reply")


def published_move(reply: str, sight: Sight) -> Move:
    """A move by the original client's checks.

    An infight's target must be a position at which an enemy lives too, and a fish may be named by its position, but then
    has no skill that turns on a team-mate.

    Raises:
        FormatError: The reply holds none.
    """
    names = {kind.word: int(kind) - 1 for kind in Kind} | {str(at): at for at in range(4)}
    for move in _objects(reply):
        fish, action, target = move.get("pick_fish"), move.get("action"), str(move.get("target_position"))
        if action not in ("normal", "active") or not isinstance(fish, str) or fish not in names:
            continue
        position = names[fish]
        if position not in sight.own_living():
            continue
        is_area = action == "active" and sight.own[position].kind.has_area_skill
        if is_area and fish in _KINDS:
            return Move(position, is_skill=True)
        if target not in [str(at) for at in sight.enemy_living()]:
            continue
        if is_area:
            return Move(position, is_skill=True)
        if action == "normal":
            return Move(position, target=int(target))
        if fish in _KINDS and int(target) != position and int(target) in sight.own_living():
            return Move(position, is_skill=True, target=int(target))
    raise FormatError("no move in the reply")


def _objects(reply: str) -> Iterator[dict[str, Any]]:
    for text in _OBJECT.findall(reply):
        try:
            value = json.loads(text.replace("'", '"'))
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _word(value: Any) -> str:
    return str(value).strip().lower()


def _position(value: Any) -> int | None:
    text = str(value).strip()
    return int(text) if text.isdecimal() and len(text) == 1 else None
