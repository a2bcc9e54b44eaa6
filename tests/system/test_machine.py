"""The machine: its memory, and freed memory that stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from hyperinverter.system import machine

COUNT_FAULTS = """
import resource, sys
from hyperinverter.system.machine import keep_freed_memory
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


LEFT_IN_MEMORY = """
import sys
from hyperinverter.system import machine
if sys.argv[1] != "as it is":
    assert getattr(machine, sys.argv[1])()
bytes(30_000_000)  # freed: from now on glibc, left to itself, takes blocks of this size from its own heap
before = machine.resident_bytes()
blocks = []
for _ in range(20):  # a small block stays behind each large one
    blocks += [b"x" * 20_000_000, b"y" * 100_000]
del blocks[::2]
print(machine.resident_bytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_freed_blocks_between_others_go_back_where_it_is_asked() -> None:
    def left(how: str) -> int:
        command = [sys.executable, "-c", LEFT_IN_MEMORY, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert left("return_freed_memory") < 20e6 < 300e6 < min(left("as it is"), left("keep_freed_memory"))


def test_this_machine_has_memory() -> None:
    assert machine.resident_bytes() > 10e6
    assert machine.available_bytes() > machine.resident_bytes()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the trap is Linux's")
def test_peak_memory_is_not_that_of_the_process_which_started_this_one() -> None:
    ballast = bytearray(b"x") * (600 * 2**20)
    code = "from hyperinverter.system.machine import peak_memory_mb; print(peak_memory_mb())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 1 < float(done.stdout) < len(ballast) / 2**21


def test_what_decides_the_numbers_is_known() -> None:
    assert {"python", "platform", "torch", "numpy"} <= machine.versions().keys()
    assert machine.code_state().keys() == {"commit", "clean"}
