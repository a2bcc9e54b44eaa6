"""All measurements on a GPU, in one process and within ten minutes: the folder of outputs/published/bench_gpu.

    python -m hyperinverter_recipes.gpu --out outputs/published/bench_gpu
    python -m hyperinverter_recipes.gpu --rehearse --out FOLDER        the same on a processor, with tiny networks

Leaves ``table.csv`` (ours against the method written the obvious way, in turns; the host's seconds are those until
it has asked the GPU for everything), ``policies.csv`` (other choices of ``ops.policy``), ``profile.txt`` (where a
training step's time goes) and ``README.md`` (the machine, what was wanted, what came out, and what became of each
part). The most important parts come first, each with a share of the time; every line is written at once. A part that
fails is named, the others go on, and the exit code is 1. Weights are random.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hyperinverter.commands.bench import add
from hyperinverter.commands.bench.cases import Run, Side, make_model, parse_case, work
from hyperinverter.commands.bench.measuring import (
    Place,
    Precision,
    count,
    launches,
    machine,
    machine_peak,
    profile,
)
from hyperinverter.contracts import UserError
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.ops.policy import GPU, policy
from hyperinverter_recipes.budget import Limit, Outcome, Part, Share, share_out

SIDES: tuple[Side, Side] = ("ours", "reference")
PHOTOS = 2_800_000  # of phase II, faces


class Case(NamedTuple):
    """What is measured."""

    size: str
    precision: Precision
    name: str  # NAME:BATCH of ``hyperinverter bench``


STEP = Case("full1024", "bf16", "step:8")
PLAN = [
    Case("full1024", "bf16", "phase2_replayed:1"),
    STEP,
    Case("full1024", "bf16", "phase2:8"),
    Case("full1024", "bf16", "edit_replayed:1"),
    Case("full1024", "bf16", "edit:1"),
    Case("full1024", "bf16", "phase2:1"),
    Case("full1024", "fp32", "phase2_replayed:1"),
    Case("full1024", "fp32", "phase2:8"),
    Case("full1024", "bf16", "step_checkpointing:8"),
    Case("full1024", "bf16", "synthesis:8"),
    Case("full256", "bf16", "step:8"),
    Case("full256", "bf16", "phase2_replayed:1"),
]
CHOICES: list[dict[str, Any]] = [
    {},
    {"regressors": "loop"},
    {"equal_products": "each"},
    {"equal_products": "together"},
    {"per_sample": "loop"},
    {"per_sample": "grouped"},
    {"factored": "kernels"},
    {"factored": "mixing"},
    {"channels_last": "never"},
    {"channels_last": "always"},
    {"fused": False},
]


CHOSEN = [STEP, PLAN[0], PLAN[2]]  # measured under every choice
TO_SHARE = 0.85  # of the time; the rest is for calls that take longer than what was left of a share


class Wanted(NamedTuple):
    """A figure that the project set itself."""

    what: str
    case: Case
    column: str
    limit: float
    at_least: bool


WANTED = [
    Wanted("inversion of one photo, 1024 px: seconds", PLAN[0], "seconds", 0.030, False),
    Wanted("inversion of 8: times the reference's speed", PLAN[2], "ratio", 3.0, True),
    Wanted("training step of 8, 1024 px: times the reference's speed", STEP, "ratio", 3.0, True),
    Wanted("training step: share of the reference's memory", STEP, "memory_share", 0.5, False),
    Wanted("training step: share of the measured matrix peak", STEP, "share_of_machine", 0.45, True),
    Wanted("an edit: times a plain synthesis", PLAN[4], "edit_cost", 1.2, False),
]


@dataclass
class Bench:
    """The measurements of one folder.

    Args:
        out: The folder.
        device: "cuda" or "cpu".
        seconds: After which the process ends; the parts share a little less.
        tiny: Networks of 16 px in place of all others, to rehearse.
        rounds: Calls of each side, after some to warm up; fewer where a share is used up.
    """

    out: Path
    device: str
    seconds: float
    tiny: bool
    rounds: int

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        self.rows: dict[Case, dict[str, Any]] = {}
        self.peaks: dict[str, float] = {}
        self.outcomes: list[Outcome] = []
        self._model: tuple[str, HyperInverter] | None = None
        self._writing = threading.Lock()

    def run(self) -> bool:
        """Measure everything that there is time for; return whether nothing failed."""
        self.out.mkdir(parents=True, exist_ok=True)
        with Limit(self.seconds, self._cut_off):
            share_out(self.parts(), self.seconds * TO_SHARE, after_each=self._after)
            self._report()
        return not any(outcome.failed for outcome in self.outcomes)

    def parts(self) -> list[Part]:
        """All measurements, the most important first."""
        parts = [Part(_name(case), 2 if case == STEP else 1, partial(self._measure, case)) for case in PLAN]
        choices = [Part(f"choices of {_name(case)}", 1.5, partial(self._choices, case)) for case in CHOSEN]
        profile = Part(f"profile of {_name(STEP)}", 0.5, self._profile)
        # what a step's time goes into comes before the less important cases
        return [*parts[:2], profile, choices[0], *parts[2:], *choices[1:]]

    def _measure(self, case: Case, share: Share) -> None:
        self.rows[case] = self._row(case, share)
        add(self.rows[case], self.out / "table.csv")

    def _after(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if outcome.failed:
            print(f"{outcome.name} {outcome.said}", file=sys.stderr, flush=True)
        self._report()  # before the GPU is asked for anything: after some faults it answers no more
        if outcome.failed:
            self._model = None  # and what it holds on the GPU
            gc.collect()
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def _cut_off(self) -> None:
        names = [part.name for part in self.parts()][len(self.outcomes) :]
        said = "cut off: the time was up"
        self.outcomes += [Outcome(name, 0, 0, said, failed=True) for name in names]
        print(f"{names[0] if names else 'the report'} {said}", file=sys.stderr, flush=True)
        self._report()

    def _place(self, case: Case) -> Place:
        place = Place(self.device, case.precision)
        place.prepare()
        if case.precision not in self.peaks:
            self.peaks[case.precision] = machine_peak(place)
        return place

    def _size(self, case: Case) -> str:
        return "smoke" if self.tiny else case.size

    def _works(self, case: Case, place: Place) -> dict[Side, Run]:
        size, (name, batch) = self._size(case), self._parsed(case)
        if self._model is None or self._model[0] != size:
            self._model = None
            torch.manual_seed(0)
            self._model = (size, make_model(size, self.device))
        model = self._model[1]
        model.use_checkpointing(False).half_precision(False).train(False)
        return {side: work(name, batch, side, model, place.half) for side in SIDES}

    def _parsed(self, case: Case) -> tuple[str, int]:
        name, batch = parse_case(case.name)
        return name, min(batch, 2) if self.tiny else batch

    def _row(self, case: Case, share: Share) -> dict[str, Any]:
        place, (name, batch) = self._place(case), self._parsed(case)
        runs = self._works(case, place)
        memory: dict[Side, float | None] = {
            "ours": self._peak_mb(runs["ours"], place, share),
            "reference": None,
        }
        if not share.over("the reference"):
            memory["reference"] = self._peak_mb(runs["reference"], place, share)
        there = [side for side in SIDES if memory[side] is not None]
        taken = self._in_turns({side: runs[side] for side in there}, place, share)
        asked = None if share.over("the host's time") else _host_seconds(runs["ours"], place)
        ours, reference = (statistics.median(taken[side]) if side in taken else None for side in SIDES)
        counted = (
            None if share.over("its arithmetic") else count(self._size(case), name, batch, "ours", "cuda")
        )
        of_ours, of_reference = memory["ours"], memory["reference"]
        row: dict[str, Any] = {
            "size": self._size(case),
            "case": name,
            "batch": batch,
            "precision": case.precision,
            "seconds": ours,
            "reference_seconds": reference,
            "ratio": reference / ours if ours and reference else None,
            "host_seconds": asked,
            "images_per_second": batch / ours if ours else None,
            "peak_mb": of_ours,
            "reference_peak_mb": of_reference,
            "memory_share": of_ours / of_reference if of_ours and of_reference else None,
            "gflop": counted.gflop if counted else None,
            "machine_gflops": self.peaks[case.precision],
            "share_of_machine": counted.gflop / ours / self.peaks[case.precision]
            if ours and counted
            else None,
            "operators": counted.operators if counted else None,
            "launches": self._launched(runs["ours"]) if ours else None,
            "reference_launches": self._launched(runs["reference"]) if reference else None,
            "edit_cost": ours / reference if name.startswith("edit") and ours and reference else None,
            "rounds": len(taken.get("ours", ())),
        }
        shown = {
            key: "" if v is None else f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()
        }
        print("  ".join(f"{key}={value}" for key, value in shown.items() if value != ""), flush=True)
        return {**shown, **machine()}

    def _in_turns(self, runs: dict[Side, Run], place: Place, share: Share) -> dict[Side, list[float]]:
        taken: dict[Side, list[float]] = {side: [] for side in runs}
        for run in runs.values():  # memory was given back to the GPU before: the next call asks for it again
            if share.over("a call of each before the rounds"):
                break
            run()
        for number in range(self.rounds):
            if number and share.over(f"rounds from {number + 1} on"):
                break
            for side, run in runs.items():
                taken[side].append(place.seconds(run))
        return taken

    def _peak_mb(self, run: Run, place: Place, share: Share) -> float | None:
        """Most memory of the GPU while a call warms up, in MB; None if it has not enough, nan on a processor."""
        if place.device != "cuda":
            run()
            return float("nan")
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            run()
            place.wait()
            if not share.over("a second call to warm up"):
                run()
            place.wait()
        except torch.cuda.OutOfMemoryError:
            share.left_out.append("a side that needs more memory than the GPU has")
            return None
        return torch.cuda.max_memory_allocated() / 1e6

    def _launched(self, run: Run) -> int | None:
        return launches(run) if self.device == "cuda" else None

    def _choices(self, case: Case, share: Share) -> None:
        """Ours under other choices of the policy, in turns with the one that is made."""
        place = self._place(case)

        def under(choice: dict[str, Any]) -> Callable[[], object]:
            with policy(**choice):
                run = self._works(case, place)["ours"]  # what is replayed is recorded under the choice, too

            def chosen() -> None:
                with policy(**choice):
                    run()

            return chosen

        plainly = under({})
        for choice in CHOICES:
            shown = " ".join(f"{key}={value}" for key, value in choice.items()) or "as it is"
            if share.over(shown):
                continue
            wrong, taken = "", []
            try:
                run = under(choice)
                place.seconds(run)
                for number in range(self.rounds):
                    if number and share.over(f"rounds of {shown} from {number + 1} on"):
                        break
                    taken.append((place.seconds(plainly), place.seconds(run)))
            except (torch.cuda.OutOfMemoryError, ValueError) as error:  # too large, or not for this layout
                wrong = str(error).splitlines()[0]
            plain, other = (statistics.median(side) for side in zip(*taken, strict=True)) if taken else (0, 0)
            row = {
                "size": self._size(case),
                "case": case.name,
                "precision": case.precision,
                "choice": shown,
                "seconds": f"{other:.4g}" if taken else "",
                "times_as_it_is": f"{other / plain:.3g}" if taken else "",
                "error": wrong,
            }
            add(row, self.out / "policies.csv")
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)

    def _profile(self, share: Share) -> None:
        name, batch = self._parsed(STEP)
        self._model = None  # the profile makes its own
        gc.collect()
        text = profile(self._size(STEP), name, batch, self._place(STEP))
        (self.out / "profile.txt").write_text(f"{STEP}\n{text}\n", encoding="utf-8")

    def _report(self) -> None:
        facts = {key: value for key, value in machine().items() if value != ""}
        peaks = ", ".join(f"{key} {value / 1000:.4g}" for key, value in self.peaks.items())
        seconds = time.perf_counter() - self.began
        lines = [
            "# On a GPU",
            "",
            "    python -m hyperinverter_recipes.gpu --out outputs/published/bench_gpu",
            "",
            ", ".join(f"{key} {value}" for key, value in facts.items()) + f"; {seconds:.0f} seconds in all.",
            f"Measured peak of matrix products and convolutions, TFLOP/s: {peaks}.",
            *(["A rehearsal on a processor with tiny networks: no figure means anything."] * self.tiny),
            "",
            "| wanted | limit | measured | |",
            "| --- | --- | --- | --- |",
            *map(self._verdict, WANTED),
            "",
            *self._hours(),
            "| part | seconds | its share | |",
            "| --- | --- | --- | --- |",
            *(f"| {o.name} | {o.seconds:.1f} | {o.share:.1f} | {o.said} |" for o in self.outcomes),
            "",
        ]
        with self._writing:
            (self.out / "README.md").write_text("\n".join(lines), encoding="utf-8")

    def _verdict(self, wanted: Wanted) -> str:
        found = str(self.rows.get(wanted.case, {}).get(wanted.column, ""))
        side = "at least" if wanted.at_least else "at most"
        verdict = "not measured"
        if found not in ("", "nan"):
            met = float(found) >= wanted.limit if wanted.at_least else float(found) <= wanted.limit
            verdict = "yes" if met else "no"
        return f"| {wanted.what} | {side} {wanted.limit:g} | {found} | {verdict} |"

    def _hours(self) -> list[str]:
        """Hours of the paper's faces at the speed of the step that was measured, if it was."""
        speed = str(self.rows.get(STEP, {}).get("images_per_second", ""))
        if not speed:
            return []
        hours = PHOTOS / float(speed) / 3600
        return [
            f"At {speed} photos/s, the {PHOTOS:,} photos of the paper's phase II take {hours:.3g} hours, without "
            "comparing networks, discriminator and optimizer; what these add is counted by "
            "`python -m hyperinverter_recipes.hours`.",
            "",
        ]


def _host_seconds(run: Run, place: Place) -> float:
    """Seconds until the host has asked for everything; where they are all there is, the GPU waits for it."""
    place.wait()
    began = time.perf_counter()
    run()
    asked = time.perf_counter() - began
    place.wait()
    return asked


def _name(case: Case) -> str:
    return f"{case.name} {case.size} {case.precision}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure everything there is to measure on a GPU.")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there, or is empty")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which the process ends")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rehearse", action="store_true", help="on a processor, with tiny networks")
    args = parser.parse_args(arguments)
    try:
        if not args.rehearse and not torch.cuda.is_available():
            raise UserError("PyTorch sees no CUDA GPU; --rehearse goes through everything on a processor")
        if args.out.is_dir() and any(args.out.iterdir()):
            raise UserError(f"{args.out} is not empty: choose another --out, so that two machines do not mix")
        if not args.minutes > 0:
            raise UserError(f"--minutes must be above 0, got {args.minutes:g}")
        device = "cpu" if args.rehearse else "cuda"
        with policy(GPU) if args.rehearse else nullcontext():
            bench = Bench(args.out, device, args.minutes * 60, args.rehearse, max(args.rounds, 1))
            complete = bench.run()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(args.out / "README.md")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
