"""Every notebook runs from top to bottom on a sweep folder and shows what it promises."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore")  # the kernel runs in its own process and has its own warnings
def test_compare_sweep_runs_on_a_sweep(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP", str(sweep))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    notebook = nbformat.read(ROOT / "notebooks" / "compare_sweep.ipynb", as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if {"image/png", "image/jpeg"} & output.get("data", {}).keys()]
    tables = [
        output["data"]["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {})
    ]
    assert len(pictures) == 3  # quality against cost, curves, photos
    assert "fusion=add" in tables[0]
    assert tables[0].index("fusion=add") < tables[0].index("baseline")  # ranked: the lower l2 first


@pytest.mark.filterwarnings("ignore")
def test_inversion_tour_runs_on_the_packaged_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHOTO", raising=False)
    monkeypatch.delenv("MODEL", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    notebook = nbformat.read(ROOT / "notebooks" / "inversion_tour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 6  # both phases, features, sizes, groups, strength, edits
    text = "".join(output.get("text", "") for output in outputs)
    errors = dict(re.findall(r"(none|all) +L2 ([0-9.]+)", text))
    assert float(errors["all"]) < float(errors["none"])


def test_notebooks_are_committed_executed_and_small() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code), f"{path.name} was not executed"
        assert path.stat().st_size < 1e6


@pytest.mark.filterwarnings("ignore")
def test_method_study_runs_on_the_recorded_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVALUATED", raising=False)
    notebook = nbformat.read(ROOT / "notebooks" / "method_study.ipynb", as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if {"image/png", "image/jpeg"} & output.get("data", {}).keys()]
    texts = [
        output["data"]["text/markdown"] for output in outputs if "text/markdown" in output.get("data", {})
    ]
    assert len(pictures) == 4  # worst and best, quality against time, photo by photo, plane
    assert "| model | n | l2 |" in texts[0]
    assert "is better than" in texts[1] or "is worse than" in texts[1]
