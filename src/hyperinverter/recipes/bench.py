"""Measure speed, memory and arithmetic against the slow obvious way, on this machine.

python -m hyperinverter.recipes.bench                                   the built-in domain's size
python -m hyperinverter.recipes.bench --size full256 --case phase2:1    256 px, full width, ResNet-34, hidden 128
python -m hyperinverter.recipes.bench --profile step:8                  where the time of a training step goes

Ours and the reference (``slow_reference``) take turns in one process with the same weights, and medians are
compared. Peak memory is that of a process that does nothing else. FLOPs and operators are counted by PyTorch on
tensors without content. Weights are random; the loss of ``step`` is the pixel loss, without optimizer.
"""

from __future__ import annotations

import argparse
import csv
import functools
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hyperinverter.contracts import UserError
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.networks.backbones import Backbone, ResNet34, TinyBackbone
from hyperinverter.networks.coverage import select
from hyperinverter.networks.encoders import FeatureEncoder, WEncoder
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.hypernets import HyperNetwork
from hyperinverter.ops import modconv
from hyperinverter.recipes import slow_reference
from hyperinverter.runcard import peak_ram_bytes

Side = Literal["ours", "reference"]
CASES = ("synthesis", "synthesis_backward", "phase1", "phase2", "step", "step_checkpointing", "edit")
_SMALL = {"z_dim": 128, "w_dim": 128, "mapping_layers": 2, "channel_base": 2048, "channel_max": 128}
_DIGIFACE = (
    "synthesis:8",
    "synthesis_backward:8",
    "phase1:1",
    "phase1:8",
    "phase2:1",
    "phase2:8",
    "step:8",
    "edit:1",
)


@dataclass(frozen=True)
class Size:
    """Shapes of one benchmarked model."""

    generator: dict[str, int]
    encoder: Callable[[], Backbone]
    features: Callable[[], Backbone]
    channels: int
    hidden_dim: int
    cases: tuple[str, ...]


SIZES = {
    "smoke": Size(
        {
            "z_dim": 8,
            "w_dim": 8,
            "img_resolution": 16,
            "mapping_layers": 1,
            "channel_base": 128,
            "channel_max": 8,
        },
        functools.partial(TinyBackbone, (8, 8, 8), (1, 1, 1)),
        functools.partial(TinyBackbone, (8, 8, 8), (1, 1, 1)),
        channels=8,
        hidden_dim=4,
        cases=("synthesis:2", "step:2"),
    ),
    "digiface": Size(
        {**_SMALL, "img_resolution": 64},
        TinyBackbone,
        functools.partial(TinyBackbone, (32, 64, 128), (1, 1, 1)),
        channels=64,
        hidden_dim=64,
        cases=_DIGIFACE,
    ),
    "full256": Size(
        {"img_resolution": 256},
        ResNet34,
        ResNet34,
        channels=512,
        hidden_dim=128,
        cases=("synthesis:1", "phase1:1", "phase2:1", "phase2:8", "step:8", "edit:1"),
    ),
}


def make_model(size: str) -> HyperInverter:
    """Build the model with random weights and visible residuals."""
    shape = SIZES[size]
    generator = Generator(None, **shape.generator)
    first = WInverter(generator, WEncoder(shape.encoder(), generator.w_dim))
    kernels = select(generator.kernels(), ["convs_torgb"])
    hypernet = HyperNetwork(
        kernels, shape.channels, shape.hidden_dim, init="fan_in", activation="leaky_relu", residual_scale=0.1
    )
    features = FeatureEncoder(shape.features(), generator.num_ws, shape.channels, used=hypernet.used_styles)
    return HyperInverter(first, features, hypernet)


def step(model: HyperInverter, photo: Tensor) -> Tensor:
    """Forward and backward pass of a training step with the pixel loss, as ``PhaseIIHyper`` does them."""
    loss = F.mse_loss(model(photo, keep_factors=True).image, photo)
    loss.backward()
    return loss.detach()


def work(size: str, case: str, batch: int, side: Side, model: HyperInverter) -> Callable[[], object]:
    """Return what is to be measured, with its input ready."""
    ours = side == "ours"
    resolution = model.resolution
    photo = torch.rand(batch, 3, resolution, resolution) * 2 - 1
    model.train(case.startswith("step"))
    frozen = [*model.w_inverter.parameters(), *model.generator.parameters()]
    if case in ("step", "step_checkpointing"):

        def both() -> None:
            for parameter in frozen:
                parameter.requires_grad_(False)
            if ours:
                model.use_checkpointing(case == "step_checkpointing")
                step(model, photo)
            else:
                slow_reference.step(model, photo)
            model.zero_grad()
            model.generator.zero_grad()

        return both
    if case == "phase1":
        invert: Callable[[Tensor], object] = model.w_inverter.invert
        return functools.partial(
            _graphless, invert if ours else functools.partial(slow_reference.phase1, model), photo
        )
    if case == "phase2":
        return functools.partial(
            _graphless, model.invert if ours else functools.partial(slow_reference.invert, model), photo
        )
    w = torch.randn(batch, model.generator.w_dim)
    specs = model.hypernet.kernels
    if case == "edit":  # against plain synthesis: what an edit would cost at least
        residuals = {spec.name: 0.1 * torch.randn(1, *spec.shape) for spec in specs}
        synthesis = model.prepare(residuals) if ours else model.generator.synthesis
        return functools.partial(_graphless, synthesis, w)
    residuals = {spec.name: 0.1 * torch.randn(batch, *spec.shape) for spec in specs}
    draw: Callable[..., Tensor] = (
        model.generator.synthesis
        if ours
        else functools.partial(slow_reference.draw, model.generator.synthesis)
    )
    if case == "synthesis":
        return functools.partial(_graphless, draw, w, residuals)

    def backward() -> None:
        # The reference differentiates the frozen weights too.
        model.generator.requires_grad_(not ours)
        leaves = {name: delta.requires_grad_() for name, delta in residuals.items()}
        draw(w, leaves).square().mean().backward()
        for delta in leaves.values():
            delta.grad = None
        model.generator.zero_grad()

    return backward


def _graphless(function: Callable[..., object], *given: object) -> object:
    with torch.no_grad():
        return function(*given)


@dataclass(frozen=True)
class Count:
    """What PyTorch counts in one call."""

    gflop: float  # a multiplication and an addition are two
    operators: int  # dispatched, forward and backward


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.total += 1
        return func(*args, **(kwargs or {}))


def count(size: str, case: str, batch: int, side: Side) -> Count:
    """Count FLOPs and operators of a case on tensors without content: no time, no memory.

    Operators are counted as on a GPU, with one grouped convolution for a batch of kernels.
    """
    with FakeTensorMode(), mock.patch.object(modconv, "SAMPLE_BY_SAMPLE", ()):
        run = work(size, case, batch, side, make_model(size))
        with FlopCounterMode(display=False) as flops:
            run()
        with _Operators() as operators:
            run()
    return Count(flops.get_total_flops() / 1e9, operators.total)


def machine_peak(now: Callable[[], float], seconds: float = 0.3) -> float:
    """Return GFLOP per second of the faster of a large matrix product and a wide 3x3 convolution."""
    x, weight = torch.randn(1, 512, 32, 32), torch.randn(512, 512, 3, 3)
    a = torch.randn(1024, 1024)
    candidates: list[tuple[float, Callable[[], Tensor]]] = [
        (2 * 1024**3, lambda: a @ a),
        (2 * 512 * 512 * 9 * 1024, lambda: F.conv2d(x, weight, padding=1)),
    ]
    best = 0.0
    with torch.no_grad():
        for operations, function in candidates:
            function()
            taken: list[float] = []
            while sum(taken) < seconds:
                taken.append(_time(function, now))
            best = max(best, operations / statistics.median(taken) / 1e9)
    return best


def _time(function: Callable[[], object], now: Callable[[], float]) -> float:
    start = now()
    function()
    return now() - start


def measure(size: str, case: str, batch: int, rounds: int, clock: str) -> dict[str, float]:
    """Time ours and the reference in turns; one round to warm up unless there is only one."""
    now = time.process_time if clock == "processor" else time.perf_counter
    torch.manual_seed(0)
    model = make_model(size)
    sides: tuple[Side, Side] = ("ours", "reference")
    runs = {side: work(size, case, batch, side, model) for side in sides}
    taken: dict[str, list[float]] = {side: [] for side in sides}
    if rounds > 1:
        for run in runs.values():
            run()
    for _ in range(rounds):
        for side in sides:
            taken[side].append(_time(runs[side], now))
    ours, reference = (statistics.median(taken[side]) for side in sides)
    pairs = [slow / fast for fast, slow in zip(taken["ours"], taken["reference"], strict=True)]
    return {
        "seconds": ours,
        "reference_seconds": reference,
        "ratio": reference / ours,
        "ratio_low": min(pairs),
        "ratio_high": max(pairs),
        "machine_gflops": machine_peak(now),
    }


def peak_memory(size: str, case: str, batch: int, side: Side) -> dict[str, float]:
    """Run a case once; return this process's peak and what of it came after the model was built, in MB."""
    torch.manual_seed(0)
    run = work(size, case, batch, side, make_model(size))
    before = peak_ram_bytes() / 1e6
    run()
    peak = peak_ram_bytes() / 1e6
    return {"peak_mb": peak, "beyond_model_mb": peak - before}


def parse_case(text: str) -> tuple[str, int]:
    """``"step:8"`` -> ``("step", 8)``.

    Raises:
        UserError: For another form, an unknown name or a batch below 1.
    """
    name, _, batch = text.partition(":")
    if name not in CASES or not batch.isdigit() or int(batch) < 1:
        raise UserError(f"a case is NAME:BATCH with NAME of {', '.join(CASES)}, such as step:8; got {text!r}")
    return name, int(batch)


def machine() -> dict[str, str | int]:
    """Say what ran this, without names of machines or people."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model
        )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }


def row(size: str, case: str, batch: int, rounds: int, clock: str) -> dict[str, Any]:
    """Measure one case, every measurement in its own process, and return its line of the table."""
    timed = _apart("measure", size, case, batch, rounds, clock)
    memory = {side: _apart("peak_memory", size, case, batch, side) for side in ("ours", "reference")}
    counted, slow = count(size, case, batch, "ours"), count(size, case, batch, "reference")
    peak, slow_peak = memory["ours"]["peak_mb"], memory["reference"]["peak_mb"]
    beyond, slow_beyond = (memory[side]["beyond_model_mb"] for side in ("ours", "reference"))
    share = counted.gflop / timed["seconds"] / timed["machine_gflops"]
    return {
        "size": size,
        "case": case,
        "batch": batch,
        "seconds": f"{timed['seconds']:.4g}",
        "reference_seconds": f"{timed['reference_seconds']:.4g}",
        "ratio": f"{timed['ratio']:.3g}",
        "ratio_range": f"{timed['ratio_low']:.3g} to {timed['ratio_high']:.3g}",
        "images_per_second": f"{batch / timed['seconds']:.4g}",
        "peak_mb": f"{peak:.0f}",
        "reference_peak_mb": f"{slow_peak:.0f}",
        "beyond_model_mb": f"{beyond:.0f}",
        "reference_beyond_model_mb": f"{slow_beyond:.0f}",
        "gflop": f"{counted.gflop:.4g}",
        "reference_gflop": f"{slow.gflop:.4g}",
        "machine_gflops": f"{timed['machine_gflops']:.4g}",
        "share_of_machine": f"{share:.3g}",
        "operators": counted.operators,
        "reference_operators": slow.operators,
        "rounds": rounds,
        "clock": clock,
        **machine(),
    }


def _apart(function: str, *arguments: object) -> dict[str, float]:
    """Run ``measure`` or ``peak_memory`` in a process of its own."""
    # This process computes nothing itself, so a fork of it is a clean start without importing everything again.
    linux = sys.platform == "linux"
    context = multiprocessing.get_context("fork") if linux else multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(sender, function, arguments, torch.get_num_threads()))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        child.join()
        raise UserError(
            f"the process measuring {arguments} ended with {child.exitcode}: with -9 it ran out of memory, "
            "take a smaller batch"
        ) from None
    finally:
        child.join()


def _send(sender: Any, function: str, arguments: tuple[Any, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    sender.send(measure(*arguments) if function == "measure" else peak_memory(*arguments))


def profile(size: str, case: str, batch: int) -> str:
    """Return PyTorch's table of where the time of one run goes, after one to warm up."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    run = work(size, case, batch, "ours", make_model(size))
    run()
    with profiler(activities=[ProfilerActivity.CPU]) as recorded:
        run()
    return recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=20)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Measure speed, memory and arithmetic against the slow obvious way."
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="digiface")
    parser.add_argument("--case", action="append", metavar="NAME:BATCH", help=f"NAME: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--clock", choices=("wall", "processor"), default="wall", help="processor: for a busy machine"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of table.csv, to which lines are added; default: print only"
    )
    parser.add_argument("--profile", metavar="NAME:BATCH", help="show where the time goes instead")
    args = parser.parse_args(arguments)
    try:
        if args.profile:
            print(profile(args.size, *parse_case(args.profile)))
            return 0
        for case, batch in map(parse_case, args.case or SIZES[args.size].cases):
            line = row(args.size, case, batch, max(args.rounds, 1), args.clock)
            print("  ".join(f"{key}={value}" for key, value in line.items()), flush=True)
            if args.out:
                add(line, args.out / "table.csv")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def add(line: dict[str, Any], path: Path) -> None:
    """Append a line to a CSV file, with a header if the file is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(line), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(line)


if __name__ == "__main__":
    sys.exit(main())
