"""The estimate follows what a step really holds, costs no memory itself, and stops what cannot fit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hyperinverter.contracts import UserError
from hyperinverter.networks.discriminator import Discriminator
from hyperinverter.networks.generator import Generator
from hyperinverter.tasks.phase2 import PhaseIIHyper
from hyperinverter.training import memory
from hyperinverter.training.memory import MemoryNeed, check_memory, memory_need

ROOT = Path(__file__).resolve().parents[2]
Make = Callable[..., PhaseIIHyper]


def test_ledger_knows_what_is_held_at_once() -> None:
    kilobyte = 256  # float32 numbers
    with FakeTensorMode(), memory._Ledger([]) as ledger:
        a = torch.empty(10 * kilobyte)
        b = a * 2
        assert ledger.held == 20 * 1024
        view = b[: kilobyte * 4].view(4, -1)  # a view holds its whole source and nothing more
        del b
        assert ledger.held == 20 * 1024
        del view
        assert ledger.held == 10 * 1024
        a.add_(1)  # in place: nothing new
        assert (ledger.held, ledger.peak) == (10 * 1024, 20 * 1024)


def test_ledger_sees_what_autograd_keeps_and_drops() -> None:
    with FakeTensorMode():
        w = torch.empty(1000, requires_grad=True)
        with memory._Ledger([w]) as ledger:
            x = torch.empty(1000)
            y = ((x * w).exp() * w).sum()  # keeps x and exp for the backward pass
            kept = ledger.held
            y.backward()
            del y
            assert kept == 2 * 4000 + 4
            assert ledger.held == 2 * 4000  # x and the gradient


def test_weights_gradients_and_state_are_counted_and_the_task_is_left_alone(make_phase2: Make) -> None:
    task = make_phase2()
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    random = torch.get_rng_state()
    need = memory_need(task, 2)
    trained = sum(p.numel() for p in task.inverter.trainable_parameters())
    held = task.inverter.generator
    everything = sum(
        t.numel() * t.element_size()
        for m in (task, held, task.metrics)
        for t in [*m.parameters(), *m.buffers()]
    )
    assert need.gradients == 4 * trained
    assert need.optimizer == 8 * trained  # Adam's two moments
    assert need.weights == everything
    assert need.activations > 0
    assert need.total == sum(need.parts().values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())
    assert all(p.grad is None and p.device.type == "cpu" for p in task.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_activations_grow_with_the_batch_and_nothing_else_does(make_phase2: Make) -> None:
    one, two, four = (memory_need(make_phase2(), size) for size in (16, 32, 64))
    assert one.weights == four.weights
    assert one.gradients == four.gradients
    assert four.activations - two.activations == pytest.approx(
        2 * (two.activations - one.activations), rel=0.1
    )
    assert four.activations > 2.5 * one.activations


def test_half_precision_and_several_processes(make_phase2: Make) -> None:
    whole, half = memory_need(make_phase2(), 32), memory_need(make_phase2(), 32, precision="bf16-mixed")
    assert 0.4 * whole.activations < half.activations < 0.9 * whole.activations
    shared = memory_need(make_phase2(), 32, processes=2)
    assert shared.total - whole.total == pytest.approx(whole.gradients, abs=5e6)  # the copy that is exchanged


def test_discriminator_costs_weights_state_and_its_own_pass(make_phase2: Make, generator: Generator) -> None:
    discriminator = Discriminator(generator.config)
    size = 4 * sum(parameter.numel() for parameter in discriminator.parameters())
    without = memory_need(make_phase2(), 16)
    joined = memory_need(make_phase2(discriminator=discriminator, adv=0.1), 16)
    assert joined.gradients - without.gradients == size
    assert joined.optimizer - without.optimizer == 2 * size
    small = memory_need(make_phase2(discriminator=discriminator, adv=0.1, adv_batch_size=4), 16)
    assert small.activations <= joined.activations


def test_far_too_little_memory_is_told_with_a_way_out() -> None:
    need = MemoryNeed(
        weights=2_000_000_000, gradients=10**9, optimizer=2 * 10**9, activations=10**9, process=0
    )
    check_memory(need, 6_000_000_000, "")
    check_memory(need, 5_100_000_000, "")  # within what an estimate can be wrong
    with pytest.raises(
        UserError,
        match=r"needs about 6.0 GB \(weights 2.00.*, and 4.0 GB are there: halve it; check_memory=false",
    ):
        check_memory(need, 4_000_000_000, "halve it")


@pytest.mark.parametrize(("gigabytes", "chosen"), [(1, "keep_freed_memory"), (4, "return_freed_memory")])
def test_large_trainings_give_freed_memory_back(
    gigabytes: int, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    for name in ("keep_freed_memory", "return_freed_memory"):
        monkeypatch.setattr(memory, name, lambda name=name: called.append(name))
    memory.prepare_allocator(MemoryNeed(0, 0, 0, gigabytes * 10**9, 0))
    assert called == [chosen]


MEASURE = """
import json, sys, torch
from hyperinverter import assembly, config
from hyperinverter.system.machine import peak_ram_bytes, resident_bytes
from hyperinverter.training import memory
cfg = config.compose(sys.argv[1:])
task = assembly.build(cfg).task
need = memory.memory_need(task, cfg.phase.batch_size)
base = resident_bytes()
optimizer = task.configure_optimizers()
photo = torch.rand(cfg.phase.batch_size, 3, 64, 64) * 2 - 1
task.train()
for _ in range(3):
    total, _ = task.loss(task.draw(photo), photo)
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    del total
peak = peak_ram_bytes()  # of this process, whatever the one that started it holds
print(json.dumps({"grown": peak - base, "peak": peak, "parts": need.parts()}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("typed", [["phase=1", "phase.batch_size=96"], ["phase=2", "phase.batch_size=64"]])
def test_estimate_is_within_a_fifth_of_what_a_run_takes(typed: list[str]) -> None:
    command = [sys.executable, "-c", MEASURE, *typed]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=ROOT, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    estimate = sum(told["parts"].values())
    assert estimate == pytest.approx(told["peak"], rel=0.2)
    grown = estimate - told["parts"]["process"] - told["parts"]["weights"]
    assert grown == pytest.approx(told["grown"], rel=0.25)  # without the part that needs no estimating
