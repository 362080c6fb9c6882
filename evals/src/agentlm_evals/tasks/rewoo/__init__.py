"""ReWOO: the model plans which tools to use, workers carry the plan out, the model solves with what they found.

Accuracy over seven sets of fifty questions, of which six can be fetched. The tools are local: documents, a calculator,
algebra, the tested model itself (the original's is GPT-3.5). A judge grades the answers if one is named, otherwise a rule
of ours, which is stricter; F1 and exact match are in every score. Refuses to know servers.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
from anyio.to_thread import run_sync

from agentlm_evals.errors import FormatError
from agentlm_evals.harness.episode import Episode, judged
from agentlm_evals.model import Decoding, Message
from agentlm_evals.outcome import Outcome, Score, format_or_limit, harness_fault, right, wrong
from agentlm_evals.protocols import AGENTLM, AGENTTUNING
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
    scripted,
)
from agentlm_evals.tasks.hotpotqa.scoring import is_exact
from agentlm_evals.tasks.hotpotqa.wikipedia import Wikipedia
from agentlm_evals.tasks.rewoo import grading, items, texts
from agentlm_evals.tasks.rewoo.plan import Plan, read_call, read_plan
from agentlm_evals.tasks.rewoo.published import FILES, PUBLISHED
from agentlm_evals.tasks.rewoo.tools import Tool, live_tools, local_tools

TRUNCATE = 4000
JUDGE_TOKENS = 64
MOST_EVIDENCE = 4000
"""Characters of a tool's result in our protocol; the published one relies on the server to cut the prompt."""


class ReWOO(Task):
    """Share of questions answered rightly."""

    name, title, group = "rewoo", "ReWOO", Group.HELD_OUT
    metric = Metric("accuracy")
    published_mean = 60.56
    protocols = (AGENTLM, AGENTTUNING)
    sources = PUBLISHED
    source_files = FILES
    assumptions = MappingProxyType(
        {
            AGENTTUNING: "HotpotQA's fifty from the BOLAA set; local tools unless keys are given; the tool LLM is the "
            "tested model; graded by the judge that was named, or by our rule",
        }
    )
    max_samples = 350
    options = (
        Option(
            "tools",
            "local",
            "documents, calculator and algebra here, or the originals' services",
            ("local", "live"),
        ),
        Option("keys", "", "with live tools: a folder that holds serper.key and wolfram.key", decides=False),
    )

    def requirements(self, setting: Setting) -> list[Missing]:
        """The keys, if live tools were asked for."""
        if setting.options.get("tools") == "live" and not setting.options.get("keys"):
            return [
                Missing(
                    "keys for Serper and WolframAlpha", "-T rewoo.keys=FOLDER with serper.key and wolfram.key"
                )
            ]
        return []

    def versions(self, setting: Setting) -> Mapping[str, str]:
        """The tools, and which of the seven sets are not there."""
        tools = "live" if setting.options.get("tools") == "live" else f"local, sympy {version('sympy')}"
        if setting.source.is_own or setting.source.file is not None:
            return {"tools": tools}
        lacking = items.missing(setting.source)
        return {"tools": tools, "without": ", ".join(lacking)} if lacking else {"tools": tools}

    def samples(self, setting: Setting) -> list[Sample]:
        """Fifty of each set that is there, or our own."""
        return items.own(own_samples(__file__)) if setting.source.is_own else items.published(setting.source)

    def decoding(self, protocol: str) -> Decoding:
        """Greedy, 256 tokens."""
        return Decoding(max_new_tokens=256, truncate=TRUNCATE if protocol == AGENTTUNING else None)

    @asynccontextmanager
    async def environment(self, setting: Setting) -> AsyncIterator[Mapping[str, Tool]]:
        """The tools, but for the language model."""
        source = setting.source
        if source.is_own:
            rows = own_samples(__file__)
            found, address = list(items.own_articles(rows)), items.own_address(rows)
        else:
            found, address = list(items.articles(source)), items.address(source)
        tools = await run_sync(local_tools, found, address)
        if setting.options.get("tools") != "live":
            yield tools
            return
        async with httpx.AsyncClient(timeout=30, follow_redirects=True) as client:
            yield tools | live_tools(client, Path(setting.options["keys"]), Wikipedia(client))

    # --- an episode ----------------------------------------------------------------------------------------------
    async def solve(self, episode: Episode) -> Any:
        """Plan, work, solve, and the judge's grade if there is a judge."""
        body = episode.sample.input
        question, kind = str(body["question"]), str(body["kind"])
        toolset = items.TOOLSETS[kind]
        words = texts.published(episode.texts) if episode.protocol == AGENTTUNING else texts.ours(toolset)
        episode.system(words.system)
        episode.user(words.plan(question, kind, toolset))
        plan = read_plan(await self._ask(episode), nothing=words.nothing)
        found = await self._work(episode, plan, toolset, words)
        episode.user(words.solve(question, self._steps(episode, plan, found, words)))
        answer = (await self._ask(episode)).strip("\n")
        verdict = None
        episode.notes["judge"] = "none: a rule of ours"
        if episode.judge is not None:
            asked = grading.request(question, str(episode.sample.target), answer)
            said = await judged(
                episode.judge.generate(asked, Decoding(max_new_tokens=JUDGE_TOKENS), episode.seed("judge"))
            )
            episode.notes["judge"] = f"{episode.judge.name} ({episode.judge.origin or 'in this process'})"
            verdict = {"judge": episode.judge.name, "said": said.text}
        return {"answer": answer, "steps": len(plan.steps), "calls": len(plan.calls), "judgement": verdict}

    @staticmethod
    async def _ask(episode: Episode) -> str:
        """Planner and solver see their own request only."""
        reply = await episode.ask(history=lambda messages: [messages[0], messages[-1]])
        return _cut(reply) if episode.protocol == AGENTTUNING else reply

    async def _work(
        self, episode: Episode, plan: Plan, toolset: Sequence[str], words: texts.Texts
    ) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, text in plan.calls.items():
            call = read_call(text, found)
            if call is None:
                found[name] = text
            elif call.tool not in toolset:
                found[name] = words.nothing
            elif call.tool == "LLM":
                request = [Message("system", words.system), Message("user", words.llm.format(call.text))]
                reply = (await episode.generate(request)).text
                found[name] = (_cut(reply) if episode.protocol == AGENTTUNING else reply).strip("\n")
            else:
                found[name] = await episode.environment[call.tool](call.text)
            if episode.protocol != AGENTTUNING:
                found[name] = found[name][:MOST_EVIDENCE]
        episode.notes["evidence"] = found
        return found

    @staticmethod
    def _steps(
        episode: Episode, plan: Plan, found: Mapping[str, str], words: texts.Texts
    ) -> list[tuple[str, str]]:
        """Each step with the evidence of its number, as published; there a step without any ends the episode."""
        steps = []
        for number, step in enumerate(plan.steps, 1):
            name = f"#E{number}"
            if name not in found and episode.protocol == AGENTTUNING:
                raise FormatError(f"step {number} of the plan has no {name}")
            steps.append((step, found.get(name, words.nothing)))
        return steps

    def score(self, sample: Sample, answer: Any, protocol: str) -> Score:
        """The judge's grade if there is one, else our rule's."""
        del protocol
        given, target = str(answer["answer"]), str(sample.target)
        rule = grading.by_rule(given, target)
        details: dict[str, Any] = {
            "answer": given,
            "exact": any(is_exact(given, option) for option in grading.alternatives(target)),
            "f1": grading.best_f1(given, target),
            "right by our rule": rule,
            "graded by": "our rule",
        }
        is_right = rule
        if answer["judgement"] is not None:
            details["graded by"] = answer["judgement"]["judge"]
            verdict = grading.verdict(answer["judgement"]["said"])
            if verdict is None:
                return harness_fault("the judge gave no grade", said=answer["judgement"]["said"], **details)
            is_right = verdict
        if is_right:
            return right(**details)
        return wrong(**details) if answer["steps"] else format_or_limit("no plan", **details)

    def numbers(self, scores: Mapping[str, Sequence[Score]]) -> Mapping[str, float]:
        """Exact match and F1 in percent, which need no judge."""
        graded = [
            s for of_sample in scores.values() for s in of_sample if s.outcome is not Outcome.HARNESS_FAULT
        ]
        known = [score for score in graded if "f1" in score.details]
        if not known:
            return {}
        return {
            "exact match": 100 * sum(bool(score.details["exact"]) for score in known) / len(graded),
            "F1": 100 * sum(float(score.details["f1"]) for score in known) / len(graded),
        }

    def gold(self, sample: Sample, protocol: str) -> Agent:
        """Our own questions have a plan; elsewhere one step that asks nobody. Then the right answer."""
        del protocol  # both read it
        answer = grading.alternatives(str(sample.target))[0]
        plan = sample.input.get("plan", "Plan: I know the answer.\n#E1 = the answer is known")
        return _planner_and_solver(str(plan), answer)


def _planner_and_solver(plan: str, answer: str) -> Agent:
    """Gives the plan first and the answer ever after: to the tool LLM and to the solver."""
    return scripted(plan, answer)


def _cut(reply: str) -> str:
    """What the original keeps of a reply."""
    return reply.split("[INST]")[0].split("<|end_of_turn|>")[0].strip()


TASK = ReWOO()
