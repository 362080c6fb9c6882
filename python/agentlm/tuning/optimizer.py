"""AdamW and the learning rate. Refuses to know models, data and ranks.

Decoupled weight decay: arXiv:1711.05101.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from agentlm.tuning.config import TrainingSection


def learning_rate(training: TrainingSection, step: int, steps: int) -> float:
    """The rate of a step, counted from 0: it rises in equal parts through the warm-up, then falls by the schedule.

    The first step's rate is not 0, and the last one's is `final_learning_rate` times the peak but for one part.
    """
    # Seven per cent of 100 steps are 7, and 0.07 * 100 is a little more.
    warm = math.ceil(training.warmup * steps - 1e-6)
    if step < warm:
        return training.learning_rate * (step + 1) / warm
    passed = (step - warm) / max(1, steps - warm)
    floor = training.final_learning_rate
    if training.schedule == "cosine":
        return training.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * passed)))
    if training.schedule == "linear":
        return training.learning_rate * (floor + (1 - floor) * (1 - passed))
    return training.learning_rate


def make_optimizer(
    named: Iterable[tuple[str, nn.Parameter]], training: TrainingSection
) -> torch.optim.Optimizer:
    """AdamW over the parameters that have gradients; only matrices decay."""
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in trained if p.dim() > 1], "weight_decay": training.weight_decay},
        {"params": [p for _, p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    settings: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": training.betas,
        "eps": training.epsilon,
    }
    if training.optimizer_state == "bfloat16":
        return NarrowAdamW(groups, **settings)
    return torch.optim.AdamW(groups, fused=True, **settings)


class NarrowAdamW(torch.optim.Optimizer):
    """AdamW whose moments are stored in bfloat16 and computed in float32: 4 bytes a parameter instead of 8."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, _: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), group["betas"]
        gradient = gradient.float()
        mean = state["exp_avg"].float().lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        state["exp_avg"].copy_(mean)
        state["exp_avg_sq"].copy_(square)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        spread = square.sqrt_().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        parameter.addcdiv_(mean, spread, value=-group["lr"] / (1 - beta1**step))
