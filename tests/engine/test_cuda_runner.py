"""The CUDA runner's whole step against the CPU's, token for token: rows, expansion, model, sampler, two steps in flight.

Where there is no GPU, kernels run in Triton's interpreter on an injected device; the rest is the production path.
"""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from agentlm import LLM, Grammar, SamplingParams
from agentlm._engine import Mailbox
from agentlm.errors import BackendError, ConfigError, ControlError
from agentlm.model.random import Shape, family_config, write_model
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
        from tests.engine.cuda_devices import LateResults

        monkeypatch.setattr(devices, "Cuda", LateResults)


def generate(backend, case, params, **settings):
    if backend == "cuda":
        settings = {"kv_cache_memory": 1 << 21, **settings}
    with LLM(str(checkpoint(case)), backend=backend, **SETTINGS | settings) as llm:
        prompts = [list(prompt) for prompt in families.prompts(0)[:3]]
        return llm.generate([*prompts, prompts[-1][:-1]], params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "params"),
    [("llama2", 0), ("qwen3-tied", 1), ("llama2-biases", 2), ("mistral", 3)],
)
def test_tokens_are_the_cpus(device, case, params):
    ours, theirs = (generate(backend, case, PARAMS[params]) for backend in ("cuda", "cpu"))
    check(ours, theirs)


def check(ours, theirs, within=1e-3):
    """Tokens are equal, and log-probabilities close."""
    assert [done.token_ids for done in ours] == [done.token_ids for done in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert list(mine.logprobs or ()) == pytest.approx(list(other.logprobs or ()), abs=within)
        pairs = zip(mine.prompt_logprobs or (), other.prompt_logprobs or (), strict=True)
        assert all(a == b or a == pytest.approx(b, abs=within) for a, b in pairs)
        assert len(mine.prompt_logprobs or ()) == len(other.prompt_logprobs or ())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model of one layer."""
    shape = Shape(layers=1, hidden=64, inter=96, heads=4, kv_heads=2, vocab=288, context=128, head_dim=16)
    return write_model(tmp_path_factory.mktemp("models") / "tiny", family_config("qwen3", shape), seed=1)


BLOCK_BYTES = 2 * 2 * 16 * 16 * 4
"""Of a block of the tiny model's keys and values."""


def both(model, prompts, params, **settings):
    """What the tiny model answers on the device and, in float32, on the CPU."""
    found = []
    for backend in ("cuda", "cpu"):
        given = {"max_total_tokens": 64, "kv_cache_memory": 64 * BLOCK_BYTES}
        given |= SETTINGS | (settings if backend == "cuda" else {})
        with LLM(str(model), backend=backend, progress=False, **given) as llm:
            found.append(llm.generate(prompts, params))
    return found


PROMPT = [40, 50, 60]


@pytest.mark.slow
def test_rows_that_follow_grammars_share_steps_with_others(device, tiny):
    # Their steps are sampled when the masks are there; the others' ids must wait for them.
    drawn = Grammar.regex("[ab]{3}c?")
    wishes = [
        GREEDY,
        SamplingParams(max_new_tokens=6, temperature=1.0, grammar=drawn, seed=1),
        SamplingParams(max_new_tokens=6, grammar=drawn),
    ]
    ours, theirs = both(tiny, [PROMPT] * 3, wishes)
    check(ours, theirs)
    assert all(re.fullmatch("[ab]{3}c?", done.text) for done in ours[1:])


@pytest.mark.slow
def test_prompts_are_scored_beside_the_fast_sampler(device, tiny):
    scored = SamplingParams(max_new_tokens=2, ignore_eos=True, prompt_logprobs=True)
    ours, theirs = both(tiny, [PROMPT, [*PROMPT, *range(70, 80)], [5]], [GREEDY, scored, scored])
    check(ours, theirs)
    assert len(ours[1].prompt_logprobs) == 13


@pytest.mark.slow
def test_requests_that_lost_their_blocks_go_on_as_they_would_have(device, tiny):
    prompts = [list(range(start, start + 13)) for start in (40, 80, 120)]
    params = SamplingParams(max_new_tokens=6, ignore_eos=True, logprobs=True)
    found = []
    # Each needs two blocks in the end.
    for backend, blocks in (("cuda", 5), ("cpu", 64)):
        settings = SETTINGS | {"max_total_tokens": 48, "kv_cache_memory": blocks * BLOCK_BYTES}
        with LLM(str(tiny), backend=backend, progress=False, **settings) as llm:
            found.append(llm.generate(prompts, params))
            assert (llm.stats()["preemptions"] > 0) == (backend == "cuda")
    check(*found)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_invariant_logits_are_the_same_bits_alone_in_company_and_behind_a_prefix(
    device, tiny, quantize, monkeypatch
):
    # Attention that cuts keys by how many rows there are may give the same bits here, and not elsewhere.
    monkeypatch.setattr("agentlm.ops.triton.paged_decode", None)
    settings = SETTINGS | {"kv_cache_memory": 64 * BLOCK_BYTES, "batch_invariant": True, "quantize": quantize}
    prompts = [list(range(40, 57)), PROMPT]
    params = SamplingParams(max_new_tokens=2, ignore_eos=True, logprobs=True)
    with LLM(str(tiny), backend="cuda", progress=False, **settings) as llm:
        alone = [llm.generate([prompt], params)[0] for prompt in prompts]
        # Of the first, one token is computed now: by itself, where there were 17.
        again = llm.generate(prompts, params)
    assert again[0].usage.cached_tokens == 16
    assert [done.logprobs for done in again] == [done.logprobs for done in alone]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_quantized_weights_are_what_they_mean(device, tiny, tmp_path, kind):
    wide = tmp_path / "wide"
    shutil.copytree(tiny, wide)
    tensors = load_file(tiny / "model.safetensors")
    # The head keeps its bits.
    tensors |= {
        name: dequantized(kind, weight) for name, weight in tensors.items() if name.endswith("_proj.weight")
    }
    save_file(tensors, wide / "model.safetensors", metadata={"format": "pt"})
    params = SamplingParams(max_new_tokens=2, ignore_eos=True, logprobs=True)
    ours, _ = both(tiny, [PROMPT, [4]], params, quantize=kind)
    _, theirs = both(wide, [PROMPT, [4]], params)
    check(ours, theirs)


def dequantized(kind, weight):
    from agentlm_kernels import quantized_linear as q

    narrow = {"int8": q.quantize_int8, "int4": q.quantize_int4, "fp8": q.quantize_fp8}[kind](weight)
    return q.dequantize(narrow, torch.float32)


@pytest.mark.slow
def test_float8_keys_and_values_are_nearly_as_good(device, tiny):
    params = SamplingParams(max_new_tokens=1, ignore_eos=True, prompt_logprobs=True)
    ours, theirs = both(tiny, [list(range(40, 60))], params, kv_cache_dtype="fp8")
    pairs = zip(ours[0].prompt_logprobs[1:], theirs[0].prompt_logprobs[1:], strict=True)
    differences = [abs(mine - other) for mine, other in pairs]
    # Float8 keeps three bits behind the first; logits have a spread of 3.
    assert 1e-3 < sum(differences) / len(differences) < 0.15


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


def test_kernels_that_are_compiled_while_requests_wait_are_counted(device, monkeypatch, tiny, tmp_path):
    from agentlm.runtime.cuda_steps import CudaSteps

    class Log:
        count = 3

    def load_adapter(*_):
        Log.count += 7

    monkeypatch.setattr("agentlm_kernels.compilations.watch", Log)
    monkeypatch.setattr(CudaSteps, "load_adapter", load_adapter)
    one = SamplingParams(max_new_tokens=1)
    settings = SETTINGS | {"kv_cache_memory": 64 * BLOCK_BYTES, "progress": False}
    with LLM(str(tiny), backend="cuda", **settings) as llm:
        llm.generate([[5]], one)
        assert llm.stats()["late_compilations"] == 0
        # Who loads an adapter waits for its kernels; no step does.
        llm._running.engine.ask("load_adapter", name="a", path=str(tmp_path))
        llm.generate([[6]], one)
        assert llm.stats()["late_compilations"] == 0
        Log.count += 2
        llm.generate([[7]], one)
        assert llm.stats()["late_compilations"] == 2


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
