from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from hyperinverter.contracts import Inversion
from hyperinverter.editing.moves import along_sphere, interpolate
from hyperinverter.networks.generator import Generator


def inversion(generator: Generator, kernels: slice = slice(None)) -> Inversion:
    """Of one photo, with residuals of some kernels."""
    w, residuals = torch.randn(1, generator.w_dim), {}
    for spec in generator.kernels()[kernels]:
        residuals[spec.name] = 0.1 * torch.randn(1, *spec.shape)
    return Inversion(w, residuals, generator.synthesis(w), generator.synthesis(w, residuals))


def test_interpolation_is_linear_in_code_and_residuals(generator: Generator) -> None:
    start, end = inversion(generator), inversion(generator)
    for t, expected in ((0.0, start), (1.0, end)):
        w, residuals = interpolate(start, end, t)
        assert_close(generator.synthesis(w, residuals), expected.image, rtol=1e-4, atol=1e-4)
    w, residuals = interpolate(start, end, 0.25)
    assert_close(w, 0.75 * start.w + 0.25 * end.w)
    for name, delta in residuals.items():
        assert_close(delta, 0.75 * start.residuals[name] + 0.25 * end.residuals[name])


@pytest.mark.parametrize("shape", [(2, 16), (2, 6, 16)])
def test_along_the_sphere_codes_turn_evenly_and_keep_their_distance(shape: tuple[int, ...]) -> None:
    centre = torch.randn(16)
    start, end = centre + torch.randn(shape), centre + 3 * torch.randn(shape)
    a, b = (start - centre).norm(dim=-1), (end - centre).norm(dim=-1)
    whole = cosine_similarity(start - centre, end - centre, dim=-1).acos()
    for t in (0.0, 0.25, 0.5, 1.0):
        w = along_sphere(start, end, t, centre)
        assert_close((w - centre).norm(dim=-1), a.lerp(b, t))
        if t:
            assert_close(cosine_similarity(start - centre, w - centre, dim=-1).acos(), t * whole)
    assert_close(along_sphere(start, end, 0.0, centre), start)
    assert_close(along_sphere(start, end, 1.0, centre), end)


def test_where_no_way_around_is_the_shortest_the_line_is_taken() -> None:
    start = torch.randn(1, 16)
    for end, centre in (
        (start, torch.zeros(16)),
        (-start, torch.zeros(16)),
        (torch.randn(1, 16), start[0]),
    ):
        assert_close(along_sphere(start, end, 0.3, centre), start.lerp(end, 0.3))


def test_inversions_of_different_coverage_do_not_mix(generator: Generator) -> None:
    start, end = inversion(generator, slice(1, 3)), inversion(generator, slice(1, 4))
    only = next(iter(end.residuals.keys() - start.residuals.keys()))
    with pytest.raises(ValueError, match=f"different coverage: only one has {only}"):
        interpolate(start, end, 0.5)


def test_inversions_of_different_models_do_not_mix(generator: Generator) -> None:
    one, other = (
        Inversion(torch.zeros(1, width), {}, torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4))
        for width in (16, 7)
    )
    with pytest.raises(ValueError, match=r"different models: w is \(1, 16\) and \(1, 7\)"):
        interpolate(one, other, 0.5)
