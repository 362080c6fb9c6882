"""The learning rate of every step, and AdamW: what decays; narrow moments do what wide ones do but for rounding."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from agentlm.tuning.config import TrainingSection
from agentlm.tuning.optimizer import NarrowAdamW, learning_rate, make_optimizer


def rates(steps: int = 100, **changes: Any) -> list[float]:
    training = TrainingSection(steps=steps, **{"learning_rate": 1.0, "warmup": 0.1, **changes})
    return [learning_rate(training, step, steps) for step in range(steps)]


def test_the_warm_up_rises_in_equal_parts_to_the_peak() -> None:
    for schedule in ("cosine", "linear", "constant"):
        assert rates(schedule=schedule)[:11] == pytest.approx([*(part / 10 for part in range(1, 11)), 1.0])


def test_each_schedule_is_its_formula() -> None:
    cosine, linear = rates(), rates(schedule="linear")
    for step in range(10, 100):
        passed = (step - 10) / 90
        assert cosine[step] == pytest.approx((1 + math.cos(math.pi * passed)) / 2)
        assert linear[step] == pytest.approx(1 - passed)
    assert rates(schedule="constant")[10:] == [1.0] * 90
    assert cosine[55] == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_falls_to_its_end_and_never_below(schedule: str) -> None:
    falling = rates(schedule=schedule, final_learning_rate=0.25)[10:]
    assert all(a > b for a, b in pairwise(falling))
    assert 0.25 < falling[-1] < 0.26


@pytest.mark.parametrize(("warmup", "first"), [(0.0, 1.0), (0.001, 1.0), (0.02, 0.5), (1.0, 0.01)])
def test_no_step_is_lost_to_the_warm_up(warmup: float, first: float) -> None:
    assert rates(warmup=warmup)[0] == pytest.approx(first)
    assert min(rates(warmup=warmup)) > 0


@pytest.mark.parametrize(
    ("warmup", "steps", "rising"),
    [(0.03, 50, 2), (0.07, 100, 7), (0.14, 50, 7), (0.001, 100, 1), (0.0, 9, 0)],
)
def test_a_part_of_a_step_of_warm_up_is_a_step(warmup: float, steps: int, rising: int) -> None:
    found = rates(steps, warmup=warmup, schedule="linear")
    assert found[:rising] == pytest.approx([(step + 1) / rising for step in range(rising)])
    assert found[rising] == 1.0
    assert found[rising + 1] < 1.0


def parts(seed: int = 0) -> list[tuple[str, nn.Parameter]]:
    torch.manual_seed(seed)
    return [
        ("model.norm.weight", nn.Parameter(torch.ones(16))),
        ("model.q_proj.bias", nn.Parameter(torch.ones(16))),
        ("model.q_proj.weight", nn.Parameter(torch.randn(16, 8))),
    ]


@pytest.mark.parametrize("state", ["float32", "bfloat16"])
def test_only_matrices_decay(state: str) -> None:
    named = parts()
    before = {name: parameter.detach().clone() for name, parameter in named}
    training = TrainingSection(steps=1, learning_rate=0.1, weight_decay=0.5, optimizer_state=state)  # type: ignore[arg-type]
    optimizer = make_optimizer(named, training)
    for _, parameter in named:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in named:
        shrunk = 0.95 if parameter.dim() > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * shrunk)


def test_what_is_frozen_has_no_moments() -> None:
    named = parts()
    named[2][1].requires_grad_(False)
    optimizer = make_optimizer(named, TrainingSection(steps=1))
    assert [p.dim() for group in optimizer.param_groups for p in group["params"]] == [1, 1]


def test_narrow_moments_do_what_wide_ones_do_but_for_rounding() -> None:
    wide, narrow = parts(), parts()
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    optimizers = (
        torch.optim.AdamW([p for _, p in wide], **settings),
        NarrowAdamW([{"params": [p for _, p in narrow]}], **settings),
    )
    start = [parameter.detach().clone() for _, parameter in wide]
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        for (_, a), (_, b) in zip(wide, narrow, strict=True):
            a.grad = torch.randn(a.shape, generator=generator) + 0.3
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for (_, a), (_, b), was in zip(wide, narrow, start, strict=True):
        apart, moved = (a - b).detach().abs().max(), (a - was).detach().abs().max()
        assert 0 < float(apart) < 0.02 * float(moved)
    state = optimizers[1].state[narrow[0][1]]
    assert (state["exp_avg"].dtype, state["exp_avg_sq"].dtype) == (torch.bfloat16, torch.bfloat16)
    assert float(state["step"]) == 50
