"""A model behind a pool of servers. Refuses to know tasks, episodes and run directories."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentlm_evals.errors import (
    ConfigError,
    LimitReached,
    RequirementError,
    UnsupportedError,
)
from agentlm_evals.model import Decoding, Generation, Limits, Message, Prompt
from agentlm_evals.models.cache import CallCache
from agentlm_evals.models.dialect import (
    Ask,
    openai_chat,
    openai_completion,
    read_openai,
    read_tgi,
    tgi_generate,
    token_ids,
)
from agentlm_evals.models.endpoint import Answer
from agentlm_evals.models.pool import Pool, Refusal
from agentlm_evals.models.template import SERVER, TEMPLATES

Api = Literal["tgi", "openai"]
DEFAULT_CONCURRENCY = 16
"""Requests at once to a server that does not say how many it takes."""
MOST_CONCURRENCY = 256

_TOO_LONG = re.compile(
    r"`(?:inputs|messages|prompt)` (?:tokens \+ `\w+` must be <=|must have less than)|context (?:length|size|window)"
    r"|\b(?:prompt|input)\b.{0,80}?\b(?:is too long|longer than|does not fit)|reduce the length",
    re.I | re.S,
)
"""What servers say of a prompt that is too long, and of nothing else: TGI, ours on each route, vLLM, llama.cpp, SGLang."""
_TGI_NUMBERS = re.compile(r"must be <= (\d+)\. Given: (\d+) `(?:inputs|messages|prompt)` tokens")
_VLLM_NUMBERS = re.compile(
    r"maximum context length is (\d+) tokens.*?(?:\((?=\d+ in the (?:messages|prompt))|has (?=\d+ input tokens)"
    r"|at least (?=\d+ input tokens))(\d+)",
    re.S,
)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the servers say of themselves; for the log and the report."""

    model: str
    """As the report names it."""
    asked: str
    """The name by which requests ask for it."""
    api: Api
    weights: str | None
    """A digest or commit of the weights; None: not known, so that nothing is cached."""
    version: str
    limits: Limits
    concurrency: int
    """Requests that all servers together take at once."""
    takes_ids: bool
    """Whether `/v1/completions` scores prompts given as token ids."""
    adapter: str | None = None
    """The adapter that is asked for, where the name that was given is one's; None: the model itself."""
    settings: tuple[str, ...] = ()
    """Flags of a server that we started: they may change answers as weights do."""


class ServedModel:
    """`Model` over HTTP."""

    def __init__(
        self, pool: Pool, facts: ServerFacts, template: str = SERVER, cache: CallCache | None = None
    ) -> None:
        if template != SERVER and template not in TEMPLATES:
            raise ConfigError(
                f"template is {template!r}; it must be {SERVER} or one of {', '.join(TEMPLATES)}"
            )
        self.pool = pool
        self.facts = facts
        self.template = template
        self._cache = cache if facts.weights else None
        self._last_ids: dict[str, int] = {}

    def with_template(self, template: str) -> "ServedModel":
        """The same servers, another way to render messages."""
        return ServedModel(self.pool, self.facts, template, self._cache)

    @property
    def name(self) -> str:
        """As the servers name it."""
        return self.facts.model

    @property
    def origin(self) -> str:
        """The servers' hosts."""
        return ", ".join(sorted({endpoint.host for endpoint in self.pool.endpoints}))

    @property
    def limits(self) -> Limits:
        """The narrowest server's."""
        return self.facts.limits

    async def generate(self, prompt: Prompt, decoding: Decoding, seed: int) -> Generation:
        """See `Model.generate`."""
        if not isinstance(prompt, str) and self.template != SERVER:
            prompt = TEMPLATES[self.template](prompt)
        try:
            return await self._generate(prompt, decoding, seed)
        except Refusal as refusal:
            room = _room(refusal)
            if room is None:
                raise
            if not 0 < room < decoding.max_new_tokens:
                raise LimitReached(f"the prompt does not fit: {refusal.said}") from refusal
            # The prompt fits, a reply of full length would not: the model gets what room there is.
            return await self._generate(prompt, decoding.with_(max_new_tokens=room), seed)

    async def _generate(self, prompt: Prompt, decoding: Decoding, seed: int) -> Generation:
        read: Callable[[Answer, Sequence[str]], Generation] = read_openai
        if not isinstance(prompt, str):
            if decoding.truncate is not None:
                raise ConfigError("truncate cuts raw prompts: choose a --template by name")
            ask = openai_chat(prompt, decoding, seed, self.facts.asked)
        elif self.facts.api == "tgi":
            ask, read = tgi_generate(prompt, decoding, seed, self.facts.adapter), read_tgi
        else:
            if decoding.truncate is not None:
                raise UnsupportedError("this server has no `truncate`: OpenAI's routes do not know it")
            ask = openai_completion(prompt, decoding, seed, self.facts.asked)
        keeps = self._cache is not None and decoding.is_greedy
        if keeps and (found := await self._cached(ask)) is not None:
            return Generation(**found)
        generation: Generation = await self.pool.ask(
            "POST", ask.path, ask.body, lambda answer: read(answer, decoding.stop)
        )
        if keeps:
            await self._keep(ask, _fields(generation))
        return generation

    async def score(
        self, prompt: Prompt, continuations: Sequence[str], window: int | None = None
    ) -> list[float]:
        """See `Model.score`."""
        if self.facts.takes_ids:
            ids = await self._ids(prompt)
            if window is not None and len(ids) > window:
                ids = ids[-(window - 1) :]
            lasts = [await self._last_id(text) for text in continuations]
            # A letter's id does not depend on what the tokenizer merges across the border.
            body = {
                "model": self.facts.asked,
                "prompt": [[*ids, last] for last in lasts],
                "max_tokens": 0,
                "echo": True,
                "logprobs": 0,
            }
            return await self._scored(Ask("/v1/completions", body), last_logprobs)
        text = await self.render(prompt)
        scores = []
        for continuation in continuations:
            if self.facts.api == "tgi":
                parameters: dict[str, Any] = {
                    "max_new_tokens": 1,
                    "decoder_input_details": True,
                    "details": True,
                }
                if window is not None:
                    parameters["truncate"] = window
                if self.facts.adapter is not None:
                    parameters["adapter_id"] = self.facts.adapter
                ask = Ask("/generate", {"inputs": text + continuation, "parameters": parameters})
                scores += await self._scored(ask, _prefill_logprob)
            else:
                body = {
                    "model": self.facts.asked,
                    "prompt": text + continuation,
                    "max_tokens": 1,
                    "echo": True,
                    "logprobs": 1,
                }
                scores += await self._scored(Ask("/v1/completions", body), _echo_logprob)
        return scores

    async def _scored(self, ask: Ask, read: Callable[[Answer], list[float]]) -> list[float]:
        if self._cache is not None and (found := await self._cached(ask)) is not None:
            return [float(value) for value in found["scores"]]
        try:
            scores: list[float] = await self.pool.ask("POST", ask.path, ask.body, read)
        except Refusal as refusal:
            if _room(refusal) is not None:
                raise LimitReached(f"the prompt does not fit: {refusal.said}") from refusal
            raise UnsupportedError(f"the server scores no prompts: {refusal}") from refusal
        if self._cache is not None:
            await self._keep(ask, {"scores": scores})
        return scores

    async def check_template(self) -> None:
        """Finds out whether messages can be rendered at all, before any episode has to.

        Raises:
            RequirementError: The server has no chat template.
        """
        if self.template != SERVER:
            return
        ask = openai_chat([Message("user", "Hello")], Decoding(max_new_tokens=1), 0, self.facts.asked)
        try:
            await self.pool.ask("POST", ask.path, ask.body, lambda answer: read_openai(answer, ()))
        except Refusal as refusal:
            named = ", ".join(TEMPLATES)
            raise RequirementError(
                f"the server cannot render messages ({refusal.said}): choose a --template ({named})"
            ) from refusal

    async def render(self, prompt: Prompt) -> str:
        """The raw prompt that the template makes of messages, without the token that the tokenizer puts first.

        Raises:
            UnsupportedError: The server renders them itself and does not show how.
        """
        if isinstance(prompt, str):
            return prompt
        if self.template != SERVER:
            return TEMPLATES[self.template](prompt)
        if self.facts.api != "tgi":
            raise UnsupportedError(
                "OpenAI's routes do not show a rendered prompt: choose a --template by name"
            )

        text, ids = await self._chat_tokenize(prompt)
        del ids
        return text

    async def _chat_tokenize(self, prompt: Sequence[Message]) -> tuple[str, list[int]]:
        """The rendered prompt, less the token that the tokenizer puts first, and its ids with it."""

        def read(answer: Answer) -> tuple[str, list[int]]:
            text, first = str(answer.body["templated_text"]), str(answer.body["tokenize_response"][0]["text"])
            return (text.removeprefix(first) if first.startswith("<") else text), token_ids(answer)

        found: tuple[str, list[int]] = await self.pool.ask("POST", "/chat_tokenize", _messages(prompt), read)
        last = prompt[-1]
        if last.role == "assistant" and not found[0].rstrip().endswith(last.content.rstrip()):
            raise UnsupportedError(
                "the server ends a last message of the assistant's: choose a --template by name"
            )
        return found

    async def _ids(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str) and self.template != SERVER:
            prompt = TEMPLATES[self.template](prompt)
        if not isinstance(prompt, str):
            return (await self._chat_tokenize(prompt))[1]
        ids: list[int] = await self.pool.ask("POST", "/tokenize", {"inputs": prompt}, token_ids)
        return ids

    async def _last_id(self, text: str) -> int:
        if text not in self._last_ids:
            self._last_ids[text] = (await self._ids(text))[-1]
        return self._last_ids[text]

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        """See `Model.count_prompt_tokens`."""
        if self.facts.api != "tgi":
            raise UnsupportedError("OpenAI's routes count no tokens")
        return len(await self._ids(prompt))

    async def _cached(self, ask: Ask) -> dict[str, Any] | None:
        assert self._cache is not None
        return await self._cache.get(self._key(ask))

    async def _keep(self, ask: Ask, value: dict[str, Any]) -> None:
        assert self._cache is not None
        await self._cache.put(self._key(ask), value)

    def _key(self, ask: Ask) -> dict[str, Any]:
        return {
            "weights": self.facts.weights,
            "server": self.facts.version,
            "settings": self.facts.settings,
            "path": ask.path,
            "body": ask.body,
        }


def _messages(prompt: Sequence[Message]) -> dict[str, Any]:
    return {"messages": [{"role": message.role, "content": message.content} for message in prompt]}


def _fields(generation: Generation) -> dict[str, Any]:
    return {name: getattr(generation, name) for name in Generation.__slots__}


def _room(refusal: Refusal) -> int | None:
    """Tokens that a reply may have, by a refusal for length; 0 if the prompt is too long, None if it is another refusal."""
    if refusal.status not in (400, 413, 422) or not _TOO_LONG.search(refusal.said):
        return None
    numbers = _TGI_NUMBERS.search(refusal.said) or _VLLM_NUMBERS.search(refusal.said)
    return max(int(numbers[1]) - int(numbers[2]), 0) if numbers else 0


def last_logprobs(answer: Answer) -> list[float]:
    """The log-probability of each prompt's last token, from `/v1/completions` with `echo`."""
    choices = sorted(answer.body["choices"], key=lambda choice: int(choice["index"]))
    return [float(choice["logprobs"]["token_logprobs"][-1]) for choice in choices]


def _prefill_logprob(answer: Answer) -> list[float]:
    prefill = answer.body["details"]["prefill"]
    if not prefill:
        raise Refusal(
            422, "the list `prefill` is empty", "the server gives no log-probabilities of the prompt"
        )
    return [float(prefill[-1]["logprob"])]


def _echo_logprob(answer: Answer) -> list[float]:
    # The one token that had to be generated comes last.
    return [float(answer.body["choices"][0]["logprobs"]["token_logprobs"][-2])]
