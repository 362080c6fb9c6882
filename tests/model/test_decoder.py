"""The decoder on the reference operations against transformers, for every family."""

from pathlib import Path

import numpy as np
import pytest
import torch

from agentlm.config import EngineConfig
from agentlm.errors import MissingTensorError, TensorDtypeError, TensorShapeError, UnexpectedTensorError
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import Decoder, checked
from agentlm.model.layout import HEAD
from agentlm.model.weights import Checkpoint, TensorRef
from agentlm.ops.reference import Chunk, KvCache, ReferenceOps
from agentlm.runtime.cpu import CpuModel
from tests.model import families
from tests.model.safetensors_files import read_tensors, write_safetensors


def bind(directory: Path, dtype: torch.dtype = torch.float32) -> tuple[Decoder, ReferenceOps]:
    checkpoint = Checkpoint.open(directory)
    config = checked(ModelConfig.load(directory), checkpoint)
    ops = ReferenceOps(config, dtype)
    return Decoder.bind(config, checkpoint, ops), ops


def run(decoder: Decoder, ops: ReferenceOps, chunks: list[Chunk]) -> torch.Tensor:
    ops.begin(chunks)
    return decoder.forward(ops).value


@pytest.mark.parametrize("case", families.CASES)
@pytest.mark.parametrize("seed", families.SEEDS)
def test_logprobs_equal_transformers(tmp_path: Path, case: str, seed: int) -> None:
    references = families.reference(case, seed)
    decoder, ops = bind(families.write(tmp_path, case, seed))
    # All sequences in one batch, each against transformers' run alone.
    chunks = [Chunk(r.prompt + r.tokens, sample="all") for r in references]
    ours = torch.log_softmax(run(decoder, ops, chunks), dim=-1).numpy()
    theirs = np.concatenate([r.logprobs for r in references])
    assert ours.shape == theirs.shape
    difference = np.abs(ours - theirs)
    assert difference.mean() < 1e-5
    assert difference.max() < 2e-4


@pytest.mark.parametrize("case", families.CASES)
def test_greedy_tokens_equal_transformers_through_a_chunked_cache(tmp_path: Path, case: str) -> None:
    decoder, ops = bind(families.write(tmp_path, case, seed=0))
    for reference in families.reference(case, 0):
        cache = KvCache()
        for start in range(0, len(reference.prompt), 7):
            chunk = Chunk(reference.prompt[start : start + 7], cache, "last")
            logits = run(decoder, ops, [chunk])
        tokens = [int(logits.argmax())]
        while len(tokens) < families.NEW_TOKENS:
            tokens.append(int(run(decoder, ops, [Chunk(tokens[-1:], cache)]).argmax()))
        assert cache.computed == len(reference.prompt) + families.NEW_TOKENS - 1
        # Equal as far as transformers' own choice is not a tie; the random models have none this close.
        assert min(reference.gaps) > 1e-4
        assert tokens == reference.tokens


def test_only_the_rows_asked_for_are_returned_in_order(tmp_path: Path) -> None:
    decoder, ops = bind(families.write(tmp_path, "llama2", seed=0))
    every = run(decoder, ops, [Chunk([1, 2, 3], sample="all"), Chunk([4, 5], sample="all")])
    some = run(
        decoder,
        ops,
        [Chunk([1, 2, 3], sample="last"), Chunk([9, 9], sample="none"), Chunk([4, 5], sample="all")],
    )
    assert some.shape == (3, 288)
    torch.testing.assert_close(some, every[[2, 3, 4]])


@pytest.mark.parametrize("case", ["llama2-tied", "llama2-biases", "qwen3"])
def test_gradients_equal_transformers(tmp_path: Path, case: str) -> None:
    directory = families.write(tmp_path, case, seed=0)
    ids = families.prompts(0)[2]
    theirs = families.load_transformers(directory)
    logits = theirs(torch.tensor([ids])).logits[0]
    torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])).backward()
    decoder, ops = bind(directory)
    for parameter in ops.parameters.values():
        parameter.requires_grad_(True)
    ours = run(decoder, ops, [Chunk(ids, sample="all")])
    torch.nn.functional.cross_entropy(ours[:-1], torch.tensor(ids[1:])).backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert ops.parameters.keys() == expected.keys()
    for name, parameter in ops.parameters.items():
        # Elements near zero carry the rounding of their tensor's large ones: compare whole tensors.
        error = (parameter.grad - expected[name]).norm() / expected[name].norm()
        assert error < 2e-5, name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_checkpoints_are_read_exactly(tmp_path: Path, dtype: str) -> None:
    directory = families.write(tmp_path, "llama3", seed=0, dtype=dtype)
    _, ops = bind(directory)
    for name, parameter in families.load_transformers(directory).named_parameters():
        assert torch.equal(ops.parameters[name], parameter), name


def test_a_real_checkpoint_continues_as_it_was_trained_to(data_dir: Path) -> None:
    import tokenizers

    directory = data_dir / "models" / "dreams-260k"
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    decoder, ops = bind(directory)
    ids = tokenizer.encode("A gentle hum").ids
    prompt = len(ids)
    for _ in range(24):
        ids.append(int(run(decoder, ops, [Chunk(ids)]).argmax()))
    text = tokenizer.decode(ids[prompt:]).strip()
    assert text.startswith("of probability unfold, as I sense the nodes")


def test_progress_ends_at_all_bytes_and_counts_a_tied_head_once(tmp_path: Path) -> None:
    directory = families.write(tmp_path, "qwen3-tied", seed=0)
    config, checkpoint = ModelConfig.load(directory), Checkpoint.open(directory)
    calls: list[tuple[int, int, str]] = []
    Decoder.bind(config, checkpoint, ReferenceOps(config), lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert done[-1] == calls[-1][1] == checkpoint.nbytes


def rewrite(directory: Path, change: "dict[str, tuple[str, tuple[int, ...], bytes] | None]") -> None:
    """Replaces, adds or (None) removes tensors of a checkpoint."""
    tensors = read_tensors(directory / "model.safetensors") | change
    write_safetensors(directory / "model.safetensors", {n: t for n, t in tensors.items() if t is not None})


def test_a_missing_tensor_is_named_with_its_shape(tmp_path: Path) -> None:
    directory = families.write(tmp_path, "llama2", seed=0)
    rewrite(directory, {"model.layers.2.mlp.up_proj.weight": None})
    with pytest.raises(
        MissingTensorError, match=r"lacks tensor 'model.layers.2.mlp.up_proj.weight'.*\[160, 64\]"
    ):
        bind(directory)


def test_a_wrong_shape_is_named_with_both_shapes_and_the_file(tmp_path: Path) -> None:
    directory = families.write(tmp_path, "llama2", seed=0)
    rewrite(directory, {"model.norm.weight": ("F32", (32,), bytes(128))})
    with pytest.raises(TensorShapeError, match=r"model.norm.weight.*model.safetensors.*\[32\].*\[64\]"):
        bind(directory)


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    directory = families.write(tmp_path, "llama2", seed=0)
    rewrite(directory, {"model.layers.0.self_attn.q_proj.bias": ("F32", (64,), bytes(256))})
    with pytest.raises(UnexpectedTensorError, match=r"q_proj.bias.*no place"):
        bind(directory)


@pytest.mark.parametrize("repeats", [True, False])
def test_a_tied_models_head_is_ignored_only_if_it_repeats_the_table(tmp_path: Path, repeats: bool) -> None:
    directory = families.write(tmp_path, "llama2-tied", seed=0)
    table = Checkpoint.open(directory).tensor("model.embed_tokens.weight").bytes().tobytes()
    head = table if repeats else table[::-1]
    rewrite(
        directory,
        {
            "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (8,), bytes(32)),
            "lm_head.weight": ("F32", (288, 64), head),
        },
    )
    decoder, _ = bind(directory)
    assert decoder.config.tied == repeats


def test_a_head_that_repeats_the_table_is_read_once_to_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = families.write(tmp_path, "llama2-tied", seed=0)
    checkpoint = Checkpoint.open(directory)
    rewrite(
        directory,
        {HEAD: ("F32", (288, 64), checkpoint.tensor("model.embed_tokens.weight").bytes().tobytes())},
    )
    read: list[str] = []
    real = TensorRef.bytes
    monkeypatch.setattr(TensorRef, "bytes", lambda tensor: read.append(tensor.name) or real(tensor))
    model = CpuModel(
        ModelConfig.load(directory),
        Checkpoint.open(directory),
        EngineConfig(threads=1, dtype="float32"),
        None,
    )
    assert model.config.tied
    assert read.count(HEAD) == 1


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("model.norm.weight", (64,), r"element type F64.*F32, F16, BF16"),
        ("model.layers.0.self_attn.k_proj.weight", (64, 64), r"one matrix and must share one"),
    ],
)
def test_an_element_type_that_is_not_computed_from_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    directory = families.write(tmp_path, "llama2", seed=0)
    dtype, width = ("F64", 8) if "F64" in message else ("F16", 2)
    rewrite(directory, {name: (dtype, shape, bytes(int(np.prod(shape)) * width))})
    with pytest.raises(TensorDtypeError, match=message):
        bind(directory)
