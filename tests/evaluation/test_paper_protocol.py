"""The protocol of published numbers, with weight files built here: sizes, ranges, faces, published rows."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from PIL import Image
from torchvision import models

from hyperinverter import config
from hyperinverter.checkpoints.registry import FETCHED, PACKAGED
from hyperinverter.commands import main
from hyperinverter.contracts import UserError
from hyperinverter.evaluation.protocol import Protocol
from hyperinverter.evaluation.published import PUBLISHED, SOURCES
from hyperinverter.judges.identity import DetectedFaceNetIdentity

SETS = ["--without", "fid", "--without", "kid", "--without", "ms_ssim"]  # 64 px have no five scales


@pytest.fixture(scope="module")
def weights(module_folder: Path) -> dict[str, Path]:
    """AlexNet and FaceNet with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        alexnet = models.alexnet(weights=None).features.state_dict()
        facenet = InceptionResnetV1(pretrained=None).state_dict()
    torch.save(
        {f"features.{name}": tensor for name, tensor in alexnet.items()}, module_folder / "alexnet.pth"
    )
    torch.save(facenet, module_folder / "facenet.pt")
    return {"lpips_alex": module_folder / "alexnet.pth", "id_facenet_mtcnn": module_folder / "facenet.pt"}


@pytest.fixture(scope="module")
def protocol_file(module_folder: Path) -> Path:
    """The protocol itself, for files with other hashes."""
    text = (config.conf_dir() / "protocol" / "paper.yaml").read_text()
    path = module_folder / "paper_here.yaml"
    path.write_text("\n".join(line for line in text.splitlines() if "sha256" not in line))
    return path


@pytest.fixture(scope="module")
def evaluated(weights: dict[str, Path], protocol_file: Path, faces: Path, module_folder: Path) -> Path:
    folder = module_folder / "mixed"
    folder.mkdir()
    for path in faces.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (64, 64), (90, 120, 90)).save(folder / "wall.png")  # nobody is in it
    out = module_folder / "paper"
    files = [word for label, path in weights.items() for word in ("--weights", f"{label}={path}")]
    typed = ["evaluate", "digiface", "--data", str(folder), "--protocol", str(protocol_file), *SETS, *files]
    assert main([*typed, "--save-images", "--out", str(out)]) == 0
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_l2_and_lpips_are_of_the_pngs_at_256_pixels(evaluated: Path, weights: dict[str, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package calls torchvision as it was
        import lpips

        reference = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    stored = torch.load(weights["lpips_alex"], weights_only=True)
    layers = [layer for part in range(1, 6) for layer in getattr(reference.net, f"slice{part}")]
    for index, layer in enumerate(layers):
        if isinstance(layer, torch.nn.Conv2d):
            layer.load_state_dict({k: stored[f"features.{index}.{k}"] for k in ("weight", "bias")})
    for row in rows(evaluated / "per_photo.csv"):
        both = []
        for kind in ("photo", "digiface"):
            with Image.open(evaluated / "images" / kind / f"{row['photo']}.png") as picture:
                both.append(
                    np.asarray(picture.resize((256, 256), Image.Resampling.BILINEAR), dtype=np.float64)
                )
        a, b = (torch.from_numpy(x / 127.5 - 1).permute(2, 0, 1)[None].float() for x in both)
        assert float(row["l2"]) == pytest.approx(((both[0] - both[1]) ** 2).mean() / 127.5**2, rel=1e-4)
        with torch.no_grad():
            assert float(row["lpips_alex"]) == pytest.approx(float(reference(a, b)), rel=1e-4)


def test_a_photo_without_a_face_has_no_identity_and_is_counted(evaluated: Path) -> None:
    by_name = {row["photo"]: row for row in rows(evaluated / "per_photo.csv")}
    assert by_name["wall"]["id_facenet_mtcnn"] == ""
    assert all(by_name[name]["id_facenet_mtcnn"] for name in "abc")
    measured = rows(evaluated / "table.csv")[0]
    assert measured["id_facenet_mtcnn_missing"] == "1"
    assert "(1 missing)" in (evaluated / "table.md").read_text()


def test_published_rows_stand_below_and_are_marked(evaluated: Path) -> None:
    table = (evaluated / "table.md").read_text()
    assert "HyperInverter, D = 256 (published, MODEL_ZOO)" in table
    assert SOURCES["MODEL_ZOO"] in table
    measured, *others = rows(evaluated / "table.csv")
    assert measured["source"] == "measured"
    zoo = next(row for row in others if row["model"] == "HyperInverter, D = 256")
    assert (zoo["source"], zoo["l2"], zoo["n"]) == ("MODEL_ZOO", "0.0243", "")
    assert r"\midrule" in (evaluated / "table.tex").read_text()


def test_every_published_row_has_its_source() -> None:
    for table in PUBLISHED.values():
        assert all(row.source in SOURCES and "l2" in row.numbers for row in table)
    pti = next(r for r in PUBLISHED["faces"] if r.source == "GANInverter" and r.model == "PTI")
    mean_of_logs_is_above = 10 * np.log10(4 / pti.numbers["l2"])
    assert 0 < pti.numbers["psnr"] - mean_of_logs_is_above < 2  # at the usual scale it agrees with its own L2


def test_protocols_name_the_files_of_the_registry() -> None:
    known = {**{k: v.sha256 for k, v in FETCHED.items()}, **{k: v.sha256 for k, v in PACKAGED.items()}}
    known |= {"id_descriptor": known["face_descriptor"], "st_lpips_alex": known["stlpips_alex"]}
    known["effnet_lite0"] = known["efficientnet_lite0"]
    for name in ("digiface", "paper", "paper_churches"):
        content = config.option("protocol", name)
        named = {**content["photo"], **{s["network"]: s for s in content["sets"].values()}}
        hashes = {label: s["sha256"] for label, s in named.items() if s.get("sha256")}
        assert len(hashes) >= 2
        assert all(known[label] == sha256 for label, sha256 in hashes.items())


def test_faces_are_compared_where_they_are(weights: dict[str, Path], faces: Path) -> None:
    judge = DetectedFaceNetIdentity(weights["id_facenet_mtcnn"])
    with Image.open(faces / "a.png") as picture:
        pixels = np.array(picture.resize((160, 160), Image.Resampling.BICUBIC))
    photo = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    moved = torch.nn.functional.pad(photo, (40, 0, 40, 0), value=-1.0)
    still = torch.nn.functional.pad(photo, (0, 40, 0, 40), value=-1.0)
    assert float(judge(photo, photo)) == pytest.approx(1, abs=1e-5)
    assert float(judge(moved, still)) > 0.98  # a fixed crop would show two different places
    assert torch.isnan(judge(photo, torch.zeros_like(photo))).all()


def test_churches_are_judged_without_identity_next_to_their_own_rows() -> None:
    faces, churches = (
        Protocol.of(config.option("protocol", name), name) for name in ("paper", "paper_churches")
    )
    assert set(churches.photo) == set(faces.photo) - {"id_facenet_mtcnn"}
    assert churches.sets["kid"]["subset_size"] == 100  # faces: 1,000
    churches.check_count(300)
    with pytest.raises(UserError, match="at least 300"):
        churches.check_count(299)
    assert len(PUBLISHED[str(churches.published)]) == 6
