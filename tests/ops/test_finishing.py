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

from hyperinverter.ops import fused
from hyperinverter.ops.resample import fir_kernel


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
