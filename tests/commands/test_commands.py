"""What all commands share: they answer ``--help`` at once, show an example, and fail in one sentence."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
import types

import pytest

from hyperinverter import commands
from hyperinverter.contracts import UserError


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys\n"
        "from hyperinverter import commands\n"
        "for name in ['', *commands.COMMANDS]:\n"
        "    commands.main([*([name] if name else []), '--help'])\n"
        "    brought = {'torch', 'pytorch_lightning', 'pandas'} & sys.modules.keys()\n"
        "    assert not brought, (name, brought)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for about in commands.COMMANDS.values():
        assert about in done.stdout


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_example_can_be_read(name: str) -> None:
    example = shlex.split(importlib.import_module(f"hyperinverter.commands.{name}").EXAMPLE)
    assert example[:2] == ["hyperinverter", name]
    assert callable(commands._parse(example[1:]))


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hyperinverter 0.")


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["wheights"], "no such command 'wheights'. Did you mean 'weights'? see hyperinverter --help"),
        (["bench", "--siz", "x"], "no such option: --siz"),
        (["bench", "--rounds", "x"], "invalid value for '--rounds'"),
        (["bench", "--clock", "sun"], "invalid value for '--clock': 'sun' is not one of 'wall', 'processor'"),
        (["weights", "steal"], "invalid value for 'fetch|list': 'steal' is not one of 'fetch', 'list'"),
        (["weights"], "missing argument 'fetch|list'"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    typed: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(typed) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {sentence}")
    assert said.count("\n") == 1
    assert f"see hyperinverter {'' if typed[0] == 'wheights' else typed[0] + ' '}--help" in said


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (UserError("the lens is dirty; clean it"), 1, "error: the lens is dirty; clean it\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (
            KeyError("lens"),
            1,
            "error: KeyError: 'lens': check what was typed (HYPERINVERTER_DEBUG=1 shows where it happened)\n",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "/lens"),
            1,
            "error: /lens cannot be used: No such file or directory; check the path and the disk\n",
        ),
        (
            PermissionError(13, "Permission denied", "/lens"),
            1,
            "error: /lens may not be read or written; change its permissions\n",
        ),
    ],
)
def test_a_command_is_one_file_and_one_line(
    raised: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def look(times: int, loudly: bool = False) -> int:
        """Look at photos."""
        if loudly:
            raise raised
        return times

    module = types.ModuleType("hyperinverter.commands.look")
    module.__dict__.update(look=look, EXAMPLE="hyperinverter look 3")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(commands.COMMANDS, "look", "Look at photos.")
    assert commands.main(["look", "3"]) == 3
    assert commands.main(["look", "--help"]) == 0
    assert "Example: hyperinverter look 3" in capsys.readouterr().out
    assert commands.main(["look", "3", "--loudly"]) == status
    assert capsys.readouterr().err == said


def test_a_reader_that_has_seen_enough_is_no_failure() -> None:
    program = f"{shlex.quote(sys.executable)} -m hyperinverter weights list | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize("stream", ["/dev/full", "&-"])
def test_results_that_cannot_be_printed_are_no_failure(stream: str) -> None:
    program = f"{shlex.quote(sys.executable)} -m hyperinverter --version >{stream}; echo $?"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
