"""Published networks the paper builds on: face recognition, unsupervised features, and backbones that begin with them.

Only formats are known here, not addresses: those are in ``judge_weights``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from hyperinverter.contracts import UserError
from hyperinverter.networks.backbones import IRSE50, Backbone, ResNet34
from hyperinverter.networks.face_networks import Crop
from hyperinverter.networks.frozen import fast_layout, load_strictly
from hyperinverter.networks.judges import FFHQ_FACE, IdentityJudge, read_foreign_weights

COMPARED_SIZE = 256  # side at which the paper compares images, whatever the generator draws


# Judges ---------------------------------------------------------------------------------------------------


class FaceRecognition(IRSE50):
    """IR-SE-50 with the head it was trained with: faces ``(B, 3, 112, 112)`` in [-1, 1] -> descriptors ``(B, 512)``.

    Deng et al. 2019 (ArcFace); tensor names of ``model_ir_se50.pth``.
    """

    input_size = 112

    def __init__(self) -> None:
        super().__init__()
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.6),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, 512),
            nn.BatchNorm1d(512),
        )

    def descriptor(self, face: Tensor) -> Tensor:
        """Describe faces; the length of a descriptor means nothing."""
        return self.output_layer(self(face)[2])


class ArcFaceIdentity(IdentityJudge):
    """Cosine of ArcFace descriptors (IR-SE-50) on a fixed crop: the identity loss of HyperInverter's faces.

    Images larger than 256 pixels are average-pooled to 256 first, the crop to 112, as in the authors' training.

    Args:
        path: ``model_ir_se50.pth``, see ``judge_weights``.
        crop: Where the face is; rows 35 to 222 and columns 32 to 219 of 256 in FFHQ's alignment.

    Raises:
        UserError: If the file is missing, is not a weight file, or belongs to another network.
    """

    label = "id_arcface"

    def __init__(self, path: str | Path, crop: Crop = FFHQ_FACE) -> None:
        super().__init__()
        self.crop = crop
        weights = read_foreign_weights(path, self.label)
        with torch.device("meta"):
            self.net = FaceRecognition()
        load_strictly(self.net, _with_counters(self.net, weights), path)
        self.freeze()

    def descriptor(self, image: Tensor) -> Tensor:
        face = F.adaptive_avg_pool2d(self.crop.cut(_compared(image)), FaceRecognition.input_size)
        return self.net.descriptor(fast_layout(face))


class MoCoSimilarity(IdentityJudge):
    """Cosine of MoCo-v2 features (ResNet-50, 800 epochs): stands for identity where there are no faces.

    Tov et al. 2021 (e4e) and HyperInverter's churches: nearest-neighbour resize to 224, no ImageNet normalisation,
    the 2048 averaged features before the classifier.

    Args:
        path: ``moco_v2_800ep_pretrain.pt`` or ``.pth.tar``, see ``judge_weights``; its projection head is ignored.

    Raises:
        UserError: If the file is missing, is not a weight file, or belongs to another network.
    """

    label = "id_moco"
    size = 224
    prefix = "module.encoder_q."

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        weights = read_foreign_weights(path, self.label)
        with torch.device("meta"):
            self.net = models.resnet50(weights=None)
        self.net.fc = nn.Identity()
        found = {k.removeprefix(self.prefix): t for k, t in weights.items() if k.startswith(self.prefix)}
        found = {name: tensor for name, tensor in found.items() if not name.startswith("fc.")}
        load_strictly(self.net, _with_counters(self.net, found), path)
        self.freeze()

    def descriptor(self, image: Tensor) -> Tensor:
        return self.net(fast_layout(F.interpolate(_compared(image), size=(self.size, self.size))))


def _compared(image: Tensor) -> Tensor:
    """Images at the size the paper compares them at; smaller ones as they are."""
    return F.adaptive_avg_pool2d(image, COMPARED_SIZE) if image.shape[-1] > COMPARED_SIZE else image


def _with_counters(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add BatchNorm's batch counters, which files of old torch versions lack and eval mode never reads."""
    counters = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    return {name: torch.zeros((), dtype=torch.long) for name in counters} | dict(weights)


# Backbones ------------------------------------------------------------------------------------------------

STARTS: Mapping[type[Backbone], str] = {
    IRSE50: "start_ir_se50",
    ResNet34: "start_resnet34",
}  # -> judge_weights
_STAGES = {"layer1": 0, "layer2": 3, "layer3": 7, "layer4": 13}  # torchvision's stages begin at these units


def start_from_published(backbone: Backbone, path: str | Path) -> None:
    """Fill a backbone with the weights the paper starts from; what the file lacks keeps its first values.

    IR-SE-50 begins with ArcFace's face recognition network, ResNet-34 with torchvision's ImageNet classifier
    (whose plain ReLU has no slopes for the PReLU of the stem: those stay at 0.25).

    Args:
        backbone: Changed in place.
        path: ``model_ir_se50.pth`` or ``resnet34-333f7ec4.pth``.

    Raises:
        UserError: If there are no published weights for this backbone, or the file does not hold them.
    """
    label = published_start(backbone)
    weights = read_foreign_weights(path, label)
    if isinstance(backbone, IRSE50):
        found = {name: tensor for name, tensor in weights.items() if not name.startswith("output_layer.")}
    else:
        found = {_unit_name(name): tensor for name, tensor in weights.items() if not name.startswith("fc.")}
        found["relu.weight"] = backbone.state_dict()["relu.weight"]
    load_strictly(backbone, _with_counters(backbone, found), path)


def published_start(backbone: nn.Module) -> str:
    """The label in ``judge_weights`` of the file a backbone starts from.

    Raises:
        UserError: If there is none.
    """
    label = next((label for kind, label in STARTS.items() if isinstance(backbone, kind)), None)
    if label is None:
        raise UserError(
            f"no published weights for {type(backbone).__name__}: choose encoder=ir_se50 or encoder=resnet34, "
            "or encoder.start=random"
        )
    return label


def _unit_name(name: str) -> str:
    """torchvision's ``layer2.1.conv1.weight`` -> ``body.4.conv1.weight``."""
    stage, _, rest = name.partition(".")
    if stage not in _STAGES:
        return name
    unit, _, rest = rest.partition(".")
    return f"body.{_STAGES[stage] + int(unit)}.{rest}"
