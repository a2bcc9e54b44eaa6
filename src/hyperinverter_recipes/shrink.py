"""Make a weight file that ships smaller: a byte per number, or compressed.

    python -m hyperinverter_recipes.shrink exactly FACE_NETWORK.safetensors OUT.safetensors
    python -m hyperinverter_recipes.shrink gzip OUT.safetensors OUT.safetensors.gz
    python -m hyperinverter_recipes.shrink phase2 MODEL.safetensors OUT.safetensors --phase1 digiface
    python -m hyperinverter_recipes.shrink phase2 BEST.safetensors OUT.safetensors --edit-strength 0 --rule picture
    python -m hyperinverter_recipes.shrink edits BEST.safetensors OUT.safetensors --edit-gain 1.1

``exactly`` changes no number: networks that were published with 8 bits have few different ones. ``gzip`` keeps
every byte: the file's name for run cards and protocols stays the SHA-256 of what is in it. ``phase2`` rounds
what phase II has trained to 8 bits, and leaves out the phase-I encoder, which ships in a file of its own. What edits
do with residuals (``features.rule``, ``method.edit_strength``, ``method.edit_gain``) is no weight and can be set
afterwards: ``edits`` does nothing else, whether a file is small already or not. Training looks at the first two for
``loss.mirror`` alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hyperinverter.checkpoints.opening import PHASE1
from hyperinverter.checkpoints.packing import LEAST, exactly, nearly
from hyperinverter.checkpoints.registry import packaged
from hyperinverter.inversion.carrying import RULES
from hyperinverter.system.files import replacing, sha256_of, unpacked
from hyperinverter_recipes.running import said

ENCODER = "w_inverter.encoder."


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors as they are stored, and the header."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def write(tensors: Mapping[str, Tensor], out: Path, header: dict[str, str]) -> None:
    """Write a complete file or none."""
    with replacing(out) as unfinished:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, header)


def shrink_exactly(source: Path, out: Path) -> None:
    """Write the same numbers with a byte each, wherever that is smaller."""
    tensors, header = read(source)
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        small = exactly(name, tensor) if tensor.numel() >= LEAST else None
        packed |= {name: tensor} if small is None else small
    write(packed, out, header)


def shrink_phase2(
    source: Path, out: Path, phase1: str, edits: Mapping[str, float | None], rule: str | None = None
) -> None:
    """Round phase II to 8 bits; its encoder is that of the packaged phase I of this name, or this is refused.

    Args:
        source, out: Model files.
        phase1: A packaged phase I.
        edits, rule: See ``set_edits``.
    """
    tensors, header = read(source)
    theirs, _ = read(packaged("phase1", phase1)[0])
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(ENCODER):
            if not torch.equal(tensor, theirs[name.removeprefix("w_inverter.")]):
                raise SystemExit(f"{source} was not trained on the packaged phase I {phase1}: {name} differs")
        elif tensor.ndim > 1 and tensor.numel() >= LEAST:
            packed |= nearly(name, tensor.float())
        else:
            packed[name] = tensor.half() if tensor.is_floating_point() else tensor
    header = set_edits(header, edits, rule) | {PHASE1: phase1}
    write(packed, out, header)


def set_edits(
    header: Mapping[str, str], edits: Mapping[str, float | None], rule: str | None = None
) -> dict[str, str]:
    """The header of a model file with other edits.

    Args:
        header: Of the file.
        edits: ``edit_strength`` and ``edit_gain``; None: as they are.
        rule: Of its feature residuals; None: as it is.
    """
    model = json.loads(header["model"])
    model |= {name: value for name, value in edits.items() if value is not None}
    if rule is not None:
        model["feature_residuals"]["rule"] = rule
    return {**header, "model": json.dumps(model)}


def shrink_gzip(source: Path, out: Path) -> None:
    """Compress a file; the same bytes give the same file, whenever it is made."""
    out.write_bytes(gzip.compress(source.read_bytes(), mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a weight file that ships smaller.")
    parser.add_argument("how", choices=("exactly", "gzip", "phase2", "edits"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--phase1", default="digiface", help="packaged phase I that the model was trained on")
    parser.add_argument("--edit-strength", type=float, help="of phase II; default: as it was trained")
    parser.add_argument("--edit-gain", type=float, help="of phase II; default: as it was trained")
    parser.add_argument("--rule", choices=RULES, help="of its feature residuals; default: as it was trained")
    args = parser.parse_args()
    asked = {"edit_strength": args.edit_strength, "edit_gain": args.edit_gain}
    if args.how == "exactly":
        shrink_exactly(args.source, args.out)
    elif args.how == "gzip":
        shrink_gzip(args.source, args.out)
    elif args.how == "edits":
        tensors, header = read(args.source)
        write(tensors, args.out, set_edits(header, asked, args.rule))
    else:
        shrink_phase2(args.source, args.out, args.phase1, asked, args.rule)
    print(sha256_of(unpacked(args.out)))


if __name__ == "__main__":
    said(main)
