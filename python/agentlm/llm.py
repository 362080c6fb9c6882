"""Batch generation from Python, on the engine that also serves. Refuses to know how anything is computed."""

import asyncio
import operator
import secrets
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from agentlm._engine import ChatTemplate, Mailbox, Request
from agentlm.completion import Chunk, Completion
from agentlm.config import LONGEST_SECONDS, EngineConfig
from agentlm.conversation import Message, as_conversations, as_json
from agentlm.errors import (
    AdapterError,
    ChatTemplateError,
    ConfigError,
    GenerationError,
    InvalidMessageError,
    InvalidRequestError,
    NoChatTemplateError,
    OverloadedError,
    shown,
)
from agentlm.events import Event, LoopMailbox, chunks, completion
from agentlm.params import SamplingParams, Unnamed
from agentlm.progress import generation_progress, loading_progress, wanted
from agentlm.runtime.engine import EngineInfo, open_engine

Prompt = str | Sequence[int]
"""Text, or token ids."""

POLL_SECONDS = 0.1
"""How often a waiting call looks for Ctrl-C, and for places that other callers' requests gave up."""
PLACE_SECONDS = 0.005
"""How often a batch looks for its first place while other callers' requests hold every one."""
LONG_TEXT = 4096
"""Characters of a prompt that an event loop does not tokenise itself: about a millisecond."""


class LLM:
    """A model that answers prompts.

    Safe to call from several threads at once; every call's requests run in the same batch. Not usable after a fork.

    Args:
        model: a checkpoint directory or a hub name; None takes agentlm-nano, a demonstration model that comes with
            the package.
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
        # A wrong path is told before anything is loaded.
        if chat_template is not None and not _is_there(chat_template):
            raise NoChatTemplateError(
                f"`chat_template` must be a file, written in Jinja. Given: {_shown_path(chat_template)}"
            )
        self._progress = wanted() if progress is None else progress
        self._template: ChatTemplate | None = None
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopMailbox] = (
            weakref.WeakKeyDictionary()
        )
        with loading_progress(self._progress) as advance:
            self._running = open_engine(config, advance)
        if chat_template is not None:
            try:
                self._template = self._running.chat_template(chat_template)
            except NoChatTemplateError:
                self.close()
                raise

    @property
    def info(self) -> EngineInfo:
        """What was opened: backend, types, limits."""
        return self._running.info

    def stats(self) -> dict[str, float]:
        """The engine's counters and gauges by name."""
        self._running.check_usable()
        return self._running.engine.snapshot()

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Raises `InvalidRequestError`."""
        self._running.check_usable()
        if not isinstance(text, str):
            raise InvalidRequestError(f"what is tokenised must be text. Given: {shown(text)}")
        try:
            return self._running.tokenizer.encode(text, add_special_tokens)
        except UnicodeEncodeError as error:
            raise InvalidRequestError(
                f"text must be valid Unicode; character {error.start} is half of one (a lone surrogate): "
                f"{text[error.start]!a}"
            ) from error

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; one that the tokenizer does not know has none. Raises `InvalidRequestError`."""
        self._running.check_usable()
        ids = _token_ids(token_ids, "token ids must be a sequence of integers")
        return self._running.tokenizer.decode(ids, skip_special_tokens)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> list[Completion]:
        """Generates for each prompt; completions come in the prompts' order.

        `adapter` names one that `load_adapter` has loaded.

        `params` is one for all, or one a prompt. What is more than `max_concurrent_requests` is submitted as places become
        free. Ctrl-C and a failure of the engine abort what is unfinished.

        Raises:
            InvalidRequestError: a prompt or parameter is out of range; nothing was generated for any.
            AdapterError: no adapter has this name.
            GenerationError: requests failed, and all others are finished: the error holds them.
            EngineFailedError: the engine failed.
        """
        batch = _as_batch(prompts)
        completions: list[Completion | None] = [None] * len(batch)
        failed: dict[int, str] = {}
        for index, done in self._run(batch, params, adapter, progress):
            if isinstance(done, GenerationError):
                failed[index] = str(done)
            else:
                completions[index] = done
        if failed:
            index, why = min(failed.items())
            several = f"{len(failed)} of {len(batch)} requests failed; the first, prompt {index}: {why}"
            raise GenerationError(why if len(batch) == 1 else several, completions, failed)
        return [one for one in completions if one is not None]

    def as_completed(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> Iterator[tuple[int, Completion | GenerationError]]:
        """Yields each prompt's place and its completion, or why it failed, as they finish.

        Dropping the iterator aborts what is unfinished. Raises as `generate` does, but for `GenerationError`.
        """
        return self._run(_as_batch(prompts), params, adapter, progress)

    def _run(
        self,
        batch: list[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        adapter: str | None,
        progress: bool | None,
    ) -> Iterator[tuple[int, Completion | GenerationError]]:
        """Checks every prompt before any is submitted, and at once rather than when the iterator is first asked."""
        each = _params_for(batch, params)
        show = self._progress and len(batch) > 1 if progress is None else progress
        ids: list[list[int]] = []
        for index, (prompt, one) in enumerate(zip(batch, each, strict=True)):
            try:
                ids.append(self._ids(prompt))
                self._check(ids[-1], one)
            except InvalidRequestError as error:
                if len(batch) == 1:
                    raise
                told = InvalidRequestError(f"prompt {index}: {error}")
                told.prompt = index
                raise told from error
        self._check_adapter(adapter)
        return self._finished(ids, each, adapter, show)

    def _finished(
        self, ids: list[list[int]], each: list[SamplingParams], adapter: str | None, show: bool
    ) -> Iterator[tuple[int, Completion | GenerationError]]:
        mailbox = Mailbox()
        waiting = deque(range(len(ids)))
        running: dict[int, Request] = {}

        def submit_waiting() -> None:
            while waiting:
                key = waiting[0]
                try:
                    running[key] = self._submit(ids[key], each[key], adapter, mailbox, key, stream=False)
                except OverloadedError:
                    return
                waiting.popleft()

        try:
            with generation_progress(len(ids), show) as advance:
                submit_waiting()
                while running or waiting:
                    events = mailbox.take(POLL_SECONDS if running else PLACE_SECONDS)
                    for event in events:
                        del running[event.key]
                    # Their places are taken before the caller, who may take its time, hears of any.
                    submit_waiting()
                    for event in events:
                        try:
                            done = completion(event, each[event.key])
                        except GenerationError as error:
                            advance(0)
                            yield event.key, error
                            continue
                        advance(done.usage.completion_tokens)
                        yield event.key, done
        finally:
            for request in running.values():
                request.abort()

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Iterator[Chunk]:
        """Yields a chunk a token; the last one carries the completion. Dropping the iterator aborts the request."""
        one = _single(params)
        self._check_adapter(adapter)
        mailbox = Mailbox()
        request = self._submit(self._ids(prompt), one, adapter, mailbox, 0, stream=True)
        try:
            while True:
                for chunk in chunks(mailbox.take(POLL_SECONDS), one):
                    yield chunk
                    if chunk.completion is not None:
                        return
        finally:
            request.abort()

    async def agenerate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Completion:
        """Generates for one prompt without blocking the event loop; many may run at once. Cancelling aborts."""
        one = _single(params)
        async with aclosing(self._events(prompt, one, adapter, stream=False)) as batches:
            return completion((await anext(batches))[-1], one)

    async def astream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """Yields a chunk a token, as `stream` does, without blocking the event loop.

        Cancelling aborts; so does `aclose`, and leaving the loop early a moment later.
        """
        one = _single(params)
        async with aclosing(self._events(prompt, one, adapter, stream=True)) as batches:
            async for events in batches:
                for chunk in chunks(events, one):
                    yield chunk
                    if chunk.completion is not None:
                        return

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> list[Completion]:
        """Answers one conversation, or each of several, read as the server does and rendered by the chat template.

        Raises:
            NoChatTemplateError: there is no template.
            ChatTemplateError: the template refuses the messages.
            InvalidMessageError: what was given are no messages, or one holds what JSON or a chat cannot.
        """
        prompts = self._rendered(as_conversations(messages))
        return self.generate(prompts, params, adapter=adapter, progress=progress)

    def render_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation that the model is to continue. Raises as `chat` does."""
        self._running.check_usable()
        if self._template is None:
            self._template = self._running.chat_template()
        given = as_json(messages)
        try:
            read, _ = self._template.template_input(given)
        except ChatTemplateError as error:
            # The server's reader says so; the template was not asked yet.
            raise InvalidMessageError(str(error).removeprefix("Input validation error: ")) from error
        return self._template.prompt(read)[1]

    def _rendered(self, conversations: list[Sequence[Message]]) -> list[Prompt]:
        """Each rendered; an error names which of several it means."""
        prompts: list[Prompt] = []
        for index, one in enumerate(conversations):
            try:
                prompts.append(self.render_chat(one))
            except NoChatTemplateError:
                raise
            except (ChatTemplateError, InvalidMessageError) as error:
                if len(conversations) == 1:
                    raise
                raise type(error)(f"conversation {index}: {error}") from error
        return prompts

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Loads a LoRA adapter in peft's format, from a directory or the hub. Calls choose it by `adapter=name`.

        Raises:
            AdapterError: the name is taken, or is the model's own.
            ControlError: the adapter cannot be served.
        """
        self._running.load_adapter(name, path)

    def unload_adapter(self, name: str, *, timeout: float = 60.0) -> None:
        """Unloads an adapter, once the requests that use it have ended; they have `timeout` seconds.

        Raises:
            AdapterError: no adapter has this name.
            ControlError: the requests did not end in time.
        """
        self._check_adapter(name)
        self._ask("unload_adapter", name=name, timeout=timeout)

    def adapters(self) -> dict[str, str]:
        """The loaded adapters: names and directories."""
        self._running.check_usable()
        return dict(self._running.engine.adapters())

    def reload_weights(
        self, path: str | Path | None = None, *, abort: bool = False, timeout: float = 60.0
    ) -> int:
        """Exchanges the weights in place for those of another checkpoint of the same shape; None reads the same one again.

        Requests that run finish first, for at most `timeout` seconds, or are aborted; new ones wait. The prefix cache is
        forgotten, adapters stay. Returns how often the weights were exchanged.

        Raises:
            ControlError: the checkpoint cannot be had or has another shape, or requests did not end in time; nothing
                was changed.
        """
        directory = "" if path is None else str(path)
        self._ask("reload_weights", path=directory, abort=abort, timeout=timeout)
        return self._running.engine.weight_version()

    def sleep(self, *, abort: bool = False, timeout: float = 60.0) -> None:
        """Gives back the memory of weights and cache. Requests wait until `wake`. Raises as `reload_weights` does."""
        self._ask("sleep", abort=abort, timeout=timeout)

    def wake(self) -> None:
        """Takes the memory again and reads the weights that were served last. Does nothing where nothing sleeps."""
        self._ask("wake")

    def _ask(
        self, kind: str, *, name: str = "", path: str = "", abort: bool = False, timeout: float = 60.0
    ) -> None:
        self._running.check_usable()
        given: Any = timeout
        is_number = isinstance(given, Real) and not isinstance(given, bool)
        if not is_number or not 0 <= given < LONGEST_SECONDS:
            raise ConfigError(
                f"`timeout` must be seconds, at least 0 and below {LONGEST_SECONDS:g}. Given: {shown(given)}"
            )
        self._running.engine.ask(kind, name=name, path=path, abort=abort, patience=float(given))

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
        return _token_ids(prompt, "a prompt must be text or a sequence of token ids")

    def _check(self, ids: list[int], params: SamplingParams) -> None:
        """Raises `InvalidRequestError` if `_submit` would; compiles the grammar if there is one."""
        self._running.engine.check(ids, self._fitting(ids, params), grammar=_grammar(params))

    def _fitting(self, ids: list[int], params: SamplingParams) -> SamplingParams:
        """Parameters whose number of new tokens fills the context, if nobody named it and it does not fit."""
        most = params.max_new_tokens
        if isinstance(most, Unnamed) and len(ids) + most > self.info.max_total_tokens:
            return replace(params, max_new_tokens=None)
        return params

    def _check_adapter(self, adapter: str | None) -> None:
        """Raises `AdapterError` if `_submit` would."""
        if adapter is None:
            return
        loaded = sorted(self.adapters())
        if adapter not in loaded:
            raise AdapterError(f"no adapter is called {shown(adapter)}; loaded: {loaded}")

    def _submit(
        self,
        ids: list[int],
        params: SamplingParams,
        adapter: str | None,
        mailbox: Mailbox,
        key: int,
        *,
        stream: bool,
    ) -> Request:
        self._running.check_usable()
        return self._running.engine.submit(
            ids,
            self._fitting(ids, params),
            mailbox,
            key,
            stream=stream,
            seed=secrets.randbits(64),
            grammar=_grammar(params),
            adapter=adapter,
        )

    async def _events(
        self, prompt: Prompt, params: SamplingParams, adapter: str | None, *, stream: bool
    ) -> AsyncGenerator[list[Event], None]:
        """Batches of one request's events, without end; closing the generator aborts the request."""
        self._check_adapter(adapter)
        loop = asyncio.get_running_loop()
        box = self._loops.get(loop)
        if box is None:
            box = self._loops[loop] = LoopMailbox()
        key, queue = box.open(loop)
        request: Request | None = None
        try:
            # What takes long is left to another thread: the loop goes on meanwhile.
            long = isinstance(prompt, str) and len(prompt) > LONG_TEXT
            ids = await asyncio.to_thread(self._ids, prompt) if long else self._ids(prompt)
            if params.grammar is not None:
                # Compiled here, so that submitting finds it compiled.
                await asyncio.to_thread(self._check, ids, params)
            request = self._submit(ids, params, adapter, box.mailbox, key, stream=stream)
            while True:
                yield await queue.get()
        finally:
            box.forget(key, loop)
            if request is not None:
                request.abort()


def _grammar(params: SamplingParams) -> tuple[str, str] | None:
    """The grammar's kind and text, as the engine takes them."""
    return None if params.grammar is None else (params.grammar.kind, params.grammar.text)


def _is_there(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except (OSError, TypeError, ValueError):
        # No path at all: a number, too long, or with a null in it.
        return False


def _shown_path(path: Any) -> str:
    return shown(str(path) if isinstance(path, Path) else path)


def _token_ids(given: Any, what: str) -> list[int]:
    """The ids as plain integers. Raises `InvalidRequestError` that says `what` they must be."""
    try:
        if isinstance(given, str | bytes | bytearray):
            raise TypeError
        ids = [operator.index(token) for token in given]
    except TypeError as error:
        raise InvalidRequestError(f"{what}. Given: {shown(given)}") from error
    if ids and not 0 <= min(ids) <= max(ids) < 2**32:
        raise InvalidRequestError(
            f"token ids must be from 0 to the vocabulary's last. Given: {shown(min(ids))} to {shown(max(ids))}"
        )
    return ids


def _single(params: SamplingParams | None) -> SamplingParams:
    """One prompt's parameters. Raises `InvalidRequestError` for what are none."""
    given: Any = params
    if given is None:
        return SamplingParams()
    if not isinstance(given, SamplingParams):
        raise InvalidRequestError(
            f"one prompt's sampling parameters must be SamplingParams. Given: {shown(given)}"
        )
    return given


def _as_batch(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    given: Any = prompts
    if isinstance(given, str | bytes | bytearray) or not isinstance(given, Iterable):
        # What is no prompt is refused as the one that it was meant to be.
        return [given]
    several = list(given)
    if several and all(isinstance(item, Integral) for item in several):
        return [several]
    return several


def _params_for(
    batch: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * len(batch)
    given: Any = params
    if not isinstance(given, Sequence) or not all(isinstance(one, SamplingParams) for one in given):
        raise InvalidRequestError(
            f"sampling parameters must be SamplingParams, one or one each. Given: {shown(given)}"
        )
    if len(given) != len(batch):
        raise InvalidRequestError(
            f"{len(batch)} prompts but {len(given)} sampling parameters; give one, or one each"
        )
    return list(given)
