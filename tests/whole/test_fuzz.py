"""Two thousand changed files and five hundred odd commands: each is read, or refused in a sentence of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuzzing
import pytest

FILES, COMMANDS, PARTS = 2000, 500, 4
SECONDS = 5.0  # of processor time for one case
PATIENCE = 120.0  # seconds on the clock without an answer, on a machine that does other things too

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    fuzzing.write_seeds(folder)
    return folder


def answers(folder: Path, what: str, first: int, last: int) -> Iterator[dict[str, Any]]:
    """What a process of its own answered to each case; a case it did not survive is an answer, too."""
    helpers = Path(fuzzing.__file__)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{helpers.parent}:{folder}"}
    printed = folder / f"printed_{what}_{first}.txt"
    while first < last:
        command = [sys.executable, str(helpers), str(folder), what, str(first), str(last)]
        begun, alarm = "", threading.Timer(0, lambda: None)
        with (
            printed.open("w") as errors,
            subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as child,
        ):
            assert child.stdout is not None
            for line in child.stdout:
                alarm.cancel()
                alarm = threading.Timer(PATIENCE, child.kill)
                alarm.start()
                if line.startswith("begin "):
                    begun = line.strip()
                elif line.startswith("{"):
                    found = json.loads(line)
                    first, begun = found["case"] + 1, ""
                    yield found
            alarm.cancel()
            code = child.wait()
        if begun:
            first = int(begun.split()[1]) + 1
            yield {
                "outcome": "failed",
                "sentence": f"{begun}: ended with {code}",
                "seconds": 0,
                "executed": [],
            }
        lines = printed.read_text().splitlines()
        assert begun or not code, f"the process ended with {code}: {lines[-5:]}"
        assert not [line for line in lines if not line.isprintable() or "Traceback" in line]


def check(found: list[dict[str, Any]]) -> Counter[str]:
    """Every case was read or refused in a sentence of ours, in time, and nothing was executed."""
    for one in found:
        where = {key: one[key] for key in ("case", "file", "door", "typed") if key in one}
        assert one["outcome"] != "failed", (where, one["sentence"], one.get("traceback", ""))
        assert one["seconds"] < SECONDS, where
        assert not one["executed"], (where, one["executed"])
        if one["outcome"] == "refused":
            sentence = one["sentence"]
            assert 10 < len(sentence) < 4_100, (where, len(sentence))
            assert sentence.replace("\n", "").isprintable(), (where, sentence)
            for advice in ("Traceback", "weights_only", "HYDRA_FULL_ERROR", "object at 0x"):
                assert advice not in sentence, (where, sentence)
    return Counter(one["outcome"] for one in found)


@pytest.mark.parametrize("part", range(PARTS))
def test_changed_files(part: int, seeds: Path) -> None:
    first, last = FILES * part // PARTS, FILES * (part + 1) // PARTS
    found = list(answers(seeds, "files", first, last))
    outcomes = check(found)
    assert len(found) == last - first
    assert min(outcomes["read"], outcomes["refused"]) > 50, outcomes  # neither too harmless nor too harmful
    assert not (seeds / "executed").exists()


def test_odd_commands(seeds: Path) -> None:
    found = list(answers(seeds, "commands", 0, COMMANDS))
    outcomes = check(found)
    assert len(found) == COMMANDS
    assert min(outcomes["read"], outcomes["refused"]) > 50, outcomes


def test_unchanged_files_are_read(seeds: Path, tmp_path: Path) -> None:
    """Else all changes would be looked at by the first check alone."""
    doors, refused = fuzzing.doors(seeds), set()
    for kind in fuzzing.KINDS.values():
        for seed in kind.seeds:
            path = tmp_path / seed
            path.write_bytes((seeds / seed).read_bytes())
            for door in kind.doors:
                told = fuzzing.answer(lambda: doors[door](path))  # noqa: B023
                assert told["outcome"] != "failed", (seed, told)
                if told["outcome"] == "refused":
                    refused.add(seed)
    # The authors' files lack their numbers, one generator has no discriminator, the others would do harm.
    assert refused == {
        *("encoder.pt", "hyper.pt", "generator.safetensors", "object.pt"),
        *("harmful.pkl", "harmful.pt"),
    }


def test_the_watch_notices() -> None:
    code = (
        "import fuzzing, os, subprocess\nnoted = []\nfuzzing.watch(noted)\n"
        "os.system('true')\nsubprocess.run(['true'])\nprint(len(noted))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path(fuzzing.__file__).parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) >= 2
