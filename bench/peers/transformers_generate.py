"""transformers' `generate` with its default cache: static batches."""

import time
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from bench.peers.engine import BatchEngine, Setup
from bench.workload import Tokens


class _Clock(StoppingCriteria):
    """Never stops; notes when each step's tokens were there."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def __call__(self, input_ids: torch.Tensor, _scores: object, **_: object) -> torch.Tensor:
        self.marks.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Engine(BatchEngine):
    """Greedy generation."""

    def __init__(self, setup: Setup) -> None:
        torch.set_num_threads(setup.threads)
        self._model = AutoModelForCausalLM.from_pretrained(
            setup.model, dtype=getattr(torch, setup.precision)
        ).eval()
        self._model.generation_config.eos_token_id = None

    def generate(self, prompts: list[Tokens], new_tokens: int) -> tuple[Sequence[Sequence[int]], list[float]]:
        """Generates exactly so many tokens for each prompt; see `BatchEngine`."""
        ids = torch.tensor(prompts)
        clock = _Clock()
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
        return out[:, ids.shape[1] :].tolist(), clock.marks
