"""`LLM` from Python: order, text, log-probabilities, stop strings, seeds, streaming, closing, whole processes."""

import asyncio
import gc
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agentlm import LLM, EngineConfig, SamplingParams
from agentlm.errors import (
    AdapterError,
    AgentLMError,
    ConfigError,
    EngineClosedError,
    EngineFailedError,
    InvalidRequestError,
    NoChatTemplateError,
)
from tests.engine.idle import SECONDS, wait_for, wait_idle
from tests.model.small import make_small


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_small(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def mock(model):
    with LLM(model, backend="mock", mock_step_time=0.002, progress=False) as llm:
        yield llm


@pytest.fixture(scope="module")
def cpu(model):
    with LLM(model, threads=1, max_total_tokens=512, max_batch_size=16, progress=False) as llm:
        yield llm


@pytest.mark.parametrize("engine", ["mock", "cpu"])
def test_completions_come_in_the_prompts_order(engine, request):
    llm = request.getfixturevalue(engine)
    prompts = [[5 + i, 6, 7] for i in range(20)]
    lengths = [1 + (7 * i) % 13 for i in range(20)]
    params = [SamplingParams(max_new_tokens=length, ignore_eos=True) for length in lengths]
    together = llm.generate(prompts, params)
    assert [len(completion.token_ids) for completion in together] == lengths
    alone = [llm.generate([prompt], one)[0] for prompt, one in zip(prompts, params, strict=True)]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert [one.usage.prompt_tokens for one in together] == [3] * 20


@pytest.mark.parametrize("engine", ["mock", "cpu"])
def test_the_text_is_the_tokens_decoded(engine, request):
    llm = request.getfixturevalue(engine)
    prompts = ["a short prompt", "another", "Grüße, 東京 🙂"]
    for prompt, completion in zip(
        prompts, llm.generate(prompts, SamplingParams(max_new_tokens=30)), strict=True
    ):
        before = llm.tokenize(prompt)
        whole = llm.detokenize([*before, *completion.token_ids])
        assert whole == llm.detokenize(before) + completion.text


def test_log_probabilities_come_only_when_asked_for(cpu):
    plain, asked, top = cpu.generate(
        [[5, 6, 7]] * 3,
        [
            SamplingParams(max_new_tokens=6),
            SamplingParams(max_new_tokens=6, logprobs=True),
            SamplingParams(max_new_tokens=6, top_n_tokens=3),
        ],
    )
    assert plain.logprobs is None
    assert plain.top_logprobs is None
    assert asked.logprobs is not None
    assert asked.top_logprobs is None
    assert len(asked.logprobs) == len(asked.token_ids)
    assert all(-50 < value <= 0 for value in asked.logprobs)
    assert top.logprobs == asked.logprobs
    for token, logprob, best in zip(top.token_ids, top.logprobs, top.top_logprobs, strict=True):
        assert len(best) == 3
        assert best[0] == (token, logprob)
        assert [value for _, value in best] == sorted((value for _, value in best), reverse=True)
        assert sum(math.exp(value) for _, value in best) <= 1 + 1e-5


@pytest.mark.parametrize("engine", ["mock", "cpu"])
def test_a_stop_string_ends_the_text_before_it(engine, request):
    llm = request.getfixturevalue(engine)
    whole = llm.generate([[9, 8, 7]], SamplingParams(max_new_tokens=40, ignore_eos=True))[0].text
    stop = whole[11:14]
    [stopped] = llm.generate(
        [[9, 8, 7]], SamplingParams(max_new_tokens=40, ignore_eos=True, stop=("\0none", stop))
    )
    assert stopped.finish_reason == "stop_sequence"
    assert stopped.stop == stop
    assert stopped.text == whole[: whole.index(stop)]


def test_a_seed_repeats_and_no_seed_does_not(cpu):
    def texts(seed):
        params = SamplingParams(max_new_tokens=24, temperature=1.0, seed=seed, ignore_eos=True)
        return [one.token_ids for one in cpu.generate([[5, 6], [7, 8]], params)]

    assert texts(11) == texts(11)
    assert texts(11) != texts(12)
    assert texts(None) != texts(None)


@pytest.mark.parametrize("engine", ["mock", "cpu"])
def test_streamed_chunks_are_the_completion(engine, request):
    llm = request.getfixturevalue(engine)
    params = SamplingParams(max_new_tokens=25, top_n_tokens=2)
    chunks = list(llm.stream("stream this", params))
    [whole] = llm.generate("stream this", params)
    end = chunks[-1].completion
    assert [chunk.completion for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert end is not None
    assert (end.text, end.token_ids) == (whole.text, whole.token_ids)
    assert "".join(chunk.text for chunk in chunks) == end.text
    assert [chunk.index for chunk in chunks] == list(range(1, len(chunks) + 1))
    assert tuple(chunk.token_id for chunk in chunks) == end.token_ids
    assert tuple(chunk.top_logprobs for chunk in chunks) == end.top_logprobs


def test_a_step_longer_than_the_poll_streams_all_the_same(model):
    with LLM(model, backend="mock", mock_step_time=0.25, progress=False) as llm:
        chunks = list(llm.stream("slow", SamplingParams(max_new_tokens=3)))
    assert [chunk.index for chunk in chunks] == [1, 2, 3]


def test_a_dropped_iterator_frees_its_request(mock):
    total = wait_idle(mock)["blocks_free"] + wait_idle(mock)["blocks_cached"]
    chunks = mock.stream("drop me", SamplingParams(max_new_tokens=3000, ignore_eos=True))
    assert next(chunks).index == 1
    assert mock.stats()["unfinished"] == 1
    del chunks
    gc.collect()
    idle = wait_idle(mock)
    assert idle["blocks_free"] + idle["blocks_cached"] == total


def test_threads_share_one_engine(mock):
    prompts = [[10 + i, 20, 30] for i in range(8)]
    params = SamplingParams(max_new_tokens=12, ignore_eos=True)
    expected = [one.token_ids for one in mock.generate(prompts, params)]
    answers: dict[int, list] = {}

    def call(index: int) -> None:
        answers[index] = [mock.generate([prompts[index]], params)[0].token_ids for _ in range(5)]

    threads = [threading.Thread(target=call, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert answers == {index: [expected[index]] * 5 for index in range(8)}
    wait_idle(mock)


def test_the_mocks_tokens_depend_on_their_position(mock):
    """Or a text would go round as soon as an id comes again."""
    first, second = (
        mock.generate([[1] * n], SamplingParams(max_new_tokens=1, ignore_eos=True))[0] for n in (3, 4)
    )
    assert first.token_ids != second.token_ids


def test_an_empty_batch_has_no_completions(mock):
    assert mock.generate([]) == []
    assert mock.chat([]) == []


def test_prompts_may_be_arrays_of_ids(mock):
    numpy = pytest.importorskip("numpy")
    params = SamplingParams(max_new_tokens=4)
    [array] = mock.generate([numpy.array([5, 6, 7])], params)
    [listed] = mock.generate([5, 6, 7], params)
    assert array.token_ids == listed.token_ids


@pytest.mark.parametrize(
    ("prompt", "params", "named"),
    [
        ([5, 6], SamplingParams(top_n_tokens=6), ["top_n_tokens", "5", "6"]),
        ([5, 6], SamplingParams(stop=tuple("abcde")), ["stop", "4", "5"]),
        ([5] * 512, SamplingParams(max_new_tokens=1), ["512", "1"]),
        ([5] * 500, SamplingParams(max_new_tokens=100), ["500", "100", "512"]),
        ([], SamplingParams(), ["inputs"]),
        ([5, -1], SamplingParams(), ["token ids", "-1"]),
        ([5, 2**40], SamplingParams(), ["token ids", str(2**40)]),
        ([5, 2**31], SamplingParams(), [str(2**31)]),
        (["a", 5], SamplingParams(), ["token ids", "'a'"]),
        (7, SamplingParams(), ["text or a sequence", "7"]),
    ],
    ids=lambda value: None,
)
def test_a_prompt_that_the_engine_cannot_take_is_refused_with_numbers(cpu, prompt, params, named):
    with pytest.raises(InvalidRequestError) as caught:
        next(cpu.stream(prompt, params))
    for word in named:
        assert word in str(caught.value)


def test_new_tokens_that_nobody_named_end_with_the_context(cpu):
    unnamed, prompt = SamplingParams(ignore_eos=True), [5] * 500
    counts = [cpu.generate(ids, unnamed)[0].usage.completion_tokens for ids in ([5] * 256, [5] * 257, prompt)]
    assert counts == [256, 255, 12]
    assert len(list(cpu.stream(prompt, replace(unnamed, logprobs=True)))) == 12
    assert cpu.generate(prompt, replace(unnamed, max_new_tokens=None))[0].usage.completion_tokens == 12
    with pytest.raises(InvalidRequestError, match=r"<= 512\. Given: 500 .* 256 "):
        cpu.generate(prompt, replace(unnamed, max_new_tokens=256))
    with pytest.raises(InvalidRequestError, match="512"):
        cpu.generate([5] * 512, unnamed)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda llm: llm.generate(b"abc"), "text or a sequence of token ids"),
        (lambda llm: llm.generate(7), "text or a sequence of token ids"),
        (lambda llm: llm.generate("a", {"max_new_tokens": 5}), "must be SamplingParams"),
        (lambda llm: llm.generate(["a"], [{"max_new_tokens": 5}]), "must be SamplingParams"),
        (lambda llm: llm.generate("a", 5), "must be SamplingParams"),
        (lambda llm: llm.generate("half \ud83d"), "lone surrogate"),
        (lambda llm: next(llm.stream("a", 5)), "must be SamplingParams. Given: 5"),
        (lambda llm: next(llm.stream("a", 0)), "must be SamplingParams. Given: 0"),
        (lambda llm: asyncio.run(llm.agenerate("a", [SamplingParams()])), "must be SamplingParams"),
        (lambda llm: asyncio.run(anext(llm.astream("a", 5))), "must be SamplingParams. Given: 5"),
        (lambda llm: llm.tokenize(5), "must be text. Given: 5"),
        (lambda llm: llm.detokenize([-1]), "from 0 to the vocabulary's last. Given: -1"),
        (lambda llm: llm.detokenize([2**40]), "from 0 to the vocabulary's last"),
        (lambda llm: llm.detokenize(5), "a sequence of integers. Given: 5"),
        (lambda llm: llm.detokenize("abc"), "a sequence of integers. Given: 'abc'"),
        (lambda llm: llm.generate([10**5000]), "type int, too large"),
    ],
)
def test_a_first_mistake_is_told(mock, call, text):
    with pytest.raises(InvalidRequestError, match=text):
        call(mock)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda llm: next(llm.stream("a", adapter=5)), AdapterError, "no adapter is called 5"),
        (lambda llm: asyncio.run(llm.agenerate("a", adapter=[])), AdapterError, "no adapter is called"),
        (lambda llm: llm.unload_adapter(5), AdapterError, "no adapter is called 5"),
        (lambda llm: llm.load_adapter(5, "x"), AdapterError, "name must be text.* Given: 5"),
        (lambda llm: llm.sleep(timeout="5"), ConfigError, "`timeout` must be seconds.* Given: '5'"),
        (lambda llm: llm.sleep(timeout=math.nan), ConfigError, "`timeout` must be seconds.* Given: nan"),
        (lambda llm: llm.reload_weights(timeout=-1), ConfigError, "`timeout` must be seconds.* Given: -1"),
        (lambda llm: llm.sleep(timeout=10**400), ConfigError, "`timeout` must be seconds"),
    ],
)
def test_what_no_adapter_and_no_time_can_be_is_told(mock, call, error, text):
    with pytest.raises(error, match=text):
        call(mock)


@pytest.mark.parametrize("given", [5, True, b"mine.jinja"])
def test_a_chat_template_that_is_no_path_is_told(model, given):
    with pytest.raises(NoChatTemplateError, match=f"`chat_template` must be a file.* Given: {given}"):
        LLM(model, backend="mock", chat_template=given)


@pytest.mark.parametrize("tokens", [2**24 + 1, 999_999_999])
def test_a_context_beyond_the_mock_backend_s_is_refused(model, tokens):
    with pytest.raises(ConfigError, match=f"must be at most {2**24} with the mock backend. Given: {tokens}"):
        LLM(model, backend="mock", max_total_tokens=tokens)


def test_a_long_context_of_the_mock_backend_takes_no_pool_for_every_row(model):
    with LLM(model, backend="mock", max_total_tokens=2**24, mock_step_time=0, progress=False) as llm:
        assert llm.info.num_blocks == 2**20
        assert len(llm.generate("hello", SamplingParams(max_new_tokens=2))) == 1


@pytest.mark.parametrize("settings", [None, [("threads", 1)]])
def test_settings_that_are_no_mapping_are_refused(settings):
    with pytest.raises(ConfigError, match="settings must be a mapping"):
        EngineConfig.from_dict(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"dtyp": "float32"},
        {"dtype": "int3"},
        {"backend": "tpu"},
        {"threads": 0},
        {"threads": 10**5000},
        {"max_batch_size": "many"},
        {"step_timeout": 0},
        {"step_timeout": "soon"},
        {"prefix_cache": 1},
        {"cuda_graphs": 4},
        {"cuda_graphs": (0,)},
        {"cache_dir": 5},
        {"revision": 1},
        {"token": b"hf"},
        {"max_input_tokens": 10, "max_total_tokens": 10},
    ],
)
def test_a_wrong_setting_is_refused_by_name(model, settings):
    with pytest.raises(ConfigError) as caught:
        LLM(model, **settings)
    assert next(iter(settings)) in str(caught.value)


@pytest.mark.parametrize("shown", [True, False])
def test_a_download_shows_itself_where_loading_does(model, monkeypatch, shown):
    asked = []

    def resolve(name, *, progress, **_):
        asked.append((name, progress))
        return model

    monkeypatch.setattr("agentlm.model.hub.resolve", resolve)
    LLM("me/real", backend="mock", progress=shown).close()
    assert asked == [("me/real", shown)]


def test_a_closed_engine_says_so(model):
    llm = LLM(model, backend="mock", progress=False)
    llm.close()
    llm.close()
    with pytest.raises(EngineClosedError):
        llm.generate("x")
    with pytest.raises(EngineClosedError):
        next(llm.stream("x"))


def test_closing_ends_what_is_unfinished(model):
    llm = LLM(model, backend="mock", mock_step_time=0.002, progress=False)
    caught: list[BaseException] = []

    def call() -> None:
        try:
            llm.generate("x", SamplingParams(max_new_tokens=4000, ignore_eos=True))
        except AgentLMError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait_for(llm, "running")
    llm.close()
    thread.join(SECONDS)
    assert [type(error) for error in caught] == [EngineClosedError]


def test_closing_frees_the_weights_and_the_cache(model):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").exists():
        pytest.skip("resident memory is read from /proc")
    after = []
    for _ in range(6):
        llm = LLM(model, threads=1, max_total_tokens=256, kv_cache_memory=64 << 20, progress=False)
        llm.generate([[5] * 200], SamplingParams(max_new_tokens=2))
        llm.close()
        del llm
        gc.collect()
        after.append(resident())
    # An engine that stayed would keep its weights (about 8 MB) and its touched cache each time.
    assert after[-1] - after[1] < 16 << 20


def test_an_engine_that_fails_ends_its_requests_and_stays_failed(model):
    from agentlm.runtime import engine as runtime
    from agentlm.runtime.mock import MockStepRunner

    class Broken(MockStepRunner):
        def launch(self, slot: int) -> None:
            raise RuntimeError("the device is on fire")

    original, runtime.MockStepRunner = runtime.MockStepRunner, Broken
    try:
        llm = LLM(model, backend="mock", progress=False)
    finally:
        runtime.MockStepRunner = original
    with llm:
        for _ in range(2):
            with pytest.raises(EngineFailedError, match="the device is on fire"):
                llm.generate("x")
        state, why = llm._running.engine.health()
        assert state == "failed"
        assert "the device is on fire" in (why or "")


def test_a_step_that_hangs_fails_the_engine(model):
    llm = LLM(model, backend="mock", mock_step_time=2.0, step_timeout=0.3, progress=False)
    with llm, pytest.raises(EngineFailedError, match="a step has run for"):
        llm.generate(["x", "y"])


# What a process does as a whole: signals, forks, imports, standard error.


def python(code: str, *arguments: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def test_ctrl_c_stops_a_batch(model):
    import signal

    code = (
        "import sys; from agentlm import LLM, SamplingParams\n"
        "llm = LLM(sys.argv[1], backend='mock', mock_step_time=0.02, progress=False)\n"
        "try:\n"
        "    print('go', flush=True)\n"
        "    llm.generate(['x'] * 4, SamplingParams(max_new_tokens=4000, ignore_eos=True))\n"
        "except KeyboardInterrupt: print('interrupted', flush=True)\n"
        "print(len(llm.generate('y', SamplingParams(max_new_tokens=3))[0].token_ids))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(model)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("interrupted\n3\n", "", 0)


def test_a_forked_process_is_told_so_and_ends(model):
    code = (
        "import os, sys; from agentlm import LLM; from agentlm.errors import ForkError\n"
        "llm = LLM(sys.argv[1], backend='mock', mock_step_time=0.001, progress=False)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: llm.generate('x')\n"
        "    except ForkError as error: print('ForkError', error, flush=True)\n"
        "    llm.close()\n"
        "    sys.exit(7)\n"
        "print('child', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
        "print(len(llm.generate([5])), flush=True)\n"
    )
    ran = python(code, model)
    assert ran.returncode == 0, ran.stderr
    first, second, third = ran.stdout.splitlines()
    assert first.startswith("ForkError")
    assert "spawn" in first
    assert (second, third) == ("child 7", "1")


def test_importing_the_package_loads_nothing_heavy():
    ran = python(
        "import sys, agentlm; agentlm.SamplingParams, agentlm.EngineConfig; dir(agentlm)\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'agentlm._engine') if m in sys.modules])"
    )
    assert ran.stdout == "[]\n", ran.stderr


def test_the_mock_backend_loads_no_numpy_and_the_cpu_backend_no_torch(model):
    code = (
        "import sys; from agentlm import LLM, SamplingParams\n"
        "with LLM(sys.argv[1], backend=sys.argv[2], threads=1, max_total_tokens=128, progress=False) as llm:\n"
        "    llm.generate('x', SamplingParams(max_new_tokens=2))\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    assert python(code, model, "mock").stdout == "[]\n"
    assert python(code, model, "cpu").stdout == "['numpy']\n"


def test_progress_is_shown_on_standard_error_only(model):
    code = (
        "import sys; from agentlm import LLM, SamplingParams\n"
        "with LLM(sys.argv[1], threads=1, max_total_tokens=128, progress=True) as llm:\n"
        "    llm.generate(['x', 'y'], SamplingParams(max_new_tokens=2))\n"
    )
    ran = python(code, model)
    assert (ran.stdout, ran.returncode) == ("", 0)
    assert "loading weights" in ran.stderr
    assert "tokens/s" in ran.stderr
    quiet = python(code.replace("progress=True", "progress=False"), model)
    assert (quiet.stdout, quiet.stderr, quiet.returncode) == ("", "", 0)
