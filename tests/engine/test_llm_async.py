"""`LLM` inside an event loop: many at once, streams, cancellation, several loops."""

import asyncio
import gc

import pytest

from agentlm import LLM, SamplingParams
from agentlm.errors import EngineClosedError, InvalidRequestError
from agentlm.events import LoopMailbox
from tests.model.small import make_small


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    model = make_small(tmp_path_factory.mktemp("cache"))
    with LLM(model, backend="mock", mock_step_time=0.002, progress=False) as llm:
        yield llm


async def idle(llm: LLM) -> None:
    for _ in range(1000):
        stats = llm.stats()
        if stats["unfinished"] == stats["blocks_held"] == 0:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"the engine still holds requests: {llm.stats()}")


LONG = SamplingParams(max_new_tokens=3000, ignore_eos=True)


def test_many_at_once_answer_as_one_by_one(llm):
    params = SamplingParams(max_new_tokens=10, ignore_eos=True)
    prompts = [[4 + i, 50, 60] for i in range(200)]

    async def run():
        return await asyncio.gather(*(llm.agenerate(prompt, params) for prompt in prompts))

    expected = [one.token_ids for one in llm.generate(prompts, params)]
    assert [one.token_ids for one in asyncio.run(run())] == expected


def test_a_stream_is_the_completion(llm):
    params = SamplingParams(max_new_tokens=40, top_n_tokens=1)

    async def run():
        return [chunk async for chunk in llm.astream("some text", params)]

    chunks = asyncio.run(run())
    assert "".join(chunk.text for chunk in chunks) == chunks[-1].completion.text
    assert chunks[-1].completion.token_ids == llm.generate("some text", params)[0].token_ids


def test_a_loop_is_woken_for_events_and_for_nothing_else(llm, monkeypatch):
    woken = []

    def deliver(box, real=LoopMailbox._deliver):
        woken.append(None)
        real(box)

    monkeypatch.setattr(LoopMailbox, "_deliver", deliver)

    async def run():
        return [chunk async for chunk in llm.astream("x", SamplingParams(max_new_tokens=20, ignore_eos=True))]

    assert len(asyncio.run(run())) == 20
    assert 1 <= len(woken) <= 20


def test_the_loop_runs_while_requests_do(llm):
    async def run():
        ticks = 0
        task = asyncio.create_task(llm.agenerate("x", SamplingParams(max_new_tokens=50, ignore_eos=True)))
        while not task.done():
            ticks += 1
            await asyncio.sleep(0)
        return ticks

    assert asyncio.run(run()) > 10


def test_cancelling_aborts(llm):
    async def run():
        tasks = [asyncio.create_task(llm.agenerate([5, 6], LONG)) for _ in range(10)]
        await asyncio.sleep(0.05)
        assert llm.stats()["unfinished"] == 10
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        await idle(llm)

    asyncio.run(run())


def test_leaving_a_stream_early_aborts(llm):
    async def run():
        async for chunk in llm.astream([5, 6], LONG):
            assert chunk.index == 1
            break
        gc.collect()
        await idle(llm)
        stream = llm.astream([5, 6], LONG)
        await anext(stream)
        await stream.aclose()
        await idle(llm)

    asyncio.run(run())


def test_a_timeout_aborts(llm):
    async def run():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(llm.agenerate([5, 6], LONG), 0.1)
        await idle(llm)

    asyncio.run(run())


def test_a_refusal_is_raised_where_it_is_awaited(llm):
    async def run():
        good = asyncio.create_task(llm.agenerate([5, 6], SamplingParams(max_new_tokens=5)))
        with pytest.raises(InvalidRequestError):
            await llm.agenerate([5] * 9999)
        with pytest.raises(InvalidRequestError):
            async for _ in llm.astream([]):
                pass
        return await good

    assert len(asyncio.run(run()).token_ids) == 5


def test_each_loop_has_its_own_events(llm):
    async def run(first: int):
        return (await llm.agenerate([first, 7], SamplingParams(max_new_tokens=5))).token_ids

    params = SamplingParams(max_new_tokens=5)
    for first in range(5, 15):
        assert asyncio.run(run(first)) == llm.generate([[first, 7]], params)[0].token_ids


def test_closing_ends_what_is_awaited(tmp_path):
    llm = LLM(make_small(tmp_path), backend="mock", mock_step_time=0.002, progress=False)

    async def run():
        task = asyncio.create_task(llm.agenerate([5, 6], LONG))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(llm.close)
        with pytest.raises(EngineClosedError):
            await task
        with pytest.raises(EngineClosedError):
            await llm.agenerate("x")

    asyncio.run(run())
