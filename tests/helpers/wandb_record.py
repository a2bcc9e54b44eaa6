"""Read what W&B wrote offline: a log of protocol buffers in LevelDB's framing."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEAD, MAGIC = 32768, 7, 7  # bytes: a block, the head of a piece, the head of the file
FULL, FIRST, LAST = 1, 2, 4


def records(path: Path) -> Iterator[Any]:
    """Every record of a ``.wandb`` file, in order."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    assert content[:4] == b":W&B", path
    place, whole = MAGIC, b""
    while place + HEAD <= len(content):
        if BLOCK - place % BLOCK < HEAD:  # too little is left of the block for a head
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + HEAD])
        piece = content[place + HEAD : place + HEAD + length]
        place += HEAD + length
        whole = piece if kind in (FULL, FIRST) else whole + piece
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record


def told(path: Path) -> dict[str, Any]:
    """Identity, rows, summary and exit code of one offline session."""
    content: dict[str, Any] = {"history": [], "summary": {}, "exit_code": None}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            content |= {
                "id": run.run_id,
                "name": run.display_name,
                "group": run.run_group,
                "job_type": run.job_type,
            }
        elif kind == "history":
            row = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            content["history"].append(row)
        elif kind == "summary":
            for item in record.summary.update:
                content["summary"][item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "exit":
            content["exit_code"] = record.exit.exit_code
    return content
