"""Encoders to W+: what defines pSp and e4e, learnt in phase I's task and read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from tiny_tasks import _common
from watching import Watch, make_batches, same

from hyperinverter import assembly, config
from hyperinverter.checkpoints import load_inverter, load_w_encoder
from hyperinverter.contracts import UserError
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.restyle import ReStyle
from hyperinverter.networks.backbones import IRSE50, TinyBackbone, widen_input
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.wplus import LatentDiscriminator, WPlusEncoder
from hyperinverter.runs import latest_finished
from hyperinverter.tasks.phase1 import NearW, PhaseIEncoder


def make(generator: Generator, method: str, near_w: NearW | None = None) -> PhaseIEncoder:
    backbone = TinyBackbone(widths=(8, 8, 8), units=(1, 1, 1))
    encoder = WPlusEncoder(backbone, generator.w_dim, generator.num_ws, method, "flatten", channels=8)  # type: ignore[arg-type]
    return PhaseIEncoder(WInverter(generator, encoder), **_common(), near_w=near_w)


def near(first: int = 4, deltas: int = 8) -> NearW:
    return NearW(first=first, deltas=deltas, lr=1e-3, r1_every=2, pool=6)


def test_deltas_join_one_after_the_other() -> None:
    plan = NearW(first=20, deltas=32)
    assert [plan.stage(seen, 18) for seen in (0, 19, 20, 22, 51, 52, 99)] == [0, 0, 1, 2, 17, 17, 17]


def test_at_stage_zero_all_layers_share_a_code_and_later_they_do_not(generator: Generator) -> None:
    task = make(generator, "e4e", near())
    photo = torch.rand(2, 3, 16, 16) * 2 - 1
    task.inverter.encoder.stage.fill_(0)
    w = task.inverter(photo).w
    assert torch.equal(w, w[:, :1].expand_as(w))
    task.inverter.encoder.stage.fill_(2)
    w = task.inverter(photo).w
    assert not torch.equal(w[:, 2], w[:, 0])
    assert torch.equal(w[:, 3:], w[:, :1].expand_as(w[:, 3:]))


@pytest.mark.parametrize("method", ["psp", "e4e"])
def test_it_learns_and_its_checkpoint_gives_it_back(
    method: str, generator: Generator, make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    task = make(generator, method, near() if method == "e4e" else None)
    watch = Watch(task.inverter.encoder, task.inverter.generator)
    trainer = make_trainer(watch)
    trainer.fit(task, make_batches(2, 2) * 6)
    assert same(watch.states[0][1], watch.states[-1][1])
    assert watch.logged[-1]["loss"] < watch.logged[0]["loss"]
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    again = load_inverter(tmp_path / "best.ckpt", task.inverter.generator)
    photo = make_batches(2)[0]["image"]
    assert torch.equal(again.invert(photo).w, task.inverter.invert(photo).w)
    assert again.invert(photo).w.shape == (2, generator.num_ws, generator.w_dim)
    with pytest.raises(UserError, match=rf"holds an encoder to W\+ \({method}\)"):
        load_w_encoder(tmp_path / "best.ckpt")


def test_the_discriminator_of_codes_sees_codes_of_the_mapping_network(
    generator: Generator, make_trainer: Callable[..., Trainer]
) -> None:
    task = make(generator, "e4e", near(first=1000))
    make_trainer().fit(task, make_batches(2, 2) * 3)
    judge = task.latent_discriminator
    assert judge is not None
    assert int(judge.filled) == 12
    z = torch.randn(500, generator.z_dim)
    with torch.no_grad():
        usual = generator.mapping(z)[:, 0]
    reach = torch.cdist(usual, usual.mean(0, keepdim=True)).max()
    assert bool((torch.cdist(judge.real, usual.mean(0, keepdim=True)) <= 1.5 * reach).all())
    assert not torch.equal(judge.real, judge.fake)


def test_a_full_pool_gives_stored_codes_half_of_the_time() -> None:
    judge = LatentDiscriminator(4, pool=8)
    first = torch.arange(8.0)[:, None].expand(8, 4).clone()
    real, fake = judge.pooled(first, -first)
    assert torch.equal(real, first)  # while it fills
    assert torch.equal(judge.fake, -first)
    new = 100 + torch.arange(8.0)[:, None].expand(8, 4)
    real, fake = judge.pooled(new, -new)
    stored = real[:, 0] < 100
    assert 0 < int(stored.sum()) < 8
    assert torch.equal(real, -fake)
    assert int((judge.real[:, 0] >= 100).sum()) == int(stored.sum())


def restyle(generator: Generator, iterations: int = 3) -> PhaseIEncoder:
    backbone = TinyBackbone(widths=(8, 8, 8), units=(1, 1, 1))
    encoder = WPlusEncoder(backbone, generator.w_dim, generator.num_ws, "restyle", "flatten", channels=8)
    return PhaseIEncoder(ReStyle(generator, encoder, iterations), **_common())


def test_restyle_looks_again_at_what_it_drew_and_the_second_look_improves(
    generator: Generator, make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    task = restyle(generator)
    trainer = make_trainer()
    batches = make_batches(4)
    trainer.fit(task, batches * 60)
    task.eval()
    photo = batches[0]["image"]
    with torch.no_grad():
        errors = [float((image - photo).square().mean()) for _, image in task.inverter.steps(photo)]
    assert len(errors) == 3
    assert errors[1] < errors[0]
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    again = load_inverter(tmp_path / "best.ckpt", generator)
    assert isinstance(again, ReStyle)
    assert again.iterations == 3
    assert torch.equal(again.invert(photo).w, task.inverter.invert(photo).w)


def test_every_step_of_restyle_has_a_gradient_of_its_own(generator: Generator) -> None:
    """One backward pass over the sum of the losses is as one after each step."""
    photo = torch.rand(2, 3, 16, 16) * 2 - 1
    task = restyle(generator, 2)
    task.forward_pass(photo).total.backward()
    together = [p.grad.clone() for p in task.inverter.trainable_parameters() if p.grad is not None]
    task.zero_grad()
    for _, image in task.inverter.steps(photo):
        task.loss(image, photo)[0].backward()
    apart = [p.grad for p in task.inverter.trainable_parameters() if p.grad is not None]
    assert len(together) == len(apart) > 10
    for one, other in zip(together, apart, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_widened_backbone_sees_the_photo_as_before() -> None:
    backbone = TinyBackbone(widths=(8, 8, 8), units=(1, 1, 1))
    before = backbone.stem.weight.clone()
    widen_input(backbone, 6)
    assert backbone.stem.weight.shape[1] == 6
    assert torch.equal(backbone.stem.weight[:, :3], before)
    with pytest.raises(ValueError, match="reads three channels, got 6"):
        widen_input(backbone, 6)


def test_the_networks_are_as_large_as_the_papers() -> None:
    with torch.device("meta"):
        encoder = WPlusEncoder(IRSE50(), 512, 18, "psp", "pool")
    per_map = {
        8: 3,
        16: 4,
        32: 5,
        64: 6,
    }  # strided convolutions of a style block of pSp by the side of its level
    convolution, linear = 512 * 512 * 9 + 512, 512 * 512 + 512
    blocks = (
        3 * (per_map[16] * convolution) + 4 * (per_map[32] * convolution) + 11 * (per_map[64] * convolution)
    )
    lateral = 256 * 512 + 512 + 128 * 512 + 512
    body = sum(p.numel() for p in encoder.backbone.parameters())
    assert sum(p.numel() for p in encoder.parameters()) == body + lateral + blocks + 18 * linear


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["method=psp", "phase=2"], "method=psp is one encoder, which phase 1 trains"),
        (["method=restyle", "method.iterations=0"], "method.iterations must be a whole number of at least 1"),
        (["method=e4e", "method.pool=0"], "method.pool must be a whole number of at least 1"),
        (["method=e4e", "method.latent_lr=0"], "method.latent_lr must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(typed: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        config.validate(config.compose(config.normalise_overrides(typed)))


def test_a_method_is_built_as_it_was_chosen(v0_file: Path) -> None:
    typed = [
        "method=e4e",
        f"generator.path={v0_file}",
        "phase.kimg=10",
        "method.channels=8",
        "method.delta=0.5",
    ]
    typed += ["method.latent=0.3", "method.latent_lr=0.01", "method.latent_r1=2", "method.latent_r1_every=5"]
    task = assembly.build(config.compose(typed)).task
    assert isinstance(task, PhaseIEncoder)
    expected = {"delta": 0.5, "latent": 0.3, "lr": 0.01, "r1": 2, "r1_every": 5}
    assert task.near_w == NearW(first=1000, deltas=1600, **expected)
    assert task.inverter.encoder.method == "e4e"


def test_a_rival_is_no_first_phase(tmp_path: Path) -> None:
    facts = '"status": "finished", "complete": true, "phase": 1, "domain": "digiface", "finished": "2026"'
    for name, method in (("a", "psp"), ("b", "hyperinverter")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text(f'{{{facts}, "method": "{method}"}}')
    assert latest_finished(tmp_path, domain="digiface", phase=1) == tmp_path / "runs" / "b"
