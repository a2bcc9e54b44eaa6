"""Directions found by arithmetic: known answers on codes and generators made for it."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hyperinverter.contracts import UserError
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.discovery import fit, from_two_groups, pca, sefa, side_effects
from hyperinverter.networks.generator import Generator


def test_pca_finds_the_axes_and_their_sizes() -> None:
    axes = torch.linalg.qr(torch.randn(8, 8)).Q
    codes = torch.randn(20_000, 8) * torch.tensor([5.0, 3.0, *[0.5] * 6]) @ axes.T
    found = pca(codes, 2)
    for index, size in enumerate((5.0, 3.0)):
        shift = found[f"pc{index}"].shift
        assert float(shift.norm()) == pytest.approx(size, rel=0.03)
        assert abs(float(shift @ axes[:, index])) == pytest.approx(size, rel=0.03)
        assert float(shift[shift.abs().argmax()]) > 0


def test_sefa_is_the_direction_of_the_largest_change_of_styles(generator: Generator) -> None:
    found = sefa(generator, 16)
    rows = [
        p for n, p in generator.synthesis.named_parameters() if "conv" in n and n.endswith("affine.weight")
    ]
    stacked = torch.cat([torch.nn.functional.normalize(row.detach(), dim=1) for row in rows])
    changes = [float((stacked @ direction.shift).norm()) for direction in found.values()]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] == pytest.approx(float(torch.linalg.matrix_norm(stacked, 2)), rel=1e-4)


def test_sefa_of_some_layers_moves_those_layers(generator: Generator) -> None:
    shift = sefa(generator, 1, layers=(2, 3))["sefa0"].shift
    assert shift.shape == (6, 16)
    assert float(shift[[0, 1, 4, 5]].abs().sum()) == 0
    with pytest.raises(UserError, match="no convolution reads"):
        sefa(generator, 1, layers=(50, 60))


def test_a_label_that_is_a_direction_is_found_with_its_unit() -> None:
    truth = torch.randn(16)
    codes = torch.randn(400, 16)
    labels = codes @ truth
    found = fit("d", codes, labels, shrinkage=0.0)
    assert found.kind == "rank correlation"
    assert found.score > 0.99
    assert not found.weak
    change = float(found.direction.shift @ truth)
    assert change == pytest.approx(float(labels.std()), rel=0.02)  # power 1 is one standard deviation


def test_noise_is_called_weak() -> None:
    assert fit("d", torch.randn(200, 16), torch.randn(200)).weak
    assert from_two_groups("d", torch.randn(60, 16), torch.randn(60, 16)).weak


def test_two_groups_and_what_must_keep_still() -> None:
    wanted, other = torch.eye(16)[0], torch.eye(16)[1]
    with_it = torch.randn(80, 16) + 3 * wanted + 3 * other
    without = torch.randn(80, 16)
    plain = from_two_groups("d", without, with_it)
    assert plain.kind == "balanced accuracy"
    assert plain.score > 0.9
    assert abs(float(plain.direction.shift @ other)) > 0.5
    still = from_two_groups("d", without, with_it, keep={"other": Direction("other", other)})
    assert abs(float(still.direction.shift @ other)) < 1e-5
    assert float(still.direction.shift @ wanted) > 0.5


def test_too_little_to_learn_from() -> None:
    with pytest.raises(UserError, match="at least 10 photos of each kind, there are 4"):
        from_two_groups("d", torch.randn(4, 16), torch.randn(40, 16))
    with pytest.raises(UserError, match="at least 10"):
        fit("d", torch.randn(40, 16), torch.ones(40))
    with pytest.raises(UserError, match="as many labels"):
        fit("d", torch.randn(40, 16), torch.ones(39))


def test_samples_are_a_function_of_the_seed(generator: Generator) -> None:
    assert torch.equal(generator.sample_codes(5), generator.sample_codes(5))
    assert not torch.equal(generator.sample_codes(5), generator.sample_codes(5, seed=1))


def test_side_effects_find_the_reading_that_differs() -> None:
    same, darker = torch.randn(100), torch.randn(100) - 3
    found = side_effects(
        [{"yaw": same, "light": torch.randn(100)}, {"yaw": torch.randn(100), "light": darker}]
    )
    assert found["light"] > 0.95
    assert found["yaw"] < 0.65
    assert_close(side_effects([{"a": torch.ones(3)}, {"a": torch.ones(3)}])["a"], 0.5)
