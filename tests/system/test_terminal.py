"""What is said in the terminal, and how."""

from __future__ import annotations

import io
import logging
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hyperinverter.contracts import UserError
from hyperinverter.system.errors import cause, first_line
from hyperinverter.system.terminal import duration, fail, prepare_streams, put, say, short


def test_helpers_of_the_first_process_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say("one")
    monkeypatch.setenv("LOCAL_RANK", "1")
    say("two")
    assert capsys.readouterr().err == "one\n"


def test_a_failure_is_one_sentence_and_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as ended:
        fail("why", everywhere=True)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: why\n"


@pytest.mark.parametrize(
    ("error", "line", "told"),
    [
        (ValueError("\n  bad  \nmore"), "bad", "ValueError: bad"),
        (UserError("say this"), "say this", "say this"),
        (KeyError(), "KeyError", "KeyError"),
    ],
)
def test_an_error_in_one_line(error: Exception, line: str, told: str) -> None:
    assert (first_line(error), cause(error)) == (line, told)
    assert first_line(error, 2) == line[:2]


@pytest.mark.parametrize(
    ("seconds", "said"), [(45.2, "45 s"), (12 * 60, "12 min"), (3 * 3600 + 5 * 60, "3 h 05 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_path_is_short_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short(tmp_path / "a" / "b") == "a/b"
    assert short(tmp_path.parent / "c") == str(tmp_path.parent / "c")


class Broken(io.StringIO):
    """A stream that nothing can be written to."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [Broken(), closed(), None], ids=["full", "closed", "none"])
def test_what_cannot_be_printed_ends_nothing(stream: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    say("a line")
    with pytest.raises(SystemExit) as ended:
        fail("why", debug=True)
    assert ended.value.code == 1


def test_letters_that_a_terminal_does_not_have_become_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding="ascii"))
    say("caf\u00e9 \u5199\u771f")
    assert raw.getvalue() == b"caf\\xe9 \\u5199\\u771f\n"


@pytest.mark.parametrize("stream", [Broken(), closed(), None], ids=["full", "closed", "none"])
def test_results_that_cannot_be_printed_end_nothing(stream: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    put("a line")


def test_nothing_printed_steers_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say("a\x1b[2Jb\tc")
    put("a\x1b]0;title\x07b")
    said = capsys.readouterr()
    assert (said.err, said.out) == ("a\\x1b[2Jb\tc\n", "a\\x1b]0;title\\x07b\n")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    put("caf\u00e9")
    assert raw.getvalue() == b"caf\\xe9\n"


def test_a_name_with_a_line_break_does_not_make_another_line(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\nerror: b.png"
    say(f"{name} is missing")
    assert capsys.readouterr().err == "a\\nerror: b.png is missing\n"
    assert str(UserError(f"{name} is missing")) == "a\\nerror: b.png is missing"


def test_streams_that_are_closed_are_opened_on_nothing() -> None:
    code = "from hyperinverter.system.terminal import prepare_streams as o; import os, sys; o(); "
    code += "print('kept'); sys.stderr.write('lost'); f = open(os.devnull); sys.exit(f.fileno() < 3)"
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} 2>&- 0<&-"
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "kept\n")


def test_names_that_are_logged_do_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "lastResort", None)
    prepare_streams()
    record = logging.makeLogRecord(
        {"levelno": logging.WARNING, "msg": "%s is dark", "args": ("a\x1b[31m\n.png",)}
    )
    assert logging.lastResort is not None
    logging.lastResort.handle(record)
    assert capsys.readouterr().err == "a\\x1b[31m\\n.png is dark\n"
