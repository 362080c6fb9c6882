"""What counts as a decision in a model's reply, in our protocol and in the published one."""

from collections.abc import Callable

import pytest

from agentlm_evals.errors import FormatError
from agentlm_evals.tasks.card_game.replies import published_guess, published_move, read_guess, read_move
from agentlm_evals.tasks.card_game.rules import Kind, Match, Move
from agentlm_evals.tasks.card_game.sight import Sight, look

SPRAY, FLAME, EEL, SUNFISH = Kind


def sight(
    own_dead: tuple[int, ...] = (), enemy_dead: tuple[int, ...] = (), revealed: tuple[int, ...] = ()
) -> Sight:
    """Both sides in the order of their kinds, seen by player 0."""
    match = Match(list(Kind), list(Kind))
    for side, dead in zip(match.sides, (own_dead, enemy_dead), strict=True):
        for at in dead:
            side[at].is_dead, side[at].health = True, 0
    for at in revealed:
        match.sides[1][at].is_revealed = True
    return look(match)


@pytest.mark.parametrize(
    ("reply", "guess"),
    [
        ('{"guess_type": "eel", "target_position": "2"}', (2, EEL)),
        ("I think so. {'guess_type': 'Eel', 'target_position': 2}", (2, EEL)),
        (
            '{"guess_type": "eel", "target_position": "9"} no: {"guess_type": "eel", "target_position": "1"}',
            (1, EEL),
        ),
        ('{"guess_type": "none"}', None),
        ('{broken} {"guess_type": "skip", "target_position": null}', None),
    ],
)
def test_the_first_legal_guess_counts(reply: str, guess: tuple[int, Kind] | None) -> None:
    assert read_guess(reply, sight()) == guess


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("AAAAA", "there is no object of the form"),
        (
            '{"guess_type": "shark", "target_position": "1"}',
            "guess_type must be one of spray, flame, eel, sunfish or none",
        ),
        (
            '{"guess_type": "eel", "target_position": "0"}',
            "a living enemy that is not revealed (1, 3); given: '0'",
        ),
        (
            '{"guess_type": "eel", "target_position": "2"}',
            "a living enemy that is not revealed (1, 3); given: '2'",
        ),
        ('{"guess_type": "eel"}', "given: None"),
        ('["guess_type", "eel"]', "there is no object of the form"),
    ],
)
def test_other_guesses_say_what_is_wrong(reply: str, why: str) -> None:
    with pytest.raises(FormatError) as error:
        read_guess(reply, sight(enemy_dead=(0,), revealed=(2,)))
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("reply", "move"),
    [
        ('{"pick_fish": "spray", "action": "normal", "target_position": "3"}', Move(0, target=3)),
        ('{"pick_fish": "eel", "action": "active"}', Move(2, is_skill=True)),
        (
            "{'pick_fish': 'FLAME', 'action': 'active', 'target_position': 0}",
            Move(1, is_skill=True, target=0),
        ),
    ],
)
def test_legal_moves(reply: str, move: Move) -> None:
    assert read_move(reply, sight()) == move


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("no", "there is no object of the form"),
        (
            '{"pick_fish": "spray", "action": "normal", "target_position": "1"}',
            "pick_fish must be a living fish of yours",
        ),
        (
            '{"pick_fish": "eel", "action": "dance", "target_position": "1"}',
            "action must be normal or active",
        ),
        (
            '{"pick_fish": "eel", "action": "normal", "target_position": "3"}',
            "a living enemy (0, 1, 2); given: '3'",
        ),
        (
            '{"pick_fish": "flame", "action": "active", "target_position": "1"}',
            "another living fish of yours",
        ),
        (
            '{"pick_fish": "flame", "action": "active", "target_position": "0"}',
            "for flame's skill (2, 3); given: '0'",
        ),
    ],
)
def test_other_moves_say_what_is_wrong(reply: str, why: str) -> None:
    with pytest.raises(FormatError) as error:
        read_move(reply, sight(own_dead=(0,), enemy_dead=(3,)))
    assert why in str(error.value)


def test_the_published_guess_at_a_revealed_fish_is_none() -> None:
    reply = '{"guess_type": "eel", "target_position": 2}'
    assert published_guess(reply, sight()) == (2, EEL)
    assert published_guess(reply, sight(revealed=(2,))) is None
    with pytest.raises(FormatError):
        published_guess(reply, sight(enemy_dead=(2,)))
    with pytest.raises(FormatError):
        published_guess('{"guess_type": "none"}', sight())


@pytest.mark.parametrize(
    ("reply", "move"),
    [
        ('{"pick_fish": "spray", "action": "active", "target_position": "7"}', Move(0, is_skill=True)),
        ('{"pick_fish": "0", "action": "normal", "target_position": 1}', Move(0, target=1)),
        ('{"pick_fish": "0", "action": "active", "target_position": "1"}', Move(0, is_skill=True)),
        ('{"pick_fish": "0", "action": "active", "target_position": "7"}', None),
        ('{"pick_fish": "1", "action": "active", "target_position": "2"}', None),
        (
            '{"pick_fish": "flame", "action": "active", "target_position": "2"}',
            Move(1, is_skill=True, target=2),
        ),
        # An enemy must live where the team-mate stands.
        ('{"pick_fish": "flame", "action": "active", "target_position": "0"}', None),
        ('{"pick_fish": "flame", "action": "active", "target_position": "1"}', None),
        ('{"pick_fish": "flame", "action": "active", "target_position": "3"}', None),
        ('{"pick_fish": "Spray", "action": "normal", "target_position": "1"}', None),
        ('{"pick_fish": "sunfish", "action": "normal", "target_position": "1"}', None),
    ],
)
def test_the_published_clients_checks(reply: str, move: Move | None) -> None:
    seen = sight(own_dead=(3,), enemy_dead=(0,))
    if move is None:
        with pytest.raises(FormatError):
            published_move(reply, seen)
    else:
        assert published_move(reply, seen) == move


@pytest.mark.parametrize("read", [read_guess, read_move, published_guess, published_move])
def test_nothing_that_a_model_says_breaks_the_reading(read: Callable[[str, Sight], object]) -> None:
    for value in ("1e999", "[1]", "{}", "null", "true", '"²"', '"١"', "-1", '"00"'):
        for key in ("guess_type", "pick_fish", "action", "target_position"):
            fields = {
                "guess_type": '"eel"',
                "pick_fish": '"eel"',
                "action": '"normal"',
                "target_position": '"1"',
                key: value,
            }
            reply = "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"
            try:
                read(reply, sight())
            except FormatError:
                continue
