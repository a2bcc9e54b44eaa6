"""Every command that the documentation shows is one the project knows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hyperinverter import config

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in [ROOT / "README.md", *ROOT.glob("conf/**/README.md"), *ROOT.glob("src/**/README.md")]
    if path.is_file()
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(path: Path) -> list[list[str]]:
    """The command lines in a document's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = (shlex.split(line, comments=True) for block in blocks for line in block.splitlines())
    return [line for line in lines if line]


SHOWN = [line for path in DOCUMENTS for line in commands(path)]
TRAIN = [line[2:] for line in SHOWN if line[:2] == ["python", "train.py"] and "--cfg" not in line]
MAKE = [line[1] for line in SHOWN if line[:1] == ["make"]]


@pytest.mark.parametrize("overrides", TRAIN, ids=" ".join)
def test_train_commands_compose(overrides: list[str]) -> None:
    typed = [item for item in overrides if not re.match(r"(fusion|coverage)=.*,", item)]
    cfg = config.compose(typed)
    assert cfg.phase.number in (1, 2)


def test_readme_shows_the_three_main_commands() -> None:
    assert [] in TRAIN
    assert ["phase=2"] in TRAIN
    assert ["phase=2", "+sweep"] in TRAIN


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert MAKE
    assert set(MAKE) <= set(targets)


@pytest.mark.parametrize(
    "path",
    [*DOCUMENTS, *sorted(ROOT.glob("outputs/published/**/README.md"))],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_linked_files_exist(path: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_reference_names_every_key_of_a_run() -> None:
    reference = (ROOT / "conf" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w.]+)`", reference))
    for typed in (["phase=1"], ["phase=2"], ["data.root=photos"]):
        cfg = OmegaConf.to_container(config.compose(typed), resolve=False)
        for key in keys(cfg):
            parents = {key.rsplit(".", depth)[0] for depth in range(key.count(".") + 1)}
            assert parents & named, f"conf/README.md does not name {key}"


def keys(node: object, prefix: str = "") -> list[str]:
    """The full names of all values in a configuration; a ``_target_`` is chosen by its group."""
    if not isinstance(node, dict):
        return [prefix[:-1]]
    inside = (key for name, value in node.items() for key in keys(value, f"{prefix}{name}."))
    return [key for key in inside if not key.rpartition(".")[2].startswith("_")]


def test_the_reference_names_every_option_of_every_group() -> None:
    reference = (ROOT / "conf" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", reference))
    for path in (ROOT / "conf").rglob("*.yaml"):
        private = path.stem.startswith("_") or path.parent.name in ("phase", "conf", "local")
        assert private or path.stem in named, f"conf/README.md does not name {path.relative_to(ROOT)}"


def test_python_example_runs(tmp_path: Path) -> None:
    from PIL import Image

    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert code is not None
    photo = tmp_path / "me.jpg"
    Image.linear_gradient("L").convert("RGB").resize((80, 80)).save(photo)
    names: dict[str, object] = {}
    exec(code[1].replace('"me.jpg"', repr(str(photo))), names)  # our own text, read from this repository
    assert tuple(names["again"].shape) == (1, 3, 64, 64)  # type: ignore[attr-defined]
