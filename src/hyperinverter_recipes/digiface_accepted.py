"""Which faces of the built-in sampler are clear and near-frontal: the list that ships; resumable.

python -m hyperinverter_recipes.digiface_accepted --count 22000 --out digiface_accepted.npz
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from hyperinverter.data.digiface import ACCEPTED, read_accepted, sample_faces
from hyperinverter.system.files import replacing
from hyperinverter_recipes.running import said

_MIN_SCORE = 0.99  # of the face detector
_MAX_NOSE_OFFSET = 0.35  # from the middle of the eyes, along the eye line, in eye distances


def judge_faces(faces: np.ndarray, detector: object) -> np.ndarray:
    """Say which faces are clear and near-frontal.

    A face passes if MTCNN finds it in the image enlarged to 160 px with a score above 0.99 and the nose
    lies less than 0.35 eye distances from the middle of the eyes, measured along the line of the eyes.

    Args:
        faces: RGB, ``uint8 (N, 64, 64, 3)``.
        detector: ``facenet_pytorch.MTCNN(select_largest=False)``, so that the best score comes first.

    Returns:
        ``bool (N,)``.
    """
    photos = [Image.fromarray(face).resize((160, 160), Image.Resampling.BILINEAR) for face in faces]
    _, scores, points = detector.detect(photos, landmarks=True)  # type: ignore[attr-defined]
    passed = np.zeros(len(faces), dtype=bool)
    for i, (score, landmarks) in enumerate(zip(scores, points, strict=True)):
        if landmarks is None or score[0] is None or score[0] <= _MIN_SCORE:
            continue
        left, right, nose = np.asarray(landmarks[0][:3], dtype=np.float64)
        eyes = right - left
        offset = abs(np.dot(nose - (left + right) / 2, eyes)) / np.dot(eyes, eyes)
        passed[i] = offset < _MAX_NOSE_OFFSET
    return passed


def make_accepted(path: Path, count: int) -> np.ndarray:
    """Judge faces 0, 1, 2, ... until ``count`` have passed; an existing list is continued.

    About 60 images a second on one core. The list is saved as it grows, one bit per judged face.

    Args:
        path: The ``.npz`` to write: ``bits`` (packed) and ``judged`` (how many of them count).
        count: How many faces must pass.

    Returns:
        The accepted indices, ascending.
    """
    from facenet_pytorch import MTCNN  # heavy

    detector = MTCNN(select_largest=False, device="cpu")
    accepted, judged = read_accepted(path) if path.exists() else (np.zeros(0, dtype=np.int64), 0)
    saved = time.monotonic()
    with tqdm(total=count, initial=len(accepted), desc="accepted faces", unit="face", mininterval=5) as bar:
        while len(accepted) < count:
            batch = np.arange(judged, judged + 64)
            found = batch[judge_faces(sample_faces(batch), detector)]
            accepted, judged = np.concatenate([accepted, found]), judged + len(batch)
            bar.update(len(found))
            if len(accepted) >= count or time.monotonic() - saved > 20:
                marks = np.zeros(judged, dtype=np.uint8)
                marks[accepted] = 1
                with replacing(path) as part, part.open("wb") as file:
                    np.savez_compressed(file, bits=np.packbits(marks), judged=np.int64(judged))
                saved = time.monotonic()
    return accepted


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Judge the built-in faces with MTCNN and list those that pass."
    )
    parser.add_argument("--count", type=int, default=22_000, help="how many must pass")
    parser.add_argument("--out", type=Path, default=Path(ACCEPTED), help="list to write or continue")
    options = parser.parse_args(arguments)
    print(f"{len(make_accepted(options.out, options.count))} faces accepted: {options.out}")


if __name__ == "__main__":
    said(main)
