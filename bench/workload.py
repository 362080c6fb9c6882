"""Prompts as token ids, and the agents' conversation. Refuses to know engines; the same seed gives the same tokens."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.cells import AGENTS, AgentShape, Cell

FIRST_WORD = 300
"""Ids below are bytes and special tokens of the random models."""
VOCABULARY = 32000

Tokens = list[int]


def prompt(tokens: int, *seed: object) -> Tokens:
    """A random prompt; equal seeds give equal prompts."""
    draw = random.Random(repr(seed))
    return [draw.randrange(FIRST_WORD, VOCABULARY) for _ in range(tokens)]


@dataclass(slots=True)
class Agent:
    """One agent's conversation so far."""

    number: int
    shape: AgentShape
    seed: int
    history: Tokens

    def ask(self, turn: int) -> Tokens:
        """The prompt of a turn: everything so far and a new observation."""
        self.history += prompt(self.shape.observation, "observation", self.seed, self.number, turn)
        return list(self.history)

    def hear(self, answer: Sequence[int]) -> None:
        """Takes a generated answer into the conversation. A wrong length would change the workload: refused."""
        if len(answer) != self.shape.answer:
            raise ValueError(
                f"an answer of {len(answer)} tokens came back, {self.shape.answer} were asked for"
            )
        self.history += answer


def start_agents(cell: Cell, repetition: int) -> tuple[AgentShape, list[Agent]]:
    """Agents with a shared system prompt; another repetition shares no token with this one."""
    shape = AGENTS[cell.model]
    system = prompt(shape.system, "system", repetition)
    return shape, [Agent(number, shape, repetition, list(system)) for number in range(cell.batch)]


def run_in_lockstep(
    cell: Cell, repetition: int, complete: Callable[[list[Tokens], int], Sequence[Sequence[int]]]
) -> int:
    """Runs the conversation for an engine that takes whole batches. Returns the number of generated tokens."""
    shape, agents = start_agents(cell, repetition)
    turns = int(cell.context)
    for turn in range(turns):
        answers = complete([agent.ask(turn) for agent in agents], shape.answer)
        for agent, answer in zip(agents, answers, strict=True):
            agent.hear(answer)
    return turns * len(agents) * shape.answer
