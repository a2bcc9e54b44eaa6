"""Freed memory stays with the process: the same blocks again cost no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
from hyperinverter.tasks.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def work():
    blocks = [b"x" * 60_000_000 for _ in range(4)]
work(), work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work(), work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_the_same_blocks_again_cost_no_page_faults() -> None:
    assert faults("keep") < 100 < faults("as it is")
