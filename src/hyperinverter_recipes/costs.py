"""What an inversion costs: arithmetic by part, and how it grows with batch, resolution, hidden dimension, coverage.

    python -m hyperinverter_recipes.costs parts                        of the default, the paper's design and lite
    python -m hyperinverter_recipes.costs parts experiment=lite fusion=add    of these overrides
    python -m hyperinverter_recipes.costs training experiment=paper_faces data.root=PHOTOS    of a training step
    python -m hyperinverter_recipes.costs axes --out FOLDER            measure costs.csv and draw costs.png
    python -m hyperinverter_recipes.costs axes --out FOLDER --draw     draw costs.png again from costs.csv
    python -m hyperinverter_recipes.costs steps experiment=paper_digiface "experiment=best loss.edit=2" --out FOLDER
                                                                       time training steps of these, in turn

FLOPs are counted by PyTorch on tensors without content, a multiplication and an addition as two; weights are random,
as cost does not depend on them. Time is processor time, so that other work on the machine counts little.
The recordings are in outputs/published/costs.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hyperinverter import assembly, config
from hyperinverter.checkpoints import load_generator
from hyperinverter.config import Config
from hyperinverter.contracts import UserError
from hyperinverter.inversion.hyperstyle import HyperStyle
from hyperinverter.inversion.phase2 import HyperInverter, PhaseII
from hyperinverter.networks.frozen import evaluating
from hyperinverter.networks.generator import Generator, GeneratorConfig
from hyperinverter.ops.policy import policy
from hyperinverter.system.progress import counted
from hyperinverter.tasks.common import PhaseTask

PARTS = (
    "W encoder",
    "initial synthesis",
    "photo features",
    "initial features",
    "fusion",
    "hypernetworks",
    "feature residuals",
    "final synthesis",
)
_CHURCHES = ("experiment=paper_churches", "data.root=PHOTOS")  # 256 px, ResNet-34, hidden dimension 128
_ENCODER = ("encoder.heads=level", "encoder.initial=half")
DESIGNS: dict[str, dict[str, tuple[str, ...]]] = {  # domain -> design -> overrides; the first is the paper's
    "digiface": {
        "paper": ("hypernet=paper", "encoder.features_backbone=null"),
        "paper, widths for 64 px": ("experiment=paper_digiface",),
        "default": (),
        **{  # each way of conf/sweep/savings.yaml alone
            f"default, {override}": (override,)
            for override in (
                *(
                    "encoder.heads=resolution",
                    "encoder.heads=level",
                    "encoder.initial=half",
                    "encoder.initial=quarter",
                ),
                *("coverage=convs", "hypernet.hidden_dim=32"),
            )
        },
        "default, shared heads, initial image at half size": _ENCODER,
        "lite": ("experiment=lite",),
    },
    "churches": {
        "paper": _CHURCHES,
        "paper, shared heads, initial image at half size": (*_CHURCHES, *_ENCODER),
        "the same without toRGB": (*_CHURCHES, *_ENCODER, "coverage=convs"),
    },
}
AXES: dict[str, tuple[int | str, ...]] = {
    "batch size": (1, 2, 4, 8, 16),
    "resolution": (32, 64, 128, 256),
    "hidden dimension": (16, 32, 64, 128, 256),
    "coverage": ("torgb", "coarse", "fine", "medium", "convs", "convs_torgb", "all"),
}
DEFAULTS: dict[str, int | str] = {
    "batch size": 1,
    "resolution": 64,
    "hidden dimension": 64,
    "coverage": "convs_torgb",
}


def shapes(cfg: Config) -> GeneratorConfig:
    """Shapes of the configured generator: its file's, or StyleGAN2's ordinary ones where the file is not needed.

    Raises:
        UserError: If neither is known.
    """
    if cfg.domain.name in ("faces", "churches"):  # their files are config-f
        return GeneratorConfig(img_resolution=cfg.domain.resolution)
    path = config.given(cfg, "generator.path")
    if path is None:
        raise UserError("costs need a generator: add generator.path=FILE, or choose another domain")
    return load_generator(path).config


def composed(overrides: Sequence[str]) -> Config:
    """The configuration of ``python train.py phase=2 OVERRIDES``, checked."""
    cfg = config.compose(["phase=2", *overrides])
    config.validate(cfg)
    return cfg


def untrained(cfg: Config, shape: GeneratorConfig) -> PhaseII:
    """Build what a configuration would train, phase I included, with random weights around a random generator."""
    cfg.encoder.start = "random"
    return assembly.on_phase1(cfg, assembly.w_inverter(cfg, Generator(shape))).eval()


def count_parts(model: PhaseII, photo: Tensor) -> dict[str, int]:
    """Count the FLOPs of ``model.invert(photo)`` by part.

    Args:
        model: Run in eval mode and without gradients.
        photo: RGB, ``(B, 3, H, W)``.

    Returns:
        One number for each of ``PARTS``, in that order. They add up to what the complete model costs.
    """
    counted: dict[str, int] = {}

    def run(part: str, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        with FlopCounterMode(display=False) as counter, policy(winograd="never"):  # as on every device
            result = function(*given, **named)
        counted[part] = counted.get(part, 0) + counter.get_total_flops()
        by_module = counter.get_flop_counts().items()
        merging = [sum(flops.values()) for name, flops in by_module if name.endswith(".fusion")]
        if merging:
            counted["fusion"] = sum(merging)
            counted[part] -= counted["fusion"]
        return result

    with torch.no_grad(), evaluating(model):
        w = run("W encoder", model.w_inverter.encode, photo)
        w_image = run("initial synthesis", model.w_inverter.render, w)
        if isinstance(model, HyperStyle):
            changes: dict[str, Tensor] = {}
            for _ in range(model.iterations):
                changes = run("hypernetworks", model.look, photo, w_image, changes)
                run("final synthesis", model.render, w, model.residuals(changes))
            return {part: counted.get(part, 0) for part in PARTS}
        assert isinstance(model, HyperInverter)
        encoder = model.feature_encoder
        if encoder.initial == "joint":
            photo_features, of_w_image, _ = run("photo features", encoder.read, photo=photo, w_image=w_image)
        else:
            photo_features = run("photo features", encoder, photo)
            of_w_image = run("initial features", encoder.encode_w_image, w_image)
        residuals: dict[str, Tensor] = {}
        if model.hypernet is not None:
            residuals |= run("hypernetworks", model.hypernet, photo=photo_features, w_image=of_w_image)
        if model.feature_residuals is not None:
            *_, differences = encoder.read(photo=photo, w_image=w_image)  # counted above
            residuals |= run("feature residuals", model.feature_residuals, differences)
        run("final synthesis", model.render, w, residuals)
    return {part: counted.get(part, 0) for part in PARTS}


def parts_of(overrides: Sequence[str], batch: int = 1, resolution: int | None = None) -> dict[str, float]:
    """GFLOP of an inversion by part, for a configuration; takes no memory for weights.

    Args:
        overrides: As typed after ``python train.py``.
        batch: B.
        resolution: Of the generator, in place of its own; its widths continue by their rule.
    """
    cfg = composed(overrides)
    shape = _resized(shapes(cfg), resolution)
    with FakeTensorMode():
        photo = torch.zeros(batch, 3, shape.img_resolution, shape.img_resolution)
        counted = count_parts(untrained(cfg, shape), photo)
    return {part: flops / 1e9 for part, flops in counted.items()}


def training_of(overrides: Sequence[str], batch: int = 1) -> float:
    """GFLOP of one training step of phase II, forward and backward, without judges and discriminator.

    Args:
        overrides: As typed after ``python train.py``.
        batch: B.
    """
    cfg = composed(overrides)
    shape = shapes(cfg)
    with FakeTensorMode():
        model = untrained(cfg, shape).train()
        photo = torch.zeros(batch, 3, shape.img_resolution, shape.img_resolution)
        with FlopCounterMode(display=False) as counter, policy(winograd="never"):
            model(photo).image.square().mean().backward()
    return counter.get_total_flops() / 1e9


def seconds_of(
    overrides: Sequence[str], batch: int = 1, resolution: int | None = None, rounds: int = 5
) -> float:
    """Median processor time of an inversion, after one to warm up."""
    cfg = composed(overrides)
    shape = _resized(shapes(cfg), resolution)
    torch.manual_seed(0)
    model = untrained(cfg, shape)
    photo = torch.rand(batch, 3, shape.img_resolution, shape.img_resolution) * 2 - 1
    taken = []
    for _ in range(rounds + 1):
        start = time.process_time()
        model.invert(photo)
        taken.append(time.process_time() - start)
    return statistics.median(taken[1:])


def measure_steps(designs: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Time training steps: all losses, backward and optimizer, on a batch of random pictures.

    All designs are in memory together and take turns, step by step, so that what else the machine does falls on all of
    them alike. Phase I is the packaged one where nothing else is typed.

    Args:
        designs: Overrides as typed after ``python train.py phase=2``, one string for each design.
        rounds: Steps of each, after one to warm up.

    Returns:
        One row for each design: trained parameters, photos a step, the median of processor seconds, and the median of
        what they are in parts of the first design's in the same round.

    Raises:
        UserError: For a discriminator, whose steps are not of one kind.
    """
    tasks, optimizers, photos = [], [], []
    for design in designs:
        cfg = composed(("phase.from_run=packaged", *shlex.split(design)))
        if cfg.loss.adv > 0:
            raise UserError(f"steps are timed without a discriminator: add loss.adv=0 to {design!r}")
        torch.manual_seed(0)
        task = assembly.build(cfg).task.train()
        tasks.append(task)
        optimizers.append(task.make_optimizer(_trained(task)))
        side = cast(PhaseII, task.inverter).resolution
        photos.append(torch.rand(cfg.phase.batch_size, 3, side, side) * 2 - 1)
    taken: list[list[float]] = [[] for _ in tasks]
    with counted("steps", (rounds + 1) * len(tasks)) as advance:
        for _ in range(rounds + 1):
            for task, optimizer, photo, seconds in zip(tasks, optimizers, photos, taken, strict=True):
                start = time.process_time()
                total = task.forward_pass(photo).total
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
                seconds.append(time.process_time() - start)
                advance(1)
    rows = []
    for design, task, photo, seconds in zip(designs, tasks, photos, taken, strict=True):
        of_first = [one / first for one, first in zip(seconds[1:], taken[0][1:], strict=True)]
        trained = sum(parameter.numel() for parameter in _trained(task))
        rows.append(
            {
                "design": design,
                "trained parameters, M": f"{trained / 1e6:.2f}",
                "photos": len(photo),
                "processor seconds": f"{statistics.median(seconds[1:]):.4g}",
                "share of the first": f"{statistics.median(of_first):.3f}",
            }
        )
    return rows


def _trained(task: PhaseTask) -> list[nn.Parameter]:
    return [parameter for parameter in task.inverter.parameters() if parameter.requires_grad]


def _resized(shape: GeneratorConfig, resolution: int | None) -> GeneratorConfig:
    return shape if resolution is None else dataclasses.replace(shape, img_resolution=resolution)


def _given(axis: str, value: int | str) -> dict[str, Any]:
    """Arguments of ``parts_of`` and ``seconds_of`` for a point; all but the axis is the default's."""
    points: dict[str, dict[str, Any]] = {
        "batch size": {"overrides": (), "batch": value},
        "resolution": {"overrides": (), "resolution": value},
        "hidden dimension": {"overrides": (f"hypernet.hidden_dim={value}",)},
        "coverage": {"overrides": (f"coverage={value}",)},
    }
    return points[axis]


def measure_axes(rounds: int) -> list[dict[str, Any]]:
    """One row for every point of ``AXES``: axis, value, GFLOP and processor seconds of one inversion."""
    rows = []
    for axis, values in AXES.items():
        for value in values:
            given = _given(axis, value)
            gflop = sum(parts_of(**given).values())
            seconds = seconds_of(**given, rounds=rounds)
            rows.append({"axis": axis, "value": value, "gflop": f"{gflop:.5g}", "seconds": f"{seconds:.4g}"})
            print("  ".join(f"{key}={item}" for key, item in rows[-1].items()), flush=True)
    return rows


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw one panel for each axis: FLOPs and time, both as multiples of the default's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    for panel, axis in zip(panels.flat, AXES, strict=True):
        points = [row for row in rows if row["axis"] == axis]
        names = [str(row["value"]) for row in points]
        default = points[names.index(str(DEFAULTS[axis]))]
        for column, label, style in (
            ("gflop", "arithmetic (FLOPs)", {"color": "#4477aa", "marker": "o"}),
            ("seconds", "processor time", {"color": "#cc6677", "marker": "s"}),
        ):
            values = [float(row[column]) / float(default[column]) for row in points]
            if axis == "coverage":
                side = -0.2 if column == "gflop" else 0.2
                places = [number + side for number in range(len(names))]
                panel.bar(places, values, 0.4, label=label, color=style["color"])
                panel.set_xticks(range(len(names)), names, rotation=20)
            else:
                panel.plot([int(name) for name in names], values, label=label, **style)
                panel.set_xscale("log", base=2)
                panel.set_xticks([int(name) for name in names], names)
        panel.axhline(1, color="#bbbbbb", linewidth=0.8, zorder=0)
        gflop, milliseconds = float(default["gflop"]), 1000 * float(default["seconds"])
        panel.set_title(
            f"{axis}; default {DEFAULTS[axis]}: {gflop:.3g} GFLOP, {milliseconds:.0f} ms", size=11
        )
        if axis == "batch size":  # spans a factor of 16, the others less than two
            panel.set_yscale("log", base=2)
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            panel.set_ylim(bottom=0)
        panel.minorticks_off()
        panel.set_ylabel("times the default")
        panel.grid(axis="y", color="#eeeeee", zorder=0)
        panel.set_axisbelow(True)
    figure.legend(
        *panels.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows of the same keys as a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> list[dict[str, Any]]:
    """Read what ``write`` wrote.

    Raises:
        UserError: If there is no such file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}: measure first, without --draw") from error


def table(designs: dict[str, tuple[str, ...]], domain: str = "") -> list[dict[str, str]]:
    """One row for every design: GFLOP of one inversion by part, their sum, and its share of the first design's."""
    rows, first = [], 0.0
    for name, overrides in designs.items():
        parts = parts_of(overrides)
        total = sum(parts.values())
        first = first or total
        figures = {**parts, "all": total, "share of the first": total / first}
        plain = {key: f"{value:.4g}" for key, value in figures.items()}
        rows.append({"domain": domain, "design": name, **plain})
    return rows


def _show(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        print("\n".join(f"{key:24}{value}" for key, value in row.items()), end="\n\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Count and measure what an inversion costs.")
    commands = parser.add_subparsers(dest="command", required=True)
    parts = commands.add_parser("parts", help="GFLOP of one inversion by part")
    parts.add_argument("overrides", nargs="*", help="as after `python train.py phase=2`; none: a comparison")
    parts.add_argument("--out", type=Path, help="folder that gets parts.csv")
    training = commands.add_parser("training", help="GFLOP of one photo's training step")
    training.add_argument("overrides", nargs="*", help="as after `python train.py phase=2`")
    axes = commands.add_parser("axes", help="cost against batch, resolution, hidden dimension and coverage")
    axes.add_argument("--out", type=Path, required=True, help="folder of costs.csv and costs.png")
    axes.add_argument("--rounds", type=int, default=5)
    axes.add_argument("--draw", action="store_true", help="draw what costs.csv says, without measuring")
    steps = commands.add_parser("steps", help="processor time of training steps, in turn")
    steps.add_argument("designs", nargs="+", help="one string of overrides each; the first is compared with")
    steps.add_argument("--out", type=Path, help="folder that gets steps.csv")
    steps.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args(arguments)
    try:
        if args.command == "steps":
            rows = measure_steps(args.designs, max(args.rounds, 1))
            _show(rows)
            if args.out:
                write(rows, args.out / "steps.csv")
            return 0
        if args.command == "parts":
            typed = {"": {" ".join(args.overrides): tuple(args.overrides)}}
            groups = typed if args.overrides else DESIGNS
            rows = [row for domain, designs in groups.items() for row in table(designs, domain)]
            _show(rows)
            if args.out:
                write(rows, args.out / "parts.csv")
            return 0
        if args.command == "training":
            print(f"{training_of(args.overrides):.4g} GFLOP a photo")
            return 0
        if not args.draw:
            write(measure_axes(max(args.rounds, 1)), args.out / "costs.csv")
        draw(read(args.out / "costs.csv"), args.out / "costs.png")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
