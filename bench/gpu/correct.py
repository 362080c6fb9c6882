"""The engine on the GPU against transformers, and against itself in other company."""

import random
from pathlib import Path
from typing import Any

import torch

from agentlm import LLM, SamplingParams
from bench.gpu.checkpoints import checkpoint


def _transformers_logprobs(
    directory: Path, sequences: list[list[int]], dtype: torch.dtype
) -> list[torch.Tensor]:
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    model = loaded.cuda().eval()
    found = []
    with torch.no_grad():
        for ids in sequences:
            logits = model(torch.tensor([ids], device="cuda")).logits[0].float()
            found.append(logits.log_softmax(-1).cpu())
    return found


def measure(name: str, root: Path, **settings: Any) -> dict[str, Any]:
    """Distances of log-probabilities in nats, greedy regret, and whether company changes anything."""
    directory = checkpoint(name, root)
    rng = random.Random(1)
    vocab = 4000
    batch = [[rng.randrange(300, vocab) for _ in range(n)] for n in (1, 5, 16, 17, 33, 100, 250, 600)]
    params = SamplingParams(max_new_tokens=24, ignore_eos=True, logprobs=True)
    found: dict[str, Any] = {}
    runs: dict[str, Any] = {}
    variants: dict[str, dict[str, Any]] = {
        "graphs": {},
        "eager": {"cuda_graphs": ()},
        "chunked": {"max_batch_prefill_tokens": 64, "max_batch_size": 8},
        "invariant": {"batch_invariant": True},
    }
    for variant, extra in variants.items():
        with (
            LLM(
                str(directory),
                backend="cuda",
                max_batch_size=16,
                kv_cache_memory=1 << 30,
                **{**extra, **settings},
            )
            if "max_batch_size" not in extra
            else LLM(str(directory), backend="cuda", kv_cache_memory=1 << 30, **extra, **settings) as llm
        ):
            runs[variant] = llm.generate(batch, params)
            runs[variant + " again"] = llm.generate(batch, params)
            runs[variant + " alone"] = [llm.generate([prompt], params)[0] for prompt in batch]
    ours = runs["graphs"]
    sequences = [prompt + list(done.token_ids) for prompt, done in zip(batch, ours, strict=True)]
    exact = _transformers_logprobs(directory, sequences, torch.float32)
    theirs = _transformers_logprobs(directory, sequences, torch.bfloat16)
    distance, their_distance, regret = [], [], []
    for prompt, done, fp32, bf16 in zip(batch, ours, exact, theirs, strict=True):
        for i, (token, logprob) in enumerate(zip(done.token_ids, done.logprobs, strict=True)):
            at = len(prompt) + i - 1
            value = float(getattr(logprob, "logprob", logprob))
            distance.append(abs(value - float(fp32[at, token])))
            their_distance.append(abs(float(bf16[at, token]) - float(fp32[at, token])))
            regret.append(float(fp32[at].max() - fp32[at, token]))

    def summary(values: list[float]) -> dict[str, float]:
        ordered = sorted(values)
        return {
            "mean": round(sum(ordered) / len(ordered), 5),
            "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 5),
            "max": round(ordered[-1], 5),
        }

    found["ours to fp32"], found["transformers bf16 to fp32"] = summary(distance), summary(their_distance)
    found["greedy regret"] = summary(regret)
    found["spread of logits"] = round(float(torch.cat(exact).std()), 3)
    for variant, done in runs.items():
        found[f"same tokens: {variant}"] = sum(
            a.token_ids == b.token_ids for a, b in zip(done, ours, strict=True)
        )
    for variant in ("invariant again", "invariant alone"):
        found[f"bitwise: {variant}"] = all(
            a.token_ids == b.token_ids and list(map(str, a.logprobs)) == list(map(str, b.logprobs))
            for a, b in zip(runs[variant], runs["invariant"], strict=True)
        )
    found["requests"] = len(batch)
    return found
