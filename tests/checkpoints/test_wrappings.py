"""The same tensors in whatever they are wrapped in are the same network; what is left open is settled and said."""

from __future__ import annotations

import argparse
import gzip
import logging
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import official
import pytest
import reference
import torch
from official import Shape
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close
from wrapped import State, as_arrays, as_modules, renamed

from hyperinverter import assembly, config
from hyperinverter.checkpoints import (
    find_discriminator,
    load_discriminator,
    load_generator,
    load_hyperinverter,
    load_inverter,
    load_w_encoder,
    load_w_inverter,
    pickles,
)
from hyperinverter.checkpoints.opening import read_checkpoint
from hyperinverter.checkpoints.unwrapping import unwrap
from hyperinverter.contracts import UserError
from hyperinverter.data.listing import list_photos
from hyperinverter.inversion.specification import describe
from hyperinverter.networks.discriminator import Discriminator

SHAPE = Shape()


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def dumped(content: Any, path: Path, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


# Wrappings of one state dict ---------------------------------------------------------------------------------

WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "ordered": OrderedDict,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s},
    "params_ema": lambda s: {"params_ema": s, "params": {n: torch.zeros_like(t) for n, t in s.items()}},
    "G_ema": lambda s: {"G_ema": s, "G": {n: torch.zeros_like(t) for n, t in s.items()}},
    "generator": lambda s: {"generator": s},
    "containers in containers": lambda s: {"model": {"state_dict": {"g_ema": s}}},
    "DataParallel": lambda s: {"g_ema": renamed(s, "module.")},
    "compiled": lambda s: renamed(s, "_orig_mod."),
    "compiled DataParallel": lambda s: {"state_dict": renamed(s, "module._orig_mod.")},
    "part of a checkpoint": lambda s: {
        "state_dict": renamed(s, "decoder.") | {"encoder.conv1.weight": torch.zeros(1)}
    },
    "part, in DataParallel": lambda s: {"state_dict": renamed(s, "module.generator.") | {"module.a.b": s}},
    "Lightning": lambda s: {"state_dict": renamed(s, "net.")},
    "half": lambda s: {"g_ema": {n: t.half() for n, t in s.items()}},
    "double": lambda s: {"g_ema": {n: t.double() for n, t in s.items()}},
    "arrays": lambda s: {"g_ema": as_arrays(s)},
    "module": as_modules,
    "module in a dictionary": lambda s: {"g_ema": as_modules(s), "step": 1},
    "module in DataParallel": lambda s: as_modules(renamed(s, "module.")),
}


@pytest.mark.parametrize("layout", ["rosinality", "nvidia"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_generator_in_every_wrapping(wrapping: str, layout: str, tmp_path: Path) -> None:
    state = official.rosinality_state(SHAPE) if layout == "rosinality" else official.generator_state(SHAPE)
    expected = load_generator(official.write_nvidia(tmp_path / "net.pkl", SHAPE))
    wrapped = WRAPPINGS[wrapping](state)
    w = torch.randn(1, SHAPE.w_dim)
    tolerance = 0.03 if wrapping == "half" else 1e-6
    for path in (saved(wrapped, tmp_path / "net.pt"), dumped(wrapped, tmp_path / "dumped.pkl")):
        if (
            path.suffix == ".pkl"
            and any(isinstance(t, Tensor) for t in state.values())
            and wrapping == "half"
        ):
            continue  # one container is enough for types of numbers
        generator = load_generator(path)
        assert generator.config.same_network(expected.config)
        assert_close(generator.synthesis(w), expected.synthesis(w), rtol=tolerance, atol=tolerance * 10)


def test_a_generator_in_a_safetensors_file_of_others(tmp_path: Path) -> None:
    expected = load_generator(official.write_nvidia(tmp_path / "net.pkl", SHAPE))
    state = {name: tensor.contiguous() for name, tensor in official.rosinality_state(SHAPE).items()}
    save_file(renamed(state, "module."), tmp_path / "net.safetensors")
    w = torch.randn(1, SHAPE.w_dim)
    assert_close(load_generator(tmp_path / "net.safetensors").synthesis(w), expected.synthesis(w))


@pytest.mark.parametrize("protocol", range(6))
def test_a_network_pickle_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    path = official.write_nvidia(tmp_path / "net.pkl", SHAPE, protocol=protocol)
    expected = official.generator_state(SHAPE)["synthesis.b4.const"]
    assert torch.equal(load_generator(path).state_dict()["synthesis.b4.const"], expected)


@pytest.mark.parametrize(
    "write",
    [
        lambda content, path: torch.save(content["G_ema"], path),
        lambda content, path: torch.save({"G_ema": content["G_ema"]}, path),
        lambda content, path: path.write_bytes(pickle.dumps(content["G_ema"])),
        lambda content, path: path.write_bytes(pickle.dumps({"G_ema": content["G_ema"]}, protocol=2)),
        lambda content, path: torch.save({"model": {"G_ema": content["G_ema"]}}, path),
    ],
    ids=["saved", "saved in a dictionary", "dumped", "dumped in a dictionary", "deeper"],
)
def test_a_generator_taken_out_of_its_network_pickle(
    write: Callable[[dict[str, Any], Path], None], tmp_path: Path
) -> None:
    """As PTI keeps tuned generators."""
    shape = replace(SHAPE, clamp=0.7)
    expected = load_generator(official.write_nvidia(tmp_path / "net.pkl", shape))
    generator = load_generator(official.write_nvidia(tmp_path / "model_x.pt", shape, write=write))
    w = torch.randn(1, SHAPE.w_dim)
    assert generator.config == expected.config
    assert generator.config.conv_clamp == 0.7  # what the object says of itself
    assert torch.equal(generator.synthesis(w), expected.synthesis(w))


def test_the_average_is_taken_where_there_are_two(tmp_path: Path) -> None:
    state, live = official.rosinality_state(SHAPE), official.rosinality_state(SHAPE)
    live["conv1.activate.bias"] = live["conv1.activate.bias"] + 1
    for names in (("g", "g_ema"), ("params", "params_ema"), ("netG", "netG_ema")):
        path = saved(dict(zip(names, (live, state), strict=True)), tmp_path / "net.pt")
        found = load_generator(path).state_dict()["synthesis.b4.conv1.bias"]
        assert torch.equal(found, state["conv1.activate.bias"])


# Names nobody needs ------------------------------------------------------------------------------------------


def test_names_nobody_needs_do_not_matter(tmp_path: Path) -> None:
    settings = {"path": PurePosixPath("data/ffhq"), "since": datetime(2020, 1, 2), "type": torch.float16}

    def with_settings(content: dict[str, Any], path: Path) -> None:
        path.write_bytes(pickle.dumps(content | {"training_set_kwargs": settings}))

    nvidia = load_generator(official.write_nvidia(tmp_path / "net.pkl", SHAPE, write=with_settings))
    args = argparse.Namespace(path=PurePosixPath("lmdb"), dtype=torch.float16, when=datetime(2020, 1, 2))
    rosinality = load_generator(official.write_rosinality(tmp_path / "net.pt", SHAPE, args=args))
    w = torch.randn(1, SHAPE.w_dim)
    assert_close(nvidia.synthesis(w), rosinality.synthesis(w))
    path = official.write_w_encoder(tmp_path / "w.pt", "resnet34", 16, opts={"exp_dir": PurePosixPath("a/b")})
    load_w_encoder(path)


# What a file leaves open ------------------------------------------------------------------------------------


def test_noise_that_a_file_lacks_is_drawn_from_a_seed_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = official.rosinality_state(SHAPE)
    for name in [name for name in state if name.startswith("noises.")]:
        del state[name]
    path = official.write_rosinality(tmp_path / "net.pt", SHAPE, g_ema=state)
    with caplog.at_level(logging.WARNING):
        generator, again = load_generator(path), load_generator(path)
    assert "holds no noise maps: they are drawn from a fixed seed" in caplog.text
    assert_close(dict(generator.state_dict()), dict(again.state_dict()), rtol=0, atol=0)
    ours = generator.state_dict()
    noises = {name: ours[name] for name in ours if name.endswith("noise_const")}
    assert all(noise.std() > 0.5 for noise in noises.values())
    # with the same noise the image is the official one
    official_state = reference.double(official.generator_state(SHAPE) | noises)
    w = torch.randn(1, SHAPE.w_dim)
    expected = reference.synthesis(official_state, SHAPE, w[0].double())
    assert_close(generator.synthesis(w)[0].double(), expected, rtol=1e-3, atol=1e-4)


def test_tensors_alone_of_nvidia_are_settled_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = official.generator_state(SHAPE)
    left_out = ("noise_const", "w_avg", "resample_filter")
    bare = {name: tensor for name, tensor in state.items() if not name.endswith(left_out)}
    with caplog.at_level(logging.WARNING):
        generator = load_generator(saved(bare, tmp_path / "net.pt"))
    for said in ("no latent_avg", "no noise maps", "does not say its conv_clamp"):
        assert said in caplog.text
    ws = generator.mapping(torch.randn(2000, SHAPE.z_dim))[:, 0]
    assert_close(generator.w_avg, ws.mean(0), rtol=0, atol=0.1 * ws.std().item())


def network_of_speed(multiplier: float) -> State:
    """A network that is trained with ``lr_mlp=multiplier`` and gives the codes of ``generator_state``."""
    state = official.rosinality_state(SHAPE)
    for name in state:
        if name.startswith("style."):
            state[name] = state[name] * (0.01 / multiplier)
    return state


@pytest.mark.parametrize("multiplier", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("tells", ["mean", "args", "nothing"])
def test_the_speed_of_the_mapping_network_acts(
    multiplier: float, tells: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = load_generator(official.write_nvidia(tmp_path / "net.pkl", SHAPE))
    mean = expected.mapping(torch.randn(5000, SHAPE.z_dim))[:, 0].mean(0)
    more: dict[str, Any] = {"latent_avg": mean if tells == "mean" else None}
    if tells == "args":
        more["args"] = argparse.Namespace(lr_mlp=multiplier, size=32)
    path = official.write_rosinality(tmp_path / "net.pt", SHAPE, g_ema=network_of_speed(multiplier), **more)
    with caplog.at_level(logging.WARNING):
        generator = load_generator(path)
    z = torch.randn(3, SHAPE.z_dim)
    assert_close(generator.mapping(z), expected.mapping(z), rtol=1e-3, atol=1e-3)
    assert ("trained with lr_mlp=" in caplog.text) is (multiplier != 0.01 and tells != "args")


def test_the_mean_may_be_an_array_and_may_be_repeated(tmp_path: Path) -> None:
    mean = official.generator_state(SHAPE)["mapping.w_avg"]
    for latent_avg in (mean.numpy(), mean.double(), mean.tolist(), mean[None], mean.repeat(8, 1)):
        path = official.write_rosinality(tmp_path / "net.pt", SHAPE, latent_avg=latent_avg)
        assert_close(load_generator(path).w_avg, mean, rtol=1e-3, atol=1e-3)
    inside = official.rosinality_state(SHAPE) | {"latent_avg": mean}
    assert torch.equal(load_generator(saved(inside, tmp_path / "net.pt")).w_avg, mean)


def test_a_mean_that_is_not_a_number_is_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = official.write_rosinality(
        tmp_path / "net.pt", SHAPE, latent_avg=torch.full((SHAPE.w_dim,), torch.nan)
    )
    with caplog.at_level(logging.WARNING):
        assert torch.isfinite(load_generator(path).w_avg).all()
    assert "the mean of w is measured" in caplog.text


def test_a_generator_under_a_name_nobody_has_heard_of(tmp_path: Path) -> None:
    state = official.rosinality_state(SHAPE)
    expected = load_generator(saved({"g_ema": state}, tmp_path / "usual.pt")).state_dict()
    for content in ({"my_net": state, "step": 3}, [state, {"step": 3}], {"model_ema": {"state_dict": state}}):
        found = load_generator(saved(content, tmp_path / "net.pt")).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with pytest.raises(UserError, match=r"holds several networks of this kind \(one, two\); save the one"):
        load_generator(saved({"one": state, "two": dict(state)}, tmp_path / "net.pt"))


# Discriminators ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"d": s},
        lambda s: {"D": renamed(s, "module.")},
        lambda s: {"state_dict": renamed(s, "discriminator.")},
        lambda s: {"state_dict": renamed(s, "module.discriminator.")},
        lambda s: {"discriminator": {name: t.half() for name, t in s.items()}},
        lambda s: {"d": as_arrays(s)},
        lambda s: {"D": as_modules(s)},
        lambda s: s,
    ],
    ids=["d", "D", "state_dict", "DataParallel", "half", "arrays", "module", "bare"],
)
@pytest.mark.parametrize("layout", ["rosinality", "nvidia"])
def test_a_discriminator_in_every_wrapping(layout: str, wrap: Callable[[State], Any], tmp_path: Path) -> None:
    rosinality = layout == "rosinality"
    state = (
        official.rosinality_discriminator_state(SHAPE) if rosinality else official.discriminator_state(SHAPE)
    )
    discriminator = load_discriminator(saved(wrap(state), tmp_path / "net.pt"))
    expected = official.discriminator_state(SHAPE)["b4.out.weight"]
    assert_close(discriminator.b4.out.weight, expected, rtol=1e-3, atol=1e-3)


UNREAD: dict[str, Any] = {
    "architecture": {"": {"_init_kwargs": {"c_dim": 0, "architecture": "orig"}}},
    "no statistics": {"": {"_init_kwargs": {"epilogue_kwargs": {"mbstd_num_channels": 0}}}},
    "conditional": {"": {"_init_kwargs": {"c_dim": 10}}},
}


@pytest.mark.parametrize("variant", UNREAD)
def test_a_discriminator_that_is_not_read_does_not_take_the_generator_with_it(
    variant: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = official.write_nvidia(tmp_path / "net.pkl", SHAPE, discriminator_more=UNREAD[variant])
    starts_anew(path, caplog)


def test_a_discriminator_of_another_kind_does_not_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def with_other(content: dict[str, Any], path: Path) -> None:
        content["D"] = official.module_tree({"main.0.weight": torch.zeros(2)}, "Other", {})
        path.write_bytes(pickle.dumps(content))

    starts_anew(official.write_nvidia(tmp_path / "net.pkl", SHAPE, write=with_other), caplog)
    strange = {"main.0.weight": torch.zeros(2)}
    starts_anew(official.write_rosinality(tmp_path / "net.pt", SHAPE, d=strange), caplog)
    starts_anew(official.write_rosinality(tmp_path / "net.pt", SHAPE, d=PurePosixPath("gone")), caplog)


def starts_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    generator = load_generator(path)
    with pytest.raises(UserError):
        load_discriminator(path)
    cfg = config.compose(["phase=2", f"generator.path={path}"])
    with caplog.at_level(logging.WARNING):
        discriminator = assembly.starting_discriminator(cfg, generator)
    assert isinstance(discriminator, Discriminator)
    assert "a new discriminator begins" in caplog.text
    assert str(path) in caplog.text


# W encoders and hypernetworks --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(module_folder: Path) -> dict[str, Path]:
    """The files of one model, ResNet-34 at 32 px."""
    return {
        "generator": official.write_nvidia(module_folder / "net.pkl", SHAPE),
        "w_encoder": official.write_w_encoder(module_folder / "w_encoder.pt", "resnet34", SHAPE.w_dim),
        "hyper": official.write_hyper(module_folder / "hyper.pt", SHAPE, "resnet34", hidden=2, half=True),
    }


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def content_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


ENCODERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: renamed(s, "encoder."),
    "the encoder alone": lambda s: s,
    "its dictionary": lambda s: {"encoder": s, "opts": {}},
    "DataParallel": lambda s: {"state_dict": renamed(s, "module.encoder.")},
    "encoder in DataParallel": lambda s: {"state_dict": renamed(s, "encoder.module.")},
    "model": lambda s: {"model": renamed(s, "encoder.")},
    "Lightning": lambda s: {"state_dict": renamed(s, "net.encoder.")},
    "module": lambda s: as_modules(renamed(s, "encoder.")),
    "without counters": lambda s: {n: t for n, t in s.items() if not n.endswith("num_batches_tracked")},
    "arrays": as_arrays,
    "double": lambda s: {n: t.double() if t.is_floating_point() else t for n, t in s.items()},
}


@pytest.mark.parametrize("wrapping", ENCODERS)
def test_a_w_encoder_in_every_wrapping(
    wrapping: str, parts: dict[str, Path], photo: Tensor, tmp_path: Path
) -> None:
    state = official.w_encoder_state("resnet34", SHAPE.w_dim)
    loaded = load_w_encoder(saved(ENCODERS[wrapping](state), tmp_path / "w.pt"))
    assert_close(loaded(photo), load_w_encoder(parts["w_encoder"])(photo), rtol=1e-4, atol=1e-4)


def test_an_ending_decides_nothing(parts: dict[str, Path], photo: Tensor, tmp_path: Path) -> None:
    expected = load_w_encoder(parts["w_encoder"])(photo)
    for name in ("w.ckpt", "w.pth", "w.safetensors", "w"):
        (tmp_path / name).hardlink_to(parts["w_encoder"])
        assert torch.equal(load_w_encoder(tmp_path / name)(photo), expected)
    state = {n: t.contiguous() for n, t in official.w_encoder_state("resnet34", SHAPE.w_dim).items()}
    save_file(renamed(state, "encoder."), tmp_path / "others.safetensors")
    assert_close(load_w_encoder(tmp_path / "others.safetensors")(photo), expected)


MODELS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "DataParallel": lambda s: {"state_dict": renamed(s, "module.")},
    "compiled": lambda s: {"state_dict": renamed(s, "_orig_mod.")},
    "Lightning": lambda s: {"state_dict": renamed(s, "model.")},
    "model": lambda s: {"model": s},
    "without counters": lambda s: {
        "state_dict": {n: t for n, t in s.items() if not n.endswith("num_batches_tracked")}
    },
    "parts of their own": lambda s: {
        part: {n.removeprefix(f"{part}."): t for n, t in s.items() if n.startswith(f"{part}.")}
        for part in ("w_encoder", "hypernet", "w_bar_encoder")
    },
}


@pytest.fixture(scope="module")
def whole(parts: dict[str, Path]) -> tuple[State, State]:
    """What ``hyper`` holds, and the model that comes of it."""
    content = dict(content_of(parts["hyper"])["state_dict"])
    return content, load_hyperinverter(parts["hyper"], parts["generator"]).state_dict()


@pytest.mark.parametrize("wrapping", MODELS)
def test_a_hyperinverter_in_every_wrapping(
    wrapping: str, parts: dict[str, Path], whole: tuple[State, State], tmp_path: Path
) -> None:
    content, expected = whole
    path = saved(MODELS[wrapping](content), tmp_path / "hyper.pt")
    state = load_hyperinverter(path, parts["generator"]).state_dict()
    assert state.keys() == expected.keys()
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert all(torch.equal(state[name], expected[name]) for name in state.keys() - counters)


def test_an_encoder_that_does_not_start_from_the_mean(
    parts: dict[str, Path], photo: Tensor, tmp_path: Path
) -> None:
    def path(opts: Any) -> Path:
        return official.write_w_encoder(tmp_path / "w.pt", "resnet34", SHAPE.w_dim, opts=opts)

    generator = load_generator(parts["generator"])
    for said in (True, False):
        inverter = load_w_inverter(path({"start_from_latent_avg": said}), generator)
        offset = inverter.encoder(photo)
        expected = generator.w_avg + offset if said else offset
        assert_close(inverter.invert(photo).w, expected, rtol=0, atol=0)
        assert describe(inverter).w_encoder.from_mean is said
    off = path(argparse.Namespace(start_from_latent_avg=False))
    model = load_hyperinverter(generator=generator, w_encoder=off, hyper=parts["hyper"])
    assert describe(model).w_encoder.from_mean is False
    assert_close(model.w_inverter.encode(photo), model.w_inverter.encoder(photo))
    with pytest.raises(UserError, match="start_from_latent_avg=often, which is neither true nor false"):
        load_w_encoder(path({"start_from_latent_avg": "often"}))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_rounding_is_not_another_w_encoder(
    kind: torch.dtype, parts: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = content_of(parts["w_encoder"])
    content["state_dict"] = {
        name: tensor.to(kind) if tensor.is_floating_point() else tensor + 1  # counters do not matter
        for name, tensor in content["state_dict"].items()
    }
    w_encoder = saved(content, tmp_path / "w.pt")
    with caplog.at_level(logging.WARNING):
        load_hyperinverter(generator=parts["generator"], w_encoder=w_encoder, hyper=parts["hyper"])
    assert "another W encoder" not in caplog.text
    content["state_dict"]["encoder.linear.bias"] = content["state_dict"]["encoder.linear.bias"] * 1.1
    with caplog.at_level(logging.WARNING):
        load_hyperinverter(
            generator=parts["generator"], w_encoder=saved(content, w_encoder), hyper=parts["hyper"]
        )
    assert "another W encoder" in caplog.text


# What is not readable is named ------------------------------------------------------------------------------


def loaders() -> list[Callable[[Path], Any]]:
    return [
        load_generator,
        load_discriminator,
        load_w_encoder,
        lambda path: load_hyperinverter(path, "digiface"),
    ]


def test_archives_are_named_with_the_way_to_unpack_them(tmp_path: Path) -> None:
    network = official.write_nvidia(tmp_path / "net.pkl", SHAPE)
    zipped, compressed = tmp_path / "net.zip", tmp_path / "net.pkl.gz"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.write(network, "net.pkl")
    compressed.write_bytes(gzip.compress(network.read_bytes()))
    arrays = tmp_path / "net.npz"
    np.savez(arrays, a=np.zeros(3))
    (tmp_path / "net.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(100))
    (tmp_path / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    for path, told in (
        (zipped, r"is a zip archive that holds net.pkl.*; unpack it: unzip '.*net.zip'"),
        (compressed, "is compressed with gzip.*; unpack it: gunzip"),
        (arrays, "is an archive of NumPy arrays"),
        (tmp_path / "net.7z", "is compressed with 7-Zip.*; unpack it: 7z x"),
        (tmp_path / "net.h5", "is an HDF5 file"),
    ):
        for load in loaders():
            with pytest.raises(UserError, match=told) as sentence:
                load(path)
            assert "\n" not in str(sentence.value)


def test_photos_in_an_archive_or_a_database_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ffhq.zip", "w") as archive:
        archive.writestr("dataset.json", "{}")
        for i in range(3):
            archive.writestr(f"00000/img{i}.png", b"")
    with pytest.raises(
        UserError, match=r"is a zip archive that holds 3 photos; unpack it: unzip .*data.root="
    ):
        list_photos(tmp_path / "ffhq.zip")
    (tmp_path / "church_lmdb").mkdir()
    (tmp_path / "church_lmdb" / "data.mdb").write_bytes(b"")
    with pytest.raises(UserError, match="is an LMDB database, not a folder of photos; .*data.root="):
        list_photos(tmp_path / "church_lmdb")
    with pytest.raises(UserError, match=r"church_lmdb is a folder; name the generator's file"):
        load_generator(tmp_path / "church_lmdb")


@pytest.mark.parametrize("layout", ["rosinality", "nvidia"])
@pytest.mark.parametrize(("side", "pixels"), [((4, 2), "32x16"), ((2, 4), "16x32")])
def test_generators_of_images_that_are_not_square(
    side: tuple[int, int], pixels: str, layout: str, tmp_path: Path
) -> None:
    """As StyleGAN-Human, 1024x512 from a constant of 4x2."""
    state = official.generator_state(SHAPE)
    state["synthesis.b4.const"] = torch.zeros(8, *side)
    for name in [name for name in state if name.endswith("noise_const")]:
        rows, columns = state[name].shape
        state[name] = torch.zeros(rows * side[0] // 4, columns * side[1] // 4)
    path = official.write_nvidia(tmp_path / "net.pkl", SHAPE, state=state)
    if layout == "rosinality":
        theirs = official.rosinality_state(SHAPE) | {"input.input": torch.zeros(1, 8, *side)}
        path = official.write_rosinality(tmp_path / "net.pt", SHAPE, g_ema=theirs)
    with pytest.raises(UserError, match=rf"not square \({pixels} pixels\): they are not supported; give"):
        load_generator(path)


def test_layouts_that_are_not_read_are_named(tmp_path: Path) -> None:
    basicsr = {"style_mlp.1.weight": torch.zeros(1), "constant_input.weight": torch.zeros(1)}
    with pytest.raises(UserError, match="with the names of BasicSR, which are not read; give"):
        load_generator(saved({"params_ema": basicsr}, tmp_path / "net.pth"))
    stylegan3 = {"synthesis.input.weight": torch.zeros(1), "synthesis.L0_36_512.weight": torch.zeros(1)}
    with pytest.raises(UserError, match="is a StyleGAN3 network"):
        load_generator(saved({"G_ema": stylegan3}, tmp_path / "net.pth"))


# Bounds ------------------------------------------------------------------------------------------------------


def test_containers_that_contain_each_other_are_looked_into_once() -> None:
    content: dict[str, Any] = {}
    keys = ("state_dict", "model", "g_ema", "params", "net")
    content.update({key: content for key in keys})
    chain: dict[str, Any] = content
    for _ in range(50):
        chain = {key: chain for key in keys}
    asked: list[int] = []
    assert unwrap(chain, lambda names: bool(asked.append(len(names))), ("g_ema",)) is None
    assert len(asked) < 2000


def test_the_file_with_two_wrappings_is_read_by_the_safe_reader_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr(pickle, "load", None)
    path = tmp_path / "net.pt"
    torch.save({"state_dict": renamed(official.rosinality_state(SHAPE), "module.")}, path)
    assert load_generator(path).img_resolution == 32
    assert find_discriminator(path) is None
    assert pickles.kind_of(path) == "torch"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, tmp_path: Path) -> None:
    state = official.rosinality_state(SHAPE)
    state["convs.0.conv.weight"] = torch.full_like(state["convs.0.conv.weight"], value)
    path = saved({"g_ema": state, "latent_avg": torch.zeros(SHAPE.w_dim)}, tmp_path / "broken.pt")
    with pytest.raises(
        UserError, match=r"not finite numbers \(synthesis.b8.conv0.weight\): it is damaged, or of a"
    ):
        load_generator(path)


@pytest.mark.parametrize("ending", [".pt", ".tar", ".ckpt"])
def test_a_torchscript_file_is_named_at_every_door(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{ending}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}.")
        archive.writestr("net/constants.pkl", b"\x80\x02)." + bytes(1000))
    for load in (*loaders(), load_inverter, read_checkpoint):
        with pytest.raises(
            UserError, match=r"is a TorchScript program.*torch.jit.load\(FILE\).state_dict\(\)"
        ):
            load(path)


def test_the_reason_why_a_checkpoint_is_not_read_is_in_words(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": PurePosixPath("x")}}, tmp_path / "last.ckpt")
    for content, said in ((None, "it is damaged, or holds something else"), (b"", "it is empty")):
        if content is not None:
            (tmp_path / "last.ckpt").write_bytes(content)
        with pytest.raises(UserError, match=rf"cannot be read as a checkpoint \({said}") as told:
            read_checkpoint(tmp_path / "last.ckpt")
        assert "Unreadable" not in str(told.value)
