"""The plan of the house: which room may lean on which, checked against every import statement."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src"
EVERY = {"every room"}
RECIPES = "hyperinverter_recipes"  # a package of its own, which the wheel does not hold

# A room is a module or a folder of src/hyperinverter; it opens onto these, and onto nothing else of ours.
DOORS = {
    "contracts": set(),
    "ops": set(),
    "measures": set(),
    "system": {"contracts"},
    "pictures": {"contracts", "system"},
    "networks": {"contracts", "ops"},
    "judges": {"contracts", "ops", "networks", "checkpoints"},
    "losses": {"contracts", "ops", "judges"},
    "metrics": {"contracts", "judges"},
    "inversion": {"contracts", "ops", "networks"},
    "inverters": {"contracts", "system", "checkpoints", "inversion", "judges"},
    "editing": {"contracts", "system", "ops", "networks", "inversion", "judges", "checkpoints"},
    "evaluation": {
        "contracts",
        "measures",
        "pictures",
        "system",
        "judges",
        "metrics",
        "inversion",
        "networks",
        "editing",
    },
    "tasks": {"contracts", "ops", "networks", "inversion", "losses", "metrics"},
    "data": {"contracts", "system"},
    "alignment": {"contracts", "system", "data"},
    "config": {"contracts", "runs", "system"},
    "checkpoints": {"contracts", "system", "ops", "networks", "inversion"},
    "assets": set(),
    "assembly": {
        *("contracts", "ops", "networks", "judges", "losses", "metrics", "inversion"),
        *("tasks", "data", "checkpoints", "config", "system", "runs"),
    },
    "training": {
        *("contracts", "system", "pictures", "runs", "config", "assembly", "checkpoints"),
        *("ops", "networks", "tasks"),  # the memory estimate's, which plays a step
        *("evaluation", "inversion"),
        "data",  # the folder of photos, which is looked at before a network is built
    },
    "runs": {"contracts", "measures", "pictures", "system"},
    "commands": {
        *("contracts", "config", "checkpoints", "networks", "system", "pictures", "judges", "alignment"),
        *("ops", "inversion", "data", "editing", "evaluation", "inverters", "runs"),
    },
    "train": {"config", "training"},
    "__main__": {"commands"},
    "sweeps": {"contracts", "config", "runs", "system", "training"},
    "hyperinverter_launcher": {"sweeps"},
    "recipes": EVERY,  # commands that made what is published: nothing opens onto them
}

# Libraries that have rooms too; the others may be used anywhere.
LIBRARY_ROOMS = {
    "hydra": {"config", "sweeps", "train"},
    "omegaconf": {"config", "sweeps", "train"},
    "pytorch_lightning": {"tasks", "data.module", "training", "assembly"},
    "pandas": {"runs"},
    "matplotlib": {"recipes", "evaluation.plane"},  # and the notebooks
    "starlette": {"commands.serve", "commands.serve.app", "commands.serve.web"},
    "uvicorn": {"commands.serve", "commands.serve.server"},
    "wandb": {"training.tracking"},
    "torchmetrics": {"metrics"},
    "PIL": {
        "pictures",
        "data",
        "alignment",
        "training.panels",
        "runs",
        "recipes",
        "commands",
        "editing.animation",
        "evaluation",
        "judges.identity",
    },
    "pooch": {"checkpoints.fetch"},
    "requests": {"checkpoints.fetch"},
    "tqdm": {"data", "checkpoints.fetch", "recipes", "commands.align"},
    "facenet_pytorch": {"judges", "alignment", "recipes"},
    "hashlib": {"system.files"},
    "fcntl": {"system.files"},
}

FILES = [*sorted(SOURCES.rglob("*.py")), ROOT / "train.py"]


def module_of(path: Path) -> str:
    """``src/hyperinverter/data/module.py`` -> ``data.module``; the package itself is the empty string."""
    if path.parent == ROOT:
        return path.stem
    package, *parts = path.relative_to(SOURCES).with_suffix("").parts
    inside = ["recipes"] if package == RECIPES else []
    return ".".join([*inside, *(part for part in parts if part != "__init__")])


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def rooms() -> set[str]:
    """Every module and folder there is."""
    places = [*(SOURCES / "hyperinverter").iterdir(), *(SOURCES / "hydra_plugins").iterdir()]
    found = {p.stem for p in places if p.suffix == ".py" or (p / "__init__.py").is_file()}
    return found - {"__init__"} | {"recipes"}


def ours(name: str) -> str | None:
    """The room a full name leads to, None if it is a library's."""
    parts = name.split(".")
    if parts[0] == "hydra_plugins":
        return parts[1]
    if parts[0] == RECIPES:
        return "recipes"
    return parts[1] if parts[0] == "hyperinverter" and len(parts) > 1 else None


def test_every_room_is_in_the_plan_and_every_door_leads_to_one() -> None:
    assert rooms() == set(DOORS)
    for name, doors in DOORS.items():
        assert doors == EVERY or doors <= set(DOORS), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_doors_open_downwards(path: Path) -> None:
    module = module_of(path)
    room = module.split(".")[0]
    if not module and "hydra_plugins" not in path.parts:
        return  # the front of the package hands on names of any room, and imports them on first use
    if not module:
        module = room = "hyperinverter_launcher"
    doors = DOORS[room]
    for line, name in imported(path):
        target = ours(name)
        if target is not None and target != room and doors != EVERY:
            assert target in doors, f"{path}:{line}: {room} has no door to {target} ({name})"
        library = name.split(".")[0]
        allowed = LIBRARY_ROOMS.get(library)
        if allowed is not None:
            assert module in allowed or room in allowed, f"{path}:{line}: {library} does not live in {module}"


def test_the_plan_has_no_circles() -> None:
    left = {name: set(doors) for name, doors in DOORS.items() if doors != EVERY}
    while left:
        floor = {name for name, doors in left.items() if not doors & left.keys()}
        assert floor, f"these rooms lean on each other: {sorted(left)}"
        left = {name: doors for name, doors in left.items() if name not in floor}


def test_no_door_is_only_on_paper() -> None:
    used = {
        (module_of(path).split(".")[0] or "hyperinverter_launcher", target)
        for path in FILES
        for _, name in imported(path)
        if (target := ours(name)) is not None
    }
    planned = {(room, door) for room, doors in DOORS.items() if doors != EVERY for door in doors}
    assert planned - used <= FOR_LATER


# Doors of the plan that nobody goes through yet.
FOR_LATER = {
    ("pictures", "contracts"),
    ("losses", "contracts"),
    ("metrics", "contracts"),
    ("assembly", "ops"),
}


# The state of Lightning's loops and of the processes it starts: private, so it is read where a new release is tried.
PRIVATE = {"fit_loop", "epoch_loop", "launcher"}
READERS = {"training.checkpointing", "training.trainer", "data.module"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_private_state_of_lightning_is_read_in_three_files(path: Path) -> None:
    if module_of(path) in READERS or "pytorch_lightning" not in path.read_text(encoding="utf-8"):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Attribute) and node.attr in PRIVATE), f"{path}:{node.lineno}"


# Rooms that a typo, a table or a sweep reads: they answer before torch has loaded.
FREE_OF_TORCH = ("contracts", "measures", "pictures", "system", "runs", "config", "sweeps")


@pytest.mark.parametrize("room", FREE_OF_TORCH)
def test_these_rooms_load_without_torch(room: str) -> None:
    places = [SOURCES / "hyperinverter" / f"{room}.py", *(SOURCES / "hyperinverter" / room).rglob("*.py")]
    modules = [
        f"hyperinverter.{name}".rstrip(".") for path in places if path.exists() and (name := module_of(path))
    ]
    assert modules
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
    code += "found = {'torch', 'pandas', 'pytorch_lightning', 'wandb'} & set(sys.modules)\nassert not found, found"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def calls(path: Path) -> Iterator[ast.Call]:
    return (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_comes_from_a_file_is_executed(path: Path) -> None:
    forbidden = {
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "joblib.load",
        "torch.jit.load",
        "torch.hub.load",
    }
    for call in calls(path):
        name = ast.unparse(call.func)
        where = f"{path}:{call.lineno}"
        assert name not in forbidden | {"eval", "exec", "dill.load", "yaml.load", "os.system"}, (
            f"{where}: {name}"
        )
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("allow_pickle", "False") == "False", where
        if name == "torch.load":
            assert given.get("weights_only") == "True", f"{where}: torch.load without weights_only=True"


TEXTS = [
    path
    for pattern in ("src/**/*", "conf/**/*", "tests/**/*", "notebooks/**/*", ".ci/**/*", "[!.]*")
    for path in ROOT.glob(pattern)
    if path.suffix in {".py", ".yaml", ".yml", ".md", ".toml", ".txt", ".ipynb", ".sh", ""} and path.is_file()
]


def test_no_path_of_one_machine() -> None:
    machine = re.compile(r"(?<![\w.~$}/-])/(?:home|Users|root|work|tmp|mnt|data|scratch|private)/\w")
    assert machine.search("open('/home/someone/x')")  # it would be noticed
    assert len(TEXTS) > 100
    for path in TEXTS:
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not machine.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()[:200]}"


TARGETS = sorted(
    {
        (match, path.relative_to(ROOT).as_posix())
        for path in (ROOT / "conf").rglob("*.yaml")
        for match in re.findall(r"_target_:\s*([\w.]+)", path.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize(("target", "file"), TARGETS)
def test_every_target_can_be_imported(target: str, file: str) -> None:
    module, name = target.rsplit(".", 1)
    assert callable(getattr(importlib.import_module(module), name)), file


def test_there_are_targets() -> None:
    assert len({target for target, _ in TARGETS}) > 10


CARRIED, WHEELS = (
    64 * 2**20,
    3 * 2**20,
)  # bytes that travel to a bare machine with a GPU; of them, for gpu-wheels


def test_the_checkout_can_be_carried_to_a_bare_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git here that knows which files belong to the checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.split(b"\0")
    sizes = {
        name: path.lstat().st_size for name in map(bytes.decode, listed) if (path := ROOT / name).is_file()
    }
    largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:5]
    assert sum(sizes.values()) < CARRIED - WHEELS, largest


def test_no_two_test_files_have_one_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))  # pytest would import the first of them twice
