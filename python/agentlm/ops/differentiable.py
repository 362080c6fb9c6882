"""Operations with gradients of their own, where autograd's would cost memory or speed. Refuses to know models and steps."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_BYTES = 64 << 20
"""Bytes of logits at a time on a CPU: larger pieces leave its caches no better and its memory worse."""


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`, of which only the two operands are kept for the way back."""
    out: Tensor = _SwiGlu.apply(gate, up)
    return out


def linears(x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`x @ weightᵀ` for each weight; the gradients of `x` are added up where they are made."""
    outs: tuple[Tensor, ...] = _Linears.apply(x, *weights)
    return outs


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x²) + eps) * weight` over the last dimension."""
    if x.is_cuda:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)
    # On a CPU torch has no kernel for it: the formula's steps, each with a gradient, would take twice as long.
    out: Tensor = _RmsNorm.apply(x, weight, eps)
    return out


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates each head's first half against its second, in float32.

    `x` is `[tokens, heads, head_dim]`, `cos` and `sin` are float32 `[tokens, 1, head_dim / 2]`.
    """
    out: Tensor = _Rotated.apply(x, cos, sin)
    return out


def to_slots(x: Tensor, token_of_slot: Tensor, slot_of_token: Tensor) -> Tensor:
    """`[tokens, ...]` to `[slots, ...]`. Slots that pad hold some token, and their gradient must be zero."""
    out: Tensor = _ToSlots.apply(x, token_of_slot, slot_of_token)
    return out


def from_slots(x: Tensor, slot_of_token: Tensor) -> Tensor:
    """`[slots, ...]` to `[tokens, ...]`; slots that pad are left out and get no gradient."""
    out: Tensor = _FromSlots.apply(x, slot_of_token)
    return out


def copied_to(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """`x` itself, equal on every rank of the group; its gradient is the sum of theirs."""
    if group is None:
        return x
    out: Tensor = _CopiedTo.apply(x, group)
    return out


def summed_over(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The sum of the ranks' `x`; each gets its gradient as it comes."""
    if group is None:
        return x
    out: Tensor = _SummedOver.apply(x, group)
    return out


def linear_loss(
    hidden: Tensor,
    head: Tensor,
    rows: Tensor,
    targets: Tensor,
    scale: float | Tensor,
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """`scale` times the cross-entropies of `targets` at `rows`, added up, and each one's log-probability.

    `hidden` is `[tokens, h]`, `head` `[v, h]`, `rows` and `targets` are int64 `[n]`, rows without repetition; `scale` is
    one factor or float32 `[n]`. The loss is a float32 scalar; the log-probabilities, float32 `[n]`, have no gradient.
    Gradients are made on the way forward, a piece of logits at a time. With a `group`, `head` is this rank's share of the
    vocabulary, in the order of ranks.
    """
    loss, logprobs = _LinearLoss.apply(hidden, head, rows, targets, scale, group)
    return loss, logprobs


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        of_up = F.silu(gate).mul_(gradient)
        of_gate = torch.ops.aten.silu_backward(gradient * up, gate)
        return of_gate, of_up


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        return tuple(x @ weight.t() for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        of_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            for gradient, weight in zip(gradients, weights, strict=True):
                of_x = gradient @ weight if of_x is None else of_x.addmm_(gradient, weight)
        needed = ctx.needs_input_grad[1:]
        return (
            of_x,
            *(g.t() @ x if wanted else None for g, wanted in zip(gradients, needed, strict=True)),
        )


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        scale = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        out: Tensor = x * scale
        return out.mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        gradient = gradient.float()
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (x * scale).mul_(gradient).flatten(0, -2).sum(0).to(weight.dtype)
        scaled = gradient * weight
        along = (scaled * x).sum(-1, keepdim=True).mul_(scale**3).div_(x.shape[-1])
        return scaled.mul_(scale).addcmul_(x.float(), along, value=-1).to(x.dtype), of_weight, None


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, sin, 1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    out = torch.empty_like(wide, memory_format=torch.contiguous_format)
    of_first, of_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=of_first).addcmul_(second, sin, value=sign)
    torch.mul(second, cos, out=of_second).addcmul_(first, sin, value=-sign)
    return out.to(x.dtype)


class _ToSlots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, token_of_slot: Tensor, slot_of_token: Tensor) -> Tensor:
        ctx.save_for_backward(slot_of_token)
        return x.index_select(0, token_of_slot)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slot_of_token,) = ctx.saved_tensors
        return gradient.index_select(0, slot_of_token), None, None


class _FromSlots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slot_of_token: Tensor) -> Tensor:
        ctx.save_for_backward(slot_of_token)
        ctx.slots = x.shape[0]
        return x.index_select(0, slot_of_token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slot_of_token,) = ctx.saved_tensors
        padded = gradient.new_zeros((ctx.slots, *gradient.shape[1:]))
        return padded.index_copy_(0, slot_of_token, gradient), None


class _CopiedTo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _SummedOver(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @once_differentiable
    def backward(_: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        rows: Tensor,
        targets: Tensor,
        scale: float | Tensor,
        group: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor]:
        of_hidden, of_head = ctx.needs_input_grad[:2]
        logprobs = torch.empty(len(rows), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.zeros_like(hidden) if of_hidden else None
        head_gradient = torch.zeros_like(head, dtype=torch.float32) if of_head else None
        piece = _piece(head.shape[0], hidden)
        for start in range(0, len(rows), piece):
            own = rows[start : start + piece]
            taken = hidden.index_select(0, own)
            logits = _logits(taken, head)
            factor = scale[start : start + piece] if isinstance(scale, Tensor) else scale
            logprobs[start : start + piece] = _to_gradient(
                logits, targets[start : start + piece], factor if of_hidden or of_head else None, group
            )
            if of_hidden or of_head:
                gradient = logits.to(hidden.dtype)
                if hidden_gradient is not None:
                    hidden_gradient.index_copy_(0, own, gradient @ head)
                if head_gradient is not None:
                    _add_product(head_gradient, gradient.t(), taken)
                del gradient
            # The next piece's logits take their place.
            del logits
        ctx.gradients = (hidden_gradient, None if head_gradient is None else head_gradient.to(head.dtype))
        ctx.mark_non_differentiable(logprobs)
        return (logprobs * scale).sum().neg(), logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("linear_loss goes backward once: its gradients have been given away")
        gradients, ctx.gradients = ctx.gradients, None
        return (*(g if g is None else g.mul_(loss_gradient) for g in gradients), None, None, None, None)


def _piece(vocabulary: int, hidden: Tensor) -> int:
    """Tokens whose logits are held at a time."""
    if hidden.is_cuda:
        from agentlm_kernels.cross_entropy import chunk_for

        return chunk_for(vocabulary, torch.float32)
    return max(32, LOGITS_BYTES // (4 * vocabulary))


def _logits(hidden: Tensor, head: Tensor) -> Tensor:
    """Float32 logits. A GPU does not round them on their way to the loss; a CPU's product of bfloat16 is bfloat16."""
    if hidden.dtype == torch.float32:
        return hidden @ head.t()
    if hidden.is_cuda:
        return torch.mm(hidden, head.t(), out_dtype=torch.float32)
    return (hidden @ head.t()).float()


def _to_gradient(
    logits: Tensor, targets: Tensor, scale: float | Tensor | None, group: dist.ProcessGroup | None
) -> Tensor:
    """The targets' log-probabilities. With a `scale`, `logits` become the gradient of `-scale` times their sum."""
    if logits.is_cuda and group is None:
        from agentlm_kernels.cross_entropy import softmax_loss

        logprobs = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
        of_all = 1.0 if isinstance(scale, Tensor) else scale
        factor = None if of_all is None else torch.full((1,), of_all, device=logits.device)
        softmax_loss(logits, targets, logprobs, factor, None if scale is None else logits)
        if isinstance(scale, Tensor):
            logits.mul_(scale[:, None])
        return logprobs
    own, is_own = targets, None
    if group is not None:
        own = targets - dist.get_rank(group) * logits.shape[1]
        is_own = (own >= 0) & (own < logits.shape[1])
        own = own.clamp(0, logits.shape[1] - 1)
    top = logits.amax(dim=1)
    if group is not None:
        dist.all_reduce(top, dist.ReduceOp.MAX, group=group)
    logits.sub_(top[:, None])
    at_target = logits.gather(1, own[:, None]).squeeze(1)
    total = logits.exp_().sum(dim=1)
    if is_own is not None:
        both = torch.stack((torch.where(is_own, at_target, 0.0), total))
        dist.all_reduce(both, group=group)
        at_target, total = both.unbind()
    if scale is not None:
        logits.mul_((scale / total)[:, None])
        share = -scale if isinstance(scale, Tensor) else torch.full_like(total, -scale)
        logits.scatter_add_(
            1, own[:, None], (share if is_own is None else torch.where(is_own, share, 0.0))[:, None]
        )
    return at_target - total.log()


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)
