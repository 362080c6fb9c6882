"""Checkpoints of a run: complete or absent, the last few kept. Refuses to know what a step computes.

Tensors are torch's distributed checkpoint (DCP); `run.json` beside them says which step, and of which run. A checkpoint
is written beside its place and renamed once all of it is on the disk.
"""

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from agentlm.errors import AgentLMError
from agentlm.tuning.parallel import Ranks


class TuneError(AgentLMError):
    """A run cannot start, or go on."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    step: int
    """Optimizer steps that are done."""
    tokens: int
    trained: int
    """Trained tokens."""
    seconds: float
    """Time spent in steps."""


class Checkpoints:
    """The checkpoints of one run's directory."""

    def __init__(self, directory: Path, ranks: Ranks, keep: int) -> None:
        self.directory = directory
        self.ranks = ranks
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps of which there is a complete one, in order."""
        return sorted(
            int(path.name[5:]) for path in self.directory.glob("step-*") if (path / "run.json").is_file()
        )

    def save(self, progress: Progress, tensors: Mapping[str, Tensor], run: Mapping[str, Any]) -> None:
        """Writes one, unless it is there, and removes those that are too many. All ranks come here together.

        Raises `TuneError` if the disk is full, or takes it for another reason not: nothing is left of it then.
        """
        place = self.directory / f"step-{progress.step:08}"
        if place.is_dir():
            return
        beside = self.directory / f".{place.name}"
        try:
            if self.ranks.first:
                self.clear()
                beside.mkdir(parents=True)
            self.ranks.wait()
            with warnings.catch_warnings():
                # One process needs no others for it.
                warnings.filterwarnings("ignore", message=".*single process.*")
                warnings.filterwarnings("ignore", category=FutureWarning)
                save(dict(tensors), checkpoint_id=beside, no_dist=self.ranks.world == 1)
            if self.ranks.first:
                (beside / "run.json").write_text(
                    json.dumps({"progress": asdict(progress), **run}), encoding="utf-8"
                )
                _to_disk(beside)
                beside.rename(place)
                _sync(self.directory)
                self._forget_old()
        except (OSError, RuntimeError, CheckpointException) as error:
            # Torch's writer says RuntimeError of a full disk, DCP an exception that is none of `Exception`'s.
            if self.ranks.first:
                shutil.rmtree(beside, ignore_errors=True)
            kept = self.steps()
            before = f"the one of step {kept[-1]} is kept" if kept else "there is none before it"
            raise TuneError(
                f"the checkpoint of step {progress.step} could not be written to {self.directory} ({_cause(error)}); "
                f"{before}. Make room, and go on with --resume."
            ) from error
        self.ranks.wait()

    def _forget_old(self) -> None:
        """Removes what is too old, each under a name first that says it is no checkpoint any more."""
        for step in self.steps()[: -self.keep]:
            place = self.directory / f"step-{step:08}"
            gone = place.with_name(f".{place.name}")
            place.rename(gone)
            shutil.rmtree(gone)

    def clear(self) -> None:
        """Removes what a killed run left half-written."""
        for path in self.directory.glob(".step-*"):
            shutil.rmtree(path)

    def about(self, step: int) -> dict[str, Any]:
        """What was said of the run when this one was saved."""
        found: dict[str, Any] = json.loads(
            (self.directory / f"step-{step:08}" / "run.json").read_text(encoding="utf-8")
        )
        return found

    def load(self, step: int, tensors: Mapping[str, Tensor]) -> Progress:
        """Fills tensors, of any layout over ranks, with what was saved. All ranks come here together."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*single process.*")
            warnings.filterwarnings("ignore", category=FutureWarning)
            load(
                dict(tensors), checkpoint_id=self.directory / f"step-{step:08}", no_dist=self.ranks.world == 1
            )
        return Progress(**self.about(step)["progress"])


def training_tensors(
    named: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    """What changes in a run: the trained parameters and the optimizer's state of each, which is made if it is not there."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in named.items():
        if not parameter.requires_grad:
            continue
        state = optimizer.state[parameter]
        if not state:
            moments = torch.bfloat16 if type(optimizer) is not torch.optim.AdamW else parameter.dtype
            fused = type(optimizer) is torch.optim.AdamW
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device if fused else "cpu")
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = torch.zeros_like(parameter, dtype=moments)
        tensors[f"model.{name}"] = parameter.data
        tensors |= {f"optimizer.{name}.{key}": value for key, value in state.items()}
    return tensors


def _cause(error: BaseException) -> str:
    """What the system said, in one line, under whatever it was wrapped in."""
    if isinstance(error, CheckpointException):
        error = next((inner[0] for inner in error.failures.values()), error)
    return next(iter(str(error).splitlines()), type(error).__name__)


def _to_disk(directory: Path) -> None:
    for path in directory.iterdir():
        _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
