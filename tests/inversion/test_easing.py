"""What an edit keeps of the residuals follows how far it goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperinverter.editing.directions import Direction
from hyperinverter.inversion.drawing import scale_residuals
from hyperinverter.inversion.easing import FAR, distance, kept
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.inversion.shifting import shifted
from hyperinverter.inversion.specification import (
    FeatureResidualsSpec,
    FeaturesSpec,
    HypernetSpec,
    ModelSpec,
    Part,
    WEncoderSpec,
    build,
    describe,
)
from hyperinverter.networks.generator import Generator

COVARIANCE = torch.diag(torch.tensor([4.0, 1.0, 0.25]))


def test_distance_is_in_standard_deviations_of_w_along_the_way() -> None:
    before = torch.zeros(3, 3)
    after = torch.tensor([[4.0, 0, 0], [0, 0, 1.0], [0, 3.0, 0]])
    assert torch.allclose(distance(before, after, COVARIANCE), torch.tensor([2.0, 2.0, 3.0]))
    assert torch.equal(distance(before, before, COVARIANCE), torch.zeros(3))


def test_of_layers_that_move_differently_the_farthest_counts() -> None:
    before, after = torch.zeros(1, 3), torch.zeros(1, 2, 3)
    after[0, 1, 1] = 3
    assert distance(before, after, COVARIANCE).tolist() == pytest.approx([3.0])


def test_strength_falls_in_a_straight_line_and_stays_at_its_end() -> None:
    steps = torch.tensor([0.0, 0.5, 1.0, 1.5, 5.0])[:, None] * FAR
    after = torch.cat([torch.zeros(5, 1), steps, torch.zeros(5, 1)], 1)
    assert kept(torch.zeros(5, 3), after, COVARIANCE, 0.6).tolist() == pytest.approx([1, 0.8, 0.6, 0.6, 0.6])


@pytest.fixture
def eased(generator: Generator) -> HyperInverter:
    """A model with residuals of weights and of features."""
    backbone = Part("TinyBackbone", {"widths": [8, 8, 8], "units": [1, 1, 1]})
    spec = ModelSpec(
        "hyperinverter",
        generator.config,
        WEncoderSpec(backbone),
        FeaturesSpec(backbone, channels=8),
        HypernetSpec(("b8.conv1.weight",), hidden_dim=4, extractor_channels=8),
        FeatureResidualsSpec(("b8.conv1",), width=4, scale=1.0),
        edit_strength=0.5,
    )
    return build(spec, generator, init="fan_in").eval()  # type: ignore[return-value]


@pytest.fixture
def far(generator: Generator) -> Direction:
    """Power 1 is one standard deviation of w along it."""
    axis = torch.linalg.eigh(torch.cov(generator.sample_codes(2000).T)).eigenvectors[:, -1]
    return Direction("far", axis * (generator.sample_codes(2000) @ axis).std())


def test_an_edit_of_two_standard_deviations_is_drawn_with_the_weaker_residuals(
    eased: HyperInverter, photos: Tensor, far: Direction
) -> None:
    inversion = eased.invert(photos)
    w = shifted(inversion.w, [(far, 2.0)])
    half = eased.render(w, scale_residuals(inversion.residuals, 0.5))
    assert torch.allclose(eased.edit(inversion, far, 2.0), half, atol=1e-4)
    assert torch.equal(eased.edit(inversion, far, 0.0), inversion.image)
    eased.edit_strength = 1.0
    assert not torch.allclose(eased.edit(inversion, far, 2.0), half, atol=1e-3)


def test_prepared_edits_of_many_sizes_are_those_of_edit(
    eased: HyperInverter, photos: Tensor, far: Direction
) -> None:
    inversion = eased.invert(photos).one(0)
    draw, powers = eased.prepare(inversion, strength=0.8), (0.0, -1.0, 3.0)
    images = draw(torch.cat([shifted(inversion.w, [(far, p)]) for p in powers]))
    for image, power in zip(images, powers, strict=True):
        edited = eased.edit(inversion, far, power, strength=0.8)[0]
        assert torch.allclose(image, edited, atol=1e-5)


def test_an_edit_and_its_reverse_return_the_inversion(
    eased: HyperInverter, photos: Tensor, far: Direction
) -> None:
    inversion = eased.invert(photos)
    assert torch.allclose(
        eased.edit(inversion, [(far, 2.0), (Direction("back", -far.shift), 2.0)]), inversion.image, atol=1e-5
    )


def test_a_model_keeps_it_through_its_description(eased: HyperInverter, generator: Generator) -> None:
    spec = describe(eased)
    assert spec.edit_strength == 0.5
    assert build(spec, generator).edit_strength == 0.5  # type: ignore[union-attr]
    eased.edit_strength = 1.0
    assert "edit_strength" not in describe(eased).plain()


def test_a_strength_that_is_no_part_is_refused(eased: HyperInverter, generator: Generator) -> None:
    eased.edit_strength = 1.5
    with pytest.raises(ValueError, match="edit_strength must be between 0 and 1, got 1.5"):
        build(describe(eased), generator)
