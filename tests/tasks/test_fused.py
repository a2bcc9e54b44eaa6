"""Adam's step in one launch: where the policy says so, unless the configuration says otherwise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hyperinverter import assembly, config
from hyperinverter.ops.policy import policy


def optimizer_of(parameter: nn.Parameter, *typed: str) -> torch.optim.Optimizer:
    return assembly._optimizer(config.compose(["phase=2", *typed]), [parameter])


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [((), True), (("+phase.optimizer.foreach=true",), None), (("+phase.optimizer.fused=false",), False)],
)
def test_it_follows_the_policy_and_what_was_typed(typed: tuple[str, ...], wanted: Any) -> None:
    here = nn.Parameter(torch.zeros(3))
    adam = ("phase/optimizer=adam", *typed)
    with policy(fused_optimizer=True):
        assert optimizer_of(here, *adam).param_groups[0]["fused"] is wanted
        assert "fused" not in optimizer_of(here).param_groups[0]  # Muon
    assert optimizer_of(here, *adam).param_groups[0]["fused"] in (None, False)


def test_its_steps_are_the_same() -> None:
    moved = []
    for fused in (False, True):
        torch.manual_seed(0)
        parameter = nn.Parameter(torch.randn(5))
        with policy(fused_optimizer=fused):
            optimizer = optimizer_of(parameter, "phase/optimizer=adam")
        for _ in range(3):
            parameter.grad = torch.randn(5)
            optimizer.step()
        moved.append(parameter.detach())
    assert_close(*moved)
