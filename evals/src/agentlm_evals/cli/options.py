# ruff: noqa: E501  # an option is one line: name, type, default, help
"""Options that several commands share: the model, the data, the protocol. The environment is read here and nowhere else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agentlm_evals.cli.numbers import Number
from agentlm_evals.errors import ConfigError
from agentlm_evals.models.choice import ModelChoice, port_urls
from agentlm_evals.models.pool import Patience
from agentlm_evals.models.proxy import DIRECT, Proxies
from agentlm_evals.models.template import SERVER, TEMPLATES


def cache_home() -> Path:
    """Where this program keeps what can be had again: `$XDG_CACHE_HOME/agentlm`, or `~/.cache/agentlm`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "agentlm"


_MODEL = (
    click.option("--model", "--model-id", "-m", help="A checkpoint's directory or hub name, served by us; with --url a name for the report [default: what `agentlm serve` serves]"),
    click.option("--url", "-u", "urls", multiple=True, help="A server that runs already, http://HOST:PORT; repeat it for several."),
    click.option("--host", "--ip", "-i", default="127.0.0.1", show_default=True, help="Of --port."),
    click.option("--port", "-p", "ports", multiple=True, help="A port, or a range FIRST-LAST with both ends; repeatable."),
    click.option("--api", type=click.Choice(["tgi", "openai"]), help="The routes to speak [default: what the server has]"),
    click.option("--weights", help="With --url: a word for what the servers hold and how they were started (a digest, a commit and flags). It is on every row, and answers to greedy requests are kept under it."),
    click.option("--template", type=click.Choice([SERVER, *TEMPLATES]), help="How messages become a prompt [default: the protocol's; the server's own chat template]"),
    click.option("--api-key", envvar="AGENTLM_API_KEY", help="Sent as a bearer token."),
    click.option("--serve-arg", "serve_arguments", multiple=True, help="A flag for `agentlm serve`, such as --serve-arg=--dtype=float32."),
    click.option("--attempts", type=click.IntRange(min=1), default=12, show_default=True, help="How often a request is asked again that failed for the server's reasons."),
    click.option("--timeout", type=Number(min=0, min_open=True), default=600.0, show_default=True, help="Seconds for one attempt."),
    click.option("--no-cache", is_flag=True, help="Ask again what was asked before (greedy requests to weights that we serve, or that --weights names)."),
)  # fmt: skip

_DATA = (
    click.option("--data", "data", envvar="AGENTLM_DATA", type=click.Path(path_type=Path, file_okay=False), help="Where the official items are [default: what `agentlm data fetch` brought; else our own few]"),
    click.option("--own-samples", is_flag=True, help="Our own items, whatever else is there."),
    click.option("--sample-input-file", "-f", "file", type=click.Path(path_type=Path, dir_okay=False), help="One file of items in the official form, for one task."),
    click.option("--protocol", default=None, help="The exact prompts: agentlm (ours), agenttuning (the published ones) [default: agentlm]"),
    click.option("--protocol-dir", envvar="AGENTLM_PROTOCOLS", type=click.Path(path_type=Path, file_okay=False), help="A checkout of the published sources [default: what `agentlm data fetch agenttuning` brought]"),
    click.option("--task-option", "-T", "task_options", multiple=True, metavar="TASK.NAME=VALUE", help="An option of one task (`agentlm eval list` shows them)."),
)  # fmt: skip

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _all(options: tuple[Any, ...]) -> Decorator:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


model_options = _all(_MODEL)
data_options = _all(_DATA)


def model_choice(options: dict[str, Any]) -> ModelChoice:
    """Takes the model's options out of `options`.

    Raises:
        ConfigError: They contradict each other.
    """
    urls = [*options.pop("urls"), *port_urls(options.pop("host"), options.pop("ports"))]
    timeout = options.pop("timeout")
    cache = None if options.pop("no_cache") else cache_home() / "evals"
    return ModelChoice(
        model=options.pop("model"),
        urls=tuple(urls),
        weights=options.pop("weights"),
        serve_arguments=options.pop("serve_arguments"),
        api=options.pop("api"),
        template=options.pop("template"),
        api_key=options.pop("api_key"),
        patience=Patience(attempts=options.pop("attempts"), seconds=max(900.0, 2 * timeout), timeout=timeout),
        # A server that we start is on this machine.
        proxies=Proxies.from_environment(os.environ) if urls else DIRECT,
        cache_directory=cache,
    )


def task_options(given: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """`TASK.NAME=VALUE` to a table by task.

    Raises:
        ConfigError: The form is another.
    """
    table: dict[str, dict[str, str]] = {}
    for text in given:
        left, equals, value = text.partition("=")
        task, dot, name = left.partition(".")
        if not equals or not dot or not task or not name:
            raise ConfigError(
                f"--task-option is {text!r}; it must be TASK.NAME=VALUE, such as database.engine=sqlite"
            )
        table.setdefault(task.replace("_", "-"), {})[name] = value
    return table
