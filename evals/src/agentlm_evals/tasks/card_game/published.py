"""The protocol `agenttuning`: where its texts stand, and what its client puts into them. Holds none of the texts.

The client keeps what it is told in arrays that are never cleared, and shows more of them than was written lately: targets
are shown as places in an array, and abilities that went off long ago stay. That is reproduced, with memory that was never
written taken as 0.
"""

import json
from collections.abc import Mapping
from typing import Any

from agentlm_evals.protocols.source import Extract
from agentlm_evals.tasks.card_game.opponents import Passives
from agentlm_evals.tasks.card_game.rules import Record
from agentlm_evals.tasks.card_game.sight import Sight

_FOLDER = "AgentBench.old/src/tasks/card_game/AI_SDK/Python"
_PLAYER, _PROMPT, _CLIENT = f"{_FOLDER}/AI_En.py", f"{_FOLDER}/prompt/en.py", f"{_FOLDER}/client.py"

FILES = {
    _PLAYER: "b9ba36dd9f4fb5e9727ab889ddb78331b0adcb46abc6682313543e1aade7f410",
    _PROMPT: "352f57ebc26f5e92f77d2a262d87107373e64c80b189dfe5559339fcfbfcb36f",
    _CLIENT: "4c346fee357ce80b23abe41affaf47c64a3ac3527b51c8c52f0f739561149ec3",
}
SOURCES = {
    "act.rules": Extract(_PROMPT, "ACTION_PROMPT"),
    "act.guess_rule": Extract(_PROMPT, "GUESS_RULE"),
    "act.form": Extract(_PROMPT, "action_format"),
    "guess.rules": Extract(_PROMPT, "GUESS_PROMPT"),
    "guess.form": Extract(_PROMPT, "guess_format"),
    "fish": Extract(_PROMPT, "fish_description"),
    "ready": Extract(_CLIENT, "Client.llm_call", 0),
    "guess.ask": Extract(_PLAYER, "Agent._guess", 14),
    "act.ask": Extract(_PLAYER, "Agent._decide", 18),
}
_TARGETS = 12
"""Targets that the client has room for."""
_SKILLS = {"normal": "Normal", "area": "AOE", "infight": "Infight"}


def act_rules(texts: Mapping[str, Any]) -> str:
    """The rules as the model reads them before an action."""
    rules: str = texts["act.rules"] % (texts["act.guess_rule"], texts["fish"], texts["act.form"])
    return rules


def guess_rules(texts: Mapping[str, Any]) -> str:
    """The rules as the model reads them before a guess."""
    rules: str = texts["guess.rules"] % (texts["fish"], texts["guess.form"])
    return rules


class _LastAction:
    """One side's last action in the client's arrays."""

    def __init__(self) -> None:
        self.position: int | None = None
        self.targets = [0] * _TARGETS
        self.injury = 0
        self.skill = ""

    def take(self, record: Record | None) -> None:
        """Overwrites what this action has; an infight has no targets among the enemy."""
        if record is None:
            return
        self.position, self.skill = record.position, _SKILLS[record.skill]
        if record.target_player != record.player:
            self.targets[: len(record.targets)] = record.targets
            self.injury = record.expected

    def shown(self, with_skill: bool) -> dict[str, str]:
        """As the prompt has it."""
        written = [
            str(self.position),
            str(self.injury),
            str([at for at in range(_TARGETS) if self.targets[at]]),
        ]
        values = ["None"] * 3 if self.position is None else written
        shown = dict(zip(("ACTION_FISH", "ATK", "TARGET"), values, strict=True))
        if with_skill:
            shown["SKILL_TYPE"] = "None" if self.position is None else self.skill
        return shown


class PublishedClient:
    """What the original client remembers during a match, and its prompts."""

    def __init__(self, texts: Mapping[str, Any]) -> None:
        self.texts = texts
        self._mine, self._theirs = _LastAction(), _LastAction()
        self._mine_passives, self._their_passives = Passives(), Passives()

    def ask_guess(self, sight: Sight) -> str:
        """The prompt before a guess. The client hears of actions only then."""
        enemy = 1 - sight.player
        self._mine.take(sight.own_record)
        self._theirs.take(sight.enemy_record)
        self._mine_passives.take(sight.own_record, enemy)
        self._their_passives.take(sight.enemy_record, enemy)
        passives = {
            f"Position: {position}": "Counter" if is_counter else "Deflect"
            for position, is_counter in self._mine_passives.slots + self._their_passives.slots
        }
        was_right = sight.last_guess is not None and sight.last_guess.is_right
        living = [str(at) for at in sight.enemy_living()]
        prompt: str = self.texts["guess.ask"].format(
            was_right, living, self._theirs.shown(with_skill=True), json.dumps(passives, ensure_ascii=False)
        )
        return prompt

    def ask_move(self, sight: Sight) -> str:
        """The prompt before an action."""
        yours = [
            {"ID": fish.kind.word, "POSITION": str(at), "HP": str(fish.health), "ATK": str(fish.attack)}
            for at, fish in enumerate(sight.own)
        ]
        theirs = [
            {
                "ID": fish.kind.word if fish.kind else "unknown",
                "POSITION": str(at),
                "HP": str(fish.health),
                "ATK": "unknown",
            }
            for at, fish in enumerate(sight.enemy)
        ]
        state = json.dumps({"You": yours, "Enemy": theirs}, ensure_ascii=False)
        prompt: str = self.texts["act.ask"].format(
            state, self._mine.shown(with_skill=False), self._theirs.shown(with_skill=False)
        )
        return prompt
