"""Published judges of identity say what a slow reading of their description says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from formula import filled
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision import models

from hyperinverter.contracts import UserError
from hyperinverter.judges.identity import ArcFaceIdentity, FaceRecognition, MoCoSimilarity
from hyperinverter.losses.reconstruction import IdentityLoss

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def arcface(module_folder: Path) -> tuple[Path, State]:
    with torch.device("meta"):
        network = FaceRecognition()
    state = filled(network)
    path = module_folder / "model_ir_se50.pth"
    torch.save(state, path)
    return path, state


@pytest.fixture(scope="module")
def moco(module_folder: Path) -> tuple[Path, State]:
    state = filled(models.resnet50(weights=None))
    stored = {
        f"module.encoder_q.{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")
    }
    stored |= {"module.encoder_q.fc.0.weight": torch.zeros(3), "module.queue": torch.zeros(2, 2)}
    path = module_folder / "moco_v2_800ep_pretrain.pth.tar"
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": stored, "optimizer": {"state": {}}}, path)
    return path, state


@pytest.fixture(scope="module")
def photos() -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return F.interpolate(torch.rand(2, 3, 40, 40, generator=draw) * 2 - 1, 256, mode="bilinear").clamp(-1, 1)


# The slow way -------------------------------------------------------------------------------------------


def batch_norm(x: Tensor, state: State, name: str) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    shape = (1, -1, *[1] * (x.ndim - 2))
    return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, slope.view(1, -1, 1, 1) * x)


def average_pool(x: Tensor, size: int) -> Tensor:
    """Mean over the pixels that each cell of the result touches."""
    side = x.shape[-1]
    spans = [(i * side // size, -(-(i + 1) * side // size)) for i in range(size)]
    rows = torch.stack([x[:, :, a:b].mean(dim=2) for a, b in spans], dim=2)
    return torch.stack([rows[..., a:b].mean(dim=3) for a, b in spans], dim=3)


def slow_arcface(image: Tensor, state: State) -> Tensor:
    x = average_pool(image[:, :, 35:223, 32:220], 112)
    x = F.conv2d(x, state["input_layer.0.weight"], padding=1)
    x = prelu(batch_norm(x, state, "input_layer.1"), state["input_layer.2.weight"])
    index = 0
    for units in (3, 4, 14, 3):
        for unit in range(units):
            name, stride = f"body.{index}", 2 if unit == 0 else 1
            short = x[:, :, ::stride, ::stride]
            if f"{name}.shortcut_layer.0.weight" in state:
                short = batch_norm(
                    F.conv2d(short, state[f"{name}.shortcut_layer.0.weight"]),
                    state,
                    f"{name}.shortcut_layer.1",
                )
            y = F.conv2d(
                batch_norm(x, state, f"{name}.res_layer.0"), state[f"{name}.res_layer.1.weight"], padding=1
            )
            y = prelu(y, state[f"{name}.res_layer.2.weight"])
            y = F.conv2d(y, state[f"{name}.res_layer.3.weight"], stride=stride, padding=1)
            y = batch_norm(y, state, f"{name}.res_layer.4")
            gate = y.mean(dim=(2, 3), keepdim=True)
            gate = F.conv2d(gate, state[f"{name}.res_layer.5.fc1.weight"]).clamp_min(0)
            gate = 1 / (1 + torch.exp(-F.conv2d(gate, state[f"{name}.res_layer.5.fc2.weight"])))
            x, index = y * gate + short, index + 1
    x = batch_norm(x, state, "output_layer.0").flatten(1)
    x = x @ state["output_layer.3.weight"].T + state["output_layer.3.bias"]
    x = batch_norm(x, state, "output_layer.4")
    return x / x.square().sum(dim=1, keepdim=True).sqrt()


def slow_moco(image: Tensor, state: State) -> Tensor:
    nearest = torch.tensor([math.floor(i * image.shape[-1] / 224) for i in range(224)])
    x = image[:, :, nearest][..., nearest]
    network = models.resnet50(weights=None)
    network.load_state_dict(state)
    network.fc = nn.Identity()
    with torch.no_grad():
        x = network.eval()(x)
    return x / x.square().sum(dim=1, keepdim=True).sqrt()


# Judges -------------------------------------------------------------------------------------------------


def test_face_recognition_has_the_published_tensors() -> None:
    with torch.device("meta"):
        network = FaceRecognition()
    assert len(network.state_dict()) == 397
    assert sum(parameter.numel() for parameter in network.parameters()) == 43_797_696


def test_arcface_equals_the_slow_way(arcface: tuple[Path, State], photos: Tensor) -> None:
    path, state = arcface
    judge = ArcFaceIdentity(path)
    assert_close(judge.embed(photos)[0], slow_arcface(photos, state), rtol=1e-4, atol=1e-5)
    a, b = slow_arcface(photos, state)
    assert_close(judge(photos[:1], photos[1:]), (a @ b)[None], rtol=1e-4, atol=1e-5)
    assert_close(judge(photos, photos), torch.ones(2))


def test_large_images_are_averaged_to_256_first(
    arcface: tuple[Path, State], moco: tuple[Path, State], photos: Tensor
) -> None:
    large = F.interpolate(photos[:1], 512, mode="nearest")
    assert_close(
        ArcFaceIdentity(arcface[0]).embed(large)[0],
        slow_arcface(photos[:1], arcface[1]),
        rtol=1e-4,
        atol=1e-5,
    )
    assert_close(
        MoCoSimilarity(moco[0]).embed(large)[0], slow_moco(photos[:1], moco[1]), rtol=1e-4, atol=1e-5
    )


def test_moco_equals_the_slow_way_also_for_one_image(moco: tuple[Path, State], photos: Tensor) -> None:
    path, state = moco
    judge = MoCoSimilarity(path)
    assert_close(judge.embed(photos)[0], slow_moco(photos, state), rtol=1e-4, atol=1e-6)
    assert judge(photos[:1], photos[1:]).shape == (1,)


@pytest.mark.parametrize("make", [ArcFaceIdentity, MoCoSimilarity])
def test_as_a_loss_it_pulls_the_image_and_leaves_the_judge_alone(
    make: type, arcface: tuple[Path, State], moco: tuple[Path, State], photos: Tensor
) -> None:
    judge = make((arcface if make is ArcFaceIdentity else moco)[0])
    loss = IdentityLoss(judge).train()
    image = photos[:1].clone().requires_grad_(True)
    before = loss(image, loss.target(photos[1:]))
    before.backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert not judge.training
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    step = 1e-3 * image.grad / image.grad.norm()
    with torch.no_grad():
        assert loss(image - step, loss.target(photos[1:])) < before


@pytest.mark.parametrize(
    ("make", "file"), [(ArcFaceIdentity, "model_ir_se50.pth"), (MoCoSimilarity, "moco_v2")]
)
def test_a_missing_file_names_the_command_that_fetches_it(make: type, file: str, tmp_path: Path) -> None:
    command = rf"python -m hyperinverter weights fetch {make.label}`, or download https://drive"
    with pytest.raises(UserError, match=rf"{make.label} needs {file}.*not at .*absent.*{command}"):
        make(tmp_path / "absent.pth")


def test_a_file_of_another_network_is_refused(arcface: tuple[Path, State], moco: tuple[Path, State]) -> None:
    with pytest.raises(UserError, match="does not hold the weights of ResNet"):
        MoCoSimilarity(arcface[0])
    with pytest.raises(UserError, match="does not hold the weights of FaceRecognition"):
        ArcFaceIdentity(moco[0])
