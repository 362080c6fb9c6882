"""Every engine is given the same conversation, and it fits the models."""

import time

import pytest

from bench import workload
from bench.cells import AGENTS, MAX_CONTEXT, Cell
from bench.workload import AgentRun, AtMost, prompt, run_in_lockstep, start_agents


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

    run = AgentRun(Cell("1.1b", "float16", "agents", 2, "3"), 0, recomputes=True)
    assert not isinstance(run_in_lockstep(run, complete), AtMost)
    assert [agent.generated for agent in run.agents] == [3 * AGENTS["1.1b"].answer] * 2
    first, second = asked[0][0], asked[1][0]
    assert second[: len(first)] == first
    assert second[len(first) : len(first) + AGENTS["1.1b"].answer] == [7] * AGENTS["1.1b"].answer
    system = AGENTS["1.1b"].system
    assert asked[0][0][:system] == asked[0][1][:system]
    assert asked[0][0][system:] != asked[0][1][system:]


def test_a_slow_engine_that_recomputes_is_cut_and_its_rate_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "RECOMPUTING_SECONDS", 0.02)
    cell = Cell("110m", "float32", "agents", 1, "30")

    def complete(_: list[list[int]], tokens: int) -> list[list[int]]:
        time.sleep(0.015)
        return [[7] * tokens]

    cut = AgentRun(cell, 0, recomputes=True)
    assert isinstance(run_in_lockstep(cut, complete), AtMost)
    assert 0 < cut.agents[0].generated < 30 * AGENTS["110m"].answer
    whole = AgentRun(cell, 0, recomputes=False)
    assert not isinstance(run_in_lockstep(whole, complete), AtMost)
    assert whole.agents[0].generated == 30 * AGENTS["110m"].answer


def test_an_answer_of_another_length_is_refused() -> None:
    _, (agent, *_) = start_agents(Cell("110m", "float32", "agents", 1, "1"), 0)
    with pytest.raises(ValueError, match="were asked for"):
        agent.hear([1])


def test_repetitions_share_nothing_that_a_prefix_cache_could_keep() -> None:
    assert prompt(16, "system", 0) == prompt(16, "system", 0)
    assert prompt(16, "system", 0)[0] != prompt(16, "system", 1)[0]
