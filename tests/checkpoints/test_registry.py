"""The table of weight files is complete: every file that ships is in it, every address is official."""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources
from pathlib import Path

import pytest

from hyperinverter.checkpoints import registry
from hyperinverter.checkpoints.registry import (
    FETCHED,
    PACKAGED,
    Packaged,
    fetched_path,
    packaged_content,
    packaged_path,
)
from hyperinverter.contracts import UserError
from hyperinverter.system.files import sha256_of

ASSETS = Path(str(resources.files("hyperinverter") / "assets"))


@pytest.mark.parametrize("key", list(PACKAGED))
def test_every_packaged_file_is_the_one_released(key: str) -> None:
    path = packaged_path(key)
    assert hashlib.sha256(packaged_content(key)).hexdigest() == PACKAGED[key].sha256
    assert (sha256_of(path) == PACKAGED[key].sha256) == (path.suffix != ".gz")
    assert path.parent == Path(registry.__file__).resolve().parents[1] / "assets"


def test_the_hash_of_a_compressed_file_is_that_of_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compressing a file that ships changes no hash in run cards, protocols and inversions."""
    file = tmp_path / "weights.gz"
    entry = Packaged(str(file), hashlib.sha256(b"weights").hexdigest(), "made here", "MIT")
    monkeypatch.setitem(PACKAGED, "toy_phase1", entry)
    whole = gzip.compress(b"weights")
    file.write_bytes(whole)
    assert packaged_content("toy_phase1") == b"weights"
    for damaged in (whole[:-9], b"no gzip", gzip.compress(b"weighty")):
        file.write_bytes(damaged)
        with pytest.raises(
            UserError, match=r"the packaged file weights.gz is damaged .*; install hyperinverter again"
        ):
            packaged_content("toy_phase1")


def test_every_file_that_ships_is_in_the_table_and_in_the_notices() -> None:
    listed = [entry.file for entry in PACKAGED.values()]
    weights = {path.name for path in ASSETS.iterdir() if path.suffix in (".safetensors", ".npz", ".gz")}
    assert sorted(listed) == sorted(weights)
    notices = (ASSETS / "NOTICE.md").read_text(encoding="utf-8")
    assert [name for name in listed if name not in notices] == []


def test_every_address_is_official() -> None:
    for label, source in FETCHED.items():
        assert len(source.sha256) == 64, label
        assert source.url.startswith("https://"), label
        by_name = source.url.endswith(source.file)
        by_number = (
            source.page.startswith("https://drive.google.com/uc?id=")
            and source.page.split("=")[1] in source.url
        )
        assert by_name or by_number, label
    assert fetched_path("lpips_alex", "cache") == Path("cache/judges/alexnet-owt-7be5be79.pth")
    # torchvision puts the first digits of the hash into the file name
    assert FETCHED["lpips_alex"].sha256.startswith("7be5be79")
    assert FETCHED["lpips_vgg"].sha256.startswith("397923af")
    assert FETCHED["start_resnet34"].sha256.startswith("333f7ec4")
    assert FETCHED["start_ir_se50"] == FETCHED["id_arcface"]
