from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperinverter.data.digiface import accepted_indices, sample_faces
from hyperinverter_recipes.digiface_accepted import judge_faces, make_accepted


@pytest.mark.slow
def test_packaged_list_follows_its_rule() -> None:
    from facenet_pytorch import MTCNN

    numbers = np.arange(10_048, 10_112)  # one batch of the run that made the list
    passed = judge_faces(sample_faces(numbers), MTCNN(select_largest=False, device="cpu"))
    # Another machine may round a score across the threshold.
    assert (passed != np.isin(numbers, accepted_indices())).sum() <= 2


def test_list_of_accepted_faces_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Detector:
        """Finds a face in every photo, looking ahead in two of three."""

        def __init__(self, **_: object) -> None:
            self.seen = 0

        def detect(self, photos: list[Image.Image], landmarks: bool) -> tuple:
            assert landmarks
            assert {photo.size for photo in photos} == {(160, 160)}
            scores, points = np.empty(len(photos), object), np.empty(len(photos), object)
            for i in range(len(photos)):
                nose = (100, 80) if i % 3 == 0 else (85, 90)  # eyes at 60 and 100: offset 0.5 or 0.125
                scores[i] = np.array([0.999 if i % 4 else 0.98])
                points[i] = np.array([[(60, 60), (100, 60), nose, (65, 110), (95, 110)]])
            return None, scores, points

    monkeypatch.setattr("facenet_pytorch.MTCNN", Detector)
    expected = [i for i in range(128) if (i % 64) % 3 and (i % 64) % 4]
    path = tmp_path / "list.npz"
    assert make_accepted(path, 20).tolist() == expected[:32]
    assert make_accepted(path, 40).tolist() == expected
    assert accepted_indices(path).tolist() == expected
