from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hyperinverter.networks.backbones import IRSE50, Backbone, ResNet34, TinyBackbone

ALL = [IRSE50, ResNet34, TinyBackbone]


@pytest.mark.parametrize("make", ALL)
def test_taps_have_the_announced_shapes(make: type[Backbone]) -> None:
    with torch.device("meta"):
        backbone = make()
        taps = backbone(torch.empty(2, 3, backbone.input_size, backbone.input_size))
    expected = [(2, c, s, s) for c, s in zip(backbone.channels, backbone.sizes, strict=True)]
    assert [tuple(tap.shape) for tap in taps] == expected


def test_paper_backbones_have_the_published_taps() -> None:
    for backbone in (IRSE50, ResNet34):
        assert backbone.channels == (128, 256, 512)
        with torch.device("meta"):
            assert backbone().sizes == (64, 32, 16)


def test_irse50_has_the_published_tensor_names() -> None:
    with torch.device("meta"):
        state = IRSE50().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["input_layer.0.weight"] == (64, 3, 3, 3)
    assert shapes["input_layer.2.weight"] == (64,)
    assert shapes["body.0.res_layer.0.running_mean"] == (64,)
    assert shapes["body.3.res_layer.1.weight"] == (128, 64, 3, 3)
    assert shapes["body.3.res_layer.2.weight"] == (128,)
    assert shapes["body.23.res_layer.5.fc1.weight"] == (32, 512, 1, 1)
    assert shapes["body.23.res_layer.5.fc2.weight"] == (512, 32, 1, 1)
    shortcuts = sorted(int(name.split(".")[1]) for name in shapes if name.endswith("shortcut_layer.0.weight"))
    assert shortcuts == [3, 7, 21]
    assert len(state) == 385  # the phase-I encoder's 387 without its linear layer


def test_resnet34_has_the_published_tensor_names() -> None:
    with torch.device("meta"):
        state = ResNet34().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["relu.weight"] == (64,)
    assert shapes["body.3.conv1.weight"] == (128, 64, 3, 3)
    shortcuts = sorted(int(name.split(".")[1]) for name in shapes if name.endswith("downsample.0.weight"))
    assert shortcuts == [3, 7, 13]
    assert len(state) == 217


def test_resnet34_is_torchvisions_but_for_prelu_and_max_pool() -> None:
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet34(weights=None).eval()
    ours = ResNet34().eval()
    state = {
        name: value for name, value in theirs.state_dict().items() if not name.startswith(("layer", "fc"))
    }
    offset = 0
    for stage, count in ((1, 3), (2, 4), (3, 6), (4, 3)):
        for unit in range(count):
            prefix = f"layer{stage}.{unit}."
            for name, value in theirs.state_dict().items():
                if name.startswith(prefix):
                    state[f"body.{offset + unit}.{name.removeprefix(prefix)}"] = value
        offset += count
    state["relu.weight"] = torch.zeros(64)  # a PReLU of slope 0 is torchvision's ReLU
    ours.load_state_dict(state)
    theirs.maxpool = torch.nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    c0 = theirs.layer1(stem)
    c1 = theirs.layer2(c0)
    c2 = theirs.layer3(c1)
    c3 = theirs.layer4(c2)
    for tap, expected in zip(ours(x), (c1, c2, c3), strict=True):
        assert_close(tap, expected, rtol=0, atol=1e-4 * float(expected.detach().std()))  # rounded 33 times


def test_irse_unit_subsamples_its_shortcut_like_a_one_pixel_max_pool() -> None:
    unit = IRSE50().body[0].eval()
    for parameter in unit.res_layer[4].parameters():
        torch.nn.init.zeros_(parameter)  # switches the residual branch off
    x = torch.randn(2, 64, 6, 6)
    assert_close(unit(x), torch.nn.functional.max_pool2d(x, 1, 2))


def test_tiny_backbone_never_mixes_images() -> None:
    backbone = TinyBackbone(widths=(8, 16, 24)).train()
    x = torch.randn(3, 3, 64, 64)
    together = backbone(x)
    alone = [backbone(x[i : i + 1]) for i in range(3)]
    for level in range(3):
        assert_close(together[level], torch.cat([taps[level] for taps in alone]), rtol=1e-4, atol=1e-5)


def test_every_parameter_of_the_tiny_backbone_learns() -> None:
    backbone = TinyBackbone(widths=(8, 16, 24))
    c1, c2, c3 = backbone(torch.randn(2, 3, 64, 64))
    (c1.square().mean() + c2.square().mean() + c3.square().mean()).backward()
    silent = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
