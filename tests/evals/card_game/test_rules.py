"""The rules: the original judge's matches move for move, ours likewise, and cases worked out by hand."""

import json
from pathlib import Path
from random import Random

import pytest

from agentlm_evals.errors import DataError
from agentlm_evals.tasks.card_game.opponents import OPPONENTS
from agentlm_evals.tasks.card_game.recording import RecordedMatch, as_decision, replay
from agentlm_evals.tasks.card_game.rules import (
    STATE_LIMIT,
    End,
    Hit,
    IllegalMoveError,
    Kind,
    Match,
    Move,
    Passive,
)
from tests.evals.card_game.original import State, matches

OWN = Path(__file__).parent / "matches.jsonl"
SPRAY, FLAME, EEL, SUNFISH = Kind
ARCHIVE = "card_game/aquawar_stage2_replays_20.tar.xz"


def state(match: Match) -> State:
    return [
        [(int(fish.kind), fish.health, fish.attack, fish.is_revealed, fish.is_dead) for fish in side]
        for side in match.sides
    ]


def fresh() -> Match:
    """Both sides in the order of their kinds; player 0 is to guess."""
    return Match(list(Kind), list(Kind))


def acting(match: Match) -> Match:
    match.skip_guess()
    return match


def health(match: Match, player: int) -> list[int]:
    return [fish.health for fish in match.sides[player]]


# --- recorded matches ----------------------------------------------------------------------------------------------


def test_the_original_judges_matches_play_again_move_for_move(data_dir: Path) -> None:
    played = 0
    for original in matches(data_dir / ARCHIVE):
        recorded = RecordedMatch(original.line_ups)
        match = recorded.match
        for step in original.steps:
            where = f"{original.name}, decision {step.decisions_before}"
            assert (match.player, match.decisions) == (step.player, step.decisions_before), where
            assert state(match) == step.state, where
            recorded.decide(step.decision)
            if step.events is not None:
                record = match.records[step.player]
                assert record is not None
                assert record.events == step.events, where
        assert state(match) == original.final
        assert match.end is End.SUNK
        assert match.winner is not None
        # As the reference notes: the second program won all twenty.
        assert original.programs[match.winner] == "baseline2"
        played += 1
    assert played == 20


def test_our_own_recorded_matches_play_again_move_for_move() -> None:
    rows = [json.loads(line) for line in OWN.read_text().splitlines()]
    assert len(rows) >= 4
    for row in rows:
        recorded = RecordedMatch(tuple([Kind(kind) for kind in side] for side in row["line_ups"]))  # type: ignore[arg-type]
        for decision, healths in zip(row["decisions"], row["health"], strict=True):
            recorded.decide(decision)
            assert [health(recorded.match, player) for player in (0, 1)] == healths
        assert recorded.match.winner == row["winner"]
        assert recorded.to_json() == {"line_ups": row["line_ups"], "decisions": row["decisions"]}


@pytest.mark.parametrize(
    "broken",
    [
        {"line_ups": [[1, 2, 3, 4], [1, 2, 3, 3]], "decisions": []},
        {"line_ups": [[1, 2, 3, 4], [1, 2, 3, 4]], "decisions": [["attack", 0, 0]]},
        {"line_ups": [[1, 2, 3, 4], [1, 2, 3, 4]], "decisions": [["skip"], ["dance"]]},
        {"decisions": []},
    ],
)
def test_a_record_that_the_rules_do_not_allow_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(DataError, match="cannot be played again"):
        replay(broken)


# --- by hand -------------------------------------------------------------------------------------------------------


def test_a_right_guess_reveals_and_hurts_every_enemy() -> None:
    match = fresh()
    assert match.guess(2, EEL)
    assert health(match, 1) == [350] * 4
    assert [fish.is_revealed for fish in match.sides[1]] == [False, False, True, False]
    assert health(match, 0) == [400] * 4


def test_a_wrong_guess_costs_nothing() -> None:
    match = fresh()
    assert not match.guess(2, SUNFISH)
    assert health(match, 0) == health(match, 1) == [400] * 4
    assert not match.sides[1][2].is_revealed


def test_a_normal_attack_does_half_the_attack() -> None:
    match = acting(fresh())
    match.act(Move(0, target=1))
    assert health(match, 1) == [400, 300, 400, 400]


def test_a_deflection_shares_three_tenths_among_the_living() -> None:
    match = acting(fresh())
    record = match.act(Move(0, target=2))
    # 100: 70 for the eel, 30 // 3 for each team-mate, done before its own.
    assert health(match, 1) == [390, 390, 330, 390]
    assert record.events == [
        Passive(1, 2, is_counter=False),
        Hit(1, 0, 10, has_source=False),
        Hit(1, 1, 10, has_source=False),
        Hit(1, 3, 10, has_source=False),
        Hit(1, 2, 70, has_source=True),
    ]


def test_a_lone_eel_takes_everything() -> None:
    match = acting(fresh())
    for fish in match.sides[1]:
        fish.is_dead, fish.health = fish.kind is not EEL, 400 if fish.kind is EEL else 0
    match.act(Move(0, target=2))
    assert match.sides[1][2].health == 300


def test_an_eel_gains_attack_with_every_two_hundred_damage() -> None:
    match = acting(fresh())
    match.sides[0][0].attack = 600
    match.act(Move(0, target=2))
    # 300: 210 of it are the eel's own.
    assert (match.sides[1][2].attack, match.sides[1][2].taken) == (240, 10)


@pytest.mark.parametrize(("before", "countered"), [(220, False), (219, True)])
def test_a_fish_left_below_three_tenths_is_avenged_by_each_that_can(before: int, countered: bool) -> None:
    match = acting(fresh())
    match.sides[1][2].is_revealed = True
    match.sides[1][1].health = before
    match.act(Move(2, target=1))
    # The flame does not avenge itself; the spray does.
    assert match.sides[1][1].health == before - 100
    assert match.sides[0][2].health == (370 if countered else 400)


def test_both_spray_and_flame_avenge_a_third_fish() -> None:
    match = acting(fresh())
    match.sides[1][3].health = 100
    record = match.act(Move(2, target=3))
    counters = [event for event in record.events if isinstance(event, Passive) and event.is_counter]
    assert [event.position for event in counters] == [3, 3]
    assert match.sides[0][2].health == 400 - 2 * 30


def test_a_fish_without_health_still_counts_as_living_within_an_area_skill() -> None:
    match = acting(fresh())
    match.sides[1][0].health = 30
    record = match.act(Move(0, is_skill=True))
    # The spray is sunk first, and yet takes its part of the eel's and the sunfish's damage.
    hits = [
        event
        for event in record.events
        if isinstance(event, Hit) and event.position == 0 and event.player == 1
    ]
    assert [hit.damage for hit in hits] == [70, 7, 7]
    assert match.sides[1][0].is_dead


def test_area_skills() -> None:
    match = acting(fresh())
    match.act(Move(0, is_skill=True))
    # 70 each; eel and sunfish keep 49 and spread 21 // 3 on each of the three others.
    assert health(match, 1) == [400 - 70 - 14, 400 - 70 - 14, 400 - 49 - 7, 400 - 49 - 7]
    match = acting(fresh())
    match.sides[0][2].attack = 241
    record = match.act(Move(2, is_skill=True))
    assert record.expected == 84


def test_an_infight_costs_a_team_mate_and_is_not_shared() -> None:
    match = acting(fresh())
    match.act(Move(1, is_skill=True, target=2))
    assert health(match, 0) == [400, 400, 325, 400]
    assert match.sides[0][1].attack == 340


@pytest.mark.parametrize(
    ("move", "why"),
    [
        (Move(1, is_skill=True, target=1), "a flame cannot turn on itself"),
        (Move(1, is_skill=True), "position None is none of 0 to 3"),
        (Move(4, target=0), "position 4 is none of 0 to 3"),
        (Move(3, target=0), "the fish at position 3 of player 0 is dead"),
        (Move(0, target=3), "the fish at position 3 of player 1 is dead"),
    ],
)
def test_illegal_moves_change_nothing(move: Move, why: str) -> None:
    match = acting(fresh())
    for side in match.sides:
        side[3].is_dead, side[3].health = True, 0
    before = state(match)
    with pytest.raises(IllegalMoveError) as error:
        match.act(move)
    assert str(error.value) == why
    assert (state(match), match.player, match.decisions) == (before, 0, 3)


def test_what_is_revealed_cannot_be_guessed_and_turns_are_kept() -> None:
    match = fresh()
    with pytest.raises(IllegalMoveError, match="player 0 is to guess, not to act"):
        match.act(Move(0, target=0))
    match.guess(0, SPRAY)
    match.act(Move(0, target=0))
    acting(match).act(Move(0, target=0))
    with pytest.raises(IllegalMoveError, match="already known to be a spray"):
        match.guess(0, FLAME)


def test_who_forfeits_loses() -> None:
    match = fresh()
    match.forfeit()
    assert (match.winner, match.end) == (1, End.FORFEIT)
    with pytest.raises(IllegalMoveError, match="the match is over"):
        match.skip_guess()


def test_a_guess_can_sink_the_last_fish() -> None:
    match = fresh()
    for fish in match.sides[1]:
        fish.health = 50
    match.guess(0, SPRAY)
    assert (match.winner, match.end) == (0, End.SUNK)


def test_who_sinks_both_sides_at_once_wins() -> None:
    match = acting(fresh())
    for player, side in enumerate(match.sides):
        for fish in side:
            fish.is_dead, fish.health = True, 0
        side[player].is_dead = False
    # A spray is left on one side, a spray and a flame on the other.
    match.sides[0][0].health, match.sides[1][1].health = 30, 30
    match.sides[1][0].is_dead, match.sides[1][0].health = False, 1
    match.act(Move(0, is_skill=True))
    # The spray hits both; each that is left below 120 is avenged by the other: 2 x 30.
    assert health(match, 0) == health(match, 1) == [0] * 4
    assert (match.winner, match.end) == (0, End.SUNK)


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        ([400, 400, 400, 400], [400, 400, 400, 0], 0),
        ([100, 100, 100, 0], [1, 1, 1, 1], 1),
        ([100, 100, 100, 100], [100, 100, 100, 101], 1),
        ([100, 100, 100, 100], [97, 100, 100, 103], 1),
        ([97, 100, 100, 103], [100, 100, 100, 100], 0),
        ([100, 100, 100, 100], [100, 100, 100, 100], 1),
    ],
)
def test_at_the_limit_more_fish_then_health_then_the_best_then_the_second_mover_win(
    first: list[int], second: list[int], winner: int
) -> None:
    match = fresh()
    for side, healths in zip(match.sides, (first, second), strict=True):
        for fish, value in zip(side, healths, strict=True):
            fish.health, fish.is_dead = value, value == 0
    match.decisions = STATE_LIMIT - 1
    match.skip_guess()
    assert (match.winner, match.end) == (winner, End.LIMIT)


def test_random_matches_end_and_keep_the_books() -> None:
    for seed in range(200):
        random = Random(seed)
        players = [OPPONENTS[random.choice(list(OPPONENTS))](Random(f"{seed} {seat}")) for seat in (0, 1)]
        recorded = RecordedMatch((players[0].line_up(), players[1].line_up()))
        match = recorded.match
        while match.winner is None:
            before = sum(map(sum, (health(match, player) for player in (0, 1))))
            recorded.decide(as_decision(match, players[match.player].decide(match)))
            assert sum(map(sum, (health(match, player) for player in (0, 1)))) <= before
            assert all(fish.is_dead == (fish.health == 0) for side in match.sides for fish in side)
        assert match.decisions <= STATE_LIMIT
        assert state(replay(recorded.to_json())) == state(match)
