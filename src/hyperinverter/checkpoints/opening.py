"""What a path leads to: a packaged name, a run folder, its checkpoint, or a file of this project or of the authors."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperinverter.checkpoints import authors, pickles
from hyperinverter.checkpoints.pickles import Unreadable
from hyperinverter.checkpoints.reading import (
    as_floats,
    fitting,
    nothing_known,
    read_safetensors,
    refuse_archive,
    reported,
)
from hyperinverter.checkpoints.registry import DOMAIN_OF, PACKAGED, packaged
from hyperinverter.checkpoints.shapes import Load, under
from hyperinverter.checkpoints.unwrapping import Unwrapped, unwrap
from hyperinverter.contracts import UserError, shown
from hyperinverter.inversion.specification import ModelSpec
from hyperinverter.system.errors import cause
from hyperinverter.system.files import as_path, check_readable, parse_json, sha256_of

GENERATOR_INSIDE = "generator."  # before the names of the generator's tensors in a self-contained model
PHASE1 = "phase1"  # in the header: name of the packaged phase I whose encoder the file leaves out
_DEFAULT_GENERATOR = "digiface"  # of runs and files that name none


@dataclass(frozen=True)
class Opened:
    """An opened model file: of this project where it has a ``spec``, else of HyperInverter's release."""

    file: Path
    spec: ModelSpec | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)  # ours
    theirs: Unwrapped | None = None  # the authors'
    load: Load = dict  # reads tensors of ``theirs``
    made_for: str = ""  # SHA-256 of the generator
    generator_path: str = _DEFAULT_GENERATOR  # where the generator came from
    header: dict[str, str] = field(default_factory=dict)

    @property
    def has_generator(self) -> bool:
        """Whether the file is self-contained."""
        return any(name.startswith(GENERATOR_INSIDE) for name in self.tensors)


def open_model(path: str | Path, kind: str, way_out: str) -> Opened:
    """Open a packaged name, a run or a file, of this project or of HyperInverter's release.

    Args:
        path: What the person gave.
        kind: "phase1" or "phase2", for packaged names.
        way_out: What to do instead, for the sentence about a file that is something else.

    Raises:
        UserError: If it is none of these.
    """
    if isinstance(path, str) and f"{path}_{kind}" in PACKAGED:
        file, _ = packaged(kind, path)
        return replace(_open_safetensors(file, way_out), generator_path=DOMAIN_OF.get(path, path))
    file = checkpoint_of(path)
    container = pickles.kind_of(file)
    if container == "safetensors" or (container == "other" and file.suffix == ".safetensors"):
        return _open_safetensors(file, way_out)
    if file.suffix == ".ckpt":
        return _open_ckpt(file, way_out)
    if container == "other":
        raise nothing_known(file, way_out)
    with reported(file, way_out):
        refuse_archive(file)
        content = pickles.read(file)
        if _is_ours(content):
            return _open_run(file, way_out)
        theirs = _authors(content)
        if theirs is None:
            state = content.get("state_dict") if isinstance(content, dict) else None
            if not isinstance(state, dict):
                raise Unreadable("is not a checkpoint of HyperInverter's release: it has no state_dict")
            theirs = Unwrapped(state)
        return Opened(file, theirs=theirs, load=functools.partial(pickles.load_tensors, path=file))


def checkpoint_of(path: str | Path) -> Path:
    """The checkpoint of a run folder, or the file itself.

    Raises:
        UserError: If there is none.
    """
    path = as_path(path)
    if path.is_dir():
        for name in ("best.ckpt", "last.ckpt"):
            if (path / "checkpoints" / name).is_file():
                return path / "checkpoints" / name
        raise UserError(f"{path} has no checkpoints/best.ckpt; give the folder of a run that has trained")
    if not path.is_file():
        names = sorted({k.rpartition("_")[0] for k in PACKAGED if k.endswith("_phase2")})
        raise UserError(
            f"there is no checkpoint {path}; give a run folder or a file, or a packaged model: {', '.join(names)}"
        )
    check_readable(path)
    return path


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a run's checkpoint, tensors and plain values only, after comparing its bytes with the sums inside.

    ``torch.load`` does not look at the sums: a flipped bit would become a wrong weight.

    Raises:
        UserError: If it is cut short, damaged, of another kind, or holds anything else.
    """
    if file.is_file():
        refuse_archive(file)
    try:
        if zipfile.is_zipfile(file):
            pickles.check_archive(file)
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise Unreadable(f"is damaged: {shown(damaged)} has other bytes than were written")
        content = pickles.load_plain(file)
    except Exception as error:  # what is raised for bytes that are no checkpoint depends on the bytes
        why = f"it {error.reason}" if isinstance(error, Unreadable) else cause(error)
        raise UserError(
            f"{file} cannot be read as a checkpoint ({why}): it is cut short or of another kind; give best.ckpt, "
            "last.ckpt or previous.ckpt of a run"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(
            f"{file} is not a checkpoint of this project: it has no state_dict; give best.ckpt, last.ckpt or "
            "previous.ckpt of a run"
        )
    return content


def find_file(path: str | Path, kind: str) -> tuple[Path, str]:
    """File and SHA-256 of a packaged name or a path.

    Raises:
        UserError: If there is no such file.
    """
    if isinstance(path, str) and f"{path}_{kind}" in PACKAGED:
        return packaged(kind, path)
    file = as_path(path)
    if file.is_dir():
        raise UserError(f"{file} is a folder; name the {kind}'s file in it with {kind}.path=FILE")
    if not file.is_file():
        names = sorted(k.removesuffix(f"_{kind}") for k in PACKAGED if k.endswith(f"_{kind}"))
        raise UserError(
            f"there is no {kind} file {file}; check {kind}.path, or use a packaged one: {', '.join(names) or 'none'}"
        )
    check_readable(file)
    return file, sha256_of(file)


def as_kept(path: str | Path, kind: str) -> str:
    """A path as it is written down, so that it leads to the same file from another folder; packaged names stay."""
    file = Path(path).expanduser()
    is_name = isinstance(path, str) and f"{path}_{kind}" in PACKAGED
    return str(path) if is_name or not file.exists() else str(file.absolute())


def generator_of(found: Opened) -> str:
    """The generator that a model was trained with: where it was, else by its name next to the model.

    Raises:
        UserError: If it is at neither place, with what to do on another machine.
    """
    kept = found.generator_path
    place = Path(kept).expanduser()
    if f"{kept}_generator" in PACKAGED or place.is_file():
        return kept
    run = found.file.parent.parent if found.file.parent.name == "checkpoints" else found.file.parent
    if place.name and (run / place.name).is_file():
        return str(run / place.name)
    raise UserError(
        f"{found.file} was trained with the generator {kept} (SHA-256 {shown(found.made_for[:12])}...), which is not "
        f"on this machine: copy that file to {run / place.name}, or give it with generator=FILE"
    )


def _authors(content: Any) -> Unwrapped | None:
    """The parts of a W encoder or a HyperInverter file of the authors; None for other content."""
    return unwrap(content, authors.is_model, parts=authors.PARTS)


def _open_safetensors(file: Path, way_out: str) -> Opened:
    tensors, header = read_safetensors(file)
    if "model" not in header and (theirs := _authors(tensors)) is not None:
        return Opened(file, theirs=theirs, load=as_floats)
    try:
        described = parse_json(header["model"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{file} is not a model of this project: its header describes none; {way_out}"
        ) from error
    if header.get(PHASE1):
        encoder, _ = read_safetensors(packaged("phase1", header[PHASE1])[0])
        tensors |= {f"w_inverter.{name}": tensor for name, tensor in encoder.items()}
    return Opened(
        file,
        _spec(described, file, way_out),
        as_floats(tensors),
        made_for=header.get("generator_sha256", ""),
        header=header,
    )


def _open_ckpt(file: Path, way_out: str) -> Opened:
    """A run's checkpoint, or one of the authors' networks that somebody gave the same ending."""
    try:
        content = pickles.read(file)
        theirs = None if _is_ours(content) else _authors(content)
    except Unreadable:
        theirs = None  # the reader of checkpoints says what is wrong
    if theirs is None:
        return _open_run(file, way_out)
    return Opened(file, theirs=theirs, load=functools.partial(pickles.load_tensors, path=file))


def _open_run(file: Path, way_out: str) -> Opened:
    content = read_checkpoint(file)
    if not _is_ours(content):
        raise UserError(f"{file} is not a checkpoint of this project: it names no model; {way_out}")
    return Opened(
        file,
        _spec(content["model"], file, way_out),
        {name: t for name, t in under(content["state_dict"], "inverter").items() if isinstance(t, Tensor)},
        made_for=str(content.get("generator_sha256", "")),
        generator_path=str(content.get("generator_path", _DEFAULT_GENERATOR)),
    )


def _spec(described: Any, file: Path, way_out: str) -> ModelSpec:
    if not isinstance(described, Mapping):
        raise UserError(
            f"{file} is not a model of this project: it describes {shown(described)!r}; {way_out}"
        )
    with fitting(file, way_out):
        return ModelSpec.from_plain(described)


def _is_ours(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("state_dict"), dict) and "model" in content
