"""`agentlm doctor`: what is installed, which backend would run and why, whether a model fits, what is missing."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click


@click.command("doctor")
@click.option(
    "--model-id", "--model", envvar="MODEL_ID", help="Check that this checkpoint can be served here."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model_id: str | None, as_json: bool) -> None:
    """Say what this machine can run, and whether a model fits. Exit code 1 if something needed is missing."""
    facts, problems = _machine()
    if model_id:
        _check_model(model_id, facts, problems)
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

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts["cores"] = cores
    facts["free memory"] = _size(memory.available())
    try:
        from agentlm._engine import CpuBackend
    except ImportError as error:
        problems.append(f"the Rust extension cannot be loaded ({error}); reinstall agentlm")
        return facts, problems
    facts["instruction sets"] = ", ".join(CpuBackend.available_isas())
    facts["backend"] = f"cpu ({CpuBackend.available_isas()[-1]}): the only one that computes in this release"
    return facts, problems


def _check_model(model_id: str, facts: dict[str, Any], problems: list[str]) -> None:
    from agentlm.errors import AgentLMError
    from agentlm.model import hub
    from agentlm.model.config import ModelConfig
    from agentlm.model.weights import Checkpoint
    from agentlm.runtime import memory

    try:
        directory = hub.resolve(model_id)
        config = ModelConfig.load(directory)
        checkpoint = Checkpoint.open(directory)
    except AgentLMError as error:
        problems.append(str(error))
        return
    facts["model"] = f"{config.architecture}, {config.layers} layers, context {config.context_length}"
    facts["weights on disk"] = _size(checkpoint.nbytes)
    per_token = 4 * config.layers * config.kv_heads * config.head_dim
    facts["KV cache"] = f"{per_token} bytes a token in float16"
    need = checkpoint.nbytes + per_token * min(config.context_length, 2048)
    free = memory.available()
    facts["fits"] = f"{_size(need)} needed for weights and 2,048 tokens, {_size(free)} free"
    if need > free:
        problems.append(f"{model_id} needs about {_size(need)} and {_size(free)} are free")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _size(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
