"""The two programs that models play against: do they decide as the original's did in its recorded matches?"""

import copy
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from agentlm_evals.tasks.card_game.opponents import OPPONENTS, Baseline2, Opponent
from agentlm_evals.tasks.card_game.recording import Decision, RecordedMatch, as_decision
from agentlm_evals.tasks.card_game.rules import Kind, Match, Phase
from agentlm_evals.tasks.card_game.sight import look
from tests.evals.card_game.original import matches
from tests.evals.card_game.test_rules import ARCHIVE


def test_what_the_original_programs_did_is_what_ours_could_have_done(data_dir: Path) -> None:
    decided: Counter[tuple[str, bool]] = Counter()
    for original in matches(data_dir / ARCHIVE):
        recorded = RecordedMatch(original.line_ups)
        match = recorded.match
        programs = [OPPONENTS[name](Random(0)) for name in original.programs]
        for step in original.steps:
            program = programs[match.player]
            drawn = [_draw(program, match, seed) for seed in range(20)]
            is_certain = all(decision == drawn[0] for decision in drawn)
            seed = 20
            while list(step.decision) not in drawn and not is_certain and seed < 1000:
                drawn.append(_draw(program, match, seed))
                seed += 1
            where = f"{original.name}, decision {step.decisions_before}"
            assert list(step.decision) in drawn, where
            decided[type(program).__name__, is_certain] += 1
            _remember(program, step.decision, match)
            recorded.decide(step.decision)
    # Of the second program's decisions most have no luck in them: there the original must agree exactly.
    assert decided["Baseline2", True] >= 100
    assert decided["Baseline1", True] == 0


def _draw(program: Opponent, match: Match, seed: int) -> list[Any]:
    """What the program decides with other luck; it is left as it was."""
    same = copy.copy(program) if match.phase is Phase.ACT else copy.deepcopy(program)
    same.random = Random(seed)
    return list(as_decision(match, same.decide(match)))


def _remember(program: Opponent, decision: Decision, match: Match) -> None:
    """Lets the program know what the original guessed, where luck would have told it something else."""
    if match.phase is Phase.GUESS:
        program.guess(look(match))
        if isinstance(program, Baseline2) and decision[0] == "guess":
            program._last = (decision[1], Kind(decision[2]))


def test_the_second_program_beats_the_first_from_both_seats() -> None:
    for seat in (0, 1):
        won = 0
        for seed in range(50):
            programs = [
                OPPONENTS["baseline1"](Random(f"{seed} a")),
                OPPONENTS["baseline2"](Random(f"{seed} b")),
            ]
            players = [programs[1], programs[0]] if seat == 0 else programs
            recorded = RecordedMatch((players[0].line_up(), players[1].line_up()))
            match = recorded.match
            while match.winner is None:
                recorded.decide(as_decision(match, players[match.player].decide(match)))
            won += match.winner == seat
        assert won >= 45


def test_a_programs_luck_is_its_generators() -> None:
    def play() -> list[object]:
        players = [OPPONENTS["baseline1"](Random("a")), OPPONENTS["baseline2"](Random("b"))]
        recorded = RecordedMatch((players[0].line_up(), players[1].line_up()))
        while recorded.match.winner is None:
            recorded.decide(
                as_decision(recorded.match, players[recorded.match.player].decide(recorded.match))
            )
        return list(recorded.decisions)

    assert play() == play()
