"""Directions found without files: principal components, closed-form factors, labels, two folders of photos.

Notation: N codes, D width of w, mu their mean, S their covariance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperinverter.contracts import UserError
from hyperinverter.editing.directions import Direction, orthogonal
from hyperinverter.networks.generator import Generator

FEWEST = 10  # photos of each kind; below it a direction is the noise of its examples
WEAK_CORRELATION = 0.4
WEAK_ACCURACY = 0.65
SHRINKAGE = (
    0.3  # lambda of `fit`, the best on the built-in domain for shape and expression; 3 for colour and pose
)


def pca(codes: Tensor, count: int = 10) -> dict[str, Direction]:
    """Principal components of codes ``(N, D)`` (GANSpace, Härkönen et al. 2020), the largest first.

    Power 1 is one standard deviation. The sign, which is arbitrary, makes the largest entry positive.
    """
    centred = codes.double() - codes.double().mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(codes) - 1))  # rising
    share = values / values.sum()
    found = {}
    for index in range(min(count, len(values))):
        axis = _signed(vectors[:, -1 - index])
        sigma = values[-1 - index].clamp_min(0).sqrt()
        found[f"pc{index}"] = Direction(
            f"pc{index}",
            (sigma * axis).float(),
            unit="one standard deviation of w along it",
            about=f"principal component {index}",
            facts={"share_of_variance": round(float(share[-1 - index]), 4)},
        )
    return found


def sefa(
    generator: Generator, count: int = 10, layers: tuple[int, int] | None = None
) -> dict[str, Direction]:
    """Directions that change the styles most, from the affine weights alone (SeFa, Shen & Zhou 2021, Eq. 6).

    Every row of the affine weights is scaled to unit length, as the authors do; eigenvectors of A'A, largest first.

    Args:
        generator: Whose convolutions' affine layers are factorised.
        count: How many.
        layers: First and last style layer; the edit goes to the same layers. None: all.

    Raises:
        UserError: If there are no such layers.
    """
    first, last = layers or (0, generator.num_ws - 1)
    rows = [affine for layer, affine in _affines(generator) if first <= layer <= last]
    if not rows:
        raise UserError(f"no convolution reads the style layers {first}-{last} of 0-{generator.num_ws - 1}")
    stacked = torch.cat([affine / affine.norm(dim=1, keepdim=True) for affine in rows])  # (sum I, D)
    _, vectors = torch.linalg.eigh(stacked.T @ stacked)
    found = {}
    for index in range(min(count, vectors.shape[1])):
        direction = Direction(
            f"sefa{index}", _signed(vectors[:, -1 - index]).float(), about=f"closed-form factor {index}"
        )
        found[direction.name] = (
            direction if layers is None else direction.in_layers(first, last + 1, generator.num_ws)
        )
    return found


def _affines(generator: Generator) -> list[tuple[int, Tensor]]:
    """Style layer and affine weight ``(I, D)`` of every convolution, in float64."""
    found = []
    for k, side in enumerate(generator.config.resolutions):
        block = generator.synthesis.get_submodule(f"b{side}")
        for name, layer in (("conv0", 2 * k - 1), ("conv1", 2 * k)):
            if layer >= 0:
                found.append((layer, block.get_parameter(f"{name}.affine.weight").detach().double()))
    return found


def _signed(vector: Tensor) -> Tensor:
    return vector * torch.sign(vector[vector.abs().argmax()])


@dataclass(frozen=True)
class Fit:
    """A direction fitted to labels, and how well it does on codes it has not seen."""

    direction: Direction
    score: float  # rank correlation for numbers, balanced accuracy for two classes; both on held-out codes
    kind: str  # "rank correlation" or "balanced accuracy"

    @property
    def weak(self) -> bool:
        """Whether it explains too little to be called a direction for these labels."""
        return self.score < (WEAK_CORRELATION if self.kind == "rank correlation" else WEAK_ACCURACY)


def fit(
    name: str,
    codes: Tensor,
    labels: Tensor,
    *,
    shrinkage: float = SHRINKAGE,
    keep: Mapping[str, Direction] | None = None,
    folds: int = 5,
) -> Fit:
    """Learn the direction in which a label grows: the regularised difference of class means.

    ``(S + shrinkage mean(diag S) I)^-1 c``, with c the covariance of codes and label. At 0 it is the normal of a linear
    classifier, which barely moves a picture; for large values it is the difference of means, which moves everything
    else too. Power 1 is a step that changes the label by one standard deviation, as a linear reading predicts.

    Args:
        name: Of the direction.
        codes: Of photos, not of samples, ``(N, D)``.
        labels: A number per code, ``(N,)``; two values are two classes.
        shrinkage: Not negative.
        keep: Directions along which it must not move.
        folds: Parts for the held-out score.

    Raises:
        UserError: For too few codes, labels that are all alike, or nothing left after ``keep``.
    """
    labels = labels.double()
    classes = labels.unique()
    if len(codes) != len(labels) or not bool(labels.isfinite().all()):
        raise UserError(f"{len(codes)} codes need as many labels that are numbers, got {len(labels)}")
    fewest = min(int((labels == value).sum()) for value in classes) if len(classes) == 2 else len(codes) // 2
    if len(classes) < 2 or fewest < FEWEST:
        raise UserError(
            f"{name}: a direction needs at least {FEWEST} photos of each kind, there are {fewest}"
        )
    plain = codes.double()
    axis = _regularised(plain, labels, shrinkage)
    predicted = _held_out(plain, labels, shrinkage, folds)
    score, kind = (
        (_balanced_accuracy(predicted, labels), "balanced accuracy")
        if len(classes) == 2
        else (_rank_correlation(predicted, labels), "rank correlation")
    )
    if keep:
        if styled := [d.name for d in keep.values() if not d.shift.numel()]:
            raise UserError(f"{styled[0]} moves styles, which a direction in w cannot avoid: leave it out")
        axis = orthogonal(axis, [d.shift for d in keep.values() if d.shift.ndim == 1], name=name)
    per_step = _slope(plain @ axis, labels) * float(axis.norm()) ** 2  # label per step of `axis`
    shift = axis * (float(labels.std()) / per_step) if per_step > 0 else axis / axis.norm()
    largest = 3 * float(
        (plain - plain.mean(0)).norm(dim=1).mean()
    )  # a weak label must not ask for a step out of W
    shift = shift * min(1.0, largest / float(shift.norm()))
    facts = {"held_out": round(score, 3), "score": kind, "photos": len(labels), "shrinkage": shrinkage}
    return Fit(
        Direction(name, shift.float(), unit="one sd of the label, as fitted", facts=facts), score, kind
    )


def _held_out(codes: Tensor, labels: Tensor, shrinkage: float, folds: int) -> Tensor:
    """A score for every code, from directions that were fitted without it."""
    predicted = torch.zeros_like(labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    for part in order.tensor_split(folds):
        seen = torch.ones(len(labels), dtype=torch.bool)
        seen[part] = False
        predicted[part] = (codes[part] - codes[seen].mean(0)) @ _regularised(
            codes[seen], labels[seen], shrinkage
        )
    return predicted


def _regularised(codes: Tensor, labels: Tensor, shrinkage: float) -> Tensor:
    """Unit length, ``(D,)``."""
    centred = codes - codes.mean(0)
    covariance = centred.T @ centred / len(codes)
    ridge = shrinkage * covariance.diagonal().mean() + 1e-9 * covariance.diagonal().max()
    axis = torch.linalg.solve(
        covariance + ridge * torch.eye(len(covariance), dtype=codes.dtype),
        centred.T @ (labels - labels.mean()),
    )
    return axis / axis.norm()


def _slope(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    ranks = [values.argsort().argsort().double() for values in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def _balanced_accuracy(predicted: Tensor, labels: Tensor) -> float:
    low, high = labels.unique().tolist()
    middle = (predicted[labels == low].mean() + predicted[labels == high].mean()) / 2
    return float(
        (
            (predicted[labels == low] < middle).double().mean()
            + (predicted[labels == high] >= middle).double().mean()
        )
        / 2
    )


def from_two_groups(
    name: str,
    without: Tensor,
    with_it: Tensor,
    *,
    shrinkage: float = SHRINKAGE,
    keep: Mapping[str, Direction] | None = None,
) -> Fit:
    """``fit`` on the codes of two folders: photos without something and photos with it, ``(N, D)`` each."""
    labels = torch.cat([torch.zeros(len(without)), torch.ones(len(with_it))])
    return fit(name, torch.cat([without, with_it]), labels, shrinkage=shrinkage, keep=keep)


def side_effects(groups: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """How far two groups of photos differ in readings that nobody asked for: the area under the curve, 0.5 to 1.

    A direction from two folders also learns what else tells the folders apart (pose, light, size).
    """
    first, second = groups
    found = {}
    for name in first.keys() & second.keys():
        a, b = first[name].double(), second[name].double()
        area = float((a[:, None] < b[None]).double().mean() + 0.5 * (a[:, None] == b[None]).double().mean())
        found[name] = max(area, 1 - area)
    return found
