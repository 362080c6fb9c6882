"""Our wording of the rules and of what a player sees. Refuses to know the published texts.

The original's prompt has the shares of a deflection the wrong way round, says that the spray's skill depends on its attack,
and puts the rules behind the last exchanges. Here the numbers are the engine's own and the rules come first.
"""

import json

from agentlm_evals.tasks.card_game.rules import (
    ATTACK,
    COUNTER,
    COUNTERED_BELOW,
    EEL_SHARE,
    HARDENED_AT,
    HARDENED_GAIN,
    HEALTH,
    INFIGHT,
    INFIGHT_GAIN,
    KEPT_SHARE,
    REVEALED,
    SPRAYED,
    SPREAD_SHARE,
    STATE_LIMIT,
    Passive,
    Record,
)
from agentlm_evals.tasks.card_game.sight import Sight

TRIES = 5
"""Replies to one decision, as in the original."""

RULES = f"""You play a battle game for two players. Each side has four fish, one of each kind, at the positions \
0 to 3. Every fish starts with {HEALTH} health and {ATTACK} attack. The kinds of the enemy's fish are hidden \
from you, and yours from the enemy.

Each turn has two steps.
1. Guess: name the kind of one living enemy whose kind is hidden, or leave the guess out. If you are right, \
that fish is revealed and every enemy fish loses {REVEALED} health. A wrong guess costs nothing.
2. Action: one of your living fish makes a normal attack on one living enemy for half of its attack, or uses \
its active skill.

Active skills:
- spray: hits every living enemy for {SPRAYED}.
- eel: hits every living enemy for {EEL_SHARE:.0%} of its own attack.
- flame and sunfish: deal {INFIGHT} to another living fish of your own side and gain {INFIGHT_GAIN} attack.

Passive abilities work by themselves:
- spray and flame: after an enemy's hit leaves a team-mate below {COUNTERED_BELOW:.0%} of its full health, they \
deal {COUNTER} to the attacker.
- eel and sunfish: when an enemy hits them, they take {KEPT_SHARE:.0%} of the damage and their living \
team-mates share the other {SPREAD_SHARE:.0%}. For every {HARDENED_AT} damage taken they gain {HARDENED_GAIN} \
attack.

You win when all enemy fish are dead. When both sides together have made {STATE_LIMIT} decisions, the side with \
more living fish wins.

Think about each decision first, then end your reply with it as one JSON object.
A guess: {{"guess_type": "spray", "target_position": "2"}}
guess_type is spray, flame, eel or sunfish, or none to leave the guess out; target_position is the enemy's \
position.
An action: {{"pick_fish": "eel", "action": "active", "target_position": "0"}}
pick_fish is the kind of a living fish of yours; action is normal or active; target_position is the enemy's \
position for a normal attack and your team-mate's for the skill of a flame or sunfish. The skill of a spray or \
eel needs none.
After {TRIES} replies without a legal action you lose."""

READY = "I will play by these rules."


def ask_guess(sight: Sight) -> str:
    """What is said before a guess."""
    places = ", ".join(map(str, sight.guessable()))
    return f"{_state(sight)}\nYour last guess: {_last_guess(sight)}\n\nMake your guess. Hidden enemies are at: {places}."


def ask_move(sight: Sight) -> str:
    """What is said before an action."""
    return f"{_state(sight)}\n\nChoose your action."


def ask_again(why: str) -> str:
    """What is said to a reply without a legal decision."""
    return f"That cannot be played: {why}. Reply again, with one JSON object at the end."


def _last_guess(sight: Sight) -> str:
    guess = sight.last_guess
    if guess is None:
        return "none"
    return f"a {guess.kind.word} at position {guess.position}, which was {'right' if guess.is_right else 'wrong'}"


def _state(sight: Sight) -> str:
    yours = [
        {"ID": fish.kind.word, "POSITION": str(at), "HP": str(fish.health), "ATK": str(fish.attack)}
        for at, fish in enumerate(sight.own)
    ]
    theirs = [
        {"ID": fish.kind.word if fish.kind else "hidden", "POSITION": str(at), "HP": str(fish.health)}
        for at, fish in enumerate(sight.enemy)
    ]
    revealed = [fish.kind.word for fish in sight.own if fish.is_revealed]
    return (
        f"State of the game:\n{json.dumps({'You': yours, 'Enemy': theirs})}\n"
        f"The enemy knows: {', '.join(revealed) or 'none of your fish'}\n"
        f"Your last action: {_action(sight.own_record, sight.player)}\n"
        f"The enemy's last action: {_action(sight.enemy_record, sight.player)}"
    )


def _action(record: Record | None, player: int) -> str:
    """An action in one line: who, what, on whom, and which abilities went off."""
    if record is None:
        return "none"
    whose = "yours" if record.target_player == player else "the enemy's"
    targets = ", ".join(map(str, record.targets))
    what = {"normal": "attacked", "area": "used an area skill on", "infight": "turned on"}[record.skill]
    said = f"the fish at position {record.position} {what} {whose} at {targets} for {record.expected}"
    for event in record.events:
        side = "your" if event.player == player else "the enemy's"
        if isinstance(event, Passive):
            about = "was avenged by a counter" if event.is_counter else "shared its damage"
            said += f"; {side} {event.position} {about}"
        elif event.has_source:
            said += f"; {side} {event.position} took {event.damage}"
    return said
