"""One optimizer step: its loss and gradient are means over its trained tokens, and what it tells adds up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from agentlm.ops import differentiable
from agentlm.tuning.batches import make_batch
from agentlm.tuning.config import SourceSection, TrainingSection
from agentlm.tuning.model import TrainableDecoder
from agentlm.tuning.parallel import Ranks
from agentlm.tuning.plan import Plan
from agentlm.tuning.rendering import Rendered, render
from agentlm.tuning.trainer import Trainer
from tests.tuning.runs import load, sums, write_base, write_records

PACKS = ((0, 9), (1,), (2, 3), (9,), (4,))
"""Five packs: two at a time leave one over. One conversation comes twice."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("trainer") / "base")


@pytest.fixture(scope="module")
def rendered(place: Path) -> Rendered:
    """Eight conversations of one source, four of another."""
    sources = []
    for name, count in (("long", 8), ("short", 4)):
        records = sums(count, name, turns=5 if name == "long" else 1)
        file = write_records(place.parent / f"{name}.jsonl", records)
        sources.append(SourceSection(name=name, path=str(file)))
    return render(
        sources, place, template=None, length=160, over_length="drop", cache=place.parent / "rendered"
    )


def trainer(model: TrainableDecoder, rendered: Rendered, **settings: object) -> Trainer:
    """Plain gradient descent: what a parameter moves by is its gradient."""
    training = TrainingSection(steps=1, learning_rate=1.0, warmup=0.0, **settings)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    ranks = Ranks(0, 1, torch.device("cpu"), 1, None, owned=False)
    return Trainer(model, optimizer, training, rendered, Plan((PACKS,)), ranks)


def nats(model: TrainableDecoder, rendered: Rendered, conversation: int) -> Tensor:
    """Of each trained token, by whole logits."""
    batch, _ = make_batch(rendered, [(conversation,)], torch.device("cpu"))
    logits = model.hidden(batch.context) @ model.get_parameter("lm_head.weight").t()
    return torch.nn.functional.cross_entropy(logits[batch.rows], batch.targets, reduction="none")


def expected(model: TrainableDecoder, rendered: Rendered) -> tuple[dict[int, list[Tensor]], list[Tensor]]:
    """The step's nats by source, and the gradient of their mean."""
    by_source: dict[int, list[Tensor]] = {}
    total, count = torch.zeros(()), 0
    for conversation in [one for pack in PACKS for one in pack]:
        own = nats(model, rendered, conversation)
        by_source.setdefault(int(rendered.source[conversation]), []).append(own.detach())
        total, count = total + own.sum(), count + len(own)
    return by_source, list(torch.autograd.grad(total / count, list(model.parameters())))


@pytest.mark.parametrize("micro_batch", [1, 2, 5])
def test_a_step_is_the_mean_over_its_trained_tokens(
    place: Path, rendered: Rendered, micro_batch: int
) -> None:
    model = load(place)
    by_source, gradient = expected(model, rendered)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    told = trainer(model, rendered, micro_batch=micro_batch, clip=None).step(0)
    for was, parameter, due in zip(before, model.parameters(), gradient, strict=True):
        torch.testing.assert_close(was - parameter.detach(), due, rtol=1e-4, atol=2e-7)
    means = {source: float(torch.cat(own).mean()) for source, own in by_source.items()}
    assert told.losses == pytest.approx(means, rel=1e-5)
    everything = torch.cat([one for own in by_source.values() for one in own])
    assert told.loss == pytest.approx(float(everything.mean()), rel=1e-5)
    lengths = [int(rendered.lengths[one]) for pack in PACKS for one in pack]
    assert (told.trained, told.tokens) == (len(everything), sum(lengths))
    assert told.attended == sum(length**2 for length in lengths)
    assert told.norm == pytest.approx(float(torch.cat([g.flatten() for g in gradient]).norm()), rel=1e-5)


def test_gradients_are_clipped_to_a_norm_and_never_scaled_up(place: Path, rendered: Rendered) -> None:
    moved = {}
    for clip in (None, 0.25, 1e6):
        model = load(place)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        told = trainer(model, rendered, clip=clip).step(0)
        steps = [was - now.detach() for was, now in zip(before, model.parameters(), strict=True)]
        moved[clip] = torch.cat([step.flatten() for step in steps])
    assert told.norm > 0.25
    torch.testing.assert_close(moved[1e6], moved[None])
    torch.testing.assert_close(moved[0.25], moved[None] * 0.25 / told.norm, rtol=1e-4, atol=2e-7)


@pytest.mark.parametrize("kind", ["one factor", "a factor a token"])
def test_logits_by_pieces_give_the_same(
    place: Path, rendered: Rendered, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = load(place)
    batch, owners = make_batch(rendered, PACKS, torch.device("cpu"))
    scale = 0.5 if kind == "one factor" else torch.from_numpy((owners % 3 - 1).astype(np.float32))
    whole_loss, whole_logprobs = model(batch, scale)
    whole = torch.autograd.grad(whole_loss, list(model.parameters()))
    # 32 tokens at a time, the least: more than two pieces, the last of them smaller.
    monkeypatch.setattr(differentiable, "LOGITS_BYTES", 1)
    assert len(batch.rows) > 64
    assert len(batch.rows) % 32
    loss, logprobs = model(batch, scale)
    torch.testing.assert_close(loss, whole_loss)
    torch.testing.assert_close(logprobs, whole_logprobs)
    for a, b in zip(torch.autograd.grad(loss, list(model.parameters())), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_what_is_held_out_is_told_by_source(place: Path, rendered: Rendered) -> None:
    model = load(place)
    by_source, by_tag = trainer(model, rendered).evaluate(rendered, capacity=160)
    tagged = replace(rendered, tags=rendered.source, tag_sets=(("a", "both"), ("b", "both", "both")))
    assert by_tag == {}
    _, by_tag = trainer(model, tagged).evaluate(tagged, capacity=160)
    with torch.no_grad():
        own = [nats(model, rendered, one) for one in range(len(rendered))]
    of = [
        torch.cat([n for n, source in zip(own, rendered.source, strict=True) if source == k]) for k in (0, 1)
    ]
    assert by_source == pytest.approx({0: float(of[0].mean()), 1: float(of[1].mean())}, rel=1e-5)
    both = float(torch.cat(of).mean())
    assert by_tag == pytest.approx({"a": by_source[0], "b": by_source[1], "both": both}, rel=1e-5)
