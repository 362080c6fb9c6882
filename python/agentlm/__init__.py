"""Serve, tune and evaluate agent language models. The whole public interface, loaded when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentlm.completion import Chunk as Chunk
    from agentlm.completion import Completion as Completion
    from agentlm.completion import Usage as Usage
    from agentlm.config import EngineConfig as EngineConfig
    from agentlm.errors import AgentLMError as AgentLMError
    from agentlm.grammar import Grammar as Grammar
    from agentlm.llm import LLM as LLM
    from agentlm.params import SamplingParams as SamplingParams

__version__ = "0.1.0"

_PLACES = {
    "LLM": "llm",
    "SamplingParams": "params",
    "Completion": "completion",
    "Chunk": "completion",
    "Usage": "completion",
    "EngineConfig": "config",
    "Grammar": "grammar",
    "AgentLMError": "errors",
}

__all__ = ["LLM", "AgentLMError", "Chunk", "Completion", "EngineConfig", "Grammar", "SamplingParams", "Usage"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"agentlm.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'agentlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
