"""Results of ``hyperinverter evaluate`` on the page: tables and pictures, found once and asked for by number."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from hyperinverter.contracts import UserError

PICTURES = ("worst_best.png", "plane.png", "panel.png")
_MOST = 50  # folders


class Gallery:
    """Folders below one folder that hold a table of an evaluation or a sweep.

    Args:
        root: Where to look; read once.

    Raises:
        UserError: If there is no such folder, or nothing in it.
    """

    def __init__(self, root: Path) -> None:
        place = root.expanduser()
        if not place.is_dir():
            raise UserError(f"there is no folder {root}; give one with results of `hyperinverter evaluate`")
        tables = sorted(place.rglob("table.csv"))[:_MOST]
        if not tables:
            raise UserError(
                f"{root} holds no table.csv; give a folder with results of `hyperinverter evaluate` or a sweep"
            )
        self.root, self.folders = place, [table.parent for table in tables]

    def listed(self) -> list[dict[str, Any]]:
        """Name, table and pictures of each folder."""
        found = []
        for index, folder in enumerate(self.folders):
            with (folder / "table.csv").open(encoding="utf-8", newline="") as lines:
                rows = [row for row, _ in zip(csv.reader(lines), range(40), strict=False)]
            keep = (
                [k for k, head in enumerate(rows[0]) if not head.endswith(("_low", "_high"))] if rows else []
            )
            found.append(
                {
                    "name": str(folder.relative_to(self.root.parent)),
                    "rows": [[row[k] if k < len(row) else "" for k in keep][:10] for row in rows],
                    "pictures": [
                        {"url": f"/api/gallery/{index}/{number}", "title": name}
                        for number, name in enumerate(PICTURES)
                        if (folder / name).is_file()
                    ],
                }
            )
        return found

    def picture(self, index: int, number: int) -> Path:
        """A picture by its place in the listing.

        Raises:
            UserError: If there is none.
        """
        if index < len(self.folders) and number < len(PICTURES):
            path = self.folders[index] / PICTURES[number]
            if path.is_file():
                return path
        raise UserError("there is no such picture")
