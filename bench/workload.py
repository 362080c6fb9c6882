"""Prompts as token ids, and the agents' conversation. Refuses to know engines; the same seed gives the same tokens."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.cells import AGENTS, AgentShape, Cell

FIRST_WORD = 300
"""Ids below are bytes and special tokens of the random models."""
VOCABULARY = 32000

RECOMPUTING_SECONDS = 150
"""After so long no further turn begins for an engine that computes every prompt anew."""

Tokens = list[int]


class AtMost(float):
    """A rate that the whole workload would not reach: its cheaper first part ran at this rate."""


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
    generated: int = 0

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
        self.generated += len(answer)


def start_agents(cell: Cell, repetition: int) -> tuple[AgentShape, list[Agent]]:
    """Agents with a shared system prompt; another repetition shares no token with this one."""
    shape = AGENTS[cell.model]
    system = prompt(shape.system, "system", repetition)
    return shape, [Agent(number, shape, repetition, list(system)) for number in range(cell.batch)]


class AgentRun:
    """Runs the conversation and counts.

    With an engine that keeps no earlier turn it ends early when it takes minutes: each turn's prompt is longer than the one
    before, so the rate so far is more than that of all turns.
    """

    def __init__(self, cell: Cell, repetition: int, *, recomputes: bool) -> None:
        self.shape, self.agents = start_agents(cell, repetition)
        self._turns = int(cell.context)
        self._cut = False
        self._start = time.perf_counter()
        self._end = self._start + RECOMPUTING_SECONDS if recomputes else None

    def turns(self) -> Iterator[int]:
        """The turns of one agent, or of all in lockstep."""
        for turn in range(self._turns):
            if self._end is not None and time.perf_counter() > self._end:
                self._cut = True
                return
            yield turn

    def rate(self) -> float:
        """Generated tokens a second so far, an `AtMost` where turns are missing."""
        rate = sum(agent.generated for agent in self.agents) / (time.perf_counter() - self._start)
        return AtMost(rate) if self._cut else rate


def run_in_lockstep(run: AgentRun, complete: Callable[[list[Tokens], int], Sequence[Sequence[int]]]) -> float:
    """Runs the conversation with an engine that takes whole batches. Returns generated tokens a second."""
    for turn in run.turns():
        answers = complete([agent.ask(turn) for agent in run.agents], run.shape.answer)
        for agent, answer in zip(run.agents, answers, strict=True):
            agent.hear(answer)
    return run.rate()
