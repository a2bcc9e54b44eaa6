"""Tensors out of other people's pickles, read as data.

A pickle is a program for a small stack machine, and Python's own machine imports what the program names and calls
it. This one knows plain containers and the records tensors are written as; it imports nothing and calls nothing, so
a file cannot do more than describe numbers. It reads three containers: torch's zip files, torch's files from before
version 1.6, and bare pickles such as NVIDIA's network pickles.

What it holds in memory is bounded by the size of the file: lengths are checked against the bytes that are there,
archive members must be stored and not compressed, and tensors are cut from the mapped file only when asked for.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

import torch
from torch import Tensor

Kind = Literal["torch", "pickle"]

_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a torch file from before version 1.6
_LEGACY = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the same number as the pickle spells it
_MAX_STEPS = 1_000_000  # opcodes; the three networks of an NVIDIA pickle take some hundred thousand
_MAX_DIMENSIONS = 8

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DICTS = {("collections", "OrderedDict"), ("dnnlib.util", "EasyDict")}
_SETS = {("builtins", "set"), ("__builtin__", "set")}
# Names that files of networks mention beside their tensors. They become a Record: a label and what was said of it.
_RECORDS = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"),
    ("argparse", "Namespace"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    ("_codecs", "encode"),
    ("torch", "device"),
    ("torch", "Size"),
}
_REBUILD_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
_REBUILD_PARAMETER = ("torch._utils", "_rebuild_parameter")
_STORAGE_BYTES = ("torch.storage", "_load_from_bytes")
_KNOWN = {
    *_DICTS,
    *_SETS,
    *_RECORDS,
    *(("torch", name) for name in _DTYPES),
    _REBUILD_TENSOR,
    _REBUILD_PARAMETER,
    _STORAGE_BYTES,
}
_TENSORFLOW = "dnnlib.tflib"


class Unreadable(Exception):
    """Why a file is not read; ``mend`` says what to do instead where there is more to say than another file."""

    def __init__(self, reason: str, mend: str = "") -> None:
        super().__init__(reason)
        self.reason, self.mend = reason, mend


@dataclass(frozen=True, slots=True)
class Record:
    """Something that is neither a container nor a tensor: its full name, what it was made of, its state."""

    name: str
    arguments: tuple[Any, ...]
    state: list[Any] = field(default_factory=list)  # what was set on it afterwards, at most one


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that is still in its file."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self) -> Tensor:
        """Copy the numbers out of the file.

        Raises:
            Unreadable: If they are not all there.
        """
        dtype, numel = self.storage.dtype, math.prod(self.shape)
        if numel == 0:
            return torch.empty(self.shape, dtype=dtype)
        span = 1 + sum((side - 1) * step for side, step in zip(self.shape, self.stride, strict=True))
        if numel > span or self.offset + span > self.storage.numel:
            raise Unreadable(f"describes a tensor of {numel} numbers where it holds fewer")
        size = dtype.itemsize
        held = bytearray(self.storage.data[self.offset * size : (self.offset + span) * size])
        return torch.frombuffer(held, dtype=dtype).as_strided(self.shape, self.stride).contiguous()


@dataclass(slots=True)
class _Storage:
    """Consecutive numbers in a file."""

    dtype: torch.dtype
    numel: int
    data: memoryview  # may be filled in after the tensors that use it were described

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Global:
    """A name a pickle mentions; never looked up."""

    module: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        return self.module, self.name


class _Cursor:
    """A file-like view of bytes that cannot be made to promise more than there are."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._position = data, 0

    def read(self, count: int) -> bytes:
        taken = bytes(self._data[self._position : self._position + count])
        self._position += len(taken)
        return taken

    def readline(self) -> bytes:
        line = bytes(self._data[self._position : self._position + 1000])
        line = line[: line.find(b"\n") + 1]
        self._position += len(line)
        return line

    def tell(self) -> int:
        return self._position

    def take(self, count: int) -> memoryview:
        """The next bytes without a copy."""
        taken = self._data[self._position : self._position + count]
        if len(taken) < count:
            raise Unreadable("is cut short")
        self._position += count
        return taken


def kind_of(path: Path) -> Literal["torch", "pickle", "safetensors", "other"]:
    """Tell files apart by their first bytes."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(_ZIP) or start[2:14] == _LEGACY:
        return "torch"
    # A header's length comes first, eight bytes: asked before pickle, whose first byte may be its lowest one.
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header <= path.stat().st_size - 8:
        return "safetensors"
    if start[:1] == b"\x80":
        return "pickle"
    return "safetensors" if start[8:9] == b"{" else "other"


def read(path: Path) -> Any:
    """Read a torch file or a pickle: plain containers, with ``StoredTensor`` for tensors.

    Raises:
        Unreadable: If the file is cut short, damaged, or mentions anything but containers and tensors.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise Unreadable("is empty")
        # Slices of the map are handed on; it is closed when the last of them is gone.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    steps = _Steps()
    try:
        if data[:4] == _ZIP:
            return _read_zip(path, data, steps)
        if data[2:14] == _LEGACY:
            return _read_legacy(_Cursor(data), steps)
        return _interpret(_Cursor(data), steps)
    except Unreadable:
        raise
    except RecursionError as error:
        raise Unreadable("is nested too deeply") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        # what a damaged pickle trips over depends on the byte that is wrong
        raise Unreadable("is cut short or damaged") from error


def load_tensors(stored: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Load the tensors of a state dict; floating ones as float32.

    Raises:
        Unreadable: If an entry is no tensor, or all together are larger than the file.
    """
    left = path.stat().st_size
    tensors = {}
    for name, entry in stored.items():
        if not isinstance(entry, StoredTensor):
            raise Unreadable(f"holds no tensor called {name}, but {type(entry).__name__}")
        left -= math.prod(entry.shape) * entry.storage.dtype.itemsize
        if left < 0:  # the same bytes may be described many times
            raise Unreadable("describes more numbers than it holds")
        tensor = entry.load()
        tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
    return tensors


def check_archive(path: Path) -> None:
    """Refuse a zip file whose members are not simply stored, before anything unpacks it; other files pass.

    Raises:
        Unreadable: If the archive is damaged, or would unpack to more than its own size.
    """
    with path.open("rb") as file:
        if file.read(4) != _ZIP:
            return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, LookupError, struct.error) as error:
        raise Unreadable("is cut short or damaged") from error
    # torch writes members as they are; compressed ones could unpack to any size
    unpacked = sum(member.file_size for member in members)
    if (
        any(member.compress_type != zipfile.ZIP_STORED for member in members)
        or unpacked > path.stat().st_size
    ):
        raise Unreadable(f"is an archive that would unpack to {unpacked} bytes, which torch never writes")


def _read_zip(path: Path, data: memoryview, steps: _Steps) -> Any:
    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
    found = [name for name in members if name.endswith("/data.pkl")]
    if len(found) != 1:
        raise Unreadable("is a zip archive, but not one that torch.save wrote")
    folder = found[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in members:
        raise Unreadable("is a TorchScript program", "save its state_dict() with torch.save")

    def member(name: str) -> memoryview:
        entry = members[folder + name]
        start = entry.header_offset
        name_length, extra_length = struct.unpack("<HH", data[start + 26 : start + 30])
        start += 30 + name_length + extra_length
        held = data[start : start + entry.file_size]
        if len(held) < entry.file_size:
            raise Unreadable("is cut short")
        return held

    if f"{folder}byteorder" in members and bytes(member("byteorder")) != b"little":
        raise Unreadable("was written on a big-endian machine", "save it again on a little-endian one")
    storages: dict[str, _Storage] = {}

    def persistent(name: Any) -> _Storage:
        storage, key = _storage(name)
        held = member(f"data/{key}")
        if storage.nbytes > len(held):
            raise Unreadable("is cut short")
        storage.data = held
        return storages.setdefault(key, storage)

    return _interpret(_Cursor(member("data.pkl")), steps, persistent)


def _read_legacy(cursor: _Cursor, steps: _Steps) -> Any:
    """Five pickles (magic number, version, machine, content, keys), then the numbers of every storage."""
    magic, _, machine = (_interpret(cursor, steps) for _ in range(3))
    if magic != _MAGIC or not isinstance(machine, dict) or not machine.get("little_endian"):
        raise Unreadable("was written on a big-endian machine", "save it again on a little-endian one")
    storages: dict[str, _Storage] = {}

    def persistent(name: Any) -> _Storage:
        storage, key = _storage(name)
        return storages.setdefault(key, storage)

    content = _interpret(cursor, steps, persistent)
    for key in _interpret(cursor, steps):
        storage = storages[key]
        (numel,) = struct.unpack("<q", cursor.take(8))
        if numel != storage.numel:
            raise Unreadable("is damaged: it counts its numbers twice, and differently")
        storage.data = cursor.take(storage.nbytes)
    if any(len(storage.data) < storage.nbytes for storage in storages.values()):
        raise Unreadable("is cut short")
    return content


def _storage(name: Any) -> tuple[_Storage, str]:
    """The storage a persistent id announces, still without its numbers, and its key."""
    kind, dtype, key, _, numel, *view = name
    known = isinstance(dtype, _Global) and dtype.module == "torch" and dtype.name in _DTYPES
    if kind != "storage" or not known or not isinstance(key, str) or any(part is not None for part in view):
        raise Unreadable("holds tensors of a kind that is not read")
    return _Storage(_DTYPES[dtype.name], _count(numel), memoryview(b"")), key


def _count(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise Unreadable("is damaged: it counts in something else than whole numbers")
    return number


class _Steps:
    """Counts opcodes over all pickles of a file."""

    def __init__(self) -> None:
        self.left = _MAX_STEPS

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Unreadable("is a longer program than any file of networks")


def _nothing_persistent(name: Any) -> _Storage:
    raise Unreadable("refers to tensors outside of it")


def _interpret(
    cursor: _Cursor, steps: _Steps, persistent: Callable[[Any], _Storage] = _nothing_persistent
) -> Any:
    """Run one pickle to its end and return what it describes."""
    stack: list[Any] = []
    marked: list[list[Any]] = []  # stacks below a mark
    memo: dict[int, Any] = {}
    for opcode, given, _ in pickletools.genops(cast(IO[bytes], cursor)):
        argument: Any = given
        steps.take()
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marked.append(stack)
                stack = []
            case "POP":
                stack.pop()
            case "POP_MARK":
                stack = marked.pop()
            case "NONE":
                stack.append(None)
            case "NEWTRUE":
                stack.append(True)
            case "NEWFALSE":
                stack.append(False)
            case (
                "BININT"
                | "BININT1"
                | "BININT2"
                | "LONG1"
                | "LONG4"
                | "BINFLOAT"
                | "BINUNICODE"
                | "SHORT_BINUNICODE"
                | "BINUNICODE8"
                | "BINBYTES"
                | "SHORT_BINBYTES"
                | "BINBYTES8"
                | "BINSTRING"
                | "SHORT_BINSTRING"
            ):
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [_items(stack, count)]
            case "TUPLE":
                items, stack = tuple(stack), marked.pop()
                stack.append(items)
            case "EMPTY_LIST" | "EMPTY_SET":  # a set as a list: nothing foreign is ever hashed
                stack.append([])
            case "APPEND":
                item = stack.pop()
                _expect(stack[-1], list).append(item)
            case "APPENDS" | "ADDITEMS":
                items, stack = tuple(stack), marked.pop()
                _expect(stack[-1], list).extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                key, value = _items(stack, 2)
                del stack[-2:]
                _set_items(stack[-1], [(key, value)])
            case "SETITEMS":
                items, stack = tuple(stack), marked.pop()
                _set_items(stack[-1], zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                stack.append(_known_global(module, name))
            case "STACK_GLOBAL":
                module, name = _items(stack, 2)
                stack[-2:] = [_known_global(module, name)]
            case "REDUCE" | "NEWOBJ":
                made, arguments = _items(stack, 2)
                stack[-2:] = [_made(_expect(made, _Global), _expect(arguments, tuple), steps)]
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Record):
                    stack[-1].state[:] = [state]
                else:  # a dictionary's attributes, such as the versions torch notes on a state dict
                    _expect(stack[-1], dict)
            case "BINPERSID":
                stack.append(persistent(_expect(stack.pop(), tuple)))
            case name:
                raise Unreadable(
                    f"is a pickle with the instruction {name}, which files of networks do not use"
                )
    raise Unreadable("is cut short")


def _items(stack: list[Any], count: int) -> tuple[Any, ...]:
    items = tuple(stack[-count:])
    if len(items) < count:
        raise Unreadable("is damaged: it takes more than it has given")
    return items


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise Unreadable(
            f"is damaged: it treats {type(value).__name__.strip('_')} as {kind.__name__.strip('_')}"
        )
    return value


def _set_items(target: Any, items: Iterable[tuple[Any, Any]]) -> None:
    _expect(target, dict)
    for key, value in items:
        if not isinstance(key, (str, int, float, bytes, type(None))):  # hashing a tuple may take for ever
            raise Unreadable(f"has a dictionary whose keys are {type(key).__name__.strip('_')}")
        target[key] = value


def _known_global(module: Any, name: Any) -> _Global:
    if isinstance(module, str) and module.startswith(_TENSORFLOW):
        raise Unreadable(
            "is a TensorFlow network",
            "convert it with stylegan2-ada-pytorch: python legacy.py --source=in.pkl --dest=out.pkl",
        )
    if (module, name) not in _KNOWN:
        raise Unreadable(
            f"asks to run {str(module)[:60]!r} {str(name)[:60]!r}, which is neither tensor nor container; nothing of "
            "it was run"
        )
    return _Global(module, name)


def _made(what: _Global, arguments: tuple[Any, ...], steps: _Steps) -> Any:
    """What calling a known name would have made."""
    if what.key in _DICTS:
        made: dict[Any, Any] = {}
        for item in _expect(arguments[0], list) if arguments else ():
            steps.take()  # the same list may be given many times
            key, value = item
            _set_items(made, [(key, value)])
        return made
    if what.key in _SETS:
        return _expect(arguments[0], list) if arguments else []
    if what.key == _REBUILD_TENSOR:
        storage, offset, shape, stride = arguments[:4]
        _expect(storage, _Storage)
        if len(_expect(shape, tuple)) != len(_expect(stride, tuple)) or len(shape) > _MAX_DIMENSIONS:
            raise Unreadable("is damaged: a tensor's shape and strides differ")
        return StoredTensor(storage, _count(offset), tuple(map(_count, shape)), tuple(map(_count, stride)))
    if what.key == _REBUILD_PARAMETER:
        return _expect(arguments[0], StoredTensor)
    if what.key == _STORAGE_BYTES:  # a torch file inside the pickle
        return _expect(_read_legacy(_Cursor(memoryview(_expect(arguments[0], bytes))), steps), _Storage)
    if what.key in _RECORDS:
        return Record(".".join(what.key), arguments)
    raise Unreadable(f"is damaged: it calls {what.name}")
