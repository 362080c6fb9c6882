"""GPTQ and AWQ checkpoints: read as what they mean, beside transformers on the widened model; the rest is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from agentlm import LLM, SamplingParams
from agentlm.errors import (
    ConfigError,
    MissingTensorError,
    QuantizedModelError,
    TensorDtypeError,
    TensorShapeError,
    UnexpectedTensorError,
)
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import Decoder, checked
from agentlm.model.quantization import Quantization
from agentlm.model.quantized import QuantizedCheckpoint, WidenedCheckpoint, open_checkpoint
from agentlm.model.random import Shape, family_config, write_model
from agentlm.model.weights import Checkpoint
from agentlm.ops.reference import Chunk, ReferenceOps
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.run import run
from tests.cli.commands import agentlm
from tests.engine.cpu_models import checkpoint
from tests.kernels.interpreter import interpret_without_gpu
from tests.model import families, narrow
from tests.model.narrow import Format
from tests.tuning.runs import settings

FORMATS = {
    "gptq": Format("gptq"),
    "gptq symmetric, 64": Format("gptq", 64, symmetric=True),
    "gptq reordered": Format("gptq", reordered=True),
    "gptq_v2 reordered": Format("gptq", reordered=True, version=2),
    "gptq_v2 whole rows": Format("gptq", -1, version=2),
    "awq": Format("awq"),
    "awq 64": Format("awq", 64),
}
"""Rows of 64 and of 160 columns: groups of 64 leave a part of one."""


@pytest.fixture(scope="module", params=FORMATS)
def quantized(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("narrow") / "model"
    return narrow.write(checkpoint("qwen2"), directory, FORMATS[request.param])


def beside(directory: Path) -> Path:
    return directory.with_name(directory.name + "-widened")


def test_every_matrix_is_what_its_parts_mean(quantized):
    opened = open_checkpoint(quantized)
    assert isinstance(opened, QuantizedCheckpoint)
    config = checked(ModelConfig.load(quantized), opened)
    wide, expected = WidenedCheckpoint(opened), load_file(beside(quantized) / "model.safetensors")
    for name, values in expected.items():
        found = wide.tensor(name, values.shape)
        assert found.nbytes == wide.nbytes_of(name)
        assert found.bytes().tobytes() == values.tobytes(), name
    assert config.quantization is not None


def test_logits_are_transformers_on_the_widened_model(quantized):
    config = ModelConfig.load(quantized)
    ops = ReferenceOps(config, torch.float32)
    opened = open_checkpoint(quantized)
    assert isinstance(opened, QuantizedCheckpoint)
    decoder = Decoder.bind(checked(config, opened), WidenedCheckpoint(opened), ops)
    prompt = families.prompts(0)[2]
    ops.begin([Chunk(prompt, sample="all")])
    ours = decoder.forward(ops).value
    theirs = families.load_transformers(beside(quantized))
    with torch.no_grad():
        expected = theirs(torch.tensor([prompt])).logits[0]
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=1e-4)


def tokens(directory: Path, backend: str, **settings: object) -> tuple[list[list[int]], str]:
    params = SamplingParams(max_new_tokens=3, ignore_eos=True)
    given = {"max_batch_size": 3, "dtype": "float32", "max_batch_prefill_tokens": 32, **settings}
    with LLM(str(directory), backend=backend, kv_cache_memory=1 << 22, progress=False, **given) as llm:
        prompts = families.prompts(1)[1:3]
        return [list(done.token_ids) for done in llm.generate(prompts, params)], llm.info.dtype


def test_a_cpu_widens_them_and_says_so(quantized):
    method = open_checkpoint(quantized).quantization.method
    ours, told = tokens(quantized, "cpu", dtype="auto", threads=1)
    assert told == f"float16, widened from {method}'s 4 bits"
    theirs, _ = tokens(beside(quantized), "cpu", dtype="auto", threads=1)
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gptq reordered", "awq 64"])
def test_a_gpu_multiplies_them_as_they_are(monkeypatch, tmp_path, name):
    if interpret_without_gpu():
        from agentlm.runtime import device as devices

        monkeypatch.setattr(devices, "Cuda", devices.Interpreted)
    directory = narrow.write(checkpoint("qwen2"), tmp_path / "model", FORMATS[name])
    ours, told = tokens(directory, "cuda", kv_cache_dtype="float32")
    assert told == f"int4 ({FORMATS[name].method})"
    assert ours == tokens(beside(directory), "cpu", threads=1)[0]


def test_a_gpu_refuses_to_narrow_them_again(monkeypatch, tmp_path):
    from agentlm.runtime import device as devices

    monkeypatch.setattr(devices, "Cuda", devices.Interpreted)
    directory = narrow.write(checkpoint("llama2"), tmp_path / "model", Format("awq"))
    with pytest.raises(ConfigError, match=r"awq's already\. Given: 'int8'"):
        tokens(directory, "cuda", quantize="int8")


def test_a_gpu_refuses_groups_that_its_kernels_do_not_know(monkeypatch, tmp_path):
    from agentlm.runtime import device as devices

    monkeypatch.setattr(devices, "Cuda", devices.Interpreted)
    directory = narrow.write(checkpoint("llama2"), tmp_path / "model", Format("gptq", 16))
    with pytest.raises(QuantizedModelError, match=r"groups of 16 columns.*backend='cpu'"):
        tokens(directory, "cuda")
    ours, told = tokens(directory, "cpu", threads=1)
    assert told == "float32, widened from gptq's 4 bits"
    assert ours == tokens(beside(directory), "cpu", threads=1)[0]


def test_a_gpu_refuses_one_matrix_of_columns_in_different_orders(monkeypatch, tmp_path):
    from agentlm.runtime import device as devices

    # No quantizer makes them: what q, k and v are given, and so the order of their columns, is the same.
    monkeypatch.setattr(devices, "Cuda", devices.Interpreted)
    directory = narrow.write(checkpoint("llama2"), tmp_path / "model", Format("gptq", reordered=True))
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.0.self_attn.k_proj.g_idx"] = np.arange(64, dtype=np.int32) // 32
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(QuantizedModelError, match=r"q_proj.*k_proj.*different orders.*backend='cpu'"):
        tokens(directory, "cuda")
    assert all(tokens(directory, "cpu", threads=1)[0])


def test_layers_that_were_left_as_they_are_are_read_as_such(tmp_path):
    directory = narrow.write(checkpoint("llama2"), tmp_path / "model", Format("gptq"), keep=("down_proj",))
    assert tokens(directory, "cpu", threads=1)[0] == tokens(beside(directory), "cpu", threads=1)[0]


def rewritten(tmp_path: Path, change) -> Path:
    directory = narrow.write(checkpoint("llama2"), tmp_path / "model", Format("gptq"))
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    return directory


DOWN = "model.layers.1.mlp.down_proj"
WORDS, SCALES = f"{DOWN}.qweight", f"{DOWN}.scales"


def test_biases_of_nothing_are_read_over_and_others_are_not(tmp_path):
    directory = rewritten(tmp_path / "zeros", lambda t: t.update({f"{DOWN}.bias": np.zeros(64, np.float16)}))
    checked(ModelConfig.load(directory), open_checkpoint(directory))
    directory = rewritten(tmp_path / "ones", lambda t: t.update({f"{DOWN}.bias": np.ones(64, np.float16)}))
    with pytest.raises(UnexpectedTensorError, match=r"down_proj\.bias"):
        checked(ModelConfig.load(directory), open_checkpoint(directory))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.pop(f"{DOWN}.qzeros"), MissingTensorError, r"lacks tensor .*down_proj\.qzeros"),
        (lambda t: t.update({SCALES: t[SCALES][:2]}), TensorShapeError, r"F16 \[2, 64\].*\[5, 64\]"),
        (lambda t: t.update({WORDS: t[WORDS][:8]}), TensorShapeError, r"\[64, 64\].*\[64, 160\]"),
        (lambda t: t.update({WORDS: np.array(0, np.int32)}), TensorShapeError, r"qweight.* \[\];.* two dimensions"),
        (lambda t: t.update({WORDS: t[WORDS][:, 0].copy()}), TensorShapeError, r" \[20\];.* two dimensions"),
        (lambda t: t.update({WORDS: t[WORDS][:0]}), TensorShapeError, r"\[64, 0\].*\[64, 160\]"),
        (lambda t: t.update({SCALES: t[SCALES].astype(np.int32)}), TensorDtypeError, "element type I32"),
        (lambda t: t.update({"model.extra": np.zeros(1, np.float16)}), UnexpectedTensorError, "model.extra"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(tmp_path, change, error, message):
    directory = rewritten(tmp_path, change)
    with pytest.raises(error, match=message):
        checked(ModelConfig.load(directory), open_checkpoint(directory))


def test_whole_rows_of_nothing_are_refused(tmp_path):
    directory = narrow.write(checkpoint("llama2"), tmp_path / "model", Format("gptq", -1))
    tensors = load_file(directory / "model.safetensors")
    tensors[f"{DOWN}.qweight"] = tensors[f"{DOWN}.qweight"][:0]
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(TensorShapeError, match=r"\[64, 0\].*\[64, 160\]"):
        checked(ModelConfig.load(directory), open_checkpoint(directory))


def test_outputs_that_fill_no_words_of_zero_points_are_refused(tmp_path):
    shape = Shape(layers=1, hidden=64, inter=60, heads=4, kv_heads=4, vocab=288, context=64)
    base = write_model(tmp_path / "base", family_config("llama2", shape))
    how = Format("gptq", 32)
    directory = narrow.write(base, tmp_path / "model", how, keep=("gate_proj", "up_proj", "down_proj"))
    tensors = load_file(directory / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    parts, _ = narrow.quantize(
        np.concatenate([tensors.pop(f"{name}.weight")] * 2)[:64].astype(np.float32), how
    )
    # Sixty rows of the sixty-four; their zero points lie in seven and a half words.
    parts = {
        part: x[..., : 7 if part == "qzeros" else 60] if part != "g_idx" else x for part, x in parts.items()
    }
    tensors |= {f"{name}.{part}": np.ascontiguousarray(x) for part, x in parts.items()}
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(TensorShapeError, match=r"up_proj\.qweight.*60 rows.*multiple of 8"):
        checked(ModelConfig.load(directory), open_checkpoint(directory))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("g_idx", -1, r"g_idx.*group -1.*5 groups"),
        ("g_idx", 5, r"g_idx.*group 5.*5 groups"),
        ("scales", np.inf, r"down_proj\.weight.*float16"),
        ("scales", np.nan, r"down_proj\.weight.*float16"),
        ("scales", 60000, r"down_proj\.weight.*float16"),
    ],
)
def test_numbers_that_mean_nothing_are_refused_where_they_are_widened(tmp_path, part, value, message):
    def change(tensors):
        tensors[f"{DOWN}.{part}"].flat[-1] = value

    directory = rewritten(tmp_path, change)
    with pytest.raises(QuantizedModelError, match=message):
        WidenedCheckpoint(open_checkpoint(directory)).tensor(f"{DOWN}.weight")


def test_where_float_weights_are_needed_the_way_is_told(tmp_path):
    directory = narrow.write(checkpoint("llama2"), tmp_path / "model", Format("gptq"))
    with pytest.raises(QuantizedModelError, match="can be served"):
        Checkpoint.open(directory)


def test_a_config_that_promises_narrow_weights_is_held_to_it(tmp_path):
    directory = narrow.write(checkpoint("llama2"), tmp_path / "model", Format("gptq"))
    config = (directory / "config.json").read_text()
    (beside(directory) / "config.json").write_text(config)
    with pytest.raises(QuantizedModelError, match="holds no narrow weights"):
        open_checkpoint(beside(directory))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"quant_method": "compressed-tensors"}, r"'compressed-tensors'; gptq and awq"),
        ({"bits": 8}, "gptq of 8 bits; 4 are read"),
        ({"group_size": 0}, "group_size = 0"),
        ({"checkpoint_format": "marlin"}, "layout 'marlin'"),
        ({"is_marlin_format": True}, "layout 'marlin'"),
        ({"pack_dtype": "int16"}, "packed in 'int16'"),
        ({"lm_head": True}, "a head that was narrowed"),
        ({"dynamic": {"-:.*down.*": {}}}, "layer to layer"),
        ({"quant_method": "awq", "version": "gemv"}, "layout 'gemv'; 'gemm'"),
        ({"quant_method": "awq", "backend": "llm-awq"}, "written by 'llm-awq'"),
        ({"quant_method": "awq", "zero_point": False}, "without zero points"),
    ],
)
def test_what_is_not_read_is_refused_with_the_reason(changes, reason):
    given = {"quant_method": "gptq", "bits": 4, "group_size": 128} | changes
    with pytest.raises(QuantizedModelError, match=reason):
        Quantization.read({"quantization_config": given})


def test_older_spellings_are_read():
    given = {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "version": "GEMM"}
    assert Quantization.read({"quantization_config": given}) == Quantization("awq", 64)
    assert Quantization.read({}) is None


def test_a_method_that_is_asked_for_must_be_the_checkpoints(tmp_path):
    directory = narrow.write(checkpoint("llama2"), tmp_path / "model", Format("gptq"))
    assert tokens(directory, "cpu", quantize="gptq") == tokens(directory, "cpu")
    with pytest.raises(ConfigError, match="says that the checkpoint is awq's"):
        tokens(directory, "cpu", quantize="awq")


def test_doctor_knows_what_they_become(tmp_path):
    directory = narrow.write(checkpoint("llama2"), tmp_path / "model", Format("gptq"))
    ran = agentlm("doctor", "--json", "--model", directory)
    assert ran.returncode == 0, ran.stderr
    assert "float16" in ran.stdout


def test_they_are_served_and_not_trained(tmp_path):
    directory = narrow.write(checkpoint("llama2"), tmp_path / "model", Format("gptq"))
    with pytest.raises(QuantizedModelError, match="gptq's narrow weights, which cannot be trained"):
        run(TuneConfig.from_dict(settings(tmp_path, model__path=str(directory))), quiet=True)


def test_a_manifest_of_kernels_is_of_a_gpus():
    ran = agentlm("serve", "--backend", "mock", "--port", "0", "--kernel-manifest", "kernels")
    assert ran.returncode == 1
    assert "this engine's backend is 'mock'" in ran.stderr
