"""One run of a sample, as its task sees it: dialogue, model, budgets. Refuses to know servers and files."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from agentlm_evals.clock import Clock
from agentlm_evals.errors import HarnessFault, LimitReached, UnsupportedError
from agentlm_evals.model import Decoding, Generation, Message, Model, Prompt
from agentlm_evals.protocols import AGENTLM
from agentlm_evals.task import Sample, Setting

History = Callable[[Sequence[Message]], Sequence[Message]]
"""What of a dialogue is shown to the model (AgentBench's window of 3,500 segments is one)."""


TEMPLATE_TOKENS = 32
"""More than any known chat template puts around one message."""


LEAST_REPLY = 16
"""Tokens that the question without any example has to leave free."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one episode may spend; None: no bound but the task's own rules."""

    tokens: int | None = None
    """Generated tokens, all calls together."""
    seconds: float | None = None
    """Wall time. What is lost to servers that fail and are asked again does not count; slow answers do."""


@dataclass(slots=True)
class Call:
    """One request to the model, for the log."""

    prompt: Prompt
    decoding: Decoding
    seed: int
    generation: Generation
    seconds: float


async def judged(asked: Awaitable[Generation]) -> Generation:
    """A judge's reply. What the tested model said may be too long for the judge, and that is no limit of the model's.

    Raises:
        HarnessFault: The judge could not read it.
    """
    try:
        return await asked
    except LimitReached as limit:
        raise HarnessFault(f"the judge cannot read the answer: {limit}") from limit


def derive_seed(*parts: Any) -> int:
    """A seed in [0, 2**63) from what names a draw: (run, sample, epoch, call); the same anywhere."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(slots=True)
class Episode:
    """The handle that `Task.solve` works with."""

    sample: Sample
    setting: Setting
    model: Model
    decoding: Decoding
    """The task's, with the command line's overrides."""
    run_seed: int = 0
    epoch: int = 0
    """Which of several runs of the sample this is, from 0."""
    budget: Budget = field(default_factory=Budget)
    environment: Any = None
    """What `Task.environment` gave."""
    judge: Model | None = None
    """The model that rates answers, where one was named."""
    messages: list[Message] = field(default_factory=list)
    """The dialogue; `system`, `user`, `example` and `ask` extend it."""
    calls: list[Call] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    """JSON values that the log and the report should have besides the answer (`shots`, `engine`)."""
    overridden: frozenset[str] = frozenset()
    """Fields of `Decoding` that the command line set: no task changes them."""
    clock: Clock = field(init=False)
    """The time budget's."""

    def __post_init__(self) -> None:
        self.clock = Clock(self.budget.seconds)

    @property
    def protocol(self) -> str:
        """The protocol's name."""
        return self.setting.protocol.name

    @property
    def texts(self) -> Any:
        """The texts that a published protocol brought."""
        return self.setting.protocol.texts

    def seed(self, *parts: Any) -> int:
        """A seed for something random in the episode itself (a shuffle, an opponent), named by `parts`."""
        return derive_seed(self.run_seed, self.sample.id, self.epoch, *parts)

    # --- the dialogue --------------------------------------------------------------------------------------------
    def system(self, text: str) -> None:
        """Sets the system message; first of all."""
        self.messages.append(Message("system", text))

    def user(self, text: str) -> None:
        """What the task says to the model."""
        self.messages.append(Message("user", text))

    def example(self, text: str) -> None:
        """An assistant's turn that the model did not write: a worked example, an acknowledgement."""
        self.messages.append(Message("assistant", text, loss=False))

    async def fitting(self, most: int, pose: Callable[[int], None]) -> int:
        """Poses the task with as many worked examples as leave room for the reply: `pose(count)` writes the dialogue anew.

        A server that does not tell its limits gets all of them. A published protocol is never cut.

        Returns:
            How many were used, from `most` down to 0.

        Raises:
            LimitReached: Not even the question fits.
        """
        limit = self.model.limits.max_total_tokens
        if limit is None or self.protocol != AGENTLM:
            pose(most)
            return most
        room = limit - self.decoding.max_new_tokens
        # A reply's full length is rarely needed, and a small model's context may be shorter than that.
        room = max(room, limit // 2)
        for count in range(most, -1, -1):
            self.messages.clear()
            pose(count)
            # No token is shorter than a byte, so that a short dialogue needs no counting.
            most_tokens = sum(len(message.content.encode()) + TEMPLATE_TOKENS for message in self.messages)
            if count == 0:
                room = limit - LEAST_REPLY
            if most_tokens <= room or await self.model.count_prompt_tokens(self.messages) <= room:
                return count
        raise LimitReached(f"the question does not fit the model's context of {limit} tokens")

    async def ask(self, history: History | None = None, **changes: Any) -> str:
        """The model's reply to the dialogue, which is added to it. `changes` are fields of `Decoding`.

        Raises:
            LimitReached: A budget is spent, or the dialogue fits the model's context no more.
        """
        shown = history(self.messages) if history else list(self.messages)
        generation = await self.generate(shown, **changes)
        self.messages.append(Message("assistant", generation.text))
        return generation.text

    # --- the model -----------------------------------------------------------------------------------------------
    async def generate(self, prompt: Prompt, **changes: Any) -> Generation:
        """One reply to messages or to a raw prompt; the dialogue is left as it is.

        `changes` are fields of `Decoding`; those that the command line set stay as they are.

        Raises:
            LimitReached: A budget is spent, or the prompt does not fit.
        """
        self.check_budget()
        decoding = self.decoding.with_(
            **{key: value for key, value in changes.items() if key not in self.overridden}
        )
        if self.budget.tokens is not None:
            left = self.budget.tokens - self.generated_tokens
            decoding = decoding.with_(max_new_tokens=min(decoding.max_new_tokens, left))
        seed = self.seed("call", len(self.calls))
        begun = time.monotonic()
        generation = await self.model.generate(prompt, decoding, seed)
        if self.budget.tokens is not None and generation.text and not generation.generated_tokens:
            raise UnsupportedError(
                "the server does not say how many tokens it made: no --episode-tokens with it"
            )
        self.calls.append(Call(prompt, decoding, seed, generation, time.monotonic() - begun))
        return generation

    async def score(
        self, prompt: Prompt, continuations: Sequence[str], window: int | None = None
    ) -> list[float]:
        """See `Model.score`; the scores go into the notes.

        Raises:
            LimitReached: A budget is spent, or the prompt does not fit.
            UnsupportedError: The server gives no log-probabilities of a prompt.
        """
        self.check_budget()
        scores = await self.model.score(prompt, continuations, window)
        self.notes["scores"] = dict(zip(continuations, scores, strict=True))
        return scores

    @property
    def generated_tokens(self) -> int:
        """Of all calls so far."""
        return sum(call.generation.generated_tokens for call in self.calls)

    def check_budget(self) -> None:
        """For long stretches without a call to the model.

        Raises:
            LimitReached: A budget is spent.
        """
        if self.budget.tokens is not None and self.generated_tokens >= self.budget.tokens:
            raise LimitReached(f"the episode's {self.budget.tokens} tokens are spent")
        if self.clock.is_over:
            raise LimitReached(f"the episode's {self.budget.seconds:g} seconds are over")
