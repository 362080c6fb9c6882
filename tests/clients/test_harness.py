"""lm-evaluation-harness by its `local-completions`, on two small tasks of our own: scores and texts are the server's."""

import json
from pathlib import Path

import pytest

from tests.clients.told import value

TASKS = Path(__file__).parent / "tasks"
WAYS = ("one_after_the_other", "in_batches", "at_once")


@pytest.fixture(scope="module")
def told(outcomes, live, small_model):
    return outcomes("lm-eval", "harness.py", f"http://127.0.0.1:{live.port}", small_model, TASKS, cwd=TASKS)


def samples(name: str) -> list[dict]:
    return [json.loads(line) for line in (TASKS / name).read_text(encoding="utf-8").splitlines()]


def score(live, prompt: str, continuation: str) -> tuple[float, bool]:
    """A continuation's log-probability by TGI's route, and whether each of its tokens is the likeliest."""
    parameters = {"max_new_tokens": 1, "details": True, "decoder_input_details": True}
    status, answer = live.generate(prompt + continuation, **parameters)
    assert status == 200
    scored = answer["details"]["prefill"][-len(continuation.encode()) :]
    logprob = sum(token["logprob"] for token in scored)
    # Greedily generated from the prompt, the same bytes come out exactly when each is the likeliest.
    status, answer = live.generate(prompt, max_new_tokens=len(scored), details=True)
    assert status == 200
    return logprob, [token["id"] for token in answer["details"]["tokens"]] == [
        token["id"] for token in scored
    ]


def test_log_likelihoods_are_those_of_tgis_route(told, live):
    found = value(told, WAYS[0])["choices"]
    questions = samples("choice.jsonl")
    assert len(found) == len(questions)
    for sample, scores in zip(questions, found, strict=True):
        wanted = [score(live, sample["question"], f" {choice}") for choice in sample["choices"]]
        assert [greedy for _, greedy in scores] == [greedy for _, greedy in wanted]
        assert [logprob for logprob, _ in scores] == pytest.approx(
            [logprob for logprob, _ in wanted], abs=1e-3
        )


def test_the_accuracy_follows_from_them(told):
    found = value(told, WAYS[0])
    likeliest = [max(range(len(scores)), key=lambda at, of=scores: of[at][0]) for scores in found["choices"]]
    right = [at == sample["answer"] for at, sample in zip(likeliest, samples("choice.jsonl"), strict=True)]
    assert found["accuracy"] == pytest.approx(sum(right) / len(right))


def test_generated_texts_are_the_servers(told, live):
    for sample, text in zip(samples("words.jsonl"), value(told, WAYS[0])["texts"], strict=True):
        body = {"prompt": sample["prompt"], "max_tokens": 8, "temperature": 0, "stop": ["\n"]}
        status, answer = live.call("POST", "/v1/completions", body)
        assert status == 200
        assert text == answer["choices"][0]["text"]


@pytest.mark.parametrize("way", WAYS[1:])
def test_batches_and_concurrency_change_nothing(told, way):
    assert value(told, way) == value(told, WAYS[0])
