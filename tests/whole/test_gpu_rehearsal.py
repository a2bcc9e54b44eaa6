"""The GPU tests themselves: skipped with a reason where there is no GPU, and rehearsed on a processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(device: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "tests/gpu", *options],
        cwd=ROOT,
        env={**os.environ, "HYPERINVERTER_TEST_DEVICE": device, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
    )


@pytest.mark.slow
def test_all_pass_on_a_processor() -> None:
    done = run("cpu", "-x")
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_they_are_skipped_with_a_reason() -> None:
    done = run("cuda", "-rs")
    assert done.returncode == 0
    assert "PyTorch sees no CUDA GPU" in done.stdout
    assert "failed" not in done.stdout
