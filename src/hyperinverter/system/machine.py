"""The machine and the code on it: versions, commit, cores, memory, and what becomes of freed memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

GB = 1e9
_PACKAGES = (
    "hyperinverter",
    "torch",
    "pytorch-lightning",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "wandb",
    "numpy",
)
# Of mallopt(3), in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_KEEP = 2**31 - 1  # bytes free at the end of the heap before any go back; the largest int
_BLOCK = 2**20  # bytes of a block that goes back at once; with 2**23 steps are faster and take 9 % more


# What runs here ------------------------------------------------------------------------------------------


def now() -> str:
    """The local time to the second, with its offset."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python, the platform and the libraries that decide the numbers."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def code_state() -> dict[str, Any]:
    """Commit of the checkout and whether it had no changes; both None outside a checkout."""
    root = Path(__file__).resolve().parents[3]
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit or None, "clean": None if changes is None else not changes}


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or not a checkout: the card says null
    return done.stdout.strip()


def cores() -> int:
    """Processors of this machine."""
    return os.cpu_count() or 1


def cpu_name() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def gpu_facts() -> dict[str, str]:
    """Card, driver and CUDA of this machine; empty texts where PyTorch sees no GPU."""
    import torch

    facts = {"gpu": "", "driver": "", "cuda": ""}
    if torch.cuda.is_available():
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # a machine may have no such program
            done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
            facts["driver"] = done.stdout.split()[0]
    return facts


# Memory --------------------------------------------------------------------------------------------------


def available_bytes(device: str = "cpu") -> int:
    """Memory training can have on this device, "cpu" or "cuda": what is free and what this process holds."""
    if device == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved()
    return _free_ram() + resident_bytes()


def resident_bytes() -> int:
    """Memory this process holds now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux: the most it ever held is the nearest number there is
        return _largest_so_far()
    return pages * resource.getpagesize()


def peak_ram_bytes() -> int:
    """Most of the machine's memory this process has held at once."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        # not getrusage: on Linux its maximum begins with that of the process that started this one
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return _largest_so_far()


def reset_peak_ram() -> bool:
    """Let ``peak_ram_bytes`` count from here on; False where the system cannot do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def peak_memory_mb() -> float:
    """Most memory this process has held at once: of the GPU if it used one, else of the machine."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated()) / 2**20
    return peak_ram_bytes() / 2**20


def _largest_so_far() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _free_ram() -> int:
    """What the system could give: free memory, or less where a container has a limit."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # half of all: others need some
    free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return min(free, max(limit - used, 0))


def keep_freed_memory() -> bool:
    """Keep freed memory in the process instead of paying for its pages again: for steps that are small.

    A training step on a CPU frees and takes the same megabytes over and over. glibc returns large blocks to the
    system as soon as they are free, and the next tensor pays for every page again, to be zeroed: a quarter of the
    processor time of drawing 32 images of 64 px forward and backward, and 3 % of a complete training step.

    Returns:
        Whether it was done: with glibc. Other C libraries are left as they are.
    """
    # Never use mmap, whatever the size: the threshold for it cannot be set beyond 32 MB.
    return _set_allocator({_M_TRIM_THRESHOLD: _KEEP, _M_MMAP_MAX: 0})


def return_freed_memory() -> bool:
    """Return freed memory to the system at once: for steps that are large, where what lies free between would add up.

    Left to itself, glibc takes blocks of up to 32 MB from its own heap once one of them was freed.

    Returns:
        As ``keep_freed_memory``.
    """
    return _set_allocator({_M_MMAP_THRESHOLD: _BLOCK})


def _set_allocator(settings: Mapping[int, int]) -> bool:
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # others have a mallopt with other numbers
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all(mallopt(name, value) for name, value in settings.items())
