"""The loss of a language model's last linear, without all its logits at a time. Refuses to know models and batches.

Gradients are made on the way forward, while the logits of a piece are there: a kernel turns them into the loss and, in
place, into their own gradient, from which two products make the piece's share of the gradients of the hidden states and
of the head. Tokens that are not trained cost nothing: they are left out first.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from agentlm_kernels.tuning import tuned

NOT_TRAINED = -100
"""The target of a token that has no loss."""
PIECE = 256 << 20
"""Bytes of logits at a time: enough for products at full speed."""


@triton.jit
def _loss(
    logits, gradient, targets, logprobs, scale, stride,
    vocabulary: tl.constexpr, BLOCK: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    own = logits + row * stride
    target = tl.load(targets + row)
    is_trained = target >= 0
    place = target.to(tl.int32)
    # In powers of two, whose exponents cost one instruction.
    log2e: tl.constexpr = 1.4426950408889634
    at_target = tl.load(own + tl.where(is_trained, target, 0)).to(tl.float32)
    # Finite, so that what is wholly masked gives no NaN.
    top = -3.0e38
    sums = tl.zeros([BLOCK], tl.float32)
    for start in tl.range(0, vocabulary, BLOCK):
        is_column = start + columns < vocabulary
        values = tl.load(own + start + columns, mask=is_column, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(values) * log2e)
        sums = sums * tl.exp2(top - higher) + tl.exp2(values * log2e - higher)
        top = higher
    total = tl.sum(sums)
    tl.store(logprobs + row, tl.where(is_trained, at_target - (top + tl.log2(total)) / log2e, 0.0))
    if GRADIENT:
        share = tl.where(is_trained, tl.load(scale).to(tl.float32), 0.0)
        factor = share / total
        for start in tl.range(0, vocabulary, BLOCK):
            is_column = start + columns < vocabulary
            values = tl.load(own + start + columns, mask=is_column, other=0.0).to(tl.float32)
            values = tl.exp2(values * log2e - top) * factor - tl.where(start + columns == place, share, 0.0)
            at = gradient + row * stride + start + columns
            tl.store(at, values.to(gradient.dtype.element_ty), mask=is_column)


@triton.jit
def _multiply(values, factor, count, BLOCK: tl.constexpr):
    by = tl.load(factor).to(tl.float32)
    # What backward() of a loss gives, without asking the device for it.
    if by == 1.0:
        return
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    scaled = tl.load(values + at, mask=at < count, other=0.0).to(tl.float32) * by
    tl.store(values + at, scaled.to(values.dtype.element_ty), mask=at < count)


def softmax_loss(
    logits: Tensor,
    targets: Tensor,
    logprobs: Tensor,
    scale: Tensor | None = None,
    gradient: Tensor | None = None,
) -> None:
    """`logprobs` `[t]` float32 of the targets `[t]` int64, 0 where they are `NOT_TRAINED`.

    `logits` is `[t, v]` contiguous. With `scale`, one float32, `gradient` `[t, v]` becomes `-scale` times the gradient
    of the sum of the log-probabilities; it may be `logits` itself.
    """
    rows, vocabulary = logits.shape
    if rows == 0:
        return
    found = tuned("softmax_loss", str(vocabulary)) or {"block": 4096, "warps": 8}
    block = min(found["block"], max(16, int(triton.next_power_of_2(vocabulary))))
    _loss[(rows,)](
        logits, logits if gradient is None else gradient, targets, logprobs, logprobs if scale is None else scale,
        logits.stride(0), vocabulary, block, scale is not None, num_warps=found["warps"],
    )  # fmt: skip


def multiply(values: Tensor, factor: Tensor) -> None:
    """Multiplies `values`, contiguous, of any float type, in place by `factor`, a single float."""
    _multiply[(triton.cdiv(values.numel(), 4096),)](values, factor, values.numel(), 4096, num_warps=4)


def linear_cross_entropy(
    hidden: Tensor, head: Tensor, targets: Tensor, *, loss_scale: float | Tensor = 1.0, chunk_tokens: int | None = None,
    trained: Tensor | None = None, logits_dtype: torch.dtype | None = None, accumulate_dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """`loss_scale` times the sum of the trained tokens' cross-entropies, float32, with gradients for `hidden` and `head`.

    `hidden` is `[t, h]`, `head` `[v, h]`, `targets` `[t]` int64, `NOT_TRAINED` for those without loss. `loss_scale` is
    usually one over the trained tokens of the whole step; it may be a float32 on the device. `trained` are the indices
    of the trained tokens, int64, if they are known; otherwise the device is asked for them, and waited for.
    `logits_dtype` is hidden's, or float32 so that logits are not rounded. The head's gradient is added up over pieces
    of `chunk_tokens`, in `accumulate_dtype`, by default the head's. `backward` works once.
    """
    if hidden.shape[0] != targets.shape[0] or hidden.shape[1] != head.shape[1]:
        raise ValueError(
            f"hidden {list(hidden.shape)}, head {list(head.shape)} and targets {list(targets.shape)} "
            "do not fit each other"
        )
    scale = (
        loss_scale
        if isinstance(loss_scale, Tensor)
        else torch.full((1,), loss_scale, dtype=torch.float32, device=hidden.device)
    )
    types = (logits_dtype or hidden.dtype, accumulate_dtype or head.dtype)
    loss: Tensor = _LinearCrossEntropy.apply(hidden, head, targets, scale, chunk_tokens, trained, *types)
    return loss


@torch.no_grad()
def linear_logprobs(
    hidden: Tensor, head: Tensor, targets: Tensor, *, chunk_tokens: int | None = None,
    logits_dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """The targets' log-probabilities, `[t]` float32, 0 for `NOT_TRAINED`; shapes as in `linear_cross_entropy`."""
    logprobs = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    dtype = logits_dtype or hidden.dtype
    chunk = chunk_tokens or chunk_for(head.shape[0], dtype)
    for start in range(0, hidden.shape[0], chunk):
        rows = slice(start, start + chunk)
        softmax_loss(_logits(hidden[rows], head, dtype), targets[rows], logprobs[rows])
    return logprobs


def chunk_for(vocabulary: int, dtype: torch.dtype) -> int:
    """Tokens whose logits take about `PIECE` bytes."""
    return max(128, PIECE // (vocabulary * dtype.itemsize) // 128 * 128)


class _LinearCrossEntropy(torch.autograd.Function):
    """Makes the gradients forward; backward multiplies them by the loss's own."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, scale: Tensor, chunk_tokens: int | None,
        trained: Tensor | None, logits_dtype: torch.dtype, accumulate_dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        """See `linear_cross_entropy`."""
        of_hidden, of_head = ctx.needs_input_grad[:2]
        rows = (targets != NOT_TRAINED).nonzero().flatten() if trained is None else trained
        count, chunk = rows.shape[0], chunk_tokens or chunk_for(head.shape[0], logits_dtype)
        logprobs = torch.empty(count, dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.zeros_like(hidden) if of_hidden else None
        head_gradient = torch.zeros_like(head, dtype=accumulate_dtype) if of_head else None
        for start in range(0, count, chunk):
            own = rows[start : start + chunk]
            taken = hidden.index_select(0, own)
            logits = _logits(taken, head, logits_dtype)
            gradient = logits
            if (of_hidden or of_head) and logits_dtype != hidden.dtype:
                gradient = torch.empty_like(logits, dtype=hidden.dtype)
            needed = scale if of_hidden or of_head else None
            softmax_loss(
                logits, targets.index_select(0, own), logprobs[start : start + chunk], needed, gradient
            )
            if hidden_gradient is not None:
                hidden_gradient.index_copy_(0, own, torch.mm(gradient, head))
            if head_gradient is not None:
                _add_product(head_gradient, gradient.t(), taken)
            # The next piece's logits take its place.
            del logits, gradient
        ctx.gradients = (hidden_gradient, None if head_gradient is None else head_gradient.to(head.dtype))
        return -(logprobs.sum() * scale.reshape(()))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gives what forward made, times the loss's gradient."""
        if ctx.gradients is None:
            raise RuntimeError("linear_cross_entropy goes backward once: its gradients have been given away")
        gradients, ctx.gradients = ctx.gradients, None
        for gradient in gradients:
            if gradient is not None and gradient.numel():
                multiply(gradient, loss_gradient)
        return (*gradients, None, None, None, None, None, None)


def _logits(hidden: Tensor, head: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == hidden.dtype:
        return torch.mm(hidden, head.t())
    if hidden.is_cuda:
        return torch.mm(hidden, head.t(), out_dtype=dtype)
    return torch.mm(hidden.to(dtype), head.t().to(dtype))


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total.add_(torch.mm(a, b))


def reference_linear_cross_entropy(
    hidden: Tensor, head: Tensor, targets: Tensor, loss_scale: float = 1.0
) -> Tensor:
    """The same in torch, float64, by autograd."""
    logits = hidden.double() @ head.double().t()
    loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=NOT_TRAINED, reduction="sum")
    return loss * loss_scale
