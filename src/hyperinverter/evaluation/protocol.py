"""A protocol: everything that decides a score besides the model and the photos, stored with every score.

A protocol is a file of ``conf/protocol/``. Two scores can be compared if their protocols are equal, and their photos
too: ``refuse_other`` is asked wherever scores meet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hyperinverter.contracts import UserError, shown
from hyperinverter.evaluation.published import PUBLISHED
from hyperinverter.system.files import plain

_FIXED = {"range": [-1, 1], "rounding": "8 bits", "flips": False, "resize": "bilinear"}
_KEYS = {"name", "version", *_FIXED, "photo", "sets"}
_MAY_HAVE = {"published"}
_DISTANCES = ("frechet", "kernel")
_SUBSETS = ("subsets", "subset_size", "seed")  # of a kernel distance
_TOO_FEW = ("leave out", "refuse")


@dataclass(frozen=True)
class Protocol:
    """How images are compared with their photos.

    Attributes:
        name: As in ``conf/protocol``.
        version: Raised whenever a score would change.
        photo: Numbers of one photo -> their settings: ``side``, ``face``, ``sha256`` of the network.
        sets: Numbers of a set of photos -> their settings: ``distance``, ``network``, ``side``, ``least``, ``too_few``.
        published: Which rows of ``published`` stand next to the measured ones; decides no score.
    """

    name: str
    version: int
    photo: Mapping[str, Mapping[str, Any]]
    sets: Mapping[str, Mapping[str, Any]]
    published: str | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any], source: object) -> Protocol:
        """The protocol that a file describes.

        Raises:
            UserError: If it is not one, or asks for what is not built: other roundings, ranges or resizing.
        """
        unknown = sorted(str(key) for key in content.keys() - _KEYS - _MAY_HAVE)
        missing = sorted(_KEYS - content.keys())
        if unknown or missing:
            what = f"knows no {unknown[0]!r}" if unknown else f"lacks {', '.join(missing)}"
            raise UserError(f"the protocol {source} {what}; compare it with conf/protocol/digiface.yaml")
        for key, value in _FIXED.items():
            if content[key] != value:
                raise UserError(
                    f"the protocol {source} asks for {key}={shown(content[key])}; only {value} is built"
                )
        photo, sets = (
            {str(n): dict(s or {}) for n, s in (content[k] or {}).items()} for k in ("photo", "sets")
        )
        for name, settings in sets.items():
            missing = [key for key in ("network", *_SUBSETS) if key not in settings]
            if missing and (missing[0] == "network" or settings.get("distance") == "kernel"):
                raise UserError(f"in the protocol {source}, {name} lacks {missing[0]}")
            if settings.get("distance") not in _DISTANCES or settings.get("too_few") not in _TOO_FEW:
                raise UserError(
                    f"in the protocol {source}, {name} needs distance: {' or '.join(_DISTANCES)}, and too_few: "
                    f"{' or '.join(_TOO_FEW)}"
                )
        published = content.get("published")
        if published is not None and published not in PUBLISHED:
            raise UserError(
                f"the protocol {source} wants published rows of {shown(published)!r}; there are: {', '.join(PUBLISHED)}"
            )
        return cls(str(content["name"]), int(content["version"]), photo, sets, published)

    def without(self, names: Collection[str]) -> Protocol:
        """The protocol with some numbers left out.

        Raises:
            UserError: For a number that it does not have.
        """
        known = [*self.photo, *self.sets]
        for name in names:
            if name not in known:
                raise UserError(f"the protocol {self.name} has no {name!r}; it has: {', '.join(known)}")
        kept = [{n: s for n, s in part.items() if n not in names} for part in (self.photo, self.sets)]
        if not kept[0]:
            raise UserError("no number of a photo is left to measure; leave out fewer with --without")
        return replace(self, photo=kept[0], sets=kept[1])

    def plain(self) -> dict[str, Any]:
        """As it is stored next to scores."""
        described = {
            "name": self.name,
            "version": self.version,
            **_FIXED,
            "photo": self.photo,
            "sets": self.sets,
        }
        stored = plain(described)
        assert isinstance(stored, dict)
        return stored

    def refuse_other(self, stored: Mapping[str, Any], place: object) -> None:
        """Stop before scores of two protocols meet in one table.

        Args:
            stored: What ``plain`` gave when the other scores were made.
            place: Where they are.

        Raises:
            UserError: If it is another protocol, naming the first difference.
        """
        difference = first_difference(stored, self.plain())
        if difference:
            raise UserError(
                f"{place} holds scores of another protocol ({difference}), which cannot stand in one table with these; "
                "choose another folder with --out"
            )

    def check_count(self, count: int) -> list[str]:
        """Numbers of sets that so many photos are too few for and that are left out.

        Raises:
            UserError: If one of them must not be left out silently.
        """
        few = {name: s for name, s in self.sets.items() if count < int(s.get("least", 2))}
        for name, settings in few.items():
            if settings["too_few"] == "refuse":
                raise UserError(
                    f"{name} of {count} photos is mostly bias, it needs at least {settings['least']:,}: give more "
                    f"photos, or leave it out with --without {name}"
                )
        return list(few)


def first_difference(one: Any, other: Any, name: str = "") -> str:
    """Where two stored descriptions differ first, such as ``version 1 and 2``; empty if they do not."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in [*one, *(k for k in other if k not in one)]:
            if key not in one or key not in other:
                return f"{f'{name}.' if name else ''}{shown(key)} is in one of them only"
            found = first_difference(one[key], other[key], f"{f'{name}.' if name else ''}{key}")
            if found:
                return found
        return ""
    return "" if one == other else f"{name} {shown(str(one))} and {shown(str(other))}"
