"""The same run in one process and in two that share its batches; everything is imported once.

python tests/helpers/together.py FOLDER OVERRIDE...     # leaves FOLDER/one and FOLDER/two
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from hyperinverter import config
from hyperinverter.training import job


def start(typed: list[str], folder: Path, variables: dict[str, str]) -> int:
    """A process of a run, as Lightning would start it."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.environ.update(variables)
        job.run(config.compose(typed), folder)
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        os._exit(status)


def main(place: Path, typed: list[str]) -> int:
    """Run both; the worst exit status."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    status = os.waitpid(start([*typed, "trainer=cpu"], place / "one", {}), 0)[1]
    common = {"WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    pair = [
        start([*typed, "trainer=ddp_cpu"], place / "two", {**common, "LOCAL_RANK": str(rank)})
        for rank in (0, 1)
    ]
    return max(status, *(os.waitpid(pid, 0)[1] for pid in pair))


if __name__ == "__main__":
    sys.exit(min(main(Path(sys.argv[1]), sys.argv[2:]), 1))
