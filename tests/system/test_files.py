"""Files are complete or not there, locks last as long as their holder, and a full disk is one sentence."""

from __future__ import annotations

import csv
import errno
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from hyperinverter.contracts import UserError
from hyperinverter.system.files import (
    as_path,
    copy_file,
    held,
    hold,
    keep_as,
    locked,
    replacing,
    sha256_of,
    write_bytes,
    write_csv,
    write_json,
    write_text,
    writing,
    writing_to,
)


@pytest.mark.parametrize("options", [{}, {"durable": True}, {"sole": True, "durable": True}])
def test_a_file_that_could_not_be_completed_leaves_the_old_one(
    tmp_path: Path, options: dict[str, bool]
) -> None:
    write_bytes(tmp_path / "file", b"old")
    with pytest.raises(ValueError), replacing(tmp_path / "file", **options) as part:  # noqa: PT011, PT012
        part.write_bytes(b"half of")
        raise ValueError
    assert (tmp_path / "file").read_bytes() == b"old"
    with replacing(tmp_path / "file", **options) as part:
        part.write_bytes(b"new")
        assert (tmp_path / "file").read_bytes() == b"old"
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(b"of a killed process")
    with replacing(tmp_path / "file", sole=True) as part:
        assert not part.exists()
        part.write_bytes(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_a_file_gets_the_usual_permissions(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "file") as part:
            os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


def test_a_second_name_leaves_the_first_and_new_content_leaves_the_second(tmp_path: Path) -> None:
    write_bytes(tmp_path / "last", b"1")
    keep_as(tmp_path / "last", tmp_path / "previous")
    write_bytes(tmp_path / "last", b"2")
    copy_file(tmp_path / "last", tmp_path / "best")
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert contents == {"last": b"2", "previous": b"1", "best": b"2"}


def test_json_has_no_infinities(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": float("inf"), "y": (1, Path("z"))})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": "inf",\n  "y": [\n    1,\n    "z"\n  ]\n}\n'


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "abc", b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "x"), r"cannot write .*run: no space is left: make room, or .*paths\.outputs"),
        (OSError(errno.EDQUOT, "x"), "no space is left"),
        (PermissionError(errno.EACCES, "Permission denied"), r"Permission denied: choose .*paths\.outputs"),
        (RuntimeError("[enforce fail] PytorchStreamWriter failed"), "most likely no space is left"),
    ],
)
def test_what_a_disk_refuses_is_one_sentence(tmp_path: Path, error: Exception, said: str) -> None:
    with pytest.raises(UserError, match=said), writing(tmp_path / "run"):
        raise error


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a fault"), writing(tmp_path):
        raise RuntimeError("a fault")


def test_space_is_looked_for_before_the_work_begins(tmp_path: Path) -> None:
    with (
        pytest.raises(
            UserError, match=r"1,000,000,000,000\.0 MB needed, .* MB free.*: make room, or go away"
        ),
        writing_to(tmp_path / "new", 10**18, "go away"),
    ):
        raise AssertionError("it began")


def test_a_folder_is_held_until_its_holder_ends(tmp_path: Path) -> None:
    assert not held(tmp_path)
    claim = hold(tmp_path)
    assert claim is not None
    assert held(tmp_path)
    assert hold(tmp_path) is None
    claim.close()
    assert not held(tmp_path)


def _count(place: Path) -> None:
    for _ in range(50):
        with locked(place / "lock", "counting"):
            count = int((place / "count").read_text())
            (place / "count").write_text(str(count + 1))
            os.sched_yield()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    several = [
        multiprocessing.get_context("spawn").Process(target=_count, args=(tmp_path,)) for _ in range(2)
    ]
    for process in several:
        process.start()
    for process in several:
        process.join()
    assert (tmp_path / "count").read_text() == "100"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a" * 5000, "cannot be opened: File name too long"),
        ("a\0b", "a\\\\x00b holds a character that no path has"),
        ("~nobody-of-this-name/x", "cannot be written out"),
        ("", "the path is empty"),
        ("ftp://x/y", "is an address"),
        (["x"], "expected the path of a file, got list"),
    ],
)
def test_what_is_no_path_is_said(given: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        as_path(given)
    assert len(str(told.value)) < 500


def test_a_path_that_may_not_be_looked_up_or_leads_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="Too many levels of symbolic links"):
        as_path(tmp_path / "loop" / "x")
    assert as_path(tmp_path / "missing" / "x") == tmp_path / "missing" / "x"

    def closed(self: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "lstat", closed)
    with pytest.raises(UserError, match="cannot be opened: Permission denied; check the path and its"):
        as_path(tmp_path / "x")


def test_a_table_is_neither_formula_nor_terminal(tmp_path: Path) -> None:
    rows = [["=1+1", "+x", "-d", "@x", "-0.5", "1e3", "\x1b[31mred", "a\nb", "\udcff", "a,b", "'q", 3, None]]
    write_csv(tmp_path / "t.csv", rows)
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as lines:
        (found,) = csv.reader(lines)
    assert found == [
        *("'=1+1", "'+x", "'-d", "'@x", "-0.5", "1e3"),
        *("\\x1b[31mred", "a\\nb", "\\udcff", "a,b", "'q", "3", ""),
    ]
    write_text(tmp_path / "t.txt", "caf\u00e9 \udcff")  # a file name that is no UTF-8
    assert (tmp_path / "t.txt").read_text(encoding="utf-8") == "caf\u00e9 \\udcff"
