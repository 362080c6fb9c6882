"""TGI's launcher flags that `agentlm serve` takes for those who come from it. Refuses to know the server.

A flag of a mechanism that does not exist here is accepted, and one line says what stands in its place. A flag that
would change answers if it were left unheeded is refused with the reason. Each may also come as TGI's variable.
"""

import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import click

from agentlm import __version__
from agentlm.cli.options import Decorator
from agentlm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Flag:
    """One of TGI's flags."""

    name: str
    kind: Any
    """The click type of its value; None: a switch without one."""
    says: str
    """What stands in its place, or why it cannot be had."""
    silent: tuple[Any, ...] = ()
    """Values that ask for what is so anyway: nothing is said."""
    allowed: str | None = None
    """What the value must be, in words; any other is refused. None: every value is accepted."""


_ONE_DEVICE = "a server computes on one device: start one for each, behind a load balancer"
_EVERY_STEP = "new requests join at every step that has room for their tokens"
_KV_MEMORY = (
    "--kv-cache-memory bounds the memory for keys and values; without it a share of what is free is taken"
)
_NO_TUNNEL = "no tunnel is opened"
_ROTARY = "rotary scaling is read from the checkpoint's config.json; set it there"

FLAGS = (
    Flag("sharded", click.BOOL, _ONE_DEVICE, silent=(False,), allowed="false"),
    Flag("num-shard", click.INT, _ONE_DEVICE, silent=(1,), allowed="1"),
    Flag("rope-scaling", click.STRING, _ROTARY, allowed="left out"),
    Flag("rope-factor", click.FLOAT, _ROTARY, allowed="left out"),
    Flag("speculate", click.INT, "no token is guessed ahead; answers are the same", silent=(0,)),
    Flag("trust-remote-code", None, "no code that comes with a checkpoint is ever run"),
    Flag("waiting-served-ratio", click.FLOAT, _EVERY_STEP),
    Flag("max-waiting-tokens", click.INT, _EVERY_STEP),
    Flag("max-batch-total-tokens", click.INT, _KV_MEMORY),
    Flag("cuda-memory-fraction", click.FLOAT, _KV_MEMORY, silent=(1.0,)),
    Flag("disable-custom-kernels", None, "there is one set of kernels"),
    Flag("shard-uds-path", click.STRING, _ONE_DEVICE),
    Flag("master-addr", click.STRING, _ONE_DEVICE),
    Flag("master-port", click.INT, _ONE_DEVICE),
    Flag("weights-cache-override", click.STRING, "--huggingface-hub-cache says where files are kept"),
    Flag("enable-prefill-logprobs", None, "`decoder_input_details` always has them"),
    Flag("max-image-fetch-size", click.INT, "no image is ever fetched: messages are text"),
    Flag("ngrok", None, _NO_TUNNEL),
    Flag("ngrok-authtoken", click.STRING, _NO_TUNNEL),
    Flag("ngrok-edge", click.STRING, _NO_TUNNEL),
    Flag("usage-stats", click.Choice(("on", "off", "no-stack")), "nothing is reported to anyone", silent=("off",)),
)  # fmt: skip
"""Those that `agentlm serve` does not take as options of its own."""


def judge(flag: Flag, value: Any) -> str | None:
    """What to say about a flag that was given; None if nothing. Raises `ConfigError` if it cannot be had."""
    if value in flag.silent:
        return None
    if flag.allowed is not None:
        given = str(value).lower() if isinstance(value, bool) else value
        raise ConfigError(f"`--{flag.name}` must be {flag.allowed}. Given: {given}. Here {flag.says}.")
    return f"--{flag.name} has no effect: {flag.says}"


def launcher_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags. They reach no parameter of the command: what there is to say is said as they are read."""
    options: list[Decorator] = [*map(_option, FLAGS), _ENVIRONMENT]
    for option in reversed(options):
        function = option(function)
    return function


def _option(flag: Flag) -> Decorator:
    def heard(_context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        # None is a flag, False a switch, that was not given; `--sharded false` is no switch.
        given = value is not None if flag.kind else bool(value)
        if given and (line := judge(flag, value)):
            _say(line)

    shape: dict[str, Any] = {"is_flag": True} if flag.kind is None else {"type": flag.kind}
    return click.option(
        f"--{flag.name}",
        envvar=flag.name.upper().replace("-", "_"),
        expose_value=False,
        hidden=True,
        callback=heard,
        help=flag.says,
        **shape,
    )


def _environment(_context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        _say(f"agentlm {__version__}, Python {platform.python_version()}, {platform.platform()}")


# No variable sets it: containers have an `ENV` of their own.
_ENVIRONMENT = click.option(
    "--env",
    "-e",
    is_flag=True,
    expose_value=False,
    callback=_environment,
    help="Say first which versions run here; `agentlm doctor` says more.",
)


def _say(line: str) -> None:
    """One line on standard error; nobody behind it must keep the server from starting."""
    with suppress(OSError):
        click.echo(line, err=True)
