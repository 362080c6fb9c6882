"""transformers' continuous batching, with blocks shared between requests."""

from collections.abc import Iterator, Sequence

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from bench.cells import MAX_CONTEXT, Cell
from bench.peers.engine import BatchEngine, EngineBrokenError, Setup
from bench.workload import Tokens

PAGE = 64
"""Positions of one page."""


class Engine(BatchEngine):
    """Keeps one manager alive, so that its start is not counted and earlier turns stay in its cache."""

    recomputes = False

    def __init__(self, setup: Setup) -> None:
        torch.set_num_threads(setup.threads)
        self._model = AutoModelForCausalLM.from_pretrained(
            setup.model, dtype=getattr(torch, setup.precision)
        ).eval()
        self._together = False
        self._settings = ContinuousBatchingConfig(
            # Left alone it asks for all the memory of the machine.
            page_size=PAGE,
            num_blocks=(setup.batch + 1) * MAX_CONTEXT // PAGE,
            max_batch_tokens=512,
        )

    def _decode(self, cell: Cell) -> Iterator[float]:
        for value in super()._decode(cell):
            if not self._together:
                raise EngineBrokenError(
                    "the requests did not decode at the same time: no figure for this batch"
                )
            yield value

    def generate(self, prompts: list[Tokens], new_tokens: int) -> tuple[Sequence[Sequence[int]], list[float]]:
        """Generates exactly so many tokens for each prompt; see `BatchEngine`."""
        # Not under inference mode: its threads write into tensors that were made outside.
        done = self._model.generate_batch(
            inputs=prompts,
            generation_config=GenerationConfig(
                max_new_tokens=new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=self._settings,
            record_timestamps=True,
            persistent_manager=True,
            warmup=False,
        )
        outputs = list(done.values())
        if len(outputs) != len(prompts) or any(one.error for one in outputs):
            raise EngineBrokenError(f"{len(outputs)} of {len(prompts)} requests came back: {outputs[:1]}")
        # Requests are admitted while others decode: only what runs together all the time is a batch.
        begun = max(one.timestamps[0] for one in outputs)
        self._together = begun <= min(one.timestamps[new_tokens // 4] for one in outputs)
        # A step is over when the slowest request has its token.
        marks = [max(one.timestamps[step] for one in outputs) for step in range(new_tokens)]
        return [one.generated_tokens for one in outputs], marks
