"""agentlm as a library."""

import asyncio
import time
from collections.abc import Iterator

from agentlm import LLM, SamplingParams
from bench.cells import CONTEXT_TOKENS, DECODE_STEPS, PREFILL_TOKENS, Cell
from bench.peers.engine import REPETITIONS, Setup
from bench.workload import Agent, AgentRun, prompt


class Engine:
    """Measures through the public API only."""

    def __init__(self, setup: Setup) -> None:
        self._llm = LLM(
            setup.model,
            progress=False,
            dtype=setup.precision,
            # As llama.cpp keeps them, whatever the weights are.
            kv_cache_dtype="float16",
            threads=setup.threads,
            max_batch_size=setup.batch,
            offline=True,
        )

    def close(self) -> None:
        """Ends the engine's threads."""
        self._llm.close()

    def measure(self, cell: Cell) -> Iterator[float]:
        """Yields tokens per second, one value a repetition."""
        if cell.kind == "prefill":
            yield from self._prefill(cell)
        elif cell.kind == "decode":
            yield from self._decode(cell)
        else:
            for repetition in range(REPETITIONS):
                yield asyncio.run(self._agents(cell, repetition))

    def _prefill(self, cell: Cell) -> Iterator[float]:
        tokens = PREFILL_TOKENS[cell.context]
        for repetition in range(REPETITIONS + 1):
            # Another prompt each time: nothing of it is in the prefix cache.
            prompts = [prompt(tokens, cell.key, repetition)]
            start = time.perf_counter()
            self._llm.generate(prompts, _exactly(1))
            if repetition > 0:
                yield tokens / (time.perf_counter() - start)

    def _decode(self, cell: Cell) -> Iterator[float]:
        # The same prompts for every batch size: each is computed once in a run.
        prompts = [prompt(CONTEXT_TOKENS[cell.context], cell.context, number) for number in range(cell.batch)]
        for repetition in range(REPETITIONS + 1):
            # From the second time on the prompts are in the prefix cache, so that all requests decode together.
            done = self._llm.generate(prompts, _exactly(DECODE_STEPS + 1))
            first = max(one.usage.first_token_seconds for one in done)
            last = max(one.usage.total_seconds for one in done)
            if repetition > 0:
                yield cell.batch * DECODE_STEPS / (last - first)

    async def _agents(self, cell: Cell, repetition: int) -> float:
        run = AgentRun(cell, repetition, recomputes=False)

        async def live(agent: Agent) -> None:
            for turn in run.turns():
                done = await self._llm.agenerate(agent.ask(turn), _exactly(run.shape.answer))
                agent.hear(done.token_ids)

        await asyncio.gather(*(live(agent) for agent in run.agents))
        return run.rate()


def _exactly(tokens: int) -> SamplingParams:
    return SamplingParams(max_new_tokens=tokens, ignore_eos=True)
