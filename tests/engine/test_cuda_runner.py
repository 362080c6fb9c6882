"""The CUDA runner's whole step against the CPU's, token for token: rows, expansion, model, sampler, two steps in flight.

Where there is no GPU, kernels run in Triton's interpreter on an injected device; the rest is the production path.
"""

import json

import pytest
import torch

from agentlm import LLM, SamplingParams
from agentlm._engine import Mailbox
from agentlm.errors import BackendError, ConfigError, ControlError
from tests.engine.adapters import write_adapter, write_merged
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


@pytest.mark.slow
def test_adapters_and_exchanged_weights_are_the_cpus(device, tmp_path):
    base = checkpoint("qwen3-tied")
    deltas = [write_adapter(base, tmp_path / f"{rank}", rank, rank=rank) for rank in (4, 20)]
    other = write_merged(base, tmp_path / "merged", deltas[0])

    def all_tokens(backend):
        settings = {"kv_cache_memory": 1 << 21} if backend == "cuda" else {}
        tokens = []
        opened = LLM(str(base), backend=backend, **SETTINGS, **settings)
        assert torch.is_grad_enabled(), "the caller's thread is left as it was"
        with opened as llm:
            engine = llm._running.engine
            for rank in (4, 20):
                engine.ask("load_adapter", name=f"{rank}", path=str(tmp_path / f"{rank}"))
            # Together in one batch, then alone: the captured decodes of one and of several rows.
            tokens.append(tokens_of(llm, "4", None, "20"))
            tokens += [tokens_of(llm, name) for name in ("4", "20", None)]
            engine.ask("unload_adapter", name="4")
            engine.ask("reload_weights", path=str(other))
            tokens.append(tokens_of(llm, "20", None))
            with pytest.raises(ControlError, match="nowhere"):
                engine.ask("reload_weights", path=str(tmp_path / "nowhere"))
            engine.ask("sleep")
            with pytest.raises(ControlError, match="asleep"):
                engine.ask("load_adapter", name="4", path=str(tmp_path / "4"))
            engine.ask("wake")
            tokens.append(tokens_of(llm, None, "20"))
        return tokens

    ours, theirs = all_tokens("cuda"), all_tokens("cpu")
    assert ours == theirs
    assert ours[0] == [*ours[1], *ours[3], *ours[2]]
    assert ours[4] == ours[5][::-1]
    assert len({tuple(alone[0]) for alone in ours[1:4]}) == 3, "adapters must make a difference"
    assert ours[4][1] == ours[1][0], "merged weights are the adapter's"


def tokens_of(llm, *adapters):
    """Token ids of one prompt with each of these adapters, at the same time."""
    mailbox = Mailbox()
    requests = [
        llm._running.engine.submit(list(families.prompts(0)[0]), GREEDY, mailbox, index, adapter=name, seed=0)
        for index, name in enumerate(adapters)
    ]
    ended = {}
    while len(ended) < len(requests):
        ended |= {event.key: list(event.token_ids) for event in mailbox.take(60.0)}
    return [ended[index] for index in range(len(adapters))]


def test_the_kernels_that_were_compiled_can_be_written(device, tmp_path):
    settings = {**SETTINGS, "backend": "cuda", "kv_cache_memory": 1 << 21}
    with LLM(str(checkpoint("llama2")), **settings) as llm:
        path = llm._running.write_kernel_manifest(tmp_path / "kernels")
        assert path == tmp_path / "kernels" / "manifest.json"
        written = json.loads(path.read_text())["kernels"]
        # The interpreter compiles nothing.
        assert bool(written) == torch.cuda.is_available()
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match=r"cannot be written to .*file.*Give another"):
            llm._running.write_kernel_manifest(tmp_path / "file")
    with (
        LLM(str(checkpoint("llama2")), backend="cpu", threads=1) as llm,
        pytest.raises(ConfigError, match="backend is 'cpu'"),
    ):
        llm._running.write_kernel_manifest(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_given():
    with pytest.raises(BackendError, match="no NVIDIA GPU is usable"):
        LLM(str(checkpoint("llama2")), backend="cuda")
