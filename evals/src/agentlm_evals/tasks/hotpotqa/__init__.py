"""HotpotQA: 300 questions that take two articles each; search, look up, finish; F1 of the answer.

The search goes over the questions' own paragraphs (`hotpotqa-closed`), where the original asked the Wikipedia of its day: a
closed corpus is easier to search and gives the same answer tomorrow. The live one is an option. The original writes one
record a level, so that its average is over three questions; here it is over all. Refuses to know servers.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import httpx

from agentlm_evals.errors import DataError, LimitReached
from agentlm_evals.harness.episode import Episode
from agentlm_evals.model import Decoding, Message
from agentlm_evals.outcome import Score, right, wrong
from agentlm_evals.protocols import AGENTLM, AGENTTUNING
from agentlm_evals.task import (
    Agent,
    Average,
    Group,
    Metric,
    Option,
    Sample,
    Setting,
    Task,
    own_samples,
    read_lines,
    scripted,
)
from agentlm_evals.tasks.hotpotqa import prompts, published
from agentlm_evals.tasks.hotpotqa.articles import Articles
from agentlm_evals.tasks.hotpotqa.reading import Article, Encyclopedia, NothingOpenError, Visit
from agentlm_evals.tasks.hotpotqa.scoring import f1, is_exact

STEPS = 10
PROMPT_TOKENS = 1700
"""The published protocol ends an episode whose prompt is longer."""
_ACTION = re.compile(r"^(\w+)\[(.+)\]$")
_LOOSE_ACTION = re.compile(r"^(\w+)\[(.+)\]")


def read_action(reply: str) -> tuple[str, str]:
    """An action's name and argument, as the original reads it: what stands behind the last bracket is forgiven."""
    match = _ACTION.match(reply) or _LOOSE_ACTION.match(reply.strip(" ").strip("."))
    return (match[1], match[2]) if match else (reply, "")


def _one_line(text: str) -> str:
    return text.strip("\n").strip().replace("\n", "")


@dataclass(frozen=True, slots=True)
class _Texts:
    """What a protocol says."""

    instruction: str
    examples: str
    thought: str
    action: str
    observation: str
    nothing_open: str
    invalid: str

    def prompt(self, question: str, scratchpad: str) -> str:
        return self.instruction.format(examples=self.examples, question=question, scratchpad=scratchpad)


_OURS = _Texts(
    prompts.INSTRUCTION,
    prompts.EXAMPLES,
    prompts.THOUGHT,
    prompts.ACTION,
    prompts.OBSERVATION,
    prompts.NOTHING_OPEN,
    prompts.INVALID,
)


class HotpotQA(Task):
    """F1 over three levels of a hundred questions each."""

    name, title, group = "hotpotqa", "HotpotQA", Group.HELD_OUT
    metric = Metric("F1", average=Average.MACRO, is_share=False)
    published_mean = 34.96
    protocols = (AGENTLM, AGENTTUNING)
    sources, source_files = published.SOURCES, published.FILES
    assumptions = MappingProxyType(
        {
            AGENTLM: "hotpotqa-closed: the search is over the questions' own paragraphs, unless it is `wikipedia`",
            AGENTTUNING: "a prompt's 1,700 tokens are counted by the served model's tokenizer; unless the search is "
            "`wikipedia`, it is over the questions' own paragraphs",
        }
    )
    options = (
        Option(
            "search",
            "closed",
            "where articles come from: the questions' own paragraphs, or the live Wikipedia",
            ("closed", "wikipedia"),
        ),
    )
    max_samples = 300

    def samples(self, setting: Setting) -> list[Sample]:
        """The 300 questions of the BOLAA set (`hotpotqa/bolaa_300.jsonl.gz`), or our own."""
        return [
            Sample(
                row["id"],
                {"question": row["question"], "type": row["type"], "titles": _titles(row)},
                row["answer"],
                row["level"],
            )
            for row in _rows(setting)
        ]

    def versions(self, setting: Setting) -> Mapping[str, str]:
        """What the search is."""
        if _is_live(setting):
            return {"search": "live Wikipedia"}
        return {"search": f"hotpotqa-closed, bm25s {version('bm25s')}"}

    @asynccontextmanager
    async def environment(self, setting: Setting) -> AsyncIterator[Encyclopedia]:
        """The corpus: every paragraph of every question; or the live Wikipedia."""
        if _is_live(setting):
            from agentlm_evals.tasks.hotpotqa.wikipedia import Wikipedia

            async with httpx.AsyncClient(timeout=30, follow_redirects=True) as client:
                yield Wikipedia(client)
            return
        yield Articles(
            Article(title, "".join(sentences).strip(), tuple(sentences))
            for row in _rows(setting)
            for title, sentences in row["context"]
        )

    def decoding(self, protocol: str) -> Decoding:
        """One line, greedy; the original's temperature of 0.00001 is as good as that."""
        del protocol  # the same in both
        return Decoding(max_new_tokens=256, stop=("\n",))

    async def solve(self, episode: Episode) -> Any:
        """Up to ten steps of a thought and an action; returns the answer.

        Raises:
            LimitReached: There is none by then, or the prompt has become too long.
        """
        is_published = episode.protocol == AGENTTUNING
        texts = _published(episode.texts) if is_published else _OURS
        question = str(episode.sample.input["question"])
        visit = Visit(episode.environment)
        scratchpad = ""
        episode.user(texts.prompt(question, ""))
        for step in range(1, STEPS + 1):
            if is_published:
                await self._check_length(episode, texts.prompt(question, scratchpad))
            said = ""
            reply = ""
            for opening in (texts.thought.format(step), texts.action.format(step)):
                generation = await episode.generate(texts.prompt(question, scratchpad + said + opening))
                reply = _one_line(generation.text)
                said += f"{opening} {reply}"
            episode.messages.append(Message("assistant", said.lstrip("\n")))
            name, argument = read_action(reply)
            if name == "Finish":
                return argument
            observation = texts.observation.format(step) + await self._observe(visit, name, argument, texts)
            episode.user(observation.lstrip("\n"))
            scratchpad += said + observation
        raise LimitReached(f"no answer in {STEPS} steps")

    @staticmethod
    async def _observe(visit: Visit, name: str, argument: str, texts: _Texts) -> str:
        if name == "Search":
            return _one_line(await visit.search(argument))
        if name == "Lookup":
            try:
                return _one_line(visit.lookup(argument))
            except NothingOpenError:
                return texts.nothing_open
        return texts.invalid

    @staticmethod
    async def _check_length(episode: Episode, prompt: str) -> None:
        tokens = await episode.model.count_prompt_tokens(prompt)
        if tokens > PROMPT_TOKENS:
            raise LimitReached(f"the prompt has {tokens} tokens; the protocol ends at {PROMPT_TOKENS}")

    def score(self, sample: Sample, answer: Any, protocol: str) -> Score:
        """F1; right if the answer is the right one to the word."""
        del protocol
        value = f1(str(answer), str(sample.target))
        details = {"answer": answer, "f1": value}
        return (
            right(value, **details) if is_exact(str(answer), str(sample.target)) else wrong(value, **details)
        )

    def gold(self, sample: Sample, protocol: str) -> Agent:
        """Opens the articles that the answer stands on, and gives it."""
        del protocol
        replies: list[str] = []
        for title in sample.input["titles"]:
            replies += [f"I read about {title}.", f"Search[{title}]"]
        return scripted(*replies, "Now I know the answer.", f"Finish[{sample.target}]")


def _is_live(setting: Setting) -> bool:
    return setting.options.get("search", "closed") == "wikipedia"


def _published(texts: Mapping[str, Any]) -> _Texts:
    names = ("instruction", "examples", "thought", "action", "observation", "nothing open", "invalid")
    return _Texts(*(str(texts[name]) for name in names))


def _titles(row: Mapping[str, Any]) -> list[str]:
    """Articles that the answer stands on, each once."""
    return list(dict.fromkeys(str(title) for title, _ in row["supporting_facts"]))


def _rows(setting: Setting) -> list[dict[str, Any]]:
    """The items as they lie.

    Raises:
        DataError: One of them is no HotpotQA item.
    """
    source = setting.source
    rows = (
        own_samples(__file__)
        if source.is_own
        else read_lines(
            source.path("hotpotqa/bolaa_300.jsonl.gz", "hotpotqa/bolaa_300.jsonl", "bolaa_300.jsonl.gz")
        )
    )
    wanted = {"id", "level", "type", "question", "answer", "supporting_facts", "context"}
    for number, row in enumerate(rows):
        if lacking := wanted - row.keys():
            raise DataError(f"HotpotQA's item {number} has no {', '.join(sorted(lacking))}")
    return rows


TASK = HotpotQA()
"""The task."""
