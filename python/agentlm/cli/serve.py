"""`agentlm serve`: the HTTP server. Flags and environment variables are TGI's where the meaning is the same."""

import json
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from select import select
from typing import Any

import click

from agentlm.cli.launcher import launcher_options
from agentlm.cli.options import (
    Decorator,
    Number,
    chat_template_option,
    engine_settings,
    model_options,
)
from agentlm.config import LONGEST_SECONDS

POLL_SECONDS = 0.2
ANSWER_SECONDS = 1.0
"""How long a failed engine's requests have to be answered."""
OTLP_GRPC_PORT = 4317
"""Where TGI's traces went: collectors speak gRPC there, and this server does not."""
MOST_THREADS = 256
"""More than any machine has use for; tens of thousands would take it down."""
MOST_REQUESTS = 2**31
MOST_PROMPTS = 2**16
MOST_BYTES = 2**40
LOG_LEVELS = ("off", "error", "warn", "info", "debug", "trace")
_COMMIT = re.compile("[0-9a-f]{40}")


class _Adapters(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """Adapters as TGI lists them: `id` or `id=path`, separated by commas."""

    name = "adapters"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[str, str], ...]:
        """Names and where each lies; a bare id is both."""
        if isinstance(value, tuple):
            return value
        pairs = []
        for part in filter(None, (part.strip() for part in str(value).split(","))):
            name, _, path = part.partition("=")
            if not name.strip() or ("=" in part and not path.strip()):
                self.fail(f"{part!r} is not an adapter such as owner/name or name=/its/directory", param, ctx)
            pairs.append((name.strip(), path.strip() or name.strip()))
        names = [name for name, _ in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            self.fail(f"{twice[0]!r} names two adapters", param, ctx)
        return tuple(pairs)


class _LogLevel(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """One of `LOG_LEVELS`. TGI's variable may name further modules after a comma; they are none of ours."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The level, in lower case."""
        level = str(value).split(",")[0].strip().lower()
        if level not in LOG_LEVELS:
            self.fail(f"{value!r} is not one of {', '.join(LOG_LEVELS)}", param, ctx)
        return level


_SERVER_OPTIONS: tuple[Decorator, ...] = (
    click.option("--hostname", default="0.0.0.0", show_default=True, help="Address to listen on."),
    click.option("--port", "-p", envvar="PORT", type=click.IntRange(0, 65535), default=3000, show_default=True, help="Port to listen on; 0 takes a free one."),
    click.option("--validation-workers", envvar="VALIDATION_WORKERS", type=click.IntRange(min=1, max=MOST_THREADS), default=2, show_default=True, help="Threads that tokenise and validate."),
    click.option("--http-workers", envvar="HTTP_WORKERS", type=click.IntRange(min=1, max=MOST_THREADS), default=2, show_default=True, help="Threads that read and write sockets."),
    click.option("--max-concurrent-requests", envvar="MAX_CONCURRENT_REQUESTS", type=click.IntRange(min=1, max=MOST_REQUESTS), default=128, show_default=True, help="Requests in flight; more are answered 429."),
    click.option("--max-client-batch-size", envvar="MAX_CLIENT_BATCH_SIZE", type=click.IntRange(min=1, max=MOST_PROMPTS), default=4, show_default=True, help="Most prompts in one /v1/completions request."),
    click.option("--max-best-of", envvar="MAX_BEST_OF", type=click.IntRange(min=1, max=1024), default=2, show_default=True, help="Largest `best_of`."),
    click.option("--max-stop-sequences", envvar="MAX_STOP_SEQUENCES", type=click.IntRange(min=0, max=2**16), default=4, show_default=True, help="Most stop strings a request."),
    click.option("--max-top-n-tokens", envvar="MAX_TOP_N_TOKENS", type=click.IntRange(min=0, max=1000), default=5, show_default=True, help="Largest `top_n_tokens`."),
    click.option("--max-input-tokens", "--max-input-length", envvar=["MAX_INPUT_TOKENS", "MAX_INPUT_LENGTH"], type=click.IntRange(min=1, max=2**31), help="Longest prompt [default: max-total-tokens - 1]"),
    click.option("--payload-limit", envvar="PAYLOAD_LIMIT", type=click.IntRange(min=1, max=MOST_BYTES), default=2_000_000, show_default=True, help="Largest request body, in bytes."),
    click.option("--api-key", "api_keys", envvar="API_KEY", multiple=True, help="Key that requests must carry as a bearer token; repeatable."),
    click.option("--cors-allow-origin", envvar="CORS_ALLOW_ORIGIN", multiple=True, help="Origin that browsers may call from; repeatable [default: any]"),
    chat_template_option,
    click.option("--api-dialect", envvar="API_DIALECT", type=click.Choice(("openai", "tgi")), default="openai", show_default=True, help="Whose finish reasons, stop strings and errors the /v1 routes have: OpenAI's, or TGI's to the letter."),
    click.option("--strict-model", envvar="STRICT_MODEL", is_flag=True, help="Answer 404 on the /v1 routes to a `model` that is neither the served one nor an adapter; else it is served as the model itself."),
    click.option("--disable-grammar-support", envvar="DISABLE_GRAMMAR_SUPPORT", is_flag=True, help="Refuse requests that ask for a grammar (a JSON schema, a regular expression and so on)."),
    click.option("--tool-call-parser", envvar="TOOL_CALL_PARSER", type=click.Choice(("auto", "hermes", "llama3", "mistral", "json")), default="auto", show_default=True, help="How the model writes tool calls; auto reads it from the chat template."),
    click.option("--kernel-manifest", envvar="KERNEL_MANIFEST", type=click.Path(file_okay=False), help="Folder to write the compiled kernels to, with manifest.json, which says how they are launched (GPU)."),
    click.option("--lora-adapters", envvar="LORA_ADAPTERS", type=_Adapters(), default=(), help="Adapters to load at start: hub names or directories, or name=directory, separated by commas."),
    click.option("--watermark-gamma", envvar="WATERMARK_GAMMA", type=Number(0, 1, min_open=True, max_open=True), default=0.5, show_default=True, help="Share of the vocabulary that a watermark favours."),
    click.option("--watermark-delta", envvar="WATERMARK_DELTA", type=Number(-100, 100), default=2.0, show_default=True, help="What a watermark adds to the logits of those."),
    click.option("--read-timeout", envvar="READ_TIMEOUT", type=Number(min=0, max=LONGEST_SECONDS, min_open=True), default=75.0, show_default=True, help="Seconds a client has for a request's head, and for each further part of its body."),
    click.option("--write-timeout", envvar="WRITE_TIMEOUT", type=Number(min=0, max=LONGEST_SECONDS, min_open=True), default=120.0, show_default=True, help="Seconds a client may leave its answer unread; then it is cut off."),
    click.option("--ssl-certfile", envvar="SSL_CERTFILE", type=click.Path(dir_okay=False), help="Certificate chain, in PEM: the port speaks HTTPS."),
    click.option("--ssl-keyfile", envvar="SSL_KEYFILE", type=click.Path(dir_okay=False), help="The certificate's private key, in PEM [default: in the certificate's file]"),
    click.option("--prometheus-port", envvar="PROMETHEUS_PORT", type=click.IntRange(0, 65535), help="A second port, for /metrics alone; 0 takes a free one."),
    click.option("--log-level", envvar="LOG_LEVEL", type=_LogLevel(), default="info", show_default=True, help="Requests to log, one line each: off; error: that failed; warn: that were refused, too; info: all; debug: health checks, too."),
    click.option("--json-output", envvar="JSON_OUTPUT", is_flag=True, help="Write log lines as JSON objects."),
    click.option("--log-prompts", envvar="LOG_PROMPTS", is_flag=True, help="Log the requests' bodies, prompts and all."),
    click.option("--otlp-endpoint", envvar="OTLP_ENDPOINT", help="Collector of OpenTelemetry traces, over HTTP: http://host:4318."),
    click.option("--otlp-service-name", envvar="OTLP_SERVICE_NAME", default="text-generation-inference.router", show_default=True, help="Name of this server in its traces."),
    click.option("--graceful-termination-timeout", "-g", envvar="GRACEFUL_TERMINATION_TIMEOUT", type=Number(min=0, max=LONGEST_SECONDS), default=90.0, show_default=True, help="Seconds that requests in flight have to finish after SIGTERM."),
)  # fmt: skip


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that shape the HTTP side."""
    for option in reversed(_SERVER_OPTIONS):
        function = option(function)
    return function


@click.command("serve")
@server_options
@model_options
@launcher_options
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
    strict_model: bool,
    disable_grammar_support: bool,
    kernel_manifest: str | None,
    tool_call_parser: str,
    lora_adapters: tuple[tuple[str, str], ...],
    read_timeout: float,
    write_timeout: float,
    ssl_certfile: str | None,
    ssl_keyfile: str | None,
    prometheus_port: int | None,
    log_level: str,
    json_output: bool,
    log_prompts: bool,
    otlp_endpoint: str | None,
    otlp_service_name: str,
    graceful_termination_timeout: float,
    **options: Any,
) -> None:
    """Serve a model over HTTP: TGI's routes and OpenAI's."""
    from agentlm._engine import Server
    from agentlm.config import EngineConfig
    from agentlm.errors import ChatTemplateError
    from agentlm.model import bundled
    from agentlm.progress import loading_progress, wanted
    from agentlm.runtime.engine import open_engine

    say = partial(_say, json_output=json_output)
    signals = _Signals()
    _take_descriptors()
    # A port that is taken, or a bad certificate, is said before the model is loaded.
    Server.check_address(hostname, port)
    Server.check_tls(ssl_certfile, ssl_keyfile)
    if otlp_endpoint is not None:
        Server.check_otlp_endpoint(otlp_endpoint)
        if otlp_endpoint.rstrip("/").endswith(f":{OTLP_GRPC_PORT}"):
            say(
                f"traces are sent over HTTP, which collectors take at 4318; {OTLP_GRPC_PORT} is for gRPC",
                level="WARN",
            )
    settings = engine_settings(options)
    # What is left are EngineConfig's own names. A request may have several runs, so the server's own cap comes first.
    config = EngineConfig(**settings, **options)
    with loading_progress(wanted()) as progress:
        running = open_engine(config, progress)
    info = running.info
    if not info.is_chosen:
        say(bundled.note(info.backend))
    try:
        template = running.chat_template(chat_template)
        say(f"chat template: {template.source}")
    except ChatTemplateError as error:
        if chat_template is not None:
            raise
        template = None
        say(f"no chat: {error}")
    for name, path in lora_adapters:
        running.load_adapter(name, path)
        say(f"adapter {name}: {path}")
    if kernel_manifest is not None:
        say(f"kernels: {running.write_kernel_manifest(kernel_manifest)}")
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
        strict_model=strict_model,
        disable_grammar_support=disable_grammar_support,
        tool_call_parser=tool_call_parser,
        read_timeout=read_timeout,
        write_timeout=write_timeout,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        prometheus_port=prometheus_port,
        # Without a standard error the number of its file may be another's.
        log_level="off" if sys.stderr is None else log_level,
        json_output=json_output,
        log_prompts=log_prompts,
        otlp_endpoint=otlp_endpoint,
        otlp_service_name=otlp_service_name,
    )
    if server.metrics_address is not None:
        say(f"metrics alone: http://{server.metrics_address}/metrics")
    if server.metrics_refusal is not None:
        say(f"no port for metrics alone: {server.metrics_refusal}", level="WARN")
    scheme = "https" if ssl_certfile else "http"
    say(
        f"ready: {scheme}://{server.address} serves {info.model} ({info.backend}, weights {info.dtype}, KV "
        f"{info.kv_cache_dtype}, {info.max_total_tokens} tokens a request, {info.num_blocks} blocks)"
    )
    sys.exit(_serve(running, server, signals, graceful_termination_timeout, say))


def _commit(directory: Path, revision: str | None) -> str | None:
    """The commit that is served, if known. The hub's cache names a snapshot by it; a branch or a tag is none."""
    if directory.parent.name == "snapshots" and _COMMIT.fullmatch(directory.name):
        return directory.name
    return revision if revision and _COMMIT.fullmatch(revision) else None


def _serve(running: Any, server: Any, signals: "_Signals", grace: float, say: Callable[..., None]) -> int:
    """Waits for the end: a signal drains, a second one exits at once, a failed engine ends the process."""
    while not signals.received:
        state, why = running.engine.wait_ended(POLL_SECONDS)
        if state == "failed":
            return _failed(why, say)
    say(f"{signal.Signals(signals.received).name}: finishing what is in flight (again: exit at once)")
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
            return _failed(why, say)
        if time.monotonic() >= over:
            running.engine.shutdown(False)
    running.close()
    return 0


def _take_descriptors() -> None:
    """Every connection is an open file, and shells allow 1,024 of them unless they are asked for what is allowed at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS says "unlimited" and takes no more than it has.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _failed(why: str | None, say: Callable[..., None]) -> int:
    # A panic's text has several lines.
    say("error: " + " ".join((why or "").split()), level="ERROR")
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


def _say(line: str, *, json_output: bool = False, level: str = "INFO") -> None:
    """One line on standard error; a full disk, or a pipe that is closed or full, must not stop or end the server."""
    if json_output:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"timestamp": now, "level": level, "message": line}, ensure_ascii=False)
    try:
        if _takes(sys.stderr):
            click.echo(line, err=True)
    except OSError:
        return


def _takes(stream: Any) -> bool:
    """Whether a line can be written at once: log lines may have filled the pipe behind it."""
    try:
        return bool(select([], [stream], [], 0)[1])
    except (OSError, TypeError, ValueError):
        # There is no file behind it, or none that can be asked.
        return True
