from collections import Counter

import pytest

from hyperinverter.data.sampling import Draw, OnceSampler, StreamSampler, even_batch_size


def stream(
    photos: int = 10, per_epoch: int = 12, seed: int = 0, rank: int = 0, world: int = 1, flip: bool = True
) -> StreamSampler:
    return StreamSampler(range(photos), per_epoch, seed, flip, rank, world)


def epochs(sampler: StreamSampler, count: int) -> list[list[Draw]]:
    drawn = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        drawn.append(list(sampler))
    return drawn


def test_passes_are_whole_and_shuffled_whatever_the_epoch() -> None:
    places = [draw.photo for epoch in epochs(stream(), 5) for draw in epoch]
    passes = [places[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(p) == list(range(10)) for p in passes)
    assert len({tuple(p) for p in passes}) == 6
    for per_epoch in (4, 30):
        again = [d.photo for e in epochs(stream(per_epoch=per_epoch), 60 // per_epoch) for d in e]
        assert again == places


def test_an_epoch_is_the_same_every_time_it_is_asked_for() -> None:
    sampler = stream()
    first = epochs(sampler, 3)
    assert epochs(sampler, 3) == first
    assert epochs(stream(), 3) == first
    assert epochs(stream(seed=1), 3) != first


def test_half_the_photos_are_mirrored_if_asked() -> None:
    draws = list(stream(photos=1000, per_epoch=4000))
    assert 1800 < sum(draw.flip for draw in draws) < 2200
    by_photo = Counter((draw.photo, draw.flip) for draw in draws)
    assert len(by_photo) > 1500  # not always the same ones
    assert not any(draw.flip for draw in stream(photos=1000, per_epoch=4000, flip=False))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_the_stream_of_one_process(world: int) -> None:
    alone = epochs(stream(), 3)
    ranks = [epochs(stream(rank=rank, world=world), 3) for rank in range(world)]
    for epoch in range(3):
        assert all(len(r[epoch]) == 12 // world for r in ranks)
        mixed = [draw for step in zip(*(r[epoch] for r in ranks), strict=True) for draw in step]
        assert mixed == alone[epoch]


@pytest.mark.parametrize("world", [1, 2])
def test_resuming_inside_an_epoch_shows_the_rest_of_it(world: int) -> None:
    for rank in range(world):
        whole = epochs(stream(rank=rank, world=world), 3)
        sampler = stream(rank=rank, world=world)
        sampler.set_epoch(1)
        sampler.resume_at(12 + 4)
        assert list(sampler) == whole[1][4 // world :]
        assert list(sampler) == whole[1]  # once only
        sampler.resume_at(24)  # the end of one epoch is the beginning of the next
        assert list(sampler) == whole[2]


def test_an_epoch_that_ranks_cannot_share() -> None:
    with pytest.raises(ValueError, match="3 processes share evenly"):
        stream(per_epoch=13, world=3)
    with pytest.raises(ValueError, match="got 0 photos"):
        stream(photos=0)


@pytest.mark.parametrize(("photos", "world"), [(10, 1), (10, 3), (512, 8), (7, 7)])
def test_every_photo_once_over_all_ranks(photos: int, world: int) -> None:
    ranks = [OnceSampler(range(photos), rank, world) for rank in range(world)]
    assert sorted(draw.photo for r in ranks for draw in r) == list(range(photos))
    assert [len(list(r)) for r in ranks] == [len(r) for r in ranks]
    assert not any(draw.flip for r in ranks for draw in r)


def test_ranks_get_equally_many_batches() -> None:
    for photos in range(1, 130):
        for world in range(1, min(photos, 6) + 1):
            for batch in (1, 2, 3, 4, 8, 32):
                size = even_batch_size(photos, batch, world)
                sizes = [len(OnceSampler(range(photos), rank, world)) for rank in range(world)]
                assert len({-(-n // size) for n in sizes}) == 1, (photos, world, batch)
                if photos % world == 0 or photos // world % batch:
                    assert size == batch
