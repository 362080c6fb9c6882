"""What must be the same when a run goes on, and how a difference is told. Refuses to know steps and checkpoints."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentlm.errors import ConfigError
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.plan import Plan
from agentlm.tuning.rendering import Rendered, digest_of_files, digest_of_tokenizer, files_of

FREE = ("micro_batch", "activation_checkpointing", "compile", "device", "threads")
"""Keys of [training] that say how a step is computed and not what: they may change when a run goes on."""
_REASONS = {
    "model": "`model.init` differs",
    "base": "the base model is another one",
    "tokenizer": "the tokenizer or the chat template is another one",
    "plan": "the data, their mixture or `data.length` differ",
    "data": "the conversations are of the same lengths, and their tokens or loss masks are others",
    "mixture": "[data] differs",
    "lora": "[lora] differs",
    "dpo": "[dpo] differs",
    "training": "[training] differs",
}


def identity(config: TuneConfig, base: Path, plan: Plan, rendered: Rendered) -> dict[str, Any]:
    """What a run is, as plain JSON."""
    made = {
        **of_base(config, base),
        **_of_training(config),
        # Last, as other steps or another seed make another plan, and are the reason that should be told.
        "plan": plan.digest(),
        # A plan is of lengths: other words or masks of the same lengths have the same one.
        "data": rendered.digest(),
    }
    return _plain(made)


def finished_identity(config: TuneConfig, model: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is as far as that can be told without its conversations; `model`: what `of_base` gave, or an identity."""
    mixture = dict(config.to_dict()["data"])
    mixture["sources"] = [
        {name: value for name, value in source.items() if name != "path"} for source in mixture["sources"]
    ]
    of_model = {name: model[name] for name in ("model", "base", "tokenizer")}
    return _plain({**of_model, "mixture": mixture, **_of_training(config)})


def digests_of_sources(config: TuneConfig) -> dict[str, str | None]:
    """SHA-256 of each source's files; None for a source of which one is gone."""
    found: dict[str, str | None] = {}
    for source in config.data.sources:
        try:
            found[source.name] = hashlib.sha256(digest_of_files(files_of(source))).hexdigest()
        except ConfigError:
            found[source.name] = None
    return found


def _of_training(config: TuneConfig) -> dict[str, Any]:
    values = config.to_dict()
    return {
        "seed": config.seed,
        "lora": values.get("lora"),
        "dpo": values.get("dpo"),
        "training": {name: value for name, value in values["training"].items() if name not in FREE},
    }


def _plain(made: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return plain


def of_base(config: TuneConfig, base: Path) -> dict[str, Any]:
    """The part of an identity that is of the model that a run starts from."""
    return {
        "model": config.model.init,
        "base": digest_of_model(base, weights=config.model.init == "weights"),
        "tokenizer": digest_of_tokenizer(base, config.model.chat_template),
    }


def difference(saved: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Why two identities are not of one run, in words; None if they are."""
    for name, value in saved.items():
        other = now.get(name)
        if other == value:
            continue
        told = _REASONS.get(name, f"`{name}` differs")
        if isinstance(value, dict) and isinstance(other, dict):
            keys = sorted(key for key in value | other if value.get(key) != other.get(key))
            told += f": {', '.join(keys)}"
        return told
    return None


def digest_of_model(directory: Path, *, weights: bool) -> str:
    """SHA-256 over config.json and, of each weights file, its size, header and first and last mebibyte."""
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for file in sorted(directory.glob("*.safetensors")) if weights else ():
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(1 << 20))
            opened.seek(max(0, size - (1 << 20)))
            digest.update(opened.read())
    return digest.hexdigest()
