"""Fetching weight files: whole, unaltered, once, and with a way out when it fails."""

from pathlib import Path

import pytest

from hyperinverter.contracts import UserError
from hyperinverter.networks import judge_weights
from hyperinverter.networks.judge_weights import (
    JUDGE_WEIGHTS,
    JudgeWeights,
    judge_weight_path,
    prepare_judge_weights,
    sha256_of,
)


@pytest.fixture
def source(tmp_path: Path) -> JudgeWeights:
    """A "server": a file:// address."""
    served = tmp_path / "server" / "net.pth"
    served.parent.mkdir()
    served.write_bytes(b"weights" * 1000)
    return JudgeWeights("net.pth", served.as_uri(), sha256_of(served))


def test_fetches_once_and_leaves_a_whole_file_alone(
    source: JudgeWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    paths = prepare_judge_weights(["net", "id_descriptor"], cache, {"net": source})
    assert paths == {"net": cache / "judges" / "net.pth"}  # the other one ships with the package
    assert sha256_of(paths["net"]) == source.sha256
    monkeypatch.setattr(judge_weights, "_fetch", lambda *_: pytest.fail("fetched again"))
    assert prepare_judge_weights(["net"], cache, {"net": source}) == paths


def test_repairs_a_damaged_file(source: JudgeWeights, tmp_path: Path) -> None:
    path = prepare_judge_weights(["net"], tmp_path, {"net": source})["net"]
    path.write_bytes(path.read_bytes()[:100])
    prepare_judge_weights(["net"], tmp_path, {"net": source})
    assert sha256_of(path) == source.sha256


def test_an_altered_download_is_refused_and_leaves_nothing(source: JudgeWeights, tmp_path: Path) -> None:
    altered = JudgeWeights(source.file_name, source.url, "0" * 64)
    with pytest.raises(UserError, match=r"sent a file with SHA-256 .*put it at"):
        prepare_judge_weights(["net"], tmp_path / "cache", {"net": altered})
    assert list((tmp_path / "cache" / "judges").iterdir()) == []


def test_an_unreachable_source_names_the_way_out(tmp_path: Path) -> None:
    gone = JudgeWeights("net.pth", (tmp_path / "gone.pth").as_uri(), "0" * 64)
    with pytest.raises(UserError, match=r"cannot fetch net\.pth .* by hand and put it at .*judges.net\.pth"):
        prepare_judge_weights(["net"], tmp_path, {"net": gone})
    assert list((tmp_path / "judges").iterdir()) == []


def test_a_cache_that_cannot_be_written_names_the_way_out(source: JudgeWeights, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"cannot fetch net\.pth .*by hand"):
        prepare_judge_weights(["net"], tmp_path / "file", {"net": source})


def test_the_list_of_sources_is_complete_and_official() -> None:
    for label, source in JUDGE_WEIGHTS.items():
        assert len(source.sha256) == 64, label
        assert source.url.startswith("https://"), label
        by_name = source.url.endswith(source.file_name)
        by_number = (
            source.page.startswith("https://drive.google.com/uc?id=")
            and source.page.split("=")[1] in source.url
        )
        assert by_name or by_number, label
    assert judge_weight_path("lpips_alex", "cache") == Path("cache/judges/alexnet-owt-7be5be79.pth")
    # torchvision puts the first digits of the hash into the file name
    assert JUDGE_WEIGHTS["lpips_alex"].sha256.startswith("7be5be79")
    assert JUDGE_WEIGHTS["lpips_vgg"].sha256.startswith("397923af")
    assert JUDGE_WEIGHTS["start_resnet34"].sha256.startswith("333f7ec4")
    assert JUDGE_WEIGHTS["start_ir_se50"] == JUDGE_WEIGHTS["id_arcface"]
