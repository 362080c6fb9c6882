"""Every built task as a task of Inspect, and our servers as one of its model providers. Refuses to keep anything itself.

For who works in Inspect: `inspect eval agentlm_evals/gsm8k --model agentlm/http://127.0.0.1:30070`, with its limits, logs
and eval sets. Any of its other providers can be the model, as long as a task asks with messages; raw prompts and scored
letters need ours. `agentlm eval` does not run this way: `harness/run.py` says why.
"""

import asyncio
from collections.abc import Callable, Sequence
from os import environ
from typing import Any

import inspect_ai
from inspect_ai import Task as InspectTask
from inspect_ai.dataset import MemoryDataset
from inspect_ai.dataset import Sample as InspectSample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from inspect_ai.model import Model as InspectsModel
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import ToolChoice, ToolInfo

from agentlm_evals.errors import ConfigError, UnsupportedError
from agentlm_evals.harness.episode import Episode
from agentlm_evals.harness.plan import RunSettings, TaskPlan, plan_task
from agentlm_evals.harness.run import run_episode
from agentlm_evals.model import Decoding, Generation, Limits, Message, Prompt
from agentlm_evals.models.connect import connect
from agentlm_evals.models.pool import Pool
from agentlm_evals.models.proxy import Proxies
from agentlm_evals.models.served import ServedModel
from agentlm_evals.outcome import Outcome
from agentlm_evals.protocols import Protocol
from agentlm_evals.task import Setting, Source, resolve_options
from agentlm_evals.tasks import ENTRIES

RECORD = "agentlm_record"
"""Where a sample's record lies in Inspect's store, between solver and scorer."""


class AgentLMProvider(ModelAPI):
    """TGI's or OpenAI's routes of one or several servers: `agentlm/URL`, or `agentlm/NAME` with `-M urls=URL,URL`."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008  # Inspect's own signature
        urls: str | None = None,
        template: str = "server",
        **_: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        given = urls or base_url or model_name
        self._urls = [one for one in given.split(",") if one]
        self._template = template
        self._served: asyncio.Future[ServedModel] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def served(self) -> ServedModel:
        """The model, connected when first asked."""
        loop = asyncio.get_running_loop()
        if self._served is None or self._loop is not loop:
            # Connections belong to an event loop, and each of Inspect's evaluations has its own.
            self._loop = loop
            # Inspect's command line is ours here: its own providers read the proxies where they connect, too.
            proxies = Proxies.from_environment(environ)
            pool = Pool(self._urls, api_key=self.api_key, proxies=proxies)
            self._served = asyncio.ensure_future(connect(pool, template=self._template))
        return await self._served

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._served is not None and self._loop is asyncio.get_running_loop():
            await (await self._served).pool.close()

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002  # Inspect's own name
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """One reply; tools are not known to these tasks and are refused."""
        del tool_choice
        if tools:
            raise UnsupportedError("the provider `agentlm` has no tools: AgentTuning's tasks act by text")
        decoding = Decoding(
            config.max_tokens or 512,
            config.temperature or 0.0,
            config.top_p,
            tuple(config.stop_seqs or ()),
        )
        generation = await (await self.served()).generate(_from_inspect(input), decoding, config.seed or 0)
        output = ModelOutput.from_content(
            self.model_name, generation.text, "max_tokens" if generation.finish_reason == "length" else "stop"
        )
        read, written = generation.prompt_tokens, generation.generated_tokens
        output.usage = ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written)
        return output

    async def count_text_tokens(self, text: str) -> int:
        """By the server's tokenizer: Inspect's own way fetches a vocabulary from the network."""
        return await (await self.served()).count_prompt_tokens(text)

    def max_connections(self) -> int:
        """As many as our own harness would use at once."""
        return 256


@modelapi(name="agentlm")
def agentlm() -> type[ModelAPI]:
    """Registers the provider; the class stays a class."""
    return AgentLMProvider


class _Asked:
    """Inspect's model as a task sees it."""

    def __init__(self, model: InspectsModel) -> None:
        self._model = model
        self.name = str(model.name)
        self.origin = str(model.api.base_url or type(model.api).__name__)
        self.limits = Limits()

    def _ours(self) -> AgentLMProvider:
        if not isinstance(self._model.api, AgentLMProvider):
            raise UnsupportedError(f"{self.name} takes messages only: use the provider `agentlm`")
        return self._model.api

    async def generate(self, prompt: Prompt, decoding: Decoding, seed: int) -> Generation:
        if isinstance(prompt, str):
            return await (await self._ours().served()).generate(prompt, decoding, seed)
        config = GenerateConfig(
            max_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            stop_seqs=list(decoding.stop) or None,
            seed=seed % 2**31,
        )
        output = await self._model.generate(_to_inspect(prompt), config=config)
        usage = output.usage or ModelUsage()
        reason = "length" if output.stop_reason == "max_tokens" else "eos_token"
        return Generation(output.completion, reason, usage.input_tokens, usage.output_tokens)

    async def score(
        self, prompt: Prompt, continuations: Sequence[str], window: int | None = None
    ) -> list[float]:
        return await (await self._ours().served()).score(prompt, continuations, window)

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        return await (await self._ours().served()).count_prompt_tokens(prompt)


def _to_inspect(prompt: Sequence[Message]) -> list[ChatMessage]:
    kinds: dict[str, Callable[..., ChatMessage]] = {
        "system": ChatMessageSystem,
        "user": ChatMessageUser,
        "assistant": ChatMessageAssistant,
    }
    return [kinds[message.role](content=message.content) for message in prompt]


def _from_inspect(messages: Sequence[ChatMessage]) -> list[Message]:
    found = []
    for message in messages:
        if message.role == "tool":
            raise UnsupportedError("the provider `agentlm` has no tools: AgentTuning's tasks act by text")
        found.append(Message(message.role, message.text))
    return found


@solver
def play(plan: TaskPlan) -> Solver:
    """Runs a sample's episode. Faults are raised, for Inspect to retry or to count as errors."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        sample = next(one for one in plan.samples if one.id == state.sample_id)
        async with plan.task.environment(plan.setting) as environment:
            episode = Episode(
                sample,
                plan.setting,
                _Asked(get_model()),
                plan.decoding,
                plan.run_seed,
                state.epoch - 1,
                environment=environment,
            )
            record = await run_episode(plan, episode)
        if record.score.outcome is Outcome.HARNESS_FAULT:
            raise RuntimeError(str(record.score.details.get("why")))
        state.messages = _to_inspect(episode.messages) or state.messages
        if record.calls:
            state.output = ModelOutput.from_content(str(state.model), str(record.calls[-1]["text"]))
        state.store.set(RECORD, record.to_json())
        return state

    return solve


@scorer(metrics=[mean(), stderr()])
def worth() -> Scorer:
    """What the episode was worth, by the task's own rules."""

    async def score(state: TaskState, target: Target) -> Score:
        del target
        record = state.store.get(RECORD)
        metadata = {"outcome": record["outcome"], **record["details"]}
        return Score(value=record["value"], answer=str(record["answer"])[:2000], metadata=metadata)

    return score


def inspect_task(name: str, data: str | None = None, limit: int | None = None, **options: str) -> InspectTask:
    """A task by name, with our own items or those of a data directory.

    Raises:
        ConfigError: The task has no such option, or lacks something here.
    """
    from pathlib import Path

    from agentlm_evals.tasks import entry

    task = entry(name).load()
    setting = Setting(
        Source(Path(data) if data else None), Protocol(task.protocols[0]), resolve_options(task, options)
    )
    if missing := task.requirements(setting):
        raise ConfigError("; ".join(f"{task.name} lacks {one.what}: {one.how}" for one in missing))
    plan = plan_task(task, setting, RunSettings(limit=limit))
    samples = [
        InspectSample(id=one.id, input=str(dict(one.input)), target=str(one.target)) for one in plan.samples
    ]
    return InspectTask(
        dataset=MemoryDataset(samples, name=name), solver=play(plan), scorer=worth(), name=name
    )


def _register(name: str) -> Callable[..., InspectTask]:
    def build(data: str | None = None) -> InspectTask:
        return inspect_task(name, data)

    build.__name__ = name.replace("-", "_")
    build.__doc__ = f"{name}, with our own items unless `data` names a directory."
    found: Callable[..., InspectTask] = inspect_ai.task(build)
    return found


for _entry in ENTRIES:
    if _entry.is_built:
        globals()[_entry.folder] = _register(_entry.name)
