"""The two programs that a model plays against, after the original's baselines. Refuses to know prompts.

The original shuffles its lists of living fish anew each second; here each draw is one of the match's own generator, so
that a match can be played again. What looks odd in the second one is the original's: published win rates were won
against it.
"""

from abc import ABC, abstractmethod
from random import Random

from agentlm_evals.tasks.card_game.rules import Kind, Match, Move, Passive, Phase, Record
from agentlm_evals.tasks.card_game.sight import Sight, look

_SLOTS = 24
"""Passive abilities that the original's program has room for."""


class Opponent(ABC):
    """A program that plays one side of one match."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def line_up(self) -> list[Kind]:
        """The order of its fish: any."""
        kinds = list(Kind)
        self.random.shuffle(kinds)
        return kinds

    def decide(self, match: Match) -> tuple[int, Kind] | Move | None:
        """The decision that is due: a guess or None, or a move."""
        sight = look(match)
        if match.phase is Phase.ACT:
            return self.act(sight)
        guess = self.guess(sight)
        # A guess at a fish that is already revealed is left out, as the original's client does.
        return guess if guess is not None and guess[0] in sight.guessable() else None

    @abstractmethod
    def guess(self, sight: Sight) -> tuple[int, Kind] | None:
        """A position and a kind, or None."""

    @abstractmethod
    def act(self, sight: Sight) -> Move:
        """A legal move."""

    def _any(self, positions: list[int]) -> int:
        return self.random.choice(positions)


class Baseline1(Opponent):
    """Plays at random: mostly a skill, while the fish that it draws is not revealed."""

    def guess(self, sight: Sight) -> tuple[int, Kind] | None:
        """Any living enemy, any kind."""
        return self._any(sight.enemy_living()), self.random.choice(list(Kind))

    def act(self, sight: Sight) -> Move:
        """Any living fish; with 70 % its skill where it can be used, else a normal attack on anyone."""
        position = self._any(sight.own_living())
        fish = sight.own[position]
        # The original knows a revealed fish by a negative number and then finds no skill for it.
        if self.random.random() >= 0.3 and not fish.is_revealed:
            if fish.kind.has_area_skill:
                return Move(position, is_skill=True)
            mates = [mate for mate in sight.own_living() if mate != position]
            if mates:
                return Move(position, is_skill=True, target=self._any(mates))
        return Move(position, target=self._any(sight.enemy_living()))


class Passives:
    """Passive abilities that went off at the enemy's side, as the original's programs remember them.

    They are kept in slots of which all are read, also those that nothing was written to, or nothing lately.
    """

    def __init__(self) -> None:
        self.slots = [(0, True)] * _SLOTS

    def take(self, record: Record | None, enemy: int) -> None:
        """Overwrites the first slots with what went off in an action."""
        if record is None:
            return
        passives = [event for event in record.events if isinstance(event, Passive)]
        theirs = [(event.position, event.is_counter) for event in passives if event.player == enemy]
        self.slots[: len(theirs)] = theirs
        del self.slots[_SLOTS:]


class Baseline2(Opponent):
    """Concludes kinds from skills and passive abilities, and attacks where it hurts most."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._area: dict[int, bool] = {}
        """Positions whose skill was concluded: whether it is an area skill."""
        self._counter: dict[int, bool] = {}
        """Positions whose passive ability was concluded: whether it counters."""
        self._failed: set[tuple[int, Kind]] = set()
        self._last = (3, Kind.SUNFISH)
        """The last guess. Before the first it stands at the end of the original's table, and counts as failed."""
        self._theirs, self._mine = Passives(), Passives()

    def guess(self, sight: Sight) -> tuple[int, Kind] | None:
        """The likeliest guess: both abilities known, then the skill, then the passive one, then anything."""
        if sight.last_guess is None or not sight.last_guess.is_right:
            self._failed.add(self._last)
        self._conclude(sight)
        hidden = sight.guessable()
        if not hidden:
            return None
        for position in hidden:
            if position in self._area and position in self._counter:
                return self._make(position, _kind(self._area[position], self._counter[position]))
        for position in hidden:
            if position in self._area:
                for counters in (True, False):
                    kind = _kind(self._area[position], counters)
                    if (position, kind) not in self._failed:
                        return self._make(position, kind)
        for position in hidden:
            if position in self._counter:
                for has_area in (True, False):
                    kind = _kind(has_area, self._counter[position])
                    if (position, kind) not in self._failed:
                        return self._make(position, kind)
        revealed = {fish.kind for fish in sight.enemy}
        return self._make(
            self._any(hidden), self.random.choice([kind for kind in Kind if kind not in revealed])
        )

    def _make(self, position: int, kind: Kind) -> tuple[int, Kind]:
        self._last = (position, kind)
        return self._last

    def _conclude(self, sight: Sight) -> None:
        """Learns from the enemy's last action, if the fish that acted is not revealed."""
        enemy = 1 - sight.player
        self._theirs.take(sight.enemy_record, enemy)
        self._mine.take(sight.own_record, enemy)
        record = sight.enemy_record
        if record is None or sight.enemy[record.position].kind is not None:
            return
        if record.is_skill:
            # Damage to its own side is taken for an infight, also where it comes from a counter to an area skill.
            hurt_itself = any(
                event.player == enemy for event in record.events if not isinstance(event, Passive)
            )
            self._area[record.position] = not hurt_itself
        for position, is_counter in self._theirs.slots + self._mine.slots:
            if sight.enemy[position].kind is None:
                self._counter[position] = is_counter

    def act(self, sight: Sight) -> Move:
        """Kills where a normal attack can; else an area skill while two enemies live; else hits back."""
        own, living = sight.own_living(), sight.enemy_living()
        self.random.shuffle(own)
        strongest = max(own, key=lambda at: sight.own[at].attack)
        weakest = min(living, key=lambda at: sight.enemy[at].health)
        health = sight.enemy[weakest].health
        if sight.own[strongest].attack / 2 >= health > 70:
            return Move(strongest, target=weakest)
        if len(living) >= 2:
            for position in own:
                # A revealed fish's skill is not found, as with the other baseline.
                if sight.own[position].kind.has_area_skill and not sight.own[position].is_revealed:
                    return Move(position, is_skill=True)
        attacker = sight.enemy_record.position if sight.enemy_record else None
        return Move(strongest, target=attacker if attacker in living else self._any(living))


def _kind(has_area_skill: bool, counters: bool) -> Kind:
    return next(kind for kind in Kind if (kind.has_area_skill, kind.counters) == (has_area_skill, counters))


OPPONENTS: dict[str, type[Opponent]] = {"baseline1": Baseline1, "baseline2": Baseline2}
"""By the original's names."""
