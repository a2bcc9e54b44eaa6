from __future__ import annotations

import pytest
import torch
from tiny import make_generator

from hyperinverter.contracts import KernelSpec, UserError
from hyperinverter.networks.coverage import SETS, select
from hyperinverter.networks.generator import Generator


def kernels(resolution: int = 64) -> list[KernelSpec]:
    with torch.device("meta"):
        return Generator(img_resolution=resolution, channel_base=2048, channel_max=128).kernels()


def names(*include: str, resolution: int = 64) -> list[str]:
    return [spec.name for spec in select(kernels(resolution), include)]


def test_named_sets() -> None:
    assert names("convs")[:3] == ["b4.conv1.weight", "b8.conv0.weight", "b8.conv1.weight"]
    assert len(names("convs")) == 9
    assert names("torgb") == [f"b{r}.torgb.weight" for r in (4, 8, 16, 32, 64)]
    assert len(names("convs_torgb")) == 14
    assert names("all") == [spec.name for spec in kernels()]
    assert len(names("all")) == 28


def test_bands_part_the_papers_set() -> None:
    assert {name.split(".")[0] for name in names("coarse")} == {"b4", "b8"}
    assert {name.split(".")[0] for name in names("medium")} == {"b16", "b32"}
    assert {name.split(".")[0] for name in names("fine", resolution=256)} == {"b64", "b128", "b256"}
    assert names("coarse") + names("medium") + names("fine") == names("convs_torgb")


def test_patterns() -> None:
    assert names("b16.conv?.weight") == ["b16.conv0.weight", "b16.conv1.weight"]
    assert names("b16.conv0") == ["b16.conv0.weight"]
    assert names("b16.conv0.affine") == ["b16.conv0.affine.weight"]
    assert names("b8.*") == [name for name in names("all") if name.startswith("b8.")]


def test_entries_unite_in_the_generators_order() -> None:
    assert names("b64.torgb", "b4.*.weight", "b4.conv1") == names("b4.*", "b64.torgb")
    assert names("torgb", "convs") == names("convs_torgb")


def test_empty_selection_lists_what_there_is() -> None:
    with pytest.raises(
        UserError, match=r"empty; choose from convs, .*fine, or patterns for b4.conv1.weight, .*"
    ):
        select(kernels(), [])


@pytest.mark.parametrize("entry", ["conv", "b128.conv0", "B16.conv0.weight", ""])
def test_unknown_selection_lists_what_there_is(entry: str) -> None:
    with pytest.raises(UserError, match=rf"'{entry}' selects no kernel.*b64.torgb.affine.weight"):
        select(kernels(), ["convs", entry])


def test_a_band_the_generator_does_not_reach_is_not_offered() -> None:
    offer = r"'fine' selects no kernel .*; choose from convs, torgb, convs_torgb, all, coarse, medium, or"
    with pytest.raises(UserError, match=offer):
        select(make_generator(16).kernels(), ["fine"])


def test_a_single_name_is_taken_as_a_list_of_one() -> None:
    assert select(kernels(), "torgb") == select(kernels(), ["torgb"])
    assert set(SETS) == {"convs", "torgb", "convs_torgb", "all", "coarse", "medium", "fine"}
