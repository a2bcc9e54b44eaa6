"""Batches of photos: what a loader asks, and where in the stream a checkpoint goes on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from hyperinverter.contracts import Batch, UserError
from hyperinverter.data.sampling import Draw, StreamSampler
from hyperinverter.data.transforms import read_pixels, to_tensor


class PhotoDataset(Dataset[Batch]):
    """Photos by number, from decoded pixels if there are any, else from their files.

    It hands out complete batches (``__getitems__``): collating photo by photo would cost more than reading.

    Args:
        root: Folder of the photos.
        names: Their paths below it.
        resolution: Side ``R`` in pixels.
        resize: Filter, see ``squares.FILTERS``.
        pixels: The same photos decoded, ``uint8 (N, R, R, 3)``.
        fit: For photos that are not square, see ``squares.FITS``.
        white: See ``transforms.read_photo``.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        resolution: int,
        resize: str = "bilinear",
        pixels: np.ndarray | None = None,
        fit: str = "crop",
        white: int | None = None,
    ) -> None:
        self.root = root
        self.names = list(names)
        self.resolution = resolution
        self.resize = resize
        self.pixels = pixels
        self.fit, self.white = fit, white

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        """Give a worker process the path of the decoded pixels instead of a copy."""
        state = dict(self.__dict__)
        if isinstance(self.pixels, np.memmap):
            state["pixels"] = (self.pixels.filename, self.pixels.shape)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["pixels"], tuple):
            path, shape = state["pixels"]
            state = {**state, "pixels": np.memmap(path, np.uint8, "r", shape=shape)}
        self.__dict__.update(state)

    def __getitem__(self, draw: Draw | int) -> Batch:
        """One photo as a batch of one."""
        return self.__getitems__([draw])

    def __getitems__(self, draws: Sequence[Draw | int]) -> Batch:
        """These photos as a batch, mirrored where their draw says so.

        Raises:
            UserError: If a file cannot be read.
        """
        plain = [draw if isinstance(draw, Draw) else Draw(draw, False) for draw in draws]
        indices = [draw.photo for draw in plain]
        if self.pixels is not None:
            pixels = self.pixels[indices]
        else:
            files = [self.root / self.names[i] for i in indices]
            how = (self.resolution, self.resize, self.fit, self.white)
            pixels = np.stack([read_pixels(file, *how) for file in files])
        mirrored = [i for i, draw in enumerate(plain) if draw.flip]
        pixels[mirrored] = pixels[mirrored, :, ::-1]
        return {"image": to_tensor(pixels), "name": [self.names[i] for i in indices]}


def as_it_is(batch: Batch) -> Batch:
    return batch


class TrainLoader(DataLoader[Batch]):
    """A DataLoader that a checkpoint can continue in the middle of an epoch, at the very next photo.

    Lightning asks for ``state_dict`` when it writes a checkpoint and gives it back before the first batch.
    """

    def __init__(self, *args: Any, batches_done: Callable[[], tuple[int, int]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batches_done = batches_done  # (epoch, batches of it that were used)

    def state_dict(self) -> dict[str, int]:
        """Place in the stream of the first photo that was not used yet."""
        sampler = self.sampler
        if not isinstance(sampler, StreamSampler):  # Trainer(overfit_batches) uses its own
            return {}
        epoch, batches = self.batches_done()
        batch = (self.batch_size or 1) * sampler.world_size
        return {"place": epoch * sampler.images_per_epoch + batches * batch, "seed": sampler.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        sampler = self.sampler
        if not state or not isinstance(sampler, StreamSampler):
            return
        if state["seed"] != sampler.seed:
            raise UserError(
                f"the checkpoint drew its photos with seed {state['seed']}, this run has {sampler.seed}; "
                f"resume with seed={state['seed']}"
            )
        sampler.resume_at(state["place"])
