"""How callers come away from an engine: forks, Ctrl-C, steps that hang, a process that was stopped, loops that are gone."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agentlm import LLM, SamplingParams
from agentlm.errors import AgentLMError, EngineFailedError
from tests.engine.idle import SECONDS, wait_for, wait_idle
from tests.model.small import make_small

LONG = SamplingParams(max_new_tokens=3000, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_small(tmp_path_factory.mktemp("cache"))


def start(code: str, *arguments: object) -> subprocess.Popen:
    """A process that has said "go"."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


def test_a_stream_that_was_forked_away_says_so_and_goes_on_where_it_began(model):
    code = (
        "import os, sys; from agentlm import LLM, SamplingParams; from agentlm.errors import ForkError\n"
        "llm = LLM(sys.argv[1], backend='mock', mock_step_time=0.05, progress=False)\n"
        "chunks = llm.stream('x', SamplingParams(max_new_tokens=60, ignore_eos=True))\n"
        "next(chunks); print('go', flush=True)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        for chunk in chunks: pass\n"
        "    except ForkError as error: print('spawn' in str(error), flush=True)\n"
        "    del chunks\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 1 + sum(1 for _ in chunks), flush=True)\n"
    )
    out, err = start(code, model).communicate(timeout=30)
    # Newer Pythons warn of every fork beside threads.
    assert out == "True\n7 60\n"
    assert "Traceback" not in err


def test_ctrl_c_takes_back_what_was_asked_of_the_engine(model):
    code = (
        "import sys, threading; from agentlm import LLM, SamplingParams\n"
        "llm = LLM(sys.argv[1], backend='mock', mock_step_time=0.005, progress=False)\n"
        "done = []\n"
        "def call(): done.extend(llm.generate('x', SamplingParams(max_new_tokens=400, ignore_eos=True)))\n"
        "thread = threading.Thread(target=call); thread.start()\n"
        "while llm.stats()['running'] == 0: pass\n"
        "print('go', flush=True)\n"
        "try: llm.sleep(timeout=600)\n"
        "except KeyboardInterrupt: print('interrupted with', len(done), flush=True)\n"
        "thread.join()\n"
        "print(len(done[0].token_ids), len(llm.generate('y', SamplingParams(max_new_tokens=3))[0].token_ids))\n"
    )
    process = start(code, model)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("interrupted with 0\n400 3\n", "", 0)


def test_who_waits_for_a_control_hears_of_a_step_that_hangs(model):
    llm = LLM(model, backend="mock", mock_step_time=6.0, step_timeout=0.3, progress=False)
    failures: list[BaseException] = []

    def call() -> None:
        try:
            llm.generate("x")
        except AgentLMError as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait_for(llm, "unfinished")
    # It has been counted; now its step begins.
    time.sleep(0.15)
    began = time.monotonic()
    with pytest.raises(EngineFailedError, match="a step has run for"):
        llm.sleep(timeout=600)
    assert time.monotonic() - began < 5
    thread.join(SECONDS)
    assert [type(error) for error in failures] == [EngineFailedError]
    llm.close()


def test_a_reload_that_breaks_the_engine_says_how(model, monkeypatch):
    from agentlm.runtime import engine as runtime
    from agentlm.runtime.mock import MockStepRunner

    class Broken(MockStepRunner):
        def control(self, kind: str, path: str, number: int) -> None:
            raise EngineFailedError(f"the weights in {path} are gone")

    monkeypatch.setattr(runtime, "MockStepRunner", Broken)
    with (
        LLM(model, backend="mock", progress=False) as llm,
        pytest.raises(EngineFailedError, match="the weights in /new are gone"),
    ):
        llm.reload_weights("/new")


def test_a_process_that_was_stopped_did_not_hang(model):
    code = (
        "import sys; from agentlm import LLM, SamplingParams\n"
        "llm = LLM(sys.argv[1], backend='mock', mock_step_time=0.5, step_timeout=1.5, progress=False)\n"
        "print('go', flush=True)\n"
        "print(len(llm.generate('x', SamplingParams(max_new_tokens=3, ignore_eos=True))[0].token_ids), flush=True)\n"
    )
    process = start(code, model)
    time.sleep(0.2)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("3\n", "", 0)


@pytest.mark.parametrize(
    "asked", ["await llm.agenerate('x', LONG)", "async for _ in llm.astream('x', LONG): pass"]
)
def test_a_loop_that_ends_first_takes_its_requests_along(model, asked):
    code = (
        "import asyncio, gc, sys; from agentlm import LLM, SamplingParams\n"
        "LONG = SamplingParams(max_new_tokens=3000, ignore_eos=True)\n"
        "llm = LLM(sys.argv[1], backend='mock', mock_step_time=0.002, progress=False)\n"
        f"async def ask():\n    {asked}\n"
        "def abandon():\n"
        "    loop = asyncio.new_event_loop()\n"
        "    loop.create_task(ask())\n"
        "    loop.run_until_complete(asyncio.sleep(0.1))\n"
        "    print(llm.stats()['unfinished'], flush=True)\n"
        "    loop.close()\n"
        "print('go', flush=True)\n"
        "abandon(); gc.collect()\n"
        "async def again(): return await llm.agenerate('y', SamplingParams(max_new_tokens=3))\n"
        "print(len(asyncio.run(again()).token_ids), llm.stats()['unfinished'])\n"
    )
    process = start(code, model)
    # What asyncio itself says of tasks that are left behind is its business.
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == ("1.0\n3 0.0\n", 0)


def test_a_loop_goes_on_while_a_long_text_is_tokenised(model, monkeypatch):
    threads = []

    def ids(llm, prompt, real=LLM._ids):
        threads.append(threading.current_thread() is threading.main_thread())
        return real(llm, prompt)

    monkeypatch.setattr(LLM, "_ids", ids)
    with LLM(model, backend="mock", mock_step_time=0.001, max_total_tokens=20_000, progress=False) as llm:

        async def run():
            params = SamplingParams(max_new_tokens=2, ignore_eos=True)
            return await asyncio.gather(*(llm.agenerate("word " * n, params) for n in (3, 3000)))

        short, long = asyncio.run(run())
        assert short.usage.prompt_tokens < 30 < 3000 <= long.usage.prompt_tokens
        wait_idle(llm)
    assert sorted(threads) == [False, True]
