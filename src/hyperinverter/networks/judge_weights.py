"""Weight files too big to ship: what they are, where they come from, fetched on request.

The judges of the built-in domain ship with the package; those of real domains and the weights that encoders start
from do not. Nothing here downloads by itself: ``prepare_judge_weights`` is what `hyperinverter weights fetch` calls.
"""

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperinverter.contracts import UserError

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class JudgeWeights:
    """One weight file."""

    file_name: str
    url: str  # where a program gets it
    sha256: str
    page: str = ""  # where a person gets it, if that is another address
    megabytes: int | None = None  # 10^6 bytes, rounded

    def __post_init__(self) -> None:
        object.__setattr__(self, "page", self.page or self.url)


def _drive(file_name: str, identifier: str, sha256: str, megabytes: int) -> JudgeWeights:
    """A file the authors keep in a cloud folder, whose plain address answers with a page instead of the file."""
    return JudgeWeights(
        file_name,
        f"https://drive.usercontent.google.com/download?id={identifier}&export=download&confirm=t",
        sha256,
        f"https://drive.google.com/uc?id={identifier}",
        megabytes,
    )


# Addresses of the two from a cloud folder: HyperInverter:scripts/download_auxiliary_pretrained_models.py.
_IR_SE50 = _drive(
    "model_ir_se50.pth",
    "1GPge9s_Jf3Xz6d4SeIP7_dVGw907epUP",
    "a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
    175,
)

JUDGE_WEIGHTS: Mapping[str, JudgeWeights] = {
    "lpips_alex": JudgeWeights(
        "alexnet-owt-7be5be79.pth",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        megabytes=244,
    ),
    "lpips_vgg": JudgeWeights(
        "vgg16-397923af.pth",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        megabytes=553,
    ),
    "id_facenet": JudgeWeights(
        "20180402-114759-vggface2.pt",
        "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
        "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
        megabytes=112,
    ),
    "id_arcface": _IR_SE50,
    "id_moco": _drive(
        "moco_v2_800ep_pretrain.pt",
        "10NBxMthLNigYXyTJwxd_0-1qCczizBnY",
        "5e4a3fd7178a95837c0ad71c265ed5f477d271e753ba505b6b6a5e86829eeb7e",
        112,
    ),
    "start_ir_se50": _IR_SE50,  # the backbone of encoder=ir_se50 begins with it
    "start_resnet34": JudgeWeights(
        "resnet34-333f7ec4.pth",
        "https://download.pytorch.org/models/resnet34-333f7ec4.pth",
        "333f7ec4c6338da2cbed37f1fc0445f9624f1355633fa1d7eab79a91084c6cef",
        megabytes=87,
    ),
}


def fetch_command(label: str) -> str:
    """What to type to get the file of this label."""
    return f"python -m hyperinverter weights fetch {label}"


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def judge_weight_path(label: str, cache_dir: str | Path) -> Path:
    """Return where a file lies in the cache folder; it may not be there yet."""
    return Path(cache_dir).expanduser() / "judges" / JUDGE_WEIGHTS[label].file_name


def weight_state(path: Path, source: JudgeWeights) -> str:
    """Say whether a file is "found", "missing" or there with a "wrong hash"."""
    if not path.is_file():
        return "missing"
    return "found" if sha256_of(path) == source.sha256 else "wrong hash"


def prepare_judge_weights(
    labels: Iterable[str],
    cache_dir: str | Path,
    sources: Mapping[str, JudgeWeights] = JUDGE_WEIGHTS,
    timeout_seconds: float = 30.0,
) -> dict[str, Path]:
    """Make sure the files of these judges are in the cache folder, whole and unaltered.

    A file that is there with the right SHA-256 is left alone, a damaged one is fetched again. A file
    appears under its name only when it is complete, so an interrupted download leaves nothing half done.

    Args:
        labels: Labels of judges; those whose weights ship with the package are skipped.
        cache_dir: Folder to keep the files in, below ``judges/``.
        sources: What to fetch for each label.
        timeout_seconds: How long to wait for the server at each step.

    Returns:
        The path of each fetched or found file, by label.

    Raises:
        UserError: If a file cannot be fetched or arrives altered, with its address and the place to put it.
    """
    paths = {}
    for label in labels:
        if label not in sources:
            continue
        source = sources[label]
        path = Path(cache_dir).expanduser() / "judges" / source.file_name
        if not (path.is_file() and sha256_of(path) == source.sha256):
            _fetch(source, path, timeout_seconds)
        paths[label] = path
    return paths


def _fetch(source: JudgeWeights, path: Path, timeout_seconds: float) -> None:
    """Download one file beside ``path``, check it, and move it into place in one step."""
    way_out = f"download {source.page} by hand and put it at {path}"
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{source.file_name}.")
        temporary = Path(name)
        digest = hashlib.sha256()
        with (
            os.fdopen(handle, "wb") as file,
            urllib.request.urlopen(source.url, timeout=timeout_seconds) as reply,
        ):
            while chunk := reply.read(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
        if digest.hexdigest() != source.sha256:
            raise UserError(
                f"{source.url} sent a file with SHA-256 {digest.hexdigest()}, expected {source.sha256} "
                f"(a login or quota page, or a cut connection?); try again or {way_out}"
            )
        os.replace(temporary, path)
    except OSError as error:  # no network, no such page, no space left, no permission
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UserError(f"cannot fetch {source.file_name} ({reason}); {way_out}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
