"""A model behind servers: what goes over the wire, what is asked again, what is refused, what is kept."""

from pathlib import Path
from typing import Any

import pytest

from agentlm_evals.errors import (
    ConfigError,
    LimitReached,
    ModelError,
    RefusedError,
    RequirementError,
    UnsupportedError,
)
from agentlm_evals.model import Decoding, Limits, Message
from agentlm_evals.models.cache import CallCache
from agentlm_evals.models.choice import ModelChoice, open_model, port_urls, served_urls
from agentlm_evals.models.connect import connect
from agentlm_evals.models.pool import Patience, Pool
from tests.evals.server import Reply, said, scripted_server, tgi

_TOO_LONG = (
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 100. "
    "Given: {} `inputs` tokens and {} `max_new_tokens`"
)
GREEDY = Decoding(max_new_tokens=16)
DIALOGUE = [Message("system", "Be kind."), Message("user", "Hello")]


def choice(**more: Any) -> ModelChoice:
    return ModelChoice(patience=Patience(attempts=4, seconds=20, timeout=5), **more)


async def test_a_raw_prompt_goes_over_the_wire_as_it_is() -> None:
    prompt = "[INST] <<SYS>>\nü\n<</SYS>>\n\n {x} [/INST] "
    async with (
        scripted_server(tgi(lambda _: said("Hi"))) as server,
        open_model(choice(), [server.url]) as model,
    ):
        generation = await model.generate(prompt, GREEDY, 5)
        assert (generation.text, generation.finish_reason, generation.generated_tokens) == (
            "Hi",
            "eos_token",
            3,
        )
        assert server.bodies("/generate") == [
            {"inputs": prompt, "parameters": {"max_new_tokens": 16, "details": True, "do_sample": False}}
        ]
        assert (model.name, model.limits, model.facts.concurrency) == ("m", Limits(99, 100), 7)


async def test_sampling_sends_the_seed_and_greedy_none() -> None:
    async with (
        scripted_server(tgi(lambda _: said("Hi"))) as server,
        open_model(choice(), [server.url]) as model,
    ):
        decoding = Decoding(max_new_tokens=4, temperature=0.7, top_p=0.9, stop=("\n",), truncate=50)
        await model.generate("x", decoding, 12345)
        assert server.bodies("/generate")[0]["parameters"] == {
            "max_new_tokens": 4,
            "details": True,
            "do_sample": True,
            "temperature": 0.7,
            "seed": 12345,
            "top_p": 0.9,
            "stop": ["\n"],
            "truncate": 50,
        }


async def test_messages_become_the_named_template() -> None:
    async with scripted_server(tgi(lambda _: said("Hi"))) as server:
        async with open_model(choice(template="llama-2"), [server.url]) as model:
            await model.generate(DIALOGUE, GREEDY, 0)
        expected = "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHello [/INST]"
        assert server.bodies("/generate")[0]["inputs"] == expected


async def test_a_server_without_a_chat_route_is_found_out_before_any_episode() -> None:
    async with (
        scripted_server(tgi(lambda _: said("Hi"))) as server,
        open_model(choice(), [server.url]) as model,
    ):
        with pytest.raises(RequirementError, match=r"choose a --template \(llama-2"):
            await model.check_template()


async def test_a_stop_string_is_left_out_whatever_the_server_does() -> None:
    handler = tgi(lambda _: said("one\n", "stop_sequence"))
    async with scripted_server(handler) as server, open_model(choice(), [server.url]) as model:
        decoding = Decoding(max_new_tokens=4, stop=("\n",))
        assert (await model.generate("x", decoding, 0)).text == "one"


FAILURES: list[Reply] = [
    (500, {"error": "ill"}),
    (503, None),
    (429, {"error": "Model is overloaded"}, {"Retry-After": "0"}),
    (424, {"error": "Request failed during generation", "error_type": "generation"}),
    (200, {"error": "no text"}),
    (200, {"generated_text": None, "details": {"finish_reason": "length", "generated_tokens": 1}}),
    (200, []),
]


@pytest.mark.parametrize("failure", FAILURES, ids=str)
async def test_an_error_is_asked_again_and_never_an_answer(failure: Reply) -> None:
    replies = [failure, said("right")]
    async with (
        scripted_server(tgi(lambda _: replies.pop(0))) as server,
        open_model(choice(), [server.url]) as model,
    ):
        assert (await model.generate("x", GREEDY, 0)).text == "right"
        assert model.pool.traffic.retries == 1
    async with scripted_server(tgi(lambda _: failure)) as server, open_model(choice(), [server.url]) as model:
        with pytest.raises(ModelError, match="no answer to POST /generate after 4 attempts"):
            await model.generate("x", GREEDY, 0)


async def test_a_refusal_is_not_asked_again() -> None:
    async with scripted_server(tgi(lambda _: (422, {"error": "`top_p` must be > 0.0"}))) as server:
        async with open_model(choice(), [server.url]) as model:
            with pytest.raises(RefusedError, match="top_p"):
                await model.generate("x", GREEDY, 0)
        assert len(server.bodies("/generate")) == 1


async def test_a_reply_gets_the_room_that_the_prompt_leaves() -> None:
    def answer(body: Any) -> Reply:
        if (wanted := body["parameters"]["max_new_tokens"]) > 10:
            return 422, {"error": _TOO_LONG.format(90, wanted), "error_type": "validation"}
        return said("short")

    async with scripted_server(tgi(answer)) as server, open_model(choice(), [server.url]) as model:
        assert (await model.generate("x", GREEDY, 0)).text == "short"
        assert server.bodies("/generate")[-1]["parameters"]["max_new_tokens"] == 10


_LONG = "maximum context length is 100 tokens"


@pytest.mark.parametrize(
    "message",
    [
        _TOO_LONG.format(90, 16).replace("`inputs`", "`messages`").replace("max_new_tokens", "max_tokens"),
        _TOO_LONG.format(90, 16).replace("`inputs`", "`prompt`").replace("max_new_tokens", "max_tokens"),
        f"This model's {_LONG}. However, you requested 106 tokens (90 in the messages, 16 in the completion).",
        f"'max_tokens' is too large: 16. This model's {_LONG} and your request has 90 input tokens.",
        f"This model's {_LONG}. You requested 16 and your prompt contains at least 90 input tokens, in all 106.",
    ],
)
async def test_a_reply_gets_its_room_whatever_the_server_calls_it(message: str) -> None:
    replies = [(422, {"error": message}), said("short")]
    handler = tgi(lambda _: replies.pop(0))
    async with scripted_server(handler) as server, open_model(choice(), [server.url]) as model:
        assert (await model.generate("x", GREEDY, 0)).text == "short"
        assert server.bodies("/generate")[-1]["parameters"]["max_new_tokens"] == 10


@pytest.mark.parametrize(
    "message",
    [
        "`temperature` must be <= 2.0",
        "`min_new_tokens` must be <= `max_new_tokens`. Given: 5 and 4",
        "`max_new_tokens` must be <= 512. Given: 4096",
        "max_tokens 4096 exceeds the maximum of 2048 that this server allows",
        "the name is longer than 64 characters",
        "Number of prompts exceeds the maximum allowed batch size of 4",
    ],
)
async def test_another_refusal_is_no_limit_of_the_models(message: str) -> None:
    handler = tgi(lambda _: (422, {"error": message}))
    async with scripted_server(handler) as server, open_model(choice(), [server.url]) as model:
        with pytest.raises(RefusedError):
            await model.generate("x", GREEDY, 0)


@pytest.mark.parametrize(
    "message",
    [
        _TOO_LONG.format(190, 16),
        "the request exceeds the available context size. try increasing it",
        "The input (190 tokens) is longer than the model's context length (100 tokens).",
        "Input validation error: `inputs` must have less than 99 tokens. Given: 190",
        "This model's maximum context length is 100 tokens. You requested 206 tokens (190 in the messages, 16 in it)",
    ],
)
async def test_a_prompt_that_does_not_fit_is_the_episodes_limit(message: str) -> None:
    handler = tgi(lambda _: (422, {"error": message}))
    async with scripted_server(handler) as server, open_model(choice(), [server.url]) as model:
        with pytest.raises(LimitReached, match="does not fit"):
            await model.generate("x", GREEDY, 0)


def _openai(reply: Reply) -> Any:
    def handle(method: str, path: str, body: Any) -> Reply:
        if path == "/v1/models":
            return 200, {"data": [{"id": "gpt"}]}
        return reply if path.startswith("/v1/") else (404, None)

    return handle


async def test_openais_routes() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    body = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": usage}
    async with scripted_server(_openai((200, body))) as server:
        async with open_model(choice(api_key="k"), [server.url]) as model:
            generation = await model.generate(DIALOGUE, Decoding(max_new_tokens=4, temperature=1.0), 9)
        assert (generation.text, generation.finish_reason, generation.prompt_tokens) == ("Hi", "eos_token", 7)
        assert server.bodies("/v1/chat/completions") == [
            {
                "model": "gpt",
                "max_tokens": 4,
                "temperature": 1.0,
                "seed": 9,
                "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
            }
        ]


async def test_what_openais_routes_cannot_do_is_said() -> None:
    async with scripted_server(_openai((200, {}))) as server, open_model(choice(), [server.url]) as model:
        with pytest.raises(UnsupportedError, match="choose a --template"):
            await model.score(DIALOGUE, [" A"])
        with pytest.raises(UnsupportedError, match="count no tokens"):
            await model.count_prompt_tokens("x")


async def test_scores_come_from_the_last_token_of_each_continuation() -> None:
    def answer(body: Any) -> Reply:
        value = {"A": -1.0, "B": -0.5}[body["inputs"][-1]]
        prefill = [{"id": 1, "text": "x", "logprob": None}, {"id": 2, "text": "y", "logprob": value}]
        return 200, {"generated_text": "", "details": {"prefill": prefill}}

    async with scripted_server(tgi(answer)) as server, open_model(choice(), [server.url]) as model:
        assert await model.score("Answer:", [" A", " B"]) == [-1.0, -0.5]
        assert [body["inputs"] for body in server.bodies("/generate")] == ["Answer: A", "Answer: B"]


async def test_a_server_without_prompt_scores_is_told_apart() -> None:
    async with (
        scripted_server(tgi(lambda _: said("x"))) as server,
        open_model(choice(), [server.url]) as model,
    ):
        with pytest.raises(UnsupportedError, match="scores no prompts"):
            await model.score("Answer:", [" A"])


async def test_only_greedy_calls_to_known_weights_are_kept(tmp_path: Path) -> None:
    async def ask(sha: str | None, temperature: float, prompt: str = "x") -> int:
        """How many of two equal requests reach the server."""
        async with scripted_server(tgi(lambda _: said("Hi"), model_sha=sha)) as server:
            cache = CallCache(tmp_path / "calls.sqlite")
            pool = Pool([server.url])
            model = await connect(pool, cache=cache)
            for _ in range(2):
                assert (
                    await model.generate(prompt, Decoding(max_new_tokens=4, temperature=temperature), 1)
                ).text == "Hi"
            await pool.close()
            cache.close()
            return len(server.bodies("/generate"))

    assert await ask("a", 0.0) == 1
    assert await ask("a", 0.0) == 0, "kept from one run to the next"
    assert await ask("b", 0.0) == 1, "other weights"
    assert await ask("a", 0.0, "y") == 1, "another prompt"
    assert await ask("a", 0.7) == 2, "sampled"
    assert await ask(None, 0.0) == 2, "weights that nobody knows"


async def test_answers_of_a_server_that_runs_already_are_kept_only_under_a_name_for_its_weights(
    tmp_path: Path,
) -> None:
    async def ask(weights: str | None) -> tuple[int, str | None]:
        # It tells a commit; with which flags it serves that, and whether it was given other weights since, it does not.
        async with scripted_server(tgi(lambda _: said("Hi"), model_sha="a")) as server:
            made = choice(urls=(server.url,), weights=weights, cache_directory=tmp_path)
            with served_urls(made) as (urls, digest):
                async with open_model(made, urls, digest) as model:
                    await model.generate("x", GREEDY, 0)
            return len(server.bodies("/generate")), model.facts.weights

    assert [await ask(None), await ask(None)] == [(1, "a"), (1, "a")]
    assert [await ask("a, fp8"), await ask("a, fp8"), await ask("a")] == [
        (1, "a, fp8"),
        (0, "a, fp8"),
        (1, "a"),
    ]
    for wrong in ({"weights": "a"}, {"weights": " ", "urls": ("http://h",)}):
        with pytest.raises(ConfigError, match="--weights is for servers that run already"):
            choice(**wrong)


async def test_a_cache_that_cannot_be_written_costs_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = CallCache(tmp_path / "calls.sqlite")
    cache._connection.execute("drop table calls")
    cache._written -= 60
    await cache.put({"a": 1}, {"b": 2})
    await cache.put({"a": 2}, {"b": 3})
    cache.close()
    assert caplog.text.count("answers are not kept from here on") == 1


async def test_servers_of_different_models_are_refused() -> None:
    async with (
        scripted_server(tgi(lambda _: said("x"))) as one,
        scripted_server(tgi(lambda _: said("x"), model_id="n")) as two,
    ):
        with pytest.raises(ModelError, match="different models"):
            async with open_model(choice(), [one.url, two.url]):
                pass


async def test_a_server_that_is_not_there_is_named(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool(["http://127.0.0.1:9"])
    with pytest.raises(ModelError, match=r"no healthy server at http://127.0.0.1:9 \(ConnectionRefusedError"):
        await connect(pool, wait=0.6)
    await pool.close()
    # At once, and once.
    assert caplog.text.count("waiting up to 0.6 s for http://127.0.0.1:9 (ConnectionRefusedError") == 1


async def test_below_the_command_line_the_environments_proxies_are_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with (
        scripted_server(tgi(lambda _: said("Hi"))) as server,
        open_model(choice(), [server.url]) as model,
    ):
        assert (await model.generate("x", GREEDY, 0)).text == "Hi"


def test_ports_and_ranges() -> None:
    assert port_urls("127.0.0.1", ["30070"]) == ["http://127.0.0.1:30070"]
    assert port_urls("http://h", ["1-3", "5"]) == [f"http://h:{port}" for port in (1, 2, 3, 5)]
    for wrong in ("0", "70000", "5-3", "x", "1-", ""):
        with pytest.raises(ConfigError, match="must be a number from 1 to 65535"):
            port_urls("h", [wrong])


def test_urls_are_checked() -> None:
    for wrong in ("localhost:80", "ftp://x", "http://"):
        with pytest.raises(ConfigError, match="must be http://HOST:PORT"):
            Pool([wrong])
    for twice in ("http://a", "http://a/", "http://A:80", "http://a/v1"):
        with pytest.raises(ConfigError, match="named twice"):
            Pool(["http://a", twice])
    assert len(Pool(["http://a", "https://a", "http://a:81", "http://a/b"]).endpoints) == 4
    with pytest.raises(ConfigError, match="no server was given"):
        Pool([])


@pytest.mark.parametrize(
    ("changes", "said_"),
    [
        ({"max_new_tokens": 0}, "at least 1"),
        ({"max_new_tokens": 1, "temperature": -1.0}, "0 .the likeliest"),
        ({"max_new_tokens": 1, "top_p": 0.0}, r"\(0, 1\]"),
    ],
)
def test_decoding_is_checked(changes: dict[str, Any], said_: str) -> None:
    with pytest.raises(ConfigError, match=said_):
        Decoding(**changes)


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_server_that_ends_the_open_turn_is_found_out(goes_on: bool) -> None:
    def handle(method: str, path: str, body: Any) -> Reply:
        if path == "/chat_tokenize":
            end = "" if goes_on else "</s><s>[INST]"
            rows = [
                {"id": 1, "text": "<s>", "start": 0, "stop": 3},
                {"id": 2, "text": "x", "start": 3, "stop": 4},
            ]
            return 200, {"templated_text": f"<s>[INST] Hello [/INST] Answer:{end}", "tokenize_response": rows}
        prefill = [{"id": 2, "text": "y", "logprob": -1.0}]
        return tgi(lambda _: (200, {"generated_text": "", "details": {"prefill": prefill}}))(
            method, path, body
        )

    prompt = [Message("user", "Hello"), Message("assistant", "Answer:")]
    async with scripted_server(handle) as server, open_model(choice(), [server.url]) as model:
        if goes_on:
            assert await model.score(prompt, [" A"]) == [-1.0]
            # The tokenizer puts the first token itself.
            assert server.bodies("/generate")[0]["inputs"] == "[INST] Hello [/INST] Answer: A"
        else:
            with pytest.raises(UnsupportedError, match="choose a --template"):
                await model.score(prompt, [" A"])


async def test_half_a_character_is_none() -> None:
    handler = tgi(lambda _: said("a\ud800b \ud83d\ude00"))
    async with scripted_server(handler) as server, open_model(choice(), [server.url]) as model:
        assert (await model.generate("x\ud800", GREEDY, 0)).text == "a\ufffdb \U0001f600"
        assert server.bodies("/generate")[-1]["inputs"] == "x?"


def _several(*ids: str) -> Any:
    body = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": {}}

    def handle(method: str, path: str, asked: Any) -> Reply:
        if path == "/v1/models":
            return 200, {"data": [{"id": one} for one in ids]}
        return (200, body) if path.startswith("/v1/") else (404, None)

    return handle


async def test_a_model_is_asked_for_by_the_name_that_its_server_lists() -> None:
    async with scripted_server(_several("meta/other", "meta/llama")) as server:
        async with open_model(choice(model="meta/llama"), [server.url]) as model:
            await model.generate(DIALOGUE, GREEDY, 0)
            assert model.name == "llama"
        assert server.bodies("/v1/chat/completions")[-1]["model"] == "meta/llama"
        with pytest.raises(
            ConfigError, match=r"several models.* 'llama': it must be one of meta/other, meta/llama"
        ):
            async with open_model(choice(model="llama"), [server.url]):
                pass
    async with scripted_server(_several("meta/llama")) as server:
        # A name of our own for the only one there is.
        async with open_model(choice(model="mine"), [server.url]) as model:
            await model.generate(DIALOGUE, GREEDY, 0)
            assert model.name == "mine"
        assert server.bodies("/v1/chat/completions")[-1]["model"] == "meta/llama"


async def test_an_adapter_is_asked_for_on_every_route_and_never_cached_as_its_base() -> None:
    inner = tgi(lambda _: said("Hi"), model_sha="a")

    def handle(method: str, path: str, body: Any) -> Reply:
        if path == "/v1/models":
            return 200, {"data": [{"id": "m"}, {"id": "mine"}]}
        return inner(method, path, body)

    async with scripted_server(handle) as server:
        async with open_model(choice(model="mine"), [server.url]) as model:
            await model.generate("x", GREEDY, 0)
            assert (model.name, model.facts.weights) == ("mine", None)
        assert server.bodies("/generate")[-1]["parameters"]["adapter_id"] == "mine"
        async with open_model(choice(), [server.url]) as model:
            await model.generate("x", GREEDY, 0)
            assert (model.name, model.facts.weights) == ("m", "a")
        assert "adapter_id" not in server.bodies("/generate")[-1]["parameters"]


async def test_a_servers_flags_are_in_the_caches_key(tmp_path: Path) -> None:
    async def ask(*flags: str) -> int:
        async with scripted_server(tgi(lambda _: said("Hi"), model_sha="a")) as server:
            made = ModelChoice(serve_arguments=flags, cache_directory=tmp_path)
            async with open_model(made, [server.url]) as model:
                await model.generate("x", GREEDY, 0)
            return len(server.bodies("/generate"))

    assert [await ask(), await ask(), await ask("--dtype=float32")] == [1, 0, 1]
