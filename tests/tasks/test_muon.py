"""Muon: steps with equal singular values for matrices, Adam's for vectors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hyperinverter.tasks.muon import Muon, orthogonalise


def test_singular_values_become_one_and_vectors_stay() -> None:
    torch.manual_seed(0)
    for rows, columns in ((8, 40), (40, 8), (16, 16)):
        left, _ = torch.linalg.qr(torch.randn(3, rows, min(rows, columns)))
        right, _ = torch.linalg.qr(torch.randn(3, columns, min(rows, columns)))
        values = torch.linspace(0.05, 3, min(rows, columns))
        out = orthogonalise(left @ torch.diag(values) @ right.transpose(1, 2))
        inner = left.transpose(1, 2) @ out @ right  # diagonal only if the singular vectors stayed
        assert_close(inner, torch.diag_embed(inner.diagonal(dim1=1, dim2=2)), atol=1e-3, rtol=0)
        assert inner.diagonal(dim1=1, dim2=2).min() > 0.6
        assert inner.diagonal(dim1=1, dim2=2).max() < 1.3


def test_every_matrix_of_a_stack_is_treated_alone_and_zero_stays_zero() -> None:
    torch.manual_seed(0)
    stack = torch.randn(3, 4, 9)
    stack[1] = 0
    together = orthogonalise(stack)
    assert not together[1].any()
    assert_close(together[2:], orthogonalise(stack[2:]), atol=1e-5, rtol=1e-4)


def test_the_scale_of_a_gradient_does_not_matter() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(1, 6, 5)
    assert_close(orthogonalise(gradient * 1e-9), orthogonalise(gradient), atol=1e-4, rtol=1e-3)


def test_a_step_is_as_large_as_adams() -> None:
    torch.manual_seed(0)
    kernel, bias = nn.Parameter(torch.zeros(32, 16, 3, 3)), nn.Parameter(torch.zeros(32))
    optimizer = Muon([kernel, bias], lr=0.1)
    kernel.grad, bias.grad = torch.randn_like(kernel), torch.randn_like(bias)
    optimizer.step()
    assert kernel.detach().square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.25)
    assert_close(bias.detach(), -0.1 * bias.grad.sign(), rtol=1e-4, atol=1e-6)


def test_vectors_follow_adam() -> None:
    torch.manual_seed(0)
    start = torch.randn(7)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon, adam = Muon([ours], lr=0.01), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(5):
        gradient = torch.randn(7)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        adam.step()
    assert_close(ours, theirs)


def test_badly_conditioned_matrix_is_learnt_faster_than_by_adam() -> None:
    def loss_after(kind: type[torch.optim.Optimizer]) -> float:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.zeros(16, 16))
        target = torch.linalg.qr(torch.randn(16, 16))[0]
        basis = torch.linalg.qr(torch.randn(16, 16))[0]
        inputs = torch.randn(256, 16) @ torch.diag(torch.logspace(0, -2, 16)) @ basis
        optimizer = kind([weight], lr=0.03)  # type: ignore[call-arg]
        for _ in range(60):
            optimizer.zero_grad()
            (inputs @ (weight - target)).square().mean().backward()
            optimizer.step()
        return (weight.detach() - target).square().mean().item()

    assert loss_after(Muon) < 0.7 * loss_after(torch.optim.Adam)


def test_it_goes_on_exactly_from_its_state() -> None:
    torch.manual_seed(0)
    gradients = [[torch.randn(4, 6), torch.randn(4)] for _ in range(4)]

    def run(optimizer: Muon, parameters: list[nn.Parameter], some: list[list[torch.Tensor]]) -> None:
        for step in some:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    whole = [nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(4))]
    optimizer = Muon(whole, lr=0.1)
    run(optimizer, whole, gradients)

    first = [nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(4))]
    before = Muon(first, lr=0.1)
    run(before, first, gradients[:2])
    second = [nn.Parameter(p.detach().clone()) for p in first]
    after = Muon(second, lr=0.1)
    after.load_state_dict(before.state_dict())
    run(after, second, gradients[2:])
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))


def test_impossible_settings_are_refused() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    for settings in ({"lr": -1.0}, {"momentum": 1.0}, {"momentum": math.nan}):
        with pytest.raises(ValueError, match="lr must be 0 or more"):
            Muon([weight], **settings)


def test_a_step_inside_of_autocast_is_the_same() -> None:
    """Training by hand makes its steps inside of the trainer's autocast; in bfloat16 the iteration would diverge."""
    moved = []
    for half in (False, True):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.zeros(64, 256))
        parameter.grad = torch.randn(64, 1) @ torch.randn(1, 256) + 1e-3 * torch.randn(64, 256)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            Muon([parameter], lr=0.1).step()
        moved.append(parameter.detach())
    assert torch.equal(*moved)
