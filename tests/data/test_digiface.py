import errno
import fcntl
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperinverter.contracts import UserError
from hyperinverter.data import digiface
from hyperinverter.data.digiface import (
    accepted_indices,
    face_names,
    prepare_digiface,
    sample_faces,
    split_indices,
)
from hyperinverter.system import files

FEW = {"num_train": 12, "num_val": 5, "num_test": 6}


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*.png"))}


def test_a_face_does_not_depend_on_the_others_asked_for() -> None:
    together = sample_faces(range(24))
    assert together.shape == (24, 64, 64, 3)
    assert together.dtype == np.uint8
    some = [17, 3, 3, 23, 0]
    np.testing.assert_array_equal(sample_faces(some), together[some])
    assert len({face.tobytes() for face in together}) == 24


def test_no_faces_asked_none_drawn() -> None:
    assert sample_faces([]).shape == (0, 64, 64, 3)


@pytest.mark.parametrize("index", [-1, 2**32])
def test_index_that_is_no_seed_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="face indices"):
        sample_faces([index])


def test_faces_are_in_the_middle_of_the_range() -> None:
    faces = sample_faces(range(32))
    assert 60 < faces.mean() < 160
    assert faces.std() > 40


def test_splits_are_disjoint_and_smaller_ones_are_prefixes() -> None:
    full, few = split_indices(), split_indices(**FEW)
    assert [len(full[s]) for s in ("train", "val", "test")] == [20_000, 512, 1_000]
    assert len(np.unique(np.concatenate(list(full.values())))) == 21_512
    for split, indices in few.items():
        np.testing.assert_array_equal(indices, full[split][: len(indices)])


def test_about_a_fifth_of_the_faces_is_left_out() -> None:
    accepted = accepted_indices()
    assert len(accepted) >= 22_000
    assert 0.7 < len(accepted) / accepted[-1] < 0.85


@pytest.mark.parametrize(
    "counts", [{"num_val": 513}, {"num_test": 1001}, {"num_train": 10**6}, {"num_val": -1}]
)
def test_more_faces_than_there_are(counts: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"data.{next(iter(counts))}=.*choose 0 to"):
        split_indices(**counts)


def test_files_hold_the_sampled_faces(tmp_path: Path) -> None:
    root = prepare_digiface(tmp_path, **FEW)
    names = face_names(**FEW)
    assert sorted(contents(root)) == sorted(name for side in names.values() for name in side)
    with Image.open(root / names["val"][3]) as image:
        np.testing.assert_array_equal(np.asarray(image), sample_faces(split_indices(**FEW)["val"][3:4])[0])


def test_sound_cache_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_digiface(tmp_path, **FEW)
    monkeypatch.setattr(digiface, "sample_faces", None)  # would fail if called
    prepare_digiface(tmp_path, **FEW)
    prepare_digiface(tmp_path, num_train=3, num_val=2, num_test=1)


def test_more_faces_join_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_digiface(tmp_path, **FEW)
    drawn: list[int] = []
    monkeypatch.setattr(
        digiface, "sample_faces", lambda indices: drawn.extend(indices) or sample_faces(indices)
    )
    prepare_digiface(tmp_path, **{**FEW, "num_train": 15})
    assert drawn == split_indices(num_train=15)["train"][12:].tolist()


def test_damage_is_noticed_and_only_that_is_mended(tmp_path: Path) -> None:
    root = prepare_digiface(tmp_path, **FEW)
    sound = contents(root)
    missing, cut, flipped, foreign, *untouched = (root / name for name in face_names(**FEW)["train"])
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    damaged = bytearray(flipped.read_bytes())
    damaged[2000] ^= 1  # same size
    flipped.write_bytes(damaged)
    foreign.write_bytes(untouched[0].read_bytes())  # a sound image, but another one
    before = [path.stat().st_mtime_ns for path in untouched]
    prepare_digiface(tmp_path, **FEW)
    assert contents(root) == sound
    assert [path.stat().st_mtime_ns for path in untouched] == before


def test_interrupted_drawing_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digiface, "_BLOCK", 4)
    calls = 0

    def interrupted(indices: list[int]) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return sample_faces(indices)

    monkeypatch.setattr(digiface, "sample_faces", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_digiface(tmp_path, **FEW)
    root = tmp_path / "digiface" / "v1"
    assert len(contents(root)) == 8
    (root / "train" / ".000000.png.1.part").write_bytes(b"half")
    with (root / "train.record").open("a") as record:
        record.write("train/000999.png 81")  # the line a crash cut short
    drawn: list[int] = []
    monkeypatch.setattr(
        digiface, "sample_faces", lambda indices: drawn.extend(indices) or sample_faces(indices)
    )
    prepare_digiface(tmp_path, **FEW)
    assert len(drawn) == 12 + 5 + 6 - 8
    assert not list(root.rglob("*.part"))
    drawn.clear()
    prepare_digiface(tmp_path, **FEW)
    assert drawn == []


def test_lost_record_is_made_anew(tmp_path: Path) -> None:
    root = prepare_digiface(tmp_path, **FEW)
    sound = contents(root)
    (root / "val.record").write_bytes(b"\xff\xfe nonsense\n1 2 3")
    prepare_digiface(tmp_path, **FEW)
    assert contents(root) == sound
    assert (root / "val.record").read_text(errors="replace").count(".png ") == 5


def test_full_disk_is_said_before_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        UserError, match=rf"{tmp_path}.*no space is left .*0\.3 MB needed, 0\.0 MB free.*paths\.cache="
    ):
        prepare_digiface(tmp_path, **FEW)


def test_disk_that_fills_up_while_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(digiface, "write_bytes", full)
        with pytest.raises(UserError, match="no space is left"):
            prepare_digiface(tmp_path, **FEW)
    assert len(contents(prepare_digiface(tmp_path, **FEW))) == 23


def test_cache_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*paths\.cache="):
        prepare_digiface(tmp_path / "cache", **FEW)


def _prepare(cache: Path) -> None:
    prepare_digiface(cache, **FEW)


def test_two_processes_take_turns(tmp_path: Path) -> None:
    root = tmp_path / "digiface" / "v1"
    root.mkdir(parents=True)
    with (root / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Fresh interpreters: forking a process that runs torch threads is not safe.
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_prepare, args=(tmp_path,)) for _ in range(2)]
        for worker in workers:
            worker.start()
        workers[0].join(timeout=0.5)
        assert not contents(root)
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    recorded = (root / "train.record").read_text().count(".png ")
    assert len(contents(root)) == 23
    assert recorded == 12  # drawn once


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digiface.main(["prepare", "--out", str(tmp_path), "--train", "2", "--val", "1", "--test", "1"])
    assert "digiface/v1" in capsys.readouterr().out
    assert len(contents(tmp_path)) == 4
    with pytest.raises(SystemExit, match=r"error: data\.num_val=600"):
        digiface.main(["prepare", "--out", str(tmp_path), "--val", "600"])
