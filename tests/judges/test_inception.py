"""The network of FID equals torch-fidelity's, whose features published FIDs are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hyperinverter.contracts import UserError
from hyperinverter.judges.catalogue import build_features
from hyperinverter.judges.inception import InceptionFeatures, _network, resize_as_tensorflow


@pytest.fixture(scope="module")
def inception_file(module_folder: Path) -> Path:
    """A file like torch-fidelity's, with random weights that keep the signal alive."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = _network()
    network = network.to_empty(device="cpu")
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 4:
            nn.init.kaiming_normal_(tensor)
        elif name.endswith(("running_var", "bn.weight")):
            nn.init.uniform_(tensor, 0.5, 1.5)
        else:
            nn.init.zeros_(tensor) if tensor.ndim < 2 else nn.init.normal_(tensor)
    path = module_folder / "inception.pth"
    torch.save({n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}, path)
    return path


@pytest.mark.slow  # 8 s: two networks of 24 M parameters
@pytest.mark.parametrize("side", [64, 256, 512])
def test_features_equal_torchmetrics_without_antialiasing(side: int, inception_file: Path) -> None:
    pytest.importorskip("torch_fidelity")
    from torchmetrics.image.fid import NoTrainInceptionV3

    theirs = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(inception_file), antialias=False)
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    expected = theirs(pixels)
    assert (expected[0] - expected[1]).abs().mean() > 1e-3  # two images differ
    ours = InceptionFeatures(inception_file)(pixels.float() / 127.5 - 1)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5)


def test_the_old_way_to_resize_by_hand() -> None:
    image = torch.rand(1, 2, 5, 5)
    found = resize_as_tensorflow(image, 7)
    for row in range(7):
        y = row * 5 / 7
        low, high = int(y), min(int(y) + 1, 4)
        expected = (1 - (y - low)) * image[..., low, 0] + (y - low) * image[..., high, 0]
        np.testing.assert_allclose(found[..., row, 0], expected, rtol=1e-5)


def test_a_missing_file_and_an_unknown_network_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"inception_2015 needs weights-inception.* weights fetch inception_2015"
    ):
        build_features("inception_2015", tmp_path / "gone.pth")
    with pytest.raises(UserError, match="there are: effnet_lite0, inception_2015"):
        build_features("vgg")
