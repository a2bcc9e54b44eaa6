"""An edit lets go of residuals where it changes the picture, the more the farther it goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyperinverter.editing.directions import Direction
from hyperinverter.inversion.carrying import RULES, Rule
from hyperinverter.inversion.drawing import Strength
from hyperinverter.inversion.easing import DRAWN, FAR, MOVED, changed, distance, eased
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.inversion.shifting import moved_on, shifted
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


def test_distances_are_in_full_where_training_computes_in_bfloat16(model: HyperInverter) -> None:
    before, after = model.generator.sample_codes(4).chunk(2)
    with torch.autocast("cpu", torch.bfloat16):
        found = distance(before, after, model._covariance)
    torch.testing.assert_close(
        found, distance(before, after, torch.cov(model.generator.sample_codes(2000).T))
    )
    assert found.dtype == torch.float32


def test_of_layers_that_move_differently_the_farthest_counts() -> None:
    before, after = torch.zeros(1, 3), torch.zeros(1, 2, 3)
    after[0, 1, 1] = 3
    assert distance(before, after, COVARIANCE).tolist() == pytest.approx([3.0])


def square_that_changes(by: float, side: int = 64) -> tuple[Tensor, Tensor]:
    before = torch.zeros(1, 3, side, side)
    after = before.clone()
    after[..., : side // 4, : side // 4] = by
    return before, after


@pytest.mark.parametrize("side", [64, 128])
def test_a_change_has_a_place(side: int) -> None:
    found = changed(*square_that_changes(0.5, side))
    assert found.shape == (1, 1, side, side)
    assert found[0, 0, : side // 8, : side // 8].min() == 1  # inside
    assert found[0, 0, side // 2 :, side // 2 :].max() == 0  # far away
    assert torch.equal(changed(*square_that_changes(0.0, side)), torch.zeros(1, 1, side, side))


def test_small_changes_count_in_parts_of_the_least_and_large_ones_of_their_largest() -> None:
    small = changed(*square_that_changes(DRAWN.least / 2))
    assert float(small.max()) == pytest.approx(0.5)
    before, after = square_that_changes(1.0)
    after[..., 48:, 48:] = 0.3  # half of what the larger change needs to count completely
    assert float(changed(before, after)[0, 0, -1, -1]) == pytest.approx(0.3 / DRAWN.part)


def test_what_moved_along_lets_go_of_nothing_around_a_change() -> None:
    square = square_that_changes(0.5)
    inside, around = (0, 0, 8, 8), (0, 0, 8, 21)  # the square ends at 16
    drawn, moved = changed(*square), changed(*square, MOVED)
    assert drawn[inside] == moved[inside] == 1
    assert drawn[around] > 0
    assert moved[around] == 0


def test_letting_go_grows_with_the_distance_and_stays_at_its_end() -> None:
    before, plain = square_that_changes(1.0)
    steps = torch.tensor([0.0, 0.5, 1.0, 3.0]) * FAR
    kept = torch.full((4, 3, 64, 64), -1.0)
    found = eased(kept, plain, before, steps, 0.25)
    assert torch.equal(found[0], kept[0])
    corner = [float(image[0, 0, 0]) for image in found]  # plain has 1 there
    assert corner == pytest.approx([-1, -1 + 0.375 * 2, -1 + 0.75 * 2, -1 + 0.75 * 2])
    assert torch.equal(found[..., 32:, 32:], kept[..., 32:, 32:])  # nothing changes there: all is kept


@pytest.fixture
def model(generator: Generator) -> HyperInverter:
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


def test_a_far_edit_keeps_residuals_where_it_changes_nothing(
    model: HyperInverter, photos: Tensor, far: Direction
) -> None:
    inversion = model.invert(photos)
    w = shifted(inversion.w, [(far, 2.0)])
    plain, found = model.render(w), model.edit(inversion, far, 2.0)
    model.edit_strength = 1.0
    kept = model.edit(inversion, far, 2.0)
    letting_go = 0.5 * changed(inversion.w_image, plain)
    assert letting_go.max() == pytest.approx(0.5)
    assert torch.allclose(found, kept + letting_go * (plain - kept), atol=1e-5)
    assert not torch.allclose(found, kept, atol=1e-3)


def test_without_an_edit_the_picture_is_the_inversion(
    model: HyperInverter, photos: Tensor, far: Direction
) -> None:
    inversion = model.invert(photos)
    assert torch.equal(model.edit(inversion, far, 0.0), inversion.image)
    alone = inversion.one(0)
    assert torch.allclose(model.prepare(alone)(alone.w), alone.image, atol=1e-5)


def test_prepared_edits_of_many_sizes_are_those_of_edit(
    model: HyperInverter, photos: Tensor, far: Direction
) -> None:
    inversion = model.invert(photos).one(0)
    draw, powers = model.prepare(inversion, strength=0.8), (0.0, -1.0, 3.0)
    images = draw(torch.cat([shifted(inversion.w, [(far, p)]) for p in powers]))
    for image, power in zip(images, powers, strict=True):
        edited = model.edit(inversion, far, power, strength=0.8)[0]
        assert torch.allclose(image, edited, atol=1e-5)


def test_an_edit_and_its_reverse_return_the_inversion(
    model: HyperInverter, photos: Tensor, far: Direction
) -> None:
    inversion = model.invert(photos)
    assert torch.allclose(
        model.edit(inversion, [(far, 2.0), (Direction("back", -far.shift), 2.0)]), inversion.image, atol=1e-5
    )


def test_a_model_keeps_it_through_its_description(model: HyperInverter, generator: Generator) -> None:
    spec = describe(model)
    assert spec.edit_strength == 0.5
    assert build(spec, generator).edit_strength == 0.5  # type: ignore[union-attr]
    model.edit_strength = 1.0
    assert "edit_strength" not in describe(model).plain()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("prepared", [False, True])
def test_a_gain_moves_the_code_on_and_fades_with_the_strength(
    model: HyperInverter, photos: Tensor, far: Direction, rule: Rule, prepared: bool
) -> None:
    def edit(power: float, strength: Strength = 1.0) -> Tensor:
        if prepared:
            return model.prepare(inversion, strength)(shifted(inversion.w, [(far, power)]))
        return model.edit(inversion, far, power, strength=strength)

    inversion, model.rule = model.invert(photos).one(0), rule
    asked = {power: edit(power, 0.5) for power in (0.0, 1.0, 1.1)}
    half = edit(1.1, {"weights": 0.4, "features": 0.6})
    plain, whole = edit(1.0, 0.0), edit(1.2)
    model.edit_gain = 1.2
    assert torch.allclose(edit(1.0), whole, atol=1e-5)
    assert torch.allclose(edit(1.0, 0.5), asked[1.1], atol=1e-5)
    assert torch.allclose(edit(1.0, torch.tensor([0.5])), asked[1.1], atol=1e-5)
    assert torch.allclose(edit(1.0, {"weights": 0.4, "features": 0.6}), half, atol=1e-5)
    assert torch.equal(edit(1.0, 0.0), plain)
    assert torch.equal(edit(0.0, 0.5), asked[0.0])
    assert not torch.allclose(asked[1.0], asked[1.1], atol=1e-3)


def test_a_gain_moves_each_photo_and_styles_by_its_own() -> None:
    before, after, styles = torch.zeros(2, 3), torch.ones(2, 4, 3), {"b4.conv1.affine.bias": torch.ones(2, 5)}
    found, more = moved_on(before, after, styles, torch.tensor([1.0, 3.0]))
    assert torch.equal(found[:, 0, 0], torch.tensor([1.0, 3.0]))
    assert more is not None
    assert torch.equal(more["b4.conv1.affine.bias"][:, 0], torch.tensor([1.0, 3.0]))
    assert moved_on(before, after, styles, 1.0)[0] is after


def test_a_model_keeps_its_gain_through_its_description(model: HyperInverter, generator: Generator) -> None:
    assert "edit_gain" not in describe(model).plain()
    model.edit_gain = 1.2
    assert build(describe(model), generator).edit_gain == 1.2  # type: ignore[union-attr]
    model.edit_gain = 0.0
    with pytest.raises(ValueError, match="edit_gain must be above 0 and at most 4, got 0.0"):
        build(describe(model), generator)


def test_a_strength_that_is_no_part_is_refused(model: HyperInverter, generator: Generator) -> None:
    model.edit_strength = 1.5
    with pytest.raises(ValueError, match="edit_strength must be between 0 and 1, got 1.5"):
        build(describe(model), generator)
