"""Random changes to valid files, and the doors that files come in by: run by test_fuzz.py in a process of its own.

``python fuzzing.py FOLDER files|commands FIRST LAST`` answers one line of JSON per case. A case is a function of its
number alone.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import sys
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY = 2 << 30  # bytes a reader may have, the libraries' own included
LEGACY = Path(__file__).parents[1] / "golden" / "legacy"
PHOTOS = ("png", "jpg", "tif", "webp", "bmp", "gif", "ppm", "tga")


@dataclass(frozen=True)
class Kind:
    """A kind of file: its valid ones, what reads them, its share of the cases, and how one is changed."""

    seeds: tuple[str, ...]
    doors: tuple[str, ...]
    share: int
    change: Callable[[bytes, random.Random], bytes]


# What a change may be -----------------------------------------------------------------------------------------

_WORDS = (
    b"\xff" * 4,
    b"\x00\x00\x00\x80",
    b"\xff\xff\xff\x7f",
    b"\x00" * 8,
    b"\xff" * 8,
    b"\x00" * 7 + b"\x01",
)
_ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**30, 1.5, float("inf"), float("nan"), "", "\x1b[2J\x07", "x" * 100_000, "\u202e"),
    *(
        [],
        {},
        [[]],
        {"a": {"b": []}},
        "../../../../etc/passwd",
        "${oc.env:HOME}",
        "${phase}",
        "'",
        "a,b",
        "[",
        "{",
    ),
    *(
        "os.system",
        "torch.hub.load",
        "hydra.callbacks={x:{_target_:os.system}}",
        "-1",
        "1e999",
        "null",
        "__import__",
    ),
    *({"_target_": "os.system", "command": "id"}, ["-m", "hydra/launcher=../x"], "/dev/zero", "1" * 5000),
)


def _place(content: bytes, draw: random.Random) -> int:
    """Where to change: most often at the ends, where headers, programs and directories lie."""
    where = draw.random()
    if where < 0.4:
        return draw.randrange(min(len(content), 2_000))
    if where < 0.6:
        return len(content) - 1 - draw.randrange(min(len(content), 2_000))
    return draw.randrange(len(content))


def of_bytes(content: bytes, draw: random.Random) -> bytes:
    """Bytes changed, taken away, doubled or put in."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 4, 16])):
        if not changed:
            break
        place, count = _place(changed, draw), draw.choice([1, 2, 4, 8, 60, 1000])
        match draw.randrange(8):
            case 0:
                changed[place] ^= 1 << draw.randrange(8)
            case 1:
                changed[place] = draw.randrange(256)
            case 2:
                changed[place : place + count] = draw.randbytes(count)
            case 3:
                del changed[place : place + count]
            case 4:
                changed[place:place] = changed[place : place + count] * draw.choice([1, 2, 50])
            case 5:
                word = draw.choice(_WORDS)
                changed[place : place + len(word)] = word
            case 6:
                other = _place(changed, draw)
                changed[place : place + count] = changed[other : other + count]
            case 7 if draw.random() < 0.3:
                del changed[place:]
    return bytes(changed)


def of_program(content: bytes, draw: random.Random) -> bytes:
    """The program inside a zip file of torch changed; the archive stays valid."""
    if not content.startswith(b"PK") or draw.random() < 0.3:
        return of_bytes(content, draw)
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            held = source.read(name)
            archive.writestr(name, of_bytes(held, draw) if name.endswith((".pkl", ".npy")) else held)
    return target.getvalue()


def of_header(content: bytes, draw: random.Random) -> bytes:
    """A value in the header of a safetensors file changed; its length stays right."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    if metadata and draw.random() < 0.7:  # what we wrote there, which is JSON in turn
        key = draw.choice(sorted(metadata))
        try:
            metadata[key] = json.dumps(_replaced(json.loads(metadata[key]), draw))
        except ValueError:
            metadata[key] = str(draw.choice(_ODD))
    else:
        header = _replaced(header, draw)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def of_json(content: bytes, draw: random.Random) -> bytes:
    """A value of a JSON file changed, or its bytes."""
    if draw.random() < 0.2:
        return of_bytes(content, draw)
    if draw.random() < 0.05:
        depth = draw.choice([50, 900, 5_000, 100_000])
        return b"[" * depth + b"]" * depth
    value = json.loads(content)
    for _ in range(draw.choice([1, 1, 1, 3])):
        value = _replaced(value, draw)
    return json.dumps(value).encode()


def of_yaml(content: bytes, draw: random.Random) -> bytes:
    """A value of a configuration changed, or its bytes."""
    import yaml

    if draw.random() < 0.3:
        return of_bytes(content, draw)
    value = _replaced(yaml.safe_load(content), draw)
    return yaml.safe_dump(value, allow_unicode=draw.random() < 0.5).encode("utf-8", "surrogatepass")


def of_csv(content: bytes, draw: random.Random) -> bytes:
    """A cell of a table changed, or its bytes."""
    if draw.random() < 0.3:
        return of_bytes(content, draw)
    rows = list(csv.reader(io.StringIO(content.decode())))
    row = draw.choice(rows)
    row[draw.randrange(len(row))] = str(draw.choice(_ODD))
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def _replaced(value: Any, draw: random.Random) -> Any:
    """A value with one of the values in it replaced, doubled or taken away."""
    if not isinstance(value, (dict, list)) or not value or draw.random() < 0.1:
        return draw.choice(_ODD)
    if isinstance(value, dict):
        key = draw.choice(sorted(value))
        match draw.randrange(6):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {str(draw.choice(_ODD)): value[key]}
            case _:
                return value | {key: _replaced(value[key], draw)}
    place = draw.randrange(len(value))
    match draw.randrange(6):
        case 0:
            return value[:place] + value[place + 1 :]
        case 1:
            return value[:place] + [value[place]] * draw.choice([2, 10, 10_000]) + value[place:]
        case _:
            return [*value[:place], _replaced(value[place], draw), *value[place + 1 :]]


KINDS: dict[str, Kind] = {
    "generator of ours": Kind(("generator.safetensors",), ("generator", "discriminator"), 6, of_header),
    "model of ours": Kind(("model.safetensors",), ("model", "w encoder"), 6, of_header),
    "network pickle": Kind(
        ("two.pkl", "four.pkl", "harmful.pkl"), ("generator", "discriminator"), 12, of_bytes
    ),
    "rosinality": Kind(("new.pt", "old.pt", "harmful.pt"), ("generator", "discriminator"), 12, of_program),
    "module object": Kind(("object.pt",), ("generator",), 4, of_program),
    "authors": Kind(("encoder.pt", "hyper.pt"), ("w encoder", "w inverter", "model"), 8, of_program),
    "checkpoint": Kind(("last.ckpt",), ("model", "w encoder", "resume"), 10, of_program),
    "judge": Kind(("judge.pth", "judge_old.pth"), ("judge",), 8, of_program),
    "directions": Kind(("one.npy", "many.npz", "one.pt"), ("directions",), 5, of_program),
    "directions in styles": Kind(("layers.npz", "layers.pkl", "harmful.pkl"), ("directions",), 3, of_program),
    "lists of channels": Kind(("channels.csv",), ("directions",), 1, of_csv),
    "directions of ours": Kind(("ours.safetensors",), ("directions",), 2, of_header),
    "run card": Kind(("run.json", "harmful.json"), ("run",), 7, of_json),
    "sweep record": Kind(("sweep.json",), ("sweep",), 6, of_json),
    "configuration": Kind(("config.yaml",), ("configuration",), 6, of_yaml),
    "landmarks": Kind(("landmarks.json",), ("landmarks",), 1, of_json),
    "landmarks in a table": Kind(("landmarks.csv",), ("landmarks",), 1, of_csv),
    "split": Kind(("split.json",), ("split",), 2, of_json),
    "photo": Kind(
        (*(f"photo.{ending}" for ending in PHOTOS), "wide.png", "palette.png"), ("photo",), 6, of_bytes
    ),
}


# Valid files --------------------------------------------------------------------------------------------------


class _Harmful:
    """What executes something when Python's own reader of pickles opens it."""

    def __init__(self, folder: Path) -> None:
        self.command = f"touch {folder / 'executed'}"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def write_seeds(folder: Path) -> None:
    """Write a small valid file of every kind, and some that would do harm."""
    _write_networks(folder)
    _write_records(folder)
    _write_photos(folder)


def _write_networks(folder: Path) -> None:
    import numpy as np
    import official
    import torch

    from hyperinverter.checkpoints.generators import load_generator
    from hyperinverter.editing.directions import Direction
    from hyperinverter.editing.foreign import save_directions

    shape = official.Shape(8, 3, 4, 1, (2, 2))
    shutil.copyfile(LEGACY / "generator.safetensors", folder / "generator.safetensors")
    shutil.copyfile(LEGACY / "model_phase2.safetensors", folder / "model.safetensors")
    shutil.copyfile(LEGACY / "run_phase2" / "checkpoints" / "last.ckpt", folder / "last.ckpt")
    for name, protocol in (("two.pkl", 2), ("four.pkl", 4)):
        official.write_nvidia(folder / name, shape, protocol=protocol)
    official.write_rosinality(folder / "new.pt", shape)
    official.write_rosinality(folder / "old.pt", shape, zipped=False)
    harmful = {"G_ema": _Harmful(folder), "g_ema": {"style.1.bias": torch.ones(4), "x": _Harmful(folder)}}
    (folder / "harmful.pkl").write_bytes(pickle.dumps(harmful))
    torch.save(harmful, folder / "harmful.pt")
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Conv2d(1, 1, 1))
    torch.save({"G_ema": network, "args": {"a": 1}}, folder / "object.pt")
    # The authors' networks are large: their names with one number each, which is refused for its shape at the end.
    names = [f"encoder.{name}" for name in official.w_encoder_state("resnet34", 4)]
    torch.save({"state_dict": dict.fromkeys(names, torch.ones(1, 1)), "opts": {}}, folder / "encoder.pt")
    both = {f"{part}.{name}": torch.ones(1, 1) for part in ("w_encoder", "hypernet") for name in names}
    torch.save({"state_dict": both}, folder / "hyper.pt")
    for name, zipped in (("judge.pth", True), ("judge_old.pth", False)):
        state = {"conv1.weight": torch.ones(2, 3, 1, 1), "bn1.bias": torch.ones(2).half()}
        torch.save({"state_dict": state, "epoch": 3}, folder / name, _use_new_zipfile_serialization=zipped)
    np.save(folder / "one.npy", np.ones((1, 4), np.float32))
    np.savez(folder / "many.npz", lat_mean=np.ones((1, 4)), lat_comp=np.eye(4)[:, None], lat_stdev=np.ones(4))
    torch.save(torch.ones(1, 4), folder / "one.pt")
    widths = load_generator(LEGACY / "generator.safetensors").synthesis.styles().values()
    layers = [np.ones(width, np.float32) for width in widths]
    (folder / "layers.pkl").write_bytes(pickle.dumps(layers))
    np.savez(folder / "layers.npz", *layers)
    (folder / "channels.csv").write_text("name,layer,channel,amount\nhair,b4.conv1,0,2\nhair,0,1,-1\n")
    save_directions({"smile": Direction("smile", torch.ones(4))}, folder / "ours.safetensors", {})


def _write_records(folder: Path) -> None:
    shutil.copyfile(LEGACY / "run_phase2" / "config.yaml", folder / "config.yaml")
    card = json.loads((LEGACY / "run_phase2" / "run.json").read_text()) | {
        "status": "finished",
        "metrics": {"test/l2": 0.1, "test/ssim": "nan"},
        "best": {"score": 0.1},
    }
    (folder / "run.json").write_text(json.dumps(card))
    trap = f"+hydra.callbacks={{x:{{_target_:torch.hub.load,repo_or_dir:{folder},source:local,model:m}}}}"
    (folder / "trapmodule.py").write_text(f"open({str(folder / 'executed')!r}, 'w').close()\n")
    (folder / "hubconf.py").write_text("import trapmodule\n")
    overrides = [*card["overrides"], trap, "hydra/launcher=slurm"]
    (folder / "harmful.json").write_text(json.dumps(card | {"overrides": overrides}))
    jobs = [
        {"num": number, "name": f"fusion={name}", "seed": 0, "settings": {"fusion": name}}
        for number, name in enumerate(("add", "film"))
    ]
    typed = [
        "phase='2'",
        "-m",
        "fusion=add,film",
        "hydra.launcher.jobs=2",
        "hydra.sweeper.top_seeds=[1,2]",
    ]
    record = {"id": "x", "command": "python train.py", "typed": typed, "design": "grid", "jobs": jobs}
    (folder / "sweep.json").write_text(json.dumps(record | {"factors": {"fusion": ["add", "film"]}}))
    points = [[float(i), float(i * i % 37)] for i in range(68)]
    (folder / "landmarks.json").write_text(json.dumps({"a.png": points, "b.png": [points[:5], points[:5]]}))
    five = ",".join(str(number) for point in points[:5] for number in point)
    header = ",".join(["photo", *(f"{axis}{i}" for i in range(5) for axis in "xy")])
    (folder / "landmarks.csv").write_text(f"{header}\na.png,{five}\n")
    split = {"version": 1, "train": ["1.png", "2.png"], "val": ["3.png"], "test": ["4.png"]}
    (folder / "split.json").write_text(json.dumps(split))


def _write_photos(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    photo = Image.fromarray(pixels)
    exif = photo.getexif()
    exif[0x0112] = 6  # turned
    for ending in PHOTOS:
        more = {"exif": exif.tobytes()} if ending in ("png", "jpg", "webp") else {}
        photo.save(folder / f"photo.{ending}", **more)
    Image.fromarray(pixels[..., 0].astype(np.uint16) << 8).save(folder / "wide.png")
    photo.convert("P").save(folder / "palette.png", transparency=3)
    (folder / "photos").mkdir()
    for number in range(1, 6):
        photo.save(folder / "photos" / f"{number}.png")


# Doors --------------------------------------------------------------------------------------------------------


def doors(folder: Path) -> dict[str, Callable[[Path], Any]]:
    """Name -> what reads a file of a kind, as a command would."""
    from types import SimpleNamespace

    from hyperinverter import config
    from hyperinverter.alignment.records import read_landmarks
    from hyperinverter.checkpoints import (
        load_discriminator,
        load_generator,
        load_hyperinverter,
        load_w_encoder,
        load_w_inverter,
    )
    from hyperinverter.checkpoints.reading import read_foreign_weights
    from hyperinverter.data.folders import split_folder
    from hyperinverter.data.transforms import read_photo
    from hyperinverter.editing.foreign import read_directions
    from hyperinverter.editing.styles import StyleSpace
    from hyperinverter.training.resume import find_resume

    own = load_generator(LEGACY / "generator.safetensors")
    space = StyleSpace(own)

    def configuration(path: Path) -> None:
        cfg = config.load(path)
        config.validate(cfg)
        config.cautions(cfg)
        if config.given(cfg, "fusion._target_"):
            config.build(cfg.fusion, channels=4)
        config.build(cfg.phase.optimizer)

    def split(path: Path) -> None:
        record = path.with_name("record.json")
        shutil.copyfile(path, record)
        split_folder(folder / "photos", record, report=False)

    return {
        "generator": load_generator,
        "discriminator": load_discriminator,
        "model": lambda path: load_hyperinverter(path, own),
        "w encoder": load_w_encoder,
        "w inverter": lambda path: load_w_inverter(path, own),
        "resume": lambda path: find_resume(SimpleNamespace(resume=str(path))),  # type: ignore[arg-type]
        "judge": lambda path: read_foreign_weights(path, "id_moco", "conv1.weight"),
        "directions": lambda path: read_directions(path, w_dim=4, num_ws=4, space=space),
        "run": _open_run,
        "sweep": lambda path: _open_sweep(path, folder / "run.json"),
        "configuration": configuration,
        "landmarks": read_landmarks,
        "split": split,
        "photo": lambda path: read_photo(path, 16),
    }


def _open_run(path: Path) -> None:
    """Someone's run folder, found, resumed, and as a job of a sweep."""
    from hyperinverter import config, runs
    from hyperinverter.contracts import UserError
    from hyperinverter.training.resume import finished_score

    outputs = path.parent / "outputs"
    place = outputs / "runs" / "0"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, place / "run.json")
    runs.latest_finished(outputs, domain="digiface", phase=2, generator="x")
    runs.latest_unfinished(outputs, ["phase=2"])
    finished_score(place)
    with contextlib.suppress(UserError):  # its jobs may have measured nothing
        runs.markdown(runs.summary(place.parent))
    typed = config.normalise_overrides([f"resume={place}"])
    assert not any("callbacks" in item or "_target_:os" in item for item in typed)
    config.validate(config.compose([item for item in typed if not item.startswith("hydra.")]))


def _open_sweep(path: Path, card: Path) -> None:
    """Someone's sweep, tabulated and resumed."""
    from hyperinverter import config, runs

    place = path.parent / "sweep"
    for number in ("0", "1"):
        (place / number).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(card, place / number / "run.json")
    shutil.copyfile(path, place / "sweep.json")
    runs.markdown(runs.summary(place))
    typed = config.normalise_overrides([f"resume={place}"])
    assert not any("callbacks" in item or "setup" in item for item in typed)
    config.parse_overrides([item for item in typed if not item.startswith("-")])


# Cases --------------------------------------------------------------------------------------------------------


def answer(work: Callable[[], Any]) -> dict[str, Any]:
    """How a reader answered: outcome, sentence, seconds of the processor."""
    from hyperinverter.contracts import UserError

    begin, outcome = time.process_time(), {"outcome": "read", "sentence": ""}
    try:
        work()
    except UserError as error:
        outcome = {"outcome": "refused", "sentence": str(error)}
    except BaseException as error:  # what this looks for
        outcome = {"outcome": "failed", "sentence": f"{type(error).__name__}: {error}"[:500]}
        outcome["traceback"] = traceback.format_exc()[-3000:]
    return outcome | {"seconds": round(time.process_time() - begin, 2)}


_FORBIDDEN = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork"),
    "socket.connect",
)


def confine(executed: list[str]) -> None:
    """Limit memory, make warnings errors, and note whatever would start a program or reach the network."""
    warnings.simplefilter("error")  # a library's warning about a file is not our sentence
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    watch(executed)


def watch(executed: list[str]) -> None:
    """Note whatever would start a program or reach the network."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN) or (event == "import" and arguments[0] == "trapmodule"):
            executed.append(f"{event} {str(arguments)[:200]}")

    sys.addaudithook(hook)


def files(folder: Path, first: int, last: int, executed: list[str]) -> Iterator[dict[str, Any]]:
    """Answers to changed files."""
    readers = doors(folder)  # before the watch begins: libraries look around when they are imported
    confine(executed)
    kinds = list(KINDS.values())
    work = folder / f"work_{first}"
    for number in range(first, last):
        draw = random.Random(f"case {number}")
        kind = draw.choices(kinds, [kind.share for kind in kinds])[0]
        seed, door = draw.choice(kind.seeds), draw.choice(kind.doors)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        path = work / seed
        path.write_bytes(kind.change((folder / seed).read_bytes(), draw))
        print(f"begin {number} {seed} {door}", flush=True)
        yield {"case": number, "file": seed, "door": door} | answer(lambda: readers[door](path))  # noqa: B023


_VALUES = (
    *("1", "-1", "0", "0.5", "1e999", "nan", "inf", "null", "true", "''", "x", "[]", "{}", "[1,2]", "{a:1}"),
    *("'a b'", "${x}", "${phase.kimg}", "${oc.env:HOME}", "99999999999999999999", "[[[1]]]", "写真", "a,b"),
    *("glob(*)", "range(1,3)", "choice(1,2)", "../x", "'", '"', "a=b", "(", "???", "{_target_:os.system}"),
    *("1" * 400, "\x1b[2J", "int(x)", "str(1)", "-", "~", "{a:{b:{c:1}}}", "tag(x,1)", "torch.optim.SGD"),
)


_USUAL = (
    *(
        "seed=1",
        "phase.kimg=2",
        "loss.l2=0.5",
        "loss.lpips=0",
        "data.num_workers=0",
        "logger=csv",
        "trainer=smoke",
    ),
    *(
        "phase.optimizer.lr=1e-3",
        "phase.batch_size=4",
        "name='a b'",
        "encoder.start=random",
        "data.flip=false",
    ),
)


def command(number: int, keys: list[str]) -> list[str]:
    """A command line of real keys with odd values."""
    draw = random.Random(f"command {number}")
    typed = ["phase=2"] if draw.random() < 0.6 else []
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        if draw.random() < 0.25:
            typed.append(draw.choice(_USUAL))  # else nearly every command would be refused
            continue
        start = draw.choices(["", "+", "++", "~"], [12, 2, 1, 1])[0]
        typed.append(f"{start}{draw.choice(keys)}={draw.choice(_VALUES)}")
    return typed


def commands(first: int, last: int, executed: list[str]) -> Iterator[dict[str, Any]]:
    """Answers to odd commands."""
    from hyperinverter import config
    from hyperinverter.config.explain import all_keys

    conf = config.conf_dir()
    phase2 = all_keys(config.parse_overrides(["phase='2'"]), conf)
    keys = sorted({*all_keys([], conf), *phase2, *config.groups_of(conf)})
    confine(executed)

    def compose(typed: list[str]) -> None:
        cfg = config.compose(typed)
        config.validate(cfg)
        config.cautions(cfg)
        config.to_dict(cfg)

    for number in range(first, last):
        typed = command(number, keys)
        print(f"begin {number} {typed!r}", flush=True)
        yield {"case": number, "typed": typed} | answer(lambda: compose(typed))  # noqa: B023


def main() -> None:
    folder, what, first, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    executed: list[str] = []
    cases = files(folder, first, last, executed) if what == "files" else commands(first, last, executed)
    for found in cases:
        print(json.dumps(found | {"executed": executed}), flush=True)
        executed.clear()


if __name__ == "__main__":
    main()
