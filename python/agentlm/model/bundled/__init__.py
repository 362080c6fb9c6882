"""agentlm-nano, the model that comes with the package and is taken when none is named. Refuses to know torch and caches.

It has 3.9 M parameters, was trained from nothing by `make nano` on text that this project wrote itself, and is there to
show that all parts work: it greets, explains some words, adds small numbers and acts in our own small worlds.
"""

from pathlib import Path

from agentlm.errors import ConfigError

NAME = "agentlm-nano"
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def directory() -> Path:
    """The model's directory, beside this file; nothing is downloaded or written.

    Raises:
        ConfigError: A file is not there: the package was not installed whole.
    """
    found = Path(__file__).parent / NAME
    missing = [name for name in FILES if not (found / name).is_file()]
    if missing:
        raise ConfigError(
            f"{NAME} comes with the package, but {found} lacks {', '.join(missing)}: install agentlm again, "
            "or name another `model`"
        )
    return found


def note(backend: str) -> str:
    """What is said aloud where nobody chose a model."""
    if backend == "mock":
        return f"no model was given: the mock backend makes tokens up, of {NAME}'s vocabulary"
    return f"no model was given: {NAME}, a demonstration model of 3.9 M parameters that knows little, answers"
