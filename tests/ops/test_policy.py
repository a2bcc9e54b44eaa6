"""Choices by device are made in one place, and can be changed for a while."""

from __future__ import annotations

import pytest
import torch

from hyperinverter.ops.policy import CPU, GPU, fast_layout, policy, policy_of

HERE, ELSEWHERE = torch.empty(1, 2, 3, 3), torch.empty(1, 2, 3, 3, device="meta")


def test_each_device_has_its_own() -> None:
    assert policy_of(HERE) == CPU
    assert policy_of(ELSEWHERE) == GPU


def test_changes_hold_within_and_can_be_nested() -> None:
    with policy(winograd="never"):
        with policy(per_sample="grouped"):
            assert (policy_of(HERE).winograd, policy_of(HERE).per_sample) == ("never", "grouped")
            assert policy_of(HERE).largest_map == CPU.largest_map
        assert policy_of(HERE).per_sample == "loop"
        with policy(CPU):  # all of it
            assert policy_of(ELSEWHERE) == policy_of(HERE) == CPU
    assert policy_of(HERE) == CPU


def test_ends_with_an_error_too() -> None:
    with pytest.raises(RuntimeError, match="from within"), policy(GPU):
        raise RuntimeError("from within")
    assert policy_of(HERE) == CPU


def test_a_wrong_name_is_refused() -> None:
    with pytest.raises(TypeError, match="winogard"), policy(winogard="never"):
        pass
    assert policy_of(HERE) == CPU


def test_fast_layout_keeps_the_values() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(fast_layout(x), x)
    assert fast_layout(x).is_contiguous(memory_format=torch.channels_last)
    with policy(channels_last=False):
        assert fast_layout(x) is x
