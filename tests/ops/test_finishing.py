"""Where kernels of our own are taken, and, in a process of its own, that they are right."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from hyperinverter.ops import fused
from hyperinverter.ops.finishing import finish
from hyperinverter.ops.resample import fir_filter, fir_kernel


def test_the_kernels() -> None:
    """Triton has to know at its import that it interprets, so these tests have a process of their own."""
    pytest.importorskip("triton", reason="Triton comes with PyTorch for CUDA on Linux")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            Path(__file__).with_name("interpreted_finishing.py"),
        ],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_processor_takes_the_plain_way() -> None:
    assert not fused.can_fuse(torch.zeros(1, 1, 4, 4))
    with FakeTensorMode():
        there = torch.zeros(1, 1, 4, 4, device="cuda")
        assert fused.can_fuse(there)
        assert not fused.can_fuse(there.double())


class _NoDevice:
    """What Triton asks a device for before it compiles."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)  # an H100

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class _OnlyCompiled:
    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.made: list[Any] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *given, **options: self.made.append(self.kernel.warmup(*given, grid=grid, **options))


def test_the_kernels_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a GPU that is not there: the interpreter takes what a compiler refuses."""
    triton = pytest.importorskip("triton", minversion="3.4")
    from triton.runtime import driver

    from hyperinverter.ops import triton_kernels

    forward, backward = _OnlyCompiled(triton_kernels.end_forward), _OnlyCompiled(triton_kernels.end_backward)
    monkeypatch.setattr(triton_kernels, "end_forward", forward)
    monkeypatch.setattr(triton_kernels, "end_backward", backward)
    monkeypatch.setattr(driver, "_active", _NoDevice())
    x = (
        torch.randn(2, 32, 17, 17, dtype=torch.bfloat16)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
    )
    scale = torch.ones(2, 32, 1, 1, requires_grad=True)
    rest = (torch.zeros(32), torch.zeros(16, 16), torch.ones(()))
    out = fused.fused_finish(x, fir_kernel(4.0), scale, *rest, clamp=256.0)
    torch.autograd.grad(out.sum(), (x, scale))
    fused.fused_filter(torch.randn(1, 3, 8, 8), fir_kernel(), 2)
    assert len(forward.made) == 2
    assert len(backward.made) == 1
    assert all("cubin" in kernel.asm for kernel in forward.made + backward.made), triton.__version__


def test_where_no_kernel_can_be_made_plain_pytorch_takes_over_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("triton")  # which finds no GPU here
    monkeypatch.setattr(fused, "_state", fused._State())
    x = torch.randn(2, 3, 9, 9, requires_grad=True)
    scale = torch.rand(2, 3, 1, 1, requires_grad=True)
    rest = (fir_kernel(4.0), scale, torch.randn(3), torch.randn(8, 8), torch.ones(()))
    with pytest.warns(UserWarning, match="cannot make the generator's kernels here.*C compiler"):
        found = fused.fused_finish(x, *rest, clamp=2.0)
    filtered = fused.fused_filter(x, fir_kernel(), 2)  # nothing is said again, which would be an error here
    ours = torch.autograd.grad(found.square().sum() + filtered.square().sum(), (x, scale))
    wanted = finish(x * 1, *rest, clamp=2.0)
    plain = fir_filter(x, fir_kernel(), 2)
    assert_close((found, filtered), (wanted, plain))
    assert_close(ours, torch.autograd.grad(wanted.square().sum() + plain.square().sum(), (x, scale)))


def test_a_fault_after_the_first_kernel_is_no_reason_to_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_state", fused._State())
    assert fused._launched(lambda: None)

    def broken() -> None:
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        fused._launched(broken)
