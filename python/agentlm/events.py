"""What a mailbox tells of requests, as completions, chunks and errors. Refuses to know prompts and engines."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from weakref import WeakValueDictionary

from agentlm._engine import EndEvent, ErrorEvent, Mailbox, TokenEvent
from agentlm.completion import Chunk, Completion, Usage
from agentlm.errors import (
    AgentLMError,
    EngineClosedError,
    EngineFailedError,
    GenerationError,
    InvalidRequestError,
    RequestAbortedError,
)
from agentlm.params import SamplingParams

Event = TokenEvent | EndEvent | ErrorEvent

_ERRORS: dict[str, type[AgentLMError]] = {
    "refused": InvalidRequestError,
    "aborted": RequestAbortedError,
    "generation": GenerationError,
    "engine_failed": EngineFailedError,
    "closed": EngineClosedError,
}


class LoopMailbox:
    """One mailbox for all requests of one event loop: one wake-up serves many events."""

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        # Whoever waits holds its queue: a queue knows its loop, and this mailbox must not keep a loop that is gone.
        self._queues: WeakValueDictionary[int, asyncio.Queue[list[Event]]] = WeakValueDictionary()
        self._next = 0

    def open(self, loop: asyncio.AbstractEventLoop) -> tuple[int, asyncio.Queue[list[Event]]]:
        """A key for a new request, and the queue on which its events come. `loop` is this mailbox's, and runs."""
        if not self._queues:
            # Watched only while a request waits, so that the loop does not keep the mailbox of a forgotten engine.
            loop.add_reader(self.mailbox.fileno(), self._deliver)
        self._next += 1
        queue = self._queues[self._next] = asyncio.Queue()
        return self._next, queue

    def forget(self, key: int, loop: asyncio.AbstractEventLoop) -> None:
        """Drops what still comes for `key`. The loop may be closed, where it left requests unfinished."""
        self._queues.pop(key, None)
        if not self._queues and not loop.is_closed():
            loop.remove_reader(self.mailbox.fileno())

    def _deliver(self) -> None:
        together: dict[int, list[Event]] = {}
        for event in self.mailbox.take(0):
            together.setdefault(event.key, []).append(event)
        for key, events in together.items():
            if (queue := self._queues.get(key)) is not None:
                queue.put_nowait(events)


def chunks(events: Sequence[Event], params: SamplingParams) -> Iterator[Chunk]:
    """Chunks of one request's events; a token and the end it brings arrive together."""
    for event, following in zip_longest(events, events[1:]):
        if isinstance(event, TokenEvent):
            yield Chunk(
                text=event.text,
                token_id=event.id,
                index=event.index,
                logprob=event.logprob,
                top_logprobs=tuple(event.top),
                completion=completion(following, params) if isinstance(following, EndEvent) else None,
            )
        elif isinstance(event, ErrorEvent):
            raise _ERRORS[event.kind](event.message)


def completion(event: Event, params: SamplingParams) -> Completion:
    """The completion that the only event of an unstreamed request, or the last of a streamed one, tells."""
    if isinstance(event, ErrorEvent):
        raise _ERRORS[event.kind](event.message)
    if isinstance(event, TokenEvent):
        raise TypeError("a token is no end: only a streamed request tells its tokens")
    wants_logprobs = params.logprobs or params.top_n_tokens > 0
    wants_top = params.top_n_tokens > 0
    prompt = tuple(event.prompt) if params.prompt_logprobs else None
    prompt_top = tuple(tuple(top) for _, _, top in prompt) if prompt is not None and wants_top else None
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
        top_logprobs=tuple(tuple(position) for position in event.top_logprobs) if wants_top else None,
        stop=None if event.stop_index is None else params.stop[event.stop_index],
        prompt_logprobs=None if prompt is None else tuple(logprob for _, logprob, _ in prompt),
        prompt_top_logprobs=prompt_top,
    )
