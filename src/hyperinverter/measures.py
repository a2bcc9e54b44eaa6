"""What the name of a number says about it: its unit, its digits, and which way is better.

====================================  ==================================================  ======
name                                  what                                                better
====================================  ==================================================  ======
l2                                    mean squared error of images in [-1, 1]             lower
psnr                                  peak signal-to-noise ratio, dB                      higher
ssim, ms_ssim                         structural similarity                               higher
id_NETWORK                            cosine similarity of two identities                 higher
lpips_*, st_lpips_*, effnet_*         perceptual distance                                 lower
effect_*                              how far a reading moves under an edit               higher
truth_*, flip_*, back_*, inversion_*  the above, of an edit whose result is known         as above
frechet, kernel, fid, kid             distance of two sets of images                      lower
loss, error, seconds                  as they say                                         lower
====================================  ==================================================  ======
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """How a number is read and written."""

    higher_is_better: bool | None = None  # None: neither way
    unit: str = ""
    digits: int | None = None  # behind the point; None: four, or two from 10 upwards
    scale: float = 1.0  # what it is divided by when written


# The first pattern that fits a name without its prefixes says what it is.
_MEASURES: tuple[tuple[str, Measure], ...] = (
    (r"effect_\w+", Measure(higher_is_better=True)),
    (r"(truth|flip)_id_\w+", Measure(higher_is_better=True)),
    (r"(truth|flip|back|inversion)_\w+", Measure(higher_is_better=False)),
    (r"l2", Measure(higher_is_better=False)),
    (r"psnr", Measure(higher_is_better=True, unit="dB")),
    (r"(ms_)?ssim", Measure(higher_is_better=True)),
    (r"id_\w+", Measure(higher_is_better=True)),
    (r"((st_)?lpips|effnet)(_\w+)?", Measure(higher_is_better=False)),
    (r"(\w+_)?(frechet|kernel|fid|kid)(_\w+)?", Measure(higher_is_better=False)),
    (r"(\w+_)?(loss|error)", Measure(higher_is_better=False)),
    (r"seconds", Measure(higher_is_better=False, unit="s", digits=0)),
    (r"seconds_\w+", Measure(higher_is_better=False, unit="s")),
    (r"parameters", Measure(unit="M", digits=2, scale=1e6)),
    (r"rank|seeds|failed", Measure(digits=0)),
)


def measure_of(name: str) -> Measure:
    """What a number is, by its name, with or without a prefix such as ``val/phase1/``; unknown names say nothing."""
    bare = name.rsplit("/", 1)[-1]
    return next((measure for pattern, measure in _MEASURES if re.fullmatch(pattern, bare)), Measure())


def higher_is_better(name: str) -> bool | None:
    """Which way a number improves; None if its name does not say."""
    return measure_of(name).higher_is_better


def shown(value: float | None, name: str) -> str:
    """A number as a table shows it, without its unit unless it is scaled; empty for none and not-a-number."""
    if value is None or math.isnan(value):
        return ""
    measure = measure_of(name)
    digits = measure.digits if measure.digits is not None else 4 if abs(value) < 10 else 2
    unit = f" {measure.unit}" if measure.scale != 1.0 else ""
    return f"{value / measure.scale:.{digits}f}{unit}"
