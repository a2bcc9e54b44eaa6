"""The words all rooms share: a batch, a kernel that can receive a residual, an inversion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor  # seconds to import: a misspelt option should be answered before that


class Batch(TypedDict):
    """Photos as the data room delivers them."""

    image: Tensor  # (B, 3, R, R), RGB in [-1, 1]
    name: list[str]  # path below the data folder, unique in its split


@dataclass(frozen=True)
class KernelSpec:
    """One weight tensor of the synthesis network that can receive a residual."""

    name: str  # "b16.conv0.weight": parameter path inside the synthesis network
    shape: tuple[int, ...]  # (O, I, k, k) for a convolution, (O, I) for an affine layer
    style_index: int  # which feature map of FeatureEncoder speaks for it


@dataclass(frozen=True)
class Inversion:
    """What a photo becomes: a code, residuals to the generator, and both images."""

    w: Tensor  # (B, D), or W+: (B, L, D)
    # KernelSpec.name -> (B, *KernelSpec.shape), added to the weight; "b4.const" -> (B, C, 4, 4) and "b8.conv1.noise" ->
    # (B, 8, 8), added to the constant and to a layer's noise times its strength; "b8.conv1.features" -> (B, C, 8, 8),
    # added to the map that this layer gives. Empty in phase I.
    residuals: dict[str, Tensor]
    w_image: Tensor  # (B, 3, R, R), phase I
    image: Tensor  # (B, 3, R, R), phase II; the same tensor as w_image in phase I
    # Of residuals that a hypernetwork multiplied from factors, these factors (``ops.factored``): a file takes them.
    factors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The residuals of weights alone, constant and noise among them."""
        return {name: delta for name, delta in self.residuals.items() if not name.endswith(".features")}

    @property
    def features(self) -> dict[str, Tensor]:
        """The feature residuals alone: ``b8.conv1.features`` -> ``(B, C, 8, 8)``."""
        return {name: delta for name, delta in self.residuals.items() if name.endswith(".features")}

    def one(self, index: int) -> Inversion:
        """The inversion of one photo of the batch; the batch axis stays."""
        only = slice(index, index + 1)
        residuals = {name: delta[only] for name, delta in self.residuals.items()}
        return Inversion(self.w[only], residuals, self.w_image[only], self.image[only])


# Names that version 0.1 wrote into checkpoints and metrics.csv -> names of today; one that ends in a dot is a prefix.
_RENAMED = {
    "critic.": "discriminator.",
    "critic_r1": "discriminator_r1",
    "train/critic": "train/discriminator",
}
_LONGEST = 4_000  # letters of a sentence to a person


def current_name(name: str) -> str:
    """Today's name of a checkpoint's tensor or a column of metrics.csv, also for the one of version 0.1."""
    for old, new in _RENAMED.items():
        if name == old or (old.endswith(".") and name.startswith(old)):
            return new + name[len(old) :]
    return name


class UserError(Exception):
    """Something the person can fix: one sentence with the cause and the way out.

    The command line prints its message without a traceback and exits with status 1. What a sentence quotes from a
    file cannot steer the terminal or fill it: control characters are written as escapes, and it is cut.
    """

    def __str__(self) -> str:
        sentence = super().__str__()
        return printable(sentence if len(sentence) <= _LONGEST else f"{sentence[:_LONGEST]}...", keep="\t")


def shown(value: object, most: int = 80) -> str:
    """A value of a file as a sentence may show it: on one line, printable and cut; a container by its kind alone.

    Args:
        value: Anything.
        most: Letters that are kept of a text or a number.
    """
    if value is None or isinstance(value, (bool, int, float)):
        value = repr(value)
    if not isinstance(value, str):
        return f"a {type(value).__name__.strip('_')}"
    return printable(value if len(value) <= most else f"{value[:most]}... ({len(value)} letters)")


def cell(value: object) -> object:
    """A value for a table that a spreadsheet or a terminal opens: a text that neither acts on."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    if text[:1] not in ("=", "+", "-", "@"):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def printable(text: str, keep: str = "") -> str:
    """``text`` with every character that a terminal would act on written as an escape, but those in ``keep``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)
