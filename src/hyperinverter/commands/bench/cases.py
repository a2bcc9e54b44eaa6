"""What ``hyperinverter bench`` measures: models of a few sizes, and for each case our way and the obvious one."""

from __future__ import annotations

import functools
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperinverter.commands.bench import slow_reference
from hyperinverter.contracts import UserError
from hyperinverter.data.module import ImageDataModule
from hyperinverter.data.transforms import save_png
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.inversion.specification import (
    FeaturesSpec,
    HypernetSpec,
    ModelSpec,
    Part,
    WEncoderSpec,
    build,
)
from hyperinverter.networks.coverage import select
from hyperinverter.networks.generator import Generator
from hyperinverter.ops.graphs import replayed

Side = Literal["ours", "reference"]
Run = Callable[[], object]
_SMALL = {"z_dim": 128, "w_dim": 128, "mapping_layers": 2, "channel_base": 2048, "channel_max": 128}
_SMOKE = {"z_dim": 8, "w_dim": 8, "mapping_layers": 1, "channel_base": 128, "channel_max": 8}
_HELD_OUT = 8  # photos on the disk beyond a batch: some belong to validation and test


@dataclass(frozen=True)
class Size:
    """Shapes of one benchmarked model."""

    generator: dict[str, int]
    encoder: Part  # backbones
    features: Part
    channels: int
    hidden_dim: int
    cases: tuple[str, ...]  # measured when none are named


SIZES = {
    "smoke": Size(
        {**_SMOKE, "img_resolution": 16},
        Part("TinyBackbone", {"widths": (8, 8, 8), "units": (1, 1, 1)}),
        Part("TinyBackbone", {"widths": (8, 8, 8), "units": (1, 1, 1)}),
        channels=8,
        hidden_dim=4,
        cases=("synthesis:2", "step:2"),
    ),
    "digiface": Size(
        {**_SMALL, "img_resolution": 64},
        Part("TinyBackbone"),
        Part("TinyBackbone", {"widths": (32, 64, 128), "units": (1, 1, 1)}),
        channels=64,
        hidden_dim=64,
        cases=(
            *("synthesis:8", "synthesis:32", "synthesis_backward:8", "synthesis_backward:32"),
            *("residuals:8", "residuals_backward:8", "phase1:1", "phase1:8", "phase2:1", "phase2:8"),
            *("phase2_half:8", "step:8", "step:16", "edit:1", "data:64"),
        ),
    ),
    "full256": Size(
        {"img_resolution": 256},
        Part("ResNet34"),
        Part("ResNet34"),
        channels=512,
        hidden_dim=128,
        cases=("synthesis:1", "phase1:1", "phase2:1", "phase2:8", "step:4", "edit:1", "data:8"),
    ),
    "full1024": Size(
        {"img_resolution": 1024},
        Part("IRSE50"),
        Part("IRSE50"),
        channels=512,
        hidden_dim=128,
        cases=(
            *("synthesis:1", "phase1:1", "phase2:1", "phase2_replayed:1", "phase2:8", "step:8"),
            *("step_checkpointing:8", "edit:1", "edit_replayed:1"),
        ),
    ),
}


def make_model(size: str, device: str = "cpu") -> HyperInverter:
    """Build the model with random weights and visible residuals."""
    with torch.device(device):  # a GPU draws hundreds of millions of weights at once
        model = _made(SIZES[size])
    return model if device == "cpu" else model.to(device)  # tensors without content cannot be moved


def _made(shape: Size) -> HyperInverter:
    generator = Generator(None, **shape.generator)
    kernels = select(generator.kernels(), ["convs_torgb"])
    spec = ModelSpec(
        "hyperinverter",
        generator.config,
        WEncoderSpec(shape.encoder),
        FeaturesSpec(shape.features, shape.channels),
        HypernetSpec(
            tuple(kernel.name for kernel in kernels),
            shape.hidden_dim,
            activation="leaky_relu",
            residual_scale=0.1,
        ),
    )
    model = build(spec, generator, init="fan_in")
    assert isinstance(model, HyperInverter)
    return model


def step(model: HyperInverter, photo: Tensor, half: bool = False) -> Tensor:
    """Forward and backward pass of a training step with the pixel loss, as ``PhaseIIHyper`` does them."""
    with torch.autocast(photo.device.type, torch.bfloat16, enabled=half):
        loss = F.mse_loss(model.reconstruct(photo), photo)
    loss.backward()
    return loss.detach()


def _device(model: HyperInverter) -> torch.device:
    return model.generator.w_avg.device


def _photo(model: HyperInverter, batch: int) -> Tensor:
    return torch.rand(batch, 3, model.resolution, model.resolution, device=_device(model)) * 2 - 1


def _codes(model: HyperInverter, batch: int) -> Tensor:
    return torch.randn(batch, model.generator.w_dim, device=_device(model))


def _residuals(model: HyperInverter, batch: int) -> dict[str, Tensor]:
    assert model.hypernet is not None  # the method of the paper is what is measured
    device = _device(model)
    return {
        spec.name: 0.1 * torch.randn(batch, *spec.shape, device=device) for spec in model.hypernet.kernels
    }


def _synthesis(
    model: HyperInverter, batch: int, side: Side, half: bool, *, own_kernels: bool, backward: bool
) -> Run:
    """Drawing from codes; with ``own_kernels`` every sample has residuals."""
    synthesis = model.generator.synthesis
    w = _codes(model, batch)
    residuals = _residuals(model, batch) if own_kernels else {}
    draw = synthesis if side == "ours" else functools.partial(slow_reference.draw, synthesis)
    if not backward:
        return functools.partial(_graphless, half, draw, w, residuals)
    # What learns is behind the residuals, or behind w where there are none.
    leaves = [tensor.requires_grad_() for tensor in (residuals.values() if own_kernels else [w])]

    def run() -> None:
        model.generator.requires_grad_(side == "reference")  # it differentiates the frozen weights, too
        with torch.autocast(w.device.type, torch.bfloat16, enabled=half):
            total = draw(w, residuals).square().mean()
        total.backward()
        for leaf in leaves:
            leaf.grad = None
        model.generator.zero_grad()

    return run


def _phase1(model: HyperInverter, batch: int, side: Side, half: bool) -> Run:
    invert = model.w_inverter.invert if side == "ours" else functools.partial(slow_reference.phase1, model)
    return functools.partial(_graphless, half, invert, _photo(model, batch))


def _phase2(
    model: HyperInverter, batch: int, side: Side, half: bool, *, ours_half: bool = False, again: bool = False
) -> Run:
    """An inversion; with ``ours_half`` ours chooses bfloat16 by itself, with ``again`` it is replayed."""
    model.half_precision(ours_half)  # the reference does not know of it
    invert: Callable[..., object] = functools.partial(slow_reference.invert, model)
    if side == "ours":
        invert = replayed(model.invert) if again else model.invert
    return functools.partial(_graphless, half, invert, _photo(model, batch))


def _step(model: HyperInverter, batch: int, side: Side, half: bool, *, checkpointing: bool) -> Run:
    photo = _photo(model, batch)
    model.train()
    frozen = [*model.w_inverter.parameters(), *model.generator.parameters()]

    def run() -> None:
        for parameter in frozen:
            parameter.requires_grad_(False)  # the reference, whose turn was before, wants them otherwise
        if side == "ours":
            model.use_checkpointing(checkpointing)
            step(model, photo, half)
        else:
            slow_reference.step(model, photo, half)
        model.zero_grad()
        model.generator.zero_grad()

    return run


def _edit(model: HyperInverter, batch: int, side: Side, half: bool, *, again: bool = False) -> Run:
    """An edit of an inverted photo against the plain generator: what it would cost at least."""
    draw: Callable[[Tensor], Tensor] = model.generator.synthesis
    if side == "ours":
        draw = model.prepare(_residuals(model, 1))
        draw = replayed(draw) if again else draw
    return functools.partial(_graphless, half, draw, _codes(model, batch))


def _data(model: HyperInverter, batch: int, side: Side, half: bool) -> Run:
    """One batch of photos that lie on the disk as PNG files of the model's resolution."""
    folder = Path(tempfile.mkdtemp(prefix="hyperinverter-bench-"))
    root = folder / "photos"
    root.mkdir()
    for number, photo in enumerate(_photo(model, batch + _HELD_OUT).cpu()):
        save_png(F.avg_pool2d(photo, 3, 1, 1), root / f"{number:04d}.png")
    run: Run
    if side == "reference":
        run = functools.partial(slow_reference.load, sorted(root.iterdir())[:batch])
    else:
        photos = ImageDataModule(
            root,
            resolution=model.resolution,
            batch_size=batch,
            epoch_kimg=batch / 1000,
            cache_dir=folder / "cache",
        )
        photos.prepare_data()
        loader = photos.train_dataloader()
        run = lambda: next(iter(loader))  # noqa: E731  # an epoch is one batch
    weakref.finalize(run, shutil.rmtree, folder, ignore_errors=True)
    return run


CASES: dict[str, Callable[[HyperInverter, int, Side, bool], Run]] = {
    "synthesis": functools.partial(_synthesis, own_kernels=False, backward=False),
    "synthesis_backward": functools.partial(_synthesis, own_kernels=False, backward=True),
    "residuals": functools.partial(_synthesis, own_kernels=True, backward=False),
    "residuals_backward": functools.partial(_synthesis, own_kernels=True, backward=True),
    "phase1": _phase1,
    "phase2": _phase2,
    "phase2_half": functools.partial(_phase2, ours_half=True),
    "phase2_replayed": functools.partial(_phase2, again=True),
    "step": functools.partial(_step, checkpointing=False),
    "step_checkpointing": functools.partial(_step, checkpointing=True),
    "edit": _edit,
    "edit_replayed": functools.partial(_edit, again=True),
    "data": _data,
}


def work(case: str, batch: int, side: Side, model: HyperInverter, half: bool = False) -> Run:
    """Return what is to be measured, with its input ready on the model's device.

    Args:
        case: One of ``CASES``.
        batch: Photos.
        side: Ours, or the method written the obvious way.
        model: From ``make_model``.
        half: Whether both sides compute in bfloat16 (autocast).
    """
    model.eval()
    return CASES[case](model, batch, side, half)


def parse_case(text: str) -> tuple[str, int]:
    """``"step:8"`` -> ``("step", 8)``.

    Raises:
        UserError: For another form, an unknown name or a batch below 1.
    """
    name, _, batch = text.partition(":")
    if name not in CASES or not batch.isdigit() or int(batch) < 1:
        raise UserError(f"a case is NAME:BATCH with NAME of {', '.join(CASES)}, such as step:8; got {text!r}")
    return name, int(batch)


def _graphless(half: bool, function: Callable[..., object], *given: Any) -> object:
    with torch.no_grad(), torch.autocast(given[0].device.type, torch.bfloat16, enabled=half):
        return function(*given)
