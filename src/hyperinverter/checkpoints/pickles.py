"""Tensors out of other people's pickles, read as data.

A pickle is a program for a small stack machine, and Python's own machine imports what the program names and calls
it. This one knows plain containers and the records tensors are written as; it imports nothing and calls nothing, so
a file cannot do more than describe numbers. It reads three containers: torch's zip files, torch's files from before
version 1.6, and bare pickles such as NVIDIA's network pickles, in every protocol from 0 to 5.

A name this reader does not know becomes a label (``Record``). It matters only when the object behind it is asked for.

The work is bounded, not only the number of instructions: bytes that are read or copied are counted, lengths are
checked against the bytes that are there, and nothing foreign is hashed, compared, joined or printed before it is known
to be a short text or a number. Memory is bounded by the size of the file: archive members must be stored and not
compressed, and tensors are cut from the mapped file only when asked for.
"""

from __future__ import annotations

import io
import math
import mmap
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

import torch
from torch import Tensor

from hyperinverter.contracts import shown

Kind = Literal["torch", "pickle"]

_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a torch file from before version 1.6
_LEGACY = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the same number as the pickle spells it
# How pickles of protocol 0 and 1 begin, which have no header: a mark or a container and what follows, or a class.
_TEXTUAL = re.compile(rb"\([dltcVSI(}\]]|[}\]][qr.(p]|c[\w.]+\n[\w.]+\n")

_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}

_MAX_STEPS = 1_000_000  # opcodes; the three networks of an NVIDIA pickle take some hundred thousand
_MAX_COPIES = 4  # how often the bytes of a file may be read or copied while it is interpreted
_MAX_BITS = 512  # of a whole number; states of random generators have 128
_MAX_NAME = 1_000  # letters of the name of a class, of a tensor, or of the path of a module
_MAX_DIMENSIONS = 8
_MAX_MODULES = 10_000
_MAX_TENSORS = 100_000  # of one network
_MAX_VALUES = 2_000_000  # of a checkpoint, when everything that is shared in it is written out
_MAX_DEPTH = 100

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
_NUMPY_DTYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}
_BUILTINS = ("builtins", "__builtin__")  # Python 3, and what protocols 0 to 2 write for it
_DICTS = {("collections", "OrderedDict"), ("dnnlib.util", "EasyDict"), ("dnnlib", "EasyDict")}
_SETS = {(module, name) for module in _BUILTINS for name in ("set", "frozenset")}
_BYTES = {(module, name) for module in _BUILTINS for name in ("bytes", "bytearray")}
_NEW_OBJECT = {("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor")}  # of protocols 0 and 1
_ENCODE = ("_codecs", "encode")  # bytes, as protocols 0 to 2 write them
_REBUILD_TENSOR = {("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")}
_REBUILD_PARAMETER = {
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
}
_REBUILD_OTHER = ("torch._tensor", "_rebuild_from_type_v2")  # a tensor with attributes
_STORAGE_BYTES = ("torch.storage", "_load_from_bytes")
_ARRAYS = {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
_BUFFERS = {f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")}
_SCALARS = {f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")}
_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"  # a module of NVIDIA's
_TENSORFLOW = "dnnlib.tflib"


class Unreadable(Exception):
    """Why a file is not read; ``fix`` says what to do instead where there is more to say than another file."""

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(reason)
        self.reason, self.fix = reason, fix


@dataclass(frozen=True, slots=True, eq=False)
class _Global:
    """A name a pickle mentions; never looked up."""

    module: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        return self.module, self.name

    @property
    def full(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Record:
    """Something that is neither a container nor a tensor: its name, what it was made of, its state.

    Two records are equal only if they are the same one, so that comparing and hashing them costs nothing.
    """

    what: _Global
    arguments: tuple[Any, ...]
    state: list[Any] = field(default_factory=list)  # what was set on it afterwards, at most one
    pairs: list[tuple[Any, Any]] = field(default_factory=list)  # what was set under keys, as in a dictionary

    @property
    def name(self) -> str:
        """Module and name of its class or function."""
        return self.what.full

    def __repr__(self) -> str:
        return f"Record({shown(self.name)})"

    @property
    def attributes(self) -> dict[str, Any] | None:
        """Its attributes if it is an object, those of NVIDIA's modules included; None if it has none."""
        state = self.state[0] if self.state else None
        if self.name == _PERSISTENT and len(self.arguments) == 1:
            given = self.arguments[0]
            state = given.get("state") if isinstance(given, dict) else None
        if isinstance(state, tuple) and len(state) == 2:  # an object with slots
            state = state[0]
        return state if isinstance(state, dict) else None

    @property
    def is_module(self) -> bool:
        """Whether it is a module of torch."""
        held = self.attributes
        return self.name == _PERSISTENT or (held is not None and "_modules" in held and "_parameters" in held)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that is still in its file."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def span(self) -> int:
        """How many numbers of its storage it reaches over.

        Raises:
            Unreadable: If they are not all there, or it repeats them.
        """
        numel = math.prod(self.shape)
        if numel == 0:
            return 0
        span = 1 + sum((side - 1) * step for side, step in zip(self.shape, self.stride, strict=True))
        if numel > span or self.offset + span > self.storage.numel:
            raise Unreadable(f"describes a tensor of {numel} numbers where it holds fewer")
        return span

    def load(self) -> Tensor:
        """Copy the numbers out of the file.

        Raises:
            Unreadable: If they are not all there.
        """
        dtype, span = self.storage.dtype, self.span()
        if span == 0:
            return torch.empty(self.shape, dtype=dtype)
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


class _Work:
    """What a file may still cost: instructions, and bytes that are read or copied, over all pickles in it."""

    def __init__(self, size: int) -> None:
        self._steps, self._bytes = _MAX_STEPS, _MAX_COPIES * size + (1 << 20)

    def step(self, count: int = 1) -> None:
        self._steps -= count
        if self._steps < 0:
            raise Unreadable("is a longer program than any file of networks")

    def copy(self, count: int) -> None:
        self._bytes -= count
        if self._bytes < 0:
            raise Unreadable("describes more bytes than it holds")


class _Cursor:
    """A file-like view of bytes that cannot be made to promise more than there are."""

    def __init__(self, data: memoryview, work: _Work) -> None:
        self._data, self._position, self._work = data, 0, work

    def read(self, count: int) -> bytes:
        taken = bytes(self._data[self._position : self._position + count])
        self._position += len(taken)
        self._work.copy(len(taken))
        return taken

    def readline(self) -> bytes:
        """The rest of a line that holds a name or a number, which are short."""
        return self._line(_MAX_NAME)

    def text(self) -> bytes:
        """The rest of a line that holds a text, which may be long."""
        return self._line(len(self._data))

    def _line(self, longest: int) -> bytes:
        end, step = self._position, 256
        while end - self._position < longest:
            part = bytes(self._data[end : end + step])
            place = part.find(b"\n")
            if place >= 0:
                return self.read(end + place + 1 - self._position)
            if len(part) < step:
                break
            end, step = end + step, min(2 * step, 1 << 20)
        raise Unreadable("is cut short or damaged")

    def take(self, count: int) -> memoryview:
        """The next bytes without a copy."""
        taken = self._data[self._position : self._position + count]
        if len(taken) < count:
            raise Unreadable("is cut short")
        self._position += count
        return taken


# Files -------------------------------------------------------------------------------------------------------


def kind_of(path: Path) -> Literal["torch", "pickle", "safetensors", "other"]:
    """Tell files apart by their first bytes."""
    with path.open("rb") as file:
        start = file.read(512)
        size = path.stat().st_size
        file.seek(max(size - 1, 0))
        last = file.read(1)
    if start.startswith(_ZIP) or _is_legacy(start):
        return "torch"
    # A header's length comes first, eight bytes: asked before pickle, whose first byte may be its lowest one.
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header <= size - 8:
        return "safetensors"
    if start[:1] == b"\x80" or (last == b"." and _TEXTUAL.match(start)):
        return "pickle"
    return "safetensors" if start[8:9] == b"{" else "other"


def _is_legacy(start: bytes) -> bool:
    return start[:1] == b"\x80" and start[2 + 9 * (start[2:3] == b"\x95") :].startswith(
        _LEGACY
    )  # behind a frame


def read(path: Path) -> Any:
    """Read a torch file or a pickle: plain containers, with ``StoredTensor`` for tensors and ``Record`` for objects.

    Returns:
        A dictionary, a ``Record`` that is a module of torch, or another plain value.

    Raises:
        Unreadable: If the file is cut short or damaged, costs more than it may, or is itself an object that is
            neither a dictionary nor a module.
    """
    content = _read(path)
    if isinstance(content, _Global) or (isinstance(content, Record) and not content.is_module):
        return dictionary(content)
    return content


def _read(path: Path) -> Any:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size == 0:
            raise Unreadable("is empty")
        # Slices of the map are handed on; it is closed when the last of them is gone.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    work = _Work(size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about backslashes in names
            if data[:4] == _ZIP:
                return _read_zip(path, data, work)
            if _is_legacy(bytes(data[:32])):
                return _read_legacy(_Cursor(data, work), work)
            return _interpret(_Cursor(data, work), work)
    except Unreadable:
        raise
    except RecursionError as error:
        raise Unreadable("is nested too deeply") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        # what a damaged pickle trips over depends on the byte that is wrong
        raise Unreadable("is cut short or damaged") from error


def load_plain(path: Path) -> Any:
    """Read a file of tensors and plain values that torch saved, with torch's own reader.

    The file is examined first: torch's reader runs no code, but it does not look at what a file costs.

    Returns:
        Containers, plain values and tensors on the CPU.

    Raises:
        Unreadable: If the file is damaged, costs more than it may, or holds anything else.
    """
    examine(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign files; what is wrong is said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for bytes that are no checkpoint depends on the bytes
        raise Unreadable("is damaged, or holds something else than tensors and plain values") from error


def examine(path: Path) -> None:
    """Refuse a torch file that costs more than its size, before another reader opens it.

    Its archive must be stored, its program bounded, its tensors inside their storages, and its values few even when
    everything that is shared is written out: then it can be compared, printed and converted in bounded time.

    Raises:
        Unreadable: Why it is refused.
    """
    content = _read(path)
    most = _MAX_COPIES * path.stat().st_size + (1 << 20)
    # id of a container -> values, levels and bytes of tensors below it
    known: dict[int, tuple[int, int, int]] = {}
    waiting: list[tuple[Any, bool]] = [(content, False)]
    while waiting:
        value, parts_are_known = waiting.pop()
        if isinstance(value, StoredTensor):
            value.span()
            known[id(value)] = 1, 0, value.nbytes
        elif not isinstance(value, (dict, list, tuple, Record)):
            known[id(value)] = 1, 0, 0
        elif parts_are_known:
            counts, depths, sizes = zip((1, 0, 0), *(known[id(part)] for part in _parts(value)), strict=True)
            known[id(value)] = sum(counts), 1 + max(depths), sum(sizes)
            if sum(counts) > _MAX_VALUES or max(depths) > _MAX_DEPTH or sum(sizes) > most:
                raise Unreadable("repeats its own parts more often than any checkpoint")
        elif id(value) not in known:
            known[id(value)] = _MAX_VALUES, 0, 0  # met again before it is complete, it contains itself
            waiting.append((value, True))
            waiting.extend((part, False) for part in _parts(value))


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, Record):
        return [*value.arguments, *value.state, *(part for pair in value.pairs for part in pair)]
    return list(value)


def load_tensors(stored: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Load the tensors of a state dict; floating ones as float32. Arrays of NumPy count as tensors.

    Raises:
        Unreadable: If an entry is no tensor, or all together are larger than the file.
    """
    left = path.stat().st_size
    tensors = {}
    if len(stored) > _MAX_TENSORS:
        raise Unreadable(f"has more than {_MAX_TENSORS} tensors")
    for name, entry in stored.items():
        if not isinstance(name, str) or len(name) > _MAX_NAME:
            raise Unreadable(f"has a tensor whose name is {shown(name)}")
        held = as_tensor(entry)
        if held is None:
            raise Unreadable(f"holds no tensor called {shown(name)}, but {_kind(entry)}{_asked(entry)}")
        left -= held.nbytes
        if left < 0:  # the same bytes may be described many times
            raise Unreadable("describes more numbers than it holds")
        tensor = held.load()
        tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
    return tensors


def as_tensor(value: Any) -> StoredTensor | None:
    """A tensor, or an array or number of NumPy, as a tensor in its file; None for everything else.

    Raises:
        Unreadable: If an array is of a type that tensors do not have.
    """
    if isinstance(value, StoredTensor):
        return value
    if not isinstance(value, Record):
        return None
    fortran = False
    match value.name, value.arguments, value.state:
        case name, _, [(_, tuple() as shape, dtype, fortran, (bytes() | bytearray()) as held)] if (
            name in _ARRAYS
        ):
            pass
        case name, ((bytes() | bytearray()) as held, dtype, tuple() as shape, order), _ if name in _BUFFERS:
            fortran = order == "F" if isinstance(order, str) else False
        case name, (dtype, (bytes() | bytearray()) as held), _ if name in _SCALARS:
            shape = ()
        case _:
            return None
    kind = _numpy_dtype(dtype)
    storage = _Storage(kind, len(held) // kind.itemsize, memoryview(held))
    if len(shape) > _MAX_DIMENSIONS:
        raise Unreadable("holds an array of too many dimensions")
    sides = tuple(map(_count, shape))
    ordered = sides if fortran else sides[::-1]
    steps = [1]
    for side in ordered[:-1]:
        steps.append(steps[-1] * side)
    stride = tuple(steps[: len(sides)] if fortran else steps[: len(sides)][::-1])
    return StoredTensor(storage, 0, sides, stride)


def _numpy_dtype(dtype: Any) -> torch.dtype:
    """The type an array's record names.

    Raises:
        Unreadable: If tensors have no such type.
    """
    if isinstance(dtype, Record) and dtype.name == "numpy.dtype" and dtype.arguments:
        kind = dtype.arguments[0]
        order = dtype.state[0][1:2] if dtype.state and isinstance(dtype.state[0], tuple) else ()
        swapped = any(isinstance(mark, str) and mark == ">" for mark in order)
        if isinstance(kind, str) and len(kind) < 10 and kind in _NUMPY_DTYPES and not swapped:
            return _NUMPY_DTYPES[kind]
    raise Unreadable("holds an array of a type that is not read")


# Objects -----------------------------------------------------------------------------------------------------


def dictionary(value: Any, wanted: str = "a dictionary") -> dict[Any, Any]:
    """``value`` as a dictionary, also where it is an object of a class made from dict.

    Raises:
        Unreadable: If it is something else; an object is named, as it was asked for.
    """
    if isinstance(value, dict):
        return value
    if isinstance(value, Record) and value.pairs:
        return {_key(key): item for key, item in value.pairs}
    if isinstance(value, (Record, _Global)):
        raise Unreadable(*_refusal(value))
    raise Unreadable(f"is damaged: it has {_kind(value)} where {wanted} belongs")


def modules_of(root: Any) -> dict[str, dict[str, Any]]:
    """Path -> attributes of a module object and of all modules below it; its own path is empty.

    Raises:
        Unreadable: If it is no module, or has more of them, or longer paths, than any network.
    """
    found: dict[str, dict[str, Any]] = {}
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        path, module = waiting.pop()
        if len(found) >= _MAX_MODULES or len(path) > _MAX_NAME:
            raise Unreadable(
                f"has more than {_MAX_MODULES} modules, or a path of more than {_MAX_NAME} letters to one"
            )
        if not isinstance(module, Record) or not module.is_module:
            if isinstance(module, (Record, _Global)):
                raise Unreadable(*_refusal(module))
            raise Unreadable(f"holds something else than a network under {shown(path) or 'its name'}")
        attributes = dictionary(module.attributes)
        found[path] = attributes
        for name, child in dictionary(attributes.get("_modules", {})).items():
            if child is None:
                continue
            if not isinstance(name, str) or len(name) > _MAX_NAME:
                raise Unreadable(f"has a module whose name is {shown(name)}")
            waiting.append((f"{path}.{name}" if path else name, child))
            if len(waiting) > _MAX_MODULES:
                raise Unreadable(f"has more than {_MAX_MODULES} modules")
    return found


def tensors_of(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of a module's ``state_dict()``: tensor name -> ``StoredTensor``.

    Args:
        modules: What ``modules_of`` returns.

    Raises:
        Unreadable: If there are more of them, or longer names, than in any network.
    """
    stored: dict[str, Any] = {}
    for path, attributes in modules.items():
        passed_over = attributes.get("_non_persistent_buffers_set")
        left_out = (
            {name for name in passed_over if isinstance(name, str)} if isinstance(passed_over, list) else ()
        )
        for group in ("_parameters", "_buffers"):
            for name, tensor in dictionary(attributes.get(group, {})).items():
                if tensor is None or (group == "_buffers" and name in left_out):
                    continue
                if not isinstance(name, str) or len(name) > _MAX_NAME:
                    raise Unreadable(f"has a tensor whose name is {shown(name)}")
                stored[f"{path}.{name}" if path else name] = tensor
                if len(stored) > _MAX_TENSORS:
                    raise Unreadable(f"has more than {_MAX_TENSORS} tensors")
    return stored


def _refusal(value: Record | _Global) -> tuple[str, str]:
    """Reason and way out for an object that was asked for."""
    if isinstance(value, Record) and value.is_module:
        return (
            f"holds the module object {shown(value.name)}",
            "save its numbers alone where it can be opened: torch.save(module.state_dict(), FILE)",
        )
    name = value.name if isinstance(value, Record) else value.full
    return f"asks to run {shown(name)!r}, which is neither tensor nor container; nothing of it was run", ""


def _asked(value: Any) -> str:
    return f": it {_refusal(value)[0]}" if isinstance(value, (Record, _Global)) else ""


def _kind(value: Any) -> str:
    return type(value).__name__.strip("_")


# Archives ----------------------------------------------------------------------------------------------------


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


def _read_zip(path: Path, data: memoryview, work: _Work) -> Any:
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

    def hold(storage: _Storage, key: str) -> _Storage:
        if key not in storages:
            held = member(f"data/{key}")
            if storage.nbytes > len(held):
                raise Unreadable("is cut short")
            storage.data = held
        return storages.setdefault(key, storage)

    return _interpret(_Cursor(member("data.pkl"), work), work, hold)


def _read_legacy(cursor: _Cursor, work: _Work) -> Any:
    """Five pickles (magic number, version, machine, content, keys), then the numbers of every storage."""
    magic, _, machine = (_interpret(cursor, work) for _ in range(3))
    if magic != _MAGIC or not isinstance(machine, dict) or not machine.get("little_endian"):
        raise Unreadable("was written on a big-endian machine", "save it again on a little-endian one")
    storages: dict[str, _Storage] = {}

    def hold(storage: _Storage, key: str) -> _Storage:
        return storages.setdefault(key, storage)

    content = _interpret(cursor, work, hold)
    for key in _expect(_interpret(cursor, work), list):
        storage = storages[_expect(key, str)]
        (numel,) = struct.unpack("<q", cursor.take(8))
        if numel != storage.numel:
            raise Unreadable("is damaged: it counts its numbers twice, and differently")
        storage.data = cursor.take(storage.nbytes)
    if any(len(storage.data) < storage.nbytes for storage in storages.values()):
        raise Unreadable("is cut short")
    return content


def _count(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 1 << 63:
        raise Unreadable("is damaged: it counts in something else than whole numbers")
    return number


# The machine -------------------------------------------------------------------------------------------------

_Hold = Callable[[_Storage, str], _Storage]  # gives the storage of a key its numbers


def _nothing_outside(storage: _Storage, key: str) -> _Storage:
    raise Unreadable("refers to tensors outside of it")


def _interpret(cursor: _Cursor, work: _Work, hold: _Hold = _nothing_outside) -> Any:
    """Run one pickle to its end and return what it describes."""
    machine = _Machine(work, hold)
    while code := cursor.read(1):
        work.step()
        opcode = _OPCODES.get(code.decode("latin-1"))
        if opcode is None:
            raise Unreadable("is cut short or damaged")
        argument: Any = None
        if opcode.name in ("UNICODE", "STRING"):
            argument = opcode.arg.reader(cast(IO[bytes], io.BytesIO(cursor.text())))  # type: ignore[union-attr]
        elif opcode.arg is not None:
            argument = opcode.arg.reader(cast(IO[bytes], cursor))
        if opcode.name == "STOP":
            return machine.stack.pop()
        group = _GROUPS.get(opcode.name)
        if group is None:
            raise Unreadable(
                f"is a pickle with the instruction {opcode.name}, which files of networks do not use"
            )
        group(machine, opcode.name, argument)
    raise Unreadable("is cut short")


class _Machine:
    """The state of a pickle that runs; every method carries out a group of instructions, see ``_GROUPS``."""

    def __init__(self, work: _Work, hold: _Hold) -> None:
        self.stack: list[Any] = []
        self._marked: list[list[Any]] = []  # stacks below a mark
        self._memo: dict[int, Any] = {}
        self._work, self._hold = work, hold

    def _since_mark(self) -> list[Any]:
        """What was put on the stack since the last mark; it is taken off, and so is the mark."""
        given, self.stack = self.stack, self._marked.pop()
        return given

    def arrange(self, name: str, argument: Any) -> None:
        """The stack itself, and what is remembered of it."""
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._marked.append(self.stack)
                self.stack = []
            case "POP":
                self.stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self._memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                self.stack.append(self._memo[argument])

    def put_constant(self, name: str, argument: Any) -> None:
        """None, true and false, numbers, texts and bytes."""
        if isinstance(argument, int) and argument.bit_length() > _MAX_BITS:
            raise Unreadable(f"holds a whole number of more than {_MAX_BITS} bits")
        self.stack.append({"NEWTRUE": True, "NEWFALSE": False}.get(name, argument))

    def put_container(self, name: str, argument: Any) -> None:
        """Tuples, lists, sets and dictionaries, empty or of what the stack holds."""
        match name:
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                self.stack[-count:] = [_items(self.stack, count)]
            case "TUPLE":
                items = tuple(self._since_mark())
                self.stack.append(items)
            case "EMPTY_LIST" | "EMPTY_SET":  # a set as a list: nothing foreign is ever hashed
                self.stack.append([])
            case "LIST" | "FROZENSET":
                given = self._since_mark()
                self.stack.append(given)
            case "EMPTY_DICT":
                self.stack.append({})
            case "DICT":
                items = tuple(self._since_mark())
                self.stack.append(_set_items({}, zip(items[::2], items[1::2], strict=True)))

    def fill(self, name: str, argument: Any) -> None:
        """Items into the list or the dictionary below them."""
        match name:
            case "APPEND":
                item = self.stack.pop()
                _append(self.stack[-1], (item,))
            case "APPENDS" | "ADDITEMS":
                items = tuple(self._since_mark())
                _append(self.stack[-1], items)
            case "SETITEM":
                key, value = _items(self.stack, 2)
                del self.stack[-2:]
                _set_items(self.stack[-1], [(key, value)])
            case "SETITEMS":
                items = tuple(self._since_mark())
                _set_items(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    def describe(self, name: str, argument: Any) -> None:
        """What the pickle names, would call, and would set on the result."""
        stack = self.stack
        match name:
            case "GLOBAL":
                module, _, named = argument.partition(" ")
                stack.append(_global(module, named))
            case "STACK_GLOBAL":
                module, named = _items(stack, 2)
                stack[-2:] = [_global(module, named)]
            case "REDUCE" | "NEWOBJ":
                made, arguments = _items(stack, 2)
                stack[-2:] = [_made(made, _expect(arguments, tuple), self._work)]
            case "NEWOBJ_EX":  # the keywords are kept as one more argument
                made, arguments, keywords = _items(stack, 3)
                stack[-3:] = [_made(made, (*_few(arguments), _expect(keywords, dict)), self._work)]
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Record):
                    stack[-1].state[:] = [state]
                else:  # attributes of a container or a tensor, such as the versions torch notes on a state dict
                    _expect(stack[-1], (dict, list, StoredTensor))
            case "BINPERSID":
                stack.append(_persistent(_few(stack.pop()), self._hold))


_NAMES = {  # of the instructions that files of networks use
    _Machine.arrange: "PROTO FRAME MARK POP POP_MARK BINPUT LONG_BINPUT PUT MEMOIZE BINGET LONG_BINGET GET",
    _Machine.put_constant: (
        "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 INT LONG BINFLOAT FLOAT UNICODE BINUNICODE "
        "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 STRING BINSTRING SHORT_BINSTRING"
    ),
    _Machine.put_container: (
        "EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST LIST EMPTY_SET FROZENSET EMPTY_DICT DICT"
    ),
    _Machine.fill: "APPEND APPENDS ADDITEMS SETITEM SETITEMS",
    _Machine.describe: "GLOBAL STACK_GLOBAL REDUCE NEWOBJ NEWOBJ_EX BUILD BINPERSID",
}
_GROUPS = {name: group for group, names in _NAMES.items() for name in names.split()}


def _items(stack: list[Any], count: int) -> tuple[Any, ...]:
    items = tuple(stack[-count:])
    if len(items) < count:
        raise Unreadable("is damaged: it takes more than it has given")
    return items


def _expect(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        if isinstance(value, (Record, _Global)):
            raise Unreadable(*_refusal(value))
        wanted = (kind if isinstance(kind, tuple) else (kind,))[0].__name__.strip("_")
        raise Unreadable(f"is damaged: it treats {_kind(value)} as {wanted}")
    return value


def _few(value: Any) -> tuple[Any, ...]:
    """A tuple that may be copied each time it is used: it is short."""
    if len(_expect(value, tuple)) > 100:
        raise Unreadable("is damaged: it gives a call more than 100 arguments")
    return cast(tuple[Any, ...], value)


def _append(target: Any, items: tuple[Any, ...]) -> None:
    if not isinstance(target, Record):  # what an unknown list holds is not kept
        _expect(target, list).extend(items)


def _set_items(target: Any, items: Iterable[tuple[Any, Any]]) -> Any:
    if isinstance(target, Record):
        target.pairs.extend(items)
        return target
    _expect(target, dict)
    for key, value in items:
        target[_key(key)] = value
    return target


def _key(key: Any) -> Any:
    """A key that costs nothing to hash: a container or an object stands for itself and equals nothing else."""
    plain = key is None or isinstance(key, (str, int, float, bytes, Record, _Global))
    return key if plain else Record(_Global("builtins", _kind(key)), (key,))


def _global(module: Any, name: Any) -> _Global:
    if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > _MAX_NAME:
        raise Unreadable("is damaged: it names a class in something else than a short text")
    if module.startswith(_TENSORFLOW):
        raise Unreadable(
            "is a TensorFlow network",
            "convert it with stylegan2-ada-pytorch: python legacy.py --source=in.pkl --dest=out.pkl",
        )
    return _Global(module, name)


def _persistent(name: tuple[Any, ...], hold: _Hold) -> Any:
    """What a persistent id stands for: a storage, or the class of a module in files from before version 1.6."""
    kind, *rest = name
    if isinstance(kind, str) and kind == "module" and rest and isinstance(rest[0], _Global):
        return rest[0]
    dtype, key, _, numel, *view = rest
    if not isinstance(kind, str) or kind != "storage" or not isinstance(key, str) or len(key) > _MAX_NAME:
        raise Unreadable("holds tensors of a kind that is not read")
    known = isinstance(dtype, _Global) and dtype.module in ("torch", "torch.cuda") and dtype.name in _DTYPES
    if not known or any(part is not None for part in view):
        raise Unreadable("holds tensors of a kind that is not read")
    return hold(_Storage(_DTYPES[dtype.name], _count(numel), memoryview(b"")), key)


def _made(what: Any, arguments: tuple[Any, ...], work: _Work) -> Any:
    """What calling a name would have made: a container or a tensor where it is known, else a label."""
    if isinstance(what, Record):  # such as a call of functools.partial
        return Record(what.what, (what, arguments))
    key = _expect(what, _Global).key
    if key in _DICTS:
        made: dict[Any, Any] = {}
        for item in _expect(arguments[0], list) if arguments else ():
            work.step()  # the same list may be given many times
            name, value = item
            _set_items(made, [(name, value)])
        return made
    if key in _SETS:
        return _expect(arguments[0], (list, tuple)) if arguments else []
    if key in _BYTES and not arguments:
        return b""
    if key == _ENCODE or (key in _BYTES and len(arguments) == 2):
        return _encoded(what, arguments, work)
    if key in _NEW_OBJECT:
        return _new_object(arguments, work)
    if key in _REBUILD_TENSOR:
        storage, offset, shape, stride = arguments[:4]
        _expect(storage, _Storage)
        if len(_expect(shape, tuple)) != len(_expect(stride, tuple)) or len(shape) > _MAX_DIMENSIONS:
            raise Unreadable("is damaged: a tensor's shape and strides differ")
        return StoredTensor(storage, _count(offset), tuple(map(_count, shape)), tuple(map(_count, stride)))
    if key in _REBUILD_PARAMETER:
        return _expect(arguments[0], StoredTensor)
    if key == _REBUILD_OTHER:
        inner, _, given = arguments[:3]
        return _made(_expect(inner, _Global), _expect(given, tuple), work)
    if key == _STORAGE_BYTES:  # a torch file inside the pickle
        held = memoryview(_expect(arguments[0], (bytes, bytearray)))
        return _expect(_read_legacy(_Cursor(held, work), work), _Storage)
    return Record(what, arguments)


def _encoded(what: _Global, arguments: tuple[Any, ...], work: _Work) -> Any:
    """Bytes that protocols 0 to 2 write as text."""
    match arguments:
        case (str() as text, "latin1" | "latin-1"):
            work.copy(len(text))
            return text.encode("latin-1")
    return Record(what, arguments)


def _new_object(arguments: tuple[Any, ...], work: _Work) -> Any:
    """What protocols 0 and 1 write for an object: its class, the builtin it is made from, and its value as that."""
    kind, base, value = arguments
    _expect(kind, _Global)
    if isinstance(base, _Global) and base.name == "dict" and isinstance(value, dict):
        work.step(len(value))
        return dict(value) if kind.key in _DICTS else Record(kind, (), pairs=list(value.items()))
    return Record(kind, ())
