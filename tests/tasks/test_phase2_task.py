"""Phase II learns encoder and hypernetwork; the discriminator joins at its time, and has an effect only then."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torch.testing import assert_close
from watching import Batches, Watch, make_batches, same

from hyperinverter.checkpoints import load_hyperinverter, load_w_inverter
from hyperinverter.losses.adversarial import r1_penalty
from hyperinverter.networks.discriminator import Discriminator
from hyperinverter.networks.generator import Generator
from hyperinverter.tasks import phase2
from hyperinverter.tasks.phase2 import PhaseIIHyper, random_steps

Make = Callable[..., PhaseIIHyper]


def parts(task: PhaseIIHyper) -> list[torch.nn.Module]:
    inverter = task.inverter
    return [inverter.feature_encoder, inverter.hypernet, inverter.w_inverter.encoder, inverter.generator]


def test_a_state_of_version_0_1_is_loaded(make_phase2: Make, generator: Generator) -> None:
    task, other = (make_phase2(discriminator=Discriminator(generator.config), adv=0.1) for _ in range(2))
    task.discriminator_r1.fill_(0.25)
    new = task.state_dict()
    old = {name.replace("discriminator", "critic", 1): tensor for name, tensor in new.items()}
    assert {"critic_r1", "critic.b4.out.weight"} <= old.keys()
    other.load_state_dict(old)
    assert all(torch.equal(tensor, new[name]) for name, tensor in other.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({name: t for name, t in old.items() if name != "critic.b4.out.weight"})


@pytest.mark.parametrize("with_discriminator", [False, True])
def test_only_what_learns_changes(
    make_phase2: Make, make_trainer: Callable[..., Trainer], generator: Generator, with_discriminator: bool
) -> None:
    discriminator = Discriminator(generator.config) if with_discriminator else None
    task = make_phase2(discriminator=discriminator, adv=0.01)
    watch = Watch(*parts(task))
    make_trainer(watch).fit(task, make_batches(2) * 6)
    for before, after in zip(watch.states, watch.states[1:], strict=False):
        assert [same(a, b) for a, b in zip(before, after, strict=True)] == [False, False, True, True]
    losses = [logged["l2"] for logged in watch.logged]
    assert losses[-1] < losses[0]
    assert not any(module.training for module in task.inverter.w_inverter.modules())


def test_discriminator_joins_at_its_time(
    make_phase2: Make, make_trainer: Callable[..., Trainer], generator: Generator
) -> None:
    task = make_phase2(discriminator=Discriminator(generator.config), adv=0.1, adv_from=6)
    watch = Watch(task.discriminator, task.inverter.hypernet)
    make_trainer(watch).fit(task, make_batches(2, 2, 2, 2, 2))
    assert watch.seen == [2, 4, 6, 8, 10]
    changed = [not same(a[0], b[0]) for a, b in zip(watch.states, watch.states[1:], strict=False)]
    assert changed == [False, False, False, True, True]
    assert all(not same(a[1], b[1]) for a, b in zip(watch.states, watch.states[1:], strict=False))
    adversarial = [{"adv", "discriminator"} <= set(logged) for logged in watch.logged]
    assert adversarial == [False, False, False, True, True]
    last = watch.logged[-1]
    assert last["loss"] == pytest.approx(last["l2"] + 0.1 * last["adv"], rel=1e-5)


def test_adversarial_term_teaches_the_hypernetwork_and_not_the_discriminator(
    make_phase2: Make, make_trainer: Callable[..., Trainer], generator: Generator
) -> None:
    class Nothing(torch.nn.Module):  # no reconstruction: all that is learned comes from the discriminator
        def forward(self, image: Tensor, photo: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return 0 * image.sum(), {}

    discriminator = Discriminator(generator.config)
    task = make_phase2(loss=Nothing(), discriminator=discriminator, adv=1.0)
    batches = make_batches(2)
    photo = batches[0]["image"]

    def still_or_adam(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        # the discriminator itself must not learn here
        still = parameters[0] is next(discriminator.parameters())
        return torch.optim.SGD(parameters, lr=0.0) if still else torch.optim.Adam(parameters, lr=1e-3)

    task.make_optimizer = still_or_adam
    with torch.no_grad():
        before = discriminator(task.inverter(photo).image).mean()
    make_trainer().fit(task, batches * 5)
    with torch.no_grad():
        after = discriminator(task.inverter(photo).image).mean()
    assert after > before


def test_penalty_comes_every_nth_discriminator_step_and_n_times_as_strong(
    make_phase2: Make,
    make_trainer: Callable[..., Trainer],
    generator: Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backward: list[float] = []
    real = PhaseIIHyper.manual_backward

    def listen(self: PhaseIIHyper, loss: Tensor, *rest: Any) -> None:
        backward.append(loss.item())
        real(self, loss, *rest)

    penalties: list[float] = []

    def penalty(logits: Tensor, photo: Tensor) -> Tensor:
        value = r1_penalty(logits, photo)
        penalties.append(value.item())
        return value

    monkeypatch.setattr(PhaseIIHyper, "manual_backward", listen)
    monkeypatch.setattr(phase2, "r1_penalty", penalty)
    task = make_phase2(
        discriminator=Discriminator(generator.config), adv=0.1, adv_from=4, r1_gamma=5.0, r1_every=3
    )
    watch = Watch()
    make_trainer(watch).fit(task, make_batches(*[2] * 9))
    # discriminator steps 0 to 6 are batches 2 to 8; the penalty comes with steps 0, 3 and 6
    assert len(penalties) == 3
    shown = [logged.get("r1") for logged in watch.logged]  # in between, the last one stands
    first, second, third = (pytest.approx(value) for value in penalties)
    assert shown == [None, None, first, first, first, second, second, second, third]
    assert len(backward) == 9 + 7 + 3
    assert all(any(value == pytest.approx(p * 5 / 2 * 3) for value in backward) for p in penalties)


def test_once_the_discriminator_has_joined_a_batch_is_several_steps(
    make_phase2: Make, make_trainer: Callable[..., Trainer], generator: Generator
) -> None:
    def train(batches: list[Any], **changes: Any) -> PhaseIIHyper:
        torch.manual_seed(3)
        task = make_phase2(
            discriminator=Discriminator(generator.config), adv=0.1, adv_from=4, r1_every=2, **changes
        )
        make_trainer().fit(task, Batches(batches))
        return task

    four = make_batches(4, 4, 4)
    halves = [half for batch in four[1:] for half in phase2.in_steps(batch, 2)]
    assert [half["name"] for half in halves] == [b["name"][i : i + 2] for b in four[1:] for i in (0, 2)]
    cut = train(four, adv_batch_size=2)
    expected = train([four[0], *halves])
    assert int(cut.images_seen) == int(expected.images_seen) == 12
    assert all(torch.equal(a, b) for a, b in zip(cut.parameters(), expected.parameters(), strict=True))
    whole = train(four)
    assert not all(torch.equal(a, b) for a, b in zip(cut.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("with_discriminator", [False, True])
def test_checkpoint_is_tensors_and_plain_values_and_gives_the_model_back(
    make_phase2: Make,
    make_trainer: Callable[..., Trainer],
    generator: Generator,
    tmp_path: Path,
    with_discriminator: bool,
) -> None:
    task = make_phase2(discriminator=Discriminator(generator.config) if with_discriminator else None, adv=0.1)
    trainer = make_trainer()
    trainer.fit(task, make_batches(2, 2))
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    saved = torch.load(tmp_path / "best.ckpt", weights_only=True)
    tops = {"inverter", "images_seen"}
    if with_discriminator:
        tops |= {"discriminator", "discriminator_r1"}
    assert {name.split(".")[0] for name in saved["state_dict"]} == tops
    inside = {".".join(n.split(".")[1:3]) for n in saved["state_dict"] if n.startswith("inverter.")}
    assert {name for name in inside if name.startswith("w_inverter")} == {"w_inverter.encoder"}
    assert {name.split(".")[0] for name in inside} == {"w_inverter", "feature_encoder", "hypernet"}
    loaded = load_hyperinverter(tmp_path / "best.ckpt", generator)
    photo = make_batches(2)[0]["image"]
    assert torch.equal(loaded.invert(photo).image, task.inverter.invert(photo).image)
    first = load_w_inverter(tmp_path / "best.ckpt", generator)
    assert torch.equal(first.invert(photo).image, task.inverter.invert(photo).w_image)


def test_the_edit_term_asks_for_the_change_that_the_initial_image_shows(
    make_phase2: Callable[..., PhaseIIHyper],
) -> None:
    task = make_phase2(edit=2.0, edit_share=0.5)
    photo = torch.rand(4, 3, 16, 16) * 2 - 1
    total, parts, image = task.forward_pass(photo)
    assert set(parts) == {"l2", "edit"}
    assert_close(total, parts["l2"] + 2.0 * parts["edit"])
    assert_close(image, task.draw(photo))
    total.backward()
    assert task.inverter.w_inverter.encoder.linear.weight.grad is None
    silent = make_phase2(edit=1.0)
    with torch.no_grad():  # without residuals both images are the same one, so an edit changes them alike
        for regressor in silent.inverter.hypernet.weight_regressors.values():
            regressor.w2.zero_()
            regressor.b2.zero_()
    assert float(silent.forward_pass(photo).parts["edit"]) < 1e-10


def test_the_mirror_term_asks_for_mirror_images(make_phase2: Callable[..., PhaseIIHyper]) -> None:
    task = make_phase2(mirror=2.0, mirror_share=0.5)
    photo = torch.rand(4, 3, 16, 16) * 2 - 1
    total, parts, image = task.forward_pass(photo)
    assert set(parts) == {"l2", "mirror"}
    assert_close(total, parts["l2"] + 2.0 * parts["mirror"])
    assert_close(image, task.draw(photo))
    inverter, mirrored = task.inverter, photo[2:].flip(-1)
    first, residuals = inverter.predict(photo[2:], factored=False)
    moved = inverter.edited(first.w, inverter.w_inverter(mirrored).w, residuals)
    assert_close(parts["mirror"], (moved - mirrored).square().mean().detach())
    total.backward()
    assert task.inverter.w_inverter.encoder.linear.weight.grad is None


def test_both_terms_of_edits_together(make_phase2: Callable[..., PhaseIIHyper]) -> None:
    task = make_phase2(edit=3.0, mirror=2.0)
    total, parts, _ = task.forward_pass(torch.rand(4, 3, 16, 16) * 2 - 1)
    assert_close(total, parts["l2"] + 3.0 * parts["edit"] + 2.0 * parts["mirror"])


def test_random_steps_are_of_the_size_of_an_edit(generator: Generator) -> None:
    steps = random_steps(generator, 64)
    z = torch.randn(256, generator.z_dim)
    spread = generator.mapping(z)[:, 0].detach().var(0).sum().sqrt()
    assert steps.shape == (64, generator.w_dim)
    assert 0.2 < float(steps.square().sum(1).mean().sqrt() / spread) < 0.8
