"""What an inversion adds to the generator's own picture moves along with that picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from hyperinverter.inversion.moving import Moving, resized
from hyperinverter.networks.generator import Generator


class Shifted:
    """A generator whose picture, and every map, is a pattern moved to the right by its code's pixels."""

    resolutions = (32, 64)

    def __init__(self) -> None:
        noise = torch.randn(1, 24, 64, 64, generator=torch.Generator().manual_seed(0))
        smooth = F.avg_pool2d(F.pad(noise, [3] * 4, mode="circular"), 7, stride=1)
        self.pattern = smooth / smooth.std()

    def _at(self, ws: Tensor) -> Tensor:
        return torch.cat([self.pattern.roll(int(w[0]), -1) for w in ws])

    def maps_to(self, ws: Tensor, name: str, residuals: Any = None) -> dict[str, Tensor]:
        fine = self._at(ws)
        return {"b32.conv1": F.avg_pool2d(fine, 2), "b64.conv1": fine}

    def __call__(self, ws: Tensor, residuals: Any = None, drawn: Any = None) -> Tensor:
        return self._at(ws)[:, :3]


@pytest.mark.parametrize("by", [4, -3])
def test_a_detail_follows_what_it_lies_on(by: int) -> None:
    synthesis = Shifted()
    detail = torch.zeros(1, 3, 64, 64)
    detail[..., 30:34, 30:34] = 1
    before = torch.zeros(1, 1)
    moving = Moving(synthesis, before, synthesis(before) + detail)  # type: ignore[arg-type]
    plain, moved, old = moving(torch.tensor([[float(by)], [0.0]]))
    assert torch.equal(plain, synthesis(torch.tensor([[float(by)], [0.0]])))
    columns = torch.arange(64.0)
    centre = [(part[0].sum(0) * columns).sum() / part[0].sum() for part in moved]
    assert [float(c) for c in centre] == pytest.approx([31.5 + by, 31.5], abs=0.4)
    assert_close(moved[1:], detail, atol=1e-5, rtol=0)
    far, new = synthesis(before)[0] - plain[0], old[0] - plain[0]
    assert new[:, 8:-8, 8:-8].square().mean() < 0.1 * far.square().mean()  # the edit made nothing new


def test_a_flow_on_another_map_moves_by_the_same_part_of_the_picture() -> None:
    flow = torch.full((1, 2, 32, 32), 1.5)
    assert_close(resized(flow, 64), torch.full((1, 2, 64, 64), 3.0))
    assert resized(flow, 32) is flow


def test_a_picture_that_does_not_change_keeps_its_detail(generator: Generator) -> None:
    w = torch.randn(2, 16)
    image = torch.randn(2, 3, generator.img_resolution, generator.img_resolution)
    plain, detail, before = Moving(generator.synthesis, w, image)(w)
    assert_close(plain + detail, image, atol=1e-5, rtol=0)
    assert_close(before, plain, atol=1e-5, rtol=0)
    one = Moving(generator.synthesis, w[:1], image[:1])(w)  # one photo, two edits
    assert one.plain.shape == (2, *image.shape[1:])
    assert_close((one.plain + one.detail)[:1], image[:1], atol=1e-5, rtol=0)


def test_maps_are_not_drawn_twice(generator: Generator) -> None:
    seen: list[str] = []
    hook = generator.synthesis.get_submodule("b8.conv1").register_forward_hook(lambda *_: seen.append("b8"))
    w = torch.randn(1, 16)
    moving = Moving(generator.synthesis, w, torch.zeros(1, 3, *[generator.img_resolution] * 2))
    moving(w)
    hook.remove()
    assert seen == ["b8", "b8"]
