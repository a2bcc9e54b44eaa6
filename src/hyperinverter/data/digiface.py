"""The built-in faces: drawn once by a packaged sampler, then files like any other photos.

The sampler is a DCGAN trained by its author on renders (DigiFace-1M); see ``assets/NOTICE.md``. It makes
data and is no part of the method. Image ``i`` is a pure function of ``i``.

    python -m hyperinverter.data.digiface prepare                 # draw the files before the first run
"""

import argparse
import io
import os
import sys
import zlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load
from torch import Tensor
from tqdm import tqdm

from hyperinverter.contracts import UserError
from hyperinverter.system.files import locked, unpacked, write_bytes, writing_to

RESOLUTION = 64
Z_DIM = 100
SAMPLER = "digiface_dcgan.safetensors.gz"
ACCEPTED = "digiface_accepted.npz"

_CHUNK = 8  # images per forward pass, aligned: the same arithmetic whichever images are asked for

_NUM_TEST, _NUM_VAL = 1_000, 512  # places kept for these splits, so that no size moves another split
_FILE_BYTES = 12_000  # an upper estimate for one PNG
_BLOCK = 256  # faces drawn between two notes in the record of written files


@lru_cache(maxsize=1)
def _sampler_weights() -> dict[str, Tensor]:
    with as_file(files("hyperinverter") / "assets" / SAMPLER) as path:
        return {name: tensor.float() for name, tensor in load(unpacked(path)).items()}


def _draw(z: Tensor) -> Tensor:
    """Map ``z ~ N(0, I)`` ``(N, 100)`` to RGB in [-1, 1], ``(N, 3, 64, 64)``."""
    weights = _sampler_weights()
    x = z[:, :, None, None]
    for layer in range(5):
        weight, bias = weights[f"layers.{layer}.weight"], weights.get(f"layers.{layer}.bias")
        # The first layer opens one pixel to 4x4, the others double the side.
        stride, padding = (1, 0) if layer == 0 else (2, 1)
        x = F.conv_transpose2d(x, weight, bias, stride=stride, padding=padding)
        x = torch.tanh(x) if layer == 4 else torch.relu(x)
    return x


@torch.inference_mode()
def sample_faces(indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Draw the faces with these numbers.

    Face ``i`` comes from its own random generator seeded with ``i`` and is always computed in the same
    batch of neighbours, so it never depends on which other faces are asked for.

    Args:
        indices: ``N`` numbers from 0 on, in any order, repeats allowed.

    Returns:
        RGB, ``uint8 (N, 64, 64, 3)``, in the order of ``indices``.

    Raises:
        ValueError: If an index is negative or does not fit 32 bits, the size of a seed.
    """
    wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= 2**32 - _CHUNK):
        raise ValueError(
            f"face indices must lie in [0, 2**32 - {_CHUNK}), got {wanted.min()} to {wanted.max()}"
        )
    faces = np.empty((len(wanted), RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
    chunks = wanted // _CHUNK
    order = np.argsort(chunks, kind="stable")
    starts = np.flatnonzero(np.diff(chunks[order], prepend=-1))
    for places in np.split(order, starts[1:]) if wanted.size else []:
        first = int(chunks[places[0]]) * _CHUNK
        z = torch.stack(
            [torch.randn(Z_DIM, generator=torch.Generator().manual_seed(first + i)) for i in range(_CHUNK)]
        )
        pixels = _draw(z).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        faces[places] = pixels.permute(0, 2, 3, 1).numpy()[wanted[places] - first]
    return faces


def accepted_indices(path: Path | None = None) -> np.ndarray:
    """Numbers of the faces that are not garbled and look roughly ahead, ascending, ``int64 (N,)``.

    Args:
        path: A list made by ``hyperinverter_recipes.digiface_accepted``; the packaged one by default.
    """
    if path is None:
        with as_file(files("hyperinverter") / "assets" / ACCEPTED) as packaged:
            return read_accepted(packaged)[0]
    return read_accepted(path)[0]


def read_accepted(path: Path) -> tuple[np.ndarray, int]:
    """Accepted indices of a list, and how many faces were judged for it."""
    with np.load(path, allow_pickle=False) as stored:
        judged = int(stored["judged"])
        return np.flatnonzero(np.unpackbits(stored["bits"], count=judged)), judged


def split_indices(
    num_train: int = 20_000, num_val: int = 512, num_test: int = 1_000
) -> dict[str, np.ndarray]:
    """Which faces belong to train, val and test.

    The first 1,000 accepted faces are for testing, the next 512 for validation, the rest for training;
    a smaller number takes the first ones, so every size shares one cache and no face changes side.

    Returns:
        Face numbers of ``"train"``, ``"val"`` and ``"test"``.

    Raises:
        UserError: If a number is negative or larger than its split.
    """
    accepted = accepted_indices()
    places = {
        "train": (num_train, accepted[_NUM_TEST + _NUM_VAL :]),
        "val": (num_val, accepted[_NUM_TEST : _NUM_TEST + _NUM_VAL]),
        "test": (num_test, accepted[:_NUM_TEST]),
    }
    for split, (count, indices) in places.items():
        if not 0 <= count <= len(indices):
            raise UserError(
                f"data.num_{split}={count}: the built-in faces have {len(indices):,} for {split}; "
                f"choose 0 to {len(indices)}"
            )
    return {split: indices[:count] for split, (count, indices) in places.items()}


def face_names(num_train: int = 20_000, num_val: int = 512, num_test: int = 1_000) -> dict[str, list[str]]:
    """Files of each split below the folder :func:`prepare_digiface` returns: ``"train/001234.png"``."""
    indices = split_indices(num_train, num_val, num_test)
    return {split: [f"{split}/{i:06d}.png" for i in numbers] for split, numbers in indices.items()}


def prepare_digiface(
    cache_dir: str | Path, num_train: int = 20_000, num_val: int = 512, num_test: int = 1_000
) -> Path:
    """Make sure the faces are on disk as ordinary PNG files; draw what is missing or damaged.

    Every file is compared with the size and checksum noted when it was written, so an interrupted or
    damaged cache is completed, not trusted. Processes that start together take turns.

    Args:
        cache_dir: Faces go to ``<cache_dir>/digiface/v1/{train,val,test}/<face number>.png``.
        num_train: See :func:`split_indices`, as the next two.
        num_val: Validation faces.
        num_test: Test faces.

    Returns:
        The folder with the three splits.

    Raises:
        UserError: If there is no space, ``cache_dir`` cannot be written, or a split has fewer faces.
    """
    root = Path(cache_dir).expanduser() / "digiface" / "v1"
    names = face_names(num_train, num_val, num_test)
    to_draw = sum(len(_unsound(root, names[split])) for split in names)
    if to_draw == 0:
        return root  # nothing to write: works on a read-only cache too
    with (
        writing_to(root, to_draw * _FILE_BYTES, "choose another folder with paths.cache=FOLDER"),
        locked(root / ".lock", "drawing the built-in faces"),
    ):
        for split in names:
            (root / split).mkdir(exist_ok=True)
            for leftover in (root / split).glob(".*.part"):
                leftover.unlink(missing_ok=True)
            _draw_files(root, split, _unsound(root, names[split]))  # again: another process may have drawn
    return root


def _unsound(root: Path, names: list[str]) -> list[str]:
    """Files that are missing or differ from what was noted when they were written."""
    if not names:
        return []
    noted = _read_record(root, Path(names[0]).parts[0])
    bad = []
    for name in names:
        try:
            content = (root / name).read_bytes()
        except OSError:  # missing or unreadable: either way it is drawn again
            bad.append(name)
            continue
        if noted.get(name) != (len(content), zlib.crc32(content)):
            bad.append(name)
    return bad


def _read_record(root: Path, split: str) -> dict[str, tuple[int, int]]:
    """Size and checksum of every file written so far; the last line about a file counts."""
    path = root / f"{split}.record"
    noted = {}
    for line in path.read_text(encoding="ascii", errors="replace").splitlines() if path.exists() else []:
        name, _, rest = line.partition(" ")
        size, _, checksum = rest.partition(" ")
        if size.isdigit() and len(checksum) == 8:  # a line cut short by a crash says nothing
            try:
                noted[name] = int(size), int(checksum, 16)
            except ValueError:
                continue
    return noted


def _draw_files(root: Path, split: str, names: list[str]) -> None:
    """Draw these files and note each block, so that an interruption costs one block."""
    quiet = not sys.stderr.isatty()
    with tqdm(
        total=len(names),
        desc=f"drawing {split} faces",
        unit="face",
        disable=not names,
        mininterval=10 if quiet else 0.2,  # a log file wants few lines
    ) as bar:
        for start in range(0, len(names), _BLOCK):
            block = names[start : start + _BLOCK]
            lines = []
            for name, face in zip(block, sample_faces([int(Path(n).stem) for n in block]), strict=True):
                content = _encode(face)
                write_bytes(root / name, content)
                lines.append(f"{name} {len(content)} {zlib.crc32(content):08x}\n")
            with (root / f"{split}.record").open("a", encoding="ascii") as record:
                # The newline in front ends a line that a crash may have cut short.
                record.write("\n" + "".join(lines))
                record.flush()
                os.fsync(record.fileno())
            bar.update(len(block))


def _encode(face: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "PNG", compress_level=1)  # 8 kB; stronger saves little and is slow
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m hyperinverter.data.digiface", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="draw the faces into the cache, or check and repair it")
    prepare.add_argument("--out", type=Path, default=Path("~/.cache/hyperinverter"), help="cache folder")
    for split, count in (("train", 20_000), ("val", 512), ("test", 1_000)):
        prepare.add_argument(f"--{split}", type=int, default=count, help=f"number of {split} faces")
    options = parser.parse_args(arguments)
    try:
        print(prepare_digiface(options.out, options.train, options.val, options.test))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
