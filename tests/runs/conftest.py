"""Run folders made of nothing but files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _alone(own_home: None) -> None:
    """No test reads or writes what belongs to the person who runs it."""


def write_picture(path: Path, shade: int) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (shade, 128, 255 - shade)).save(path)


@pytest.fixture
def make_job() -> Callable[..., Path]:
    """Write one job folder of a sweep as a finished run leaves it."""

    def make(sweep: Path, num: int, name: str, l2: float, *, seed: int = 0, status: str = "finished") -> Path:
        folder = sweep / str(num)
        folder.mkdir(parents=True, exist_ok=True)
        card: dict[str, Any] = {"status": status, "name": name, "seed": seed, "rank_by": "test/l2"}
        card |= {
            "phase": 2,
            "domain": "digiface",
            "parameters": {"trained": 1000 * (num + 1)},
            "images_seen": 64,
        }
        card |= {"seconds": 10.0 + num, "peak_memory_mb": 100.0, "commit": "0" * 40, "error": None}
        if status == "finished":
            card["metrics"] = {"test/l2": l2, "test/psnr": 20 - 100 * l2, "test/phase1/l2": 0.09}
            for photo in ("a", "b"):
                for shade, kind in ((10, "photo"), (90, "w_image"), (20 * num, "image")):
                    write_picture(folder / "test_photos" / photo / f"{kind}.png", shade)
        else:
            card["error"] = "it broke"
        (folder / "run.json").write_text(json.dumps(card))
        rows = "".join(f"{32 * i},0,{i},{l2 + 0.1 / i},{l2}\n" for i in (1, 2))
        (folder / "metrics.csv").write_text("images,epoch,seconds,train/loss,val/l2\n" + rows)
        return folder

    return make


@pytest.fixture
def sweep(tmp_path: Path, make_job: Callable[..., Path]) -> Path:
    """A finished sweep: three settings, the first two with two seeds, one job failed."""
    folder = tmp_path / "sweeps" / "toy"
    described = [
        ("baseline (fusion=concat)", "concat", 0, 0.05),
        ("fusion=add", "add", 0, 0.04),
        ("fusion=gated", "gated", 0, 0.01),
        ("baseline (fusion=concat)", "concat", 1, 0.07),
        ("fusion=add", "add", 1, 0.03),
    ]
    jobs = []
    for num, (name, fusion, seed, l2) in enumerate(described):
        make_job(folder, num, name, l2, seed=seed, status="failed" if fusion == "gated" else "finished")
        jobs.append({"num": num, "name": name, "seed": seed, "settings": {"fusion": fusion}})
    record = {"id": "toy", "command": "python train.py phase=2 +sweep=fusion", "design": "one_at_a_time"}
    record |= {"factors": {"fusion": ["concat", "add", "gated"]}, "jobs": jobs}
    (folder / "sweep.json").write_text(json.dumps(record))
    return folder
