"""A won match for a sample, found by a player who knows what is hidden. Refuses to know prompts.

The opponent's luck is fixed by the sample, so that the replies of a won match win again: the task's gold path.
"""

import json
from collections.abc import Callable
from random import Random

from agentlm_evals.tasks.card_game.opponents import Opponent
from agentlm_evals.tasks.card_game.recording import RecordedMatch, as_decision
from agentlm_evals.tasks.card_game.rules import EEL_SHARE, SPRAYED, Kind, Move, Phase
from agentlm_evals.tasks.card_game.sight import Sight, look

_ATTEMPTS = 200
"""Matches that are played before the search is given up."""


def winning_replies(opponent: Callable[[], Opponent], seat: int, *, asks_always: bool) -> list[str] | None:
    """The replies of a won match, in order; None if none was found.

    `opponent` makes the sample's opponent anew. `asks_always`: the protocol asks for a guess also when there is nothing
    left to guess; a guess at a revealed fish then counts as none.
    """
    for attempt in range(_ATTEMPTS):
        replies = _play(opponent(), seat, Random(attempt), attempt / _ATTEMPTS, asks_always)
        if replies is not None:
            return replies
    return None


def _play(
    opponent: Opponent, seat: int, random: Random, boldness: float, asks_always: bool
) -> list[str] | None:
    """One match; with a probability of `boldness` an action is any, else the one that does most damage."""
    replies: list[str] = []
    line_ups = [list(Kind), opponent.line_up()]
    recorded = RecordedMatch((line_ups[seat], line_ups[1 - seat]))
    match = recorded.match
    while match.winner is None:
        sight = look(match)
        if match.player != seat:
            recorded.decide(as_decision(match, opponent.decide(match)))
        elif match.phase is Phase.ACT:
            move = _act(sight, random if random.random() < boldness else None)
            replies.append(_move_reply(sight, move))
            recorded.decide(as_decision(match, move))
        else:
            hidden = sight.guessable()
            guess = (hidden[0], match.sides[1 - seat][hidden[0]].kind) if hidden else None
            if guess or asks_always:
                replies.append(_guess_reply(guess or (sight.enemy_living()[0], Kind.SPRAY)))
            recorded.decide(as_decision(match, guess))
    return replies if match.winner == seat else None


def _act(sight: Sight, random: Random | None) -> Move:
    """The action that does most damage, or any that does some."""
    enemies = sight.enemy_living()
    weakest = min(enemies, key=lambda at: sight.enemy[at].health)
    options: list[tuple[int, int, Move]] = []
    for at in sight.own_living():
        fish = sight.own[at]
        targets = enemies if random else [weakest]
        options += [(fish.attack // 2, at, Move(at, target=target)) for target in targets]
        if fish.kind.has_area_skill:
            damage = SPRAYED if fish.kind is Kind.SPRAY else int(fish.attack * EEL_SHARE)
            options.append((damage * len(enemies), at, Move(at, is_skill=True)))
    if random:
        return random.choice(options)[2]
    return max(options, key=lambda option: option[:2])[2]


def _guess_reply(guess: tuple[int, Kind]) -> str:
    return json.dumps({"guess_type": guess[1].word, "target_position": str(guess[0])})


def _move_reply(sight: Sight, move: Move) -> str:
    return json.dumps(
        {
            "pick_fish": sight.own[move.position].kind.word,
            "action": "active" if move.is_skill else "normal",
            "target_position": str(move.target or 0),
        }
    )
