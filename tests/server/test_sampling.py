"""What is drawn and what is not, on a model that computes: TGI's switch, seeds, several runs and the best of them."""

import pytest

from tests.model.small import make_small
from tests.server.live import Live, served

PROMPT = "A gentle hum"
RUNS = 6
"""So many texts of twelve drawn tokens are all the same by no accident."""


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    model = make_small(tmp_path_factory.mktemp("model"))
    flags = ("--threads", 1, "--max-total-tokens", 64, "--max-best-of", RUNS, "--max-concurrent-requests", 64)
    with served("--model", model, "--backend", "cpu", *flags) as live:
        yield live


def native(live: Live, **parameters: object) -> dict:
    status, answer = live.generate(
        PROMPT, **{"max_new_tokens": 12, "ignore_eos": True, "details": True, **parameters}
    )
    assert status == 200, answer
    return answer


def choices(live: Live, path: str, **fields: object) -> list[str]:
    asked = {"messages": [{"role": "user", "content": PROMPT}]} if "chat" in path else {"prompt": PROMPT}
    body = {**asked, "max_tokens": 12, "ignore_eos": True, **fields}
    status, answer = live.call("POST", path, body)
    assert status == 200, answer
    return [
        choice["text"] if "text" in choice else choice["message"]["content"] for choice in answer["choices"]
    ]


def mean(tokens: list[dict]) -> float:
    return sum(token["logprob"] for token in tokens) / len(tokens)


def test_without_parameters_a_text_is_drawn_and_with_none_of_them_it_is_not(live):
    drawn = {live.call("POST", "/generate", {"inputs": PROMPT})[1]["generated_text"] for _ in range(RUNS)}
    assert len(drawn) > 1
    greedy = native(live)
    assert greedy["details"]["seed"] is None
    assert native(live, do_sample=False)["generated_text"] == greedy["generated_text"]


@pytest.mark.parametrize(
    ("parameters", "draws"),
    [
        ({"temperature": 1.0}, False),
        ({"top_p": 1.0}, False),
        ({"typical_p": 1.0}, False),
        ({"seed": 7}, False),
        ({"temperature": 1.5}, True),
        ({"temperature": 1.5, "do_sample": False}, True),
        ({"top_k": 50}, True),
        ({"top_p": 0.99}, True),
        ({"typical_p": 0.99}, True),
        ({"do_sample": True}, True),
    ],
)
def test_what_turns_sampling_on_is_what_does_in_tgi(live, parameters, draws):
    answers = [native(live, **parameters) for _ in range(RUNS if draws else 2)]
    texts = {answer["generated_text"] for answer in answers}
    assert (len(texts) > 1) == draws
    if not draws:
        assert texts == {native(live)["generated_text"]}
    assert all((answer["details"]["seed"] is not None) == draws for answer in answers)


def test_the_seed_that_an_answer_tells_draws_it_again(live):
    drawn = native(live, temperature=1.5)
    seed = drawn["details"]["seed"]
    assert native(live, temperature=1.5, seed=seed) == drawn
    assert native(live, temperature=1.5, seed=(seed + 1) % 2**64)["generated_text"] != drawn["generated_text"]


def test_the_best_of_several_runs_is_the_likeliest_on_average(live):
    for _ in range(3):
        details = native(live, best_of=RUNS, do_sample=True)["details"]
        others = details["best_of_sequences"]
        assert len({run["seed"] for run in (details, *others)}) == RUNS
        assert len({run["generated_text"] for run in others}) > 1
        assert mean(details["tokens"]) >= max(mean(run["tokens"]) for run in others)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_choices_are_drawn_apart_and_again_by_the_same_seed(live, path):
    fields = {"n": RUNS, "temperature": 1.5, "seed": -3}
    drawn = choices(live, path, **fields)
    assert len(set(drawn)) > 1
    assert choices(live, path, **fields) == drawn
    assert choices(live, path, **{**fields, "seed": 4}) != drawn
    assert choices(live, path, temperature=1.5, seed=-3) == drawn[:1]


def test_the_best_completion_is_one_of_the_choices(live):
    fields = {"temperature": 1.5, "seed": 5}
    [best] = choices(live, "/v1/completions", best_of=RUNS, **fields)
    body = {"prompt": PROMPT, "max_tokens": 12, "ignore_eos": True, "n": RUNS, "logprobs": 0, **fields}
    status, answer = live.call("POST", "/v1/completions", body)
    assert status == 200
    likeliest = max(answer["choices"], key=lambda choice: sum(choice["logprobs"]["token_logprobs"]))
    assert best == likeliest["text"]


def test_predictions_are_always_drawn(live):
    def predicted(**parameters: object) -> list[str]:
        instance = {"inputs": PROMPT, "parameters": {"max_new_tokens": 12, "ignore_eos": True, **parameters}}
        status, answer = live.call("POST", "/vertex", {"instances": [instance] * RUNS})
        assert status == 200, answer
        return answer["predictions"]

    assert len(set(predicted())) > 1
    assert len(set(predicted(seed=7))) == 1
    assert predicted(seed=7)[0] != native(live)["generated_text"], "not greedy either"
