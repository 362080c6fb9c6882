"""`agentlm doctor`: what is installed, which backend would run and why, whether a model fits, what is missing."""

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentlm.cli.options import checkpoint_options

if TYPE_CHECKING:
    from agentlm.model.config import ModelConfig

TOKENS = 2048
"""How long a request must find room for its keys and values, where the model's context allows it."""


@click.command("doctor")
@click.option("--model-id", "--model", envvar="MODEL_ID", help="Check that this checkpoint can be served here. The weights are not fetched for it.")  # fmt: skip
@checkpoint_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model_id: str | None, dtype: str, as_json: bool, **source: Any) -> None:
    """Say what this machine can run, and whether a model fits. Exit code 1 if something needed is missing."""
    facts, problems = _machine()
    if model_id and "backend" in facts:
        _check_model(model_id, source, dtype, facts, problems)
    if as_json:
        import json

        click.echo(json.dumps({**facts, "problems": problems}, indent=2))
    else:
        width = max(map(len, facts))
        for name, value in facts.items():
            click.echo(f"{name:<{width}}  {value}")
        for problem in problems:
            click.secho(f"problem: {problem}", fg="red")
        if not problems:
            click.secho("nothing is missing", fg="green")
    sys.exit(1 if problems else 0)


def _machine() -> tuple[dict[str, Any], list[str]]:
    facts: dict[str, Any] = {}
    problems: list[str] = []
    facts["agentlm"] = _version("agentlm")
    facts["python"] = f"{platform.python_version()} ({sys.executable})"
    facts["system"] = f"{platform.system()} {platform.release()}, {platform.machine()}"
    for package in ("torch", "triton", "transformers", "agentlm-kernels", "agentlm-evals"):
        facts[package] = _version(package)
    if facts["transformers"] == "not installed":
        problems.append(
            "transformers converts tokenizer.model files; install it with `pip install transformers`"
        )
    from agentlm.runtime import memory

    facts["free memory"] = _size(memory.available())
    try:
        from agentlm._engine import CpuBackend
    except ImportError as error:
        problems.append(f"the Rust extension cannot be loaded ({error}); reinstall agentlm")
        return facts, problems
    from agentlm.runtime.cpu import usable_cores
    from agentlm.runtime.engine import has_nvidia_gpu

    facts["cores"] = usable_cores()
    facts["instruction sets"] = ", ".join(CpuBackend.available_isas())
    cpu = f"cpu ({CpuBackend.available_isas()[-1]})"
    facts["backend"] = (
        "cuda: there is an NVIDIA GPU" if has_nvidia_gpu() else f"{cpu}: no NVIDIA GPU was found"
    )
    return facts, problems


@dataclass(frozen=True, slots=True)
class _Model:
    """What must be known of a model to say how much memory it needs."""

    config: "ModelConfig"
    table: str
    """The embedding table's element type, by its safetensors name."""
    storage: tuple[str, ...]
    """How serving would store matrices; several where only the weights could tell which."""


def _check_model(
    model_id: str, source: dict[str, Any], dtype: str, facts: dict[str, Any], problems: list[str]
) -> None:
    from agentlm.errors import AgentLMError
    from agentlm.runtime import memory
    from agentlm.runtime.cpu import weights_bytes

    try:
        model = _look(model_id, dtype, facts, **source)
    except AgentLMError as error:
        problems.append(str(error))
        return
    config = model.config
    facts["model"] = f"{config.architecture}, {config.layers} layers, context {config.context_length}"
    values = 2 * config.layers * config.kv_heads * config.head_dim
    facts["KV cache"] = f"{2 * values} bytes a token in float16"
    tokens = min(config.context_length, TOKENS)
    needs: dict[str, int] = {}
    for storage in model.storage:
        weights = weights_bytes(config, model.table, storage)
        needs[storage] = weights + tokens * values * (4 if storage == "float32" else 2)
    free = memory.available()
    needed = " or ".join(f"{_size(need)} in {storage}" for storage, need in needs.items())
    facts["fits"] = f"{needed} needed for weights and {tokens:,} tokens, {_size(free)} free"
    if min(needs.values()) > free:
        problems.append(f"{model_id} needs about {needed} and {_size(free)} are free")


def _look(
    model_id: str,
    dtype: str,
    facts: dict[str, Any],
    revision: str | None,
    token: str | None,
    cache_dir: str | None,
    offline: bool,
) -> _Model:
    """Looks at the checkpoint where it is here, else at what the hub says of it. Raises `AgentLMError`."""
    from math import prod
    from tempfile import TemporaryDirectory

    from agentlm.config import EngineConfig
    from agentlm.errors import MissingTensorError
    from agentlm.model import hub
    from agentlm.model.config import ModelConfig
    from agentlm.model.decoder import checked
    from agentlm.model.layout import EMBEDDING
    from agentlm.model.weights import ELEMENT_BYTES, WEIGHT_DTYPES
    from agentlm.runtime.cpu import possible_storage, storage_dtype
    from agentlm.runtime.engine import open_model

    cache = cache_dir or None
    directory: Path | None
    if offline:
        directory = hub.resolve(model_id, revision, token, cache, offline=True)
    else:
        directory = hub.cached(model_id, revision, token, cache)
    if directory is not None:
        opened = open_model(EngineConfig(cache_dir=Path(cache) if cache else None), directory)
        checkpoint = opened.checkpoint
        facts["weights on disk"] = _size(checkpoint.nbytes)
        config = checked(opened.model, checkpoint)
        # Narrow matrices are widened to float16 on the way.
        own = "float16" if config.quantization else storage_dtype(checkpoint)
        storage = own if dtype == "auto" else dtype
        return _Model(config, checkpoint.tensor(EMBEDDING).dtype, (storage,))
    with TemporaryDirectory() as temporary:
        tensors = hub.describe(model_id, Path(temporary), revision, token)
        config = ModelConfig.load(temporary)
    table, _ = tensors.get(EMBEDDING, ("", ()))
    if table not in WEIGHT_DTYPES:
        raise MissingTensorError(
            f"The model {model_id} has no tensor {EMBEDDING!r} in {', '.join(WEIGHT_DTYPES)}, so that agentlm cannot "
            "compute it. Choose another."
        )
    size = sum(prod(shape) * ELEMENT_BYTES.get(kind, 1) for kind, shape in tensors.values())
    facts["weights to fetch"] = _size(size)
    kinds = {kind for kind, shape in tensors.values() if len(shape) == 2}
    return _Model(config, table, possible_storage(kinds) if dtype == "auto" else (dtype,))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _size(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
