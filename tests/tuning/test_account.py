"""What is told of a mixture before the first step: shares, epochs and pieces, as the plan has them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentlm.tuning.account import mixture_told, plan_of, tags_told
from agentlm.tuning.config import TuneConfig
from agentlm.tuning.rendering import Rendered, render
from tests.tuning.runs import config, sums, write_records


def made(directory: Path, **changes: Any) -> tuple[TuneConfig, Rendered]:
    wanted = config(directory, **changes)
    data = wanted.data
    found = render(
        data.sources, directory / "base", template=None, length=data.length, over_length=data.over_length,
        cache=directory / "kept",
    )  # fmt: skip
    return wanted, found


def test_shares_and_epochs_are_those_of_the_plan(tmp_path: Path) -> None:
    wanted, rendered = made(tmp_path, training__steps=3)
    plan = plan_of(wanted, rendered)
    drawn = [one for step in plan.steps for pack in step for one in pack]
    lines = mixture_told(wanted, rendered, plan)
    trained = [sum(int(rendered.trained[one]) for one in drawn if rendered.source[one] == k) for k in (0, 1)]
    for index, (name, count) in enumerate((("agent", 12), ("general", 40))):
        times = sum(int(rendered.source[one] == index) for one in drawn)
        assert lines[index] == (
            f"{name}: {count} conversations, drawn {times} times ({times / len(drawn):.1%} of all, "
            f"{trained[index] / sum(trained):.1%} of trained tokens), {times / count:.2f} epochs"
        )
    tokens = sum(int(rendered.lengths[one]) for one in drawn)
    assert lines[-1] == (
        f"3 steps of 4 packs: {tokens} tokens, {sum(trained)} of them trained; packs are "
        f"{tokens / (12 * 160):.1%} full"
    )


def test_conversations_are_told_from_their_pieces(tmp_path: Path) -> None:
    config(tmp_path)
    source = {"name": "long", "path": str(write_records(tmp_path / "long.jsonl", sums(4, "long", turns=20)))}
    data = {"length": 120, "over_length": "split", "sources": [source]}
    wanted, rendered = made(tmp_path, data=data, training__steps=1)
    told = mixture_told(wanted, rendered, plan_of(wanted, rendered))
    assert len(rendered) > 4
    assert told[0].startswith(f"long: 4 conversations in {len(rendered)} pieces, drawn ")


@pytest.mark.parametrize("unit", ["conversations", "trained_tokens"])
def test_shares_are_of_what_the_unit_says(tmp_path: Path, unit: str) -> None:
    config(tmp_path)
    write_records(tmp_path / "agent.jsonl", sums(30, "agent", turns=8))
    wanted, rendered = made(tmp_path, data__unit=unit, data__over_length="split", training__steps=20)
    counts = plan_of(wanted, rendered).counts(len(rendered))
    weight = counts if unit == "conversations" else counts * rendered.trained
    shares = [float(weight[rendered.source == index].sum() / weight.sum()) for index in (0, 1)]
    assert shares == pytest.approx([0.2, 0.8], abs=0.02)
    other = counts * rendered.trained if unit == "conversations" else counts
    assert abs(other[rendered.source == 0].sum() / other.sum() - 0.2) > 0.04


def test_the_tags_told_are_those_with_the_most_trained_tokens(tmp_path: Path) -> None:
    config(tmp_path)
    records = sums(40, "general", turns=1)
    for index, record in enumerate(records):
        record["tags"] = [f"item:{index}", "chat"]
    write_records(tmp_path / "general.jsonl", records)
    _, rendered = made(tmp_path)
    counts = np.ones(len(rendered), dtype=np.int64)
    told = tags_told(rendered, counts)
    assert len(told) == 32
    assert "chat" in told
    never = int(np.flatnonzero(rendered.source == 1)[0])
    counts[never] = 0
    assert "item:0" not in tags_told(rendered, counts)
