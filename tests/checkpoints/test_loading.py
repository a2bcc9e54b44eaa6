"""Weights come back as they were saved; anything else gets one sentence and is never executed."""

from __future__ import annotations

import functools
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import make_generator
from torch import Tensor
from torch.testing import assert_close

from hyperinverter.checkpoints import (
    load_discriminator,
    load_generator,
    load_hyperinverter,
    load_w_encoder,
    load_w_inverter,
    save_generator,
    save_hyperinverter,
    save_model,
)
from hyperinverter.checkpoints.opening import Opened, checkpoint_of, generator_of, read_checkpoint
from hyperinverter.checkpoints.registry import PACKAGED, Packaged, packaged
from hyperinverter.contracts import UserError
from hyperinverter.data.transforms import read_photo
from hyperinverter.inversion.phase1 import WInverter
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.inversion.specification import describe
from hyperinverter.networks.backbones import TinyBackbone
from hyperinverter.networks.coverage import select
from hyperinverter.networks.encoders import FeatureEncoder, WEncoder
from hyperinverter.networks.fusion import AttentionFusion, GatedFusion
from hyperinverter.networks.generator import Generator
from hyperinverter.networks.hypernets import HyperNetwork
from hyperinverter.system.files import sha256_of


@pytest.fixture
def w_inverter(generator: Generator) -> WInverter:
    return WInverter(generator, WEncoder(TinyBackbone(), generator.w_dim, head="flatten"))


@pytest.fixture
def model(w_inverter: WInverter) -> HyperInverter:
    generator = w_inverter.generator
    kernels = select(generator.kernels(), ["b16.conv1", "b4.torgb"])
    hypernet = HyperNetwork(kernels, 8, 4, fusion=GatedFusion, extractor_channels=8, init="fan_in")
    features = FeatureEncoder(TinyBackbone(), generator.num_ws, 8, used=hypernet.used_styles)
    return HyperInverter(w_inverter, features, hypernet)


@pytest.fixture
def saved_generator(generator: Generator, tmp_path: Path) -> Path:
    path = tmp_path / "generator.safetensors"
    save_generator(generator, path, {"command": "none", "seed": 0}, half=False)
    return path


def save_as_run(model: WInverter | HyperInverter, path: Path, **more: Any) -> Path:
    """What a training run writes, without the training."""
    state = {f"inverter.{name}": tensor for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "model": describe(model).plain(), **more}, path)
    return path


def edited(source: Path, target: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> Path:
    """Copy a safetensors file with something changed."""
    tensors = load_file(source)
    with safe_open(source, framework="pt") as file:
        header = dict(file.metadata())
    change(tensors, header)
    save_file(tensors, target, header)
    return target


# What was saved comes back ---------------------------------------------------------------------------------


def test_generator_comes_back_exactly(generator: Generator, saved_generator: Path) -> None:
    loaded = load_generator(saved_generator)
    assert loaded.config == generator.config
    assert_close(dict(loaded.state_dict()), dict(generator.state_dict()), rtol=0, atol=0)
    assert loaded.sha256 == sha256_of(saved_generator)
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    w = torch.randn(2, 16)
    assert torch.equal(loaded.synthesis(w), generator.synthesis(w))


def test_halved_generator_is_close_and_half_as_large(
    generator: Generator, saved_generator: Path, tmp_path: Path
) -> None:
    save_generator(generator, tmp_path / "half.safetensors", {})
    loaded = load_generator(tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert_close(dict(loaded.state_dict()), dict(generator.state_dict()), rtol=1e-3, atol=1e-6)
    size = {
        half: sum(t.nbytes for t in load_file(f).values())
        for half, f in ((True, tmp_path / "half.safetensors"), (False, saved_generator))
    }
    assert size[True] * 2 == size[False]


def test_recipe_is_in_the_header(saved_generator: Path) -> None:
    with safe_open(saved_generator, framework="pt") as file:
        assert json.loads(file.metadata()["recipe"]) == {"command": "none", "seed": 0}


def test_published_form_of_the_configuration_is_understood(saved_generator: Path, tmp_path: Path) -> None:
    def nest(_: dict[str, Tensor], header: dict[str, str]) -> None:
        header["config"] = json.dumps(
            {
                "z_dim": 12,
                "c_dim": 0,
                "w_dim": 16,
                "img_resolution": 16,
                "img_channels": 3,
                "mapping_kwargs": {"num_layers": 2},
                "synthesis_kwargs": {"channel_base": 256, "channel_max": 16, "num_fp16_res": 4},
            }
        )

    loaded = load_generator(edited(saved_generator, tmp_path / "nested.safetensors", nest))
    assert loaded.config == load_generator(saved_generator).config


@pytest.mark.parametrize("half", [False, True])
def test_phase_one_comes_back(w_inverter: WInverter, photos: Tensor, tmp_path: Path, half: bool) -> None:
    save_model(w_inverter, tmp_path / "phase1.safetensors", {}, half=half)
    loaded = load_w_inverter(tmp_path / "phase1.safetensors", w_inverter.generator)
    tolerance = 1e-3 if half else 0.0
    assert_close(
        dict(loaded.state_dict()), dict(w_inverter.state_dict()), rtol=tolerance, atol=tolerance / 100
    )
    assert torch.equal(loaded.invert(photos).w, w_inverter.invert(photos).w) is not half
    assert not loaded.training


@pytest.mark.parametrize("half", [False, True])
def test_both_phases_come_back(model: HyperInverter, photos: Tensor, tmp_path: Path, half: bool) -> None:
    save_model(model, tmp_path / "both.safetensors", {}, half=half)
    loaded = load_hyperinverter(tmp_path / "both.safetensors", model.generator)
    tolerance = 1e-3 if half else 0.0
    assert_close(dict(loaded.state_dict()), dict(model.state_dict()), rtol=tolerance, atol=tolerance / 100)
    assert describe(loaded) == describe(model)
    ours, theirs = loaded.invert(photos), model.invert(photos)
    assert torch.equal(ours.image, theirs.image) is not half
    assert_close(ours.image, theirs.image, rtol=0, atol=0.1 if half else 0)
    assert list(ours.residuals) == ["b4.torgb.weight", "b16.conv1.weight"]


def test_parts_come_back_with_their_arguments(generator: Generator, photos: Tensor, tmp_path: Path) -> None:
    w_inverter = WInverter(generator, WEncoder(TinyBackbone((8, 16, 24), (1, 2, 1)), generator.w_dim))
    fusion = functools.partial(AttentionFusion, key_channels=5)
    hypernet = HyperNetwork(select(generator.kernels(), ["b16.conv1"]), 8, 4, fusion, extractor_channels=8)
    backbone = TinyBackbone((16, 8, 8), (2, 1, 1))
    features = FeatureEncoder(backbone, generator.num_ws, 8, used=hypernet.used_styles)
    model = HyperInverter(w_inverter, features, hypernet).eval()
    save_model(model, tmp_path / "model.safetensors", {})
    save_hyperinverter(model, tmp_path / "whole.safetensors")
    expected = model.invert(photos).image
    for loaded in (
        load_hyperinverter(tmp_path / "model.safetensors", generator),
        load_hyperinverter(save_as_run(model, tmp_path / "best.ckpt"), generator),
        load_hyperinverter(tmp_path / "whole.safetensors"),
    ):
        assert describe(loaded) == describe(model)
        assert torch.equal(loaded.invert(photos).image, expected)
    encoder = load_w_encoder(tmp_path / "best.ckpt")
    assert torch.equal(encoder(photos), w_inverter.encoder(photos))


def test_descriptions_from_before_arguments_were_noted(
    model: HyperInverter, photos: Tensor, tmp_path: Path
) -> None:
    save_model(model, tmp_path / "model.safetensors", {})

    def forget(_: dict[str, Tensor], header: dict[str, str]) -> None:
        description = json.loads(header["model"])
        for part, key in (
            ("w_encoder", "backbone_args"),
            ("features", "backbone_args"),
            ("hypernet", "fusion_args"),
        ):
            del description[part][key]
        header["model"] = json.dumps(description)

    old = edited(tmp_path / "model.safetensors", tmp_path / "old.safetensors", forget)
    loaded = load_hyperinverter(old, model.generator)
    assert torch.equal(loaded.invert(photos).image, model.invert(photos).image)


@pytest.mark.parametrize(
    "arguments",
    [
        {"units": [10**9, 1, 1]},
        {"widths": [8, 8]},
        {"widths": "abc"},
        {"widths": [-8, 8, 8]},
        {"depth": 3},
        [],
        3,
    ],
)
def test_arguments_that_are_nonsense(model: HyperInverter, tmp_path: Path, arguments: Any) -> None:
    save_model(model, tmp_path / "model.safetensors", {})

    def change(_: dict[str, Tensor], header: dict[str, str]) -> None:
        description = json.loads(header["model"])
        description["w_encoder"]["backbone_args"] = arguments
        header["model"] = json.dumps(description)

    file = edited(tmp_path / "model.safetensors", tmp_path / "edited.safetensors", change)
    for load in (lambda: load_hyperinverter(file, model.generator), lambda: load_w_encoder(file)):
        with pytest.raises(UserError, match="edited.safetensors does not fit") as told:
            load()
        one_sentence(told, file)


def test_generator_of_irregular_widths_comes_back(tmp_path: Path) -> None:
    generator = make_generator(widths=(7, 3, 5))
    save_generator(generator, tmp_path / "file.safetensors", {}, half=False)
    loaded = load_generator(tmp_path / "file.safetensors")
    assert loaded.config == generator.config
    w = torch.randn(1, 16)
    assert torch.equal(loaded.synthesis(w), generator.synthesis(w))


def test_phase_one_can_be_taken_out_of_phase_two(
    model: HyperInverter, photos: Tensor, tmp_path: Path
) -> None:
    save_model(model, tmp_path / "both.safetensors", {})
    first = load_w_inverter(tmp_path / "both.safetensors", model.generator)
    assert isinstance(first, WInverter)
    assert torch.equal(first.invert(photos).image, model.invert(photos).w_image)


def test_run_folder_gives_its_best_checkpoint(model: HyperInverter, tmp_path: Path) -> None:
    last = save_as_run(model, tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert checkpoint_of(tmp_path / "run") == last
    with torch.no_grad():
        model.hypernet.weight_regressors["b4_torgb_weight"].b2.fill_(3.0)
    best = save_as_run(model, tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert checkpoint_of(str(tmp_path / "run")) == best
    loaded = load_hyperinverter(tmp_path / "run", model.generator)
    assert loaded.hypernet.weight_regressors["b4_torgb_weight"].b2[0] == 3


def test_run_remembers_its_generator(model: HyperInverter, saved_generator: Path, tmp_path: Path) -> None:
    sha256 = sha256_of(saved_generator)
    run = save_as_run(
        model, tmp_path / "best.ckpt", generator_path=str(saved_generator), generator_sha256=sha256
    )
    assert load_hyperinverter(run).generator.sha256 == sha256


# Packaged files --------------------------------------------------------------------------------------------


@pytest.fixture
def toy_package(saved_generator: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    entry = Packaged(str(saved_generator), sha256_of(saved_generator), "made here", "MIT")
    monkeypatch.setitem(PACKAGED, "toy_generator", entry)
    return saved_generator


def test_packaged_generator_is_found_by_name(toy_package: Path) -> None:
    assert load_generator("toy").sha256 == PACKAGED["toy_generator"].sha256
    assert packaged("generator", "toy") == (toy_package, sha256_of(toy_package))


def test_damaged_packaged_file_is_noticed(toy_package: Path) -> None:
    content = bytearray(toy_package.read_bytes())
    content[-1] ^= 1  # one bit of one weight
    toy_package.write_bytes(content)
    with pytest.raises(
        UserError, match=r"the packaged file generator.safetensors is damaged .*install .* again"
    ):
        load_generator("toy")
    toy_package.unlink()
    with pytest.raises(UserError, match=r"the packaged file generator.safetensors is missing; install"):
        load_generator("toy")


def test_unknown_packaged_name_lists_what_there_is(toy_package: Path) -> None:
    with pytest.raises(UserError, match=r"no packaged generator is called 'toi'; there is: .*toy"):
        packaged("generator", "toi")
    with pytest.raises(UserError, match=r"there is no generator file toi; .* a packaged one: .*toy"):
        load_generator("toi")


# Files that are something else -----------------------------------------------------------------------------


class Harmful:
    """Unpickling this runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def write_foreign(kind: str, path: Path, trap: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "nothing":
        path.write_bytes(b"")
    elif kind == "noise":
        path.write_bytes(bytes(torch.randint(0, 256, (5000,), dtype=torch.uint8).tolist()))
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "list":
        torch.save([torch.zeros(2)], path)
    elif kind == "weights":
        torch.save({"conv.weight": torch.zeros(2)}, path)
    elif kind == "training":
        torch.save({"state_dict": {"conv.weight": torch.zeros(2)}, "epoch": 3}, path)
    elif kind == "trap":
        path.write_bytes(pickle.dumps({"state_dict": Harmful(f"touch {trap}"), "model": {}}))
    elif kind == "zipped trap":
        torch.save({"state_dict": Harmful(f"touch {trap}"), "model": {}}, path)
    elif kind == "safetensors":
        save_file({"conv.weight": torch.zeros(2)}, path)
    else:
        raise AssertionError(kind)
    return path


FOREIGN = ["nothing", "noise", "text", "list", "weights", "training", "trap", "zipped trap", "safetensors"]


def one_sentence(told: pytest.ExceptionInfo[UserError], file: Path) -> None:
    sentence = str(told.value)
    assert "\n" not in sentence
    assert str(file) in sentence
    assert ";" in sentence, "no way out is offered"


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_generator(kind: str, tmp_path: Path) -> None:
    file = write_foreign(kind, tmp_path / "file.safetensors", tmp_path / "sprung")
    expected = {
        "trap": r"asks to run 'posix.system'.*nothing of it was run",
        "zipped trap": r"asks to run 'posix.system'.*nothing of it was run",
        "list": "a torch file without a generator",
        "weights": "a torch file without a generator",
        "training": "a torch file without a generator",
        "safetensors": "is not a generator of this project",
    }
    with pytest.raises(UserError, match=expected.get(kind, "cannot be read as safetensors")) as told:
        load_generator(file)
    one_sentence(told, file)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", ["ckpt", "pt", "safetensors"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_model(kind: str, suffix: str, generator: Generator, tmp_path: Path) -> None:
    file = write_foreign(kind, tmp_path / f"file.{suffix}", tmp_path / "sprung")
    expected = r"cannot be read as (a checkpoint|safetensors)|is not a (checkpoint|model) of this project"
    if suffix != "ckpt":  # other people's checkpoints end so: the content decides
        unknown = suffix == "safetensors" and kind in ("nothing", "noise", "text")
        expected = (
            "cannot be read as safetensors"
            if unknown
            else {
                "nothing": "is empty",
                "noise": "is neither a torch file, a pickle nor safetensors",
                "text": "is a pointer of Git LFS",
                "trap": r"asks to run 'posix.system'",
                "zipped trap": r"asks to run 'posix.system'",
                "training": "holds no W encoder|holds no generator",
                "safetensors": "is not a model of this project",
            }.get(kind, "is not a checkpoint of HyperInverter's release")
        )
    with pytest.raises(UserError, match=expected) as told:
        load_w_inverter(file, generator)
    one_sentence(told, file)
    with pytest.raises(UserError, match=expected):
        load_hyperinverter(file, generator)
    with pytest.raises(UserError, match=expected):
        load_hyperinverter(file)
    assert not (tmp_path / "sprung").exists()


def test_the_trap_is_a_trap(tmp_path: Path) -> None:
    write_foreign("trap", tmp_path / "file", tmp_path / "sprung")
    pickle.loads((tmp_path / "file").read_bytes())
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_files_cut_short(model: HyperInverter, saved_generator: Path, tmp_path: Path, share: float) -> None:
    files = [saved_generator, tmp_path / "model.safetensors", tmp_path / "best.ckpt"]
    save_model(model, files[1], {})
    save_as_run(model, files[2])
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"cannot be read as safetensors .*cut short") as told:
        load_generator(files[0])
    one_sentence(told, files[0])
    for file in files[1:]:
        with pytest.raises(UserError, match=r"cannot be read as .*cut short") as told:
            load_hyperinverter(file, model.generator)
        one_sentence(told, file)


def test_files_that_are_not_there(generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"there is no generator file .*absent.safetensors; check generator.path"
    ):
        load_generator(tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match=r"there is no checkpoint .*absent.ckpt; give a run folder or a file"):
        load_w_inverter(tmp_path / "absent.ckpt", generator)
    with pytest.raises(
        UserError, match=r"has no checkpoints/best.ckpt; give the folder of a run that has trained"
    ):
        load_hyperinverter(tmp_path)


# Parts that do not belong together ------------------------------------------------------------------------


def test_another_generator_of_the_same_shape(
    model: HyperInverter, saved_generator: Path, tmp_path: Path
) -> None:
    model.generator.sha256 = sha256_of(saved_generator)
    files = [tmp_path / "model.safetensors", tmp_path / "best.ckpt"]
    save_model(model, files[0], {})
    save_as_run(model, files[1], generator_sha256=model.generator.sha256)
    other = make_generator()
    other.sha256 = "f" * 64
    for file in files:
        load_hyperinverter(file, saved_generator)
        for load in (load_hyperinverter, load_w_inverter):
            with pytest.raises(
                UserError, match=r"trained with another generator .* ffffffffffff.*generator.path"
            ):
                load(file, other)


def test_generator_of_another_shape(model: HyperInverter, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model.safetensors", {})
    with pytest.raises(
        UserError, match=r"model.safetensors does not fit: made for a generator of the shape .*16"
    ):
        load_hyperinverter(tmp_path / "model.safetensors", make_generator(32))


def test_phase_one_is_not_the_whole_method(w_inverter: WInverter, tmp_path: Path) -> None:
    file = save_as_run(w_inverter, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"holds phase I only; .*phase=2 phase.from_run=.*best.ckpt"):
        load_hyperinverter(file, w_inverter.generator)


def drop(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
    del tensors[sorted(tensors)[0]]


def add(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
    tensors["surplus.weight"] = torch.zeros(1)


def reshape(tensors: dict[str, Tensor], _: dict[str, str]) -> None:
    name = sorted(tensors)[0]
    tensors[name] = torch.zeros(3, 5, 7)


@pytest.mark.parametrize(
    ("change", "problem"),
    [(drop, "1 missing"), (add, r"1 unexpected \(first: surplus.weight\)"), (reshape, "1 of another shape")],
)
def test_tensors_must_match(
    model: HyperInverter,
    saved_generator: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor], dict[str, str]], None],
    problem: str,
) -> None:
    broken = edited(saved_generator, tmp_path / "broken.safetensors", change)
    with pytest.raises(
        UserError, match=rf"broken.safetensors does not hold the weights of Generator.*{problem}"
    ) as told:
        load_generator(broken)
    one_sentence(told, broken)
    save_model(model, tmp_path / "model.safetensors", {})
    broken = edited(tmp_path / "model.safetensors", tmp_path / "broken.safetensors", change)
    with pytest.raises(UserError, match=rf"does not hold the weights of HyperInverter.*{problem}") as told:
        load_hyperinverter(broken, model.generator)
    one_sentence(told, broken)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("fusion", "os.system", "does not know 'os.system'"),
        ("kernels", ["b99.conv0.weight"], "does not know 'b99.conv0.weight'"),
        ("hidden_dim", "four", ""),
    ],
)
def test_descriptions_name_only_what_there_is(
    model: HyperInverter, tmp_path: Path, key: str, value: Any, problem: str
) -> None:
    save_model(model, tmp_path / "model.safetensors", {})

    def change(_: dict[str, Tensor], header: dict[str, str]) -> None:
        description = json.loads(header["model"])
        description["hypernet"][key] = value
        header["model"] = json.dumps(description)

    file = edited(tmp_path / "model.safetensors", tmp_path / "edited.safetensors", change)
    with pytest.raises(UserError, match=rf"edited.safetensors does not fit: .*{problem}"):
        load_hyperinverter(file, model.generator)


@pytest.mark.parametrize("description", ["vgg", [], {}, {"phase": 2}, 3])
def test_checkpoints_of_others_that_also_say_model(
    description: Any, generator: Generator, tmp_path: Path
) -> None:
    torch.save({"state_dict": {}, "model": description}, tmp_path / "file.ckpt")
    save_file({"x": torch.zeros(1)}, tmp_path / "file.safetensors", {"model": json.dumps(description)})
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors", {"model": str(description)})
    for name in ("file.ckpt", "file.safetensors", "plain.safetensors"):
        with pytest.raises(UserError, match=r"does not fit|is not a model") as told:
            load_w_inverter(tmp_path / name, generator)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        '"x"',
        '{"img_resolution": 48}',
        '{"depth": 3}',
        '{"z_dim": "a"}',
        '{"mapping_layers": 1000000000}',
        '{"widths": [8]}',
        '{"img_resolution": 1e300}',
    ],
)
def test_generator_headers_that_say_nonsense(config: str, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "file.safetensors", {"config": config})
    with pytest.raises(UserError, match="is not a generator of this project"):
        load_generator(tmp_path / "file.safetensors")


def test_checkpoint_whose_weights_are_no_weights(generator: Generator, tmp_path: Path) -> None:
    torch.save({"state_dict": [1, 2], "model": {}}, tmp_path / "file.ckpt")
    with pytest.raises(UserError, match="is not a checkpoint of this project"):
        read_checkpoint(tmp_path / "file.ckpt")


def test_a_header_of_any_length_is_told_from_a_pickle(tmp_path: Path) -> None:
    """The first byte of a safetensors file is part of a length; 0x80 is also how pickles begin."""
    generator, first_bytes = make_generator(), set()
    for padding in range(0, 256, 8):
        file = tmp_path / f"{padding}.safetensors"
        save_generator(generator, file, {"note": "x" * padding})
        first_bytes.add(file.read_bytes()[0])
        assert load_generator(file).config == generator.config
    assert 0x80 in first_bytes


def test_a_model_whose_generator_is_not_here_says_what_to_do(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    found = Opened(run / "checkpoints" / "best.ckpt", made_for="a" * 64, generator_path="/elsewhere/g.pkl")
    with pytest.raises(
        UserError, match=r"not on this machine: copy that file to .*run/g\.pkl, or give it with generator"
    ):
        generator_of(found)
    (run / "g.pkl").touch()
    assert generator_of(found) == str(run / "g.pkl")
    assert generator_of(replace(found, generator_path="digiface")) == "digiface"


@pytest.mark.parametrize(
    "load", [load_generator, load_hyperinverter, load_w_encoder, load_discriminator, read_photo]
)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, "expected the path of a file, got int"),
        (b"x.pkl", "expected the path of a file, got bytes"),
        (["x.pkl"], "expected the path of a file, got list"),
        ("", "the path is empty"),
        ("https://example.org/x.pkl", "is an address, not a file: download it first"),
    ],
)
def test_what_is_no_path_is_said(load: Callable[..., Any], given: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(given, 64) if load is read_photo else load(given)
