"""An opened engine in a process of its own: how fast it starts, decodes, fills its cache, and serves.

    python -m bench.gpu.session SETUP JOB

Through the public interface only. Decodes stand beside their share of the measured bandwidth: weights, keys and values
are read once a step.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.cells import AgentShape
from bench.gpu.child import Say, Setup
from bench.roofline import Dimensions
from bench.workload import Agent, prompt

CONTEXT = 1024
BATCHES = (1, 8, 32, 128, 256)
PREFILLS = (1024, 8192)
STEPS = {1: 128, 8: 128}
"""Decoded steps at a batch size; 64 at others."""
TRACED = (1, 32)
REQUESTS, INTO, OUT = 256, 1024, 1024
AGENTS = AgentShape(agents=32, turns=6, system=1024, observation=160, answer=64)
TRACED_STEPS = 60
SHOWN_KERNELS = 14
ROUNDS = 5
WEIGHT_BYTES = {"int4": 0.53125, "int8": 1.0, "fp8": 1.0}
"""Of a narrow weight, scales among them; the head is not narrowed."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one session is opened for."""

    model: str
    """Its directory."""
    label: str
    """Before the name of each row."""
    start: str
    """The row of its start."""
    spawned: float
    """`time.time()` when its process was started."""
    work: tuple[str, ...]
    """Of "decode", "prefill", "throughput", "agents", "leaks", "small"."""
    settings: dict[str, Any] = field(default_factory=dict)
    batches: tuple[int, ...] = BATCHES


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes of the workloads."""

    context: int
    prefills: tuple[int, ...]
    steps: int | None
    requests: tuple[int, int, int]
    agents: AgentShape


def scale(setup: Setup) -> Scale:
    """The real ones, or tiny ones."""
    if setup.rehearse:
        return Scale(
            48, (64,), 4, (4, 32, 8), AgentShape(agents=2, turns=2, system=32, observation=8, answer=4)
        )
    return Scale(CONTEXT, PREFILLS, None, (REQUESTS, INTO, OUT), AGENTS)


class Session:
    """One engine and what is asked of it."""

    def __init__(self, setup: Setup, job: Job, say: Say) -> None:
        from agentlm import LLM
        from agentlm.model.config import ModelConfig

        self.setup, self.job, self.say, self.scale = setup, job, say, scale(setup)
        imported = time.time() - job.spawned
        config = ModelConfig.load(Path(job.model))
        self.dimensions = Dimensions(
            config.layers, config.hidden, config.inter, config.heads, config.kv_heads, config.vocab
        )
        self.context_length = min(config.context_length, 8192 + 64)
        start = time.perf_counter()
        self.llm = LLM(
            job.model,
            progress=False,
            offline=True,
            max_total_tokens=self.context_length,
            **{"backend": "cpu" if setup.rehearse else "cuda", "max_batch_size": 256, **job.settings},
        )
        opened = time.perf_counter() - start
        self.llm.generate([prompt(8, "first")], _exactly(1))
        info = self.llm.info
        self.positions = info.num_blocks * 16
        say(
            job.start,
            imports_s=imported,
            open_s=opened,
            to_first_token_s=time.time() - job.spawned,
            kv_gib=info.kv_cache_bytes / 2**30,
        )

    def run(self) -> None:
        """Everything that the job asks for, the cheapest to lose last."""
        for work in self.job.work:
            with self.say.case(f"{self.job.label} ({work})"):
                getattr(self, f"_{work}")()

    @contextmanager
    def _in_time(self, name: str, seconds: float) -> Iterator[bool]:
        """Whether something that takes so long still fits; a row says so if not."""
        fits = self.setup.left > seconds + 3
        if not fits:
            self.say(name, error=f"left out: it takes {seconds:.0f} s, and {self.setup.left:.0f} s were left")
        with self.say.case(name):
            yield fits

    def _decode(self) -> None:
        given = [prompt(self.scale.context, "decode", number) for number in range(max(self.job.batches))]
        for batch in self.job.batches:
            steps = self.scale.steps or STEPS.get(batch, 64)
            name = f"{self.job.label} decode {batch} x {self.scale.context}"
            if batch * (self.scale.context + steps + 16) > self.positions:
                self.say(name, error=f"left out: {self.positions} positions fit")
                continue
            with self._in_time(name, 3 + batch * self.scale.context / 15_000) as fits:
                if fits:
                    self._decode_batch(name, given[:batch], steps)
            if batch in TRACED and not self.setup.rehearse:
                with self._in_time(f"{name}, traced", 8) as fits:
                    if fits:
                        self._trace(name, given[:batch])

    def _decode_batch(self, name: str, given: list[list[int]], steps: int) -> None:
        # After this the prompts are in the prefix cache, so that all requests decode together.
        self.llm.generate(given, _exactly(2))
        best = float("inf")
        for _ in range(2):
            done = self.llm.generate(given, _exactly(steps + 1))
            first = max(one.usage.first_token_seconds for one in done)
            best = min(best, (max(one.usage.total_seconds for one in done) - first) / steps)
        batch, model = len(given), self.dimensions
        element = WEIGHT_BYTES.get(self.job.settings.get("quantize", ""), 2.0)
        read = element * model.layer_weights + 2 * model.head_weights
        read += batch * model.kv_bytes(self.scale.context + steps // 2, 2)
        self.say(
            name,
            tokens_per_s=batch / best,
            step_ms=best * 1e3,
            gb_per_s=read / best / 1e9,
            of_read=self.setup.of_read(read / best),
        )

    def _trace(self, name: str, given: list[list[int]]) -> None:
        from bench.gpu.trace import steady, traced

        found = steady(traced(lambda: self.llm.generate(given, _exactly(TRACED_STEPS + 1))))
        self.say(
            f"{name}, traced",
            step_us=found.step_us,
            idle=found.idle,
            between_steps=found.between_steps,
            between_us=found.between_us,
        )
        for kernel, (launches, us) in list(found.kernels.items())[:SHOWN_KERNELS]:
            self.say(f"  {kernel[:60]}", launches_a_step=launches, us_a_step=us, of_step=us / found.step_us)

    def _prefill(self) -> None:
        model = self.dimensions
        for tokens in self.scale.prefills:
            tokens = min(tokens, self.context_length - 32)
            name = f"{self.job.label} prefill {tokens}"
            with self._in_time(name, 3) as fits:
                if not fits:
                    continue
                rates = []
                for repetition in range(4):
                    given = [prompt(tokens, "prefill", tokens, repetition)]
                    start = time.perf_counter()
                    self.llm.generate(given, _exactly(1))
                    rates.append(tokens / (time.perf_counter() - start))
                rate = sorted(rates[1:])[len(rates[1:]) // 2]
                flops = 2 * (model.layer_weights * tokens + model.head_weights)
                flops += model.attention_flops(1) * tokens * (tokens + 1) // 2
                done = flops * rate / tokens
                self.say(name, tokens_per_s=rate, tflop_per_s=done / 1e12, of_matmul=self.setup.of_peak(done))

    def _throughput(self) -> None:
        self._serve(*self.scale.requests, expected=60)

    def _small(self) -> None:
        """What the peers are asked for, too."""
        from bench.gpu.peers import SAMPLE, TINY_SAMPLE

        self._serve(*(TINY_SAMPLE if self.setup.rehearse else SAMPLE), expected=10)

    def _serve(self, requests: int, into: int, out: int, expected: float) -> None:
        name = f"{self.job.label} {requests} requests, {into} in, {out} out"
        with self._in_time(name, expected) as fits:
            if fits:
                given = [prompt(into, "throughput", number) for number in range(requests)]
                start = time.perf_counter()
                self.llm.generate(given, _exactly(out))
                seconds = time.perf_counter() - start
                self.say(
                    name,
                    wall_s=seconds,
                    output_tokens_per_s=requests * out / seconds,
                    all_tokens_per_s=requests * (into + out) / seconds,
                )

    def _leaks(self) -> None:
        """Whether rounds of the same requests, some of them given up, leave memory behind on the device."""
        name = f"{self.job.label} memory after {ROUNDS} rounds"
        with self._in_time(name, 15) as fits:
            if fits:
                given = [prompt(16 + 7 * number, "leaks", number) for number in range(16)]
                taken = []
                for _ in range(ROUNDS):
                    self.llm.generate(given, _exactly(16))
                    # What is forgotten is aborted.
                    next(iter(self.llm.stream(given[0], _exactly(64))))
                    taken.append(_device_bytes())
                # The first round may fill the allocator's own store.
                self.say(name, grown_bytes=taken[-1] - taken[1], stable=taken[-1] == taken[1])

    def _agents(self) -> None:
        shape = self.scale.agents
        name = f"{self.job.label} {shape.agents} agents, {shape.turns} turns"
        with self._in_time(name, 25) as fits:
            if fits:
                start = time.perf_counter()
                generated = asyncio.run(self._live(shape))
                seconds = time.perf_counter() - start
                self.say(name, wall_s=seconds, output_tokens_per_s=generated / seconds)

    async def _live(self, shape: AgentShape) -> int:
        system = prompt(shape.system, "agents")
        agents = [Agent(number, shape, 0, list(system)) for number in range(shape.agents)]

        async def live(agent: Agent) -> None:
            for turn in range(shape.turns):
                done = await self.llm.agenerate(agent.ask(turn), _exactly(shape.answer))
                agent.hear(done.token_ids)

        await asyncio.gather(*(live(agent) for agent in agents))
        return sum(agent.generated for agent in agents)


def _device_bytes() -> int:
    """Of the device's memory, what torch has handed out; 0 where there is no GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    return int(torch.cuda.memory_allocated())


def _exactly(tokens: int) -> Any:
    from agentlm import SamplingParams

    return SamplingParams(max_new_tokens=tokens, ignore_eos=True)


def command(setup: Setup, job: Job) -> list[str]:
    """The command that runs a job."""
    return [sys.executable, "-m", "bench.gpu.session", setup.to_json(), json.dumps(asdict(job))]


def main() -> None:
    """Runs one job."""
    setup, job = Setup(**json.loads(sys.argv[1])), Job(**json.loads(sys.argv[2]))
    session = Session(setup, job, Say(setup.rows))
    session.run()
    session.llm.close()


if __name__ == "__main__":
    main()
