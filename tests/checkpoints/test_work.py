"""What is cheap to write must be cheap to refuse: every loader answers small hostile files within seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import official
import pytest
import torch
from official import Shape
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hyperinverter.checkpoints import load_discriminator, load_generator, load_hyperinverter
from hyperinverter.contracts import UserError
from hyperinverter.inversion.specification import ModelSpec

TINY = Shape(8, 3, 4, 1, (2, 2))
LEGACY = Path(__file__).resolve().parents[1] / "golden" / "legacy"
GENERATOR, MODEL = LEGACY / "generator.safetensors", LEGACY / "model_phase2.safetensors"


def answered(load: Callable[[Path], Any], path: Path) -> str:
    """The sentence a file is refused with, empty if it is read; either way it must be quick."""
    begin, sentence = time.process_time(), ""
    try:
        load(path)
    except UserError as error:
        sentence = str(error)
    assert time.process_time() - begin < 5
    assert sentence.isprintable()
    assert len(sentence) < 1000
    return sentence


def shared(levels: int = 60) -> Any:
    """A tuple of two tuples of two tuples, each the same one twice: endless to compare, hash or print."""
    value: Any = ("x",)
    for _ in range(levels):
        value = (value, value)
    return value


# Other people's networks ---------------------------------------------------------------------------------------

ATTRIBUTES = ("c_dim", "conv_clamp", "architecture", "activation", "use_noise", "bias_gain")
VALUES = {
    "shared": shared(),
    "lists": [[]] * 1000,
    "shared below": {"a": shared()},
    "long": "x" * 100_000,
    "escape code": "\x1b[2J",
}


@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("value", VALUES)
def test_attributes_of_layers(attribute: str, value: str, tmp_path: Path) -> None:
    said = {attribute: VALUES[value]}
    layers = {path: said for path in ("b8", "b8.conv0", "synthesis.b8", "synthesis.b8.conv0", "mapping.fc0")}
    layers["b4.mbstd"] = {"num_channels": VALUES[value], "group_size": VALUES[value]}
    for more in (layers, layers | {"": said}):
        path = official.write_nvidia(tmp_path / "net.pkl", TINY, more=more, discriminator_more=more)
        answered(load_generator, path)
        answered(load_discriminator, path)


def test_attributes_that_are_neither_number_nor_text_are_named(tmp_path: Path) -> None:
    more = {
        path: {"conv_clamp": shared()}
        for path in ("synthesis.b4.conv1", "synthesis.b8.conv1", "b4.conv", "b8.conv0")
    }
    path = official.write_nvidia(tmp_path / "net.pkl", TINY, more=more, discriminator_more=more)
    for load in (load_generator, load_discriminator):
        assert "whose conv_clamp is neither number nor text" in answered(load, path)


@pytest.mark.parametrize("group", ["_init_kwargs", "_parameters", "_buffers", "_modules"])
def test_groups_of_a_module(group: str, tmp_path: Path) -> None:
    for value in (shared(), {shared(3): 1}, {"x" * 100_000: 1}, {"a": shared()}):
        path = official.write_nvidia(tmp_path / "net.pkl", TINY, more={"": {group: value}})
        answered(load_generator, path)


@pytest.mark.parametrize("key", ["c_dim", "mapping_kwargs", "synthesis_kwargs", "channel_base"])
def test_arguments_of_a_constructor(key: str, tmp_path: Path) -> None:
    for value in (shared(), {"lr_multiplier": shared(), "activation": shared()}, 10**150):
        options = official.nvidia_options(TINY) | {key: value}
        answered(load_generator, official.write_nvidia(tmp_path / "net.pkl", TINY, options=options))


def test_noise_is_not_drawn_at_any_size(tmp_path: Path) -> None:
    """Files without noise maps: the sizes of the maps stand in names, which cost nothing."""
    state = {n: t for n, t in official.generator_state(TINY).items() if "noise_const" not in n}
    state["synthesis.b65536.conv0.weight"] = torch.zeros(1, 1, 3, 3)
    torch.save(state, tmp_path / "net.pt")
    assert "has a layer of 65536 px" in answered(load_generator, tmp_path / "net.pt")
    state = {n: t for n, t in official.rosinality_state(TINY).items() if not n.startswith("noises.")}
    state |= {f"to_rgbs.{i}.bias": torch.zeros(1) for i in range(16)}
    torch.save({"g_ema": state}, tmp_path / "net.pt")
    assert "px, which no network has" in answered(load_generator, tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["\x1b[2J\x07", "x" * 2_000_000, "line\nbreak"])
def test_names_of_tensors(name: str, tmp_path: Path) -> None:
    torch.save({"g_ema": official.rosinality_state(TINY) | {name: torch.zeros(1)}}, tmp_path / "net.pt")
    assert answered(load_generator, tmp_path / "net.pt")


# Descriptions of our own files ---------------------------------------------------------------------------------


def description() -> dict[str, Any]:
    """Of the model of version 0.1."""
    with safe_open(MODEL, framework="pt") as file:
        said: dict[str, Any] = json.loads(file.metadata()["model"])
        return said


DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a kernel again and again": lambda d: d["hypernet"].update(kernels=d["hypernet"]["kernels"] * 100_000),
    "a kernel twice": lambda d: d["hypernet"].update(kernels=d["hypernet"]["kernels"] * 2),
    "a kernel with a long name": lambda d: d["hypernet"].update(kernels=["x" * 1_000_000]),
    "many widths": lambda d: d["w_encoder"].update(backbone_args={"widths": [8] * 300_000}),
    "many widths of a generator": lambda d: d["generator"].update(widths=[8] * 300_000),
    "a list for a name": lambda d: d["w_encoder"].update(backbone=[["x"]]),
    "an escape code": lambda d: d["w_encoder"].update(backbone="\x1b[2J"),
    "a large hidden size": lambda d: d["hypernet"].update(hidden_dim=10**30),
    "many mapping layers": lambda d: d["generator"].update(mapping_layers=10**9),
    "an unknown option": lambda d: d.update({"\x1b" * 1000: 1}),
}


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_descriptions_are_bounded(kind: str, tmp_path: Path) -> None:
    said = description()
    DESCRIPTIONS[kind](said)
    save_file(load_file(MODEL), tmp_path / "model.safetensors", {"model": json.dumps(said)})
    assert answered(lambda file: load_hyperinverter(file, GENERATOR), tmp_path / "model.safetensors")


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 100_000, '{"generator":' * 5_000])
def test_a_description_that_is_nested_deeply(text: str, tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors", {"model": text, "config": text})
    for load in (load_generator, load_hyperinverter):
        assert answered(load, tmp_path / "model.safetensors")


ELSE = {
    "shared": shared(),
    "shared below": {"generator": shared()},
    "list": [1],
    "long": "x" * 100_000,
    "key": {1: 2},
}


@pytest.mark.parametrize("value", ELSE)
def test_a_checkpoint_whose_model_is_something_else(value: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {"inverter.a": torch.zeros(1)}, "model": ELSE[value]}, tmp_path / "last.ckpt")
    assert answered(lambda file: load_hyperinverter(file, GENERATOR), tmp_path / "last.ckpt")


def test_the_description_of_the_largest_model_fits() -> None:
    said = description()
    said["hypernet"]["kernels"] = [f"b{4 << b}.conv{i}.affine.weight" for b in range(9) for i in range(20)]
    assert ModelSpec.from_plain(said).hypernet is not None
