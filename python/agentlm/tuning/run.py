"""One run from a configuration to a model: its directory, what it refuses, its checkpoints and its end.

Refuses to know the command line. docs/guide-tuning.md shows what a run's directory holds.
"""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentlm.errors import ConfigError, QuantizedModelError
from agentlm.model import hub
from agentlm.model.adapter import LoraModule
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import checked
from agentlm.model.layout import tensor_shapes
from agentlm.model.weights import Checkpoint
from agentlm.progress import wanted
from agentlm.tuning.account import check_apart, held_out_told, mixture_told, plan_of, tags_told
from agentlm.tuning.checkpoint import Checkpoints, Progress, TuneError, training_tensors
from agentlm.tuning.compiled import check_compiler
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.evaluation import TASKS_NAME, Evaluations
from agentlm.tuning.identity import difference, digests_of_sources, finished_identity, identity, of_base
from agentlm.tuning.log import RunLog, draw, rendering_progress
from agentlm.tuning.lora import load_matching, lora_shapes, lora_tensors
from agentlm.tuning.model import TrainableDecoder, random_tensors, stored_tensors
from agentlm.tuning.optimizer import make_optimizer
from agentlm.tuning.parallel import Ranks, fill, lay_out
from agentlm.tuning.plan import Plan
from agentlm.tuning.preference import Pairs, PreferenceTrainer, find_pairs, reference_nats
from agentlm.tuning.rendering import Rendered, render
from agentlm.tuning.result import stored_dtype, write_model, write_result
from agentlm.tuning.tasks import TaskRuns
from agentlm.tuning.trainer import StepResult, Trainer
from agentlm.tuning.work import peak, step_operations

MODEL_NAME = "model"
ADAPTER_NAME = "adapter"
RUN_NAME = "run.json"
CONFIG_NAME = "config.toml"
TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    result: Path | None
    """The directory of the model, or of the adapter; None if the run was interrupted."""
    step: int


def run(
    config: TuneConfig,
    *,
    resume: bool = False,
    quiet: bool = False,
    rank: int = 0,
    world: int = 1,
    local_rank: int = 0,
) -> Outcome:
    """Trains as the configuration says, in this process, which is one of `world`.

    With `resume` it goes on from the directory's last checkpoint, or begins if there is none; without, the directory
    must be empty. SIGINT and SIGTERM end the run after the step under way, with a checkpoint.

    Raises:
        ConfigError: the configuration contradicts the model, the data or the machine.
        TuneError: the directory holds another run, or there is no room for this one.
        RenderingError: conversations cannot be turned into tokens.
    """
    device = _device(config, local_rank)
    if config.training.compile:
        check_compiler(device)
    _set_up(config)
    template = config.model.chat_template
    if template is not None and not Path(template).is_file():
        raise ConfigError(f"`model.chat_template`: there is no file {template}")
    directory = Path(config.output)
    if rank == 0:
        _refuse_other_contents(directory, resume)
    base = hub.resolve(config.model.path, config.model.revision, progress=wanted() and not quiet)
    tensor = config.parallel.tensor
    ranks = Ranks.join(device, tensor, sharded=config.training.dtype == "bfloat16", rank=rank, world=world)
    try:
        with _interruptions() as interrupted:
            return _Run(config, directory, base, ranks, quiet).carry_out(interrupted)
    finally:
        ranks.leave()


class _Run:
    def __init__(self, config: TuneConfig, directory: Path, base: Path, ranks: Ranks, quiet: bool) -> None:
        self.config, self.directory, self.base, self.ranks = config, directory, base, ranks
        self.quiet = quiet
        self.model_config = ModelConfig.load(base)
        if self.model_config.quantization is not None:
            raise QuantizedModelError(
                f"{base} holds {self.model_config.quantization.method}'s narrow weights, which cannot be trained. Give the "
                "checkpoint that they were made of"
            )
        self.checkpoints = Checkpoints(directory / "checkpoints", ranks, config.checkpoints.keep)
        is_gpu = ranks.device.type == "cuda"
        one = peak(torch.cuda.get_device_name(ranks.device)) if is_gpu else None
        self.peak = None if one is None else one * ranks.world
        self.tags: frozenset[str] = frozenset()
        self.result = directory / (MODEL_NAME if config.lora is None else ADAPTER_NAME)

    def carry_out(self, interrupted: Callable[[], bool]) -> Outcome:
        config, ranks = self.config, self.ranks
        _check_batch(config, ranks)
        if self.result.is_dir():
            return Outcome(self.result, self._finished())
        check_apart(config)
        runs_tasks = config.evaluation.has_tasks and ranks.first
        tasks = TaskRuns(config.evaluation, self.directory / TASKS_NAME) if runs_tasks else None
        source = self._source()
        adapter = self._adapter()
        rendered, held_out = self._rendered()
        pairs = None if config.dpo is None else find_pairs(rendered, config.dpo.margin)
        plan = plan_of(config, rendered, pairs)
        of_run = identity(config, self.base, plan, rendered)
        begun = self.checkpoints.steps()
        if begun:
            self._check_same(begun[-1], of_run)
        elif ranks.first:
            self._check_room()
        if ranks.first:
            self._claim(of_run, plan)
        ranks.wait()
        model = self._model(source, adapter)
        optimizer = make_optimizer(model.named_parameters(), config.training)
        trainer = Trainer(model, optimizer, config.training, rendered, plan, ranks)
        if pairs is not None:
            trainer = self._preferring(trainer, pairs)
        tensors = training_tensors(trainer.parameters, optimizer)
        progress = Progress(0, 0, 0, 0.0)
        if begun:
            progress = self.checkpoints.load(begun[-1], tensors)
        log = (
            RunLog(self.directory, len(plan.steps), progress.step, quiet=self.quiet) if ranks.first else None
        )
        self.tags = tags_told(rendered, plan.counts(len(rendered)))
        evaluations = Evaluations(
            config, self.directory, trainer, ranks, held_out, self.tags, tasks, log,
            write=lambda place: write_model(model, config, self.base, self.model_config, ranks, place),
            interrupted=interrupted,
        )  # fmt: skip
        try:
            if log is not None and not begun:
                for line in mixture_told(config, rendered, plan):
                    log.say(line)
                if held_out is not None:
                    for line in held_out_told(config, rendered, held_out):
                        log.say(line)
                if pairs is not None:
                    log.say(f"{len(pairs)} pairs; {pairs.other_prompts} left out whose prompts differ")
            if log is not None and begun:
                log.say(f"going on after step {progress.step} of {len(plan.steps)}")
            progress = self._steps(trainer, progress, tensors, of_run, log, evaluations)
        finally:
            if tasks is not None:
                tasks.close()
            if log is not None:
                log.close()
        if progress.step < len(plan.steps):
            return Outcome(None, progress.step)
        write_result(model, config, self.base, self.model_config, ranks, self.result)
        if ranks.first:
            draw(self.directory)
        return Outcome(self.result, progress.step)

    def _steps(
        self,
        trainer: Trainer,
        progress: Progress,
        tensors: dict[str, Tensor],
        of_run: dict[str, Any],
        log: RunLog | None,
        evaluations: Evaluations,
    ) -> Progress:
        total, every = len(trainer.plan.steps), self.config.checkpoints.every
        # Before the first step; or where a run was killed while tasks were run, whose checkpoint was there already.
        evaluations.run_tasks(progress.step)
        stop = self.ranks.any(evaluations.interrupted())
        while progress.step < total and not stop:
            result = trainer.step(progress.step)
            progress = Progress(
                progress.step + 1,
                progress.tokens + result.tokens,
                progress.trained + result.trained,
                progress.seconds + result.seconds,
            )
            if log is not None:
                log.step(self._told(progress, result))
            if not math.isfinite(result.loss) or not math.isfinite(result.norm):
                raise TuneError(
                    f"step {progress.step}: the loss is {result.loss}, the gradient's norm {result.norm}. The checkpoint "
                    "before it is kept: lower `training.learning_rate`, or look at the data of this step."
                )
            evaluations.losses(progress.step)
            stop = self.ranks.any(evaluations.interrupted())
            if progress.step == total or stop or (every is not None and progress.step % every == 0):
                self.checkpoints.save(progress, tensors, {"identity": of_run})
            if stop:
                break
            # A checkpoint is there before what may take long.
            evaluations.run_tasks(progress.step)
            stop = self.ranks.any(evaluations.interrupted())
            if stop:
                self.checkpoints.save(progress, tensors, {"identity": of_run})
        return progress

    def _finished(self) -> int:
        """The steps of the run that left a result. Raises `TuneError` if this one would be another."""
        about: dict[str, Any] = json.loads((self.directory / RUN_NAME).read_text(encoding="utf-8"))
        then = finished_identity(TuneConfig.from_dict(about["config"]), about["identity"])
        told = difference(then, finished_identity(self.config, of_base(self.config, self.base)))
        before: dict[str, str | None] = about.get("sources", {})
        for name, digest in digests_of_sources(self.config).items():
            # What is gone was read when it was there.
            if told is None and digest is not None and before.get(name, digest) != digest:
                told = f"the conversations of source {name!r} are others"
        if told is not None:
            raise TuneError(
                f"{self.directory} holds a finished run that this one is not: {told}. Choose another output."
            )
        steps: int = about["steps"]
        return steps

    def _told(self, progress: Progress, result: StepResult) -> dict[str, Any]:
        names = [source.name for source in self.config.data.sources]
        return {
            "step": progress.step,
            "loss": result.loss,
            "losses": {names[index]: loss for index, loss in result.losses.items()},
            "tags": {tag: loss for tag, loss in result.tags.items() if tag in self.tags},
            "gradient_norm": result.norm,
            "learning_rate": result.learning_rate,
            "tokens": progress.tokens,
            "trained_tokens": progress.trained,
            "tokens_per_second": result.tokens / result.seconds,
            "trained_tokens_per_second": result.trained / result.seconds,
            "seconds": progress.seconds,
            **result.more,
            **({} if self.peak is None else {"mfu": self._operations(result) / result.seconds / self.peak}),
        }

    def _operations(self, result: StepResult) -> float:
        return step_operations(
            self.model_config,
            tokens=result.tokens,
            trained=result.trained,
            attended=result.attended,
            lora=self.config.lora is not None,
        )

    def _source(self) -> Checkpoint | None:
        """The weights to start from, checked; None for a new model."""
        if self.config.model.init == "random":
            return None
        source = Checkpoint.open(self.base)
        self.model_config = checked(self.model_config, source)
        return source

    def _rendered(self) -> tuple[Rendered, Rendered | None]:
        """The conversations to train on and those held out. The first rank renders, the others take what it kept."""
        if not self.ranks.first:
            self.ranks.wait_for_first()
        try:
            rendered = self._render(self.config.data.sources)
            held_out = self._render(self.config.evaluation.sources)
        finally:
            if self.ranks.first:
                self.ranks.done()
        assert rendered is not None
        return rendered, held_out

    def _render(self, sources: Any) -> Rendered | None:
        if not sources:
            return None
        data = self.config.data
        with rendering_progress(wanted() and not self.quiet and self.ranks.first) as progress:

            def advance(source: str, conversations: int) -> None:
                if self.ranks.first:
                    # The others wait for it, and a collective's patience is minutes.
                    self.ranks.busy()
                if progress is not None:
                    progress(source, conversations)

            rendered = render(
                sources,
                self.base,
                template=self.config.model.chat_template,
                length=min(data.length, self.model_config.context_length),
                over_length=data.over_length,
                cache=self.directory / "rendered",
                progress=advance,
            )
        largest = int(rendered.ids.max())
        if largest >= self.model_config.vocab:
            raise ConfigError(
                f"the tokenizer in {self.base} gives token {largest}, and the model knows {self.model_config.vocab}: the "
                "tokenizer belongs to another model"
            )
        return rendered

    def _claim(self, of_run: dict[str, Any], plan: Plan) -> None:
        self.checkpoints.directory.mkdir(parents=True, exist_ok=True)
        self.checkpoints.clear()
        about = {
            "config": self.config.to_dict(),
            "identity": of_run,
            "steps": len(plan.steps),
            "sources": digests_of_sources(self.config),
        }
        _write_whole(self.directory / RUN_NAME, json.dumps(about, indent=2) + "\n")
        _write_whole(self.directory / CONFIG_NAME, self.config.to_toml())

    def _check_same(self, step: int, now: dict[str, Any]) -> None:
        """Raises `TuneError` if the checkpoint is of another run."""
        told = difference(self.checkpoints.about(step)["identity"], now)
        if told is not None:
            raise TuneError(
                f"{self.directory} holds a run that this one cannot go on from: {told}. Go on with the configuration "
                f"in {self.directory / CONFIG_NAME}, or choose another output."
            )

    def _adapter(self) -> Mapping[str, LoraModule] | None:
        """The adapter to go on from, checked."""
        lora = self.config.lora
        return None if lora is None or lora.adapter is None else load_matching(lora, self.model_config)

    def _model(self, source: Checkpoint | None, adapter: Mapping[str, LoraModule] | None) -> TrainableDecoder:
        config, training, ranks = self.config, self.config.training, self.ranks
        with torch.device("meta"):
            model = TrainableDecoder(self.model_config)
            if config.lora is not None:
                model.add_lora(config.lora.targets, config.lora.rank, config.lora.alpha / config.lora.rank)
        dtype = TORCH_DTYPES[training.dtype]
        for parameter in model.parameters():
            if not parameter.requires_grad:
                # Nothing is added to it that a narrower type would lose.
                parameter.data = parameter.data.to(dtype)
        lay_out(model, ranks, dtype)
        model.to_empty(device=ranks.device)
        tensors = (
            random_tensors(self.model_config, config.seed)
            if source is None
            else stored_tensors(self.model_config, source)
        )
        if config.lora is not None:
            tensors = chain(tensors, lora_tensors(model, config.seed, adapter))
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in tensors:
                fill(parameters.pop(name), value)
        assert not parameters, f"nothing was said of {sorted(parameters)}"
        for layer in model.layers:
            layer.checkpointed = training.activation_checkpointing == "layers"
        if training.compile:
            model.compile_layers()
        return model

    def _preferring(self, trainer: Trainer, pairs: Pairs) -> PreferenceTrainer:
        """The trainer of preferences; what the model gave at the start is kept for a run that goes on."""
        assert self.config.dpo is not None
        file = self.directory / "reference.npy"
        if not self.checkpoints.steps():
            nats = reference_nats(trainer, pairs, self.config.data.length)
            if self.ranks.first:
                beside = file.with_name(".reference.npy")
                np.save(beside, nats)
                beside.replace(file)
            self.ranks.wait()
        if not file.is_file():
            raise TuneError(f"{file} is gone: without what the model gave at the start, the run cannot go on")
        return PreferenceTrainer(
            trainer.model,
            trainer.optimizer,
            trainer.training,
            trainer.rendered,
            trainer.plan,
            trainer.ranks,
            pairs=pairs,
            beta=self.config.dpo.beta,
            reference=np.load(file),
        )

    def _check_room(self) -> None:
        """Raises `TuneError` if the disk has no room for the checkpoints and the model."""
        lora, shapes = self.config.lora, tensor_shapes(self.model_config)
        trained = sum(
            math.prod(shape) for shape in (shapes if lora is None else lora_shapes(lora, shapes)).values()
        )
        state = 4 if self.config.training.optimizer_state == "bfloat16" else 8
        one = trained * (4 + state)
        # While one is written, those that it will replace are still there.
        needed = one * (self.config.checkpoints.keep + 1) + trained * 4
        tasks = 0
        if self.config.evaluation.has_tasks:
            # What is served stays until what will be is there.
            stored = sum(math.prod(shape) for shape in shapes.values())
            tasks = 2 * stored * stored_dtype(self.config, self.model_config).itemsize
            needed += tasks
        self.directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise TuneError(
                f"{self.directory} has {free / 1e9:.1f} GB free; {self.config.checkpoints.keep + 1} checkpoints of "
                f"{one / 1e9:.1f} GB and the result ({trained * 4 / 1e9:.1f} GB)"
                f"{f' and the weights for task runs ({tasks / 1e9:.1f} GB)' if tasks else ''} need {needed / 1e9:.1f} GB. "
                "Free some, choose another `output`, or lower `checkpoints.keep`."
            )


def _device(config: TuneConfig, local_rank: int) -> torch.device:
    wanted_device = config.training.device
    if wanted_device == "cuda" and not torch.cuda.is_available():
        raise ConfigError('`training.device` = "cuda", and torch finds no GPU here')
    if wanted_device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _set_up(config: TuneConfig) -> None:
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    torch.use_deterministic_algorithms(config.training.deterministic)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def _check_batch(config: TuneConfig, ranks: Ranks) -> None:
    batch, micro = config.training.batch, config.training.micro_batch
    if config.dpo is not None:
        # Batches are of pairs, and their packs are shared as they come.
        return
    if batch % ranks.data:
        raise ConfigError(
            f"`training.batch` = {batch} packs cannot be shared evenly by {ranks.data} ranks: make it a multiple"
        )
    if micro > batch // ranks.data:
        raise ConfigError(
            f"`training.micro_batch` = {micro} is more than the {batch // ranks.data} packs that a rank computes a step"
        )


def _refuse_other_contents(directory: Path, resume: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise TuneError(f"{directory} is a file: name another output")
    contents = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    # Rendered conversations are found by what they were made of, and what was never begun may be begun.
    if not set(contents) - {"rendered"}:
        return
    if not resume:
        raise TuneError(
            f"{directory} is not empty ({', '.join(contents[:4])}): go on with --resume, or choose another output"
        )
    if RUN_NAME not in contents:
        raise TuneError(
            f"{directory} holds no run of `agentlm tune` to go on from ({', '.join(contents[:4])})"
        )


@contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM came; a second one ends the process as it always does."""
    came: list[int] = []

    def note(number: int, _frame: object) -> None:
        if came:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        came.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        # Not the main thread: signals are another's business.
        before = {}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_whole(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(file)
