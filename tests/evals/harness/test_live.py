"""Runs against real servers: what fails is asked again and changes nothing, what was killed goes on, servers are busy."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from agentlm_evals.errors import ModelError, RunError
from agentlm_evals.harness import journal
from agentlm_evals.harness.plan import RunSettings, plan_task
from agentlm_evals.harness.run import Result, Runner
from agentlm_evals.models.choice import ModelChoice, open_model
from agentlm_evals.models.pool import Patience
from agentlm_evals.outcome import Outcome
from agentlm_evals.protocols import AGENTLM, Protocol
from agentlm_evals.task import Setting, Source, resolve_options
from agentlm_evals.tasks import entry
from tests.evals.proxy import flaky
from tests.server.live import SECONDS, Live, served


@pytest.fixture(scope="module")
def mock() -> Iterator[Live]:
    with served("--backend", "mock") as live:
        yield live


@pytest.fixture(scope="module")
def small() -> Iterator[Live]:
    """A model that really samples: its text depends on the seed."""
    with served("--backend", "cpu") as live:
        yield live


def normalised(folder: Path) -> list[dict]:
    """Everything but how long it took."""
    rows = []
    for record in journal.read(folder / "episodes.jsonl").values():
        row = record.to_json()
        row.pop("seconds")
        for call in row["calls"]:
            call.pop("seconds")
        rows.append(row)
    return sorted(rows, key=lambda row: (row["sample"], row["epoch"]))


async def run(
    directory: Path, urls: list[str], task: str = "gsm8k", patience: Patience | None = None, **more
) -> Result:
    name = entry(task).load()
    settings = RunSettings(**more)
    plan = plan_task(name, Setting(Source(), Protocol(AGENTLM), resolve_options(name, {})), settings)
    choice = ModelChoice(urls=tuple(urls), patience=patience or Patience())
    async with open_model(choice, urls) as model:
        about = {"name": model.name, "weights": None, "template": None}
        runner = Runner(
            [plan],
            {task: model},
            settings,
            directory,
            about,
            concurrency=model.facts.concurrency,
            shown=False,
        )
        return await runner.run()


def url(live: Live) -> str:
    return f"http://127.0.0.1:{live.port}"


async def test_one_request_in_five_that_fails_changes_no_result(tmp_path: Path, small: Live) -> None:
    asked = {"temperature": 0.7, "max_new_tokens": 12, "samples_per_item": 2}
    calm = await run(tmp_path / "calm", [url(small)], **asked)
    async with flaky(small.port, 5) as proxy:
        rough = await run(tmp_path / "rough", [f"http://127.0.0.1:{proxy.port}"], **asked)
    assert proxy.failed >= 10
    assert (calm.finished, calm.faults) == (rough.finished, rough.faults) == (48, 0)
    assert normalised(tmp_path / "calm" / "gsm8k") == normalised(tmp_path / "rough" / "gsm8k")


@pytest.mark.parametrize("task", ["gsm8k", "database", "os"])
async def test_the_bundled_model_does_better_than_doing_nothing(
    tmp_path: Path, small: Live, task: str
) -> None:
    name = entry(task).load()
    if missing := name.requirements(Setting(Source(), Protocol(AGENTLM), resolve_options(name, {}))):
        pytest.skip("; ".join(f"{one.what}: {one.how}" for one in missing))
    await run(tmp_path, [url(small)], task)
    rows = normalised(tmp_path / task)
    assert len(rows) == 24
    assert sum(row["outcome"] == Outcome.RIGHT for row in rows) >= 2, "doing nothing gets none right"


async def test_scored_letters_survive_failures_too(tmp_path: Path, small: Live) -> None:
    await run(tmp_path / "calm", [url(small)], "mmlu", limit=8)
    async with flaky(small.port, 5) as proxy:
        await run(tmp_path / "rough", [f"http://127.0.0.1:{proxy.port}"], "mmlu", limit=8)
    assert proxy.failed >= 3
    calm = normalised(tmp_path / "calm" / "mmlu")
    assert calm == normalised(tmp_path / "rough" / "mmlu")
    assert len({json.dumps(row["answer"]) for row in calm}) > 1


async def test_seeds_differ_by_sample_epoch_and_run_and_by_nothing_else(tmp_path: Path, small: Live) -> None:
    # So hot that no two seeds give the same text.
    asked = {"temperature": 3.0, "max_new_tokens": 16, "samples_per_item": 2, "limit": 3}
    await run(tmp_path / "one", [url(small)], **asked)
    await run(tmp_path / "same", [url(small)], concurrency=1, **asked)
    await run(tmp_path / "other", [url(small)], seed=1, **asked)
    one, same, other = (normalised(tmp_path / name / "gsm8k") for name in ("one", "same", "other"))
    assert one == same
    assert len({row["answer"] for row in one + other}) == 12
    assert len({row["calls"][0]["seed"] for row in one + other}) == 12


async def test_load_goes_to_every_server_and_away_from_one_that_is_gone(tmp_path: Path, mock: Live) -> None:
    with served("--backend", "mock") as other:
        gone = Live("--port", 0, "--backend", "mock").wait_ready()
        urls = [url(mock), url(other), url(gone)]
        name = entry("gsm8k").load()
        settings = RunSettings(max_new_tokens=20)
        plan = plan_task(name, Setting(Source(), Protocol(AGENTLM)), settings)
        async with open_model(ModelChoice(urls=tuple(urls)), urls) as model:
            gone.stop()
            before = [endpoint.requests for endpoint in model.pool.endpoints]
            runner = Runner([plan], {"gsm8k": model}, settings, tmp_path, {"name": "m"}, shown=False)
            result = await runner.run()
            after = [
                endpoint.requests - was for endpoint, was in zip(model.pool.endpoints, before, strict=True)
            ]
    assert (result.finished, result.faults) == (24, 0)
    assert min(after[:2]) >= 9


async def test_servers_that_are_gone_stop_the_run_and_it_goes_on_later(tmp_path: Path, mock: Live) -> None:
    quick = Patience(attempts=2, seconds=5, timeout=5)
    settings = {"max_new_tokens": 8, "fault_retries": 0}
    live = Live("--port", 0, "--backend", "mock").wait_ready()
    name = entry("gsm8k").load()
    plan = plan_task(name, Setting(Source(), Protocol(AGENTLM)), RunSettings(**settings))
    async with open_model(ModelChoice(urls=(url(live),), patience=quick), [url(live)]) as model:
        live.stop()
        runner = Runner(
            [plan],
            {"gsm8k": model},
            RunSettings(**settings),
            tmp_path,
            {"name": model.name, "weights": None, "template": None},
            shown=False,
        )
        with pytest.raises(ModelError, match="no answer to POST"):
            await runner.run()
    left = journal.read(tmp_path / "gsm8k" / "episodes.jsonl")
    assert all(record.score.outcome is Outcome.HARNESS_FAULT for record in left.values())
    result = await run(tmp_path, [url(mock)], **settings)
    assert (result.finished, result.faults) == (24, 0)


async def test_a_directory_of_another_run_is_refused_with_what_differs(tmp_path: Path, mock: Live) -> None:
    await run(tmp_path, [url(mock)], max_new_tokens=8, limit=2)
    with pytest.raises(RunError, match=r"decoding: .*'max_new_tokens': 8.*'max_new_tokens': 9"):
        await run(tmp_path, [url(mock)], max_new_tokens=9, limit=2)
    # More samples of the same run are no other run.
    assert (await run(tmp_path, [url(mock)], max_new_tokens=8, limit=5)).finished == 5


async def test_a_directory_in_use_is_refused(tmp_path: Path, mock: Live) -> None:
    with journal.locked(tmp_path), pytest.raises(RunError, match="in use by another process"):
        await run(tmp_path, [url(mock)], max_new_tokens=8, limit=2)


async def test_episodes_that_ended_are_not_run_again(tmp_path: Path) -> None:
    with served("--backend", "mock") as live:
        await run(tmp_path, [url(live)], max_new_tokens=8)
        before = live.metric("tgi_request_count")
        again = await run(tmp_path, [url(live)], max_new_tokens=8)
        assert (again.finished, again.planned) == (24, 24)
        # To connect is to ask whether prompts are scored.
        assert live.metric("tgi_request_count") - before <= 1


@contextmanager
def command(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", "from agentlm_evals.cli import main; main()", "eval", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "XDG_CACHE_HOME": str(Path(str(arguments[-1])).parent / "cache")},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.slow
def test_a_run_killed_again_and_again_gives_the_results_of_one_left_alone(
    tmp_path: Path, small: Live
) -> None:
    def arguments(out: Path) -> list[object]:
        asked = [
            "gsm8k",
            "--own-samples",
            "--port",
            small.port,
            "--temperature",
            0.7,
            "--samples-per-item",
            3,
        ]
        return [*asked, "--max-new-tokens", 40, "--concurrency", 3, "--no-cache", "--out", out]

    whole, torn = tmp_path / "whole", tmp_path / "torn"
    with command(*arguments(whole)) as process:
        assert process.wait(240) == 0, process.stderr and process.stderr.read()
    file = torn / "gsm8k" / "episodes.jsonl"
    seen = 0
    for _ in range(10):
        with command(*arguments(torn)) as process:
            wanted = seen + 5
            deadline = time.monotonic() + 120
            while _lines(file) < wanted and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            assert process.poll() is None, "it ended before it was killed"
            process.send_signal(signal.SIGKILL)
            process.wait()
        seen = _lines(file)
    # A line that the kill tore is what the next start has to cut off.
    with file.open("ab") as handle:
        handle.write(b'{"sample":"own-01","epo')
    with command(*arguments(torn)) as process:
        assert process.wait(240) == 0, process.stderr and process.stderr.read()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    repeated = len(rows) - len({(row["sample"], row["epoch"]) for row in rows})
    assert repeated == 0
    assert len(rows) == 72
    assert normalised(whole / "gsm8k") == normalised(torn / "gsm8k")
    assert len({row["answer"] for row in rows}) > 24, "sampled: an item's three answers are not one"


@pytest.mark.slow
def test_many_episodes_keep_the_server_busy(tmp_path: Path) -> None:
    # 200 episodes with 512 tokens an answer, steps of 5 ms.
    samples = tmp_path / "items.jsonl"
    rows = [{"question": f"What is {at} plus {at}?", "answer": f"#### {2 * at}"} for at in range(200)]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with served("--backend", "mock", "--mock-step-time", "0.005", "--max-concurrent-requests", "512") as live:
        assert asyncio.run(_share_of_idle_steps(live, samples, tmp_path / "out")) <= 0.05


async def _share_of_idle_steps(live: Live, samples: Path, out: Path) -> float:
    """Of the steps made while at least 128 episodes are unfinished, those with fewer than 64 requests."""
    seen: list[tuple[float, float]] = []

    async def watch() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
        while 200 - _lines(out / "gsm8k" / "episodes.jsonl") >= 128:
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            text = (await reader.readexactly(int(re.findall(r"content-length: (\d+)", head)[0]))).decode()
            running = float(re.findall(r"^tgi_batch_current_size (\S+)$", text, re.M)[0])
            steps = sum(map(float, re.findall(r"^tgi_batch_inference_count\S* (\S+)$", text, re.M)))
            seen.append((steps, running))
            await asyncio.sleep(0.02)

    task = entry("gsm8k").load()
    settings = RunSettings(max_new_tokens=512)
    plan = plan_task(task, Setting(Source(file=samples), Protocol(AGENTLM)), settings)
    async with open_model(ModelChoice(urls=(url(live),)), [url(live)]) as model:
        about = {"name": "m"}
        runner = Runner([plan], {"gsm8k": model}, settings, out, about, concurrency=200, shown=False)
        watching = asyncio.create_task(watch())
        result = await runner.run()
        await watching
    assert (result.finished, result.faults) == (200, 0)
    assert len(seen) > 20
    few = sum(after[0] - before[0] for before, after in pairwise(seen) if after[1] < 64)
    return few / (seen[-1][0] - seen[0][0])


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_lets_episodes_end_and_a_second_one_gives_them_up(tmp_path: Path, times: int) -> None:
    step = "0.01" if times == 1 else "0.1"
    with served("--backend", "mock", "--mock-step-time", step) as live:
        asked = ("gsm8k", "--own-samples", "--port", live.port, "--max-new-tokens", 100, "--concurrency", 4)
        with command(*asked, "--out", tmp_path / "out") as process:
            deadline = time.monotonic() + SECONDS
            while live.metric("agentlm_unfinished") < 4:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            if times == 2:
                time.sleep(0.5)
                process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 1
            assert process.stderr is not None
            said = process.stderr.read().decode()
    word = "stopped;" if times == 1 else "stopped at once;"
    assert f"{word} run the same command again to go on" in said
    assert "Traceback" not in said
    left = _lines(tmp_path / "out" / "gsm8k" / "episodes.jsonl")
    assert 4 <= left < 24 if times == 1 else left == 0
