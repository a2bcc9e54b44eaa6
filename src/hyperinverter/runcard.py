"""The run card: one JSON file that says what a run was, how it went and what it measured."""

import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder are then the user's care
    fcntl = None  # type: ignore[assignment]

CARD = "run.json"
_LOCK = ".lock"
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


class RunCard:
    """Facts about one run, written to ``run.json`` at every change, so that a killed run leaves them too.

    ``status`` is ``running``, ``finished``, ``failed`` or ``interrupted``. A resumed run adds its time to the
    card's.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], *, write: bool = True) -> None:
        self._path = folder / CARD
        self._write = write
        before = read_card(folder) or {}
        self._seconds_before = float(before.get("seconds") or 0.0)
        self._peak_before = float(before.get("peak_memory_mb") or 0.0)
        self._begin = time.monotonic()
        sessions = int(before.get("sessions") or 0) + 1
        self.facts: dict[str, Any] = {
            "status": "running",
            "error": None,
            "started": before.get("started") or now(),
        }
        self.facts |= {
            "finished": None,
            "sessions": sessions,
            **facts,
            **code_state(),
            "versions": versions(),
        }
        self.update()

    def update(self, **facts: Any) -> None:
        """Add facts and write the card."""
        self.facts |= facts
        self.facts["seconds"] = round(self._seconds_before + time.monotonic() - self._begin, 2)
        self.facts["peak_memory_mb"] = round(max(self._peak_before, peak_memory_mb()), 1)
        if self._write:
            write_json(self._path, self.facts)

    def close(self, status: str, error: str | None = None) -> None:
        """Write the last word on this run."""
        self.update(status=status, error=error, finished=now())


def read_card(folder: Path) -> dict[str, Any] | None:
    """The run card in a folder; None if there is none or it cannot be read."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) else None


def hold(folder: Path) -> IO[str] | None:
    """Claim a run folder for this process, for as long as the returned file is open; None if another has it.

    The system drops the claim when its holder ends, however it ends.
    """
    file = (folder / _LOCK).open("a", encoding="utf-8")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            return file  # a file system without locks
    return file


def held(folder: Path) -> bool:
    """Whether a process that is alive works in this run folder."""
    if not (folder / _LOCK).is_file():
        return False
    file = hold(folder)
    if file is not None:
        file.close()
    return file is None


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(json.dumps(plain(content), indent=2) + "\n", encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dictionaries; not-a-number and infinities as strings, as JSON has none."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return plain(value.item()) if hasattr(value, "item") else str(value)


def now() -> str:
    """The local time to the second, with its offset."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def code_state() -> dict[str, Any]:
    """Commit of the checkout and whether it had no changes; both None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
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


def versions() -> dict[str, str]:
    """Versions of Python, the platform and the libraries that decide the numbers."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_mb() -> float:
    """Most memory this process has held at once: of the GPU if it used one, else of the machine."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated()) / 2**20
    return peak_ram_bytes() / 2**20


def peak_ram_bytes() -> int:
    """Most of the machine's memory this process has held at once."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        # not getrusage: on Linux its maximum begins with that of the process that started this one
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
