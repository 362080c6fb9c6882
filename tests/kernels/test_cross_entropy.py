"""The chunked loss, its gradients and log-probabilities against float64 torch."""

import pytest
import torch

from agentlm_kernels.cross_entropy import (
    NOT_TRAINED,
    linear_cross_entropy,
    linear_logprobs,
    reference_linear_cross_entropy,
    softmax_loss,
)

CLOSE = {
    torch.float32: {"atol": 2e-5, "rtol": 1e-4},
    torch.bfloat16: {"atol": 2e-2, "rtol": 3e-2},
    torch.float16: {"atol": 3e-3, "rtol": 5e-3},
}


def random(device, *shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def problem(device, tokens, width, vocabulary, dtype=torch.float32, every=3):
    """Hidden states, a head, and targets of which each third is not trained."""
    hidden = random(device, tokens, width, dtype=dtype).requires_grad_()
    head = (random(device, vocabulary, width, seed=1) / width**0.5).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=torch.Generator().manual_seed(2)).to(device)
    targets[::every] = NOT_TRAINED
    return hidden, head, targets


def gradients(loss, *of):
    loss.backward()
    given = [tensor.grad for tensor in of]
    for tensor in of:
        tensor.grad = None
    return given


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("chunk_tokens", [None, 4])
@pytest.mark.parametrize(("tokens", "vocabulary"), [(11, 5000), (7, 33)])
def test_loss_and_gradients(device, tokens, vocabulary, chunk_tokens, dtype):
    hidden, head, targets = problem(device, tokens, 24, vocabulary, dtype)
    expected = reference_linear_cross_entropy(hidden, head, targets, 0.5)
    expected_gradients = gradients(expected, hidden, head)
    loss = linear_cross_entropy(hidden, head, targets, loss_scale=0.5, chunk_tokens=chunk_tokens)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, **CLOSE[dtype])
    for found, wanted in zip(gradients(loss, hidden, head), expected_gradients, strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found, wanted, **CLOSE[dtype])


def test_gradients_by_differences(device):
    hidden, head, targets = problem(device, 4, 6, 9)
    found = gradients(linear_cross_entropy(hidden, head, targets, chunk_tokens=2), hidden, head)
    for tensor, gradient in zip((hidden, head), found, strict=True):
        for at in range(tensor.numel()):
            losses = []
            for step in (1e-6, -1e-6):
                moved = tensor.detach().double().clone()
                moved.view(-1)[at] += step
                pair = (moved, head) if tensor is hidden else (hidden, moved)
                losses.append(reference_linear_cross_entropy(*pair, targets).item())
            assert gradient.view(-1)[at].item() == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-4)


def test_the_gradient_of_what_follows_is_multiplied_in(device):
    hidden, head, targets = problem(device, 5, 8, 40)
    plain = gradients(linear_cross_entropy(hidden, head, targets), hidden, head)
    tripled = gradients(linear_cross_entropy(hidden, head, targets) * 3, hidden, head)
    for one, three in zip(plain, tripled, strict=True):
        torch.testing.assert_close(one * 3, three)


def test_a_scale_on_the_device_and_known_rows(device):
    hidden, head, targets = problem(device, 9, 8, 40)
    rows = (targets != NOT_TRAINED).nonzero().flatten()
    scale = torch.tensor([1 / len(rows)], device=device)
    loss = linear_cross_entropy(hidden, head, targets, loss_scale=scale, trained=rows)
    expected = torch.nn.functional.cross_entropy(hidden @ head.t(), targets)
    torch.testing.assert_close(loss, expected)


def test_wide_logits_and_sums_are_more_exact(device):
    hidden, head, targets = problem(device, 32, 64, 300, torch.bfloat16)
    expected = reference_linear_cross_entropy(hidden, head, targets)
    wanted = gradients(expected, head)[0].double()
    wide = {"logits_dtype": torch.float32, "accumulate_dtype": torch.float32}
    exact = linear_cross_entropy(hidden, head, targets, chunk_tokens=8, **wide)
    assert abs(exact.item() - expected.item()) < 1e-5 * expected.item()
    assert (gradients(exact, head)[0].double() - wanted).norm() < 0.006 * wanted.norm()


def test_what_is_frozen_gets_no_gradient(device):
    hidden, head, targets = problem(device, 5, 8, 40)
    loss = linear_cross_entropy(hidden, head.detach(), targets)
    loss.backward()
    assert hidden.grad is not None
    hidden.grad = None
    assert not linear_cross_entropy(hidden.detach(), head.detach(), targets).requires_grad
    with torch.no_grad():
        assert linear_cross_entropy(hidden, head, targets).item() == pytest.approx(loss.item())


def test_it_goes_backward_once(device):
    loss = linear_cross_entropy(*problem(device, 3, 8, 10))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward once"):
        loss.backward()


@pytest.mark.parametrize("tokens", [0, 4])
def test_nothing_trained_is_no_loss(device, tokens):
    hidden, head, targets = problem(device, tokens, 8, 10, every=1)
    loss = linear_cross_entropy(hidden, head, targets)
    assert loss.item() == 0
    for gradient in gradients(loss, hidden, head):
        assert not gradient.any()


@pytest.mark.parametrize("dtype", CLOSE)
def test_logprobs(device, dtype):
    hidden, head, targets = problem(device, 10, 16, 700, dtype)
    found = linear_logprobs(hidden, head, targets, chunk_tokens=4)
    every = (hidden.double() @ head.double().t()).log_softmax(1)
    wanted = every.gather(1, targets.clamp_min(0)[:, None])[:, 0].where(targets >= 0, 0.0)
    assert not found.requires_grad
    torch.testing.assert_close(found.double(), wanted.detach(), **CLOSE[dtype])


def test_large_and_masked_logits(device, guarded):
    logits = guarded((3, 50), torch.float32)
    logits.tensor.copy_(random(device, 3, 50) * 1e4)
    logits.tensor[1, 7:] = -torch.inf
    wanted = logits.tensor.double().requires_grad_()
    targets = torch.tensor([4, 2, NOT_TRAINED], device=device)
    loss = torch.nn.functional.cross_entropy(wanted, targets, reduction="sum")
    loss.backward()
    logprobs = guarded((3,), torch.float32)
    softmax_loss(logits.tensor, targets, logprobs.tensor, torch.ones(1, device=device), logits.tensor)
    logits.check()
    logprobs.check()
    assert -logprobs.tensor.sum().item() == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(logits.tensor.double(), wanted.grad, atol=1e-6, rtol=1e-6)


def test_shapes_that_do_not_fit_are_refused(device):
    hidden, head, targets = problem(device, 3, 8, 10)
    with pytest.raises(ValueError, match="do not fit"):
        linear_cross_entropy(hidden, head, targets[:2])
