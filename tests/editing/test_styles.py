"""Directions in StyleSpace: what they do to a picture, and the files that people have of them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_generator
from torch import Tensor
from torch.testing import assert_close

from hyperinverter.contracts import UserError
from hyperinverter.editing import catalogue
from hyperinverter.editing.directions import Direction
from hyperinverter.editing.foreign import pickled_arrays, read_directions, save_directions
from hyperinverter.editing.styles import PSI, StyleSpace
from hyperinverter.inversion.carrying import RULES, Rule
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.inversion.shifting import shifted, style_shifts
from hyperinverter.inversion.specification import (
    FeatureResidualsSpec,
    FeaturesSpec,
    HypernetSpec,
    ModelSpec,
    Part,
    WEncoderSpec,
    build,
)
from hyperinverter.networks.generator import Generator, GeneratorConfig


@pytest.fixture(scope="module")
def space() -> StyleSpace:
    """Of 16 pixels: 8 style layers, widths 16; each of its own number of channels would be no generator's."""
    torch.manual_seed(0)
    return StyleSpace(make_generator(widths=(16, 12, 8)))


@pytest.fixture(scope="module")
def model() -> HyperInverter:
    """A model with residuals of weights, of affine weights and of features."""
    torch.manual_seed(0)
    generator = make_generator(widths=(16, 12, 8))
    backbone = Part("TinyBackbone", {"widths": [8, 8, 8], "units": [1, 1, 1]})
    names = ("b8.conv1.weight", "b8.conv1.affine.weight", "b16.torgb.affine.weight")
    spec = ModelSpec(
        "hyperinverter",
        generator.config,
        WEncoderSpec(backbone),
        FeaturesSpec(backbone, channels=8),
        HypernetSpec(names, hidden_dim=4, extractor_channels=8),
        FeatureResidualsSpec(("b8.conv1",), width=4, scale=1.0),
    )
    return build(spec, generator, init="fan_in").eval()  # type: ignore[return-value]


def all_layers(space: StyleSpace, seed: int = 0, name: str = "all") -> Direction:
    draw = torch.Generator().manual_seed(seed)
    parts = [torch.randn(width, generator=draw) for width in space.widths.values()]
    return space.shifts(name, parts)


def test_layers_have_the_numbers_of_papers() -> None:
    with torch.device("meta"):
        styles = Generator(GeneratorConfig()).synthesis.styles()
    assert list(styles)[:5] == ["b4.conv1", "b4.torgb", "b8.conv0", "b8.conv1", "b8.torgb"]
    assert len(styles) == 26
    assert [i for i, layer in enumerate(styles) if layer.endswith("torgb")] == list(range(1, 26, 3))
    assert sum(styles.values()) == 9088


@pytest.mark.parametrize("residual", [False, True])
def test_a_shift_of_styles_is_a_shift_of_the_affine_bias(residual: bool) -> None:
    generator = make_generator(widths=(16, 12, 8)).double()
    w, moved = torch.randn(2, 16, dtype=torch.float64), all_layers(StyleSpace(generator))
    kernels = generator.kernels() if residual else []
    residuals = {k.name: 0.1 * torch.randn(2, *k.shape, dtype=torch.float64) for k in kernels}
    by_hand = copy.deepcopy(generator.synthesis)
    with torch.no_grad():
        for layer, shift in moved.styles.items():
            by_hand.get_parameter(f"{layer}.affine.bias").add_(1.5 * shift.double())
        drawn = generator.synthesis(w, residuals | style_shifts(w, [(moved, 1.5)]))
        wanted, before = by_hand(w, residuals), generator.synthesis(w, residuals)
    assert_close(drawn, wanted, rtol=0, atol=1e-9)
    assert float((wanted - before).abs().max()) > 0.1
    one = {name: delta[:1] for name, delta in residuals.items()}
    prepared = generator.synthesis.with_residuals(one | style_shifts(w[:1], [(moved, 1.5)]))
    assert_close(prepared(w[:1]).detach(), wanted[:1], rtol=0, atol=1e-6)


def test_edits_compose_and_come_back(model: HyperInverter, photos: Tensor) -> None:
    space = StyleSpace(model.generator)
    inversion = model.invert(photos)
    one, two, turn = all_layers(space), all_layers(space, 1, "other"), Direction("turn", torch.ones(16))
    assert torch.equal(model.edit(inversion, one, 0.0), inversion.image)
    assert not torch.allclose(model.edit(inversion, one, 0.3), inversion.image, atol=1e-2)
    assert_close(model.edit(inversion, [(one, 0.3), (one, -0.3)]), inversion.image, rtol=0, atol=1e-6)
    edits = [(one, 0.3), (two, -0.2), (turn, 0.5)]
    assert torch.equal(model.edit(inversion, edits), model.edit(inversion, edits[::-1]))
    each = model.edit(inversion, one, torch.tensor([0.0, 0.1, 0.2]))
    assert_close(each[1:2], model.edit(inversion.one(1), one, 0.1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("edit_strength", [1.0, 0.5])
@pytest.mark.parametrize("rule", RULES)
def test_a_prepared_photo_draws_the_same_edit(
    model: HyperInverter, photos: Tensor, rule: Rule, edit_strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "rule", rule)
    monkeypatch.setattr(model, "edit_strength", edit_strength)
    inversion = model.invert(photos[:1])
    edits = [(all_layers(StyleSpace(model.generator)), 0.2), (Direction("turn", torch.ones(16)), 0.3)]
    draw = model.prepare(inversion, 0.8)
    with torch.no_grad():
        prepared = draw(shifted(inversion.w, edits), style_shifts(inversion.w, edits))
    assert_close(prepared, model.edit(inversion, edits, strength=0.8), rtol=0, atol=1e-5)
    alone = draw(shifted(inversion.w, edits[:1]), style_shifts(inversion.w, edits[:1]))
    assert_close(alone, model.edit(inversion, *edits[0], strength=0.8), rtol=0, atol=1e-5)


def test_an_edit_of_styles_keeps_all_residuals(
    model: HyperInverter, photos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    inversion, moved = model.invert(photos), all_layers(StyleSpace(model.generator))
    whole = model.edit(inversion, moved, 0.2)
    monkeypatch.setattr(model, "edit_strength", 0.5)
    assert_close(model.edit(inversion, moved, 0.2), whole, rtol=0, atol=1e-6)


def test_deviations_are_those_of_styles_of_truncated_codes(space: StyleSpace) -> None:
    generator = space._generator
    codes = generator.w_avg + PSI * (generator.sample_codes() - generator.w_avg)
    for layer in ("b8.conv0", "b16.torgb"):
        affine = generator.synthesis.get_submodule(f"{layer}.affine")
        styles = affine(codes) / affine.bias_gain  # before torgb's gain
        assert_close(space.deviations[layer], styles.std(0).detach(), rtol=1e-3, atol=1e-5)


def test_a_channel_by_its_place(space: StyleSpace) -> None:
    found = catalogue.named("s4_3", {}, space._generator)
    assert list(found.styles) == ["b8.torgb"]
    assert found.styles["b8.torgb"].nonzero().tolist() == [[3]]
    assert_close(found.styles["b8.torgb"][3], space.deviations["b8.torgb"][3])
    with pytest.raises(UserError, match="no channel 12 in b8.torgb, number 4: it has 12"):
        space.named("s4_12")
    with pytest.raises(UserError, match="no style layer '9': 0 to 7, or b4.conv1 to b16.torgb"):
        space.named("s9_0")
    with pytest.raises(UserError, match="no direction 'smile'"):
        catalogue.named("smile", {}, space._generator)


def stored(kind: str, parts: list[np.ndarray], layers: list[str], folder: Path) -> Path:
    """Shifts of all layers in one of the layouts that people store."""
    path = folder / f"hair.{kind.partition('-')[0]}"
    if kind == "npz":
        np.savez(path, *parts)
    elif kind == "npz-names":
        np.savez(path, **dict(zip(layers, parts, strict=True)))  # type: ignore[arg-type]
    elif kind == "npy-flat":
        np.save(path, np.concatenate(parts)[None])
    elif kind == "pt-list":
        torch.save([torch.from_numpy(part)[None] for part in parts], path)
    elif kind == "pt-names":
        torch.save({layer: torch.from_numpy(part) for layer, part in zip(layers, parts, strict=True)}, path)
    else:
        path.write_bytes(pickle.dumps(parts))
    return path


@pytest.mark.parametrize("torgb", [True, False])
@pytest.mark.parametrize("kind", ["npz", "npz-names", "npy-flat", "pt-list", "pt-names", "pkl"])
def test_shifts_of_every_layer(space: StyleSpace, tmp_path: Path, kind: str, torgb: bool) -> None:
    layers = [layer for layer in space.widths if torgb or not layer.endswith("torgb")]
    parts = [np.random.default_rng(i).normal(size=space.widths[layer]) for i, layer in enumerate(layers)]
    parts[1][:] = 0
    path = stored(kind, parts, layers, tmp_path)
    found = read_directions(path, w_dim=16, num_ws=6, space=space)["hair"]
    assert list(found.styles) == [layer for layer in layers if layer != layers[1]]
    for layer, part in zip(layers, parts, strict=True):
        assert_close(found.styles.get(layer, torch.zeros(len(part))), torch.from_numpy(part).float())
    with pytest.raises(UserError, match="give the generator|has width (100|64)"):
        read_directions(path, w_dim=16, num_ws=6)


def test_lists_of_channels(space: StyleSpace, tmp_path: Path) -> None:
    path = tmp_path / "channels.csv"
    path.write_text("name,layer,channel,amount\nhair,2,5,-2\nhair,b8.conv1,1,\nlips,7,0,1\n")
    found = read_directions(path, w_dim=16, num_ws=6, space=space)
    assert list(found) == ["hair", "lips"]
    assert_close(found["hair"].styles["b8.conv0"][5], -2 * space.deviations["b8.conv0"][5])
    assert_close(found["hair"].styles["b8.conv1"][1], space.deviations["b8.conv1"][1])
    path.write_text("name,layer,channel,step\nhair,2,5,3\n")
    found = read_directions(path, w_dim=16, num_ws=6, space=space)
    assert float(found["hair"].styles["b8.conv0"][5]) == 3
    for text, sentence in {
        "name,layer\n": "needs the columns",
        "name,layer,channel\nhair,2,x\n": "line 2: a line is",
        "name,layer,channel\nhair,2,99\n": "no channel 99 in b8.conv0",
        f"name,layer,channel\nhair,{'9' * 5000},1\n": "no style layer",
        "name,layer,channel\n": "no line below",
        "name,layer,channel,amount\nhair,2,5,nan\n": "finite",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=sentence):
            read_directions(path, w_dim=16, num_ws=6, space=space)


def test_what_does_not_fit_is_named(space: StyleSpace, tmp_path: Path) -> None:
    expected = "8 style layers with 100 channels, or 5 with 64 without torgb's"
    with pytest.raises(UserError, match=f"shifts for 3 layers, the generator has {expected}"):
        space.shifts("d", [torch.ones(4)] * 3)
    with pytest.raises(UserError, match="moves 4 channels of b4.conv1, the generator has 16 there"):
        space.shifts("d", [torch.ones(4)] * 8)
    with pytest.raises(UserError, match=f"has 99 numbers, the generator has {expected}"):
        space.shifts("d", torch.ones(99))
    given = all_layers(space)
    save_directions({"all": given}, tmp_path / "d.safetensors", {})
    other = StyleSpace(make_generator())
    with pytest.raises(UserError, match="moves 12 channels of the style of b16.conv0, the generator has 16"):
        read_directions(tmp_path / "d.safetensors", w_dim=16, num_ws=6, space=other)
    found = read_directions(tmp_path / "d.safetensors", w_dim=16, num_ws=6, space=space)["all"]
    assert found.shift.numel() == 0
    assert all(torch.equal(found.styles[layer], shift) for layer, shift in given.styles.items())
    np.save(tmp_path / "fs3.npy", np.ones((65, 512), np.float32))
    with pytest.raises(UserError, match="65 rows, not a direction; StyleCLIP's fs3.npy becomes one"):
        read_directions(tmp_path / "fs3.npy", w_dim=16, num_ws=6, space=space)


class Runs:
    """What an attacker would put into a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, (f"open({str(self.mark)!r}, 'w').close()",))


def test_hostile_files_are_refused_and_execute_nothing(space: StyleSpace, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (tmp_path / "one.pkl").write_bytes(pickle.dumps([np.ones(16), Runs(mark)]))
    (tmp_path / "two.pkl").write_bytes(pickle.dumps(Runs(mark)))
    (tmp_path / "three.pkl").write_bytes(pickle.dumps([[np.ones(3)], []]))
    (tmp_path / "four.pkl").write_bytes(pickle.dumps(np.array([Runs(mark)], dtype=object)))
    layers = np.empty(8, dtype=object)
    layers[:] = [np.ones(16)] * 8
    np.save(tmp_path / "objects.npy", layers, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", layers, Runs(mark))
    np.savez(tmp_path / "names.npz", smile=np.ones(16))
    (tmp_path / "binary.csv").write_bytes(b"name,layer,channel\n\0\xff,\0,1\n")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(UserError):
            read_directions(path, w_dim=16, num_ws=6, space=space)
    assert not mark.exists()
    with pytest.raises(UserError, match=r"numpy.savez\(FILE, \*layers\)"):
        read_directions(tmp_path / "objects.npy", w_dim=16, num_ws=6, space=space)


def test_global_direction_of_styleclip(space: StyleSpace, tmp_path: Path) -> None:
    """By the formula of the paper's code: a product, a threshold, a division, a multiplication."""
    draw = np.random.default_rng(0)
    convolutions = [layer for layer in space.widths if not layer.endswith("torgb")]
    moved = convolutions[:3]  # FFHQ's file has the first 11 of 17
    count = sum(space.widths[layer] for layer in moved)
    effects = draw.normal(size=(count, 512))
    effects /= np.linalg.norm(effects, axis=1, keepdims=True)
    text = draw.normal(size=512)
    text /= np.linalg.norm(text)
    spread = [draw.uniform(0.5, 2, size=width).astype(np.float32) for width in space.widths.values()]
    means = [np.zeros_like(part) for part in spread]
    (tmp_path / "S_mean_std").write_bytes(pickle.dumps([means, spread]))

    relevance = effects @ text
    threshold = float(np.quantile(np.abs(relevance), 0.7))
    wanted = np.where(np.abs(relevance) < threshold, 0, relevance)
    wanted /= np.abs(wanted).max()
    sizes = dict(zip(space.widths, spread, strict=True))
    wanted *= np.concatenate([sizes[layer] for layer in moved])

    deviations = space.by_layer(pickled_arrays(tmp_path / "S_mean_std"))
    given = torch.from_numpy(effects), torch.from_numpy(3 * text), threshold  # a text of any length
    found = space.from_text("beard", *given, deviations)
    parts = [found.styles.get(layer, torch.zeros(space.widths[layer])) for layer in moved]
    assert_close(torch.cat(parts), torch.from_numpy(wanted).float(), rtol=1e-5, atol=1e-6)
    assert set(found.styles) <= set(moved)
    assert found.safe == (-5, 5)

    own = space.from_text("beard", *given)  # without the file: this generator's own deviations
    layer = next(iter(found.styles))
    ratio = torch.from_numpy(sizes[layer]) / space.deviations[layer]
    assert_close(own.styles[layer] * ratio, found.styles[layer])

    with pytest.raises(UserError, match="lower --threshold"):
        space.from_text("beard", given[0], given[1], 0.9)
    with pytest.raises(UserError, match="effects of 5 channels are not those"):
        space.from_text("beard", given[0][:5], given[1], 0.1)
    with pytest.raises(UserError, match="both must be of one CLIP network"):
        space.from_text("beard", given[0], given[1][:100], 0.1)
    with pytest.raises(UserError, match="has 16 channels for b8.conv1, the generator has 12 there"):
        space.by_layer([torch.ones(16)] * 8)


@pytest.mark.parametrize("layers", [None, (2, 4)])
def test_components_of_styles_have_the_covariance_of_random_styles(layers: tuple[int, int] | None) -> None:
    """All components together, a standard deviation each, are the covariance of the styles that codes give."""
    torch.manual_seed(0)
    generator = make_generator(widths=(16, 12, 8))
    space = StyleSpace(generator)
    first, last = layers or (0, len(space.widths) - 1)
    moved = list(space.widths)[first : last + 1]
    codes = generator.sample_codes()
    rows = [generator.synthesis.get_submodule(f"{layer}.affine")(codes).detach() for layer in moved]
    for index, layer in enumerate(moved):
        if layer.endswith("torgb"):
            affine = generator.synthesis.get_submodule(f"{layer}.affine")
            rows[index] = rows[index] / float(affine.bias_gain)  # type: ignore[arg-type]
    found = space.pca(16, layers)
    assert all(list(direction.styles) == moved for direction in found.values())
    shifts = torch.stack([torch.cat(list(direction.styles.values())) for direction in found.values()])
    assert_close(shifts.T @ shifts, torch.cov(torch.cat(rows, 1).T), rtol=1e-3, atol=1e-4)
    sizes = shifts.norm(dim=1)
    assert bool((sizes.diff() <= 1e-6).all())
    assert all(float(s[s.abs().argmax()]) > 0 for s in shifts)
    with pytest.raises(UserError, match="are not within 0-7"):
        space.pca(1, (3, 8))
