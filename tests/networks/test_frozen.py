from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from hyperinverter.networks.frozen import Held, evaluating


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(3, 3)
        self.judge = Held(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))


def test_owner_saves_and_loads_its_own_tensors_only() -> None:
    owner = Owner()
    assert list(owner.state_dict()) == ["own.weight", "own.bias"]
    Owner().load_state_dict(owner.state_dict(), strict=True)


def test_owner_cannot_teach_it() -> None:
    owner = Owner().train()
    assert {id(p) for p in owner.parameters()} == {id(p) for p in owner.own.parameters()}
    assert not any(module.training for module in owner.judge.network.modules())
    assert not any(p.requires_grad for p in owner.judge.network.parameters())


def test_it_moves_with_its_owner() -> None:
    owner = Owner().double()
    assert {p.dtype for p in owner.judge.network.parameters()} == {torch.double}
    owner.to("meta")
    assert {p.device.type for p in owner.judge.network.parameters()} == {"meta"}


def test_gradients_flow_through() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    Owner().judge(x).sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_a_copy_is_a_copy() -> None:
    owner = Owner()
    twin = copy.deepcopy(owner)
    twin.judge.network[0].weight.add_(1)
    assert_close(twin.judge.network[0].weight, owner.judge.network[0].weight + 1)


def test_evaluating_gives_every_part_its_mode_back() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout()))
    module[1].eval()

    def stop() -> None:
        with evaluating(module):
            assert not any(part.training for part in module.modules())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert [part.training for part in module.modules()] == [True, True, False, False]
