"""Coverage: which of the generator's kernels receive residuals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from hyperinverter.contracts import KernelSpec, UserError


def _is_affine(spec: KernelSpec) -> bool:
    return ".affine." in spec.name


def _is_torgb(spec: KernelSpec) -> bool:
    return ".torgb." in spec.name and not _is_affine(spec)


def _is_conv(spec: KernelSpec) -> bool:
    return not _is_torgb(spec) and not _is_affine(spec)


def _in_band(lowest: int, highest: int | None = None) -> Callable[[KernelSpec], bool]:
    def test(spec: KernelSpec) -> bool:
        resolution = int(spec.name.split(".")[0].removeprefix("b"))
        in_band = lowest <= resolution and (highest is None or resolution <= highest)
        return in_band and not _is_affine(spec)

    return test


SETS: dict[str, Callable[[KernelSpec], bool]] = {
    "convs": _is_conv,
    "torgb": _is_torgb,
    "convs_torgb": lambda spec: not _is_affine(spec),  # the paper's
    "all": lambda spec: True,  # with the affine layers that turn w into styles
    # Bands of block resolution, convolutions and torgb; as layers of W are usually called.
    "coarse": _in_band(4, 8),
    "medium": _in_band(16, 32),
    "fine": _in_band(64),
}


def select(kernels: Sequence[KernelSpec], include: Iterable[str]) -> list[KernelSpec]:
    """Choose kernels by named sets and name patterns; the union of all, in the generator's order.

    Args:
        kernels: What ``generator.kernels()`` offers.
        include: Each a name of ``SETS`` ("convs", "torgb", "convs_torgb", "all", "coarse" = 4 and 8 pixels,
            "medium" = 16 and 32, "fine" = 64 and up) or a shell pattern for whole kernel names, such as
            "b16.conv?.weight" or "b*.torgb.*"; a trailing ".weight" may be left out.

    Returns:
        At least one kernel.

    Raises:
        UserError: If ``include`` is empty or one of its entries selects nothing; lists the names there are.
    """
    entries = [include] if isinstance(include, str) else list(include)
    if not entries:
        raise UserError(f"coverage.include is empty; choose from {_offer(kernels)}")
    chosen: set[str] = set()
    for entry in entries:
        names = {spec.name for spec in kernels if _matches(spec, entry)}
        if not names:
            raise UserError(
                f"coverage {entry!r} selects no kernel of this generator; choose from {_offer(kernels)}"
            )
        chosen |= names
    return [spec for spec in kernels if spec.name in chosen]


def _matches(spec: KernelSpec, entry: str) -> bool:
    if entry in SETS:
        return SETS[entry](spec)
    return fnmatchcase(spec.name, entry) or fnmatchcase(spec.name.removesuffix(".weight"), entry)


def _offer(kernels: Sequence[KernelSpec]) -> str:
    sets = [name for name, test in SETS.items() if any(map(test, kernels))]
    return f"{', '.join(sets)}, or patterns for {', '.join(spec.name for spec in kernels)}"
