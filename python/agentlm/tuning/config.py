"""One run's configuration: frozen, read from TOML, checked once, unknown keys refused. Refuses to know torch and files.

Sections are the TOML tables: `[model]`, `[data]` with `[[data.sources]]`, `[training]`, `[lora]`, `[parallel]`,
`[evaluation]`, `[checkpoints]`. Paths are relative to where the command runs.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from agentlm.errors import ConfigError
from agentlm.tuning.tables import absent, change, plain, section, toml

INITS = ("weights", "random")
DTYPES = ("float32", "bfloat16")
GROUPS = ("agent", "general")
UNITS = ("conversations", "trained_tokens")
OVER_LENGTH = ("drop", "split", "refuse")
SCHEDULES = ("cosine", "linear", "constant")
CHECKPOINTING = ("none", "layers")
DEVICES = ("auto", "cpu", "cuda")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linears of a layer, which LoRA may adapt."""
_NAME = re.compile(r"[A-Za-z0-9][\w-]*")
"""Of a task or a world: no flag of a command line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSection:
    """What is trained."""

    path: str
    """A checkpoint's directory or hub name. With `init = "random"`: a directory with config.json and a tokenizer."""
    init: Literal["weights", "random"] = "weights"
    """Where the weights come from."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    chat_template: str | None = None
    """A Jinja file that takes the place of the checkpoint's own; it is exported with the model."""

    def __post_init__(self) -> None:
        _one_of("model.init", self.init, INITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSection:
    """Conversations of one kind, in the JSONL of `agentlm data`."""

    name: str
    path: str | tuple[str, ...]
    """One file or several; a pattern such as `chats/*.jsonl` is expanded in order of names."""
    weight: float | None = None
    """Share within its group, in proportion to the others'. Absent everywhere: as large as the source is."""
    group: Literal["agent", "general"] | None = None
    """Which side of `data.eta` it belongs to."""

    def __post_init__(self) -> None:
        _one_of("group", self.group, (None, *GROUPS))
        _number("weight", self.weight, 0, 1e9, above=True, optional=True)
        if not self.name or not self.path:
            raise ConfigError("a source needs a `name` and a `path`")

    @property
    def paths(self) -> tuple[str, ...]:
        """The files as they are given."""
        return (self.path,) if isinstance(self.path, str) else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSection:
    """What it is trained on."""

    sources: tuple[SourceSection, ...]
    length: int = 4096
    """Tokens of a pack."""
    packing: bool = True
    """Several conversations a pack; without it each has its own, as long as it is."""
    over_length: Literal["drop", "split", "refuse"] = "drop"
    """Conversations of more than `length` tokens: left out (counted and told), divided between turns, or an error."""
    eta: float | None = None
    """Share of the group "agent"; needed where sources have groups."""
    unit: Literal["conversations", "trained_tokens"] = "conversations"
    """What shares are shares of."""
    tag_weights: Mapping[str, float] = field(default_factory=dict)
    """Factors on how often a conversation with this tag is drawn; those of several tags are multiplied."""

    def __post_init__(self) -> None:
        _one_of("data.over_length", self.over_length, OVER_LENGTH)
        _one_of("data.unit", self.unit, UNITS)
        _integer("data.length", self.length, 16, 1 << 22)
        _number("data.eta", self.eta, 0, 1, optional=True)
        for tag, factor in self.tag_weights.items():
            _number(f"data.tag_weights.{tag}", factor, 0, 1e6)
        if not self.sources:
            raise ConfigError("`data.sources` is empty: name at least one, as [[data.sources]]")
        _unique("data.sources", [source.name for source in self.sources])
        grouped = [source.group is not None for source in self.sources]
        if any(grouped) and not all(grouped):
            plain = next(source.name for source in self.sources if source.group is None)
            raise ConfigError(
                f'source {plain!r} has no `group` and others have: give it "agent" or "general"'
            )
        if any(grouped) != (self.eta is not None):
            raise ConfigError(
                '`data.eta` is the share of the sources with group "agent": give both `eta` and a `group` for every '
                f"source, or neither. Given: eta = {self.eta}, groups {[source.group for source in self.sources]}"
            )
        weighted = {source.group: [] for source in self.sources}  # type: dict[str | None, list[bool]]
        for source in self.sources:
            weighted[source.group].append(source.weight is not None)
        for group, given in weighted.items():
            if any(given) and not all(given):
                raise ConfigError(
                    f"some sources{f' of group {group!r}' if group else ''} have a `weight` and some have not: "
                    "give it to all of them, or to none"
                )
        if self.eta is not None:
            for group, share in (("agent", self.eta), ("general", 1 - self.eta)):
                if share > 0 and group not in weighted:
                    raise ConfigError(
                        f"`data.eta` = {self.eta} gives group {group!r} a share of {share}, and no source is of it"
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSection:
    """How it is trained."""

    steps: int | None = None
    """Optimizer steps. Either this or `epochs`."""
    epochs: float | None = None
    """How often as many conversations are drawn as there are."""
    batch: int = 64
    """Packs an optimizer step, over all ranks."""
    micro_batch: int = 1
    """Packs that a rank computes at a time."""
    learning_rate: float = 5e-5
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises."""
    final_learning_rate: float = 0.0
    """Where the schedule ends, as a share of `learning_rate`."""
    weight_decay: float = 0.0
    """On matrices; norms and biases have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    clip: float | None = 1.0
    """Largest norm of the gradient; absent in a file: 1. `false` for none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What forward and backward compute in. The weights that the optimizer keeps are float32."""
    optimizer_state: Literal["float32", "bfloat16"] = "float32"
    activation_checkpointing: Literal["none", "layers"] = "none"
    compile: bool = False
    """Whether torch compiles what layers compute outside of attention: a minute or two at the start, a gain in steps where
    many small operations wait for one another. Off unless asked for, on a GPU too: measure it on what is to be trained."""
    deterministic: bool = False
    """Only operations whose results repeat bit for bit; a CPU's always do."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    """CPU threads a process; absent: torch's own choice."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError(
                f"give either `training.steps` or `training.epochs`. Given: steps = {self.steps}, epochs = {self.epochs}"
            )
        _integer("training.steps", self.steps, 1, 1 << 40, optional=True)
        _number("training.epochs", self.epochs, 0, 1e6, above=True, optional=True)
        _integer("training.batch", self.batch, 1, 1 << 20)
        _integer("training.micro_batch", self.micro_batch, 1, 1 << 20)
        _number("training.learning_rate", self.learning_rate, 0, 10, above=True)
        _number("training.warmup", self.warmup, 0, 1)
        _number("training.final_learning_rate", self.final_learning_rate, 0, 1)
        _number("training.weight_decay", self.weight_decay, 0, 10)
        _number("training.epsilon", self.epsilon, 0, 1, above=True)
        _number("training.clip", self.clip, 0, 1e9, above=True, optional=True)
        _integer("training.threads", self.threads, 1, 1024, optional=True)
        _one_of("training.schedule", self.schedule, SCHEDULES)
        _one_of("training.dtype", self.dtype, DTYPES)
        _one_of("training.optimizer_state", self.optimizer_state, DTYPES)
        _one_of("training.activation_checkpointing", self.activation_checkpointing, CHECKPOINTING)
        _one_of("training.device", self.device, DEVICES)
        if self.schedule == "constant" and self.final_learning_rate:
            raise ConfigError(
                f"`training.final_learning_rate` = {self.final_learning_rate:g} is where a schedule falls to, and "
                '`training.schedule` = "constant" does not fall: leave it out, or choose cosine or linear'
            )
        if self.compile and self.deterministic:
            raise ConfigError(
                "`training.compile` does not go with `training.deterministic`: programs are made for the sizes that come "
                "first, and a run that goes on meets others first. Leave one of the two out."
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"`training.betas` must be two numbers from 0 to below 1. Given: {self.betas}")
        for index, beta in enumerate(self.betas):
            if self.optimizer_state == "bfloat16" and beta > 0.996:
                moment = ("first", "second")[index]
                raise ConfigError(
                    f'`training.optimizer_state` = "bfloat16" does not go with betas[{index}] = {beta}: a step would '
                    f"change the {moment} moment by less than bfloat16 can tell (2^-8). Lower it to 0.996, or keep float32 "
                    "states."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSection:
    """Low-rank additions instead of the weights themselves; the table's presence turns them on."""

    rank: int = 16
    alpha: float = 32.0
    """The addition is scaled by alpha / rank."""
    targets: tuple[str, ...] = TARGETS
    adapter: str | None = None
    """An adapter's directory to go on from."""

    def __post_init__(self) -> None:
        _integer("lora.rank", self.rank, 1, 1024)
        _number("lora.alpha", self.alpha, 0, 1e6, above=True)
        if unknown := sorted(set(self.targets) - set(TARGETS)):
            raise ConfigError(f"`lora.targets` names {unknown}; allowed are {', '.join(TARGETS)}")
        if not self.targets:
            raise ConfigError("`lora.targets` is empty: name at least one linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoSection:
    """Direct preference optimization on trajectories of one item; the table's presence turns it on (arXiv:2305.18290)."""

    beta: float = 0.1
    """How strongly the model is held to where it started."""
    margin: float = 0.0
    """A pair's rewards must differ by more than this."""

    def __post_init__(self) -> None:
        _number("dpo.beta", self.beta, 0, 100, above=True)
        _number("dpo.margin", self.margin, 0, 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSection:
    """How ranks share the work. The others of a `torchrun` hold shards of the weights and packs of their own (FSDP2)."""

    tensor: int = 1
    """Ranks that share each matrix out."""

    def __post_init__(self) -> None:
        _integer("parallel.tensor", self.tensor, 1, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSection:
    """What the model is put to on the way: the loss on conversations that are not trained on, and tasks."""

    sources: tuple[SourceSection, ...] = ()
    every: int | None = None
    """Steps between two evaluations; absent: at the end only."""
    tasks: tuple[str, ...] = ()
    """Tasks of `agentlm eval`, run over HTTP on the weights as they are."""
    worlds: tuple[str, ...] = ()
    """Small text environments of `agentlm_evals`, played in the same way."""
    tasks_every: int | None = None
    """Steps between two task runs; absent: as `every`. One comes before the first step and one after the last anyway."""
    samples: int = 50
    """Of each task, and games of each world."""
    seconds: float = 3600.0
    """Longest that a task run may take; what it has not done by then is given up."""
    eval_arguments: tuple[str, ...] = ()
    """Further words for `agentlm eval`, such as `--own-samples`."""
    serve_arguments: tuple[str, ...] = ()
    """Further words for `agentlm serve`, such as `--threads=2`."""

    def __post_init__(self) -> None:
        _integer("evaluation.every", self.every, 1, 1 << 40, optional=True)
        _integer("evaluation.tasks_every", self.tasks_every, 1, 1 << 40, optional=True)
        _integer("evaluation.samples", self.samples, 1, 1 << 20)
        _number("evaluation.seconds", self.seconds, 0, 1e9, above=True)
        _unique("evaluation.sources", [source.name for source in self.sources])
        for name, given in (("tasks", self.tasks), ("worlds", self.worlds)):
            if odd := [one for one in given if not _NAME.fullmatch(one)]:
                raise ConfigError(
                    f"`evaluation.{name}` has {odd[0]!r}; a name is of letters, digits, - and _ "
                    "(`agentlm eval list` shows the tasks)"
                )
        if self.every is not None and not self.sources and not self.has_tasks:
            raise ConfigError(
                "`evaluation.every` is set, and there are neither [[evaluation.sources]] nor `tasks` nor `worlds`"
            )
        for name in ("tasks_every", "eval_arguments", "serve_arguments"):
            if getattr(self, name) and not self.has_tasks:
                raise ConfigError(f"`evaluation.{name}` is set, and there are neither `tasks` nor `worlds`")

    @property
    def has_tasks(self) -> bool:
        """Whether there are task runs."""
        return bool(self.tasks or self.worlds)

    def runs_tasks(self, step: int, steps: int) -> bool:
        """Whether a task run follows `step` of `steps`; step 0 is before the first one."""
        every = self.tasks_every or self.every
        return self.has_tasks and (step in (0, steps) or (every is not None and step % every == 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSection:
    """What a run that ends early goes on from."""

    every: int | None = None
    """Steps between two checkpoints; absent: one when the run is interrupted only."""
    keep: int = 2
    """How many of the last ones stay."""

    def __post_init__(self) -> None:
        _integer("checkpoints.every", self.every, 1, 1 << 40, optional=True)
        _integer("checkpoints.keep", self.keep, 1, 1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """Everything that shapes a run. A value outside its range, or one that contradicts another, raises `ConfigError`."""

    output: str
    """Directory of the run: log, checkpoints and the model."""
    model: ModelSection
    data: DataSection
    training: TrainingSection
    seed: int = 0
    lora: LoraSection | None = None
    dpo: DpoSection | None = None
    parallel: ParallelSection = field(default_factory=ParallelSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    checkpoints: CheckpointSection = field(default_factory=CheckpointSection)

    def __post_init__(self) -> None:
        _integer("seed", self.seed, 0, 1 << 31)
        if not self.output:
            raise ConfigError("`output` is empty: name the directory of the run")
        if self.lora is not None and self.model.init == "random":
            raise ConfigError(
                '`model.init` = "random" does not go with [lora]: low-rank additions to weights that know nothing. '
                "Train the whole model, or start from weights."
            )
        if self.training.compile and self.parallel.tensor > 1:
            raise ConfigError(
                f"`training.compile` does not go with `parallel.tensor` = {self.parallel.tensor}: ranks add up between the "
                "operations that would be compiled together. Leave one of the two out."
            )
        if self.dpo is not None:
            self._check_dpo()
        trained = {path: source.name for source in self.data.sources for path in source.paths}
        for held in self.evaluation.sources:
            for path in held.paths:
                if path in trained:
                    raise ConfigError(
                        f"{path} is both trained on (source {trained[path]!r}) and held out (source {held.name!r}): "
                        "divide its conversations between two files"
                    )

    def _check_dpo(self) -> None:
        for refused, why in (
            (self.model.init == "random", '`model.init` = "random": there is nothing to prefer yet'),
            (
                self.data.over_length == "split",
                '`data.over_length` = "split": a pair is of whole trajectories',
            ),
            (
                self.data.unit != "conversations",
                f"`data.unit` = {self.data.unit!r}: every pair is drawn once an epoch",
            ),
            (self.data.eta is not None, "`data.eta`: every pair is drawn once an epoch"),
            (bool(self.data.tag_weights), "`data.tag_weights`: every pair is drawn once an epoch"),
            (
                any(s.weight is not None for s in self.data.sources),
                "a source's `weight`: every pair is drawn once an epoch",
            ),
            (not self.data.packing, "`data.packing` = false"),
        ):
            if refused:
                raise ConfigError(f"[dpo] does not go with {why}")

    @classmethod
    def load(
        cls, file: str | Path, changes: Sequence[tuple[str, Any]] = (), tables: Sequence[str] = ()
    ) -> Self:
        """Reads a TOML file; `changes` are (dotted key, value) that take the place of what it says.

        `tables` are there even where the file has none of that name.

        Raises `ConfigError` naming the file and the key.
        """
        try:
            values = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"there is no file {file}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} is not valid TOML: {error}") from error
        for table in tables:
            values.setdefault(table, {})
        for key, value in changes:
            change(values, key, value)
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads plain nested dictionaries. Raises `ConfigError`."""
        return section(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, without what is absent."""
        return plain(self)  # type: ignore[no-any-return]

    def to_toml(self) -> str:
        """The whole configuration, defaults included, as a file that `load` reads; what is not set is named at its end."""
        return f"{toml(self.to_dict())}\n# Not set: {', '.join(absent(self))}\n"


def _one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise ConfigError(f"`{name}` must be one of {', '.join(map(str, allowed))}. Given: {value!r}")


def _integer(name: str, value: Any, low: int, high: int, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"`{name}` must be an integer from {low} to {high}. Given: {value!r}")


def _number(
    name: str, value: Any, low: float, high: float, *, above: bool = False, optional: bool = False
) -> None:
    if value is None and optional:
        return
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not low <= value <= high
        or (above and value == low)
    ):
        least = f"above {low:g}" if above else f"from {low:g}"
        raise ConfigError(f"`{name}` must be a number {least} to {high:g}. Given: {value!r}")


def _unique(name: str, given: Sequence[str]) -> None:
    for one in given:
        if given.count(one) > 1:
            raise ConfigError(f"`{name}` has {one!r} more than once: give each source a name of its own")
