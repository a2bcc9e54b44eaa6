"""Every option of conf/ makes a valid configuration, and the paper's are as published."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hyperinverter import config

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
GROUPS = {
    group: [o for o in config.options_of(CONF, group) if o[0] != "_"] for group in config.groups_of(CONF)
}


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, options in GROUPS.items() for o in options])
def test_every_option_composes_and_is_valid(group: str, option: str) -> None:
    plus = "+" if group == "sweep" else ""
    typed = ["phase=2", f"{plus}{group}={option}"]
    published = [
        name for name in GROUPS["experiment"] if name.startswith("paper_") and name != "paper_digiface"
    ]
    photos = ("folder", "faces", "churches", "own", "best_faces", *published)
    if group in ("data", "domain", "experiment") and option in photos:
        typed.append("data.root=x")
    if group in ("domain", "generator") and option == "own":
        typed.append("generator.path=x.pkl")
    if option == "custom":
        typed.append("coverage.include=[torgb]")
    cfg = config.compose(typed[1:] if group == "phase" or option in ("psp", "e4e", "restyle") else typed)
    config.validate(cfg)


def test_the_paper_setting_and_wandb_are_the_default() -> None:
    cfg = config.compose(["phase=2"])
    assert cfg.fusion._target_.endswith("ConcatFusion")
    assert list(cfg.coverage.include) == ["convs_torgb"]
    assert (cfg.loss.l2, cfg.loss.adv) == (1.0, 0.0)  # digiface sets its own lpips and id: other judges
    assert (cfg.loss.r1_gamma, cfg.loss.r1_every) == (10, 16)
    assert cfg.logger.kind == "wandb"
    assert cfg.phase.number == 2


@pytest.mark.parametrize("domain", ["faces", "churches"])
def test_the_papers_experiments_are_as_published(domain: str) -> None:
    first = config.compose([f"experiment=paper_{domain}", "data.root=x"])
    cfg = config.compose([f"experiment=paper_{domain}", "data.root=x", "phase=2"])
    for phase in (first, cfg):
        config.validate(phase)
        assert config.cautions(phase) == []
        assert (phase.loss.l2, phase.loss.lpips) == (1.0, 0.8)
        assert phase.loss.id == {"faces": 0.1, "churches": 0.5}[domain]
        assert phase.judges.identity == {"faces": "id_arcface", "churches": "id_moco"}[domain]
        assert phase.judges.perceptual == "lpips_alex"
        assert phase.domain.resolution == {"faces": 1024, "churches": 256}[domain]
        assert phase.encoder.backbone._target_.endswith({"faces": "IRSE50", "churches": "ResNet34"}[domain])
        assert (phase.encoder.head, phase.encoder.start) == ("pool", "published")
        assert phase.phase.optimizer._target_ == "torch.optim.Adam"
        assert (phase.phase.optimizer.lr, list(phase.phase.optimizer.betas)) == (1e-4, [0.9, 0.999])
        assert (phase.phase.schedule, phase.phase.warmup_kimg, phase.trainer.precision) == (
            "constant",
            0,
            "32-true",
        )
        assert phase.phase.batch_size == 8
        assert phase.data.flip
        assert phase.data.resize == "bilinear"
    assert first.loss.adv == 0
    assert (cfg.hypernet.hidden_dim, cfg.hypernet.channels, cfg.hypernet.init) == (128, 512, "paper")
    assert list(cfg.coverage.include) == ["convs_torgb"]
    assert (cfg.loss.r1_gamma, cfg.loss.r1_every) == ({"faces": 10, "churches": 100}[domain], 16)
    assert cfg.loss.adv == {"faces": 0.005, "churches": 0.15}[domain]
    # in steps: 500,000 in all, 8 photos each until the discriminator joins, 4 afterwards
    alone = cfg.loss.adv_from_kimg * 1000 / cfg.phase.batch_size
    assert alone == {"faces": 200_000, "churches": 100_000}[domain]
    assert alone + (cfg.phase.kimg - cfg.loss.adv_from_kimg) * 1000 / cfg.loss.adv_batch_size == 500_000


@pytest.mark.parametrize("domain", ["faces", "churches"])
@pytest.mark.parametrize("phase", ["1", "2"])
def test_small_experiments_change_size_only(domain: str, phase: str) -> None:
    typed = [f"phase={phase}", "data.root=x"]
    full = config.compose([f"experiment=paper_{domain}", *typed])
    small = config.compose([f"experiment=paper_{domain}_small", *typed])
    config.validate(small)
    for group in ("domain", "judges", "encoder", "coverage", "fusion", "generator"):
        assert small[group] == full[group], group
    for key in ("l2", "lpips", "id", "adv", "adv_from_kimg", "r1_gamma", "r1_every"):
        assert small.loss[key] == full.loss[key], key
    assert small.phase.kimg == full.phase.kimg
    assert small.phase.batch_size < full.phase.batch_size


def test_what_is_typed_wins_over_an_experiment() -> None:
    typed = ["experiment=paper_faces", "data.root=x", "phase=2", "phase.kimg=2000", "loss.adv_batch_size=2"]
    cfg = config.compose([*typed, "encoder=tiny", "trainer=cpu"])
    assert (cfg.phase.kimg, cfg.loss.adv_batch_size, cfg.trainer.accelerator) == (2000, 2, "cpu")
    assert cfg.encoder.backbone._target_.endswith("TinyBackbone")


@pytest.mark.parametrize("study", GROUPS["sweep"])
def test_a_study_names_options_that_there_are(study: str) -> None:
    """YAML reads ``8_16`` without quotes as the number 816."""
    factors = OmegaConf.load(CONF / "sweep" / f"{study}.yaml").hydra.sweeper.factors
    for group in set(factors) & set(GROUPS):
        assert {str(value) for value in factors[group]} <= set(GROUPS[group])
