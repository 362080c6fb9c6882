"""HumanEval: 164 functions to write, each judged by its tests in a sandbox. The number is pass@1.

The paper gives a number and no prompt: what runs under `agenttuning` is our assumption, and every row says so. With several
samples an item the report has the unbiased pass@k too. Refuses to know how sandboxes are made.
"""

import os
import platform
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from agentlm_evals.errors import DataError
from agentlm_evals.harness.episode import Episode
from agentlm_evals.model import Decoding
from agentlm_evals.outcome import Outcome, Score, format_or_limit, right, wrong
from agentlm_evals.protocols import AGENTLM, AGENTTUNING
from agentlm_evals.sandbox.trial import why_not
from agentlm_evals.task import (
    Agent,
    Group,
    Metric,
    Missing,
    Option,
    Sample,
    Setting,
    Task,
    own_samples,
    read_lines,
    scripted,
)
from agentlm_evals.tasks.humaneval import program
from agentlm_evals.tasks.humaneval.estimator import pass_at_k

SYSTEM = "You are a helpful, respectful and honest assistant."
"""AgentLM's (its model card); the assumed form under `agenttuning`."""
REQUEST = "Complete this Python function. Reply with the whole function in one block of code.\n\n```python\n{prompt}```"
CHAT, COMPLETION = "chat", "completion"
STOPS = ("\ndef ", "\nclass ", "\nif ", "\nprint", "\n#", "\n@", "\nassert ", "\n```")
"""What begins something after the function, when a base model goes on with it."""
MOST_STOPS = 4
"""TGI and OpenAI take no more; the text is cut at all of them when it is here."""
PASSES = (1, 5, 10, 100)


class HumanEval(Task):
    """Share of functions that pass their tests."""

    name, title, group = "humaneval", "HumanEval", Group.GENERAL
    metric = Metric("pass@1")
    published_mean = 35.64
    protocols = (AGENTLM, AGENTTUNING)
    assumptions = MappingProxyType(
        {
            AGENTTUNING: "no prompt was published: a chat request with AgentLM's system prompt, greedy, is assumed"
        }
    )
    max_samples = 164
    options = (
        Option(
            "form",
            CHAT,
            "chat: a request for the function; completion: the raw text goes on",
            (CHAT, COMPLETION),
        ),
        Option(
            "seconds",
            "10",
            "a program's time, in seconds; the original's 3 s are short for a busy machine",
            least=0.1,
        ),
    )

    def requirements(self, setting: Setting) -> list[Missing]:
        """Namespaces: a model's program never runs without them."""
        del setting
        return [Missing("a sandbox of Linux namespaces", why)] if (why := why_not()) else []

    @asynccontextmanager
    async def environment(self, setting: Setting) -> AsyncIterator[CapacityLimiter]:
        """As many programs at once as there are processors: one that waits for its turn would be out of time."""
        del setting
        yield CapacityLimiter(os.cpu_count() or 1)

    def versions(self, setting: Setting) -> Mapping[str, str]:
        """The Python that runs the programs."""
        return {"python": platform.python_version(), "form": setting.options.get("form", CHAT)}

    def samples(self, setting: Setting) -> list[Sample]:
        """The official problems, or our own."""
        source = setting.source
        names = (
            "humaneval/HumanEval.jsonl.gz",
            "humaneval/HumanEval.jsonl",
            "HumanEval.jsonl.gz",
            "HumanEval.jsonl",
        )
        rows = own_samples(__file__) if source.is_own else read_lines(source.path(*names))
        samples = []
        for index, row in enumerate(rows):
            try:
                body = {key: str(row[key]) for key in ("prompt", "entry_point", "test", "canonical_solution")}
                samples.append(Sample(str(row["task_id"]), body))
            except KeyError as error:
                raise DataError(f"HumanEval's item {index} lacks {error}") from error
        return samples

    def decoding(self, protocol: str) -> Decoding:
        """Greedy, 512 tokens."""
        del protocol  # the same in both
        return Decoding(max_new_tokens=512)

    async def solve(self, episode: Episode) -> Any:
        """One reply, one program, one run."""
        body = episode.sample.input
        if episode.setting.options["form"] == COMPLETION and episode.protocol == AGENTLM:
            generation = await episode.generate(body["prompt"], stop=STOPS[:MOST_STOPS])
            code = generation.text
            for stop in STOPS:
                code = code.split(stop)[0]
        else:
            if episode.protocol == AGENTTUNING:
                episode.system(SYSTEM)
            episode.user(REQUEST.format(prompt=body["prompt"]))
            code = program.code_of(await episode.ask(), body["entry_point"])
        text = program.program_of(body["prompt"], code, body["entry_point"])
        if not program.is_python(text):
            return {"passed": False, "why": "not Python", "output": "", "code": code}
        seconds = float(episode.setting.options["seconds"])
        run = await run_sync(
            program.check, text, body["test"], body["entry_point"], seconds, limiter=episode.environment
        )
        return run.to_json() | {"code": code}

    def score(self, sample: Sample, answer: Any, protocol: str) -> Score:
        """Whether the tests held."""
        del sample, protocol
        details = {key: answer[key] for key in ("why", "output", "code")}
        if answer["passed"]:
            return right(**details)
        if answer["why"] == "not Python":
            return format_or_limit(details.pop("why"), **details)
        return wrong(**details)

    def numbers(self, scores: Mapping[str, Sequence[Score]]) -> Mapping[str, float]:
        """pass@k for the usual k, where every problem has as many programs; harness faults are no programs."""
        counts = []
        for of_sample in scores.values():
            runs = [score for score in of_sample if score.outcome is not Outcome.HARNESS_FAULT]
            counts.append((len(runs), sum(score.outcome is Outcome.RIGHT for score in runs)))
        least = min((count for count, _ in counts), default=0)
        return {
            f"pass@{k}": 100 * sum(pass_at_k(count, correct, k) for count, correct in counts) / len(counts)
            for k in PASSES
            if 1 < k <= least
        }

    def gold(self, sample: Sample, protocol: str) -> Agent:
        """The canonical solution."""
        del protocol  # both read it
        body = sample.input
        return scripted(f"```python\n{body['prompt']}{body['canonical_solution']}```")


TASK = HumanEval()
