"""The trajectory of an expert in a world, as a conversation record of `agentlm data`. Refuses to know files and models."""

from random import Random
from typing import Any

from agentlm_evals.environments.world import Advice, Game, Item, World
from agentlm_evals.errors import ConfigError
from agentlm_evals.model import Message

SLIP_THOUGHT = "I try this."
"""What a mistake that was put into an expert's trajectory says; it is never trained on."""


def first_message(world: World, game: Game) -> Message:
    """What an agent reads first: the world's instruction and the item's opening."""
    return Message("user", f"{world.instruction}\n\n{game.opening}")


def expert_trajectory(world: World, item: Item, *, slip_share: float = 0.0, source: str) -> dict[str, Any]:
    """The record of the expert solving an item.

    With probability `slip_share` one mistake is put in, as an assistant's turn with `loss` false, and the expert recovers
    from it: an agent that learns from perfect runs alone has never seen the state that its own first mistake leads to.

    Raises:
        ConfigError: The share is not in [0, 1].
    """
    if not 0.0 <= slip_share <= 1.0:
        raise ConfigError(f"slip_share is {slip_share}; it must be in [0, 1]")
    rng = Random(f"slip/{item.id}")
    slip_at = rng.randint(0, 5) if rng.random() < slip_share else -1
    game = world.begin(item)
    messages = [first_message(world, game)]
    for turn in range(4 * world.rounds):
        choices = game.slips() if turn == slip_at else ()
        slip = Advice(SLIP_THOUGHT, rng.choice(list(choices))) if choices else None
        reply = world.reply(slip or game.advise())
        messages.append(Message("assistant", reply, loss=not choices))
        seen = game.act(world.form.read(reply))
        if game.done:
            break
        messages.append(Message("user", seen))
    return {
        "id": item.id,
        "source": source,
        "task": world.name,
        "item": item.id,
        "reward": game.reward,
        "tags": ["expert", "held-in" if world.held_in else "held-out"],
        "messages": [message.to_json() for message in messages],
    }
