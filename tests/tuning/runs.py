"""Small models, conversations and configurations that the tests of training share."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from agentlm.model.config import ModelConfig
from agentlm.model.random import Shape, family_config, write_model
from agentlm.model.weights import Checkpoint
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.log import events
from agentlm.tuning.model import TrainableDecoder, stored_tensors
from tests.tuning.changes import changed

SHAPE = Shape(layers=2, hidden=64, inter=96, heads=4, kv_heads=2, vocab=264, context=512)
TIED = Shape(layers=2, hidden=64, inter=96, heads=4, kv_heads=4, vocab=264, context=512, tied=True)


def write_base(directory: Path, family: str = "llama2", shape: Shape = SHAPE, **changes: Any) -> Path:
    return write_model(directory, family_config(family, shape) | changes)


def load(directory: Path) -> TrainableDecoder:
    """A model directory as the trainer holds it, on one thread: these matrices gain nothing from more."""
    torch.set_num_threads(1)
    config = ModelConfig.load(directory)
    model = TrainableDecoder(config)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in stored_tensors(config, Checkpoint.open(directory)):
            parameters[name].copy_(tensor)
    return model


def sums(count: int, source: str, seed: int = 0, turns: int = 4) -> list[dict[str, Any]]:
    """Conversations about sums, of one turn to several."""
    rng = random.Random(f"{source} {seed}")
    made = []
    for index in range(count):
        messages: list[dict[str, Any]] = (
            [{"role": "system", "content": "Be brief."}] if rng.random() < 0.5 else []
        )
        for _ in range(rng.randint(1, turns)):
            a, b = rng.randrange(30), rng.randrange(30)
            messages += [
                {"role": "user", "content": f"{a}+{b}?"},
                {"role": "assistant", "content": f"It is {a + b}."},
            ]
        made.append({"id": f"{source}-{index}", "source": source, "messages": messages})
    return made


def trajectory(item: int, answer: str, reward: float | None, prompt: str = "Where is") -> dict[str, Any]:
    """A try at an item of one task."""
    return {
        "id": f"{item}-{answer}-{reward}",
        "source": "tries",
        "task": "find",
        "item": str(item),
        "reward": reward,
        "messages": [
            {"role": "user", "content": f"{prompt} {item}?"},
            {"role": "assistant", "content": answer},
        ],
    }


TRIES = [
    *(trajectory(item, "In the box.", 1.0) for item in range(6)),
    *(trajectory(item, "I cannot know.", 0.0) for item in range(6)),
]
"""Six items, each with a try that is right and one that is wrong."""


def write_records(file: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def settings(directory: Path, **changes: Any) -> dict[str, Any]:
    """A configuration as plain dictionaries, its base and conversations written; `training__steps=3` changes a key."""
    if not (directory / "base").is_dir():
        write_base(directory / "base")
        write_records(directory / "agent.jsonl", sums(12, "agent"))
        write_records(directory / "general.jsonl", sums(40, "general"))
        write_records(directory / "held.jsonl", sums(6, "held"))
    values: dict[str, Any] = {
        "output": str(directory / "out"),
        "model": {"path": str(directory / "base")},
        "data": {
            "length": 160,
            "eta": 0.2,
            "sources": [
                {"name": "agent", "path": str(directory / "agent.jsonl"), "group": "agent"},
                {"name": "general", "path": str(directory / "general.jsonl"), "group": "general"},
            ],
        },
        "training": {"steps": 4, "batch": 4, "learning_rate": 1e-3, "device": "cpu", "threads": 1},
    }
    return changed(values, changes)


def config(directory: Path, **changes: Any) -> TuneConfig:
    return TuneConfig.from_dict(settings(directory, **changes))


def losses(output: str | Path) -> list[float]:
    return [line["loss"] for line in events(Path(output) / "log.jsonl") if line["event"] == "step"]


def norms(output: str | Path) -> list[float]:
    return [line["gradient_norm"] for line in events(Path(output) / "log.jsonl") if line["event"] == "step"]


def tensors(output: str | Path) -> dict[str, bytes]:
    """The exported weights' bytes by name."""
    checkpoint = Checkpoint.open(Path(output) / "model")
    return {tensor.name: tensor.bytes().tobytes() for tensor in checkpoint.tensors()}
