"""Ways to invert without training: each does what defines it, alone and in a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import make_generator
from torch import Tensor
from torch.testing import assert_close

from hyperinverter import load_inverter
from hyperinverter.contracts import UserError
from hyperinverter.editing.directions import Direction
from hyperinverter.inversion.optimise import Optimiser, Projection, code_statistics, drift
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.tuning import PivotalTuning, Tuning
from hyperinverter.networks.generator import Generator

SHORT = Projection(steps=40, rate=0.1, samples=200, l2=1.0)


class Blurred:
    """A distance that costs nothing: squared differences at half the size."""

    label = "blurred"

    def embed(self, image: Tensor) -> list[Tensor]:
        return [F.avg_pool2d(image, 2)]

    def compare(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        return (a[0] - b[0]).square().mean((1, 2, 3))


@pytest.fixture(scope="module")
def v0() -> Generator:
    torch.manual_seed(0)
    return make_generator()


@pytest.fixture(scope="module")
def photos(v0: Generator) -> Tensor:
    """Nearly what the generator draws, and noise that no code can say."""
    torch.manual_seed(3)
    with torch.no_grad():
        drawn = v0(torch.randn(2, v0.z_dim))
    return (drawn + 0.1 * torch.randn_like(drawn)).clamp(-1, 1)


def error(image: Tensor, photo: Tensor) -> Tensor:
    return (image - photo).square().mean((1, 2, 3))


def test_the_schedule_is_the_published_one() -> None:
    plan = Projection(steps=1000, rate=0.1)
    assert [plan.rate_at(step) for step in (0, 25, 50, 750)] == pytest.approx([0.0, 0.05, 0.1, 0.1])
    assert plan.rate_at(875) == pytest.approx(0.05)
    assert plan.exploration_at(0) == pytest.approx(0.05)
    assert plan.exploration_at(375) == pytest.approx(0.0125)
    assert plan.exploration_at(750) == 0.0


def test_searching_comes_nearer_and_w_plus_beats_w_on_every_photo(v0: Generator, photos: Tensor) -> None:
    plain = Optimiser(v0, Blurred(), replace(SHORT, steps=120))
    wide = Optimiser(v0, Blurred(), replace(SHORT, steps=120, space="w+"))
    mean = v0.synthesis(code_statistics(v0, 200)[0][None].expand(2, -1)).detach()
    one, many = plain.invert(photos), wide.invert(photos)
    assert (one.w.shape, many.w.shape) == ((2, 16), (2, v0.num_ws, 16))
    assert bool((error(one.image, photos) < error(mean, photos)).all())
    assert bool((error(many.image, photos) < error(one.image, photos)).all())
    assert torch.equal(drift(one.w, 1.0), torch.zeros(2))
    assert bool((drift(many.w, 1.0) > 0).all())
    assert plain.trace[0][1].mean() > plain.trace[-1][1].mean()


@pytest.mark.parametrize("noise", ["fixed", "optimised"])
def test_a_photo_gets_what_it_gets_alone(v0: Generator, photos: Tensor, noise: str) -> None:
    model = Optimiser(v0, Blurred(), replace(SHORT, steps=10, noise=noise))
    both = model.invert(photos)
    with torch.inference_mode():  # as evaluations call it
        alone = model.invert(photos[1:])
    assert_close(alone.w, both.w[1:], atol=1e-4, rtol=1e-4)
    assert not both.w.requires_grad


def test_optimised_noise_changes_the_code_and_stays_white(v0: Generator, photos: Tensor) -> None:
    fixed, searched = (
        Optimiser(v0, Blurred(), replace(SHORT, steps=10, noise=noise)).invert(photos).w
        for noise in ("fixed", "optimised")
    )
    assert not torch.allclose(fixed, searched)
    assert torch.equal(v0.synthesis.b8.conv0.noise_const, make_same().synthesis.b8.conv0.noise_const)


def make_same() -> Generator:
    torch.manual_seed(0)
    return make_generator()


def test_pti_reaches_its_threshold_and_its_residuals_redraw_its_image(v0: Generator, photos: Tensor) -> None:
    start = Optimiser(v0, Blurred(), SHORT)
    pivot = start.invert(photos)
    threshold = float(Blurred().compare(*(Blurred().embed(x) for x in (pivot.image, photos))).min()) / 2
    model = PivotalTuning(start, Blurred(), Tuning(steps=300, rate=3e-3, threshold=threshold))
    found = model.invert(photos)
    reached = Blurred().compare(Blurred().embed(found.image), Blurred().embed(photos))
    assert bool((reached <= threshold).all())
    assert all(0 < taken < 300 for taken in model.steps_taken)
    assert torch.equal(found.w, pivot.w)
    assert_close(found.w_image, pivot.image)
    for i in range(2):
        own = {name: residual[i : i + 1] for name, residual in found.residuals.items()}
        assert_close(model.prepare(own)(found.w[i : i + 1]), found.image[i : i + 1], atol=1e-5, rtol=1e-5)
    turned = model.edit(found, Direction("turn", torch.ones(16)), 0.0)
    assert torch.equal(turned, model.render(found.w, found.residuals))


def test_refining_by_no_steps_is_the_start_bit_for_bit(v0: Generator, photos: Tensor) -> None:
    start = Optimiser(v0, Blurred(), replace(SHORT, steps=5))
    once = PivotalTuning(start, Blurred(), Tuning(steps=5, threshold=0.0))
    first = once.invert(photos)
    again = PivotalTuning(once, Blurred(), Tuning(steps=0, threshold=0.0)).invert(photos)
    assert torch.equal(again.image, first.image)
    more = PivotalTuning(once, Blurred(), Tuning(steps=5, threshold=0.0)).invert(photos)
    assert bool((error(more.image, photos) < error(first.image, photos)).all())


def test_locality_keeps_the_generator_as_it_was_elsewhere(v0: Generator, photos: Tensor) -> None:
    start, w = Optimiser(v0, Blurred(), replace(SHORT, steps=20)), torch.randn(8, 16)
    before = v0.synthesis(w).detach()

    def moved(locality: bool) -> float:
        tuning = Tuning(steps=40, rate=3e-3, threshold=0.0, locality=locality)
        found = PivotalTuning(start, Blurred(), tuning).invert(photos[:1])
        with torch.no_grad():
            return float((start.prepare(found.residuals)(w) - before).square().mean())

    assert moved(True) < moved(False)


def test_a_search_can_be_watched_and_stopped(v0: Generator, photos: Tensor) -> None:
    seen: list[tuple[int, int]] = []
    start = Optimiser(v0, Blurred(), replace(SHORT, steps=4))
    model = PivotalTuning(start, Blurred(), Tuning(steps=3, threshold=0.0))
    model.on_step = lambda step, steps: seen.append((step, steps))
    model.invert(photos)
    assert seen == [(step, 10) for step in range(1, 11)]

    def stop(step: int, steps: int) -> None:
        raise KeyboardInterrupt

    model.on_step = stop
    with pytest.raises(KeyboardInterrupt):
        model.invert(photos)


def test_names_say_what_is_loaded() -> None:
    model = load_inverter("pti:steps=7,pivot=9,locality=true@digiface")
    assert isinstance(model, PivotalTuning)
    assert isinstance(model.start, Optimiser)
    assert (model.tuning.steps, model.tuning.locality, model.start.projection.steps) == (7, True, 9)
    assert model.start.projection.l2 == 1.0
    assert model.tuning.threshold == 0.0
    other = load_inverter("pti:8")
    assert other.sha256 not in ("", model.sha256)
    assert load_inverter("pti:8@digiface").sha256 == other.sha256
    search = load_inverter("w_opt:hyperinverter")
    assert isinstance(search, Optimiser)
    assert (search.projection.steps, search.projection.rate, search.projection.noise) == (
        600,
        0.01,
        "optimised",
    )
    assert isinstance(load_inverter("digiface+pti:2"), PivotalTuning)
    from_phase1 = load_inverter("phase1@digiface+pti:2")
    assert isinstance(from_phase1, PivotalTuning)
    assert isinstance(from_phase1.start, WInverter)
    assert from_phase1.source == "phase1@digiface+pti:2"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("w_opt:fast", r"'fast' in 'w_opt:fast' is neither a number of steps"),
        ("w_opt:rate=quick", r"rate=quick in 'w_opt:rate=quick' is no float"),
        (
            "pti:depth=3",
            r"has no option 'depth'; there are: steps, rate, threshold, locality, distance, weights",
        ),
        ("w_opt:steps=0", r"steps is at least 1"),
        ("w_opt:noise=loud", r"noise is fixed or optimised"),
        ("pti:locality=maybe", r"locality=maybe in .* is no bool"),
        ("w_opt:distance=id_descriptor", r"distance=id_descriptor is no perceptual distance"),
        ("w_opt@nowhere.pkl", r"nowhere\.pkl"),
        ("digiface+pti:x=1", r"has no option 'x'"),
    ],
)
def test_names_that_mean_nothing_are_answered_in_a_sentence(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_inverter(name)


def test_another_generator_wants_lpips_and_says_what_ships(v0: Generator, tmp_path: Path) -> None:
    from hyperinverter.checkpoints import save_generator

    save_generator(v0, tmp_path / "v0.safetensors", {})
    with pytest.raises(UserError, match=r"lpips_vgg.*or use the distance that ships: distance=st_lpips_alex"):
        load_inverter(f"w_opt@{tmp_path / 'v0.safetensors'}", tmp_path)
    model = load_inverter(f"w_opt:distance=st_lpips_alex@{tmp_path / 'v0.safetensors'}")
    assert model.resolution == 16
