"""The rules of Aquawar, stage 2, as the original judge plays them. Refuses to know who plays and what a player is told.

Two players have four fish each in a secret order. A turn is a guess, which may be left out, and an action. Facts and
numbers were read in the original engine (AgentTuning e33a45d, AgentBench.old, card_game/logic) and are held to matches that
it recorded; what its prompt says of them differs in places (`prompts.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

HEALTH = 400
ATTACK = 200
REVEALED = 50
"""Damage to every fish of a side of which one was guessed."""
SPRAYED = 70
"""Damage of the spray's area skill, whatever its attack."""
EEL_SHARE = 0.35
"""Of its attack: damage of the eel's area skill."""
INFIGHT = 75
"""Damage to the team-mate that a flame or sunfish turns on."""
INFIGHT_GAIN = 140
"""Attack that it gains thereby."""
COUNTER = 30
"""Damage to the attacker by each spray and flame that counters."""
COUNTERED_BELOW = 0.3
"""Of full health: a fish hit to less than that is avenged."""
KEPT_SHARE, SPREAD_SHARE = 0.7, 0.3
"""What an eel or sunfish takes of a hit itself, and what its team-mates share."""
HARDENED_AT, HARDENED_GAIN = 200, 40
"""Damage taken in all after which an eel or sunfish gains attack, and how much."""
STATE_LIMIT = 128
"""Decisions of a match, the two line-ups included."""


class Kind(IntEnum):
    """The four fish, by the numbers that the original gives them."""

    SPRAY = 1
    FLAME = 2
    EEL = 3
    SUNFISH = 4

    @property
    def word(self) -> str:
        """Its name as players write it."""
        return self.name.lower()

    @property
    def has_area_skill(self) -> bool:
        """Its skill hits all enemies; the others' turns on a team-mate."""
        return self in (Kind.SPRAY, Kind.EEL)

    @property
    def counters(self) -> bool:
        """It avenges team-mates; the others share what they take with them."""
        return self in (Kind.SPRAY, Kind.FLAME)


class Phase(StrEnum):
    """What the player whose turn it is decides next."""

    GUESS = "guess"
    ACT = "act"


class End(StrEnum):
    """Why a match is over."""

    SUNK = "all fish of a side are dead"
    LIMIT = "the limit of decisions is reached"
    FORFEIT = "a player made no legal move"


class IllegalMoveError(Exception):
    """A move that the rules do not allow; the message says why. The match is as it was."""


@dataclass(slots=True)
class Fish:
    """One fish in a match."""

    kind: Kind
    position: int
    health: int = HEALTH
    attack: int = ATTACK
    is_revealed: bool = False
    is_dead: bool = False
    """Settled after a decision, not within it: a fish without health still counts as living until then."""
    taken: int = 0
    """Damage since an eel or sunfish last gained attack."""


@dataclass(frozen=True, slots=True)
class Hit:
    """Damage done to a fish."""

    player: int
    position: int
    damage: int
    has_source: bool
    """Done by an attacker; shared, countering and a team-mate's damage have no source and trigger nothing."""


@dataclass(frozen=True, slots=True)
class Passive:
    """A passive ability that went off."""

    player: int
    position: int
    """The fish that was hit: of a counter that is not the fish that counters."""
    is_counter: bool
    """Else damage was shared."""


@dataclass(slots=True)
class Record:
    """What an action did, in the order in which it happened."""

    player: int
    position: int
    skill: str
    """`normal`, `area` or `infight`."""
    target_player: int
    targets: tuple[int, ...]
    expected: int
    """Damage to each target before anything is shared."""
    events: list[Hit | Passive] = field(default_factory=list)

    @property
    def is_skill(self) -> bool:
        """Whether it was no normal attack."""
        return self.skill != "normal"


@dataclass(frozen=True, slots=True)
class Guess:
    """A guess that was made."""

    position: int
    kind: Kind
    is_right: bool


@dataclass(frozen=True, slots=True)
class Move:
    """An action: which fish does what to whom."""

    position: int
    is_skill: bool = False
    target: int | None = None
    """An enemy's position for a normal attack, a team-mate's for an infight, nothing for an area skill."""


class Match:
    """One match. Player 0 moves first.

    Raises:
        IllegalMoveError: A line-up does not hold each kind once.
    """

    def __init__(self, first: Sequence[Kind], second: Sequence[Kind]) -> None:
        for line_up in (first, second):
            if sorted(line_up) != list(Kind):
                raise IllegalMoveError(
                    f"a line-up has each kind once; given: {[int(kind) for kind in line_up]}"
                )
        self.sides = tuple([Fish(kind, at) for at, kind in enumerate(side)] for side in (first, second))
        self.player = 0
        self.phase = Phase.GUESS
        self.decisions = 2
        """Made so far; the line-ups are the first two."""
        self.winner: int | None = None
        self.end: End | None = None
        self.records: list[Record | None] = [None, None]
        """Each player's last action."""
        self.guesses: list[Guess | None] = [None, None]
        """Each player's last guess; None if it was left out."""

    # --- what is so ----------------------------------------------------------------------------------------------
    def living(self, player: int) -> list[int]:
        """Positions of a player's living fish."""
        return [fish.position for fish in self.sides[player] if not fish.is_dead]

    # --- decisions -----------------------------------------------------------------------------------------------
    def guess(self, position: int, kind: Kind) -> bool:
        """Guesses an enemy's kind; whether that was right.

        Raises:
            IllegalMoveError: It is no time to guess, or that fish is dead or already revealed.
        """
        self._expect(Phase.GUESS)
        fish = self._fish(1 - self.player, position)
        if fish.is_revealed:
            raise IllegalMoveError(
                f"the enemy at position {position} is already known to be a {fish.kind.word}"
            )
        is_right = fish.kind == kind
        if is_right:
            fish.is_revealed = True
            for enemy in self.sides[1 - self.player]:
                enemy.health = max(enemy.health - REVEALED, 0)
        self.guesses[self.player] = Guess(position, kind, is_right)
        self._settle()
        return is_right

    def skip_guess(self) -> None:
        """Leaves the guess out.

        Raises:
            IllegalMoveError: It is no time to guess.
        """
        self._expect(Phase.GUESS)
        self.guesses[self.player] = None
        self._settle()

    def act(self, move: Move) -> Record:
        """Carries an action out; what it did.

        Raises:
            IllegalMoveError: It is no time to act, a fish in it is dead, or the target is none for this action.
        """
        self._expect(Phase.ACT)
        actor = self._fish(self.player, move.position)
        if not move.is_skill:
            record = self._attack(actor, move.target)
        elif actor.kind.has_area_skill:
            record = self._area(actor)
        else:
            record = self._infight(actor, move.target)
        self.records[self.player] = record
        self._settle()
        return record

    def forfeit(self) -> None:
        """Ends the match: whose turn it is has no legal move to offer, and loses."""
        self._over(1 - self.player, End.FORFEIT)

    # --- actions -------------------------------------------------------------------------------------------------
    def _attack(self, actor: Fish, target: int | None) -> Record:
        enemy = self._fish(1 - self.player, target)
        damage = actor.attack // 2
        record = Record(self.player, actor.position, "normal", 1 - self.player, (enemy.position,), damage)
        self._strike(actor, enemy, damage, record)
        return record

    def _area(self, actor: Fish) -> Record:
        damage = SPRAYED if actor.kind == Kind.SPRAY else int(actor.attack * EEL_SHARE)
        targets = self.living(1 - self.player)
        record = Record(self.player, actor.position, "area", 1 - self.player, tuple(targets), damage)
        for position in targets:
            self._strike(actor, self.sides[1 - self.player][position], damage, record)
        return record

    def _infight(self, actor: Fish, target: int | None) -> Record:
        mate = self._fish(self.player, target)
        if mate is actor:
            raise IllegalMoveError(f"a {actor.kind.word} cannot turn on itself")
        record = Record(self.player, actor.position, "infight", self.player, (mate.position,), INFIGHT)
        self._hurt(self.player, mate, INFIGHT, None, record)
        actor.attack += INFIGHT_GAIN
        return record

    def _strike(self, attacker: Fish, target: Fish, damage: int, record: Record) -> None:
        """A hit by an enemy, and what avenges it."""
        defender = 1 - self.player
        self._hurt(defender, target, damage, attacker, record)
        if target.health >= HEALTH * COUNTERED_BELOW:
            return
        for mate in self.sides[defender]:
            if mate.kind.counters and not mate.is_dead and mate is not target:
                record.events.append(Passive(defender, target.position, is_counter=True))
                self._hurt(self.player, attacker, COUNTER, None, record)

    def _hurt(self, player: int, fish: Fish, damage: int, source: Fish | None, record: Record) -> None:
        """Damage to one fish; an eel or sunfish shares what comes from an attacker."""
        mates = [mate for mate in self.sides[player] if mate is not fish and not mate.is_dead]
        if source is not None and mates and not fish.kind.counters:
            share = int(damage * SPREAD_SHARE) // len(mates)
            damage = int(damage * KEPT_SHARE)
            record.events.append(Passive(player, fish.position, is_counter=False))
            for mate in mates:
                self._hurt(player, mate, share, None, record)
        record.events.append(Hit(player, fish.position, damage, source is not None))
        fish.health -= damage
        fish.taken += damage
        if not fish.kind.counters and fish.taken >= HARDENED_AT:
            fish.attack += HARDENED_GAIN * (fish.taken // HARDENED_AT)
            fish.taken %= HARDENED_AT

    # --- turns ---------------------------------------------------------------------------------------------------
    def _expect(self, phase: Phase) -> None:
        if self.winner is not None:
            raise IllegalMoveError(f"the match is over: {self.end}")
        if self.phase != phase:
            raise IllegalMoveError(f"player {self.player} is to {self.phase.value}, not to {phase.value}")

    def _fish(self, player: int, position: int | None) -> Fish:
        """A living fish.

        Raises:
            IllegalMoveError: There is none.
        """
        if position is None or not 0 <= position < len(self.sides[player]):
            raise IllegalMoveError(f"position {position} is none of 0 to {len(self.sides[player]) - 1}")
        fish = self.sides[player][position]
        if fish.is_dead:
            raise IllegalMoveError(f"the fish at position {position} of player {player} is dead")
        return fish

    def _settle(self) -> None:
        """Ends a decision: the dead are counted, then whose turn it is."""
        for side in self.sides:
            for fish in side:
                if fish.health <= 0:
                    fish.is_dead, fish.health = True, 0
        self.decisions += 1
        if self.decisions >= STATE_LIMIT:
            self._over(self._ahead(), End.LIMIT)
            return
        lost = [not self.living(player) for player in (0, 1)]
        if any(lost):
            # Who sinks both sides at once has won.
            self._over(self.player if all(lost) else lost.index(False), End.SUNK)
        elif self.phase is Phase.GUESS:
            self.phase = Phase.ACT
        else:
            self.phase = Phase.GUESS
            self.player = 1 - self.player

    def _ahead(self) -> int:
        """Who wins at the limit: more living fish, more health in all, the healthiest fish, else the second mover."""

        def standing(player: int) -> tuple[int, int, int]:
            health = [max(fish.health, 0) for fish in self.sides[player]]
            return sum(value > 0 for value in health), sum(health), max(health)

        return 0 if standing(0) > standing(1) else 1

    def _over(self, winner: int, end: End) -> None:
        self.winner, self.end = winner, end
