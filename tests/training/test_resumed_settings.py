"""Every setting that a resumed run takes really acts in it, and what it may not take leaves the run as it was."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_generator

from hyperinverter import config
from hyperinverter.checkpoints import load_generator, save_generator, save_model
from hyperinverter.contracts import UserError
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.networks.backbones import TinyBackbone
from hyperinverter.networks.encoders import WEncoder
from hyperinverter.tasks.phase2 import PhaseIIHyper
from hyperinverter.training import job as jobs
from hyperinverter.training.average import Average
from hyperinverter.training.checkpointing import Checkpoints
from hyperinverter.training.stopping import Interrupted
from hyperinverter.training.tracking import WandbTracker

# 16 photos in eight steps and two epochs, on networks as narrow as the options allow
BEFORE = [
    *("phase=2", "phase.kimg=0.016", "phase.epoch_kimg=0.008", "phase.batch_size=2", "phase.warmup_kimg=0"),
    *("logger=csv", "trainer.log_every=1", "loss.lpips=0", "loss.id=0", "data.num_workers=0"),
    *("loss.adv=0.01", "loss.adv_from_kimg=0.004", "trainer.save_every_kimg=0.1", "data.flip=true"),
    *("hypernet.hidden_dim=4", "hypernet.channels=16", "hypernet.extractor_channels=8", "features=8"),
    *("data.num_train=12", "data.decoded=true", "panels.num_saved=3", "panels.num_photos=3"),
]
# A new value for every key that takes one. The run is resumed once with all of them.
NEW: dict[str, Any] = {
    **{"name": "renamed", "group": "grouped", "check_memory": False},
    **{"panels.num_photos": 2, "panels.num_saved": 1},
    **{"phase.kimg": 0.024, "phase.epoch_kimg": 0.012, "phase.batch_size": 4, "phase.lr_batch": 2},
    **{"phase.accumulate": 2, "phase.ema_kimg": 0.01, "phase.checkpointing": True},
    **{"phase.schedule": "constant", "phase.warmup_kimg": 0.012, "phase.rank_by": "test/psnr"},
    **{"phase.optimizer.lr": 0.002, "phase.optimizer.betas": [0.8, 0.9], "phase.optimizer.momentum": 0.5},
    **{"data.num_train": 10, "data.num_test": 2, "data.num_workers": 1, "data.flip": False},
    **{
        "data.decoded": False,
        "data.skip_unreadable": True,
        "features.rule": "fade",
        "method.edit_strength": 0.5,
        "method.edit_gain": 1.2,
        "domain.faces": False,
    },
    **{"loss.l2": 0.5, "loss.lpips": 0.1, "loss.lpips_share": 0.5, "loss.id": 0.2, "loss.adv": 0.02},
    **{"loss.adv_from_kimg": 0.002, "loss.adv_batch_size": 2, "loss.r1_gamma": 5.0, "loss.r1_every": 3},
    **{"loss.edit": 0.1, "loss.edit_share": 0.5, "loss.mirror": 0.1, "loss.mirror_share": 0.5},
    **{
        "judges.perceptual": "st_lpips_alex",
        "judges.lpips": "effnet_lite0",
        "judges.identity": "id_descriptor",
    },
    **{"trainer.deterministic": False, "trainer.max_epochs": 9, "trainer.limit_val_batches": 1},
    **{"trainer.limit_test_batches": 1, "trainer.limit_train_batches": 99, "trainer.log_every": 2},
    **{"trainer.save_every_kimg": 0.004, "trainer.timeout": 99},
    **{"logger.kind": "wandb"},
}
NEEDS_MORE = {
    # of another method: tests/tasks/test_wplus_task.py
    *("method.first_share", "method.deltas_share", "method.delta", "method.latent"),
    *("method.latent_lr", "method.latent_r1", "method.latent_r1_every"),
    # what one process on a processor without a network cannot show, and what other tests do
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.precision"),
    *("logger.project", "logger.entity", "logger.mode", "logger.timeout", "logger.artifacts", "logger.sweep"),
    *("data.root", "data.split", "paths.cache", "judges.lpips_path", "judges.identity_path"),
    *("resume", "debug", "hydra", "protocol", "phase.optimizer"),
    *("evaluation.protocol", "evaluation.n", "evaluation.save_images", "evaluation.time"),
}


@pytest.fixture(scope="module")
def generator_file(module_folder: Path) -> Path:
    """A generator so narrow that its discriminator costs nothing."""
    path = module_folder / "generator.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_generator(make_generator(32), path, {})
    return path


@pytest.fixture(scope="module")
def places(photo_folder: Path, generator_file: Path, module_folder: Path) -> list[str]:
    place = module_folder / "places"
    place.mkdir()
    generator = load_generator(generator_file)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = WEncoder(TinyBackbone(), generator.w_dim, head="flatten")
    save_model(WInverter(generator, encoder), place / "phase1.safetensors", {})
    files = [f"generator.path={generator_file}", f"phase.from_run={place / 'phase1.safetensors'}"]
    return [f"data.root={photo_folder}", f"paths.cache={place}", *files]


@pytest.fixture(scope="module")
def cut(places: list[str], module_folder: Path) -> Path:
    """A run that was stopped after three of eight steps."""
    folder = module_folder / "cut"
    count = PhaseIIHyper.count

    def stop(self: PhaseIIHyper, batch: Any) -> None:
        count(self, batch)
        if int(self.images_seen) == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhaseIIHyper, "count", stop)
        with pytest.raises(Interrupted):
            jobs.train(config.compose([*BEFORE, *places]), folder)
    return folder


class Seen:
    """What a resumed run was while it trained."""

    def __init__(self, job: jobs.Job, patch: pytest.MonkeyPatch) -> None:
        self.job, self.steps, self.saved = job, [], []
        self.rates: list[float] = []
        begin, step, save = jobs.Job._fit, PhaseIIHyper.training_step, Checkpoints.save_last

        def fit(this: jobs.Job, assembled: Any, *rest: Any) -> None:
            self.task, self.data = assembled.task, assembled.data
            begin(this, assembled, *rest)

        def training_step(task: PhaseIIHyper, batch: Any, index: int) -> Any:
            groups = [group for optimizer in task.trainer.optimizers for group in optimizer.param_groups]
            self.groups = [{k: v for k, v in group.items() if k != "params"} for group in groups]
            self.epoch = task.trainer.current_epoch
            self.steps.append((int(task.images_seen), list(batch["name"])))
            return step(task, batch, index)

        def save_last(this: Checkpoints, trainer: Any, task: Any, **options: Any) -> None:
            self.saved.append(int(task.images_seen))
            save(this, trainer, task, **options)

        patch.setattr(jobs.Job, "_fit", fit)
        patch.setattr(PhaseIIHyper, "training_step", training_step)
        patch.setattr(Checkpoints, "save_last", save_last)

    def callback(self, kind: type) -> Any:
        return next(c for c in self.job.trainer.callbacks if isinstance(c, kind))

    def card(self) -> dict[str, Any]:
        return json.loads((self.job.folder / "run.json").read_text())


@pytest.fixture(scope="module")
def resumed(cut: Path, refusals: dict[str, str], places: list[str], generator_file: Path) -> Seen:
    moved = cut.parent / "moved.safetensors"  # the same file elsewhere
    moved.write_bytes(generator_file.read_bytes())
    places = [*places, f"generator.path={moved}"]
    new = [f"{'+' if key.endswith('betas') else ''}{key}={config.quote(value)}" for key, value in NEW.items()]
    cfg = config.compose([*BEFORE, *places, *new, "logger=wandb", "logger.mode=disabled"])
    cfg.resume = str(cut)
    job = jobs.Job(cfg, cut)
    with pytest.MonkeyPatch.context() as patch:
        seen = Seen(job, patch)
        job.run()
    return seen


@pytest.fixture(scope="module")
def refusals(cut: Path, places: list[str], generator_file: Path, module_folder: Path) -> dict[str, str]:
    """What a run says to settings that it cannot take, before it is resumed with those that it can."""
    other = load_generator(generator_file)
    with torch.no_grad():
        next(other.mapping.parameters()).mul_(2)
    file = module_folder / "other.safetensors"
    save_generator(other, file, {})
    before = {name: (cut / name).read_bytes() for name in ("run.json", "config.yaml")}
    said = {}
    for typed in ("hypernet.hidden_dim=8", f"generator.path={file}"):
        cfg = config.compose([*BEFORE, *places, typed])
        cfg.resume = str(cut)
        with pytest.raises(UserError) as told:
            jobs.train(cfg, cut)
        said[typed.split("=")[0]] = str(told.value)
        assert {name: (cut / name).read_bytes() for name in before} == before, "the run is as it was"
    return said


def test_what_a_run_cannot_take_is_refused_with_both_values(refusals: dict[str, str]) -> None:
    assert "hypernet.hidden_dim was 4 when" in refusals["hypernet.hidden_dim"]
    assert "is 8 now" in refusals["hypernet.hidden_dim"]
    assert "generator.safetensors and is " in refusals["generator.path"]
    assert "other.safetensors now, which is another file" in refusals["generator.path"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("generator.path", "this run goes on with the generator"),
        ("data.root", "this run goes on with the photos in"),
        ("data.split", "this run goes on with the recorded split"),
        ("phase.from_run", "this run goes on with the phase I in"),
        ("+judges.lpips_path", "this run goes on with the weights of LPIPS"),
        ("+judges.identity_path", "this run goes on with the weights of the identity network"),
    ],
)
def test_what_a_run_needs_and_is_gone_is_named_with_the_way_out(
    key: str, said: str, refusals: dict[str, str], cut: Path, places: list[str]
) -> None:
    gone = cut.parent / "gone" / "it"
    cfg = config.compose([*BEFORE, *places, f"{key}={gone}"])
    cfg.resume = str(cut)
    key = key.lstrip("+")
    with pytest.raises(UserError, match=f"{said} {gone} .{key}.*move it back, or add {key}=PATH") as told:
        jobs.train(cfg, cut)
    if key in ("generator.path", "phase.from_run"):
        assert "SHA-256" in str(told.value)


# key -> whether the resumed run has really used the new value
ACTS: dict[str, Callable[[Seen], bool]] = {
    "name": lambda s: s.card()["name"] == "renamed",
    "group": lambda s: s.card()["group"] == "grouped",
    "check_memory": lambda s: s.job.cfg.check_memory is False,
    "panels.num_photos": lambda s: s.job._callbacks(s.callback(Checkpoints))[6]._num_photos == 2,
    "panels.num_saved": lambda s: len(list((s.job.folder / "test_photos").glob("*/image.png"))) == 1,
    "phase.kimg": lambda s: s.card()["images_seen"] == 26 and s.task.schedule.images == 24,
    # six photos were seen: the second batch of four holds the first one that was not
    "phase.epoch_kimg": lambda s: s.data.images_per_epoch == 12 and s.epoch == 1,
    "phase.batch_size": lambda s: [len(names) for _, names in s.steps][:2] == [4, 4],
    "phase.lr_batch": lambda s: s.groups[0]["initial_lr"] == pytest.approx(0.002 * 4 / 2),
    "phase.accumulate": lambda s: s.task.accumulate == 2,
    "phase.ema_kimg": lambda s: s.callback(Average)._half_life == 10 and "learning" in last(s),
    "phase.checkpointing": lambda s: s.task.inverter.generator.synthesis.checkpointing is True,
    "phase.schedule": lambda s: s.groups[0]["lr"] == s.groups[0]["initial_lr"],
    "phase.warmup_kimg": lambda s: s.task.schedule(5) == pytest.approx(0.5),
    "phase.rank_by": lambda s: s.card()["rank_by"] == "test/psnr",
    "phase.optimizer.lr": lambda s: {g["initial_lr"] for g in s.groups} == {0.004},
    "phase.optimizer.betas": lambda s: {tuple(g["betas"]) for g in s.groups} == {(0.8, 0.9)},
    "phase.optimizer.momentum": lambda s: {g["momentum"] for g in s.groups} == {0.5},
    "domain.faces": lambda s: s.job.cfg.domain.faces is False,
    "data.num_train": lambda s: len(s.data.datasets["train"]) == 10,
    "data.num_test": lambda s: len(s.data.datasets["test"]) == 2,
    "data.num_workers": lambda s: s.data.train_dataloader().num_workers == 1,
    "data.flip": lambda s: s.data.train_dataloader().sampler.flip is False,
    "data.decoded": lambda s: s.data.datasets["train"].pixels is None,
    "data.skip_unreadable": lambda s: s.data.skip_unreadable is True,
    "method.edit_strength": lambda s: last(s)["model"]["edit_strength"] == 0.5,
    "method.edit_gain": lambda s: last(s)["model"]["edit_gain"] == 1.2,
    "features.rule": lambda s: last(s)["model"]["feature_residuals"]["rule"] == "fade",
    "loss.l2": lambda s: s.task.loss.weights["l2"] == 0.5,
    "loss.lpips": lambda s: s.task.loss.weights["lpips"] == 0.1,
    "loss.lpips_share": lambda s: s.task.loss.terms["lpips"].share == 0.5,
    "loss.id": lambda s: s.task.loss.weights["id"] == 0.2,
    "loss.adv": lambda s: s.task.adv == 0.02,
    "loss.adv_from_kimg": lambda s: s.task.adv_from == 2,
    "loss.adv_batch_size": lambda s: s.task.adv_batch_size == 2,
    "loss.r1_gamma": lambda s: s.task.r1_gamma == 5,
    "loss.r1_every": lambda s: s.task.r1_every == 3,
    "loss.edit": lambda s: s.task.edit == 0.1,
    "loss.edit_share": lambda s: s.task.edit_share == 0.5,
    "loss.mirror": lambda s: s.task.mirror == 0.1,
    "loss.mirror_share": lambda s: s.task.mirror_share == 0.5,
    "judges.perceptual": lambda s: s.task.loss.terms["lpips"].judge.label == "st_lpips_alex",
    "judges.lpips": lambda s: "test/effnet_lite0" in s.card()["metrics"],
    "judges.identity": lambda s: "test/id_descriptor" in s.card()["metrics"],
    "trainer.deterministic": lambda s: not torch.are_deterministic_algorithms_enabled(),
    "trainer.max_epochs": lambda s: s.job.trainer.max_epochs == 2,  # the smaller of 9 and what kimg asks for
    "trainer.limit_train_batches": lambda s: s.job.trainer.limit_train_batches == 99,
    "trainer.limit_val_batches": lambda s: s.job.trainer.limit_val_batches == 1,
    "trainer.limit_test_batches": lambda s: s.job.trainer.limit_test_batches == 1,
    "trainer.log_every": lambda s: s.job.trainer.log_every_n_steps == 2,
    "trainer.save_every_kimg": lambda s: len(s.saved) >= 4,
    "trainer.timeout": lambda s: s.job.cfg.trainer.timeout == 99,
    "logger.kind": lambda s: any(isinstance(logger, WandbTracker) for logger in s.job.loggers),
}


def last(seen: Seen) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(seen.job.folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def test_every_key_that_takes_a_new_value_is_tried() -> None:
    taking = {key for key, kept in config.RESUMED.items() if kept.kind == "takes"}
    assert taking == set(ACTS) | NEEDS_MORE
    assert set(ACTS) == set(NEW)


@pytest.mark.parametrize("key", ACTS)
def test_a_resumed_run_really_uses_the_new_value(key: str, resumed: Seen) -> None:
    assert config.given(resumed.job.cfg, key) == NEW[key]
    assert ACTS[key](resumed)


def test_the_photos_of_a_new_batch_size_follow_those_that_were_seen(resumed: Seen) -> None:
    assert [seen for seen, _ in resumed.steps] == [6, 10, 14, 18, 22]


def test_the_card_says_from_which_photo_on_settings_are_new(resumed: Seen) -> None:
    (change,) = resumed.card()["changes"]
    assert change["images"] == 6
    assert change["settings"]["phase.batch_size"] == [2, 4]
