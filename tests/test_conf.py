"""Every choice of conf/ becomes parts that fit: they assemble, learn, and come back from their file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import make_generator
from torch import Tensor
from torchvision import models

from hyperinverter import assembly, config
from hyperinverter.checkpoints import (
    load_generator,
    load_hyperinverter,
    load_w_inverter,
    save_generator,
    save_model,
)
from hyperinverter.checkpoints.registry import fetched_path
from hyperinverter.config import Config
from hyperinverter.contracts import UserError
from hyperinverter.inversion.specification import ModelSpec, build, describe
from hyperinverter.networks.generator import Generator
from hyperinverter_recipes.paper_scale import write_weights

CONF = Path(__file__).resolve().parents[1] / "conf"
NEEDS = {
    "coverage=none": ["features=8"],
    "coverage=custom": ["coverage.include=[b16.conv1,b64.torgb.affine.weight]"],
}


def options(group: str) -> list[str]:
    return [name for name in config.options_of(CONF, group) if not name.startswith("_")]


@lru_cache
def chosen(*choices: str) -> Config:
    """The small phase II run with these choices made."""
    narrow = ["hypernet.hidden_dim=4", "hypernet.channels=16", "hypernet.extractor_channels=8"]
    needed = [override for choice in choices for override in NEEDS.get(choice, [])]
    return config.compose(config.normalise_overrides(["phase=2", *narrow, *choices, *needed]))


@pytest.fixture(scope="module")
def v0(v0_file: Path) -> Generator:
    return load_generator(v0_file)


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def learn(model: Any, photo: Tensor, steps: int = 2) -> list[float]:
    model.train()
    optimizer = torch.optim.Adam(model.trainable_parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = (model(photo).image - photo).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("coverage", options("coverage"))
@pytest.mark.parametrize("fusion", options("fusion"))
def test_every_fusion_with_every_coverage_learns_and_comes_back(
    fusion: str, coverage: str, v0: Generator, phase1_file: Path, photo: Tensor, tmp_path: Path
) -> None:
    cfg = chosen(f"coverage={coverage}").copy()
    cfg.fusion = chosen(f"fusion={fusion}").fusion
    cfg.phase.from_run = str(phase1_file)
    model, source = assembly.hyper_inverter(cfg, v0)
    assert source["path"] == str(phase1_file)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = learn(model, photo)
    assert all(loss == loss and loss < 100 for loss in losses)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(name.startswith("w_inverter.") for name in changed)
    assert any(name.startswith("feature_encoder.") for name in changed)
    # not every tensor: so narrow a regressor may have all its ReLUs shut
    assert {name for name in before if name.endswith(".b2")} <= changed
    assert {name for name in before if name.startswith("feature_residuals.")} <= changed
    save_model(model, tmp_path / "model.safetensors", {})
    again = load_hyperinverter(tmp_path / "model.safetensors", v0)
    assert torch.equal(again.invert(photo).image, model.invert(photo).image)


@pytest.mark.parametrize(
    "encoder", [pytest.param(e, marks=[] if e == "tiny" else pytest.mark.slow) for e in options("encoder")]
)
def test_every_encoder_serves_both_phases(encoder: str, v0: Generator, photo: Tensor, tmp_path: Path) -> None:
    cfg = chosen(f"encoder={encoder}").copy()
    photos = torch.cat([photo, -photo])  # two: BatchNorm wants more than one value
    first = assembly.w_inverter(cfg, v0)
    learn(first, photos, steps=1)
    save_model(first, tmp_path / "phase1.safetensors", {})
    again = load_w_inverter(tmp_path / "phase1.safetensors", v0)
    assert torch.equal(again.invert(photos).image, first.invert(photos).image)
    cfg.phase.from_run = str(tmp_path / "phase1.safetensors")
    model, _ = assembly.hyper_inverter(cfg, v0)
    learn(model, photos, steps=1)
    save_model(model, tmp_path / "phase2.safetensors", {})
    loaded = load_hyperinverter(tmp_path / "phase2.safetensors", v0)
    assert torch.equal(loaded.invert(photos).image, model.invert(photos).image)
    assert torch.equal(loaded.invert(photos).w, first.invert(photos).w)


@pytest.mark.parametrize(
    "saving",
    [
        ("encoder.heads=resolution",),
        ("encoder.heads=level", "encoder.initial=quarter"),
        ("encoder.initial=half", "fusion=difference"),
        ("encoder.initial=joint", "fusion=photo_only", "features=8", "features.width=8"),
        ("experiment=lite",),
        ("experiment=best",),
        ("features=8_16", "features.rule=warp", "features.width=8", "features.scale=0.5"),
        ("features=16", "coverage=none", "encoder.initial=half", "encoder.heads=level"),
        ("experiment=best_weights",),
        ("experiment=best_weights_short",),
        ("features=own", "coverage=none"),
    ],
    ids=" ".join,
)
def test_every_saving_learns_and_comes_back(
    saving: tuple[str, ...], v0: Generator, phase1_file: Path, photo: Tensor, tmp_path: Path
) -> None:
    cfg = chosen(*saving).copy()
    config.validate(cfg)
    cfg.phase.from_run = str(phase1_file)
    model, _ = assembly.hyper_inverter(cfg, v0)
    assert (model.feature_encoder.heads, model.feature_encoder.initial) == (
        cfg.encoder.heads,
        cfg.encoder.initial,
    )
    before = {name: tensor.clone() for name, tensor in model.feature_encoder.state_dict().items()}
    losses = learn(model, photo)
    assert all(loss == loss and loss < 100 for loss in losses)
    assert any(not torch.equal(t, before[n]) for n, t in model.feature_encoder.state_dict().items())
    save_model(model, tmp_path / "model.safetensors", {})
    again = load_hyperinverter(tmp_path / "model.safetensors", v0)
    assert torch.equal(again.invert(photo).image, model.invert(photo).image)


def test_savings_are_off_by_default_and_in_files_from_before(v0: Generator, phase1_file: Path) -> None:
    cfg = chosen().copy()
    cfg.phase.from_run = str(phase1_file)
    model, _ = assembly.hyper_inverter(cfg, v0)
    assert (model.feature_encoder.heads, model.feature_encoder.initial) == ("layer", "full")
    described = describe(model).plain()
    del described["features"]["heads"], described["features"]["initial"]  # as older files have it
    built = build(ModelSpec.from_plain(described), v0)
    assert list(built.state_dict()) == list(model.state_dict())
    assert built.feature_encoder.initial == "full"


@pytest.mark.parametrize("phase", options("phase"))
def test_whole_run_assembles(phase: str, v0_file: Path, phase1_file: Path, tmp_path: Path) -> None:
    typed = [f"phase={phase}", f"generator.path={v0_file}", f"phase.from_run={phase1_file}"]
    weights = ["loss.l2=1", "loss.lpips=0.1", "loss.id=0.1", "loss.adv=0.005", "loss.adv_from_kimg=0.1"]
    cfg = config.compose([*typed, *weights, f"paths.cache={tmp_path}"])
    assembled = assembly.build(cfg)
    expected = {"inverter", "images_seen"}
    if phase == "2":
        expected |= {"discriminator", "discriminator_r1"}
    assert {name.split(".")[0] for name in assembled.task.state_dict()} == expected
    assert set(assembled.loaded) == ({"generator", "phase1"} if phase == "2" else {"generator"})
    assert all(len(entry["sha256"]) == 64 for entry in assembled.loaded.values())
    assert set(assembled.task.loss.terms) == {"l2", "lpips", "id"}
    assert assembled.task.schedule.images == round(cfg.phase.kimg * 1000)


@pytest.mark.parametrize(
    ("weights", "terms"),
    [({"l2": 1}, {"l2"}), ({"l2": 0, "lpips": 1}, {"lpips"}), ({"l2": 0, "id": 0.5}, {"id"})],
)
def test_zero_weight_builds_nothing(
    weights: dict[str, float], terms: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    judge = assembly.judge
    monkeypatch.setattr(assembly, "judge", lambda label, cfg: built.append(label) or judge(label, cfg))
    typed = {f"loss.{name}": weights.get(name, 0) for name in ("l2", "lpips", "id")}
    cfg = config.compose([f"{key}={value}" for key, value in typed.items()])
    assert set(assembly.reconstruction_loss(cfg).terms) == terms
    labels = {"lpips": str(cfg.judges.perceptual), "id": str(cfg.judges.identity)}
    assert built == [labels[term] for term in terms if term in labels]


def test_no_discriminator_without_its_weight(v0_file: Path, phase1_file: Path, tmp_path: Path) -> None:
    typed = [f"generator.path={v0_file}", f"phase.from_run={phase1_file}", f"paths.cache={tmp_path}"]
    task = assembly.build(config.compose(["phase=2", *typed])).task
    assert task.discriminator is None
    assert task.automatic_optimization


def test_parts_that_do_not_fit(v0: Generator, v0_file: Path, phase1_file: Path) -> None:
    cfg = config.compose(["domain.resolution=32", f"generator.path={v0_file}"])
    with pytest.raises(UserError, match=r"draws 64 px, domain.resolution is 32; set domain.resolution=64 or"):
        assembly.build(cfg)
    cfg = config.compose(["phase=2", "coverage=custom", "coverage.include=[b128.conv0]"])
    cfg.phase.from_run = str(phase1_file)
    with pytest.raises(
        UserError, match=r"'b128.conv0' selects no kernel .* choose from convs, .*b64.torgb.weight"
    ):
        assembly.hyper_inverter(cfg, v0)
    with pytest.raises(UserError, match=r"there is no judge called 'lpipz'; there are: .*lpips_alex"):
        assembly.judge("lpipz", cfg)


def test_phase_two_begins_with_the_backbone_of_phase_one(v0: Generator, phase1_file: Path) -> None:
    def backbones(start: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        cfg = chosen("encoder.features_backbone=null", f"encoder.start={start}").copy()
        cfg.phase.from_run = str(phase1_file)
        model, _ = assembly.hyper_inverter(cfg, v0)
        return model.w_inverter.encoder.backbone.state_dict(), model.feature_encoder.backbone.state_dict()

    first, second = backbones("phase1")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(first[name].data_ptr() != second[name].data_ptr() for name in first), (
        "phase I must not learn along"
    )
    first, second = backbones("random")
    assert not torch.equal(first["stem.weight"], second["stem.weight"])


def test_backbones_of_different_kinds_or_widths_cannot_share_weights(
    v0: Generator, phase1_file: Path
) -> None:
    for choice, sentence in (
        (
            "encoder=resnet34",
            r"phase I was trained with TinyBackbone, phase II has ResNet34, .*encoder.start=random",
        ),
        (
            "encoder.start=phase1",  # the default feature encoder is narrower than phase I's
            r"backbone .* of another shape than phase I's.*encoder.start=random",
        ),
    ):
        cfg = chosen(choice).copy()
        cfg.phase.from_run = str(phase1_file)
        with pytest.raises(UserError, match=sentence):
            assembly.hyper_inverter(cfg, v0)


def test_a_generator_file_and_a_folder_are_enough(tmp_path: Path, photo_folder: Path) -> None:
    save_generator(make_generator(32), tmp_path / "cats.safetensors", {})
    places = [
        f"generator={tmp_path / 'cats.safetensors'}",
        f"data.root={photo_folder}",
        f"paths.cache={tmp_path}",
    ]
    cfg = config.compose([*places, "hypernet.hidden_dim=4"])
    config.validate(cfg)
    first = assembly.build(cfg)
    assert cfg.domain.resolution is None
    assert first.task.inverter.resolution == 32
    assert first.data.resolution == 32
    assert first.task.inverter.encoder.linear.weight.shape[0] == 16  # the generator's own width of w
    save_model(first.task.inverter, tmp_path / "phase1.safetensors", {})
    cfg = config.compose(
        ["phase=2", *places, "hypernet.hidden_dim=4", f"phase.from_run={tmp_path / 'phase1.safetensors'}"]
    )
    model = assembly.build(cfg).task.inverter
    assert {spec.name for spec in model.hypernet.kernels} == {
        spec.name for spec in make_generator(32).kernels() if ".affine." not in spec.name
    }


def test_built_in_faces_want_a_generator_of_their_size(tmp_path: Path) -> None:
    save_generator(make_generator(32), tmp_path / "cats.safetensors", {})
    with pytest.raises(
        UserError, match=r"draws 32 px and the built-in faces have 64: give photos .*data.root=FOLDER"
    ):
        assembly.build(config.compose([f"generator.path={tmp_path / 'cats.safetensors'}"]))


def test_published_starts_reach_both_phases(tmp_path: Path) -> None:
    state = models.resnet34(weights=None).state_dict()
    file = fetched_path("start_resnet34", tmp_path)
    file.parent.mkdir()
    torch.save(state, file)
    generator = make_generator(32)
    cfg = config.compose(
        ["phase=2", "domain=own", "generator.path=x.pkl", "data.root=x", f"paths.cache={tmp_path}"]
    )
    cfg.encoder.start = "published"
    cfg.hypernet.hidden_dim = 4
    first = assembly.w_inverter(cfg, generator)
    assert torch.equal(first.encoder.backbone.body[3].conv1.weight, state["layer2.0.conv1.weight"])
    with torch.no_grad():
        first.encoder.backbone.conv1.weight.zero_()  # phase I has learnt since
    save_model(first, tmp_path / "phase1.safetensors", {})
    cfg.phase.from_run = str(tmp_path / "phase1.safetensors")
    second, _ = assembly.hyper_inverter(cfg, generator)
    assert torch.equal(second.feature_encoder.backbone.conv1.weight, state["conv1.weight"])
    cfg.encoder.start_path = str(tmp_path / "elsewhere.pth")
    with pytest.raises(
        UserError, match=r"start_resnet34 needs resnet34-333f7ec4.pth.*elsewhere.pth: fetch it with"
    ):
        assembly.w_inverter(cfg, generator)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["1", "2"])
@pytest.mark.parametrize("domain", ["faces", "churches"])
def test_paper_experiments_assemble(domain: str, phase: str, tmp_path: Path) -> None:
    places = write_weights(domain, 64, tmp_path)
    typed = [f"experiment=paper_{domain}", f"phase={phase}", "domain.resolution=64", "trainer=cpu"]
    task = assembly.build(config.compose([*typed, *places])).task
    assert set(task.loss.terms) == {"l2", "lpips", "id"}
    assert task.loss.terms["id"].judge.label == {"faces": "id_arcface", "churches": "id_moco"}[domain]
    if phase == "2":
        regressors = sum(p.numel() for p in task.inverter.hypernet.parameters())
        assert regressors == 138_860_303  # published, for 64 px and D = 128
        assert task.adv_batch_size == 4
        assert sum(p.numel() for p in task.discriminator.parameters()) == 26_488_833


def test_every_key_has_an_entry_in_the_table_of_resumed_settings() -> None:
    """A new key needs one line in ``config/resuming.py``: whether a resumed run takes its new value."""
    keys: dict[str, Path] = {}
    for path in CONF.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        group = "" if "@package _global_" in text else path.parent.relative_to(CONF).as_posix()
        prefix = "" if group in ("", ".") else f"{group.replace('/', '.')}."
        node = yaml.safe_load(text) or {}
        node.pop("defaults", None)
        keys |= {f"{prefix}{key}": path for key in yaml_leaves(node)}
    assert len(keys) > 100
    missing = {key: str(path.relative_to(CONF)) for key, path in keys.items() if config.rule(key) is None}
    assert not missing
    known = {key for key in config.RESUMED for leaf in keys if leaf == key or leaf.startswith(f"{key}.")}
    typed_only = {"judges.lpips_path", "judges.identity_path"}  # written with a plus
    assert set(config.RESUMED) - known == typed_only


def yaml_leaves(node: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in node.items():
        found += (
            yaml_leaves(value, f"{prefix}{name}.")
            if isinstance(value, dict) and value
            else [f"{prefix}{name}"]
        )
    return found
