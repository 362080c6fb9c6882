"""Every exception that agentlm raises on purpose, one class a kind. Refuses to know what is being done about them.

A message says what was given, what is allowed and what to do.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentlm.completion import Completion


SHOWN = 80
"""Most characters of a value that a message repeats."""


def shown(value: object) -> str:
    """What was given, as a message repeats it: its beginning, and never another error."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # An integer of thousands of digits, lists in lists in lists.
        return f"a value of type {type(value).__name__}, too large to be shown"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


class AgentLMError(Exception):
    """Base of all errors raised on purpose; anything else is a defect."""


class ConfigError(AgentLMError):
    """A model's configuration is missing, unreadable or contradicts itself."""


class UnsupportedModelError(ConfigError):
    """A model is well formed, but of a kind that agentlm does not compute."""


class QuantizedModelError(UnsupportedModelError):
    """A checkpoint holds weights in a narrow format that agentlm does not read, or not here."""


class CheckpointError(AgentLMError):
    """Weights on disk cannot be used."""


class WeightsNotFoundError(CheckpointError):
    """A directory holds no safetensors file, perhaps weights in another format."""


class MissingShardError(CheckpointError):
    """The index names a file that is not there."""


class CorruptFileError(CheckpointError):
    """A weights file contradicts the safetensors format."""


class TruncatedFileError(CorruptFileError):
    """A weights file is shorter than its header promises."""


class MissingTensorError(CheckpointError):
    """The configuration asks for a tensor that the checkpoint lacks."""


class UnexpectedTensorError(CheckpointError):
    """The checkpoint holds a tensor that the configuration has no place for."""


class TensorShapeError(CheckpointError):
    """A tensor's shape differs from what the configuration asks for."""


class TensorDtypeError(CheckpointError):
    """A tensor's element type is not one that agentlm computes from."""


class TokenizerError(AgentLMError):
    """A tokenizer is missing or cannot be converted."""


class HubError(AgentLMError):
    """A model could not be fetched by its hub name."""


class ModelNotFoundError(HubError):
    """Neither a local directory nor a model on the hub."""


class GatedModelError(HubError):
    """The hub holds the model, but not for this caller."""


class HubUnreachableError(HubError):
    """The hub did not answer, and the local cache does not hold the model."""


class InvalidRequestError(AgentLMError, ValueError):
    """A prompt or a sampling parameter is outside what the engine takes."""

    prompt: int | None = None
    """Which prompt of several is meant, from 0."""


class InvalidMessageError(InvalidRequestError, TypeError):
    """A chat message, or a value in one, is of a type that no chat template can be given."""


class OverloadedError(AgentLMError):
    """Too many requests are unfinished; try again later."""


class GenerationError(AgentLMError):
    """Requests failed while they were computed; the others of their batch were finished."""

    def __init__(
        self,
        message: str,
        completions: "Sequence[Completion | None]" = (),
        failed: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.completions = list(completions)
        """Those of the whole batch in the prompts' order; None where a request failed."""
        self.failed = dict(failed or {})
        """Why each failed, by its place in the batch."""


class RequestAbortedError(AgentLMError):
    """The request was aborted before it ended."""


class EngineClosedError(AgentLMError):
    """The engine was closed, or is closing."""


class EngineFailedError(AgentLMError):
    """The engine failed as a whole and serves nothing any more."""


class ForkError(AgentLMError):
    """An engine was used in a process forked from the one that opened it."""


class OutOfMemoryError(AgentLMError):
    """The machine lacks the memory for what was asked."""


class BackendError(AgentLMError):
    """A backend cannot run on this machine."""


class ServerError(AgentLMError):
    """The HTTP server could not start or run."""


class ChatTemplateError(AgentLMError):
    """A chat template refuses the messages, or there is none."""


class NoChatTemplateError(ChatTemplateError):
    """The checkpoint has no chat template, or the one that was given cannot be used."""


class AdapterError(AgentLMError):
    """A LoRA adapter cannot be loaded, or is not there."""


class ControlError(AgentLMError):
    """The engine could not do what was asked of it as a whole: reload its weights, sleep or wake."""
