"""ImageDataModule: the built-in faces or any folder of photos, as batches."""

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from hyperinverter.contracts import Batch, UserError, shown
from hyperinverter.data.batches import PhotoDataset, TrainLoader, as_it_is
from hyperinverter.data.decoded import decode_photos
from hyperinverter.data.digiface import RESOLUTION, face_names, prepare_digiface
from hyperinverter.data.folders import SPLITS, default_record, split_folder
from hyperinverter.data.listing import check_headers
from hyperinverter.data.sampling import OnceSampler, StreamSampler, even_batch_size
from hyperinverter.data.squares import FILTERS, FITS, report_shapes

log = logging.getLogger(__name__)

BUILT_IN = "digiface"
_SHARED_MEMORY = Path("/dev/shm")
_LOADED_AHEAD = 2  # batches per worker, DataLoader's prefetch_factor
_DECODED_LIMIT = 1_000_000_000  # bytes of decoded photos kept on disk when decoded="auto"


class ImageDataModule(LightningDataModule):
    """Photos of one domain, split into train, val and test, as :class:`~hyperinverter.contracts.Batch`.

    Training batches follow a seeded endless stream (``sampling.StreamSampler``); validation and test show
    every photo exactly once over all ranks. Files are written in ``prepare_data`` only, which Lightning
    calls once per machine.

    Args:
        root: Folder of photos; ``None`` or ``"digiface"`` for the built-in faces.
        resolution: Side ``R`` of the images in pixels.
        batch_size: Training images per step, over all processes together.
        eval_batch_size: Validation and test images per step and process; ``batch_size`` if ``None``.
        num_workers: Processes that load photos; 0 is fastest for decoded photos.
        epoch_kimg: Thousands of training images in one epoch, over all processes, rounded to full steps.
        flip: Mirror training photos with probability 1/2.
        seed: Of the order and the flips.
        num_train: Most training photos to use; ``None`` uses all (20,000 of the built-in faces).
        num_val: The same for validation photos (512 built-in faces).
        num_test: The same for test photos (1,000 built-in faces).
        cache_dir: Where built-in faces, splits and decoded photos are kept.
        split: JSON file with the split of a folder, written if missing; in ``cache_dir`` if ``None``.
        val_fraction: Share of a folder for validation when it is first split.
        test_fraction: Share for testing.
        resize: Filter, see ``squares.FILTERS``.
        fit: What happens to photos that are not square, see ``squares.FITS``.
        white: The value of white in photos of more than 8 bits; None: 65535.
        decoded: Keep decoded photos on disk: ``True``, ``False`` or ``"auto"``, up to 1 GB.
        skip_unreadable: Leave out photos that cannot be read instead of stopping.

    Raises:
        UserError: If a number is out of range.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        resolution: int = RESOLUTION,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        epoch_kimg: float = 1.0,
        flip: bool = True,
        seed: int = 0,
        num_train: int | None = None,
        num_val: int | None = None,
        num_test: int | None = None,
        cache_dir: str | Path = "~/.cache/hyperinverter",
        split: str | Path | None = None,
        val_fraction: float = 0.05,
        test_fraction: float = 0.1,
        resize: str = "bilinear",
        fit: str = "crop",
        white: int | None = None,
        decoded: bool | str = "auto",
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__()
        self.root = BUILT_IN if root is None else str(root)
        if not self.root.strip():
            raise UserError("data.root= is empty; give the folder of your photos with data.root=PATH")
        self.resolution = resolution
        self.batch_size = batch_size
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.num_workers = num_workers
        self.epoch_kimg = epoch_kimg
        self.flip = flip
        self.seed = seed
        self.counts = {"train": num_train, "val": num_val, "test": num_test}
        self.cache_dir = Path(cache_dir).expanduser()
        self.split = split
        self.fractions = (val_fraction, test_fraction)
        self.resize = resize
        self.fit, self.white = fit, white
        self.decoded = decoded
        self.skip_unreadable = skip_unreadable
        self.datasets: dict[str, PhotoDataset] = {}
        self._check_arguments()

    def _check_arguments(self) -> None:
        at_least_one = {
            "domain.resolution": self.resolution,
            "batch_size": self.batch_size,
            "eval_batch_size": self.eval_batch_size,
            **{f"data.num_{split}": count for split, count in self.counts.items() if count is not None},
        }
        whole = {**at_least_one, "data.num_workers": self.num_workers, "seed": self.seed}
        for name, value in whole.items():
            least = 1 if name in at_least_one else 0
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                said = "at least 1" if least else "0 or more"
                raise UserError(f"{name}={shown(value)}: {said} is needed, as a whole number")
        numbers = {"phase.epoch_kimg": self.epoch_kimg}
        numbers |= dict(zip(("data.val_fraction", "data.test_fraction"), self.fractions, strict=True))
        for name, number in numbers.items():
            if not isinstance(number, (int, float)) or not math.isfinite(number):
                raise UserError(f"{name}={shown(number)}: a number is needed")
        if not self.epoch_kimg > 0:
            raise UserError(f"phase.epoch_kimg={self.epoch_kimg}: more than 0 is needed")
        val, test = self.fractions
        if min(val, test) < 0 or val + test >= 1:
            raise UserError(
                f"data.val_fraction={val} and data.test_fraction={test} leave nothing to train on; "
                f"choose shares whose sum is below 1"
            )
        if not isinstance(self.resize, str) or self.resize not in FILTERS:
            raise UserError(f"data.resize={self.resize!r}: choose one of {', '.join(FILTERS)}")
        if not isinstance(self.fit, str) or self.fit not in FITS:
            raise UserError(f"data.fit={self.fit!r}: choose one of {', '.join(FITS)}")
        if self.white is not None and (type(self.white) is not int or not 1 <= self.white <= 65535):
            raise UserError(f"data.white={self.white}: choose a value from 1 to 65535, such as 255 or 4095")
        if self.decoded not in (True, False, "auto"):
            raise UserError(f"data.decoded={self.decoded!r}: choose true, false or auto")

    # Files: written once per machine, then read by every process

    def prepare_data(self) -> None:
        """Draw the built-in faces or split the folder, and decode the photos once.

        Raises:
            UserError: If photos are missing or unreadable, or there is no space.
        """
        if self.datasets:
            return  # testing after training: these photos have just been checked
        if self.root == BUILT_IN:
            prepare_digiface(self.cache_dir, **self._face_counts())
        self._read_photos(first=True)

    def setup(self, stage: str | None = None) -> None:
        """Open what :meth:`prepare_data` wrote."""
        if not self.datasets:
            self._read_photos(first=False)

    def _read_photos(self, *, first: bool) -> None:
        """Check and decode (``first``), or open what was checked and decoded."""
        root, names = self._photos(report=first)
        if first and self.root != BUILT_IN:
            report_shapes(root, [name for split in SPLITS for name in names[split]], self.fit)
        decoded = self._keeps_decoded(names)
        datasets = {}
        for split in SPLITS:
            pixels = None
            if decoded:
                where = self._decoded_dir()
                found = decode_photos(
                    *(root, names[split], where, split, self.resolution, self.resize),
                    fit=self.fit,
                    white=self.white,
                    thorough=first,
                )
                kept, pixels, unreadable = found.names, found.pixels, found.unreadable
            else:
                memo = self._decoded_dir().with_name(f"headers-{split}.json")
                unreadable = check_headers(root, names[split], memo)
                kept = [name for name in names[split] if name not in unreadable]
            if unreadable:
                self._handle_unreadable(unreadable, split, len(names[split]), report=first)
            datasets[split] = PhotoDataset(
                root, kept, self.resolution, self.resize, pixels, self.fit, self.white
            )
        # The process that checked them keeps them, too: checking 100,000 files again takes seconds.
        self.datasets = datasets

    def _face_counts(self) -> dict[str, int]:
        return {f"num_{split}": count for split, count in self.counts.items() if count is not None}

    def _photos(self, *, report: bool) -> tuple[Path, dict[str, list[str]]]:
        """The folder of the photos and the names of each split."""
        if self.root == BUILT_IN:
            return self.cache_dir / "digiface" / "v1", face_names(**self._face_counts())
        record = self.split or default_record(self.cache_dir, self.root)
        val, test = self.fractions
        sides = split_folder(self.root, record, val, test, report=report)
        return Path(self.root).expanduser(), {side: sides[side][: self.counts[side]] for side in SPLITS}

    def _keeps_decoded(self, names: dict[str, list[str]]) -> bool:
        if isinstance(self.decoded, bool):
            return self.decoded
        return sum(map(len, names.values())) * self.resolution**2 * 3 <= _DECODED_LIMIT

    def _decoded_dir(self) -> Path:
        if self.root == BUILT_IN:
            return self.cache_dir / "digiface" / "v1" / "decoded"
        return default_record(self.cache_dir, self.root).parent / "decoded"

    def _handle_unreadable(
        self, unreadable: dict[str, str], split: str, num_photos: int, *, report: bool
    ) -> None:
        some = "; ".join(list(unreadable.values())[:3])
        if not self.skip_unreadable or len(unreadable) == num_photos:
            raise UserError(
                f"{len(unreadable)} of {num_photos} {split} photos cannot be read: {some}. Repair or remove "
                f"them, or leave them out with data.skip_unreadable=true"
            )
        if report:
            log.warning("%d of %d %s photos are left out: %s", len(unreadable), num_photos, split, some)

    # Batches

    def _check_shared_memory(self, batch: int) -> None:
        """Workers hand batches over in /dev/shm, and one that does not fit ends or hangs the run."""
        if not self.num_workers or not _SHARED_MEMORY.is_dir():
            return
        free = shutil.disk_usage(_SHARED_MEMORY).free
        each = batch * 3 * self.resolution**2 * 4  # float32
        needed = each * self.num_workers * _LOADED_AHEAD
        if needed > free:
            raise UserError(
                f"{_SHARED_MEMORY} has {free / 1e6:.1f} MB free, and a batch of {batch} photos takes "
                f"{each / 1e6:.1f} MB, "
                f"{_LOADED_AHEAD} for each of {self.num_workers} workers; choose data.num_workers=0, fewer workers, a "
                f"smaller phase.batch_size, or give the container more (docker run --shm-size=8g)"
            )

    @property
    def images_per_epoch(self) -> int:
        """Training images in one epoch over all processes: ``epoch_kimg`` in full steps."""
        return max(1, round(self.epoch_kimg * 1000 / self.batch_size)) * self.batch_size

    def train_dataloader(self) -> TrainLoader:
        """The endless shuffled stream, one epoch at a time."""
        photos = self.datasets["train"]
        self._check_shared_memory(-(-self.batch_size // self._world_size))
        if self.batch_size % self._world_size:
            raise UserError(
                f"a batch of {self.batch_size} photos cannot be shared evenly by {self._world_size} "
                f"processes; choose phase.batch_size as a multiple of {self._world_size}"
            )
        sampler = StreamSampler(
            photos, self.images_per_epoch, self.seed, self.flip, self._rank, self._world_size
        )
        return TrainLoader(
            photos,
            batch_size=self.batch_size // self._world_size,
            sampler=sampler,
            batches_done=self._batches_done,
            **self._loading(),
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every validation photo once."""
        return self._eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Every test photo once."""
        return self._eval_dataloader("test")

    def _eval_dataloader(self, split: str) -> DataLoader[Batch]:
        photos = self.datasets[split]
        if len(photos) < self._world_size:
            raise UserError(
                f"{len(photos)} {split} photos cannot be shared by {self._world_size} processes; add photos, "
                f"or use fewer devices with trainer.devices=N"
            )
        self._check_shared_memory(min(self.eval_batch_size, len(photos)))
        size = even_batch_size(len(photos), self.eval_batch_size, self._world_size)
        sampler = OnceSampler(photos, self._rank, self._world_size)
        return DataLoader(photos, batch_size=size, sampler=sampler, **self._loading())

    def _loading(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "collate_fn": as_it_is,
            # A loader draws a seed for its workers whenever it starts. From training's own generator, a resumed run,
            # which starts once more, would get other random numbers from then on.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _batches_done(self) -> tuple[int, int]:
        """Epoch and batches of it that were used; loaded ahead or interrupted ones do not count."""
        if not self.trainer:
            return 0, 0
        loop = self.trainer.fit_loop
        epoch: Any = loop.epoch_progress.current
        if epoch.processed == epoch.started:  # between two epochs
            return epoch.processed, 0
        batch: Any = loop.epoch_loop.batch_progress.current
        return epoch.processed, batch.processed
