"""Backbones that begin with published weights, as the paper's do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from hyperinverter.checkpoints.reading import read_foreign_weights, with_counters
from hyperinverter.contracts import UserError
from hyperinverter.networks.backbones import IRSE50, Backbone, ResNet34, for_widened
from hyperinverter.networks.frozen import load_strictly

STARTS: Mapping[type[Backbone], str] = {
    IRSE50: "start_ir_se50",
    ResNet34: "start_resnet34",
}  # in registry.FETCHED
_STAGES = {"layer1": 0, "layer2": 3, "layer3": 7, "layer4": 13}  # torchvision's stages begin at these units


def start_from_published(backbone: Backbone, path: str | Path) -> None:
    """Fill a backbone with the weights the paper starts from; what the file lacks keeps its first values.

    A backbone that was widened to six channels gets them for the first three, as in ReStyle and HyperStyle.

    IR-SE-50 begins with ArcFace's face recognition network, ResNet-34 with torchvision's ImageNet classifier
    (whose plain ReLU has no slopes for the PReLU of the stem: those stay at 0.25).

    Args:
        backbone: Changed in place.
        path: ``model_ir_se50.pth`` or ``resnet34-333f7ec4.pth``.

    Raises:
        UserError: If there are no published weights for this backbone, or the file does not hold them.
    """
    label = published_start(backbone)
    face = isinstance(backbone, IRSE50)
    weights = read_foreign_weights(path, label, "input_layer.0.weight" if face else "conv1.weight")
    if face:
        found = {name: tensor for name, tensor in weights.items() if not name.startswith("output_layer.")}
    else:
        found = {_unit_name(name): tensor for name, tensor in weights.items() if not name.startswith("fc.")}
        found["relu.weight"] = backbone.state_dict()["relu.weight"]
    load_strictly(backbone, with_counters(backbone, for_widened(found, backbone)), path)


def published_start(backbone: nn.Module) -> str:
    """The label in ``registry.FETCHED`` of the file a backbone starts from.

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
