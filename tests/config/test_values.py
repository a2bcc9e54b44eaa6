"""Objects and files of a configuration."""

from pathlib import Path

import pytest

from hyperinverter import config
from hyperinverter.contracts import UserError


def test_build_makes_the_object_and_explains_a_wrong_leaf() -> None:
    from omegaconf import OmegaConf

    assert config.build(OmegaConf.create({"_target_": "datetime.timedelta", "days": 2}), hours=1).days == 2
    with pytest.raises(
        UserError, match="datetime.timedelta cannot be built from the configuration: .*nights"
    ):
        config.build(OmegaConf.create({"_target_": "datetime.timedelta", "nights": 2}))
    with pytest.raises(UserError, match="datetime.timedeltas cannot be built"):
        config.build(OmegaConf.create({"_target_": "datetime.timedeltas"}))


def test_saved_configuration_is_resolved_and_loads(tmp_path: Path) -> None:
    config.save(config.compose(["phase=2"]), tmp_path / "config.yaml")
    assert "${" not in (tmp_path / "config.yaml").read_text()
    assert config.load(tmp_path / "config.yaml").phase.number == 2
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match="is not a readable configuration"):
        config.load(tmp_path / "config.yaml")
    with pytest.raises(UserError, match="give the folder of a run"):
        config.load(tmp_path / "absent.yaml")
