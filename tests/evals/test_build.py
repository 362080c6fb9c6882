"""Good trajectories become training data: what counts as good, and that a fault never does."""

import json
from pathlib import Path

import pytest

from agentlm_evals.build import Count, conversations
from agentlm_evals.outcome import Score, format_or_limit, harness_fault, right, wrong
from tests.evals.report.test_rows import make_run

TURNS = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "5"}]


def built(directory: Path, threshold: float | None) -> tuple[list[dict], Count]:
    count = Count()
    return list(conversations(directory, threshold, (), count)), count


def run(directory: Path, scores: list[Score | None], task: str = "gsm8k") -> Path:
    return make_run(directory, scores, task, messages=TURNS)


def test_a_fault_is_never_training_data(tmp_path: Path) -> None:
    rows, count = built(run(tmp_path, [right(), wrong(), format_or_limit("no"), harness_fault("gone")]), 0.0)
    assert [row["id"] for row in rows] == ["gsm8k-s0-0", "gsm8k-s1-0", "gsm8k-s2-0"]
    assert (count.episodes, count.kept, count.faults) == (4, 3, 1)


@pytest.mark.parametrize(("threshold", "kept"), [(None, 1), (0.7, 2), (0.0, 3)])
def test_a_rating_counts_by_its_tenth(tmp_path: Path, threshold: float | None, kept: int) -> None:
    scores: list[Score | None] = [right(10.0), right(7.0), wrong(2.0)]
    rows, _ = built(run(tmp_path, scores, "mt-bench"), threshold)
    assert [row["reward"] for row in rows] == [1.0, 0.7, 0.2][:kept]
    assert json.loads(json.dumps(rows)) == rows
