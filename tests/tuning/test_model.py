"""The trainable decoder: equal to the reference, packed equal to unpacked, and to what the server computes."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from agentlm import LLM, SamplingParams
from agentlm._engine import ChatTemplate, Tokenizer
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import Decoder
from agentlm.model.random import Shape, family_config
from agentlm.model.weights import Checkpoint
from agentlm.ops.packed import PackedContext
from agentlm.ops.reference import Chunk, ReferenceOps
from agentlm.tuning.model import Batch, TrainableDecoder, random_tensors
from tests.tuning.runs import SHAPE, TIED, load, sums, write_base

LENGTHS = (70, 5, 33, 100, 1, 34, 71)


def batch(ids: np.ndarray, lengths: list[int], trained: np.ndarray) -> Batch:
    context = PackedContext.make(ids.astype(np.int32), lengths)
    rows = np.flatnonzero(trained[1:])
    return Batch(context, torch.from_numpy(rows), torch.from_numpy(ids[rows + 1].astype(np.int64)))


def conversations(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random ids, end to end, and which of them are trained: never a first one."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 256, sum(LENGTHS))
    trained = rng.random(len(ids)) < 0.4
    trained[np.cumsum((0, *LENGTHS[:-1]))] = False
    return ids, trained


def gradients(model: TrainableDecoder) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        scale = float(b[name].abs().max()) or 1.0
        assert float((a[name] - b[name]).abs().max()) <= tolerance * scale, name


@pytest.mark.parametrize(
    ("family", "shape", "changes"),
    [
        ("llama2", TIED, {}),
        ("llama2", SHAPE, {"attention_bias": True, "mlp_bias": True}),
        ("llama3", SHAPE, {}),
        ("mistral", SHAPE, {}),
        ("qwen2", SHAPE, {}),
        ("qwen3", TIED, {}),
    ],
    ids=["llama2-tied", "llama2-biases", "llama3", "mistral-window", "qwen2", "qwen3"],
)
def test_losses_and_gradients_are_those_of_plain_torch(
    tmp_path: Path, family: str, shape: Shape, changes: dict[str, bool]
) -> None:
    directory = write_base(tmp_path, family, shape, **changes)
    model = load(directory)
    ids, trained = conversations()
    given = batch(ids, list(LENGTHS), trained)
    loss, logprobs = model(given, 1 / len(given.rows))
    loss.backward()
    config = ModelConfig.load(directory)
    ops = ReferenceOps(config)
    decoder = Decoder.bind(config, Checkpoint.open(directory), ops)
    for parameter in ops.parameters.values():
        parameter.requires_grad_()
    starts = np.cumsum((0, *LENGTHS))
    ops.begin([Chunk(ids[a:b].tolist(), sample="all") for a, b in pairwise(starts)])
    expected = torch.log_softmax(decoder.forward(ops).value, -1)[given.rows, given.targets]
    (-expected.mean()).backward()
    torch.testing.assert_close(logprobs, expected.detach(), rtol=1e-5, atol=1e-5)
    of_reference = {name: p.grad for name, p in ops.parameters.items() if p.grad is not None}
    assert_close(gradients(model), of_reference, 2e-5)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_packed_is_unpacked(tmp_path: Path, checkpointed: bool) -> None:
    model = load(write_base(tmp_path))
    for layer in model.layers:
        layer.checkpointed = checkpointed
    ids, trained = conversations()
    count = int(trained.sum())
    packed, logprobs = model(batch(ids, list(LENGTHS), trained), 1 / count)
    packed.backward()
    of_pack = gradients(model)
    alone, total = [], 0.0
    for start, length in zip(np.cumsum((0, *LENGTHS[:-1])), LENGTHS, strict=True):
        own = slice(start, start + length)
        loss, own_logprobs = model(batch(ids[own], [length], trained[own]), 1 / count)
        loss.backward()
        total += float(loss.detach())
        alone.append(own_logprobs)
    assert abs(float(packed.detach()) - total) <= 1e-6 * abs(total)
    torch.testing.assert_close(logprobs, torch.cat(alone), rtol=1e-6, atol=1e-5)
    assert_close(of_pack, gradients(model), 1e-6)


def test_a_conversation_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    model = load(write_base(tmp_path))
    ids, trained = conversations()
    others = ids.copy()
    own = slice(75, 108)
    others[:75], others[108:] = (ids[:75] + 1) % 256, (ids[108:] + 3) % 256
    own_trained = np.zeros_like(trained)
    own_trained[own] = trained[own]
    with torch.no_grad():
        first = model(batch(ids, list(LENGTHS), own_trained), 1.0)[1]
        second = model(batch(others, list(LENGTHS), own_trained), 1.0)[1]
    assert torch.equal(first, second)


def test_trainer_and_server_give_the_same_logprobs(tmp_path: Path) -> None:
    directory = write_base(tmp_path)
    model = load(directory)
    template = ChatTemplate(directory, Tokenizer(directory))
    with LLM(str(directory), dtype="float32", kv_cache_dtype="float32", threads=1, backend="cpu") as llm:
        for record in sums(4, "server"):
            _, ids, mask = template.conversation(json.dumps(record["messages"]))
            # What the server is asked is what the trainer trains on, up to the last turn.
            prompt = llm.render_chat(record["messages"][:-1])
            assert ids[: len(prompt)] == prompt
            trained = np.asarray(mask)
            assert trained[len(prompt) :].all()
            with torch.no_grad():
                everything = np.ones(len(ids), dtype=bool)
                logprobs = model(batch(np.asarray(ids), [len(ids)], everything), 1.0)[1]
            (answer,) = llm.generate([ids], SamplingParams(max_new_tokens=1, prompt_logprobs=True))
            assert answer.prompt_logprobs is not None
            served = answer.prompt_logprobs[1:]
            np.testing.assert_allclose(logprobs.numpy(), np.asarray(served, dtype=np.float32), atol=2e-4)


def test_new_weights_are_as_wide_as_gpt_2_s_rule_says() -> None:
    config = ModelConfig.from_json(family_config("llama2", Shape(8, 64, 128, 4, 4, vocab=264, context=64)))
    spreads = {name: float(tensor.std()) for name, tensor in random_tensors(config, 0) if tensor.dim() > 1}
    for name, spread in spreads.items():
        narrow = name.endswith(("o_proj.weight", "down_proj.weight"))
        # Sixteen additions to the residual stream: a quarter.
        assert spread == pytest.approx(0.02 / 4 if narrow else 0.02, rel=0.05), name


def test_a_conversation_longer_than_the_model_is_refused(tmp_path: Path) -> None:
    model = load(write_base(tmp_path, shape=Shape(1, 32, 32, 2, 2, vocab=264, context=32)))
    with pytest.raises(ValueError, match="33 tokens; the model has 32 positions"):
        model.hidden(PackedContext.make(np.zeros(33, dtype=np.int32), [33]))
