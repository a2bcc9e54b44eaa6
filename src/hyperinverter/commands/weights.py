"""``hyperinverter weights``: fetch weight files once, checked by their SHA-256, or list them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from hyperinverter.contracts import UserError
from hyperinverter.system.terminal import put, write_line

EXAMPLE = "hyperinverter weights list"


Action = Literal["fetch", "list"]


def weights(
    action: Annotated[Action, typer.Argument(metavar="fetch|list", help="What to do.")],
    asked: Annotated[
        list[str] | None,
        typer.Argument(metavar="DOMAIN|LABEL|KEY=VALUE", help="Whose files to fetch, and overrides for all."),
    ] = None,
) -> int:
    """Fetch the weight files of a domain or label, once and checked by their SHA-256, or list every one there is.

    Nothing else in this package downloads anything. Files go to paths.cache, by default ~/.cache/hyperinverter.
    """
    return _list(asked or []) if action == "list" else _fetch(asked or [])


def _list(asked: Sequence[str]) -> int:
    """Every file with its place; overrides such as ``paths.cache=FOLDER`` say where, labels say which."""
    from hyperinverter import config
    from hyperinverter.checkpoints.registry import FETCHED, fetched_path

    names = [item for item in asked if "=" not in item]
    if unknown := [name for name in names if name not in FETCHED]:
        raise UserError(f"{unknown[0]!r} is no label; there are: {', '.join(FETCHED)}")
    cache = config.compose([item for item in asked if "=" in item]).paths.cache
    for label in names or FETCHED:
        source = FETCHED[label]
        put(f"{label:<16}{source.megabytes or '?':>5} MB  {fetched_path(label, cache)}  from {source.page}")
    return 0


def _fetch(asked: Sequence[str]) -> int:
    """Fetch the files of the labels and domains named; overrides such as ``paths.cache=FOLDER`` apply to all."""
    from hyperinverter import config
    from hyperinverter.checkpoints.fetch import fetch
    from hyperinverter.checkpoints.registry import FETCHED, fetched_path
    from hyperinverter.commands import needs  # brings torch

    overrides = [item for item in asked if "=" in item]
    names = [item for item in asked if "=" not in item]
    if not names:
        raise UserError(f"name a domain ({', '.join(needs.domains())}) or a label ({', '.join(FETCHED)})")
    by_hand = []
    for name in names:
        if name in FETCHED:
            cache, labels = config.compose(overrides).paths.cache, [name]
        elif name in needs.domains():
            cfg = needs.configuration([name, *overrides])
            required = needs.needs_of(cfg)
            cache, labels = cfg.paths.cache, [need.label for need in required if need.label is not None]
            by_hand += [need for need in required if need.label is None and need.state() != "found"]
        else:
            raise UserError(
                f"{name!r} is neither a domain ({', '.join(needs.domains())}) nor a label ({', '.join(FETCHED)})"
            )
        for label in labels:
            source, path = FETCHED[label], fetched_path(label, cache)
            write_line(f"{label}: {source.file} from {source.page}")
            fetch(source, path)
            put(f"{label}: {path}")
    for need in by_hand:
        put(f"by hand: {need.next_step()}")
    return 0
