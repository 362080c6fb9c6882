"""LoRA adapters of every linear, and the same added to the weights. Refuses to know engines."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

ALPHA = 8


def modules(base: Path) -> dict[str, tuple[int, int]]:
    """Every linear of the layers: its name and shape `[out, in]`."""
    weights = load_file(next(base.glob("*.safetensors")))
    return {
        name.removesuffix(".weight"): weight.shape
        for name, weight in weights.items()
        if name.endswith("_proj.weight")
    }


def write_adapter(base: Path, directory: Path, seed: int, rank: int = 4, **settings) -> dict[str, np.ndarray]:
    """Writes an adapter of every linear in peft's format; what it adds to each matrix."""
    random = np.random.default_rng(seed)
    tensors, deltas = {}, {}
    for name, (out, into) in modules(base).items():
        a = random.normal(0, 0.5 / into**0.5, (rank, into)).astype(np.float32)
        b = random.normal(0, 0.5, (out, rank)).astype(np.float32)
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
        deltas[f"{name}.weight"] = ALPHA / rank * (b @ a)
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": ALPHA, "bias": "none", **settings}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return deltas


def write_merged(base: Path, directory: Path, deltas: dict[str, np.ndarray]) -> Path:
    """The base with the adapter added to its weights."""
    directory.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (directory / file.name).write_bytes(file.read_bytes())
    file = next(base.glob("*.safetensors"))
    weights = {
        name: (weight.astype(np.float32) + deltas.get(name, 0)).astype(weight.dtype)
        for name, weight in load_file(file).items()
    }
    save_file(weights, directory / file.name, metadata={"format": "pt"})
    return directory
