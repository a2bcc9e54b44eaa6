"""Judges: frozen networks that say how far apart two images are.

============================  ================  =========  ==================================
class                         label             says       weights
============================  ================  =========  ==================================
``EffNetPerceptual``          effnet_lite0      distance   ship with the package
``STLPIPS``                   st_lpips_alex     distance   ship with the package
``LPIPS``                     lpips_alex/_vgg   distance   file, see ``judge_weights``
``DescriptorIdentity``        id_descriptor     cosine     ship with the package
``FaceNetIdentity``           id_facenet        cosine     file, see ``judge_weights``
``ArcFaceIdentity``           id_arcface        cosine     file; the class is in ``published``
``MoCoSimilarity``            id_moco           cosine     file; the class is in ``published``
============================  ================  =========  ==================================

Labels go into tables as they are: distances of different networks are not comparable, and none of the
identity labels is the CurricularFace similarity of published tables.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from facenet_pytorch import InceptionResnetV1
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from hyperinverter.contracts import UserError
from hyperinverter.networks.efficientnet import EfficientNetLite0Features
from hyperinverter.networks.face_networks import CROP52, Crop, FaceDescriptor, resize
from hyperinverter.networks.frozen import Frozen, asset_path, fast_layout, load_strictly, read_tensors
from hyperinverter.networks.judge_weights import JUDGE_WEIGHTS, fetch_command

Embedding = list[Tensor]


class Judge(Frozen):
    """Compares images, ``(B, 3, R, R)``, RGB in [-1, 1], in two steps: ``embed`` each, then ``compare``.

    Always float32, also under autocast: differences of nearly equal features are what is measured.
    """

    label: str  # how tables name it
    higher_is_closer: bool

    def embed(self, image: Tensor) -> Embedding:
        """Return what is needed of one image, so that a target is embedded once for many comparisons."""
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            raise ValueError(
                f"{self.label} judges float images (B, 3, R, R) in [-1, 1], "
                f"got {tuple(image.shape)} of {image.dtype}"
            )
        with torch.autocast(image.device.type, enabled=False):
            return self._embed(image.float())

    def compare(self, a: Embedding, b: Embedding) -> Tensor:
        """Return one number per pair of embedded images, ``(B,)``."""
        with torch.autocast(a[0].device.type, enabled=False):
            return self._compare(a, b)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare images pairwise, ``(B,)``; differentiable in both."""
        return self.compare(self.embed(a), self.embed(b))

    def _embed(self, image: Tensor) -> Embedding:
        raise NotImplementedError

    def _compare(self, a: Embedding, b: Embedding) -> Tensor:
        raise NotImplementedError


# Perceptual distances -------------------------------------------------------------------------------


class PerceptualJudge(Judge):
    """Zhang et al. 2018 (LPIPS), Eq. 1: squared distance of unit-length features, weighted per channel.

    ``d(a, b) = sum_l mean_hw sum_c weight_lc (a_lchw - b_lchw)^2`` with ``a_l`` of unit length over c.
    """

    higher_is_closer = False

    def features(self, image: Tensor) -> list[Tensor]:
        """Return feature maps, ``(B, C_l, H_l, W_l)``, of images in [-1, 1]."""
        raise NotImplementedError

    def channel_scales(self) -> list[Tensor] | None:
        """Return the square roots of the channel weights, ``(C_l, 1, 1)`` each, or None for all one."""
        return None

    def _embed(self, image: Tensor) -> Embedding:
        units = [unit_length(feature) for feature in self.features(image)]
        scales = self.channel_scales()
        return units if scales is None else [u * s for u, s in zip(units, scales, strict=True)]

    def _compare(self, a: Embedding, b: Embedding) -> Tensor:
        parts = [(x - y).square().sum(dim=1).mean(dim=(1, 2)) for x, y in zip(a, b, strict=True)]
        return torch.stack(parts).sum(dim=0)


def unit_length(feature: Tensor) -> Tensor:
    """Divide ``(B, C, H, W)`` by its length over C; a zero vector stays zero and has gradient zero."""
    # clamped before the root, whose derivative at zero would turn the gradient into NaN
    norm = feature.square().sum(dim=1, keepdim=True).clamp_min(1e-20).sqrt()
    return feature / (norm + 1e-10)


class EffNetPerceptual(PerceptualJudge):
    """Distance of EfficientNet-lite0 features (ImageNet), all six taps with equal weight, divided by 16.

    Cheap enough to be a training loss on a CPU. Not calibrated on human judgements: it is not LPIPS. The
    divisor brings it to LPIPS's size (photo against phase-I image: about 4.3 before, LPIPS 0.2 to 0.3), so
    that the paper's weight of 0.8 keeps the paper's balance between the terms.

    Args:
        enlarge: Factor by which images are enlarged first (bilinear); 2 lets the network see the detail of
            64-pixel images at four times the cost.
    """

    label = "effnet_lite0"

    def __init__(self, enlarge: float = 1) -> None:
        super().__init__()
        if not enlarge >= 1:
            raise ValueError(f"enlarge must be 1 or more, got {enlarge}")
        self.enlarge = enlarge
        self.net = EfficientNetLite0Features()
        self.freeze()

    def features(self, image: Tensor) -> list[Tensor]:
        if self.enlarge > 1:
            image = F.interpolate(image, scale_factor=self.enlarge, mode="bilinear", align_corners=False)
        return self.net(image)

    def _compare(self, a: Embedding, b: Embedding) -> Tensor:
        return super()._compare(a, b) / 16


def lpips_scale(image: Tensor) -> Tensor:
    """Shift and scale [-1, 1] to the range ImageNet networks were trained on (constants of LPIPS 0.1)."""
    shift = image.new_tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = image.new_tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    return fast_layout((image - shift) / scale)


class STLPIPS(PerceptualJudge):
    """Shift-tolerant LPIPS (Ghildyal & Liu, ECCV 2022), AlexNet variant, at version ST0.0.

    An AlexNet without stride in its first convolution, every reduction a blur after reflection padding.
    Input as in its authors' package called with default arguments, images in [-1, 1] of 32 pixels or more.
    """

    label = "st_lpips_alex"
    asset = "stlpips_alex.safetensors"
    min_size = 32

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):
            self.net = ShiftTolerantAlexNet()
        load_strictly(self.net, read_tensors(asset_path(self.asset)), self.asset)
        self.freeze()

    def features(self, image: Tensor) -> list[Tensor]:
        if min(image.shape[-2:]) < self.min_size:
            raise ValueError(
                f"{self.label} needs images of {self.min_size} pixels or more, got {image.shape}"
            )
        return self.net(lpips_scale(image))

    def channel_scales(self) -> list[Tensor]:
        return [head.sqrt().view(-1, 1, 1) for head in self.net.heads]


class ShiftTolerantAlexNet(nn.Module):
    """The convolutions of ``STLPIPS`` and its channel weights (``heads``)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 11, padding=2)
        self.conv2 = nn.Conv2d(64, 192, 5, padding=2)
        self.conv3 = nn.Conv2d(192, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 256, 3, padding=1)
        self.conv5 = nn.Conv2d(256, 256, 3, padding=1)
        self.heads = nn.ParameterList([torch.zeros(c) for c in (64, 192, 384, 256, 256)])

    def forward(self, x: Tensor) -> list[Tensor]:
        x1 = F.relu(blur_down(self.conv1(x)))
        x2 = F.relu(self.conv2(blur_down(F.max_pool2d(x1, 3, stride=1))))
        x3 = F.relu(self.conv3(blur_down(F.max_pool2d(x2, 3, stride=1))))
        x4 = F.relu(self.conv4(x3))
        x5 = F.relu(self.conv5(x4))
        return [x1, x2, x3, x4, x5]


def blur_down(x: Tensor) -> Tensor:
    """Reflect-pad by two, blur with [1, 2, 1] x [1, 2, 1] / 16, keep every second position."""
    # two box filters of width two make the triangle, and pooling is faster than a depthwise convolution
    return F.avg_pool2d(F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 2, stride=1), 2, stride=2)


class LPIPS(PerceptualJudge):
    """LPIPS version 0.1 (Zhang et al. 2018), as the ``lpips`` package computes it, with local weights.

    The package downloads its backbone when constructed; here it is torchvision's, filled from a given file.
    The channel weights come from the installed ``lpips`` package.

    Args:
        path: torchvision's ImageNet weights of the backbone, see ``judge_weights``.
        net: ``"alex"`` or ``"vgg"``.

    Raises:
        UserError: If the file is missing, is not a weight file, or belongs to another network.
    """

    _last_layers: Mapping[str, tuple[int, ...]] = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}

    def __init__(self, path: str | Path, net: str = "alex") -> None:
        super().__init__()
        if net not in self._last_layers:
            raise ValueError(f"net must be one of {', '.join(self._last_layers)}, got {net!r}")
        self.label = f"lpips_{net}"
        weights = read_foreign_weights(path, self.label)
        build = models.alexnet if net == "alex" else models.vgg16
        with torch.device("meta"):  # no download, and no random numbers for a classifier nobody needs
            layers = build(weights=None).features[: self._last_layers[net][-1] + 1]
        features = {k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features.")}
        wanted = layers.state_dict().keys()
        # layers behind the last tap (a pooling, a classifier) are not part of the distance
        load_strictly(layers, {k: v for k, v in features.items() if k in wanted}, path)
        self.layers = layers
        self.heads = nn.ParameterList(read_lpips_heads(net))
        self.freeze()

    def features(self, image: Tensor) -> list[Tensor]:
        x = lpips_scale(image)
        taps = []
        for index, layer in enumerate(self.layers):
            x = F.relu(x) if isinstance(layer, nn.ReLU) else layer(x)  # torchvision's ReLU works in place
            if index in self._last_layers[self.label.removeprefix("lpips_")]:
                taps.append(x)
        return taps

    def channel_scales(self) -> list[Tensor]:
        return [head.sqrt().view(-1, 1, 1) for head in self.heads]


def read_lpips_heads(net: str) -> list[Tensor]:
    """Read the five channel weights of LPIPS 0.1 from the installed ``lpips`` package, ``(C_l,)`` each."""
    spec = importlib.util.find_spec("lpips")  # found, not imported: importing it is slow
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the lpips package is not installed; install hyperinverter with its dependencies")
    path = Path(spec.submodule_search_locations[0], "weights", "v0.1", f"{net}.pth")
    heads = torch.load(path, map_location="cpu", weights_only=True)
    return [heads[f"lin{index}.model.1.weight"].flatten() for index in range(5)]


# Identity -------------------------------------------------------------------------------------------


class IdentityJudge(Judge):
    """Cosine of two descriptors, in [-1, 1]; 1 is the same face."""

    higher_is_closer = True

    def descriptor(self, image: Tensor) -> Tensor:
        """Return the vectors, ``(B, N)``, whose angle is measured."""
        raise NotImplementedError

    def _embed(self, image: Tensor) -> Embedding:
        return [F.normalize(self.descriptor(image), dim=1)]

    def _compare(self, a: Embedding, b: Embedding) -> Tensor:
        return (a[0] * b[0]).sum(dim=1)


class DescriptorIdentity(IdentityJudge):
    """Centred cosine of dlib's face descriptor on the framing of the digiface domain.

    All descriptors share a large common part (different faces have a plain cosine of 0.89), so their mean
    over the domain is subtracted first. Then different faces score 0.00 +- 0.18, the same face under mild
    changes 0.77 to 0.99. Small changes of the pixels can please this network without any likeness: where it
    also was the loss, say so beside the number.
    """

    label = "id_descriptor"

    def __init__(self, crop: Crop = CROP52) -> None:
        super().__init__()
        self.net = FaceDescriptor(crop)
        self.freeze()

    def descriptor(self, image: Tensor) -> Tensor:
        mean = self.net.stats.get_buffer("mean_crop52")
        return self.net(image) - mean


# The part of a 256-pixel FFHQ-aligned photo that HyperInverter shows its identity network:
# rows 35 to 222 and columns 32 to 219.
FFHQ_FACE = Crop(35 / 256, 223 / 256, 32 / 256, 220 / 256)


class FaceNetIdentity(IdentityJudge):
    """Cosine of facenet-pytorch's InceptionResnetV1 (VGGFace2) on a fixed crop of aligned photos.

    Args:
        path: The weights, see ``judge_weights``; the classifier in the file (``logits``) is ignored.
        crop: Where the face is; a fixed box, because a detector would stop the gradient.

    Raises:
        UserError: If the file is missing, is not a weight file, or belongs to another network.
    """

    label = "id_facenet"
    size = 160

    def __init__(self, path: str | Path, crop: Crop = FFHQ_FACE) -> None:
        super().__init__()
        self.crop = crop
        weights = read_foreign_weights(path, self.label)
        with torch.device("meta"):
            self.net = InceptionResnetV1(pretrained=None)
        counters = {k: v for k, v in self.net.state_dict().items() if k.endswith("num_batches_tracked")}
        # files of old torch versions lack these counters, which no network in eval mode reads
        zeros = {name: torch.zeros((), dtype=torch.long) for name in counters}
        found = {name: t for name, t in weights.items() if not name.startswith("logits.")}
        load_strictly(self.net, zeros | found, path)
        self.freeze()

    def descriptor(self, image: Tensor) -> Tensor:
        face = resize(self.crop.cut(image), self.size)
        return self.net(face * (127.5 / 128))  # trained on (v - 127.5) / 128


def read_foreign_weights(path: str | Path, label: str) -> dict[str, Tensor]:
    """Read a state dict saved by torch, bare or as ``state_dict`` of a checkpoint; nothing in the file is executed.

    Raises:
        UserError: If the file is missing (with its official address) or is not such a file.
    """
    source = JUDGE_WEIGHTS[label]
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"{label} needs {source.file_name}, which is not at {path}: fetch it with `{fetch_command(label)}`, or "
            f"download {source.page} by hand"
        )
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for bytes that are no checkpoint depends on the bytes
        raise UserError(
            f"{path} is not a weight file for {label}; replace it by {source.file_name} from {source.page}"
        ) from error
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict) or not all(isinstance(t, Tensor) for t in weights.values()):
        raise UserError(
            f"{path} holds no plain dictionary of tensors; {label} needs {source.file_name} from {source.page}"
        )
    return {str(name): t.float() if t.is_floating_point() else t for name, t in weights.items()}
