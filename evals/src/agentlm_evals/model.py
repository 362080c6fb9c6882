"""What a task sees of a model: messages or a raw prompt in, a text out. Refuses to know HTTP and which server it is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from agentlm_evals.errors import ConfigError

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a trajectory."""

    role: Role
    content: str
    loss: bool = True
    """Of an assistant's message: whether the model under test wrote it. A worked example's turn is false: it must not
    be trained on."""

    def to_json(self) -> dict[str, Any]:
        """As the conversation record has it: `loss` only where it says something."""
        body: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.role == "assistant" and not self.loss:
            body["loss"] = False
        return body


Prompt = str | Sequence[Message]
"""A raw prompt, sent character for character, or messages, rendered by the server's chat template or by a named one."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a reply is sampled. A task sets its protocol's values; the command line may override them."""

    max_new_tokens: int
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    truncate: int | None = None
    """Keep the last so many tokens of a raw prompt (TGI's `truncate`)."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if self.temperature < 0:
            raise ConfigError(
                f"temperature is {self.temperature}; it must be 0 (the likeliest token) or more"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be in (0, 1]")

    @property
    def is_greedy(self) -> bool:
        """Whether the reply is a function of the prompt alone."""
        return self.temperature == 0

    def with_(self, **changes: Any) -> "Decoding":
        """A copy with the values that are not None replaced."""
        return replace(self, **{key: value for key, value in changes.items() if value is not None})

    def to_json(self) -> dict[str, Any]:
        """For the log: every field."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Generation:
    """A model's reply."""

    text: str
    """Without the prompt; a stop string that ended it is kept or not as the server does: see `finish_reason`."""
    finish_reason: str
    """`eos_token`, `stop_sequence` or `length`."""
    prompt_tokens: int
    """0 if the server does not say."""
    generated_tokens: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes; None where it does not say."""

    max_input_tokens: int | None = None
    max_total_tokens: int | None = None


class Model(Protocol):
    """A model behind some server. Errors are `HarnessFault`s: no error ever becomes a text."""

    @property
    def name(self) -> str:
        """As the report has it."""

    @property
    def origin(self) -> str:
        """The hosts that answer, as their URLs name them; empty: this process."""

    @property
    def limits(self) -> Limits:
        """What fits."""

    async def generate(self, prompt: Prompt, decoding: Decoding, seed: int) -> Generation:
        """One reply.

        Raises:
            LimitReached: The server says that the prompt does not fit.
            ModelError: No server gave an answer.
            RefusedError: The request was refused.
        """

    async def score(
        self, prompt: Prompt, continuations: Sequence[str], window: int | None = None
    ) -> list[float]:
        """The log-probability (natural) of each continuation's last token right after the prompt, teacher-forced.

        A last message of the assistant's is continued where it ends. The token is the last one that the continuation has
        by itself: `" A"` is the letter as a word of its own. Of a prompt that has more than `window` tokens the last
        `window` - 1 are kept.

        Raises:
            UnsupportedError: The server gives no log-probabilities of a prompt.
        """

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt as the server would compute it, by its own tokenizer, special tokens included.

        Raises:
            UnsupportedError: The server does not tell.
        """
