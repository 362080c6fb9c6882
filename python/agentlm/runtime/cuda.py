"""The CUDA runner: plans go to the device as they lie, steps are computed there, sampled ids stay there for the next one.

Two steps are in flight: while one computes, the next is planned and queued. Adapters, exchanged weights and sleep happen
between two steps. Refuses to know requests, text and kernels.
"""

import ctypes
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agentlm._engine import Engine, Rings
from agentlm.config import EngineConfig
from agentlm.errors import AgentLMError, ControlError, EngineFailedError
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import checked
from agentlm.model.quantized import open_checkpoint
from agentlm.runtime import memory
from agentlm.runtime.cuda_memory import StepSizes
from agentlm.runtime.cuda_model import CudaModel
from agentlm.runtime.cuda_steps import CudaSteps, buckets
from agentlm.runtime.device import Event
from agentlm.runtime.plan import Plan, RowFlags
from agentlm_kernels.compilations import CompilationLog


@dataclass(slots=True)
class _InFlight:
    """A launched step."""

    slot: int
    plan: Plan
    done: Event
    is_sampled: bool = False


class CudaRunner:
    """Runs steps on one device, two in flight."""

    depth = 2

    def __init__(
        self,
        engine: Engine,
        model: CudaModel,
        directory: Path,
        config: EngineConfig,
        plan: memory.KvPlan,
        eos_ids: Sequence[int],
        compilations: CompilationLog,
    ) -> None:
        """`compilations` counts from before the model was bound."""
        self._engine = engine
        self._compilations = compilations
        self._config = replace(config, dtype=model.dtype)
        self._directory = directory
        self._num_blocks = plan.num_blocks
        self._eos_ids = eos_ids
        self._model_config = model.config
        self._device = device = model.device
        self._has_entered = False
        rings: Rings = engine.rings()
        self._arena = _ring(rings.arena_address, rings.n_slots, rings.arena_words)
        self._arena_pinned = device.pin(self._arena)
        self._results_pinned = device.pin(_ring(rings.results_address, rings.n_slots, rings.results_words))
        self._masks = np.zeros((rings.max_rows, -(-model.config.vocab // 32)), dtype=np.uint32)
        self._masks_pinned = device.pin(self._masks.view(np.int32))
        self._sizes = StepSizes(
            rows=rings.max_rows,
            tokens=memory.step_tokens(config),
            scores=rings.max_scores,
            positions=rings.max_model_len,
            arena_words=rings.arena_words,
            results_words=rings.results_words,
            top=rings.top_cap,
        )
        self._flags = RowFlags(rings.max_rows)
        self._in_flight: deque[_InFlight] = deque()
        self._adapters: dict[int, Path] = {}
        # None while it sleeps.
        self._steps: CudaSteps | None = self._ready(model)
        # What follows makes requests wait.
        self._warm = self._told = compilations.count

    def _ready(self, model: CudaModel) -> CudaSteps:
        config = self._config.cuda_graphs
        sizes = buckets(self._sizes.rows) if config is None else config
        watermark = (self._config.watermark_gamma, self._config.watermark_delta)
        return CudaSteps(model, self._sizes, self._num_blocks, self._eos_ids, sizes, watermark)

    # --- the runner's protocol ---

    def launch(self, slot: int) -> None:
        """See `Runner`."""
        steps = self._entered()
        if self._in_flight and not self._in_flight[-1].is_sampled:
            # Its masks waited for the commit that came meanwhile; this step needs its ids.
            self._sample(steps, self._in_flight[-1])
        plan = Plan.read(self._arena[slot])
        self._flags.update(plan)
        steps.forward(self._arena_pinned[slot], plan, self._flags.has_adapters(plan))
        step = _InFlight(slot, plan, self._device.event())
        self._in_flight.append(step)
        if not self._flags.is_constrained(plan):
            self._sample(steps, step)
        if (count := self._compilations.count) != self._told:
            self._told = count
            self._engine.set_late_compilations(count - self._warm)

    def wait(self) -> None:
        """See `Runner`."""
        step = self._in_flight[0]
        if not step.is_sampled:
            self._sample(self._entered(), step)
        step.done.synchronize()
        self._in_flight.popleft()

    def control(self, kind: str, path: str, number: int) -> None:
        """See `Runner`. No step is in flight."""
        before = self._compilations.count
        try:
            self._carry_out(kind, path, number)
        finally:
            # Who loads an adapter waits for its kernels; no step does.
            self._warm += self._compilations.count - before
            self._told += self._compilations.count - before

    def _carry_out(self, kind: str, path: str, number: int) -> None:
        if kind == "wake":
            self._wake()
            return
        if self._steps is None:
            raise ControlError("the engine is asleep; wake it first")
        steps = self._entered()
        if kind == "load_adapter":
            steps.load_adapter(number, Path(path))
            self._adapters[number] = Path(path)
        elif kind == "unload_adapter":
            self._adapters.pop(number, None)
            steps.unload_adapter(number)
        elif kind == "reload_weights":
            self._reload(steps, Path(path) if path else self._directory)
        elif kind == "sleep":
            steps.close()
            self._steps = None
            del steps
            self._device.give_back()

    def close(self) -> None:
        """See `Runner`."""
        self._device.synchronize()
        self._device.release()
        if self._steps is not None:
            self._steps.close()

    # --- a step ---

    def _entered(self) -> CudaSteps:
        """The steps, with this thread launching to their queue."""
        if not self._has_entered:
            self._device.enter()
            self._has_entered = True
        if self._steps is None:
            raise EngineFailedError("a step was planned while the weights are not in memory")
        return self._steps

    def _sample(self, steps: CudaSteps, step: _InFlight) -> None:
        """Samples, and sends the results on their way to the slot."""
        plan, masks = step.plan, None
        full = self._flags.needs_full(plan)
        if full and (masked := self._flags.constrained_samples(plan)):
            for sample in masked:
                self._engine.copy_mask(step.slot, sample, self._masks[sample])
            masks = self._masks_pinned
        steps.sample(plan, full, masks, self._results_pinned[step.slot])
        step.done.record()
        step.is_sampled = True

    # --- weights ---

    def _reload(self, steps: CudaSteps, directory: Path) -> None:
        """Checks the new checkpoint, then copies it over the old one."""
        checkpoint = open_checkpoint(directory)
        if checked(ModelConfig.load(directory), checkpoint) != self._model_config:
            raise ControlError(
                f"{directory} is not of the served model's shape: its config.json differs. Start a server for it."
            )
        try:
            steps.refill(checkpoint)
        except AgentLMError as error:
            raise _unusable(directory, error) from error
        self._directory = directory

    def _wake(self) -> None:
        if self._steps is not None:
            return
        try:
            checkpoint = open_checkpoint(self._directory)
            model = CudaModel(ModelConfig.load(self._directory), checkpoint, self._config, self._device, None)
            self._steps = self._ready(model)
            for number, path in self._adapters.items():
                self._steps.load_adapter(number, path)
        except AgentLMError as error:
            raise _unusable(self._directory, error) from error


def _unusable(directory: Path, error: AgentLMError) -> EngineFailedError:
    return EngineFailedError(f"the weights in {directory} cannot be taken into use: {error}")


def _ring(address: int, n_slots: int, words: int) -> npt.NDArray[np.int32]:
    """The engine's own memory as `[slots, words]`."""
    cells = (ctypes.c_int32 * (n_slots * words)).from_address(address)
    return np.ctypeslib.as_array(cells).reshape(n_slots, words)
