"""What ``hyperinverter evaluate`` was asked for: models and photos with their names, and processes."""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyperinverter import config, runs
from hyperinverter.checkpoints.registry import domain_of
from hyperinverter.commands.inputs import sources
from hyperinverter.contracts import UserError
from hyperinverter.data.digiface import face_names, prepare_digiface
from hyperinverter.data.transforms import read_pixels
from hyperinverter.evaluation.measure import (
    PHOTO,
    Measuring,
    Photos,
    refuse_different,
    safe_name,
    safe_names,
)
from hyperinverter.evaluation.protocol import Protocol
from hyperinverter.evaluation.run import evaluate, measure_edits
from hyperinverter.evaluation.scoring import Scorer
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.inverters import load_inverter
from hyperinverter.system.files import sha256_of
from hyperinverter.system.processes import fresh_environment
from hyperinverter.system.progress import counted
from hyperinverter.system.terminal import put, say, short

BUILT_IN = "digiface"
TIMED_FROM = 100  # photos: a first try should not wait for a stopwatch


@dataclass(frozen=True)
class Request:
    """The arguments of the command."""

    models: Sequence[str]
    data: str
    protocol: str
    out: Path
    n: int | None
    batch: int
    device: str
    processes: int
    save_images: bool
    weights: Sequence[str]
    without: Sequence[str]
    time: bool | None  # None: if there are TIMED_FROM photos
    edits: int = 0  # photos on which edits are measured
    odd: str | None = None  # whose residuals make odd faces for them


def run(asked: Request, part: str | None = None) -> int:
    """Measure what is not measured yet, then write the tables.

    Args:
        asked: What was typed.
        part: ``i/N``: only this share of the photos, and no tables; how other processes are called.

    Raises:
        UserError: For anything that cannot be compared.
    """
    try:
        return _run(asked, part)
    except KeyboardInterrupt:
        if part is None:
            say("interrupted; the same command goes on where it was")
        raise


def _run(asked: Request, part: str | None) -> int:
    index, parts = (int(number) for number in (part or "0/1").split("/"))
    device = device_of(asked.device, index)
    if part is not None and device.type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // parts))
    cache = Path(str(config.compose([]).paths.cache)).expanduser()
    protocol = Protocol.of(config.option("protocol", asked.protocol), asked.protocol).without(asked.without)
    models, recipes = load_models(asked.models, device, cache)
    odd = _odd_details(asked, models, device, cache) if asked.edits else None
    resolution = next(iter(models.values())).resolution
    photos = find_photos(asked.data, asked.n, resolution, cache)
    protocol.check_count(len(photos.names))
    scorer = Scorer(protocol, _files(asked.weights), cache, device)
    scorer.check_side(resolution)
    if part is None:
        scorer.check_faces(photos.read(photos.names[: asked.batch]))
    measuring = Measuring(
        models,
        photos,
        protocol,
        scorer,
        asked.out,
        keep_images=asked.save_images,
        batch=asked.batch,
        device=device,
        recipes=recipes,
    )
    if part is not None:
        measuring.run(index, parts)
        return 0
    timed = len(photos.names) >= TIMED_FROM if asked.time is None else asked.time
    together = None if asked.processes == 1 else functools.partial(_measure_together, measuring, asked)
    evaluate(measuring, asked.out, timed=timed, together=together)
    files = "table.md, table.csv, table.tex, per_photo.csv, pairs.csv, worst_best.png"
    if asked.edits:
        measure_edits(measuring, asked.out, asked.edits, odd)
        files += ", edits.md, edits.csv, edits_per_photo.csv, edits_pairs.csv, strengths.csv, plane.png"
    put((asked.out / "table.md").read_text(encoding="utf-8").rstrip("\n"))
    say(f"{short(asked.out)}: {files}")
    return 0


def _odd_details(
    asked: Request, models: Mapping[str, Drawing], device: torch.device, cache: Path
) -> tuple[str, Drawing] | None:
    """Whose residuals make the odd details of edits with known truth: unless asked for, the packaged model's.

    Raises:
        UserError: If the one that was asked for draws with another generator, or finds no residuals.
    """
    first = next(iter(models.values()))
    if asked.odd is None:
        known = domain_of(first.generator.sha256) == BUILT_IN
        return (BUILT_IN, load_inverter(BUILT_IN).to(device)) if known else None
    label, name = named(asked.odd)
    model = load_inverter(name, cache).to(device)
    refuse_different({**models, f"--odd {label}": model})
    side = first.resolution
    if not model.invert(torch.zeros(1, 3, side, side, device=device)).residuals:
        raise UserError(
            f"--odd={asked.odd}: it finds no residuals, and they make the odd details; name another model"
        )
    return label, model


def _measure_together(measuring: Measuring, asked: Request, total: int) -> None:
    """Start processes that measure a share each, and count what they have done."""
    command = [sys.executable, "-m", "hyperinverter", "evaluate", *_typed(asked)]
    children: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        said = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(asked.processes)]
        stack.callback(_end, children)
        for i, file in enumerate(said):
            part = ["--part", f"{i}/{asked.processes}"]
            children.append(subprocess.Popen([*command, *part], env=fresh_environment(), stderr=file))
        with counted("evaluating", total) as advance:
            left = total
            while any(child.poll() is None for child in children) and not any(
                child.poll() for child in children
            ):
                time.sleep(0.5)
                now = measuring.left()
                advance(left - now)
                left = now
        for child, file in zip(children, said, strict=True):
            if child.poll():
                file.seek(0)
                last = file.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
                raise UserError(f"a process ended with {child.returncode}: {last[-1]}; what is done is kept")


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in children:
        child.terminate()
    for child in children:
        child.wait()


def _typed(asked: Request) -> list[str]:
    """The arguments as another process is given them."""
    typed = [*asked.models, "--data", asked.data, "--protocol", asked.protocol, "--out", str(asked.out)]
    typed += ["--batch", str(asked.batch), "--device", asked.device]
    typed += [] if asked.n is None else ["--n", str(asked.n)]
    typed += ["--save-images"] if asked.save_images else []
    for flag, values in (("--weights", asked.weights), ("--without", asked.without)):
        typed += [word for value in values for word in (flag, value)]
    return typed


def device_of(asked: str, index: int = 0) -> torch.device:
    """The device that was asked for; with several processes and ``auto`` or ``cuda``, a GPU each.

    Raises:
        UserError: If there is none of this name.
    """
    gpus = torch.cuda.device_count() if asked != "cpu" else 0
    if asked == "auto":
        asked = "cuda" if gpus else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise UserError(f"--device={asked[:20]} is none of auto, cpu, cuda, cuda:1") from error
    if device.type == "cuda":
        if (device.index or 0) >= gpus:
            raise UserError(
                f"--device={asked}: this machine has {gpus} GPUs that PyTorch can use; try --device cpu"
            )
        return device if device.index is not None else torch.device("cuda", index % gpus)
    return device


def load_models(
    asked: Sequence[str], device: torch.device, cache: Path
) -> tuple[dict[str, Drawing], dict[str, dict[str, Any]]]:
    """Models by the names they have in tables and folders, and recipe and seed of those that a run has trained.

    Raises:
        UserError: If one cannot be loaded, or two have one name.
    """
    found: dict[str, Drawing] = {}
    recipes: dict[str, dict[str, Any]] = {}
    for label, model in (pair for text in asked for pair in _jobs(*named(text), text)):
        if label in found or label == PHOTO:
            raise UserError(
                f"{'the photos are' if label == PHOTO else 'two models would be'} called {label!r} in the tables; name "
                f"this one with NAME={model}"
            )
        found[label] = load_inverter(model, cache).to(device)
        if recipe := _recipe(Path(model).expanduser()):
            recipes[label] = recipe
    return found, recipes


def _jobs(label: str, model: str, text: str) -> list[tuple[str, str]]:
    """A model as it is; a sweep as its finished jobs, by their names.

    Raises:
        UserError: If no job of a sweep has finished.
    """
    folder = Path(model).expanduser()
    if not (folder / runs.SWEEP).is_file():
        return [(label, model)]
    cards = {job: runs.read_card(job) or {} for job in runs.jobs(folder)}
    done = {job: card for job, card in cards.items() if card.get("status") == "finished"}
    if not done:
        raise UserError(f"no job of {folder} has finished; continue it with resume={folder}")
    prefix = f"{label}_" if text != model else ""
    labels = {job: safe_name(f"{prefix}{card.get('name') or job.name}") for job, card in done.items()}
    if len(set(labels.values())) < len(labels):  # names that differ where they were cut
        labels = {job: safe_name(f"{prefix}{job.name}_{done[job].get('name')}") for job in done}
    return [(label, str(job)) for job, label in labels.items()]


def _recipe(folder: Path) -> dict[str, Any]:
    """What a run was asked for besides its seed, and the seed; empty for what is no run."""
    card = runs.read_card(folder) if folder.is_dir() else None
    if card is None or not isinstance(card.get("seed"), int):
        return {}
    typed = runs.settings(card.get("overrides") or [])
    recipe = [item for item in typed if not item.startswith(("seed=", "name=", "group="))]
    return {"recipe": " ".join([f"phase {card.get('phase')}", *recipe]), "seed": card["seed"]}


def named(text: str) -> tuple[str, str]:
    """``NAME=MODEL`` or ``MODEL`` -> a name that is safe in files and tables, and the model."""
    name, equals, rest = text.partition("=")
    if equals and re.fullmatch(r"[\w.@+-]+", name) and not Path(text).expanduser().exists():
        return safe_name(name), rest
    path = Path(text).expanduser()
    if not path.exists():
        return safe_name(text), text
    folder = path.resolve()
    # runs of one day differ in the folder above, jobs of a sweep have numbers for names
    name = (
        f"{folder.parent.name}_{folder.name}"
        if folder.is_dir() and folder.name[:1].isdigit()
        else folder.stem
    )
    return safe_name(name), text


def find_photos(data: str, n: int | None, resolution: int, cache: Path) -> Photos:
    """The built-in test photos or those of a folder, in order, with their hashes.

    Raises:
        UserError: If there are none, or fewer than were asked for.
    """
    if data == BUILT_IN:
        count = len(face_names(0, 0)["test"]) if n is None else n
        names = face_names(0, 0, count)["test"]
        root = prepare_digiface(cache, 0, 0, count)
        paths = {Path(name).stem: root / name for name in names}
    else:
        root = Path(data).expanduser()
        found, line = sources([root])
        if line:
            say(line)
        if n is not None and n > len(found):
            raise UserError(f"--n={n}: {data} holds {len(found)} photos; choose at most as many")
        names = safe_names([source.name for source in found[:n]])
        paths = {name: source.path for name, source in zip(names, found, strict=False)}
    files = {
        name: str(p.relative_to(root)) if p.is_relative_to(root) else p.name for name, p in paths.items()
    }
    digests = {name: sha256_of(path) for name, path in paths.items()}

    def read(wanted: Sequence[str]) -> np.ndarray:
        return np.stack([read_pixels(paths[name], resolution) for name in wanted])

    return Photos(data if data == BUILT_IN else root.name, files, digests, read)


def _files(asked: Sequence[str]) -> Mapping[str, Path]:
    """``LABEL=FILE`` -> weight files.

    Raises:
        UserError: If a file is missing.
    """
    found = {}
    for text in asked:
        label, equals, file = text.partition("=")
        path = Path(file).expanduser()
        if not equals or not path.is_file():
            raise UserError(f"--weights {text[:80]}: give LABEL=FILE with a file that exists")
        found[label] = path
    return found
