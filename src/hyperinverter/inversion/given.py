"""What people pass to a way to invert: photos, codes, residuals, strengths and powers, told apart from what is none.

Values are looked at on the host alone: on a GPU that is to wait for all that was asked of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real

import torch
from torch import Tensor

from hyperinverter.contracts import shown
from hyperinverter.networks.generator import Generator
from hyperinverter.ops.factored import FactoredResidual, Residual
from hyperinverter.ops.precision import all_finite

Strength = float | Tensor | Mapping[str, float]
_STRENGTHS = "expected strength as a number, one per sample (B,), or GROUP -> number"


def check_photo(photo: Tensor) -> None:
    """Raise ``ValueError`` unless ``photo`` is ``(B, 3, H, W)`` with at least one pixel."""
    if photo.ndim != 4 or photo.shape[1] != 3 or 0 in photo.shape[2:]:
        raise ValueError(f"expected photos (B, 3, H, W), RGB in [-1, 1], got {tuple(photo.shape)}")


def as_photos(images: object, like: Tensor) -> Tensor:
    """What people pass to ``invert``, as photos ``(B, 3, H, W)`` on a device and in a type.

    One photo may come without a batch axis, and numbers in another floating type. Pixels are not guessed: bytes,
    pictures and arrays have another range or order of axes.

    Args:
        images: RGB in [-1, 1].
        like: A tensor of the model: its device and type are used.

    Raises:
        TypeError: For anything but a floating tensor; the sentence says what makes one.
        ValueError: For another shape, an empty batch, or values that are no photo in [-1, 1]; values are looked at
            where photos come from the host.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"expected a tensor of photos (B, 3, H, W), RGB in [-1, 1], got {type(images).__name__}; read_photo(PATH, "
            "resolution) makes one from a file, and hyperinverter.data.transforms.to_tensor from pixels (H, W, 3)"
        )
    if images.layout != torch.strided or images.is_meta:
        raise TypeError(
            "expected a dense tensor of photos with values, got one that is sparse or without any"
        )
    if not images.is_floating_point():
        raise TypeError(
            f"expected photos as floating numbers in [-1, 1], got {images.dtype}; bytes become photos by "
            "images.float() / 127.5 - 1"
        )
    photos = images[None] if images.ndim == 3 else images
    check_photo(photos)
    if len(photos) == 0:
        raise ValueError("there is no photo in this batch: give at least one")
    on_host = photos.device.type == "cpu"
    photos = photos.to(like)
    if not on_host:
        return photos  # to look at values on a GPU is to wait for all that was asked of it
    if type(photos) is not Tensor or torch.compiler.is_compiling():
        return photos  # a tensor that is only traced or counted has no values to check
    largest = float(photos.abs().amax())  # one number for finiteness and range
    if not largest <= 8:  # also true of not-a-number; a little beyond 1 is common after resampling
        said = (
            "it holds numbers that are not finite" if largest != largest else f"its values reach {largest:g}"
        )
        raise ValueError(
            f"expected photos in [-1, 1], but {said}; images in 0..255 become photos by x / 127.5 - 1"
        )
    return photos


def as_codes(w: object, generator: Generator) -> Tensor:
    """What people pass as w, as codes of a generator; other floating types become its own, another device is a mistake.

    Raises:
        TypeError: For anything but a floating tensor.
        ValueError: For another shape.
    """
    width = generator.w_dim
    if not isinstance(w, Tensor) or not w.is_floating_point() or w.is_meta:
        kind = w.dtype if isinstance(w, Tensor) else type(w).__name__
        raise TypeError(
            f"expected codes w as a floating tensor (B, {width}) or (B, L, {width}), got {kind}; torch.as_tensor makes "
            "one from an array"
        )
    if w.ndim not in (2, 3) or w.shape[-1] != width or not len(w):
        raise ValueError(f"expected codes w (B, {width}) or (B, L, {width}), got {tuple(w.shape)}")
    return w.to(generator.w_avg.dtype)


def check_residuals(residuals: object) -> None:
    """Refuse what is no mapping of names to residuals, ``(B, ...)``; whether they fit is for the generator to say.

    Raises:
        TypeError: With what was given.
    """
    wanted = "expected residuals as a mapping NAME -> floating tensor (B, ...), as invert returns them"
    if not isinstance(residuals, Mapping):
        raise TypeError(f"{wanted}, got {type(residuals).__name__}")
    for name, residual in residuals.items():
        if not isinstance(name, str):
            raise TypeError(f"{wanted}, got the name {shown(name)}")
        if isinstance(residual, FactoredResidual):
            continue
        if not isinstance(residual, Tensor) or not residual.is_floating_point():
            kind = residual.dtype if isinstance(residual, Tensor) else type(residual).__name__
            raise TypeError(f"{wanted}, got {kind} for {shown(name)}")


def as_strength(strength: Strength, batch: int | None) -> Strength:
    """What people pass as strength, numbers of NumPy as numbers.

    Args:
        strength: One number, one per sample ``(B,)``, or GROUP -> one of these.
        batch: B; None if there is nothing to multiply.

    Raises:
        TypeError: For anything else.
        ValueError: For a number that is not finite, or for as many as there are no samples.
    """
    if isinstance(strength, Mapping):
        return {name: _amount(value, batch, "strength", _STRENGTHS) for name, value in strength.items()}  # type: ignore[misc]
    return _amount(strength, batch, "strength", _STRENGTHS)


def as_power(power: object, batch: int | None) -> float | Tensor:
    """What people pass as the power of an edit: one number, or one per photo ``(B,)``.

    Raises:
        TypeError: For anything else.
        ValueError: For a number that is not finite, or for as many as there are no photos.
    """
    return _amount(power, batch, "power", "expected a power as a number, or one per photo (B,)")


def _amount(value: object, batch: int | None, name: str, wanted: str) -> float | Tensor:
    if isinstance(value, Tensor):
        if value.numel() != 1 and batch is not None and value.numel() != batch:
            raise ValueError(f"expected one {name} per photo ({batch},), got {tuple(value.shape)}")
        if are_looked_at(value) and not all_finite(value):
            raise ValueError(f"expected a {name} of finite numbers, got one that is not")
        return value
    if isinstance(value, (int, float)):  # first: a compiler cannot follow the question below
        number: float = value
    elif isinstance(value, Real):
        number = float(value)
    else:
        raise TypeError(f"{wanted}, got {type(value).__name__}")
    if not math.isfinite(number):
        raise ValueError(f"expected a {name} as a finite number, got {number}")
    return number


def are_looked_at(values: Tensor) -> bool:
    """Whether numbers are on the host and there to be seen: not learned from, not traced, not of a validation."""
    if torch.compiler.is_compiling() or type(values) is not Tensor or values.device.type != "cpu":
        return False
    return not values.requires_grad and not values.is_inference()


def check_drawn(image: Tensor, w: Tensor, residuals: Mapping[str, Residual]) -> Tensor:
    """An image of finite numbers; others would be black or coloured by chance when they are saved.

    Args:
        image: ``(B, 3, R, R)``.
        w: The codes it was drawn from.
        residuals: Its residuals.

    Raises:
        ValueError: With what is not finite, or too large: the codes, a residual, or the image alone.
    """
    if not are_looked_at(image) or all_finite(image):
        return image
    if not all_finite(w):
        raise ValueError("the codes w hold numbers that are not finite, so nothing can be drawn from them")
    for name, residual in residuals.items():
        parts = [residual] if isinstance(residual, Tensor) else [residual.u, residual.w2, residual.b2]
        if not all(map(all_finite, parts)):
            raise ValueError(f"the residual of {shown(name)} holds numbers that are not finite")
    raise ValueError(
        f"the image holds numbers that are not finite: w reaches {float(w.abs().max()):.3g}, too far from what the "
        "generator draws, or its weights are damaged; use a smaller power or strength"
    )
