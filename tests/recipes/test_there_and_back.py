"""What an edit and its reverse lose at each step."""

from __future__ import annotations

import pytest
import torch
from tiny import make_generator
from torch.testing import assert_close

from hyperinverter.editing.directions import Direction
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.networks.backbones import TinyBackbone
from hyperinverter.networks.encoders import FeatureEncoder, WEncoder
from hyperinverter.networks.features import FeatureResiduals
from hyperinverter_recipes.there_and_back import COLUMNS, errors, knowing, table

TURN = Direction("yaw", torch.ones(16))


@pytest.fixture
def model() -> HyperInverter:
    torch.manual_seed(0)
    generator = make_generator(32)
    backbone = TinyBackbone(widths=(8, 8, 8), units=(1, 1, 1))
    first = WInverter(generator, WEncoder(TinyBackbone(widths=(8, 8, 8), units=(1, 1, 1)), generator.w_dim))
    added = FeatureResiduals(
        generator.synthesis.feature_maps(), ["b16.conv1"], channels=8, width=4, scale=1.0
    )
    return HyperInverter(
        first, FeatureEncoder(backbone, generator.num_ws, 8, used=(), sides=[16]), None, added
    )


def test_one_inversion_comes_back_exactly_and_another_does_not(model: HyperInverter) -> None:
    photo = torch.rand(2, 3, 32, 32) * 2 - 1
    found = dict(zip(COLUMNS, errors(model, photo, TURN, 1.0).unbind(1), strict=True))
    assert_close(found["one inversion"], found["inversion"])
    assert (found["inverted again"] - found["inversion"]).abs().min() > 1e-4
    assert (found["code missed by"] > 0.1).all()


def test_phase_one_at_the_known_code_loses_nothing(model: HyperInverter) -> None:
    photo = torch.rand(2, 3, 32, 32) * 2 - 1
    found = dict(zip(COLUMNS, errors(model.w_inverter, photo, TURN, -1.0).unbind(1), strict=True))
    assert_close(found["at the known code"], found["inversion"])


def test_a_known_code_is_used_and_phase_one_is_put_back(model: HyperInverter) -> None:
    own, w = model.w_inverter, torch.randn(2, 16)
    photo = torch.rand(2, 3, 32, 32) * 2 - 1
    with knowing(model, w):
        assert torch.equal(model.invert(photo).w, w)
    assert model.w_inverter is own
    assert not torch.equal(model.invert(photo).w, w)


def test_the_table_has_a_row_for_each_model_and_edit() -> None:
    text = table({("best", "yaw"): torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5], [0.3, 0.4, 0.5, 0.6, 0.7]])})
    assert "| best | yaw | 0.2000 | 0.3000 | 0.4000 | 0.5000 | 0.60 |" in text
