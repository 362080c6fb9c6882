"""The part `agreement`: the engine's log-probabilities beside transformers', in bfloat16 and in single precision.

A model that was trained, where `AGENTLM_DATA` has one (`dreams-*`), and a random one whose logits spread as much.
Ours may be as far from single precision as twice transformers' own bfloat16 is, on average and at the 99th percentile; what
greedy decoding took may be at most 0.2 nat below the best. Alone, in ragged company, after prefix hits and preemption;
with graphs of several sizes and without; in batch-invariant mode to the last bit.
"""

import gc
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gpu.child import Say, Setup
from bench.workload import Tokens

TIMES = 2.0
MOST_REGRET = 0.2
LENGTHS = (100, 64, 40, 17, 16, 15, 3, 1)
LONG_LENGTHS = (700, 511, 333, 200)
"""Of the random model's prompts, besides. The longest come first: the two are the first to be taken in."""
NEW_TOKENS = 24
GRAPHS = (1, 4, 16)
FEW = 3
"""Requests in a batch of the graph between."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was generated for a prompt."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    cached: int


def run(setup: Setup, say: Say) -> None:
    """Every model, with each kind of engine."""
    for name, directory in models(setup):
        with say.case(name):
            _check(name, directory, setup, say)


def models(setup: Setup) -> list[tuple[str, Path]]:
    """Names and directories."""
    from agentlm.model.random import Shape, family_config, write_model

    found: list[tuple[str, Path]] = []
    data = os.environ.get("AGENTLM_DATA")
    for config in sorted(Path(data).rglob("dreams-*/config.json"))[-1:] if data else []:
        found.append((config.parent.name, config.parent))
    shape = Shape(
        layers=4, hidden=1024, inter=2816, heads=8, kv_heads=2, vocab=8192, context=2048, head_dim=128
    )
    if setup.rehearse:
        shape = Shape(
            layers=2, hidden=64, inter=128, heads=4, kv_heads=2, vocab=512, context=2048, head_dim=16
        )
    for family in ("qwen3", "llama3") if setup.long else ("qwen3",):
        place = Path(setup.work) / f"agreement-{family}-{shape.hidden}"
        if not (place / "config.json").is_file():
            write_model(place, family_config(family, shape, "bfloat16"))
        found.append((f"random {family}", place))
    return found


def _check(name: str, directory: Path, setup: Setup, say: Say) -> None:
    import random

    from agentlm.model.config import ModelConfig

    config = ModelConfig.load(directory)
    lengths = [n for n in (*LONG_LENGTHS, *LENGTHS) if n + NEW_TOKENS < config.context_length]
    draw = random.Random(7)
    # Not the special ids, which both kinds of model have at the beginning or behind the bytes.
    prompts = [[draw.randrange(300, config.vocab) for _ in range(n)] for n in lengths]

    with _engine(directory, setup) as llm:
        alone = [_generate(llm, [prompt])[0] for prompt in prompts]
        again = [_generate(llm, [prompt])[0] for prompt in prompts]
    with _engine(directory, setup) as llm:
        company = _generate(llm, prompts)
        hits = _generate(llm, prompts)
        fast = _generate(llm, prompts[:1], logprobs=False)[0]
        few = _generate(llm, prompts[:FEW])
        block_bytes = llm.info.kv_cache_bytes // llm.info.num_blocks
    # The two longest prompts fit, and what is generated from both does not.
    blocks = sum(-(-n // 16) for n in lengths[:2]) + 1
    with _engine(directory, setup, kv_cache_memory=blocks * block_bytes) as llm:
        preempted = _generate(llm, prompts)
        preemptions = int(llm.stats()["preemptions"])
    with _engine(directory, setup, cuda_graphs=()) as llm:
        launched = [_generate(llm, [prompt])[0] for prompt in prompts]
    with _engine(directory, setup, batch_invariant=True) as llm:
        bits = [_generate(llm, [prompt])[0] for prompt in prompts]
    with _engine(directory, setup, batch_invariant=True) as llm:
        bits_company, bits_hits = _generate(llm, prompts), _generate(llm, prompts)

    reference = Reference(directory, setup)
    kinds = {
        "alone": alone,
        "a few": few,
        "in company": company,
        "after prefix hits": hits,
        "after preemption": preempted,
        "batch-invariant": bits_company,
    }
    for kind, answers in kinds.items():
        say(f"{name}, {kind}", **reference.judge(prompts[: len(answers)], answers))
    if not preemptions:
        say(f"{name}, preemptions", error="nothing was preempted")
    say(
        f"{name}, equal",
        graphs_bitwise=_equal(alone, launched),
        fast_tokens=fast.tokens == alone[0].tokens,
        hits=sum(answer.cached > 0 for answer in (*again, *hits)),
        preemptions=preemptions,
        invariant_company=_equal(bits, bits_company),
        invariant_hits=_equal(bits, bits_hits),
        company_same_tokens=sum(a.tokens == b.tokens for a, b in zip(alone, company, strict=True))
        / len(alone),
    )


def _engine(directory: Path, setup: Setup, **settings: Any) -> Any:
    from agentlm import LLM

    gc.collect()
    return LLM(
        str(directory),
        **{
            "backend": "cpu" if setup.rehearse else "cuda",
            "progress": False,
            "offline": True,
            "max_batch_size": 16,
            "kv_cache_memory": 1 << 28,
            "cuda_graphs": GRAPHS,
            **settings,
        },
    )


def _generate(llm: Any, prompts: Sequence[Tokens], *, logprobs: bool = True) -> list[Answer]:
    from agentlm import SamplingParams

    params = SamplingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True, logprobs=logprobs)
    return [
        Answer(one.token_ids, one.logprobs or (), one.usage.cached_tokens)
        for one in llm.generate(list(prompts), params, progress=False)
    ]


def _equal(some: Sequence[Answer], others: Sequence[Answer]) -> bool:
    """To the last bit."""
    return all(a.tokens == b.tokens and a.logprobs == b.logprobs for a, b in zip(some, others, strict=True))


class Reference:
    """transformers on the same checkpoint, in both precisions."""

    def __init__(self, directory: Path, setup: Setup) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        load: Any = AutoModelForCausalLM.from_pretrained
        self._torch = torch
        self._device = setup.device
        self._models = [
            load(directory, dtype=dtype).to(setup.device).eval() for dtype in (torch.float32, torch.bfloat16)
        ]

    def judge(self, prompts: Sequence[Tokens], answers: Sequence[Answer]) -> dict[str, Any]:
        """Distances of generated tokens' log-probabilities, regret, and whether all is within bounds."""
        own: list[float] = []
        theirs: list[float] = []
        regret: list[float] = []
        for prompt, answer in zip(prompts, answers, strict=True):
            exact, rounded = (
                self._rows(model, [*prompt, *answer.tokens], len(answer.tokens)) for model in self._models
            )
            at = self._torch.tensor(answer.tokens, device=self._device)[:, None]
            taken = exact.gather(1, at)[:, 0]
            own += (self._torch.tensor(answer.logprobs, device=self._device) - taken).abs().tolist()
            theirs += (rounded.gather(1, at)[:, 0] - taken).abs().tolist()
            regret += (exact.amax(1) - taken).tolist()
        return verdict(own, theirs, regret)

    def _rows(self, model: Any, ids: Tokens, generated: int) -> Any:
        """Log-probabilities at the places that the generated tokens were drawn from."""
        with self._torch.no_grad():
            logits = model(self._torch.tensor([ids], device=self._device)).logits[0]
        return logits[-generated - 1 : -1].float().log_softmax(-1)


def verdict(own: Sequence[float], theirs: Sequence[float], regret: Sequence[float]) -> dict[str, Any]:
    """Mean, 99th percentile and largest of each, and whether they are within bounds."""
    figures = {
        "mean": _mean(own),
        "their_mean": _mean(theirs),
        "p99": percentile(own, 0.99),
        "their_p99": percentile(theirs, 0.99),
        "regret": max(regret),
    }
    fits = (
        figures["mean"] <= TIMES * figures["their_mean"]
        and figures["p99"] <= TIMES * figures["their_p99"]
        and figures["regret"] <= MOST_REGRET
    )
    return {**figures, "ok": fits}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
