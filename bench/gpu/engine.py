"""The engine on models of real shapes: start, decode, prefill, a batch of long requests."""

import random
import time
from functools import partial
from pathlib import Path
from typing import Any

from agentlm import LLM, SamplingParams
from agentlm.model.config import ModelConfig
from agentlm.model.layout import EMBEDDING, tensor_shapes
from bench.gpu.checkpoints import checkpoint
from bench.gpu.trace import steady, traced


def prompts(n: int, length: int, vocab: int, seed: int = 0) -> list[list[int]]:
    """Prompts of random ids, none of them special."""
    rng = random.Random(seed)
    return [[rng.randrange(300, vocab) for _ in range(length)] for _ in range(n)]


def weight_bytes(config: ModelConfig) -> int:
    """Bytes of bfloat16 weights that a decode reads: all but the table, of which it reads a row."""
    total = 0
    for name, shape in tensor_shapes(config).items():
        if name != EMBEDDING or config.tied:
            size = 2
            for n in shape:
                size *= n
            total += size
    return total


def seconds(llm: LLM, batch: list[list[int]], new_tokens: int) -> float:
    """Wall seconds of one batch, greedy, without an early end."""
    params = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True, temperature=0.0)
    start = time.perf_counter()
    done = llm.generate(batch, params)
    elapsed = time.perf_counter() - start
    if any(len(completion.token_ids) != new_tokens for completion in done):
        raise RuntimeError("a request ended early")
    return elapsed


def measure(
    name: str, root: Path, decodes: tuple[int, ...], prefills: tuple[int, ...], throughput: tuple[int, int, int] | None,
    read_gb_s: float, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Everything about one model."""
    found: dict[str, Any] = {}
    start = time.perf_counter()
    directory = checkpoint(name, root)
    found["checkpoint_s"] = round(time.perf_counter() - start, 1)
    config = ModelConfig.load(directory)
    start = time.perf_counter()
    with LLM(str(directory), backend="cuda", prefix_cache=False, max_batch_size=256, **settings) as llm:
        found["ready_s"] = round(time.perf_counter() - start, 2)
        found["info"] = {
            "num_blocks": llm.info.num_blocks,
            "kv_cache_gib": round(llm.info.kv_cache_bytes / 2**30, 1),
        }
        print(name, "ready", found, flush=True)
        seconds(llm, prompts(2, 64, config.vocab, 99), 4)
        kv_token = 2 * 2 * config.kv_heads * config.head_dim * config.layers
        for batch in decodes:
            length, steps = 1024, 64
            given = prompts(batch, length, config.vocab, batch)
            # What is first used is compiled, and cuBLAS chooses its kernels: not in what is timed.
            seconds(llm, given, 2)
            # Both runs begin with the same prefills, beside which the first decodes run.
            shorter = seconds(llm, given, 1 + steps)
            step = (seconds(llm, given, 1 + 2 * steps) - shorter) / steps
            nbytes = weight_bytes(config) + batch * (length + 1.5 * steps) * kv_token
            entry: dict[str, Any] = {
                "step_ms": round(step * 1e3, 3),
                "tokens_s": round(batch / step, 1),
                "gb_s": round(nbytes / step / 1e9, 1),
                "of_read": round(nbytes / step / 1e9 / read_gb_s, 3),
            }
            if batch in (1, 32):
                trace = steady(traced(partial(seconds, llm, given, steps)), leave_out=12)
                entry |= {
                    "idle": round(trace.idle, 4),
                    "between_steps": round(trace.between_steps, 4),
                    "kernels": {
                        name[:48]: [round(n, 2), round(us, 1)]
                        for name, (n, us) in list(trace.kernels.items())[:14]
                    },
                }
            found[f"decode {batch}x{length}"] = entry
            print(f"decode {batch}", entry, flush=True)
        for length in prefills:
            given = prompts(8 if length <= 1024 else 2, length, config.vocab, length)
            took = seconds(llm, given, 1)
            tokens = len(given) * length
            flops = 2 * (weight_bytes(config) / 2) * tokens
            found[f"prefill {length}"] = {
                "tokens_s": round(tokens / took, 1),
                "model_tflop_s": round(flops / took / 1e12, 1),
            }
            print(f"prefill {length}", found[f"prefill {length}"], flush=True)
        if throughput is not None:
            n, into, out = throughput
            took = seconds(llm, prompts(n, into, config.vocab, 7), out)
            found[f"{n} x {into} in {out} out"] = {
                "s": round(took, 2),
                "output_tokens_s": round(n * out / took, 1),
            }
            print("throughput", took, flush=True)
    return found
