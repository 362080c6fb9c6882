"""The CUDA runner's whole step against the CPU's, token for token: rows, expansion, model, sampler, two steps in flight.

Where there is no GPU, kernels run in Triton's interpreter on an injected device; the rest is the production path.
"""

import pytest
import torch

from agentlm import LLM, SamplingParams
from agentlm.errors import BackendError, ControlError
from tests.engine.cpu_models import checkpoint
from tests.kernels.interpreter import interpret_without_gpu
from tests.model import families

NEW_TOKENS = 3
SETTINGS = {
    "max_batch_size": 3,
    "dtype": "float32",
    "kv_cache_dtype": "float32",
    "max_batch_prefill_tokens": 32,
}
GREEDY = SamplingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True)
PARAMS = [
    GREEDY,
    SamplingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True, temperature=0.9, seed=7),
    SamplingParams(
        max_new_tokens=NEW_TOKENS, ignore_eos=True, temperature=1.1, top_k=40, top_p=0.9, seed=3,
        repetition_penalty=1.3, frequency_penalty=0.2, logprobs=True, top_n_tokens=2, logit_bias={5: 3.0},
    ),
    SamplingParams(max_new_tokens=1, ignore_eos=True, prompt_logprobs=True, watermark=True),
]  # fmt: skip


@pytest.fixture
def device(monkeypatch):
    """A GPU, or the interpreter in its place."""
    if interpret_without_gpu():
        from agentlm.runtime import device as devices

        monkeypatch.setattr(devices, "Cuda", devices.Interpreted)


def generate(backend, case, params, **settings):
    if backend == "cuda":
        settings = {"kv_cache_memory": 1 << 21, **settings}
    with LLM(str(checkpoint(case)), backend=backend, **SETTINGS, **settings) as llm:
        prompts = [list(prompt) for prompt in families.prompts(0)[:3]]
        return llm.generate([*prompts, prompts[-1][:-1]], params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "params"), [("llama2", 0), ("qwen3-tied", 1), ("llama2-biases", 2), ("mistral", 3)]
)
def test_tokens_are_the_cpus(device, case, params):
    ours, theirs = (generate(backend, case, PARAMS[params]) for backend in ("cuda", "cpu"))
    assert [done.token_ids for done in ours] == [done.token_ids for done in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert list(mine.logprobs or ()) == pytest.approx(list(other.logprobs or ()), abs=1e-3)


@pytest.mark.slow
def test_invariant_logits_and_launches_one_by_one_give_the_same_tokens(device):
    plain = generate("cpu", "llama2", GREEDY)
    other = generate("cuda", "llama2", GREEDY, batch_invariant=True, cuda_graphs=(), steps_in_flight=1)
    assert [done.token_ids for done in other] == [done.token_ids for done in plain]


def test_what_it_cannot_do_is_said(device):
    opened = LLM(str(checkpoint("llama2")), backend="cuda", kv_cache_memory=1 << 21, **SETTINGS)
    assert torch.is_grad_enabled(), "the caller's thread is left as it was"
    with opened as llm, pytest.raises(ControlError, match="cannot do this yet: sleep"):
        llm._running.engine.ask("sleep")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_given():
    with pytest.raises(BackendError, match="no NVIDIA GPU is usable"):
        LLM(str(checkpoint("llama2")), backend="cuda")
