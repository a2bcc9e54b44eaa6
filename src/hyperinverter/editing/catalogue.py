"""Directions by name: the measured catalogue of a domain, a file, or what can be found for any generator.

directions = load("digiface")
smiling = shifted(inversion.w, [(directions["smile"], 1.0)])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperinverter.checkpoints.registry import domain_of, packaged_path
from hyperinverter.contracts import UserError, shown
from hyperinverter.editing.directions import Direction, Directions
from hyperinverter.editing.discovery import pca, sefa
from hyperinverter.editing.foreign import read_directions
from hyperinverter.editing.styles import StyleSpace
from hyperinverter.networks.generator import Generator

CATALOGUES = {"digiface": "digiface_directions"}  # name -> key of the packaged file


def load(name: str | Path, generator: Generator | None = None) -> Directions:
    """Directions by name.

    Args:
        name: A catalogue (``digiface``), a file of directions, or ``pca`` and ``sefa``, which are computed.
        generator: Whose w they move; needed for files and for what is computed, and checked for a catalogue.

    Returns:
        Name -> direction. A name that there is not is answered by a ``UserError`` with those there are.

    Raises:
        UserError: If there is no such catalogue or file, or it does not fit the generator.
    """
    return Directions(_load(name, generator))


def _load(name: str | Path, generator: Generator | None) -> Mapping[str, Direction]:
    if str(name) in CATALOGUES:
        path = packaged_path(CATALOGUES[str(name)])
        shape = (generator.w_dim, generator.num_ws) if generator is not None else (128, 10)
        return read_directions(path, w_dim=shape[0], num_ws=shape[1])
    if generator is None:
        raise UserError(
            f"directions {shown(str(name))} need a generator to fit; catalogues without one: {', '.join(CATALOGUES)}"
        )
    if str(name) == "pca":
        return pca(generator.sample_codes())
    if str(name) == "sefa":
        return sefa(generator)
    return read_directions(name, w_dim=generator.w_dim, num_ws=generator.num_ws, space=StyleSpace(generator))


def named(name: str, known: Mapping[str, Direction], generator: Generator) -> Direction:
    """A direction by its name, or a channel of StyleSpace by its place: ``s6_501`` is channel 501 of style layer 6.

    Raises:
        UserError: If there is none.
    """
    found = known.get(name) or StyleSpace(generator).named(name)
    if found is None:
        raise UserError(f"there is no direction {name[:40]!r}; there are: {', '.join(known)}")
    return found


def for_generator(generator: Generator, names: Sequence[str] = ()) -> Directions:
    """Directions for a generator: those asked for, else its catalogue, else its principal components.

    Args:
        generator: Whose w they move.
        names: Catalogues and files, see ``load``; a name that is in several of them means the direction of the last.

    Raises:
        UserError: See ``load``.
    """
    found = Directions()
    for name in names or [catalogue_of(generator) or "pca"]:
        found.update(load(name, generator))
    return found


def with_catalogue(generator: Generator, names: Sequence[str]) -> Directions:
    """``for_generator``, and what the generator's own catalogue has besides."""
    own = catalogue_of(generator)
    return for_generator(generator, [own, *names] if own and names else names)


def catalogue_of(generator: Generator) -> str:
    """The catalogue of a generator's domain, whatever file it was read from; empty if there is none."""
    domain = domain_of(generator.sha256)
    return domain if domain in CATALOGUES else ""
