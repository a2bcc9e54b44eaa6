"""The order of photos: an endless shuffled stream for training, every photo once for validation and test."""

import itertools
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DistributedSampler


class Draw(NamedTuple):
    """One place of the training stream."""

    photo: int  # its number
    flip: bool  # mirrored left to right


class StreamSampler(DistributedSampler):
    """An endless stream of shuffled passes over the photos, cut into epochs of a given length.

    Place ``x`` of the stream is a pure function of ``(seed, x)``: photo and flip. Rank ``r`` of ``W``
    takes places ``r, r + W, ...``, so the photos of a step do not depend on the number of processes, and
    the length of an epoch need not fit the number of photos.

    It is a ``DistributedSampler`` so that Lightning does not replace it, whatever
    ``Trainer(use_distributed_sampler)`` is.

    Args:
        photos: Anything with a length, the number of photos.
        images_per_epoch: Places per epoch, over all ranks; a multiple of ``world_size``.
        seed: Of the order and the flips.
        flip: Whether photos are mirrored, each with probability 1/2.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(  # the base class would need a Dataset and pad it
        self, photos: Sized, images_per_epoch: int, seed: int, flip: bool, rank: int, world_size: int
    ) -> None:
        if len(photos) == 0 or images_per_epoch <= 0 or images_per_epoch % world_size:
            raise ValueError(
                f"need photos and an epoch that {world_size} processes share evenly, "
                f"got {len(photos)} photos and {images_per_epoch} images per epoch"
            )
        self.num_photos = len(photos)
        self.images_per_epoch = images_per_epoch
        self.seed = seed
        self.flip = flip
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._resume_at: int | None = None

    def __len__(self) -> int:
        return self.images_per_epoch // self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def resume_at(self, place: int) -> None:
        """Let the next iteration start at this place of the stream and end at the end of its epoch."""
        self._resume_at = place

    def __iter__(self) -> Iterator[Draw]:
        start = self.epoch * self.images_per_epoch
        end = start + self.images_per_epoch
        if self._resume_at is not None:
            start, self._resume_at = self._resume_at, None
            end = (start // self.images_per_epoch + 1) * self.images_per_epoch
        shuffled, order, flips = -1, np.zeros(0, np.int64), np.zeros(0, bool)
        for place in range(start + self.rank, end, self.world_size):
            shuffle, offset = divmod(place, self.num_photos)
            if shuffle != shuffled:
                random = np.random.default_rng([self.seed, shuffle])
                order, flips = random.permutation(self.num_photos), random.random(self.num_photos) < 0.5
                shuffled = shuffle
            yield Draw(int(order[offset]), self.flip and bool(flips[offset]))


class OnceSampler(DistributedSampler):
    """Every photo exactly once over all ranks, in order; no photo is repeated to make ranks equal.

    Args:
        photos: Anything with a length, the number of photos.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(self, photos: Sized, rank: int, world_size: int) -> None:
        self.indices = range(rank, len(photos), world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def set_epoch(self, epoch: int) -> None:
        """Evaluation is the same in every epoch."""

    def __iter__(self) -> Iterator[Any]:
        yield from (Draw(index, False) for index in self.indices)


def even_batch_size(num_photos: int, batch_size: int, world_size: int) -> int:
    """A batch size near ``batch_size`` with which all ranks of :class:`OnceSampler` get equally many batches.

    Ranks differ by at most one photo. If that photo were a batch of its own, one rank would wait for the others in
    collective calls that they never make.
    """
    few, more = num_photos // world_size, -(-num_photos // world_size)
    sizes = itertools.chain(range(batch_size, 0, -1), itertools.count(batch_size + 1))
    return next(size for size in sizes if -(-few // size) == -(-more // size))
