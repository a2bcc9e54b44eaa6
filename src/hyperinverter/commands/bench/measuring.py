"""Time, memory, arithmetic and operators of a case, ours against the slow obvious way."""

from __future__ import annotations

import functools
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import DeviceType
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hyperinverter.commands.bench.cases import Side, make_model, work
from hyperinverter.contracts import UserError
from hyperinverter.ops.policy import GPU, policy
from hyperinverter.system.machine import (
    code_state,
    cores,
    cpu_name,
    gpu_facts,
    keep_freed_memory,
    peak_ram_bytes,
)

Precision = Literal["fp32", "tf32", "bf16"]


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
        self.total += func.namespace != "prim"  # those ask a tensor without content for its device
        return func(*args, **(kwargs or {}))


def count(size: str, case: str, batch: int, side: Side, device: str = "cpu") -> Count:
    """Count FLOPs and operators of a case on tensors without content: no time, no memory.

    FLOPs are those of this device: a processor has shorter convolutions. Operators are counted as on a GPU: one
    grouped convolution for a batch of kernels, a batch drawn at once, features in the layout they come in. Loading
    photos has neither.
    """
    if case == "data":
        return Count(0.0, 0)
    with FakeTensorMode():
        run = work(case, batch, side, make_model(size))
        # One sample at a time: PyTorch counts the gradient of a grouped convolution's kernels once per pair of groups.
        own = policy(per_sample="loop") if device == "cpu" else policy(per_sample="loop", winograd="never")
        with own, FlopCounterMode(display=False) as flops:
            run()
        with policy(GPU, graphs=False), _Operators() as operators:  # there is nothing to record
            run()
    return Count(flops.get_total_flops() / 1e9, operators.total)


@dataclass(frozen=True)
class Place:
    """Where and how both sides run."""

    device: str = "cpu"  # or "cuda"
    precision: Precision = "fp32"
    clock: str = "wall"

    @property
    def half(self) -> bool:
        return self.precision == "bf16"

    def seconds(self, function: Callable[[], object]) -> float:
        """Run ``function``, with the device's queue empty at both ends."""
        now = time.process_time if self.clock == "processor" else time.perf_counter
        self.wait()
        start = now()
        function()
        self.wait()
        return now() - start

    def wait(self) -> None:
        """Until the device has done all it was asked for."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def prepare(self) -> None:
        """Choose the precision of float32 products, for this process."""
        torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = self.precision == "tf32"


def machine_peak(place: Place, seconds: float = 0.3) -> float:
    """Return GFLOP per second of the faster of a large matrix product and a wide 3x3 convolution."""
    side = 8192 if place.device == "cuda" else 1024
    images = 64 if place.device == "cuda" else 1
    dtype = torch.bfloat16 if place.half else torch.float32
    x = torch.randn(images, 512, 32, 32, device=place.device, dtype=dtype)
    weight = torch.randn(512, 512, 3, 3, device=place.device, dtype=dtype)
    a = torch.randn(side, side, device=place.device, dtype=dtype)
    candidates: list[tuple[float, Callable[[], Tensor]]] = [
        (2 * side**3, lambda: a @ a),
        (2 * images * 512 * 512 * 9 * 1024, lambda: F.conv2d(x, weight, padding=1)),
    ]
    best = 0.0
    with torch.no_grad():
        for operations, function in candidates:
            function()
            taken: list[float] = []
            while sum(taken) < seconds:
                taken.append(place.seconds(function))
            best = max(best, operations / statistics.median(taken) / 1e9)
    return best


def measure(size: str, case: str, batch: int, rounds: int, place: Place) -> dict[str, float]:
    """Time ours and the reference in turns; one round to warm up unless there is only one."""
    place.prepare()
    torch.manual_seed(0)
    model = make_model(size, place.device)
    sides: tuple[Side, Side] = ("ours", "reference")
    runs = {side: work(case, batch, side, model, place.half) for side in sides}
    taken: dict[str, list[float]] = {side: [] for side in sides}
    if rounds > 1:
        for run in runs.values():
            run()
    for _ in range(rounds):
        for side in sides:
            taken[side].append(place.seconds(runs[side]))
    ours, reference = (statistics.median(taken[side]) for side in sides)
    pairs = [slow / fast for fast, slow in zip(taken["ours"], taken["reference"], strict=True)]
    return {
        "seconds": ours,
        "reference_seconds": reference,
        "ratio": reference / ours,
        "ratio_low": min(pairs),
        "ratio_high": max(pairs),
        "machine_gflops": machine_peak(place),
    }


def peak_memory(size: str, case: str, batch: int, side: Side, place: Place) -> dict[str, float]:
    """Run a case once; return the peak, of this process or of the GPU, and what of it came after the model was built.

    In MB; on a GPU also the kernels that one more run launches.
    """
    place.prepare()
    torch.manual_seed(0)
    run = work(case, batch, side, make_model(size, place.device), place.half)
    before = _held(place)
    run()
    place.wait()
    peak = _held(place)
    launched = {"launches": float(launches(run))} if place.device == "cuda" else {}
    return {"peak_mb": peak, "beyond_model_mb": peak - before, **launched}


def _held(place: Place) -> float:
    held = torch.cuda.max_memory_allocated() if place.device == "cuda" else peak_ram_bytes()
    return held / 1e6


def launches(run: Callable[[], object]) -> int:
    """Kernels that a call has a GPU run, copies and fills not counted."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    kernels = [event for event in recorded.events() if event.device_type == DeviceType.CUDA]
    return sum(not event.name.startswith(("Memcpy", "Memset")) for event in kernels)


@functools.cache  # what was loaded counts, not what the checkout becomes during an hour of measuring
def machine() -> dict[str, str | int]:
    """Say what ran this, without names of machines or people."""
    code = code_state()
    commit = str(code["commit"] or "")[:7]
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit + ("" if code["clean"] else "+changes") if commit else "",
        **gpu_facts(),
    }


def row(size: str, case: str, batch: int, rounds: int, place: Place) -> dict[str, Any]:
    """Measure one case, every measurement in its own process, and return its line of the table."""
    timed = _apart("measure", size, case, batch, rounds, place)
    memory = {side: _apart("peak_memory", size, case, batch, side, place) for side in ("ours", "reference")}
    counted, slow = (_apart("count", size, case, batch, side, place.device) for side in ("ours", "reference"))
    peak, slow_peak = memory["ours"]["peak_mb"], memory["reference"]["peak_mb"]
    beyond, slow_beyond = (memory[side]["beyond_model_mb"] for side in ("ours", "reference"))
    launched, slow_launched = (memory[side].get("launches", "") for side in ("ours", "reference"))
    share = counted["gflop"] / timed["seconds"] / timed["machine_gflops"]  # of the machine's own peak
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
        "gflop": f"{counted['gflop']:.4g}",
        "reference_gflop": f"{slow['gflop']:.4g}",
        "machine_gflops": f"{timed['machine_gflops']:.4g}",
        "share_of_machine": f"{share:.3g}",
        "operators": int(counted["operators"]),
        "reference_operators": int(slow["operators"]),
        "launches": launched,
        "reference_launches": slow_launched,
        "rounds": rounds,
        "clock": place.clock,
        "device": place.device,
        "precision": place.precision,
        **machine(),
    }


def _apart(function: str, *arguments: object) -> dict[str, float]:
    """Run ``measure``, ``peak_memory`` or ``count`` in a process of its own."""
    # Forks of a process that has imported everything and computed nothing: the threads of PyTorch in this one would
    # not survive a fork, and its child would wait for them for ever.
    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload([__name__])
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
    keep_freed_memory()  # as in training: for both sides
    if function == "count":
        sender.send(asdict(count(*arguments)))
    else:
        sender.send(measure(*arguments) if function == "measure" else peak_memory(*arguments))


def profile(size: str, case: str, batch: int, place: Place) -> str:
    """Return PyTorch's table of where the time of one run of ours goes, after one to warm up."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    place.prepare()
    run = work(case, batch, "ours", make_model(size, place.device), place.half)
    run()
    on_gpu = place.device == "cuda"
    with profiler(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as recorded:
        run()
        place.wait()
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    averages, wide = recorded.key_averages(), {"max_name_column_width": 100}
    tables = [averages.table(sort_by=key, row_limit=30, **wide)]
    if on_gpu:
        tables.append(averages.table(sort_by="self_cpu_time_total", row_limit=20, **wide))
    return "\n\n".join(map(str, tables))
