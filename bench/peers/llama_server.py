"""llama.cpp's server, one slot an agent, over HTTP without streaming."""

import http.client
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.cells import MAX_CONTEXT, Cell
from bench.local import free_port, wait_until_ready
from bench.peers.engine import REPETITIONS, EngineBrokenError, Setup
from bench.workload import Agent, AgentRun

START_SECONDS = 120


class Engine:
    """Starts the server and talks to it as agents would."""

    def __init__(self, setup: Setup) -> None:
        self._cache = "no prefix cache" not in setup.name
        self._port = free_port()
        command = [str(setup.programs / "llama-server"), "-m", str(setup.model), "-t", str(setup.threads)]
        command += ["--parallel", str(setup.batch), "-c", str(setup.batch * MAX_CONTEXT)]
        command += ["--host", "127.0.0.1", "--port", str(self._port), "--log-disable"]
        if not self._cache:
            # Not even the copy that it keeps of prompts that left their slot.
            command += ["--cache-ram", "0"]
        self._server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_until_ready(self._server, self._port, START_SECONDS)
        except EngineBrokenError:
            self.close()
            raise

    def close(self) -> None:
        """Ends the server."""
        self._server.terminate()
        self._server.wait(timeout=30)

    def measure(self, cell: Cell) -> Iterator[float]:
        """Yields generated tokens per second, one value a repetition."""
        for repetition in range(REPETITIONS):
            run = AgentRun(cell, repetition, recomputes=not self._cache)
            with ThreadPoolExecutor(cell.batch) as pool:
                list(pool.map(lambda agent: self._live(run, agent), run.agents))  # noqa: B023 (all have run here)
            yield run.rate()

    def _live(self, run: AgentRun, agent: Agent) -> None:
        for turn in run.turns():
            agent.hear(self._complete(agent.ask(turn), run.shape.answer, agent.number))

    def _complete(self, prompt: list[int], tokens: int, slot: int) -> list[int]:
        answer = self._post(
            "/completion",
            {
                "prompt": prompt,
                "n_predict": tokens,
                "ignore_eos": True,
                "temperature": 0,
                "cache_prompt": self._cache,
                "id_slot": slot,
                "return_tokens": True,
            },
        )
        generated: list[int] = answer["tokens"]
        return generated

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=3600)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            said = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise EngineBrokenError(f"llama-server answered {response.status}: {said[-500:]!r}")
        answer: dict[str, Any] = json.loads(said)
        return answer
