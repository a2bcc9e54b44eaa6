"""Files that compare the jobs of a sweep, and copies of what is worth citing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hyperinverter.contracts import UserError, cell
from hyperinverter.runs.card import CARD, read_card
from hyperinverter.runs.compare import summary, table
from hyperinverter.runs.find import SWEEP, jobs, read_sweep
from hyperinverter.runs.panel import panel
from hyperinverter.runs.tables import markdown
from hyperinverter.system.files import write_json
from hyperinverter.system.terminal import say

if TYPE_CHECKING:
    import pandas as pd  # takes most of a second to import


def write_comparison(sweep: Path | str) -> list[Path]:
    """Write the files that compare the jobs: ``table.csv`` (per job), ``summary.csv``, ``table.md``, ``panel.png``.

    Returns:
        The files written; no picture if no finished job kept photos, or their photos differ, which is said.
    """
    folder = Path(sweep)
    ranked, every = summary(folder), table(folder)
    _plain_text(every).to_csv(folder / "table.csv", index=False)
    _plain_text(ranked).to_csv(folder / "summary.csv", index=False)
    (folder / "table.md").write_text(markdown(ranked), encoding="utf-8")
    written = [folder / "table.csv", folder / "summary.csv", folder / "table.md"]
    done = every[every.status == "finished"].job
    if any((folder / str(job) / "test_photos").is_dir() for job in done):
        try:
            written.append(panel(folder))
        except UserError as error:  # such as another data.root in every job; the tables are what counts
            say(f"no picture: {error}")
    return written


def _plain_text(frame: pd.DataFrame) -> pd.DataFrame:
    """A table whose texts no spreadsheet takes for formulas."""
    return frame.map(cell)


def publish(source: Path | str, name: str, outputs: Path | str = "outputs") -> Path:
    """Copy what is worth citing to ``outputs/published/NAME``: tables, picture, cards, and the command.

    Args:
        source: A sweep or a single run.
        name: Folder name below ``published``; an existing one is replaced.
        outputs: The outputs folder.

    Raises:
        UserError: If the name is not one folder, or the source is neither sweep nor run.
    """
    folder, target = Path(source), Path(outputs) / "published" / name
    if name in ("", ".", "..") or Path(name).name != name:
        raise UserError(f"{name!r} is not a folder name: use letters, digits and dashes")
    card = read_card(folder)
    target.mkdir(parents=True, exist_ok=True)
    if card is not None:
        kept = [folder / part for part in (CARD, "config.yaml", "metrics.csv")]
        kept += sorted((folder / "panels").glob("*.png"))[-1:]
        command = str(card.get("command", ""))
    else:
        kept = [*write_comparison(folder), folder / SWEEP]
        command = str(read_sweep(folder).get("command", ""))
        cards = {job.name: read_card(job) for job in jobs(folder)}
        write_json(target / "cards.json", cards)
    for path in kept:
        if path.is_file():
            shutil.copyfile(path, target / ("panel.png" if path.suffix == ".png" else path.name))
    published = target / "config.yaml"
    if published.is_file():  # without the folders of this machine
        text = published.read_text(encoding="utf-8")
        published.write_text(re.sub(r"(?m)^(\s+(?:cache|outputs):) .*$", r"\1 null", text), encoding="utf-8")
    (target / "command.txt").write_text(command + "\n", encoding="utf-8")
    return target
