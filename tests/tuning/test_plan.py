"""The plan: shares as asked for, every conversation whole and in one pack, the same for the same seed."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentlm.errors import ConfigError
from agentlm.tuning.batches import make_batch
from agentlm.tuning.config import DataSection, SourceSection
from agentlm.tuning.mixture import Stream, draws, source_shares, streams
from agentlm.tuning.packing import best_fit
from agentlm.tuning.plan import make_plan, shared_out
from agentlm.tuning.rendering import Rendered

SIZES = (30, 200, 70)


def data(**changes: Any) -> DataSection:
    sources = (
        SourceSection(name="agent", path="a", group="agent"),
        SourceSection(name="gpt4", path="b", group="general", weight=1.0),
        SourceSection(name="gpt35", path="c", group="general", weight=4.0),
    )
    return DataSection(**({"sources": sources, "eta": 0.2} | changes))


def source_of(sizes: Sequence[int] = SIZES) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)


def lengths_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 400, count)


def mixture(**changes: Any) -> list[Stream]:
    source = source_of()
    return streams(data(**changes), source, np.ones(len(source)))


@given(
    st.lists(st.integers(1, 60), max_size=60),
    st.integers(0, 12),
)
def test_packs_hold_what_fits_and_the_rest_is_left(lengths: list[int], packs: int) -> None:
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    filled, left = best_fit(order, lengths, packs, 60)
    assert len(filled) <= packs
    assert all(sum(lengths[index] for index in pack) <= 60 for pack in filled)
    assert sorted([*(index for pack in filled for index in pack), *left]) == list(range(len(lengths)))
    rooms = [60 - sum(lengths[index] for index in pack) for pack in filled]
    rooms += [60] * (packs - len(filled))
    assert all(lengths[index] > max(rooms, default=0) for index in left)


def test_the_least_room_is_taken() -> None:
    assert best_fit([0, 1, 2, 3], [60, 50, 40, 38], 2, 100) == ([[0, 2], [1, 3]], [])


def test_shares_are_met_at_every_draw() -> None:
    source = source_of()
    counts = Counter[int]()
    for number, conversation in enumerate(islice(draws(mixture(), seed=3), 3000), 1):
        counts[int(source[conversation])] += 1
        for index, share in enumerate((0.2, 0.16, 0.64)):
            assert abs(counts[index] - share * number) <= 2


def test_an_epoch_has_every_conversation_once_in_another_order() -> None:
    stream = Stream(0, np.arange(50), 1.0)
    epochs = list(islice(draws([stream], seed=0), 150))
    parts = [epochs[:50], epochs[50:100], epochs[100:]]
    assert all(sorted(part) == list(range(50)) for part in parts)
    assert len({tuple(part) for part in parts}) == 3
    assert epochs == list(islice(draws([stream], seed=0), 150))
    assert epochs != list(islice(draws([stream], seed=1), 150))


def test_shares_may_be_of_trained_tokens() -> None:
    source, cost = source_of(), np.where(source_of() == 0, 90, 10)
    counts = np.zeros(3)
    for conversation in islice(draws(mixture(), 0, cost), 4000):
        counts[source[conversation]] += cost[conversation]
    assert counts / counts.sum() == pytest.approx([0.2, 0.16, 0.64], abs=0.01)


def test_sources_without_weights_count_by_their_size() -> None:
    plain = DataSection(sources=tuple(SourceSection(name=name, path=name) for name in "ab"))
    assert source_shares(plain, [30, 10]) == [0.75, 0.25]


def test_tags_weigh_within_their_source() -> None:
    plain = DataSection(sources=(SourceSection(name="a", path="a"),))
    factor = np.asarray([1.0] * 30 + [3.0] * 10 + [0.0] * 5)
    made = streams(plain, np.zeros(45, dtype=np.int32), factor)
    counts = Counter(islice(draws(made, 0), 6000))
    assert sum(counts[index] for index in range(30)) == pytest.approx(3000, abs=2)
    assert sum(counts[index] for index in range(40, 45)) == 0


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"source 'agent' has a share of 0\.2 and no conversation to draw"):
        streams(data(), source_of((0, 5, 5)), np.ones(10))
    assert {stream.source for stream in streams(data(eta=0.0), source_of((0, 5, 5)), np.ones(10))} == {1, 2}


@pytest.mark.parametrize("packing", [True, False])
def test_a_plan_by_steps_is_full_and_repeats(packing: bool) -> None:
    lengths = lengths_of(sum(SIZES))
    settings: dict[str, Any] = {"batch": 8, "capacity": 512, "packing": packing, "steps": 300}
    plan = make_plan(lengths, mixture(), seed=5, **settings)
    assert [len(step) for step in plan.steps] == [8] * 300
    sizes = [sum(lengths[list(pack)]) for step in plan.steps for pack in step]
    assert max(sizes) <= 512
    if packing:
        assert sum(sizes) / (len(sizes) * 512) > 0.95
    else:
        assert all(len(pack) == 1 for step in plan.steps for pack in step)
    counts = np.bincount(source_of(), plan.counts(sum(SIZES)))
    assert counts / counts.sum() == pytest.approx([0.2, 0.16, 0.64], abs=0.01)
    again = make_plan(lengths, mixture(), seed=5, **settings)
    assert again == plan
    assert again.digest() == plan.digest()
    assert make_plan(lengths, mixture(), seed=6, **settings).digest() != plan.digest()


def test_a_plan_by_conversations_trains_each_of_them() -> None:
    lengths = lengths_of(300)
    everything = [Stream(0, np.arange(300), 1.0)]
    plan = make_plan(lengths, everything, seed=0, batch=4, capacity=512, drawn=600)
    assert plan.counts(300).tolist() == [2] * 300
    assert all(len(step) == 4 for step in plan.steps[:-1])
    few = make_plan(lengths[:3], [Stream(0, np.arange(3), 1.0)], seed=0, batch=4, capacity=512, drawn=3)
    assert few.counts(3).tolist() == [1, 1, 1]
    assert len(few.steps) == 1


@given(st.integers(1, 5), st.integers(1, 9))
def test_ranks_share_a_step_evenly(ranks: int, packs: int) -> None:
    lengths = lengths_of(packs)
    step = [(index,) for index in range(packs)]
    shares = shared_out(step, lengths, ranks)
    assert sorted(pack for share in shares for pack in share) == step
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=5))
def test_a_trained_token_is_predicted_by_the_one_before_it_in_its_conversation(
    masks: list[list[bool]],
) -> None:
    lengths = np.asarray([len(mask) for mask in masks])
    # Every token has an id of its own, so that it can be told from where it came.
    ids = np.arange(lengths.sum(), dtype=np.int32)
    rendered = Rendered(
        ids=ids,
        mask=np.concatenate([np.asarray(mask) for mask in masks]),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        trained=np.asarray([sum(mask[1:]) for mask in masks]),
        source=np.zeros(len(masks), dtype=np.int32),
        tags=np.zeros(len(masks), dtype=np.int32),
        item=np.full(len(masks), -1),
        reward=np.full(len(masks), np.nan),
        tag_sets=((),),
        conversations=(len(lengths),),
        left_out=({},),
        examples=(),
    )
    order = list(reversed(range(len(masks))))
    batch, owners = make_batch(rendered, [tuple(order[:2]), tuple(order[2:])], torch.device("cpu"))
    packed, positions = batch.context.ids.numpy(), batch.context.positions.numpy()
    targets = batch.targets.numpy()
    # The id before, and never another conversation's last.
    assert (packed[batch.rows.numpy()] == targets - 1).all()
    starts = rendered.offsets[owners]
    assert (targets > starts).all()
    assert (targets < rendered.offsets[owners + 1]).all()
    assert (positions[batch.rows.numpy()] == targets - 1 - starts).all()
    assert np.bincount(owners, minlength=len(masks)).tolist() == rendered.trained.tolist()
    assert sorted(targets.tolist()) == [
        i for i in ids.tolist() if rendered.mask[i] and i not in rendered.offsets
    ]
