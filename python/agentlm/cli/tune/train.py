"""`agentlm tune CONFIG`: trains as a TOML file says, flags changing it. Refuses to know torch until it runs."""

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from agentlm.tuning.config import TuneConfig

_FLAGS: tuple[tuple[str, str, Any, str], ...] = (
    ("--output", "output", click.Path(file_okay=False), "Directory of the run."),
    ("--model", "model.path", click.STRING, "Checkpoint directory or hub name."),
    (
        "--chat-template",
        "model.chat_template",
        click.Path(dir_okay=False),
        "Jinja file that takes the place of the checkpoint's own template.",
    ),
    ("--steps", "training.steps", click.INT, "Optimizer steps; takes the place of epochs."),
    ("--epochs", "training.epochs", click.FLOAT, "Epochs; takes the place of steps."),
    ("--batch", "training.batch", click.INT, "Packs an optimizer step, over all ranks."),
    ("--micro-batch", "training.micro_batch", click.INT, "Packs that a rank computes at a time."),
    ("--learning-rate", "training.learning_rate", click.FLOAT, "Peak of the learning rate."),
    ("--length", "data.length", click.INT, "Tokens of a pack."),
    ("--eta", "data.eta", click.FLOAT, "Share of agent conversations."),
    ("--seed", "seed", click.INT, "Seed of the data order and of new weights."),
    ("--device", "training.device", click.Choice(("auto", "cpu", "cuda")), "Where to compute."),
    (
        "--dtype",
        "training.dtype",
        click.Choice(("float32", "bfloat16")),
        "What forward and backward compute in.",
    ),
    ("--threads", "training.threads", click.INT, "CPU threads a process."),
    ("--tensor-parallel", "parallel.tensor", click.INT, "Ranks that share each matrix out."),
)


class _Assignment(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """`KEY=VALUE`, the value as TOML writes it; bare words are text."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """The key and the value."""
        key, sign, text = str(value).partition("=")
        if not sign or not key.strip():
            self.fail(f"{value!r} is not of the form KEY=VALUE, such as training.clip=0.5", param, ctx)
        try:
            return key.strip(), tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return key.strip(), text.strip()


_CHANGES = (
    click.option("--set", "assigned", type=_Assignment(), multiple=True, help="Any other key: KEY=VALUE, the value as TOML writes it; repeatable."),
    click.option("--deterministic", is_flag=True, help="Results repeat bit for bit on a GPU, too. [training.deterministic]"),
)  # fmt: skip
_SWITCHES = (
    click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the output directory, if there is one."),
    click.option("--print-config", is_flag=True, help="Print the whole configuration, defaults included, and stop."),
    click.option("--estimate", is_flag=True, help="Print hours and memory on 1 and 8 GPUs, computed from shapes, and stop."),
    click.option("--gpu", type=click.Choice(("B200", "H200", "H100", "A100", "L40S")), default="H200", show_default=True, help="GPU of --estimate."),
    click.option("--quiet", is_flag=True, help="No progress bar and no lines about the mixture."),
)  # fmt: skip


def configuration_options(function: Any) -> Any:
    """Adds the configuration's file and what changes it: `configured` takes them."""
    for option in reversed(_CHANGES):
        function = option(function)
    for flag, key, kind, told in reversed(_FLAGS):
        function = click.option(flag, _parameter(key), type=kind, help=f"{told} [{key}]")(function)
    return click.argument("config", type=click.Path(dir_okay=False))(function)


def training_options(function: Any) -> Any:
    """Adds the configuration's options, and the switches of a run."""
    for option in reversed(_SWITCHES):
        function = option(function)
    return configuration_options(function)


def _parameter(key: str) -> str:
    return key.replace(".", "__")


@click.command("train")
@training_options
def command(**options: Any) -> None:
    """Train as CONFIG says, a TOML file. `torchrun` starts several processes: torchrun --no-python agentlm tune CONFIG."""
    train(**options)


def configured(
    config: str,
    assigned: Sequence[tuple[str, Any]],
    deterministic: bool,
    flags: Mapping[str, Any],
    given: Sequence[tuple[str, Any]] = (),
    tables: Sequence[str] = (),
) -> "TuneConfig":
    """The file as the flags change it; `given` are (key, value) that a command adds, `tables` those it needs."""
    from agentlm.tuning.config import TuneConfig

    changes: list[tuple[str, Any]] = list(given)
    for _, key, _, _ in _FLAGS:
        value = flags[_parameter(key)]
        if value is not None:
            changes.append((key, value))
            # One of the two says how long; the flag takes the file's place.
            other = {"training.steps": "training.epochs", "training.epochs": "training.steps"}.get(key)
            if other is not None and flags[_parameter(other)] is None:
                changes.append((other, None))
    if deterministic:
        changes.append(("training.deterministic", True))
    return TuneConfig.load(config, [*changes, *assigned], tables)


def prepare(settings: "TuneConfig") -> None:
    """Sets what torch reads of the environment: to be called before it is imported."""
    # Threads that spin while they wait starve those that compute where another process wants the cores too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.training.deterministic:
        # cuBLAS reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def train(
    config: str,
    assigned: tuple[tuple[str, Any], ...],
    deterministic: bool,
    resume: bool,
    print_config: bool,
    estimate: bool,
    gpu: str,
    quiet: bool,
    given: Sequence[tuple[str, Any]] = (),
    tables: Sequence[str] = (),
    **flags: Any,
) -> None:
    """What `agentlm tune CONFIG` does; `given` and `tables` as `configured` takes them."""
    settings = configured(config, assigned, deterministic, flags, given, tables)
    if print_config:
        click.echo(settings.to_toml(), nl=False)
        return
    if estimate:
        _tell_estimate(settings, gpu)
        return
    prepare(settings)
    from agentlm.tuning.parallel import launched
    from agentlm.tuning.run import CONFIG_NAME, run

    rank, world, local_rank = launched()
    outcome = run(settings, resume=resume, quiet=quiet, rank=rank, world=world, local_rank=local_rank)
    if rank == 0:
        if outcome.result is None:
            click.echo(
                # The file that the run wrote: it knows what flags changed in the one that was given.
                f"interrupted: saved after step {outcome.step}; go on with: agentlm tune "
                f"{Path(settings.output) / CONFIG_NAME} --resume",
                err=True,
            )
        else:
            click.echo(outcome.result)
    if outcome.result is None:
        sys.exit(130)


def _tell_estimate(settings: Any, gpu: str) -> None:
    from agentlm.errors import ConfigError
    from agentlm.model import hub
    from agentlm.model.config import ModelConfig
    from agentlm.tuning.work import told

    if settings.training.steps is None:
        raise ConfigError(
            "an estimate needs `training.steps`: epochs say how much only once the data is read"
        )
    directory = Path(settings.model.path)
    if not directory.is_dir():
        found = hub.cached(settings.model.path, settings.model.revision)
        if found is None:
            raise ConfigError(
                f"{settings.model.path} is neither a directory nor in the hub's cache: give --model a directory with its "
                "config.json (the weights are not needed)"
            )
        directory = found
    for line in told(settings, ModelConfig.load(directory), gpu):
        click.echo(line)
