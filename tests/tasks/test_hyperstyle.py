"""HyperStyle: its layers and numbers at full size, what its steps do, learnt in phase II's task and read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from tiny import make_generator
from tiny_tasks import _common
from torch import Tensor
from watching import Watch, make_batches, same

from hyperinverter import config
from hyperinverter.assembly import start_from_phase1
from hyperinverter.checkpoints import load_hyperinverter, load_inverter
from hyperinverter.contracts import UserError
from hyperinverter.inversion.hyperstyle import HyperStyle
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.specification import (
    HyperStyleSpec,
    ModelSpec,
    Part,
    WEncoderSpec,
    build,
    describe,
)
from hyperinverter.networks.backbones import ResNet34, TinyBackbone
from hyperinverter.networks.coverage import select
from hyperinverter.networks.encoders import WEncoder
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.hyperstyle import HyperStyleNetwork, OwnHead, SharedHead
from hyperinverter.tasks.phase2 import PhaseIIHyper


def make(generator: Generator, iterations: int = 2, include: str = "convs") -> HyperStyle:
    def backbone() -> TinyBackbone:
        return TinyBackbone(widths=(8, 8, 8), units=(1, 1, 1))

    first = WInverter(generator, WEncoder(backbone(), generator.w_dim))
    network = HyperStyleNetwork(select(generator.kernels(), [include]), backbone(), hidden_dim=4)
    return HyperStyle(first, network, iterations)


def test_at_1024_px_it_has_the_layers_and_the_parameters_of_the_published_one() -> None:
    with torch.device("meta"):
        generator = make_generator(
            1024, z_dim=512, w_dim=512, mapping_layers=8, channel_base=32768, channel_max=512
        )
        network = HyperStyleNetwork(select(generator.kernels(), ["convs"]), ResNet34())
    heads = list(network.heads.values())
    assert len(heads) == 17
    assert sum(isinstance(head, SharedHead) for head in heads) == 9
    assert network.common.shape == (512, 512, 3, 3)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert millions == pytest.approx(332, rel=0.005)  # "about 332 M" by the published shapes
    assert network.common.w2.numel() == 512 * 512 * 512
    own = [head for head in heads if isinstance(head, OwnHead)]
    assert sum(p.numel() for head in own for p in head.parameters()) / 1e6 == pytest.approx(157, rel=0.005)


def test_changes_of_zero_redraw_the_initial_image(generator: Generator, photos: Tensor) -> None:
    model = make(generator, iterations=3)
    model.network.scale = 0.0
    found = model.invert(photos)
    assert torch.allclose(found.image, found.w_image, atol=1e-5)
    assert all(not delta.any() for delta in found.residuals.values())


def test_residuals_are_the_kernels_times_the_changes_and_steps_add_up(
    generator: Generator, photos: Tensor
) -> None:
    model = make(generator, iterations=2).eval()
    seen: list[Tensor] = []
    changes: list[dict[str, Tensor]] = []

    def note(module: object, given: tuple[Tensor], found: dict[str, Tensor]) -> None:
        seen.append(given[0])
        changes.append(found)

    with model.network.register_forward_hook(note) and torch.no_grad():
        (first, one), (second, two) = model.steps(photos)
    name = "b8.conv0.weight"
    theta = generator.synthesis.get_parameter(name)
    assert torch.allclose(first[name], theta * changes[0][name])
    assert torch.allclose(second[name], theta * (changes[0][name] + changes[1][name]))
    assert not torch.equal(one, two)
    assert not torch.equal(seen[0][:, 3:], seen[1][:, 3:])  # the second step sees what the first has drawn
    assert torch.equal(seen[0][:, :3], seen[1][:, :3])  # and the same photo
    assert torch.equal(model.invert(photos).image, two)
    assert torch.equal(model.edit(model.invert(photos), []), two)


def test_one_change_for_all_taps_or_one_for_each(generator: Generator) -> None:
    network = make(generator, include="convs_torgb").network
    found = network(torch.rand(2, 6, 64, 64))
    assert network.common.shape == (16, 16, 3, 3)
    assert found["b4.conv1.weight"].shape == (2, 16, 16, 3, 3)
    own = next(spec for spec in network.kernels if spec.name == "b16.torgb.weight")
    assert found[own.name].shape == (2, *own.shape[:2], 1, 1)


def test_it_learns_every_step_and_its_checkpoint_gives_it_back(
    generator: Generator, make_trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    model = make(generator)
    task = PhaseIIHyper(model, **_common())
    watch = Watch(model.network, model.w_inverter.encoder)
    trainer = make_trainer(watch)
    trainer.fit(task, make_batches(2) * 12)  # one batch, again and again
    assert same(watch.states[0][1], watch.states[-1][1])
    assert not same(watch.states[0][0], watch.states[-1][0])
    assert watch.logged[-1]["loss"] < watch.logged[0]["loss"]
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    again = load_inverter(tmp_path / "best.ckpt", generator)
    photo = make_batches(2)[0]["image"]
    assert isinstance(again, HyperStyle)
    assert torch.equal(again.invert(photo).image, model.invert(photo).image)
    with pytest.raises(UserError, match="holds a HyperStyle, not a HyperInverter; load_inverter"):
        load_hyperinverter(tmp_path / "best.ckpt", generator)


def test_no_option_is_lost_between_specification_model_and_file(generator: Generator) -> None:
    tiny = Part("TinyBackbone", {"widths": [8, 8, 16], "units": [1, 2, 1]})
    rival = HyperStyleSpec(
        ("b16.conv1.weight", "b8.conv1.weight"), tiny, hidden_dim=3, scale=0.5, iterations=4
    )
    spec = ModelSpec("hyperinverter", generator.config, WEncoderSpec(tiny), hyperstyle=rival)
    assert describe(build(spec, generator)) == spec
    assert ModelSpec.from_plain(spec.plain()) == spec


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["method=hyperstyle"], "add phase=2"),
        (["phase=2", "method=hyperstyle", "features=8"], "use features=none"),
        (["phase=2", "method=hyperstyle", "loss.edit=1"], "use loss.edit=0"),
        (["phase=2", "method=hyperstyle", "loss.mirror=1"], "use loss.mirror=0"),
        (["phase=2", "method=hyperstyle", "method.scale=0"], "method.scale must be above 0"),
        (["phase=2", "method=hyperstyle", "method.iterations=0"], "method.iterations"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(typed: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        config.validate(config.compose(typed))
    config.validate(config.compose(["phase=2", "method=hyperstyle"]))


def test_it_can_start_from_phase_ones_backbone(generator: Generator) -> None:
    model = make(generator)
    start_from_phase1(model.backbone, model.w_inverter)
    stem, trained = model.backbone.stem.weight, model.w_inverter.encoder.backbone.stem.weight
    assert torch.equal(stem[:, :3], trained)
    assert stem.shape[1] == 6
