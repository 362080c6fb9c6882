"""The part `peers`: transformers on the same checkpoint and the same work, and ours beside it in the same run.

Without flash-attn its continuous batching gathers keys and values for torch's attention: a weak peer, and told as such.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from bench.gpu.child import Say, Setup
from bench.gpu.run import environment, last_words
from bench.gpu.serving import checkpoint
from bench.gpu.session import CONTEXT, Job, command
from bench.install import ROOT
from bench.workload import Tokens, prompt

SAMPLE = (32, 1024, 128)
"""Requests, tokens in and tokens out of the throughput that both are asked for."""
TINY_SAMPLE = (2, 32, 4)
STEPS = 32
MODES = ("eager", "static cache, compiled", "continuous batching")


def run(setup: Setup, say: Say) -> None:
    """Each mode in a process of its own, then our engine."""
    directory = str(checkpoint("llama-3-8b", setup))
    sample = TINY_SAMPLE if setup.rehearse else SAMPLE
    job = Job(directory, "agentlm", "agentlm: start", time.time(), ("decode", "small"), batches=(1,))
    commands = [("agentlm", command(setup, job))]
    commands += [
        (
            mode,
            [sys.executable, "-m", "bench.gpu.peers", setup.to_json(), mode, directory, json.dumps(sample)],
        )
        for mode in (MODES[:1] if setup.rehearse else MODES)
    ]
    for name, words in commands:
        with say.case(name):
            if setup.left < 10:
                raise TimeoutError("left out: no time was left")
            done = subprocess.run(
                words, cwd=ROOT, env=environment(setup.rehearse), stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, errors="replace", timeout=setup.left - 5,
            )  # fmt: skip
            print(done.stderr[-3000:], file=sys.stderr)
            if done.returncode != 0:
                raise ChildProcessError(last_words(done.returncode, done.stderr))


def measure(setup: Setup, say: Say, mode: str, directory: str, sample: Sequence[int]) -> None:
    """One mode of transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained
    start = time.perf_counter()
    model = load(directory, dtype=setup.dtype).to(setup.device).eval()
    model.generation_config.eos_token_id = None
    say(f"transformers, {mode}: start", load_s=time.perf_counter() - start, minor=True)
    context = 48 if setup.rehearse else CONTEXT
    if mode == "continuous batching":
        requests, into, out = sample
        given = [prompt(into, "throughput", number) for number in range(requests)]
        _continuous(model, given[:2], 8)
        seconds = _continuous(model, given, out)
        say(
            f"transformers, {mode}: {requests} requests, {into} in, {out} out",
            wall_s=seconds,
            output_tokens_per_s=requests * out / seconds,
            all_tokens_per_s=requests * (into + out) / seconds,
        )
        return
    given_cache: dict[str, Any] = {"cache_implementation": "static"} if "static" in mode else {}
    ids = torch.tensor([prompt(context, "decode", 0)], device=setup.device)
    best = float("inf")
    for _ in range(3 if given_cache else 2):
        marks = _marks(model, ids, 4 if setup.rehearse else STEPS, given_cache)
        best = min(best, (marks[-1] - marks[1]) / (len(marks) - 2))
    say(f"transformers, {mode}: decode 1 x {context}", tokens_per_s=1 / best, step_ms=best * 1e3)


def _marks(model: Any, ids: Any, steps: int, given: dict[str, Any]) -> list[float]:
    """When each step's token was there."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Clock(StoppingCriteria):
        def __init__(self) -> None:
            self.marks: list[float] = []

        def __call__(self, input_ids: Any, _scores: Any, **_: Any) -> Any:
            # The token must be there before the clock is read.
            input_ids[0, -1].item()
            self.marks.append(time.perf_counter())
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    clock = Clock()
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=steps + 1,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([clock]),
            **given,
        )
    return clock.marks


def _continuous(model: Any, prompts: list[Tokens], new_tokens: int) -> float:
    import transformers

    settings: Any = transformers.GenerationConfig
    start = time.perf_counter()
    done = model.generate_batch(
        inputs=prompts,
        generation_config=settings(
            max_new_tokens=new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
    )
    seconds = time.perf_counter() - start
    if len(done) != len(prompts) or any(one.error for one in done.values()):
        raise RuntimeError(f"{len(done)} of {len(prompts)} requests came back")
    return seconds


def main() -> None:
    """Measures one mode."""
    given, mode, directory, sample = sys.argv[1:]
    setup = Setup(**json.loads(given))
    measure(setup, Say(setup.rows), mode, directory, json.loads(sample))


if __name__ == "__main__":
    main()
