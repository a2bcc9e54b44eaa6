"""Files made to do harm: refused in one sentence, with nothing run and little memory taken."""

from __future__ import annotations

import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import official
import pytest
import torch
from bombs import BOMBS, MEGABYTE, text
from official import Shape

from hyperinverter.checkpoints import (
    load_discriminator,
    load_generator,
    load_hyperinverter,
    load_w_encoder,
    load_w_inverter,
    pickles,
)
from hyperinverter.checkpoints.opening import read_checkpoint
from hyperinverter.contracts import UserError
from hyperinverter.networks.generator import Generator

TINY = Shape(8, 3, 4, 1, (2, 2))


def every_loader(generator: Generator) -> list[Callable[[Path], Any]]:
    return [
        load_generator,
        load_discriminator,
        load_w_encoder,
        lambda path: load_w_inverter(path, generator),
        lambda path: load_hyperinverter(path, generator),
        lambda path: load_hyperinverter(generator=path, hyper=path),
        lambda path: load_hyperinverter(generator=generator, w_encoder=path, hyper=path),
    ]


def refused(load: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(UserError) as told:
        load(path)
    sentence = str(told.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    assert ";" in sentence, "no way out is offered"
    return sentence


# Programs ----------------------------------------------------------------------------------------------------


def called(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls ``module.name(argument)``, with the name from the stack."""
    return b"\x80\x04" + text(module) + text(name) + b"\x93" + text(argument) + b"\x85R."


CALLS = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "check_output"),
    ("builtins", "exec"),
    ("builtins", "eval"),
    ("builtins", "__import__"),
    ("builtins", "getattr"),
    ("importlib", "import_module"),
    ("torch.utils.collect_env", "run"),
    ("torch._utils", "traceback.linecache.os.system"),  # a dotted name from an allowed module
    ("torch", "load"),
    ("torch.hub", "load"),
    ("torch.storage", "_load_from_bytes.__globals__"),
    ("collections", "OrderedDict.__reduce__"),
    ("collections", "namedtuple"),
    ("dnnlib.util", "open_url"),
    ("dnnlib.util", "call_func_by_name"),
    ("numpy", "load"),
    ("argparse", "_sys.modules"),
    ("pickle", "loads"),
    ("trapmodule", "anything"),
]


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there as soon as anything was run, or a certain module imported."""
    sprung = tmp_path / "sprung"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "trapmodule.py").write_text(f"open({str(sprung)!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return sprung


def zipped(program: bytes, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
    return path


def legacy(program: bytes) -> bytes:
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001, "type_sizes": {}})
    return b"".join(official.pickled(part, 2) for part in head) + program + official.pickled([], 2)


@pytest.mark.parametrize(("module", "name"), CALLS)
def test_no_name_is_looked_up(
    module: str, name: str, trap: Path, tmp_path: Path, generator: Generator
) -> None:
    program = called(module, name, f"touch {trap}")
    (tmp_path / "bare.pkl").write_bytes(program)
    (tmp_path / "old.pt").write_bytes(legacy(program))
    (tmp_path / "nested.pkl").write_bytes(
        b"\x80\x04" + text("torch.storage") + text("_load_from_bytes") + b"\x93"
        + b"B" + struct.pack("<I", len(legacy(program))) + legacy(program) + b"\x85R."
    )  # fmt: skip
    files = [
        tmp_path / "bare.pkl",
        tmp_path / "old.pt",
        tmp_path / "nested.pkl",
        zipped(program, tmp_path / "new.pt"),
    ]
    for path in files:
        for load in every_loader(generator):
            assert "asks to run" in refused(load, path)
    assert not trap.exists()
    assert "trapmodule" not in sys.modules


class Harmful:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_chains_of_calls(protocol: int, trap: Path, tmp_path: Path, generator: Generator) -> None:
    chain = Harmful(getattr, Harmful(__import__, "os"), "system")
    for number, value in enumerate(
        (
            Harmful(os.system, f"touch {trap}"),
            {"G_ema": Harmful(os.system, f"touch {trap}"), "D": None},
            {"state_dict": {"encoder.linear.weight": Harmful(chain.reduced[0], *chain.reduced[1])}},
            [Harmful(subprocess.Popen, ["touch", str(trap)])],
            {Harmful(os.system, f"touch {trap}"): 1},
        )
    ):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(official.pickled(value, protocol))
        for load in every_loader(generator):
            refused(load, path)
    assert not trap.exists()


def test_source_code_inside_a_network_pickle_is_not_run(tmp_path: Path) -> None:
    path = official.write_nvidia(tmp_path / "net.pkl", TINY)
    assert b"raise SystemExit" in path.read_bytes()
    assert load_generator(path).img_resolution == 8


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02(ios\nsystem\n.",  # INST
        b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00xo.",  # OBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02Psomewhere\n.",  # PERSID
        b"\x80\x02K\x01Q.",  # BINPERSID
        b"\x80\x05\x97.",  # NEXT_BUFFER
        b"\x80\x02}K\x01b.",  # BUILD on too little
        b"\x80\x02.",  # STOP on nothing
        b"\x80\x02)R.",
        b"\x80\x02K\x01)R.",  # call a number
        b"\x80\x02h\x07.",  # what was never remembered
        b"\x80\x02}]K\x01s.",  # a list as key
        b"\x80\x02}((((t\x85\x85K\x01s.",
        b"\x80\x02" + b"(" * 1000,
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00)))t R.",
        b"\x80\x02ccollections\nOrderedDict\n]K\x01a\x85R.",
        b"\xff" * 50,
    ],
)
def test_other_instructions_and_nonsense(program: bytes, tmp_path: Path, generator: Generator) -> None:
    (tmp_path / "bare.pkl").write_bytes(program)
    (tmp_path / "old.pt").write_bytes(legacy(program))
    for path in (tmp_path / "bare.pkl", tmp_path / "old.pt", zipped(program, tmp_path / "new.pt")):
        for load in every_loader(generator):
            refused(load, path)


def test_tensorflow_pickles_are_named(tmp_path: Path) -> None:
    program = b"\x80\x04(" + text("dnnlib.tflib.network") + text("Network") + b"\x93)\x81}b\x8ct."
    (tmp_path / "stylegan2-ffhq-config-f.pkl").write_bytes(program)
    sentence = refused(load_generator, tmp_path / "stylegan2-ffhq-config-f.pkl")
    assert "is a TensorFlow network; convert it with stylegan2-ada-pytorch: python legacy.py" in sentence


# Damage ------------------------------------------------------------------------------------------------------


def whole_files(folder: Path) -> list[Path]:
    return [
        official.write_nvidia(folder / "net.pkl", TINY),
        official.write_rosinality(folder / "new.pt", TINY),
        official.write_rosinality(folder / "old.pt", TINY, zipped=False),
    ]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.3, 0.6, 0.9, 0.999])
def test_files_cut_short(share: float, tmp_path: Path) -> None:
    for path in whole_files(tmp_path):
        load_generator(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        refused(load_generator, path)


def test_changed_bytes_give_a_generator_or_a_sentence(tmp_path: Path) -> None:
    draw, outcomes = random.Random(0), {"loaded": 0, "refused": 0}
    for path in whole_files(tmp_path):
        content = path.read_bytes()
        for _ in range(40):
            changed = bytearray(content)
            for _ in range(draw.choice([1, 3, 30])):
                changed[draw.randrange(len(changed))] = draw.randrange(256)
            path.write_bytes(changed)
            try:
                load_generator(path)
                outcomes["loaded"] += 1
            except UserError as error:
                assert "\n" not in str(error)  # noqa: PT017
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 10, outcomes


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>Google Drive can't scan this file</html>", "is a web page"),
        (b"some words", "is a text file that begins with 'some words'"),
    ],
)
def test_other_files_are_named(content: bytes, sentence: str, tmp_path: Path, generator: Generator) -> None:
    (tmp_path / "file.pt").write_bytes(content)
    for load in every_loader(generator):
        assert sentence in refused(load, tmp_path / "file.pt")


@pytest.mark.parametrize("content", [None, 3, "text", [], (), {}, {"state_dict": 3}, {"state_dict": {1: 2}}])
def test_wrong_kinds_of_content(content: Any, tmp_path: Path, generator: Generator) -> None:
    torch.save(content, tmp_path / "file.pt")
    (tmp_path / "file.pkl").write_bytes(official.pickled(content))
    for load in every_loader(generator):
        refused(load, tmp_path / "file.pt")
        refused(load, tmp_path / "file.pkl")


@pytest.mark.parametrize(
    "content", [{"G_ema": {}}, {"G_ema": None, "D": 3}, {"g_ema": {}}, {"g_ema": {"style.1.bias": 3}}]
)
def test_networks_that_are_none(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pt")
    (tmp_path / "file.pkl").write_bytes(official.pickled(content))
    refused(load_generator, tmp_path / "file.pt")
    refused(load_generator, tmp_path / "file.pkl")


# Bombs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bomb", BOMBS)
def test_memory_stays_bounded(
    bomb: str, tmp_path: Path, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickles, "_MAX_STEPS", 50_000)  # the limit itself takes seconds to reach
    path = BOMBS[bomb](tmp_path / "file.pt")
    limit = path.stat().st_size * 2 + 50 * MEGABYTE
    loaders = every_loader(generator)[:1] if path.stat().st_size > 10_000 else every_loader(generator)
    for load in loaders:
        tracemalloc.start()
        try:
            refused(load, path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < limit


@pytest.mark.parametrize("bomb", ["compressed archive", "overlapping archive"])
def test_runs_are_checked_for_bombs_too(bomb: str, tmp_path: Path) -> None:
    path = BOMBS[bomb](tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="would unpack to"):
        read_checkpoint(path)


def test_module_that_contains_itself(tmp_path: Path) -> None:
    made = text("torch_utils.persistence") + text("_reconstruct_persistent_obj") + b"\x93"
    modules = b"}" + text("_modules") + b"}\x94"  # remembered, and filled when the module is there
    program = b"\x80\x04" + made + b"}" + text("state") + modules + b"ss\x85R\x94"
    program += b"0h\x00" + text("again") + b"h\x01s0}" + text("G_ema") + b"h\x01s."
    (tmp_path / "net.pkl").write_bytes(program)
    assert "has more than 10000 modules" in refused(load_generator, tmp_path / "net.pkl")


def test_tensors_of_every_type_come_back(tmp_path: Path) -> None:
    held = {
        str(kind): torch.arange(12).reshape(3, 4).to(kind)
        for kind in (
            torch.float32,
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.uint8,
            torch.bool,
        )
    }
    held["view"] = torch.arange(24.0).reshape(4, 6)[1:3, ::2].T
    held["channels_last"] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    held["empty"], held["scalar"] = torch.zeros(0, 3), torch.tensor(3.0)
    for name, modern in (("new.pt", True), ("old.pt", False)):
        torch.save(
            {"tensors": held, "parameter": torch.nn.Parameter(torch.ones(2))},
            tmp_path / name,
            _use_new_zipfile_serialization=modern,
        )
        content = pickles.read(tmp_path / name)
        assert torch.equal(content["parameter"].load(), torch.ones(2))
        for key, expected in held.items():
            found = content["tensors"][key].load()
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected), key
    (tmp_path / "tensors.pkl").write_bytes(pickle.dumps(held["view"]))
    assert torch.equal(pickles.read(tmp_path / "tensors.pkl").load(), held["view"])
