"""Every world: its expert solves every item from what can be read, its splits never meet, doing nothing earns nothing."""

from dataclasses import replace
from random import Random

import pytest

from agentlm_evals.environments import HELD_IN, HELD_OUT, WORLDS, Item, Split, World, world_named
from agentlm_evals.environments.shop import BUY
from agentlm_evals.environments.world import split_of
from agentlm_evals.errors import ConfigError, FormatError, UnknownTaskError

SEEDS = 400
worlds = pytest.mark.parametrize("world", WORLDS.values(), ids=list(WORLDS))


def items(world: World, count: int = SEEDS) -> list[Item]:
    return [Item(world.name, split, number) for number in range(count // 2) for split in Split]


@worlds
def test_the_expert_solves_every_item_within_the_rounds(world):
    for item in items(world):
        game = world.begin(item)
        for _ in range(world.rounds):
            if game.done:
                break
            game.act(world.form.read(world.reply(game.advise())))
        assert game.done, item.id
        assert game.reward == 1.0, item.id


def test_the_shops_limit_is_a_price_below_which_one_buys():
    shop = WORLDS["shop"]
    for dearer, reward in ((0, 0.75), (1, 1.0)):
        game = shop.begin(Item("shop", Split.TEST, 0))
        while not game.done:
            action = game.advise().action
            if action == f"click[{BUY}]":
                game.wish = replace(game.wish, below=game.page.price + dearer)
            game.act(action)
        assert game.reward == reward


@worlds
def test_the_expert_goes_on_after_slips(world):
    for item in items(world):
        rng = Random(item.id)
        game = world.begin(item)
        slips = 2
        for _ in range(60):
            if game.done:
                break
            if slips and rng.random() < 0.4 and (choices := game.slips()):
                slips -= 1
                game.act(rng.choice(list(choices)))
                assert not game.done, "a slip ended the game"
            else:
                game.act(game.advise().action)
        assert game.reward == 1.0, item.id


@worlds
def test_the_expert_knows_only_what_has_been_shown(world):
    """Two games that have read the same so far get the same advice, whatever is hidden in them."""
    advised: dict[str, str] = {}
    for item in items(world):
        rng = Random(item.number)
        game = world.begin(item)
        history = game.opening
        for _ in range(60):
            if game.done:
                break
            if rng.random() < 0.2 and (choices := game.slips()):
                action = rng.choice(list(choices))
            else:
                reply = world.reply(game.advise())
                assert advised.setdefault(history, reply) == reply, history
                action = world.form.read(reply)
            history += f"\n> {action}\n{game.act(action)}"


@worlds
def test_an_item_is_the_same_each_time_and_splits_never_meet(world):
    openings = {
        split: {world.begin(Item(world.name, split, n)).opening for n in range(200)} for split in Split
    }
    assert openings[Split.TRAIN].isdisjoint(openings[Split.TEST])
    assert all(split_of(opening) is split for split in Split for opening in openings[split])
    assert len(openings[Split.TEST]) > 20
    item = Item(world.name, Split.TEST, 7)
    assert world.begin(item).opening == world.begin(item).opening


@worlds
def test_doing_nothing_earns_nothing(world):
    for item in items(world, 60):
        game = world.begin(item)
        try:
            for _ in range(world.rounds):
                game.act(world.form.read("AAAAA"))
        except FormatError:
            pass
        assert game.reward == 0.0
        assert not game.done


@worlds
def test_random_words_never_break_a_game(world):
    text = "go to take open put in/on search[ ] click[B10] bash: sql: answer: finish ls rm -r / SELECT * FROM | > && '"
    vocabulary = text.split(" ")
    rng = Random(0)
    for item in items(world, 60):
        game = world.begin(item)
        for _ in range(world.rounds):
            if game.done:
                break
            game.act(" ".join(rng.choices(vocabulary, k=rng.randint(1, 6))))
        assert 0.0 <= game.reward <= 1.0


@pytest.mark.parametrize("world", HELD_IN, ids=lambda world: world.name)
def test_a_game_is_short_enough_to_train_on(world):
    for item in items(world, 60):
        game = world.begin(item)
        text = world.instruction + game.opening
        while not game.done:
            reply = world.reply(game.advise())
            text += reply + game.act(world.form.read(reply))
        assert len(text) < 4000, item.id


def test_four_worlds_train_and_four_do_not():
    assert [len(HELD_IN), len(HELD_OUT)] == [4, 4]
    assert not {world.name for world in HELD_IN} & {world.name for world in HELD_OUT}


def test_unknown_worlds_and_foreign_items_are_refused():
    with pytest.raises(UnknownTaskError, match="there is no world 'garage'; the worlds are household, shop"):
        world_named("garage")
    with pytest.raises(ConfigError, match="item shop-test-0 is no item of the world household"):
        WORLDS["household"].begin(Item("shop", Split.TEST, 0))
    with pytest.raises(ConfigError, match="number is -1"):
        Item("shop", Split.TEST, -1)
