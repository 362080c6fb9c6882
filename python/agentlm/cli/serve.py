"""`agentlm serve`: the HTTP server. Flags and environment variables are TGI's where the meaning is the same."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agentlm.cli.options import Decorator, chat_template_option, engine_settings, model_options

POLL_SECONDS = 0.2
ANSWER_SECONDS = 1.0
"""How long a failed engine's requests have to be answered."""
_COMMIT = re.compile("[0-9a-f]{40}")


_SERVER_OPTIONS: tuple[Decorator, ...] = (
    click.option("--hostname", default="0.0.0.0", show_default=True, help="Address to listen on."),
    click.option("--port", "-p", envvar="PORT", type=click.IntRange(0, 65535), default=3000, show_default=True, help="Port to listen on; 0 takes a free one."),
    click.option("--validation-workers", envvar="VALIDATION_WORKERS", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that tokenise and validate."),
    click.option("--http-workers", envvar="HTTP_WORKERS", type=click.IntRange(min=1), default=2, show_default=True, help="Threads that read and write sockets."),
    click.option("--max-concurrent-requests", envvar="MAX_CONCURRENT_REQUESTS", type=click.IntRange(min=1), default=128, show_default=True, help="Requests in flight; more are answered 429."),
    click.option("--max-client-batch-size", envvar="MAX_CLIENT_BATCH_SIZE", type=click.IntRange(min=1), default=4, show_default=True, help="Most prompts in one /v1/completions request."),
    click.option("--max-best-of", envvar="MAX_BEST_OF", type=click.IntRange(min=1), default=2, show_default=True, help="Largest `best_of`."),
    click.option("--max-stop-sequences", envvar="MAX_STOP_SEQUENCES", type=click.IntRange(min=0), default=4, show_default=True, help="Most stop strings a request."),
    click.option("--max-top-n-tokens", envvar="MAX_TOP_N_TOKENS", type=click.IntRange(min=0), default=5, show_default=True, help="Largest `top_n_tokens`."),
    click.option("--max-input-tokens", "--max-input-length", envvar=["MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH"], type=click.IntRange(min=1), help="Longest prompt [default: max-total-tokens - 1]"),
    click.option("--payload-limit", envvar="PAYLOAD_LIMIT", type=click.IntRange(min=1), default=2_000_000, show_default=True, help="Largest request body, in bytes."),
    click.option("--api-key", "api_keys", envvar="API_KEY", multiple=True, help="Key that requests must carry as a bearer token; repeatable."),
    click.option("--cors-allow-origin", envvar="CORS_ALLOW_ORIGIN", multiple=True, help="Origin that browsers may call from; repeatable [default: any]"),
    chat_template_option,
    click.option("--api-dialect", envvar="API_DIALECT", type=click.Choice(("openai", "tgi")), default="openai", show_default=True, help="Whose finish reasons, stop strings and errors the /v1 routes have: OpenAI's, or TGI's to the letter."),
    click.option("--graceful-termination-timeout", "-g", envvar="GRACEFUL_TERMINATION_TIMEOUT", type=click.FloatRange(min=0), default=90.0, show_default=True, help="Seconds that requests in flight have to finish after SIGTERM."),
)  # fmt: skip


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that shape the HTTP side."""
    for option in reversed(_SERVER_OPTIONS):
        function = option(function)
    return function


@click.command("serve")
@server_options
@model_options
def command(
    hostname: str,
    port: int,
    validation_workers: int,
    http_workers: int,
    max_concurrent_requests: int,
    max_client_batch_size: int,
    api_keys: tuple[str, ...],
    cors_allow_origin: tuple[str, ...],
    payload_limit: int,
    chat_template: str | None,
    api_dialect: str,
    graceful_termination_timeout: float,
    **options: Any,
) -> None:
    """Serve a model over HTTP: TGI's routes and OpenAI's."""
    from agentlm._engine import Server
    from agentlm.config import EngineConfig
    from agentlm.errors import ChatTemplateError
    from agentlm.progress import loading_progress, wanted
    from agentlm.runtime.engine import open_engine

    signals = _Signals()
    # A port that is taken is said before the model is loaded.
    Server.check_address(hostname, port)
    settings = engine_settings(options)
    # What is left are EngineConfig's own names. A request may have several runs, so the server's own cap comes first.
    config = EngineConfig(**settings, **options)
    with loading_progress(wanted()) as progress:
        running = open_engine(config, progress)
    info = running.info
    if info.is_random:
        _say(
            "no model was given: serving a small random one, whose text means nothing (--model-id chooses another)"
        )
    try:
        template = running.chat_template(chat_template)
        _say(f"chat template: {template.source}")
    except ChatTemplateError as error:
        if chat_template is not None:
            raise
        template = None
        _say(f"no chat: {error}")
    # Requests come as soon as the port is open, before the server is here to be named.
    signals.drain = True
    server = Server(
        running.engine,
        running.tokenizer,
        template,
        hostname=hostname,
        port=port,
        model_id=info.model,
        model_sha=_commit(info.directory, config.revision),
        max_concurrent_requests=max_concurrent_requests,
        max_client_batch_size=max_client_batch_size,
        payload_limit=payload_limit,
        api_keys=list(api_keys),
        cors_allow_origin=list(cors_allow_origin),
        validation_workers=validation_workers,
        http_workers=http_workers,
        compute_type=os.environ.get("COMPUTE_TYPE") or f"{info.backend}+optimized",
        api_dialect=api_dialect,
    )
    _say(
        f"ready: http://{server.address} serves {info.model} ({info.backend}, weights {info.dtype}, KV "
        f"{info.kv_cache_dtype}, {info.max_total_tokens} tokens a request, {info.num_blocks} blocks)"
    )
    sys.exit(_serve(running, server, signals, graceful_termination_timeout))


def _commit(directory: Path, revision: str | None) -> str | None:
    """The commit that is served, if known. The hub's cache names a snapshot by it; a branch or a tag is none."""
    if directory.parent.name == "snapshots" and _COMMIT.fullmatch(directory.name):
        return directory.name
    return revision if revision and _COMMIT.fullmatch(revision) else None


def _serve(running: Any, server: Any, signals: "_Signals", grace: float) -> int:
    """Waits for the end: a signal drains, a second one exits at once, a failed engine ends the process."""
    while not signals.received:
        state, why = running.engine.wait_ended(POLL_SECONDS)
        if state == "failed":
            return _failed(why)
    _say(f"{signal.Signals(signals.received).name}: finishing what is in flight (again: exit at once)")
    # When the grace is over the engine ends what is left with an error, and connections have a moment to carry it.
    server.begin_shutdown(grace + ANSWER_SECONDS)
    over = time.monotonic() + grace
    # Signals are noted only between Python's own steps, so another thread does the long wait.
    waiter = threading.Thread(target=server.wait, daemon=True)
    waiter.start()
    while waiter.is_alive():
        waiter.join(POLL_SECONDS)
        state, why = running.engine.health()
        if state == "failed":
            return _failed(why)
        if time.monotonic() >= over:
            running.engine.shutdown(False)
    running.close()
    return 0


def _failed(why: str | None) -> int:
    # A panic's text has several lines.
    _say("error: " + " ".join((why or "").split()))
    # Requests hear it, and /health is 503. A step that hangs cannot be joined: the process ends without its thread.
    time.sleep(ANSWER_SECONDS)
    os._exit(1)


class _Signals:
    """The first SIGTERM or SIGINT is noted once there is something to drain; before, and again, it ends the process."""

    def __init__(self) -> None:
        self.received = 0
        self.drain = False
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, _frame: object) -> None:
        if self.received or not self.drain:
            os._exit(128 + number)
        self.received = number


def _say(line: str) -> None:
    """One line on standard error; a full disk or a closed pipe behind it must not end the server."""
    try:
        click.echo(line, err=True)
    except OSError:
        return
