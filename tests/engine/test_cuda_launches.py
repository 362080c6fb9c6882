"""After warm-up nothing is launched that was not launched before, for other types, alignments or constants.

A kernel that is first launched while requests wait is compiled while they wait. Here a whole engine runs with a driver
that says there is a GPU, and every launch is noted by what Triton would compile it for, and left out: requests of many
kinds then get the id 0 each time, from kernels that were all noted before the first of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentlm.model.random import write_model
from tests.engine.adapters import write_adapter
from tests.model import families

ROOT = Path(__file__).parents[2]

SCRIPT = """
import json, sys
import torch, triton
from triton import knobs
from tests.kernels.compile_gate import FakeDriver
from agentlm.runtime import device as devices

triton.runtime.driver.set_active(FakeDriver())
noted = {}

def note(**what):
    noted.setdefault(what["fn"].name, set()).add(what["key"])
    return True

knobs.runtime.jit_cache_hook = note

class Noted(devices.Interpreted):
    '''This machine's memory, with launches that are warmed up and captured as a GPU's.'''
    def capture(self, launches):
        launches()
        return super().capture(launches)
    def warm(self, launches):
        launches()

devices.Cuda = Noted
from agentlm import LLM, SamplingParams

given = json.loads(sys.argv[1])
adapter = given.pop("adapter")
llm = LLM(given.pop("model"), backend="cuda", progress=False, dtype="float32", kv_cache_dtype="float32",
          kv_cache_memory=1 << 22, **given)
ready = {name: len(keys) for name, keys in noted.items()}
if adapter:
    llm._running.load_adapter("a", adapter)
    ready = {name: len(keys) for name, keys in noted.items()}
for count, length in ((1, 1), (1, 31), (3, 7), (2, 130)):
    for params in (
        {},
        {"temperature": 0.9, "seed": 1},
        {"top_k": 3, "top_p": 0.9, "temperature": 1.0, "logprobs": True, "top_n_tokens": 2, "repetition_penalty": 1.2},
        {"prompt_logprobs": True, "max_new_tokens": 1},
    ):
        wish = SamplingParams(**{"max_new_tokens": 4, "ignore_eos": True} | params)
        prompts = [[(i + j) % 200 for j in range(length + i)] for i in range(count)]
        llm.generate(prompts, wish, progress=False, **({"adapter": "a"} if adapter and count < 3 else {}))
late = {name: len(keys) - ready.get(name, 0) for name, keys in noted.items() if len(keys) > ready.get(name, 0)}
llm.close()
print(json.dumps([ready, late]))
"""


def launches(**given):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(given)],
        capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    ready, late = json.loads(done.stdout.splitlines()[-1])
    return ready, late


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model whose rows of logits are no multiple of 16 bytes."""
    config = families.CASES["llama2"] | {"vocab_size": 283, "dtype": "float32"}
    return write_model(tmp_path_factory.mktemp("models") / "odd", config, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"max_batch_size": 4, "max_batch_prefill_tokens": 512},
        {"max_batch_size": 4, "max_batch_prefill_tokens": 512, "quantize": "int4"},
        {"max_batch_size": 3, "max_batch_prefill_tokens": 512, "quantize": "int8", "cuda_graphs": (2,)},
        {"max_batch_size": 3, "cuda_graphs": (), "batch_invariant": True},
        {"max_batch_size": 3, "adapter": True},
    ],
    ids=["dense", "int4", "int8", "launched one by one", "adapter"],
)
def test_nothing_is_launched_for_the_first_time_after_the_start(model, tmp_path, settings):
    adapter = None
    if settings.get("adapter"):
        adapter = str(tmp_path / "adapter")
        write_adapter(model, Path(adapter), 0)
    ready, late = launches(**{"model": str(model), **settings, "adapter": adapter})
    assert len(ready) > 12
    assert late == {}
