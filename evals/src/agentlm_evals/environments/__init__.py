"""Small text environments of our own, with rules, seeds and scripted experts. Refuses to know models and HTTP.

Four worlds have a split to train on, in the ReAct forms of AgentTuning's held-in tasks; four more are for tests only.
They are no published benchmark: they serve the small model, `tune evolve`, task runs during tuning and the study of
mixtures, where an episode must cost milliseconds.
"""

from collections.abc import Mapping

from agentlm_evals.environments.database import DATABASE
from agentlm_evals.environments.desk import DESK
from agentlm_evals.environments.household import HOUSEHOLD
from agentlm_evals.environments.kitchen import KITCHEN
from agentlm_evals.environments.library import LIBRARY
from agentlm_evals.environments.shell_tasks import SHELL
from agentlm_evals.environments.shop import SHOP
from agentlm_evals.environments.town import TOWN
from agentlm_evals.environments.world import Advice, Game, Item, Split, World
from agentlm_evals.errors import UnknownTaskError

WORLDS: Mapping[str, World] = {
    world.name: world for world in (HOUSEHOLD, SHOP, DATABASE, SHELL, KITCHEN, TOWN, LIBRARY, DESK)
}
HELD_IN = tuple(world for world in WORLDS.values() if world.held_in)
HELD_OUT = tuple(world for world in WORLDS.values() if not world.held_in)


def world_named(name: str) -> World:
    """The world of that name.

    Raises:
        UnknownTaskError: There is none.
    """
    if name not in WORLDS:
        raise UnknownTaskError(f"there is no world {name!r}; the worlds are {', '.join(WORLDS)}")
    return WORLDS[name]


__all__ = ["HELD_IN", "HELD_OUT", "WORLDS", "Advice", "Game", "Item", "Split", "World", "world_named"]
