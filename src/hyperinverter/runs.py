"""Finished runs: find them, load one back, tabulate and picture many."""

import csv
import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperinverter import config
from hyperinverter.config.overrides import SWEEP
from hyperinverter.contracts import UserError
from hyperinverter.runcard import CARD, read_card, write_json
from hyperinverter.system.command import train_command

if TYPE_CHECKING:
    import pandas as pd

_LOWER_IS_BETTER = ("l2", "lpips", "loss", "effnet", "frechet", "fid", "kid", "seconds", "error")
_HIGHER_IS_BETTER = ("psnr", "ssim", "id_")


# One run -------------------------------------------------------------------------------------------------


def latest_finished(outputs: Path, *, domain: str, phase: int, generator: str | None = None) -> Path | None:
    """The newest run under ``outputs/runs`` that trained this phase to its full length; None if there is none.

    Args:
        outputs: Where runs write.
        domain: Its name.
        phase: 1 or 2.
        generator: Packaged name or path; runs with another one do not count. None takes all.
    """
    found = []
    for path in (outputs.expanduser() / "runs").glob(f"*/{CARD}"):
        card = read_card(path.parent) or {}
        same = card.get("domain") == domain and card.get("phase") == phase
        drawn_by = ((card.get("loaded") or {}).get("generator") or {}).get("path")
        if generator is not None and drawn_by is not None:
            same = same and Path(drawn_by).expanduser() == Path(generator).expanduser()
        if same and card.get("status") == "finished" and card.get("complete"):
            found.append((str(card.get("finished")), path.parent))
    return max(found)[1] if found else None


def load(run: Path | str) -> Any:
    """The assembled parts of a finished run, with its best weights, in evaluation mode.

    Args:
        run: The run folder.

    Returns:
        What ``assembly.build`` returns; ``.task.inverter`` is the model.

    Raises:
        UserError: If the folder is no run or its checkpoint is missing, damaged or does not fit.
    """
    import torch

    from hyperinverter import assembly

    folder = Path(run)
    card = read_card(folder)
    if card is None:
        raise UserError(f"{folder} is no run: it has no readable {CARD}")
    path = folder / str((card.get("best") or {}).get("file") or "checkpoints/best.ckpt")
    if not path.is_file():
        raise UserError(f"{folder} has no {path.name} (status: {card.get('status')}); finish the run first")
    assembled = assembly.build(config.load(folder / "config.yaml"))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        assembled.task.load_state_dict(state, strict=assembled.task.strict_loading)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # torch raises several kinds for files that are cut short, foreign or of other shape
        raise UserError(
            f"{path} does not fit the run's configuration: {str(error).splitlines()[0]}"
        ) from error
    assembled.task.eval()
    return assembled


# Many runs -----------------------------------------------------------------------------------------------


def jobs(sweep: Path | str) -> list[Path]:
    """The job folders of a sweep, in the order they were numbered.

    Raises:
        UserError: If there are none.
    """
    folder = Path(sweep)
    found = sorted(
        (p.parent for p in folder.glob(f"*/{CARD}") if p.parent.name.isdigit()), key=lambda p: int(p.name)
    )
    if not found:
        raise UserError(f"{folder} is no sweep folder: it has no numbered job with a {CARD}")
    return found


def latest_sweep(outputs: Path | str) -> Path:
    """The newest sweep under ``outputs/sweeps``.

    Raises:
        UserError: If there is none.
    """
    found = [path.parent for path in (Path(outputs) / "sweeps").glob(f"*/{SWEEP}")]
    if not found:
        raise UserError(
            f"there is no sweep under {outputs}/sweeps yet; run `{train_command()} phase=2 +sweep`"
        )
    return max(found, key=lambda path: (path / SWEEP).stat().st_mtime)


def read_sweep(sweep: Path | str) -> dict[str, Any]:
    """What ``sweep.json`` says; an empty dictionary for a folder that has none."""
    path = Path(sweep) / SWEEP
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def table(sweep: Path | str) -> "pd.DataFrame":
    """One row per job: its settings, its test numbers, and what it cost.

    Columns: ``job``, ``name``, ``status``, one per factor of the sweep, ``seed``, one per test number (without
    ``test/``), ``parameters`` (trained), ``images``, ``seconds``, ``peak_memory_mb``, ``commit``, ``error``.
    """
    import pandas as pd

    described = {int(job["num"]): job for job in read_sweep(sweep).get("jobs", [])}
    rows = []
    for folder in jobs(sweep):
        card = read_card(folder) or {}
        job = described.get(int(folder.name), {})
        row: dict[str, Any] = {
            "job": int(folder.name),
            "name": job.get("name") or card.get("name") or folder.name,
        }
        row |= {"status": card.get("status", "unknown"), **job.get("settings", {})}
        row["seed"] = card.get("seed", job.get("seed"))
        row |= {
            name.removeprefix("test/"): _number(value) for name, value in (card.get("metrics") or {}).items()
        }
        row["parameters"] = (card.get("parameters") or {}).get("trained")
        row["images"] = card.get("images_seen")
        row |= {key: card.get(key) for key in ("seconds", "peak_memory_mb", "commit", "error")}
        rows.append(row)
    frame = pd.DataFrame(rows)
    last = [
        "seed",
        *metric_names(sweep),
        "parameters",
        "images",
        "seconds",
        "peak_memory_mb",
        "commit",
        "error",
    ]
    return frame[[c for c in frame if c not in last] + [c for c in last if c in frame]]


def metric_names(sweep: Path | str) -> list[str]:
    """Names of the test numbers of a sweep's jobs, without ``test/``, the ranking one first."""
    names: dict[str, None] = {}
    for folder in jobs(sweep):
        names |= {name.removeprefix("test/"): None for name in (read_card(folder) or {}).get("metrics") or {}}
    rank = rank_by(sweep)
    return sorted(names, key=lambda name: (name != rank, name))


def rank_by(sweep: Path | str) -> str:
    """The test number that orders this sweep, without ``test/``."""
    for folder in jobs(sweep):
        name = (read_card(folder) or {}).get("rank_by")
        if name:
            return str(name).removeprefix("test/")
    return "l2"


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of a number is the better one, told by its name.

    Raises:
        UserError: For a name that says neither.
    """
    if any(part in metric for part in _HIGHER_IS_BETTER):
        return True
    if any(part in metric for part in _LOWER_IS_BETTER):
        return False
    raise UserError(f"whether more {metric} is better is unknown: rank by another number")


def summary(sweep: Path | str, by: str | None = None) -> "pd.DataFrame":
    """Best first: one row per setting, every test number as mean and, over several seeds, spread.

    Args:
        sweep: The sweep folder.
        by: The test number that orders the rows; default the sweep's own.

    Returns:
        Columns ``rank``, ``name``, the factors, ``seeds`` (how many finished), then for each number ``NUMBER`` (mean)
        and ``NUMBER_std`` (sample standard deviation, empty for one seed), ``parameters``, ``seconds``, ``failed``.
    """
    import pandas as pd

    frame, metrics = table(sweep), metric_names(sweep)
    by = (by or rank_by(sweep)).removeprefix("test/")
    if metrics and by not in metrics:
        raise UserError(f"no job measured {by}; there are: {', '.join(metrics)}")
    factors = [name for name in read_sweep(sweep).get("factors", {}) if name in frame]
    rows = []
    for name, group in frame.groupby("name", sort=False):
        done = group[group.status == "finished"]
        row: dict[str, Any] = {
            "name": name,
            **{factor: group[factor].iloc[0] for factor in factors},
            "seeds": len(done),
        }
        for metric in metrics:
            row[metric] = done[metric].mean() if len(done) else math.nan
            row[f"{metric}_std"] = done[metric].std() if len(done) > 1 else math.nan
        for cost in ("parameters", "seconds"):
            row[cost] = done[cost].mean() if len(done) else math.nan
        row["failed"] = len(group) - len(done)
        rows.append(row)
    result = pd.DataFrame(rows)
    if metrics:
        result = result.sort_values(by, ascending=not higher_is_better(by), na_position="last", kind="stable")
    result.insert(0, "rank", range(1, len(result) + 1))
    return result.reset_index(drop=True)


def curves(sweep: Path | str) -> "pd.DataFrame":
    """Every logged number of every job: ``metrics.csv`` one under another with ``job`` and ``name``."""
    import pandas as pd

    names = {int(job["num"]): job["name"] for job in read_sweep(sweep).get("jobs", [])}
    frames = []
    for folder in jobs(sweep):
        path = folder / "metrics.csv"
        if path.is_file() and path.stat().st_size:
            frame = pd.read_csv(path)
            frame.insert(0, "job", int(folder.name))
            frame.insert(
                1, "name", names.get(int(folder.name)) or (read_card(folder) or {}).get("name") or folder.name
            )
            frames.append(frame)
    if not frames:
        raise UserError(f"no job of {sweep} has a metrics.csv yet")
    return pd.concat(frames, ignore_index=True)


def panel(
    sweep: Path | str, path: Path | None = None, num_photos: int = 8, columns: Sequence[int] | None = None
) -> Path:
    """The same test photos through every job: rows are photos, columns the input, phase I, then one per job.

    Args:
        sweep: The sweep folder.
        path: Where to write the PNG; default ``panel.png`` in the sweep folder.
        num_photos: Rows.
        columns: Job numbers to show; default the first seed of every setting, best first.

    Raises:
        UserError: If no finished job kept test photos.
    """
    from PIL import Image, ImageDraw

    if columns is None:
        frame, ranked = table(sweep), list(summary(sweep).name)
        done = frame[frame.status == "finished"].drop_duplicates("name")
        columns = sorted(done.job, key=lambda job: ranked.index(done.set_index("job").name[job]))
    folders = {int(f.name): f for f in jobs(sweep) if (f / "test_photos").is_dir()}
    shown = [job for job in columns if job in folders]
    if not shown:
        raise UserError(f"no finished job of {sweep} kept test photos: panels.num_saved must be above 0")
    kept = [{p.name for p in (folders[job] / "test_photos").iterdir() if p.is_dir()} for job in shown]
    photos = sorted(set.intersection(*kept))[:num_photos]
    if not photos:
        raise UserError(f"the jobs of {sweep} were tested on different photos, so there is no common picture")
    names = {int(job["num"]): str(job["name"]) for job in read_sweep(sweep).get("jobs", [])}
    titles = ["input", "phase I", *(names.get(job, str(job)) for job in shown)]
    first = folders[shown[0]]
    cells = [(first, "photo"), (first, "w_image"), *((folders[job], "image") for job in shown)]
    size, gap, line = 96, 3, 11
    wrapped = [_wrap(title, 15) for title in titles]
    head = line * max(len(lines) for lines in wrapped) + 4
    sheet = Image.new(
        "RGB", (len(cells) * (size + gap) + gap, head + len(photos) * (size + gap) + gap), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for column, ((folder, kind), lines) in enumerate(zip(cells, wrapped, strict=True)):
        x = gap + column * (size + gap)
        for number, text in enumerate(lines):
            draw.text((x, 2 + number * line), text, fill="black")
        for row, photo in enumerate(photos):
            with Image.open(folder / "test_photos" / photo / f"{kind}.png") as picture:
                cell = picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            sheet.paste(cell, (x, head + gap + row * (size + gap)))
    target = path or Path(sweep) / "panel.png"
    sheet.save(target)
    return target


def markdown(frame: "pd.DataFrame") -> str:
    """A summary as a Markdown table; mean ± spread in one cell."""
    shown = _readable(frame)
    lines = ["| " + " | ".join(shown[0]) + " |", "|" + " --- |" * len(shown[0])]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in shown[1:]]
    return "\n".join(lines) + "\n"


def show(sweep: Path | str) -> None:
    """Print a sweep's ranking to the terminal."""
    from rich.console import Console
    from rich.table import Table

    frame = summary(sweep)
    console = Console()
    if not console.is_terminal:
        console = Console(width=190)  # a log file has no edge to fold at
    # On a narrow terminal the ranking and its first numbers stay readable; table.md has them all.
    header, *rows = [line if console.width >= 150 else line[:6] for line in _readable(frame)]
    printed = Table(title=Path(sweep).name, title_justify="left")
    for index, name in enumerate(header):
        printed.add_column(name, justify="left" if index == 1 else "right", overflow="fold")
    for row in rows:
        printed.add_row(*row)
    console.print(printed)


def finish(sweep: Path | str) -> list[Path]:
    """Write what compares the jobs: ``table.csv`` (per job), ``summary.csv``, ``table.md``, ``panel.png``.

    Returns:
        The files written; no picture if no job finished.
    """
    folder = Path(sweep)
    table(folder).to_csv(folder / "table.csv", index=False)
    ranked = summary(folder)
    ranked.to_csv(folder / "summary.csv", index=False)
    (folder / "table.md").write_text(markdown(ranked), encoding="utf-8")
    written = [folder / "table.csv", folder / "summary.csv", folder / "table.md"]
    if any((job / "test_photos").is_dir() for job in jobs(folder)):
        written.append(panel(folder))
    return written


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
        kept = [*finish(folder), folder / SWEEP]
        command = str(read_sweep(folder).get("command", ""))
        cards = {job.name: read_card(job) for job in jobs(folder)}
        write_json(target / "cards.json", cards)
    for path in kept:
        if path.is_file():
            shutil.copyfile(path, target / ("panel.png" if path.suffix == ".png" else path.name))
    published = target / "config.yaml"
    if published.is_file():  # where the cache lay on this machine is nobody's business
        text = published.read_text(encoding="utf-8")
        published.write_text(re.sub(r"(?m)^(\s+(?:cache|outputs):) .*$", r"\1 null", text), encoding="utf-8")
    (target / "command.txt").write_text(command + "\n", encoding="utf-8")
    return target


def read_metrics(run: Path | str) -> list[dict[str, str]]:
    """The rows of a run's ``metrics.csv``."""
    with (Path(run) / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _number(value: Any) -> float:
    return float(value) if value is not None else math.nan  # the card writes not-a-number as a string


def _wrap(text: str, width: int) -> list[str]:
    lines, words = [""], text.replace("=", "= ").split(" ")
    for word in words:
        joined = f"{lines[-1]} {word}".strip() if not lines[-1].endswith("=") else lines[-1] + word
        if len(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    return [line[:width] for line in lines]


def _readable(frame: "pd.DataFrame") -> list[list[str]]:
    """Header and rows as text: mean and spread in one cell, no factor columns, phase I as the last row."""
    names = [str(name) for name in frame]
    metrics = [name for name in names if f"{name}_std" in names and not name.startswith("phase1/")]
    always = ["rank", "name", "seeds", *metrics, "parameters", "seconds"]
    columns = always + (["failed"] if frame.failed.any() else [])
    rows = [columns]
    for _, row in frame.iterrows():
        cells = []
        for name in columns:
            spread = row[f"{name}_std"] if name in metrics else math.nan
            cells.append(_digits(row[name], name) + ("" if math.isnan(spread) else f" ± {spread:.2g}"))
        rows.append(cells)
    started = {name: frame[f"phase1/{name}"].mean() for name in metrics if f"phase1/{name}" in frame}
    if started:
        rows.append(["phase I" if n == "name" else _digits(started.get(n, math.nan), n) for n in columns])
    return rows


def _digits(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if value is None or math.isnan(value):
        return ""
    if name == "parameters":
        return f"{value / 1e6:.2f} M"
    if name in ("rank", "seeds", "failed", "seconds"):
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"
