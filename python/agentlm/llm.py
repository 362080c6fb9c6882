"""Batch generation from Python, on the engine that also serves. Refuses to know how anything is computed."""

import asyncio
import json
import operator
import secrets
import weakref
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import zip_longest
from numbers import Integral
from pathlib import Path
from typing import Any

from agentlm._engine import ChatTemplate, EndEvent, ErrorEvent, Mailbox, Request, TokenEvent
from agentlm.completion import Chunk, Completion, Usage
from agentlm.config import EngineConfig
from agentlm.errors import (
    AgentLMError,
    EngineClosedError,
    EngineFailedError,
    GenerationError,
    InvalidRequestError,
    RequestAbortedError,
)
from agentlm.params import SamplingParams
from agentlm.progress import generation_progress, loading_progress, wanted
from agentlm.runtime.engine import EngineInfo, open_engine

Prompt = str | Sequence[int]
"""Text, or token ids."""
Message = Mapping[str, Any]
"""One chat message: `role` and `content`."""
Event = TokenEvent | EndEvent | ErrorEvent

POLL_SECONDS = 0.1
"""How often a waiting call looks for Ctrl-C."""

_ERRORS: dict[str, type[AgentLMError]] = {
    "refused": InvalidRequestError,
    "aborted": RequestAbortedError,
    "generation": GenerationError,
    "engine_failed": EngineFailedError,
    "closed": EngineClosedError,
}


class LLM:
    """A model that answers prompts.

    Safe to call from several threads at once; every call's requests run in the same batch. Not usable after a fork.

    Args:
        model: a checkpoint directory or a hub name; None takes a small random model, whose text means nothing.
        progress: show progress bars; None shows them on a terminal and in a notebook.
        chat_template: a Jinja file to use instead of the checkpoint's own template.
        settings: any field of `agentlm.EngineConfig`, such as `dtype`, `backend`, `kv_cache_memory`.

    Raises:
        AgentLMError: one class a kind, see `agentlm.errors`.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        progress: bool | None = None,
        chat_template: str | Path | None = None,
        **settings: Any,
    ) -> None:
        config = EngineConfig.from_dict({"model": None if model is None else str(model), **settings})
        self._progress = wanted() if progress is None else progress
        with loading_progress(self._progress) as advance:
            self._running = open_engine(config, advance)
        self._template_file = chat_template
        self._template: ChatTemplate | None = None
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopMailbox] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def info(self) -> EngineInfo:
        """What was opened: backend, types, limits."""
        return self._running.info

    def stats(self) -> dict[str, float]:
        """The engine's counters and gauges by name."""
        self._running.check_usable()
        return self._running.engine.snapshot()

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        self._running.check_usable()
        try:
            return self._running.tokenizer.encode(text, add_special_tokens)
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                f"text must be valid Unicode; character {error.start} is half of one (a lone surrogate): "
                f"{text[error.start]!a}"
            ) from error

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        self._running.check_usable()
        return self._running.tokenizer.decode(token_ids, skip_special_tokens)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
    ) -> list[Completion]:
        """Generates for each prompt; completions come in the prompts' order.

        `params` is one for all, or one a prompt. Ctrl-C and a failure of the engine abort what is unfinished.

        Raises:
            InvalidRequestError: a prompt or parameter is out of range; nothing was generated for any.
            GenerationError: requests failed, and all others are finished: the error holds them.
            EngineFailedError: the engine failed.
        """
        batch = _as_batch(prompts)
        completions: list[Completion | None] = [None] * len(batch)
        failed: dict[int, str] = {}
        for index, done in self.as_completed(batch, params, progress=progress):
            if isinstance(done, GenerationError):
                failed[index] = str(done)
            else:
                completions[index] = done
        if failed:
            index, why = min(failed.items())
            several = f"{len(failed)} of {len(batch)} requests failed; the first, prompt {index}: {why}"
            raise GenerationError(why if len(batch) == 1 else several, completions, failed)
        return [completion for completion in completions if completion is not None]

    def as_completed(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
    ) -> Iterator[tuple[int, Completion | GenerationError]]:
        """Yields each prompt's place and its completion, or why it failed, as they finish.

        Dropping the iterator aborts what is unfinished. Raises as `generate` does, but for `GenerationError`.
        """
        batch = _as_batch(prompts)
        each = _params_for(batch, params)
        show = self._progress and len(batch) > 1 if progress is None else progress
        ids: list[list[int]] = []
        # All are checked before any is submitted.
        for index, (prompt, one) in enumerate(zip(batch, each, strict=True)):
            try:
                ids.append(self._ids(prompt))
                self._running.engine.check(ids[-1], one)
            except InvalidRequestError as error:
                if len(batch) == 1:
                    raise
                told = InvalidRequestError(f"prompt {index}: {error}")
                told.prompt = index
                raise told from error
        return self._as_completed(ids, each, show)

    def _as_completed(
        self, ids: list[list[int]], each: list[SamplingParams], show: bool
    ) -> Iterator[tuple[int, Completion | GenerationError]]:
        mailbox = Mailbox()
        requests: list[Request] = []
        try:
            for key, (prompt, one) in enumerate(zip(ids, each, strict=True)):
                requests.append(self._submit(prompt, one, mailbox, key, stream=False))
            with generation_progress(len(ids), show) as advance:
                left = len(ids)
                while left:
                    for event in mailbox.take(POLL_SECONDS):
                        left -= 1
                        try:
                            done = _completion(event, each[event.key])
                        except GenerationError as error:
                            advance(0)
                            yield event.key, error
                            continue
                        advance(done.usage.completion_tokens)
                        yield event.key, done
        finally:
            for request in requests:
                request.abort()

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Chunk]:
        """Yields a chunk a token; the last one carries the completion. Dropping the iterator aborts the request."""
        one = params or SamplingParams()
        mailbox = Mailbox()
        request = self._submit(self._ids(prompt), one, mailbox, 0, stream=True)
        try:
            while True:
                for chunk in _chunks(mailbox.take(POLL_SECONDS), one):
                    yield chunk
                    if chunk.completion is not None:
                        return
        finally:
            request.abort()

    async def agenerate(self, prompt: Prompt, params: SamplingParams | None = None) -> Completion:
        """Generates for one prompt without blocking the event loop; many may run at once. Cancelling aborts."""
        one = params or SamplingParams()
        async with aclosing(self._events(prompt, one, stream=False)) as batches:
            return _completion((await anext(batches))[-1], one)

    async def astream(
        self, prompt: Prompt, params: SamplingParams | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Yields a chunk a token, as `stream` does, without blocking the event loop.

        Cancelling aborts; so does `aclose`, and leaving the loop early a moment later.
        """
        one = params or SamplingParams()
        async with aclosing(self._events(prompt, one, stream=True)) as batches:
            async for events in batches:
                for chunk in _chunks(events, one):
                    yield chunk
                    if chunk.completion is not None:
                        return

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        progress: bool | None = None,
    ) -> list[Completion]:
        """Answers one conversation, or each of several, rendered by the checkpoint's chat template.

        Raises:
            ChatTemplateError: there is no template, or it refuses the messages.
        """
        several = _as_conversations(messages)
        return self.generate([self.render_chat(one) for one in several], params, progress=progress)

    def render_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation that the model is to continue."""
        self._running.check_usable()
        if self._template is None:
            self._template = self._running.chat_template(self._template_file)
        for message in messages:
            if not isinstance(message, Mapping):
                raise InvalidRequestError(
                    f'a message must be a mapping such as {{"role": "user", "content": "Hi"}}. Given: {message!r:.80}'
                )
        return self._template.prompt(json.dumps([dict(message) for message in messages]))[1]

    def close(self) -> None:
        """Ends unfinished requests with an error and frees the memory. Safe to repeat."""
        self._running.close()

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ids(self, prompt: Prompt) -> list[int]:
        self._running.check_usable()
        if isinstance(prompt, str):
            return self.tokenize(prompt)
        try:
            if isinstance(prompt, bytes | bytearray):
                raise TypeError
            ids = [operator.index(token) for token in prompt]
        except TypeError as error:
            raise InvalidRequestError(
                f"a prompt must be text or a sequence of token ids. Given: {prompt!r:.80}"
            ) from error
        if ids and not 0 <= min(ids) <= max(ids) < 2**32:
            raise InvalidRequestError(
                f"token ids must be from 0 to the vocabulary's last. Given: {min(ids)} to {max(ids)}"
            )
        return ids

    def _submit(
        self, ids: list[int], params: SamplingParams, mailbox: Mailbox, key: int, *, stream: bool
    ) -> Request:
        self._running.check_usable()
        seed = secrets.randbits(64)
        return self._running.engine.submit(ids, params, mailbox, key, stream=stream, seed=seed)

    async def _events(
        self, prompt: Prompt, params: SamplingParams, *, stream: bool
    ) -> AsyncGenerator[list[Event], None]:
        """Batches of one request's events, without end; closing the generator aborts the request."""
        loop = asyncio.get_running_loop()
        box = self._loops.get(loop)
        if box is None:
            box = self._loops[loop] = _LoopMailbox()
        key, queue = box.open()
        request: Request | None = None
        try:
            request = self._submit(self._ids(prompt), params, box.mailbox, key, stream=stream)
            while True:
                yield await queue.get()
        finally:
            box.forget(key)
            if request is not None:
                request.abort()


class _LoopMailbox:
    """One mailbox for all requests of one event loop: one wake-up serves many events."""

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        self._queues: dict[int, asyncio.Queue[list[Event]]] = {}
        self._next = 0

    def open(self) -> tuple[int, asyncio.Queue[list[Event]]]:
        """A key for a new request, and the queue on which its events come."""
        if not self._queues:
            # Watched only while a request waits, so that the loop does not keep the mailbox of a forgotten engine.
            asyncio.get_running_loop().add_reader(self.mailbox.fileno(), self._deliver)
        self._next += 1
        queue = self._queues[self._next] = asyncio.Queue()
        return self._next, queue

    def forget(self, key: int) -> None:
        """Drops what still comes for `key`."""
        del self._queues[key]
        if not self._queues:
            asyncio.get_running_loop().remove_reader(self.mailbox.fileno())

    def _deliver(self) -> None:
        together: dict[int, list[Event]] = {}
        for event in self.mailbox.take(0):
            together.setdefault(event.key, []).append(event)
        for key, events in together.items():
            if (queue := self._queues.get(key)) is not None:
                queue.put_nowait(events)


def _chunks(events: Sequence[Event], params: SamplingParams) -> Iterator[Chunk]:
    """Chunks of one request's events; a token and the end it brings arrive together."""
    for event, following in zip_longest(events, events[1:]):
        if isinstance(event, TokenEvent):
            yield Chunk(
                text=event.text,
                token_id=event.id,
                index=event.index,
                logprob=event.logprob,
                top_logprobs=tuple(event.top),
                completion=_completion(following, params) if isinstance(following, EndEvent) else None,
            )
        elif isinstance(event, ErrorEvent):
            raise _ERRORS[event.kind](event.message)


def _completion(event: Event, params: SamplingParams) -> Completion:
    """The completion that the only event of an unstreamed request, or the last of a streamed one, tells."""
    if isinstance(event, ErrorEvent):
        raise _ERRORS[event.kind](event.message)
    if isinstance(event, TokenEvent):
        raise TypeError("a token is no end: only a streamed request tells its tokens")
    wants_logprobs = params.logprobs or params.top_n_tokens > 0
    top = tuple(tuple(position) for position in event.top_logprobs) if params.top_n_tokens else None
    return Completion(
        text=event.text,
        token_ids=tuple(event.token_ids),
        finish_reason=event.finish_reason,
        usage=Usage(
            prompt_tokens=event.prompt_tokens,
            completion_tokens=len(event.token_ids),
            cached_tokens=event.cached_tokens,
            queue_seconds=event.queue_seconds,
            first_token_seconds=event.first_token_seconds,
            total_seconds=event.total_seconds,
        ),
        logprobs=tuple(event.logprobs) if wants_logprobs else None,
        top_logprobs=top,
        stop=None if event.stop_index is None else params.stop[event.stop_index],
    )


def _as_batch(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | bytes | bytearray):
        # Bytes are refused as the one prompt that they were meant to be.
        return [prompts]
    several = list(prompts)
    if several and all(isinstance(item, Integral) for item in several):
        return [several]  # type: ignore[list-item]
    return several  # type: ignore[return-value]


def _as_conversations(
    messages: Sequence[Message] | Sequence[Sequence[Message]],
) -> list[Sequence[Message]]:
    if isinstance(messages, str | bytes | Mapping):
        raise InvalidRequestError(
            'a chat must be a list of messages such as [{"role": "user", "content": "Hi"}]. '
            f"Given: {messages!r:.80}"
        )
    if messages and isinstance(messages[0], Mapping):
        return [messages]  # type: ignore[list-item]
    return list(messages)  # type: ignore[arg-type]


def _params_for(
    batch: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * len(batch)
    if isinstance(params, Mapping) or not all(isinstance(one, SamplingParams) for one in params):
        raise InvalidRequestError(
            f"sampling parameters must be SamplingParams, one or one each. Given: {params!r:.80}"
        )
    if len(params) != len(batch):
        raise InvalidRequestError(
            f"{len(batch)} prompts but {len(params)} sampling parameters; give one, or one each"
        )
    return list(params)
