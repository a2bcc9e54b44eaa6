"""Backbones begin with all the weights that published files have for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from formula import filled
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision import models

from hyperinverter.checkpoints.starts import published_start, start_from_published
from hyperinverter.contracts import UserError
from hyperinverter.networks.backbones import IRSE50, ResNet34, TinyBackbone, widen_input

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def face_network(module_folder: Path) -> tuple[Path, State]:
    """IR-SE-50 with the head it was trained with."""
    state = {**filled(IRSE50()), "output_layer.3.bias": torch.zeros(512)}
    path = module_folder / "model_ir_se50.pth"
    torch.save(state, path)
    return path, state


def test_ir_se50_begins_with_the_face_network(face_network: tuple[Path, State]) -> None:
    path, state = face_network
    backbone = IRSE50()
    start_from_published(backbone, path)
    ours = backbone.state_dict()
    assert set(ours) == {name for name in state if not name.startswith("output_layer.")}
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.items())
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_a_backbone_of_six_channels_begins_with_it_for_the_first_three(
    face_network: tuple[Path, State],
) -> None:
    path, state = face_network
    backbone = IRSE50()
    widen_input(backbone, 6)
    before = backbone.input_layer[0].weight[:, 3:].clone()
    start_from_published(backbone, path)
    assert torch.equal(backbone.input_layer[0].weight[:, :3], state["input_layer.0.weight"])
    assert torch.equal(backbone.input_layer[0].weight[:, 3:], before)
    assert torch.equal(backbone.state_dict()["body.3.res_layer.1.weight"], state["body.3.res_layer.1.weight"])


def test_resnet34_begins_with_the_imagenet_classifier(tmp_path: Path) -> None:
    theirs = models.resnet34(weights=None)
    state = filled(theirs)
    theirs.load_state_dict(state)
    # the file is of a time before BatchNorm counted its batches
    torch.save(
        {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, tmp_path / "r34.pth"
    )
    backbone = ResNet34()
    start_from_published(backbone, tmp_path / "r34.pth")
    assert torch.equal(backbone.relu.weight, torch.full((64,), 0.25))
    backbone.relu.weight.data.zero_()  # then it is torchvision's network without its pooling
    theirs.maxpool = nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stem = F.relu(theirs.eval().bn1(theirs.conv1(x)))
        expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(stem))))
        # the sums reach thousands, and what is left of some of them is small
        assert_close(backbone.eval()(x)[2], expected, rtol=0, atol=1e-4 * float(expected.std()))


def test_other_backbones_and_files_are_refused(face_network: tuple[Path, State]) -> None:
    with pytest.raises(UserError, match=r"no published weights for TinyBackbone: .*encoder.start=random"):
        published_start(TinyBackbone())
    with pytest.raises(UserError, match="does not hold the weights of ResNet34"):
        start_from_published(ResNet34(), face_network[0])
