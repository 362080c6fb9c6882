"""CTranslate2's Generator: static batches."""

import json
import time
from collections.abc import Sequence

import ctranslate2

from bench.peers.engine import BatchEngine, Setup
from bench.workload import Tokens


class Engine(BatchEngine):
    """Greedy generation; the library is asked for tokens by their strings."""

    def __init__(self, setup: Setup) -> None:
        self._generator = ctranslate2.Generator(
            str(setup.model),
            device="cpu",
            compute_type=setup.precision,
            inter_threads=1,
            intra_threads=setup.threads,
        )
        words = json.loads((setup.model / "vocabulary.json").read_text(encoding="utf-8"))
        self._words: list[str] = words

    def generate(self, prompts: list[Tokens], new_tokens: int) -> tuple[Sequence[Sequence[int]], list[float]]:
        """Generates exactly so many tokens for each prompt; see `BatchEngine`."""
        marks: dict[int, float] = {}

        def arrived(step: ctranslate2.GenerationStepResult) -> bool:
            # Called for each token of a step; the last one of the batch counts.
            marks[step.step] = time.perf_counter()
            return False

        done = self._generator.generate_batch(
            [[self._words[token] for token in prompt] for prompt in prompts],
            max_length=new_tokens,
            min_length=new_tokens,
            sampling_topk=1,
            end_token=[],
            include_prompt_in_result=False,
            callback=arrived,
        )
        return [one.sequences_ids[0] for one in done], [marks[step] for step in sorted(marks)]
