"""Objects and files of a configuration."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hyperinverter import config
from hyperinverter.contracts import UserError


def test_build_makes_the_object_and_explains_a_wrong_leaf() -> None:
    fusion = "hyperinverter.networks.fusion.FilmFusion"
    built = config.build(OmegaConf.create({"_target_": fusion, "channels": 4}))
    assert type(built).__name__ == "FilmFusion"
    with pytest.raises(UserError, match=f"{fusion} cannot be built from the configuration: .*nights"):
        config.build(OmegaConf.create({"_target_": fusion, "nights": 2}))
    with pytest.raises(
        UserError, match=f"{fusion}s cannot be built from the configuration: there is no such"
    ):
        config.build(OmegaConf.create({"_target_": f"{fusion}s"}))


def test_saved_configuration_is_resolved_and_loads(tmp_path: Path) -> None:
    config.save(config.compose(["phase=2"]), tmp_path / "config.yaml")
    assert "${" not in (tmp_path / "config.yaml").read_text()
    assert config.load(tmp_path / "config.yaml").phase.number == 2
    (tmp_path / "config.yaml").write_text("seed: ${oc.env:HOME}\nname: ['\\\\${name}']\n")
    read = config.load(tmp_path / "config.yaml")  # of someone else: a reference would read this machine
    assert (read.seed, read.name[0]) == ("${oc.env:HOME}", r"\\${name}")
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="is not a readable configuration"):
        config.load(tmp_path / "config.yaml")
    with pytest.raises(UserError, match="give the folder of a run"):
        config.load(tmp_path / "absent.yaml")
