"""Hours to expect of the paper's recipes on GPUs that nobody here has: counted work and stated assumptions.

    python -m hyperinverter_recipes.hours FOLDER --out outputs/published/hours

FOLDER gets random weights under the names of the published files (about 2 GB); from them ``train.py``'s own parts are
built: networks, comparing networks, discriminator. Every kind of training step is then played, forward, backward and
optimizer, with tensors that have shapes but no content. Each operation is given the time of what it waits for longest:

    arithmetic   its multiplications and additions at ``ARITHMETIC`` of the card's peak for this precision
    memory       its inputs and outputs, read and written once, at ``BANDWIDTH`` of the card's bandwidth
    launching    ``LAUNCH`` seconds, the host's time to ask for it

and their sum is the step; R1, which is computed in float32, has tf32's peak. Loading, validation, panels and
checkpoints are not counted. Peaks are the makers'.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import conv_flop_count, flop_registry

from hyperinverter import assembly, config
from hyperinverter.contracts import UserError
from hyperinverter.ops.policy import GPU, policy
from hyperinverter.tasks.common import PhaseTask
from hyperinverter.tasks.phase2 import PhaseIIHyper
from hyperinverter.training.memory import without_content
from hyperinverter_recipes.paper_scale import RESOLUTION, write_weights

ARITHMETIC, BANDWIDTH, LAUNCH = 0.5, 0.7, 5e-6


@dataclass(frozen=True)
class Card:
    """A GPU as its maker describes it."""

    tf32: float  # FLOP per second, dense
    bf16: float
    bandwidth: float  # bytes per second


CARDS = {"A100 80 GB": Card(156e12, 312e12, 2.04e12), "H100 SXM": Card(495e12, 989e12, 3.35e12)}
PRECISIONS = ("tf32", "bf16")  # PyTorch computes the convolutions of 32-true in tf32
SETTINGS = {"tf32": "32-true", "bf16": "bf16-mixed"}


@dataclass
class Work:
    """Operations of a step: (FLOP, bytes) of each."""

    operations: list[tuple[float, float]] = field(default_factory=list)

    def seconds(self, card: Card, precision: str) -> float:
        """The time of all operations, one after the other."""
        peak, rate = ARITHMETIC * getattr(card, precision), BANDWIDTH * card.bandwidth
        return sum(max(flop / peak, size / rate, LAUNCH) for flop, size in self.operations)

    @property
    def flop(self) -> float:
        return sum(flop for flop, _ in self.operations)

    @property
    def bytes(self) -> float:
        return sum(size for _, size in self.operations)


class _Ledger(TorchDispatchMode):
    """Notes the work of every operation that does some; views do none."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "prim" or func.is_view or func.overloadpacket._qualified_op_name in _FREE:
            return result
        moved = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        size = sum(tensor.numel() * tensor.element_size() for tensor in moved)
        self.work.operations.append((_flop(func, args, kwargs or {}, result), float(size)))
        return result


_FREE = {"aten::detach", "aten::empty", "aten::empty_like", "aten::new_empty", "aten::_unsafe_view"}


def _flop(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    if func is torch.ops.aten.convolution_backward.default:
        # counted by hand: PyTorch counts the gradient of a grouped convolution's kernels once per pair of groups
        grad, x, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
        forward = conv_flop_count(list(x.shape), list(weight.shape), list(grad.shape), transposed=transposed)
        return float(forward * (wanted[0] + wanted[1]))
    counter = flop_registry.get(func.overloadpacket)
    return 0.0 if counter is None else float(counter(*args, **kwargs, out_val=result))


Step = Callable[[PhaseTask, Tensor, bool], None]


def played(task: PhaseTask, batch: int, half: bool, step: Step) -> Work:
    """The work of one step of ``task`` on ``batch`` photos."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        policy(GPU),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # about what only matters where numbers are computed
        twin = without_content(task, mode).train()
        side: Any = twin.inverter.resolution
        photo = torch.empty(batch, 3, side, side)
        with _Ledger() as ledger:
            step(twin, photo, half)
    return ledger.work


def _autocast(half: bool) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=half)


def _plain(task: PhaseTask, photo: Tensor, half: bool) -> None:
    with _autocast(half):
        total = task.forward_pass(photo).total
    total.backward()
    _optimize(task.inverter.parameters())


def _adversarial(task: PhaseTask, photo: Tensor, half: bool) -> None:
    assert isinstance(task, PhaseIIHyper)
    assert task.discriminator is not None
    task.discriminator.requires_grad_(False)
    with _autocast(half):
        done = task.forward_pass_with_discriminator(photo)
    done.total.backward()
    task.discriminator.requires_grad_(True)
    with _autocast(half):
        loss = task.discriminator_pass(photo, done.image.detach())
    loss.backward()
    _optimize([*task.inverter.parameters(), *task.discriminator.parameters()])


def _penalty(task: PhaseTask, photo: Tensor, half: bool) -> None:
    assert isinstance(task, PhaseIIHyper)
    assert task.discriminator is not None
    with _autocast(half):
        loss = task.penalty_pass(photo)
    loss.backward()


def _optimize(parameters: Any) -> None:
    """As much memory traffic as Adam has: weight, gradient and two means read, all but the gradient written."""
    trained = [p for p in parameters if p.grad is not None]
    for _ in range(3):
        torch._foreach_add_([p.data for p in trained], [p.grad for p in trained])


@dataclass(frozen=True)
class Recipe:
    """One phase of one experiment: its kinds of steps with the photos that each sees."""

    domain: str
    phase: int
    steps: dict[str, tuple[float, int]]  # kind -> photos, batch


def recipe_of(cfg: config.Config, domain: str, phase: int) -> Recipe:
    """Read the lengths off a configuration."""
    photos, batch = 1000 * cfg.phase.kimg, cfg.phase.batch_size
    if phase == 1 or not cfg.loss.adv:
        return Recipe(domain, phase, {"plain": (photos, batch)})
    before = 1000 * cfg.loss.adv_from_kimg
    small = cfg.loss.adv_batch_size or batch
    after = photos - before
    return Recipe(
        domain,
        phase,
        {
            "plain": (before, batch),
            "adversarial": (after, small),
            "penalty": (after / cfg.loss.r1_every, small),
        },
    )


STEPS: dict[str, Step] = {"plain": _plain, "adversarial": _adversarial, "penalty": _penalty}


def task_of(domain: str, phase: int, folder: Path) -> tuple[config.Config, PhaseTask]:
    """What ``train.py experiment=paper_DOMAIN phase=PHASE`` trains, around the random weights in ``folder``."""
    places = write_weights(domain, RESOLUTION[domain], folder)
    typed = [f"experiment=paper_{domain}", f"phase={phase}", "trainer=cpu", "check_memory=false", *places]
    cfg = config.compose([entry for entry in typed if phase == 2 or not entry.startswith("phase.from_run")])
    config.validate(cfg)
    generator = assembly.generator(cfg)
    cfg = assembly.settle(cfg, generator, folder)
    task = assembly.build(cfg, generator).task
    assert isinstance(task, PhaseTask)
    return cfg, task


def rows_of(domain: str, phase: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each precision and card: work of a photo, speed, hours."""
    cfg, task = task_of(domain, phase, folder)
    recipe, rows = recipe_of(cfg, domain, phase), []
    for precision in PRECISIONS:
        works = {
            kind: played(task, batch, precision == "bf16", STEPS[kind])
            for kind, (_, batch) in recipe.steps.items()
        }
        for name, card in CARDS.items():
            seconds = {
                kind: photos / batch * works[kind].seconds(card, "tf32" if kind == "penalty" else precision)
                for kind, (photos, batch) in recipe.steps.items()
            }
            _, batch = recipe.steps["plain"]
            rows.append(
                {
                    "experiment": f"paper_{domain}",
                    "phase": phase,
                    "precision": SETTINGS[precision],
                    "card": name,
                    "tflop_per_photo": f"{works['plain'].flop / batch / 1e12:.3g}",
                    "gb_per_photo": f"{works['plain'].bytes / batch / 1e9:.3g}",
                    "operations_per_step": len(works["plain"].operations),
                    "photos_per_second": f"{batch / works['plain'].seconds(card, precision):.3g}",
                    **{
                        f"hours_{kind}": f"{seconds[kind] / 3600:.3g}" if kind in seconds else ""
                        for kind in STEPS
                    },
                    "hours": str(math.ceil(sum(seconds.values()) / 3600)),
                }
            )
            print("  ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Hours to expect of the paper's recipes, from counted work.")
    parser.add_argument("folder", type=Path, help="gets random weights, about 2 GB")
    parser.add_argument("--out", type=Path, help="folder that gets hours.csv")
    parser.add_argument("--domain", choices=sorted(RESOLUTION), action="append")
    args = parser.parse_args(arguments)
    try:
        rows = []
        for domain in args.domain or sorted(RESOLUTION):
            for phase in (1, 2):
                place = args.folder / domain
                place.mkdir(parents=True, exist_ok=True)
                rows += rows_of(domain, phase, place)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            with (args.out / "hours.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
