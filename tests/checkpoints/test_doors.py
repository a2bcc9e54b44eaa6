"""Every door a weight file comes in by has the same checks: one test over all of them."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from bombs import MEGABYTE, compressed, overlapping
from tiny import make_generator
from torch import Tensor

from hyperinverter.checkpoints import (
    load_discriminator,
    load_generator,
    load_hyperinverter,
    load_w_encoder,
    load_w_inverter,
)
from hyperinverter.checkpoints.starts import start_from_published
from hyperinverter.contracts import UserError
from hyperinverter.editing.foreign import read_directions
from hyperinverter.editing.styles import StyleSpace
from hyperinverter.judges.catalogue import FROM_FILE, build_judge
from hyperinverter.networks.backbones import IRSE50, Backbone, ResNet34
from hyperinverter.training.resume import find_resume

Door = Callable[[Path], Any]
CONV = "features.0.weight"
FIRST = {
    "id_facenet": "conv2d_1a.conv.weight",
    "id_arcface": "input_layer.0.weight",
    "id_moco": "conv1.weight",
}


def start(kind: type[Backbone]) -> Door:
    with torch.device("meta"):  # its own weights would be counted, too
        backbone = kind()
    return lambda path: start_from_published(backbone, path)


# door -> what reads the file, and the name under which it looks for a tensor
DOORS: dict[str, tuple[Door, str | None]] = {
    "generator": (load_generator, "style.1.weight"),
    "discriminator": (load_discriminator, "convs.0.0.weight"),
    "W encoder": (load_w_encoder, "encoder.input_layer.0.weight"),
    "phase I": (lambda path: load_w_inverter(path, make_generator()), "encoder.input_layer.0.weight"),
    "hypernetwork": (lambda path: load_hyperinverter(path, make_generator()), "hypernet.b4.weight"),
    "resumed run": (lambda path: find_resume(cast(Any, SimpleNamespace(resume=str(path)))), "model.weight"),
    "direction": (
        lambda path: read_directions(path, w_dim=16, num_ws=6, space=StyleSpace(make_generator())),
        None,
    ),
    "start of IR-SE-50": (start(IRSE50), "input_layer.0.weight"),
    "start of ResNet-34": (start(ResNet34), "conv1.weight"),
}
DOORS |= {
    label: (lambda path, label=label: build_judge(label, path), FIRST.get(label, CONV)) for label in FROM_FILE
}


def holding(make: Callable[[], Any]) -> Callable[[Path, str | None], Path]:
    """A file with one value where the door looks for a tensor."""

    def write(path: Path, name: str | None) -> Path:
        torch.save(make() if name is None else {"state_dict": {name: make()}, "model": {}}, path)
        return path

    return write


def deflated(path: Path, name: str | None) -> Path:
    """What torch wrote, packed again by somebody: a thousandth of what it unpacks to."""
    plain = holding(lambda: torch.zeros(64 * MEGABYTE // 4))(path.with_suffix(".plain"), name)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for member in source.namelist():
            target.writestr(member, source.read(member))
    return path


def many_times(numbers: Tensor) -> list[Tensor]:
    return [numbers[i:] for i in range(500)]


class Harmful:
    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> Any:
        return Path.touch, (self.trap,)


COSTLY: dict[str, Callable[[Path, str | None], Path]] = {
    "an archive that unpacks to much": lambda path, _: compressed(path),
    "a network in such an archive": deflated,
    "an archive of overlapping members": lambda path, _: overlapping(path),
    "a stride of zero": holding(lambda: torch.zeros(8).half().as_strided((1 << 33,), (0,))),
    "the same numbers many times": holding(lambda: many_times(torch.zeros(MEGABYTE))),
}


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    """Fail if the block takes more: of Python's memory, and on Linux of any."""
    peak = Path("/proc/self/status")
    reset = Path("/proc/self/clear_refs")

    def value(key: str) -> int:
        line = next(line for line in peak.read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) * 1024

    measured = reset.exists()
    if measured:
        reset.write_text("5")  # the highest size so far is the present one
        before = value("VmRSS")
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
    if measured:
        assert value("VmHWM") - before < most


def refused(door: Door, path: Path) -> str:
    with pytest.raises(UserError) as told:
        door(path)
    sentence = str(told.value)
    assert str(path) in sentence
    assert ";" in sentence or ":" in sentence, "no way out is offered"
    assert len(sentence) < 1000
    assert sentence.isprintable()  # no line breaks, no escape codes
    assert "weights_only" not in sentence  # torch advises to switch the check off
    return sentence


@pytest.mark.parametrize("costly", COSTLY)
@pytest.mark.parametrize("name", DOORS)
def test_files_that_cost_more_than_their_size_are_refused(name: str, costly: str, tmp_path: Path) -> None:
    door, tensor = DOORS[name]
    path = COSTLY[costly](tmp_path / "file.pt", tensor)
    with little_memory(path.stat().st_size * 2 + 40 * MEGABYTE):
        refused(door, path)


@pytest.mark.parametrize("name", DOORS)
def test_archives_are_checked_before_anything_is_unpacked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, tensor = DOORS[name]
    path = deflated(tmp_path / "file.pt", tensor)
    for unpacking in ("open", "read", "testzip"):
        monkeypatch.setattr(zipfile.ZipFile, unpacking, lambda *_: pytest.fail("unpacked"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read by torch"))
    assert "would unpack to" in refused(door, path) or name == "direction"


@pytest.mark.parametrize("name", DOORS)
def test_nothing_in_a_file_is_executed(name: str, tmp_path: Path) -> None:
    door, tensor = DOORS[name]
    trap = tmp_path / "sprung"
    refused(door, holding(lambda: Harmful(trap))(tmp_path / "file.pt", tensor))
    assert not trap.exists()


@pytest.mark.parametrize(
    "name", [name for name in DOORS if name != "resumed run"]
)  # which reads any state_dict
@pytest.mark.parametrize("odd", ["\x1b[31mred\nline", "n" * 2_000_000])
def test_names_are_quoted_and_cut(odd: str, name: str, tmp_path: Path) -> None:
    door, tensor = DOORS[name]
    known: Tensor | dict[str, Tensor] = {odd: torch.zeros(1)}
    if tensor is not None:
        known = {tensor: torch.zeros(1), odd: torch.zeros(1), f"encoder.{odd}": torch.zeros(1)}
    torch.save({"state_dict": known}, tmp_path / "file.pt")
    refused(door, tmp_path / "file.pt")
