import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from hyperinverter.contracts import Batch, UserError
from hyperinverter.data.folders import default_record
from hyperinverter.data.module import ImageDataModule
from hyperinverter.data.transforms import read_photo
from hyperinverter.system import terminal

# Lightning's own: what it calls in torch is on its way out, and its advice on workers is for large photos.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings(
        "ignore:The number of training batches .* is smaller than the logging interval"
    ),
]

FACES = {"num_train": 12, "num_val": 5, "num_test": 7}


def folder_module(photos: Path, tmp_path: Path, **changes: Any) -> ImageDataModule:
    arguments: dict[str, Any] = {
        "resolution": 16,
        "batch_size": 4,
        "epoch_kimg": 0.02,
        "cache_dir": tmp_path / "cache",
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        **changes,
    }
    return ImageDataModule(photos, **arguments)


def ready(module: ImageDataModule) -> ImageDataModule:
    module.prepare_data()
    module.setup()
    return module


def names(loader: Any) -> list[str]:
    return [name for batch in loader for name in batch["name"]]


class Watcher(LightningModule):
    """Learns one number and notes which photos it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[list[str], float]] = []
        self.evaluated: list[str] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append((batch["name"], batch["image"].sum().item()))
        return (batch["image"] - self.number).square().mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluated += batch["name"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: ImageDataModule, tmp_path: Path, *, resume: Path | None = None, **arguments: Any) -> Watcher:
    watcher = Watcher()
    trainer = Trainer(
        **{
            "max_epochs": 3,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": any(
                isinstance(c, ModelCheckpoint) for c in arguments.get("callbacks", [])
            ),
            "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path,
            **arguments,
        }
    )
    trainer.fit(watcher, module, ckpt_path=resume, weights_only=True)
    return watcher


# Built-in faces


def test_built_in_faces(tmp_path: Path) -> None:
    module = ready(ImageDataModule(cache_dir=tmp_path, batch_size=4, epoch_kimg=0.016, **FACES))
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].shape == (4, 3, 64, 64)
    assert batch["image"].dtype == torch.float32
    assert -1 <= batch["image"].min() < -0.3
    assert 0.3 < batch["image"].max() <= 1
    tests = list(module.test_dataloader())
    assert [len(batch["name"]) for batch in tests] == [4, 3]
    for batch in tests:
        for name, image in zip(batch["name"], batch["image"], strict=True):
            torch.testing.assert_close(image[None], read_photo(tmp_path / "digiface/v1" / name, 64))
    assert len(set(names(module.train_dataloader())) | set(names(module.val_dataloader()))) == 17


def test_nothing_is_written_before_prepare_data(photos: Path, tmp_path: Path) -> None:
    ImageDataModule(cache_dir=tmp_path / "cache")
    folder_module(photos, tmp_path)
    assert not (tmp_path / "cache").exists()


# Folders


@pytest.mark.parametrize("decoded", [True, False])
def test_photos_that_are_not_square_are_counted_at_the_start(
    decoded: bool,
    photos: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 20), "blue").save(photos / name)
    for fit in ("crop", "pad"):  # the second must not find the decoded photos of the first
        monkeypatch.setattr(terminal, "_warned", set())
        caplog.clear()
        module = ready(folder_module(photos, tmp_path, decoded=decoded, fit=fit))
        (line,) = [record.getMessage() for record in caplog.records if "square" in record.getMessage()]
        assert "photos are not square and" in line
        assert f"data.fit={fit} (of a command: --fit {fit}); there are also" in line
        side = next(side for side in module.datasets.values() if "a.png" in side.names)
        photo = side[side.names.index("a.png")]["image"]
        torch.testing.assert_close(photo, read_photo(photos / "a.png", 16, fit=fit))
        assert (photo[0, 0, 0] == (-1 if fit == "crop" else 1)).all()
    with pytest.raises(UserError, match="data.fit='stretch': choose one of crop, pad, squeeze"):
        folder_module(photos, tmp_path, fit="stretch")


@pytest.mark.parametrize("decoded", [True, False])
def test_a_folder_gives_its_photos(photos: Path, tmp_path: Path, decoded: bool) -> None:
    module = ready(folder_module(photos, tmp_path, decoded=decoded))
    sides = {
        split: names(loader)
        for split, loader in (("val", module.val_dataloader()), ("test", module.test_dataloader()))
    }
    sides["train"] = module.datasets["train"].names
    assert sorted(sum(sides.values(), start=[])) == sorted(  # noqa: RUF017
        p.relative_to(photos).as_posix() for p in photos.rglob("*.png")
    )
    for batch in module.val_dataloader():
        for name, image in zip(batch["name"], batch["image"], strict=True):
            torch.testing.assert_close(image[None], read_photo(photos / name, 16))


def test_decoded_or_not_makes_no_difference(photos: Path, tmp_path: Path) -> None:
    one, two = (ready(folder_module(photos, tmp_path, decoded=d)) for d in (True, False))
    for a, b in zip(one.train_dataloader(), two.train_dataloader(), strict=True):
        assert a["name"] == b["name"]
        assert torch.equal(a["image"], b["image"])
    assert (tmp_path / "cache").exists()


def test_workers_make_no_difference(photos: Path, tmp_path: Path) -> None:
    alone = ready(folder_module(photos, tmp_path)).train_dataloader()
    helped = ready(folder_module(photos, tmp_path, num_workers=1)).train_dataloader()
    for a, b in zip(alone, helped, strict=True):
        assert a["name"] == b["name"]
        assert torch.equal(a["image"], b["image"])


def test_flipped_photos_are_mirrored(photos: Path, tmp_path: Path) -> None:
    module = ready(folder_module(photos, tmp_path, epoch_kimg=0.1))
    plain = {n: read_photo(photos / n, 16)[0] for n in module.datasets["train"].names}
    flips = 0
    for batch in module.train_dataloader():
        for name, image in zip(batch["name"], batch["image"], strict=True):
            flipped = not torch.equal(image, plain[name])
            flips += flipped
            assert torch.equal(image, plain[name].flip(-1) if flipped else plain[name])
    assert 25 < flips < 75


def test_a_worker_gets_the_place_of_the_pixels_not_a_copy(photos: Path, tmp_path: Path) -> None:
    photos_there = ready(folder_module(photos, tmp_path)).datasets["train"]
    sent = pickle.dumps(photos_there)
    assert len(sent) < 3000 < photos_there.pixels.nbytes
    there = pickle.loads(sent)
    assert torch.equal(there.__getitems__([2, 5])["image"], photos_there.__getitems__([2, 5])["image"])
    assert there[3]["name"] == [photos_there.names[3]]


def test_counts_take_the_first_of_each_side(photos: Path, tmp_path: Path) -> None:
    whole = ready(folder_module(photos, tmp_path)).datasets
    few = ready(folder_module(photos, tmp_path, num_train=5, num_val=2, num_test=1000)).datasets
    assert few["train"].names == whole["train"].names[:5]
    assert few["val"].names == whole["val"].names[:2]
    assert few["test"].names == whole["test"].names


def test_split_can_be_kept_beside_the_run(photos: Path, tmp_path: Path) -> None:
    record = tmp_path / "mine" / "split.json"
    ready(folder_module(photos, tmp_path, split=record))
    assert record.exists()
    assert not default_record(tmp_path / "cache", photos).exists()


@pytest.mark.parametrize("decoded", [True, False])
def test_unreadable_photos_stop_the_run_or_are_left_out(
    photos: Path, tmp_path: Path, decoded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    train = ready(folder_module(photos, tmp_path / "before")).datasets["train"].names
    for name in train[:2]:
        (photos / name).write_text("no image")
    module = folder_module(photos, tmp_path, decoded=decoded)
    with pytest.raises(
        UserError, match=rf"2 of {len(train)} train photos cannot be read: .*{train[0]}.*skip_unr"
    ):
        module.prepare_data()
    with caplog.at_level(logging.WARNING):
        module = ready(folder_module(photos, tmp_path, decoded=decoded, skip_unreadable=True))
    assert module.datasets["train"].names == train[2:]
    assert caplog.text.count("train photos are left out") == 1
    assert set(names(module.train_dataloader())) <= set(train[2:])


def test_photo_that_breaks_while_training_is_named(photos: Path, tmp_path: Path) -> None:
    module = ready(folder_module(photos, tmp_path, decoded=False))
    for name in module.datasets["val"].names:
        (photos / name).unlink()
    with pytest.raises(UserError, match="no photo at"):
        names(module.val_dataloader())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: at least 1"),
        ({"num_val": 0}, r"data\.num_val=0"),
        ({"epoch_kimg": 0.0}, r"phase\.epoch_kimg=0"),
        ({"num_workers": -1}, r"data\.num_workers=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "leave nothing to train on"),
        ({"resize": "nearest"}, r"data\.resize='nearest'"),
        ({"decoded": "maybe"}, r"data\.decoded='maybe'"),
    ],
)
def test_numbers_that_make_no_sense(
    photos: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        folder_module(photos, tmp_path, **changes)


@pytest.mark.parametrize("root", ["", "  "])
def test_empty_root(root: str) -> None:
    with pytest.raises(UserError, match="data.root= is empty; give the folder"):
        ImageDataModule(root)


def test_batches_that_do_not_fit_shared_memory(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ready(folder_module(photos, tmp_path, num_workers=2))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=30_000))
    for loader in (module.train_dataloader, module.val_dataloader, module.test_dataloader):
        with pytest.raises(
            UserError, match=r"/dev/shm has 0.0 MB free, and a batch of \d+ photos takes .*num_workers=0"
        ):
            loader()
    module.num_workers = 0
    assert len(names(module.val_dataloader())) > 0


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder at .*data\.root=PATH"):
        folder_module(tmp_path / "nowhere", tmp_path).prepare_data()


# Under Lightning


def test_epoch_is_counted_in_images(photos: Path, tmp_path: Path) -> None:
    module = folder_module(photos, tmp_path, epoch_kimg=0.02, batch_size=6)
    watcher = fit(module, tmp_path)
    assert module.images_per_epoch == 18
    assert [len(n) for n, _ in watcher.seen] == [6] * 9
    assert sorted(watcher.evaluated) == sorted(module.datasets["val"].names * 3)


class Stop(Exception):
    pass


class StopAfter(Callback):
    """Ends training after some steps: at the end of the step, or in the midst of the next one."""

    def __init__(self, steps: int, midst: bool, path: Path) -> None:
        self.steps, self.midst, self.path = steps, midst, path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps and not self.midst:
            trainer.save_checkpoint(self.path)
            raise Stop

    def on_after_backward(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.steps and self.midst:
            raise Stop

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        if self.midst:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("steps", [1, 3, 5, 7, 10, 12])
@pytest.mark.parametrize("midst", [False, True])
def test_resumed_run_sees_what_the_run_that_never_stopped_sees(
    photos: Path, tmp_path: Path, steps: int, midst: bool
) -> None:
    whole = fit(folder_module(photos, tmp_path), tmp_path)
    assert len(whole.seen) == 15  # 3 epochs of 5
    stop = StopAfter(steps, midst, tmp_path / "stopped.ckpt")
    module = folder_module(photos, tmp_path)
    with pytest.raises(Stop):
        fit(module, tmp_path, callbacks=[stop])
    resumed = fit(folder_module(photos, tmp_path), tmp_path, resume=stop.path)
    assert resumed.seen == whole.seen[steps:]
    assert torch.equal(resumed.number, whole.number)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_resume_at_the_end_of_an_epoch(photos: Path, tmp_path: Path) -> None:
    whole = fit(folder_module(photos, tmp_path), tmp_path)
    saver = ModelCheckpoint(tmp_path / "ckpt", save_last=True, save_top_k=0)
    fit(folder_module(photos, tmp_path), tmp_path, max_epochs=2, callbacks=[saver])
    last = tmp_path / "ckpt" / "last.ckpt"
    resumed = fit(folder_module(photos, tmp_path), tmp_path, resume=last)
    assert resumed.seen == whole.seen[10:]


def test_resume_with_loading_ahead(photos: Path, tmp_path: Path) -> None:
    whole = fit(folder_module(photos, tmp_path), tmp_path)
    stop = StopAfter(7, False, tmp_path / "stopped.ckpt")
    with pytest.raises(Stop):
        fit(folder_module(photos, tmp_path, num_workers=1), tmp_path, callbacks=[stop])
    resumed = fit(folder_module(photos, tmp_path, num_workers=1), tmp_path, resume=stop.path)
    assert resumed.seen == whole.seen[7:]


def test_resume_with_another_seed(photos: Path, tmp_path: Path) -> None:
    stop = StopAfter(7, False, tmp_path / "stopped.ckpt")
    with pytest.raises(Stop):
        fit(folder_module(photos, tmp_path), tmp_path, callbacks=[stop])
    with pytest.raises(UserError, match=r"with seed 0, this run has 5; resume with seed=0"):
        fit(folder_module(photos, tmp_path, seed=5), tmp_path, resume=stop.path)


class Rank:
    """What the module asks of a trainer in one of several processes."""

    def __init__(self, rank: int, world: int) -> None:
        self.global_rank, self.world_size = rank, world


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_photos(photos: Path, tmp_path: Path, world: int) -> None:
    def of_rank(rank: int) -> ImageDataModule:
        module = ready(folder_module(photos, tmp_path, batch_size=6, epoch_kimg=0.024))
        module.trainer = Rank(rank, world)  # type: ignore[assignment]
        return module

    modules = [of_rank(rank) for rank in range(world)]
    alone = ready(folder_module(photos, tmp_path, batch_size=6, epoch_kimg=0.024))
    steps = [[batch["name"] for batch in module.train_dataloader()] for module in modules]
    for together, *parts in zip((b["name"] for b in alone.train_dataloader()), *steps, strict=True):
        assert sorted(together) == sorted(name for part in parts for name in part)
        assert {len(part) for part in parts} == {6 // world}
    for split in ("val", "test"):
        loaders = [getattr(module, f"{split}_dataloader")() for module in modules]
        assert len({len(loader) for loader in loaders}) == 1
        assert sorted(n for loader in loaders for n in names(loader)) == sorted(alone.datasets[split].names)


def test_more_processes_than_photos(photos: Path, tmp_path: Path) -> None:
    module = ready(folder_module(photos, tmp_path, num_val=2))
    module.trainer = Rank(0, 3)  # type: ignore[assignment]
    with pytest.raises(UserError, match="2 val photos cannot be shared by 3 processes"):
        module.val_dataloader()


def test_batch_that_processes_cannot_share(photos: Path, tmp_path: Path) -> None:
    module = ready(folder_module(photos, tmp_path, batch_size=4))
    module.trainer = Rank(0, 3)  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"4 photos cannot be shared evenly by 3 .* multiple of 3"):
        module.train_dataloader()


def test_same_seed_same_numbers(photos: Path, tmp_path: Path) -> None:
    one, two, other = (fit(folder_module(photos, tmp_path, seed=s), tmp_path) for s in (3, 3, 4))
    assert one.seen == two.seen
    assert one.seen != other.seen
    assert np.isfinite(one.number.item())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_train": 1.5}, "data.num_train=1.5: at least 1 is needed, as a whole number"),
        ({"batch_size": 2.5}, "batch_size=2.5: at least 1 is needed, as a whole number"),
        ({"num_workers": "2"}, "data.num_workers=2: 0 or more is needed, as a whole number"),
        ({"seed": True}, "seed=True: 0 or more is needed, as a whole number"),
        ({"val_fraction": float("nan")}, "data.val_fraction=nan: a number is needed"),
        ({"test_fraction": "x"}, "data.test_fraction=x: a number is needed"),
        ({"fit": []}, "choose one of crop, pad, squeeze"),
        ({"white": "x"}, "data.white=x: choose a value from 1 to 65535"),
    ],
)
def test_arguments_of_other_types_are_refused(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        ImageDataModule(tmp_path, **given)
