"""Every way to invert by a name that can be typed: trained models, searches, and both together.

    digiface, RUN, FILE                a trained model, see ``checkpoints.load_inverter``
    phase1@MODEL                       phase I of a model that holds both phases
    w_opt@GENERATOR                    W optimisation
    wplus_opt@GENERATOR                W+ optimisation
    pti@GENERATOR                      pivotal tuning
    MODEL+pti                          pivotal tuning from what a model finds; MODEL may be phase1@MODEL

GENERATOR is ``digiface`` (also when left out) or a generator's file. Options follow the name after a colon:
``w_opt:600``, ``pti:100``, ``pti:steps=100,pivot=450,distance=lpips_vgg@stylegan2.pkl``, ``w_opt:hyperinverter@FILE``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from hyperinverter import checkpoints
from hyperinverter.checkpoints import load_generator
from hyperinverter.checkpoints.registry import domain_of
from hyperinverter.contracts import UserError
from hyperinverter.inversion.drawing import Drawing
from hyperinverter.inversion.optimise import Optimiser, Projection
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import PhaseII
from hyperinverter.inversion.tuning import PivotalTuning, Tuning
from hyperinverter.judges.base import Judge
from hyperinverter.judges.catalogue import build_judge
from hyperinverter.system.files import sha256_of

PACKAGED = "digiface"
# Settings under which others quote these methods. Steps and rates are from their code; the noise is as for encoders
# unless it is said here.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "nvidia": {"steps": 1000, "rate": 0.1, "samples": 10_000, "noise": "optimised"},
    "pti": {"steps": 450, "rate": 0.01, "samples": 600, "noise": "optimised"},
    "hyperinverter": {"steps": 600, "rate": 0.01, "samples": 10_000, "noise": "optimised"},
    "pti_wplus": {"steps": 2000, "rate": 0.01, "samples": 10_000, "noise": "optimised"},
}
SEARCHES = {"w_opt": Projection(), "wplus_opt": Projection(space="w+", rate=0.01, steps=2000)}
PIVOT = Projection(steps=450, rate=0.01, samples=600)
NAMES = ("w_opt", "wplus_opt", "pti")

_NAME = re.compile(rf"({'|'.join(NAMES)})(?::([^@]*))?(?:@(.+))?", re.DOTALL)
_PHASE1 = re.compile(r"phase1@(.+)", re.DOTALL)
_REFINED = re.compile(r"(.+)\+pti(?::([^@/\\]*))?", re.DOTALL)


def load_inverter(name: str | Path, cache: str | Path = "~/.cache/hyperinverter") -> Drawing:
    """Load a way to invert, in eval mode.

    Args:
        name: See the head of this module.
        cache: Folder of fetched weight files, for distances that do not ship.

    Returns:
        The way to invert; ``source`` is the name, ``sha256`` stands for its weights and its settings.

    Raises:
        UserError: For a name or an option that there is not, or a file that is missing, damaged or of another kind.
    """
    text = str(name)
    if match := _NAME.fullmatch(text):
        method, options, generator = match[1], match[2] or "", match[3] or PACKAGED
        found = _search(method, _options(text, options), generator, Path(cache).expanduser(), text)
    elif (match := _REFINED.fullmatch(text)) and not Path(text.removeprefix("phase1@")).expanduser().exists():
        start = load_inverter(match[1], cache)
        found = _refined(start, _options(text, match[2] or ""), Path(cache).expanduser(), text)
    elif match := _PHASE1.fullmatch(text):
        found = _phase1(load_inverter(match[1], cache), match[1])
    else:
        return checkpoints.load_inverter(name)
    found.source = text
    return found


def _phase1(model: Drawing, name: str) -> Drawing:
    if isinstance(model, PhaseII):
        first = model.w_inverter
        first.sha256 = _digest("phase I", {}, None, model.sha256)
        return first
    if isinstance(model, WInverter):
        return model
    raise UserError(f"{name[:120]!r} has no phase I: name a model that HyperInverter trains")


def _search(method: str, options: dict[str, str], place: str, cache: Path, text: str) -> Drawing:
    generator = load_generator(place)
    distance, l2 = _distance(options, generator.sha256, cache)
    given = dict(options)
    found: Drawing
    if method == "pti":
        pivot = replace(PIVOT, l2=l2)
        if "pivot" in given:
            pivot = _with(pivot, {"steps": given.pop("pivot")}, text)
        kept: dict[str, str] = {key: given.pop(key) for key in ("noise", "samples") if key in given}
        start = Optimiser(generator, distance, _with(pivot, kept, text))
        # PTI's threshold is one of LPIPS; other distances are of another size, so all steps are taken.
        tuning = Tuning() if distance.label.startswith("lpips") else Tuning(threshold=0.0)
        found = PivotalTuning(start, distance, _with(tuning, given, text))
        said: dict[str, Any] = {**asdict(start.projection), **asdict(found.tuning)}
    else:
        projection = replace(SEARCHES[method], l2=l2)
        if preset := given.pop("preset", None):
            if preset not in PRESETS:
                raise UserError(f"preset={preset[:40]} in {text[:120]!r} is none of {', '.join(PRESETS)}")
            projection = replace(projection, **PRESETS[preset])
        found = Optimiser(generator, distance, _with(projection, given, text))
        said = asdict(found.projection)
    found.sha256 = _digest(method, said, distance, generator.sha256)
    return found.eval()


def _refined(start: Drawing, options: dict[str, str], cache: Path, text: str) -> Drawing:
    distance, _ = _distance(options, start.generator.sha256, cache)
    # All steps are taken: what is refined may lie below PTI's threshold already.
    found = PivotalTuning(start, distance, _with(Tuning(threshold=0.0), options, text))
    found.sha256 = _digest("refined", asdict(found.tuning), distance, start.sha256)
    return found.eval()


def _options(text: str, said: str) -> dict[str, str]:
    """``100``, ``nvidia`` or ``key=value`` between commas."""
    found: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in said.split(","))):
        key, equals, value = item.partition("=")
        if equals and key.strip() in found:
            raise UserError(f"{text[:120]!r} gives {key.strip()[:40]} twice: give it once")
        if equals:
            found[key.strip()] = value.strip()
        elif item in PRESETS:
            found["preset"] = item
        elif item.isdigit():
            found["steps"] = item
        else:
            raise UserError(
                f"{item!r} in {text[:120]!r} is neither a number of steps, nor KEY=VALUE, nor one of the settings "
                f"{', '.join(PRESETS)}"
            )
    return found


def _distance(options: dict[str, str], generator_sha256: str, cache: Path) -> tuple[Judge, float]:
    """The perceptual distance, taken out of the options, and the weight of the squared error next to it.

    Real domains use LPIPS-VGG alone, as published. The built-in domain has no LPIPS file and pictures of 64 px, whose
    colours ST-LPIPS leaves free: it is given the squared error as well.
    """
    built_in = domain_of(generator_sha256) == PACKAGED
    label = options.pop("distance", "st_lpips_alex" if built_in else "lpips_vgg")
    path = options.pop("weights", None)
    try:
        judge = build_judge(label, path, cache)
    except UserError as error:
        if label != "lpips_vgg":
            raise
        raise UserError(f"{error}; or use the distance that ships: distance=st_lpips_alex") from error
    if judge.higher_is_closer:
        raise UserError(
            f"distance={label} is no perceptual distance; choose lpips_vgg, lpips_alex or st_lpips_alex"
        )
    return judge, 0.0 if label.startswith("lpips") else 1.0


def _with(settings: Any, options: Mapping[str, str], text: str) -> Any:
    """Settings with what was typed in their place."""
    kinds = {field.name: type(getattr(settings, field.name)) for field in fields(settings)}
    values: dict[str, Any] = {}
    for key, value in options.items():
        if key not in kinds or key == "space":
            known = ", ".join(name for name in kinds if name != "space")
            raise UserError(
                f"{text[:120]!r} has no option {key[:40]!r}; there are: {known}, distance, weights"
            )
        try:
            values[key] = _read(value, kinds[key])
        except ValueError as error:
            raise UserError(f"{key}={value[:40]} in {text[:120]!r} is no {kinds[key].__name__}") from error
    try:
        return replace(settings, **values)
    except ValueError as error:
        raise UserError(f"{text[:120]!r}: {error}") from error


def _read(value: str, kind: type) -> Any:
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError(value)
        return value.lower() == "true"
    return kind(value)


def _digest(method: str, settings: Mapping[str, Any], distance: Judge | None, of: str) -> str:
    said = f"{method} {sorted(settings.items())} {distance.label if distance else ''} {of}"
    return sha256_of(said)
