"""Every engine is given the same conversation, and it fits the models."""

import pytest

from bench.cells import AGENTS, MAX_CONTEXT, Cell
from bench.workload import prompt, run_in_lockstep, start_agents


@pytest.mark.parametrize("model", AGENTS)
def test_conversations_fit_the_context(model: str) -> None:
    shape = AGENTS[model]
    longest = shape.system + shape.turns * (shape.observation + shape.answer)
    assert MAX_CONTEXT * 0.85 < longest <= MAX_CONTEXT


def test_prompts_grow_by_observation_and_answer() -> None:
    asked: list[list[list[int]]] = []

    def complete(prompts: list[list[int]], tokens: int) -> list[list[int]]:
        asked.append(prompts)
        return [[7] * tokens for _ in prompts]

    cell = Cell("1.1b", "float16", "agents", 2, "3")
    assert run_in_lockstep(cell, 0, complete) == 3 * 2 * AGENTS["1.1b"].answer
    first, second = asked[0][0], asked[1][0]
    assert second[: len(first)] == first
    assert second[len(first) : len(first) + AGENTS["1.1b"].answer] == [7] * AGENTS["1.1b"].answer
    system = AGENTS["1.1b"].system
    assert asked[0][0][:system] == asked[0][1][:system]
    assert asked[0][0][system:] != asked[0][1][system:]


def test_an_answer_of_another_length_is_refused() -> None:
    _, (agent, *_) = start_agents(Cell("110m", "float32", "agents", 1, "1"), 0)
    with pytest.raises(ValueError, match="were asked for"):
        agent.hear([1])


def test_repetitions_share_nothing_that_a_prefix_cache_could_keep() -> None:
    assert prompt(16, "system", 0) == prompt(16, "system", 0)
    assert prompt(16, "system", 0)[0] != prompt(16, "system", 1)[0]
