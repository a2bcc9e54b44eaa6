"""Label -> judge: which class has it, and which file its weights are in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from hyperinverter.checkpoints.registry import FETCHED, fetched_path
from hyperinverter.contracts import UserError
from hyperinverter.judges.base import Judge
from hyperinverter.judges.identity import (
    ArcFaceIdentity,
    DescriptorIdentity,
    DetectedFaceNetIdentity,
    FaceNetIdentity,
    MoCoSimilarity,
)
from hyperinverter.judges.inception import InceptionFeatures
from hyperinverter.judges.perceptual import LPIPS, STLPIPS, EffNetPerceptual
from hyperinverter.judges.sets import EffNetFeatures, SetFeatures

SHIPPED: Mapping[str, Callable[[], Judge]] = {
    "effnet_lite0": EffNetPerceptual,
    "st_lpips_alex": STLPIPS,
    "id_descriptor": DescriptorIdentity,
}
FROM_FILE: Mapping[str, Callable[[str | Path], Judge]] = {
    "lpips_alex": LPIPS,
    "lpips_vgg": functools.partial(LPIPS, net="vgg"),
    "id_facenet": FaceNetIdentity,
    "id_facenet_mtcnn": DetectedFaceNetIdentity,
    "id_arcface": ArcFaceIdentity,
    "id_moco": MoCoSimilarity,
}


def build_judge(label: str, path: str | Path | None = None, cache_dir: str | Path = ".") -> Judge:
    """Build the judge of this label, float32 on the CPU and frozen.

    Args:
        label: As in tables and in ``judges.*`` of the configuration.
        path: Its weight file; default: where ``weights fetch`` puts it. Judges that ship need none.
        cache_dir: Folder of fetched files.

    Raises:
        UserError: For a label that no judge has, or a weight file that is missing or of something else.
    """
    if label in SHIPPED:
        return SHIPPED[label]()
    if label in FROM_FILE:
        return FROM_FILE[label](path or fetched_path(label, cache_dir))
    raise UserError(
        f"there is no judge called {label!r}; there are: {', '.join(sorted([*SHIPPED, *FROM_FILE]))}"
    )


def file_of(label: str, path: str | Path | None = None, cache_dir: str | Path = ".") -> Path | None:
    """Where the weights of a network lie that does not ship, given or fetched; None for one that ships."""
    if label not in FETCHED:
        return None
    return Path(path or fetched_path(label, cache_dir)).expanduser()


def build_features(label: str, path: str | Path | None = None, cache_dir: str | Path = ".") -> SetFeatures:
    """Build the network of this label that describes images for distances of sets, on the CPU and frozen.

    Args:
        label: As in protocols.
        path: Its weight file; default: where ``weights fetch`` puts it. Networks that ship need none.
        cache_dir: Folder of fetched files.

    Raises:
        UserError: For a label that no network has, or a weight file that is missing or of something else.
    """
    if label == EffNetFeatures.label:
        return EffNetFeatures()
    if label == InceptionFeatures.label:
        return InceptionFeatures(path or fetched_path(label, cache_dir))
    raise UserError(
        f"sets of images cannot be compared in {label!r}; there are: {EffNetFeatures.label}, {InceptionFeatures.label}"
    )
