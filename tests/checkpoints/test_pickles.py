"""The reader of pickles alone: what it reads, in every protocol, and what a file may cost."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import official
import pytest
import torch
from official import Shape
from torch import nn

from hyperinverter.checkpoints import pickles
from hyperinverter.checkpoints.pickles import Record, Unreadable

TINY = Shape(8, 3, 4, 1, (2, 2))


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def shared_tuple(levels: int = 60) -> bytes:
    """A tuple of two tuples of two tuples ..., each the same one twice: small to write, endless to hash or print."""
    return text("x") + b"q\x00h\x00\x86" * levels


def written(path: Path, program: bytes) -> Path:
    path.write_bytes(program)
    return path


# Names nobody needs are labels --------------------------------------------------------------------------------

STRANGERS: dict[str, Any] = {
    "path": pathlib.PurePosixPath("photos/ffhq"),
    "datetime": datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "size": torch.Size([1, 2]),
    "namespace": argparse.Namespace(path=pathlib.PurePosixPath("x"), dtype=torch.float16),
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2]),
    "numpy number": numpy.float64(3.5),
    "numpy array of text": numpy.array(["a", "b"]),
    "complex": 3j,
    "slice": slice(1, 2),
    "range": range(3),
    "function": torch.nn.functional.relu,
    "class": nn.Linear,
    "frozenset": frozenset({1, 2}),
    "bytes": b"\x00\xff",
    "empty bytes": b"",
    "bytearray": bytearray(b"abc"),
    "key of two numbers": {(1, 2): 3},
    "key that is an object": {torch.float16: 3},
    "large number": 2**200,
    "optimizer": torch.optim.Adam([nn.Parameter(torch.zeros(2))]).state_dict(),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_name_nobody_needs_is_a_label(stranger: str, protocol: int, tmp_path: Path) -> None:
    content = {"needed": torch.arange(6.0).reshape(2, 3), "extra": STRANGERS[stranger], "last": "end"}
    found = pickles.read(written(tmp_path / "file.pkl", pickle.dumps(content, protocol)))
    assert torch.equal(found["needed"].load(), content["needed"])
    assert found["last"] == "end"
    if protocol < 2:
        return  # torch writes no files in these
    for zipped in (True, False):
        torch.save(
            content, tmp_path / "file.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped
        )
        assert torch.equal(pickles.read(tmp_path / "file.pt")["needed"].load(), content["needed"])


def test_an_object_that_is_asked_for_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "file.pkl", pickle.dumps(pathlib.PurePosixPath("x")))
    with pytest.raises(Unreadable, match=r"asks to run 'pathlib\S*PurePosixPath', .* nothing of it was run"):
        pickles.read(path)
    path = written(tmp_path / "file.pkl", pickle.dumps({"a": datetime.date(2024, 1, 1)}))
    with pytest.raises(
        Unreadable, match="holds no tensor called a, but Record: it asks to run 'datetime.date'"
    ):
        pickles.load_tensors(pickles.read(path), path)


def test_dictionaries_of_other_classes_are_dictionaries(tmp_path: Path) -> None:
    content = collections.defaultdict(list, {"a": torch.ones(2)})
    found = pickles.read(written(tmp_path / "file.pkl", pickle.dumps(content)))
    assert torch.equal(found["a"].load(), torch.ones(2))


# What a file may be written as ---------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int64", "uint8", "bool"])
def test_arrays_of_numpy_are_tensors(kind: str, protocol: int, tmp_path: Path) -> None:
    array = numpy.arange(12).reshape(3, 4).astype(kind)
    arrays = {
        "rows": array,
        "columns": numpy.asfortranarray(array),
        "turned": array.T,
        "number": array.max(),
        "empty": array[:0],
    }
    path = written(tmp_path / "file.pkl", pickle.dumps(arrays, protocol))
    found = pickles.load_tensors(pickles.read(path), path)
    for name, expected in arrays.items():
        wanted = torch.from_numpy(numpy.ascontiguousarray(expected)).reshape(expected.shape)
        assert torch.equal(found[name], wanted.float() if wanted.is_floating_point() else wanted), name


def test_arrays_of_other_types_are_named(tmp_path: Path) -> None:
    for array in (numpy.zeros(3, ">f4"), numpy.array(["a"]), numpy.zeros(3, "c8")):
        path = written(tmp_path / "file.pkl", pickle.dumps({"a": array}))
        with pytest.raises(Unreadable, match="an array of a type that is not read"):
            pickles.load_tensors(pickles.read(path), path)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(2, 3)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.register_parameter("none", None)


@pytest.mark.parametrize("protocol", range(6))
def test_modules_of_torch_give_their_state_dict(protocol: int, tmp_path: Path) -> None:
    network = nn.Sequential(Inner(), nn.Conv2d(1, 2, 3), nn.ModuleList([nn.BatchNorm2d(2)]))
    network[1].weight.extra = "a parameter with an attribute"
    files = [written(tmp_path / "file.pkl", pickle.dumps(network, protocol))]
    if protocol >= 2:
        for zipped in (True, False):
            files.append(tmp_path / f"{zipped}.pt")
            torch.save(network, files[-1], pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    for path in files:
        content = pickles.read(path)
        assert isinstance(content, Record)
        found = pickles.load_tensors(pickles.tensors_of(pickles.modules_of(content)), path)
        state = network.state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("protocol", range(6))
def test_text_and_numbers_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    content = [
        "a line\nbreak, 'quotes' and ünï 😀 " * 200,
        "",
        -1,
        255,
        70_000,
        2**40,
        1.5,
        float("inf"),
        True,
        False,
        None,
        (1, (2, ()), [3]),
        {"a": {"b": [1]}},
    ]
    assert pickles.read(written(tmp_path / "file.pkl", pickle.dumps(content, protocol))) == content


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_are_told_by_their_content(protocol: int, tmp_path: Path) -> None:
    for content in ({"G_ema": 1}, {}, [], nn.Linear(1, 1), collections.OrderedDict(a=1)):
        path = written(tmp_path / "file", pickle.dumps(content, protocol))
        assert pickles.kind_of(path) == "pickle", (content, path.read_bytes()[:20])
    for line in ("some words.", "[section]\na = 1.", "{}.x", "(a remark.", "colour and shape.", "c d."):
        assert pickles.kind_of(written(tmp_path / "file", line.encode())) == "other", line


# What a file may cost ------------------------------------------------------------------------------------------

STORAGE = b"(" + text("storage") + b"ctorch\nHalfStorage\n" + text("0") + text("cpu") + b"K\x08tQ"


def long_number(count: int) -> bytes:
    return b"\x8b" + struct.pack("<i", count) + b"\x01" * count


def wide(sizes: bytes) -> bytes:
    """A tensor whose shape and strides are these numbers."""
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00" + sizes + sizes + b"\x89}tR"


PROGRAMS: dict[str, bytes] = {
    "name of a class": text("torch") + shared_tuple() + b"\x93",
    "module of a class": shared_tuple() + text("torch") + b"\x93",
    "key": b"}" + shared_tuple() + b"K\x01s",
    "keys of a call": b"ccollections\nOrderedDict\n](" + shared_tuple() + b"K\x01\x86e\x85R",
    "member of a set": b"\x8f(" + shared_tuple() + b"\x90",
    "call of it": shared_tuple() + b")R",
    "arguments of a call": b"cos\nsystem\n" + shared_tuple() + b"R",
    "state": b"cos\nsystem\n)R" + shared_tuple() + b"b",
    "reference to a tensor": shared_tuple() + b"Q",
    "kind of a reference": shared_tuple() + b"NNNN(ttQ",
    "encoding": b"c_codecs\nencode\n" + text("a") + shared_tuple() + b"\x86R",
    "shape": wide(shared_tuple()),
    "sizes": wide((long_number(300_000) * 8).join([b"(", b"t"])),
    "number": long_number(1_000_000),
    "name of a megabyte": b"c" + b"a" * 1_000_000 + b"\nb\n)R",
    "name of a megabyte from the stack": text("a" * 1_000_000) + text("b") + b"\x93",
    "text encoded again and again": (
        b"]"
        + (text("a" * 1_000_000) + b"q\x000")
        + (b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86Ra") * 1_000
    ),
    "long reference used again": b"(" + b"N" * 100_000 + b"tq\x00" + b"0h\x00Q" * 50_000,
    "file inside a file inside a file": b"",
}


def nested(levels: int, inside: bytes) -> bytes:
    """A pickle that holds a file from before torch 1.6 as bytes, which holds another one."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    for _ in range(levels):
        old = b"".join(official.pickled(part, 2) for part in head) + inside + official.pickled([], 2)
        inside = (
            b"\x80\x04ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(old)) + old + b"\x85R."
        )
    return inside


PROGRAMS["file inside a file inside a file"] = nested(
    40, b"\x80\x02B" + struct.pack("<I", 1 << 20) + bytes(1 << 20)
)[2:-1]


def cheaply(work: Callable[[], Any], seconds: float = 5.0, megabytes: int = 100) -> str:
    """What a call refuses with, in a sentence, if it does; its time and memory are checked."""
    told = ""
    tracemalloc.start()
    begin = time.process_time()
    try:
        work()
    except Unreadable as error:
        told = error.reason
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - begin < seconds
    assert peak < megabytes << 20
    assert len(told) < 300
    assert told.isprintable()
    return told


@pytest.mark.parametrize("program", PROGRAMS)
def test_work_is_bounded(program: str, tmp_path: Path) -> None:
    whole = b"\x80\x04}" + text("g_ema") + b"}" + text("style.1.bias") + PROGRAMS[program] + b"ss."
    path = written(tmp_path / "bare.pkl", whole)
    cheaply(lambda: pickles.load_tensors(pickles.read(path)["g_ema"], path))
    path = tmp_path / "new.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", whole)
        archive.writestr("archive/data/0", bytes(16))
    cheaply(lambda: pickles.load_tensors(pickles.read(path)["g_ema"], path))
    cheaply(lambda: pickles.examine(path))
    path = written(tmp_path / "direct.pkl", b"\x80\x04" + PROGRAMS[program] + b".")
    cheaply(lambda: pickles.read(path))
    cheaply(lambda: pickles.examine(path))


def test_printing_and_comparing_a_record_is_cheap(tmp_path: Path) -> None:
    program = b"\x80\x04}" + text("a") + b"cos\nsystem\n" + shared_tuple() + b"\x85Rs."
    record = pickles.read(written(tmp_path / "file.pkl", program))["a"]
    assert repr(record) == "Record(os.system)"
    assert record not in (3, None)
    assert len({record: 1}) == 1


def test_names_of_tensors_are_bounded_and_printable(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    for name in ("a" * 2_000_000, "\x1b[2J\x07evil\n", 3, None, "‮reversed"):
        torch.save({name: 3}, path)
        with pytest.raises(Unreadable) as refused:
            pickles.load_tensors(pickles.read(path), path)
        assert len(refused.value.reason) < 200
        assert refused.value.reason.isprintable()


def test_module_below_itself_under_a_long_name(tmp_path: Path) -> None:
    made = b"c__main__\nNet\n)\x81q\x00"
    state = b"}(" + text("_parameters") + b"}" + text("_modules") + b"}" + text("m" * 1_000_000) + b"h\x00su"
    path = written(tmp_path / "file.pkl", b"\x80\x02" + made + state + b"b.")
    cheaply(lambda: pickles.modules_of(pickles.read(path)))
    with pytest.raises(Unreadable, match="has a module whose name is mmm"):
        pickles.modules_of(pickles.read(path))
    path.write_bytes(path.read_bytes().replace(text("m" * 1_000_000), text("again")))
    with pytest.raises(Unreadable, match="has more than 10000 modules, or a path"):
        pickles.modules_of(pickles.read(path))


def test_modules_that_share_their_tensors(tmp_path: Path) -> None:
    """Ten thousand modules with the same dictionary of a thousand parameters each."""
    entries = b"".join(text(f"weight{i}") + b"K\x00" for i in range(1000))
    held = b"}(" + entries + b"uq\x010"
    empty = b"}(" + text("_parameters") + b"h\x01" + text("_modules") + b"}u"
    child = b"c__main__\nNet\n)\x81" + empty + b"b"
    children = b"".join(text(f"m{i}") + child for i in range(5000))
    root = (
        b"c__main__\nNet\n)\x81}("
        + text("_parameters")
        + b"}"
        + text("_modules")
        + b"}("
        + children
        + b"uub."
    )
    path = written(tmp_path / "file.pkl", b"\x80\x02" + held + root)
    with pytest.raises(Unreadable, match="has more than 100000 tensors"):
        pickles.tensors_of(pickles.modules_of(pickles.read(path)))


# Before torch's own reader --------------------------------------------------------------------------------------


def test_plain_files_pass(tmp_path: Path) -> None:
    content = {"a": torch.ones(3).expand(1, 3), "b": [1, "x", {"c": 2.5}], "d": {1: torch.zeros(0)}}
    torch.save(content, tmp_path / "file.pt")
    found = pickles.load_plain(tmp_path / "file.pt")
    assert torch.equal(found["a"], content["a"])
    assert found["b"] == content["b"]


def saved(content: Any) -> Callable[[Path], Path]:
    def save(path: Path) -> Path:
        torch.save(content, path)
        return path

    return save


def doubled(levels: int) -> Any:
    value: Any = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


def itself() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = (value,)
    return value


COSTLY: dict[str, Callable[[Path], Path]] = {
    "stride of zero": saved({"a": torch.zeros(8).half().as_strided((1 << 33,), (0,))}),
    "shared containers": saved({"model": doubled(60)}),
    "a list that holds itself": saved({"model": itself()}),
    "nesting": saved({"model": deep(400)}),
    "shared tensors": saved({"a": [torch.zeros(1 << 18)[: (1 << 18) - i] for i in range(1)] * 2000}),
    "an object": saved({"a": pathlib.PurePosixPath("x")}),
    "a long name": saved({"a": Record(pickles._Global("a" * 2_000, "b"), ())}),
    "no torch file": lambda path: written(path, b"PK\x03\x04" + b"\x00" * 100),
    "words": lambda path: written(path, b"words"),
    "nothing": lambda path: written(path, b""),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_files_are_refused_before_torch_reads_them(kind: str, tmp_path: Path) -> None:
    path = COSTLY[kind](tmp_path / "file.pt")
    told = cheaply(lambda: pickles.load_plain(path))
    assert told
    assert "weights_only" not in told  # torch advises to switch the check off
