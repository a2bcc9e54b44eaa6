"""What people type: short spellings, every option, and the sentence each mistake gets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hyperinverter import config, runcard
from hyperinverter.contracts import UserError

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
GROUPS = {
    group: [o for o in config.options_of(CONF, group) if o[0] != "_"] for group in config.groups_of(CONF)
}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["phase=2", "+sweep"], ["phase='2'", "+sweep=default"]),
        (["+sweep=fusion", "phase='1'"], ["+sweep=fusion", "phase='1'"]),
        (["phase=1,2"], ["phase='1','2'"]),
        (["data.root=photos"], ["data=folder", "data.root=photos"]),
        (["data=folder", "data.root=photos"], ["data=folder", "data.root=photos"]),
        (["fusion=add,film", "-m", "seed=3"], ["-m", "fusion=add,film", "seed=3"]),
        (["domain=faces", "data.root=photos"], ["domain=faces", "data.root=photos"]),
        (["experiment=paper_faces", "data.root=photos"], ["experiment=paper_faces", "data.root=photos"]),
        (["generator=digiface"], ["generator=digiface"]),
        (
            ["generator=nets/cats.pkl", "data.root=photos"],
            ["domain=own", "generator.path=nets/cats.pkl", "data.root=photos"],
        ),
        (["generator=my cats.pt", "domain=faces"], ["generator.path='my cats.pt'", "domain=faces"]),
    ],
)
def test_short_spellings(typed: list[str], meant: list[str]) -> None:
    assert config.normalise_overrides(typed) == meant


def test_resume_brings_back_what_was_typed_and_the_folder(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    run.mkdir()
    (run / "run.json").write_text('{"overrides": ["phase=\'2\'", "fusion=add", "resume=older"]}')
    normal = config.normalise_overrides([f"resume={run}", "trainer.log_every=5"])
    assert normal[:2] == ["phase='2'", "fusion=add"]
    assert normal[-2:] == ["hydra.mode=RUN", f"hydra.run.dir='{run}'"]
    assert "resume=older" not in normal
    with pytest.raises(UserError, match="is not a run: .*run.json is missing"):
        config.normalise_overrides([f"resume={tmp_path}"])


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "a b",
        "it's",
        "a,b",
        "x=1",
        "",
        "null",
        "3",
        3,
        0.5,
        1e-4,
        True,
        None,
        "a\\",
        "{x}",
        "[x]",
        "$x",
    ],
)
def test_quoted_values_come_back_the_same(value: object) -> None:
    override = config.parse_overrides([f"key={config.quote(value)}"])[0]
    assert override.value() == value or str(override.value()) == value


def test_quoted_lists_come_back_the_same() -> None:
    override = config.parse_overrides([f"key={config.quote(['b16.*', 'a b', 2])}"])[0]
    assert [str(item) for item in override.value()] == ["b16.*", "a b", "2"]


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, options in GROUPS.items() for o in options])
def test_every_option_composes_and_is_valid(group: str, option: str) -> None:
    plus = "+" if group == "sweep" else ""
    typed = ["phase=2", f"{plus}{group}={option}"]
    published = [name for name in GROUPS["experiment"] if name not in ("lite", "paper_digiface")]
    photos = ("folder", "faces", "churches", "own", *published)
    if group in ("data", "domain", "experiment") and option in photos:
        typed.append("data.root=x")
    if group in ("domain", "generator") and option == "own":
        typed.append("generator.path=x.pkl")
    if option == "custom":
        typed.append("coverage.include=[torgb]")
    cfg = config.compose(typed[1:] if group == "phase" else typed)
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
    # in steps: 500,000 in all, 8 photos each until the critic joins, 4 afterwards
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


def test_a_face_loss_where_there_are_no_faces_is_a_caution() -> None:
    faceless = ["domain=churches", "data.root=x", "judges.identity=id_arcface", "loss.id=0.1"]
    (caution,) = config.cautions(config.compose(faceless))
    assert "asks the face network id_arcface about churches" in caution
    assert "judges.identity=id_moco" in caution
    assert config.cautions(config.compose([*faceless, "domain.faces=true"])) == []
    assert config.cautions(config.compose([*faceless, "loss.id=0"])) == []
    assert config.cautions(config.compose(["domain=churches", "data.root=x", "loss.id=0.5"])) == []
    assert config.cautions(config.compose(["loss.id=0.1"])) == []


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (
            "fusion=conct",
            r"fusion has no option 'conct', did you mean 'concat'\? there are: add, attention, concat",
        ),
        ("fuson=add", r"there is no 'fuson'; did you mean fusion\?"),
        ("phase.kmig=3", r"there is no 'phase.kmig'; did you mean phase.kimg\?"),
        (
            "loss.zzz=1",
            r"there is no 'loss.zzz'.*loss has: adv, adv_batch_size, adv_from_kimg, id, l2, lpips",
        ),
        ("kimg=3", r"there is no 'kimg'; did you mean phase.kimg\?"),
        ("phase=3", r"phase has no option '3'; there are: 1, 2"),
        ("+sweep=fuson", r"sweep has no option 'fuson', did you mean 'fusion'\?"),
        ("+swep=fusion", r"there is no 'swep'; did you mean sweep\?"),
        ("+loss.idd=1", r"there is no 'loss.idd'; did you mean loss.id\?"),
        ("+fusion=add", r"has a plus too many: write fusion=add"),
        ("fusion=add,gated", r"gives several values to fusion.*\+sweep"),
        ("foo", r"cannot read the override 'foo': write KEY=VALUE"),
    ],
)
def test_a_typo_gets_the_nearest_name(typed: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as told:
        config.compose([typed])
    assert "\n" not in str(told.value)


def test_arguments_of_a_class_can_be_added() -> None:
    assert config.compose(["+phase.optimizer.weight_decay=0.01"]).phase.optimizer.weight_decay == 0.01


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("phase.kimg=0", "phase.kimg must be above 0, got 0"),
        ("phase.kimg=many", "phase.kimg must be a number, got 'many'"),
        ("phase.kimg=nan", "phase.kimg must be a number"),
        ("phase.batch_size=0", "phase.batch_size must be a whole number of at least 1, got 0"),
        ("phase.batch_size=1.5", "phase.batch_size must be a whole number"),
        (
            "phase.schedule=cosin",
            r"phase.schedule must be one of cosine, constant, got 'cosin', did you mean 'cosine'\?",
        ),
        ("loss.l2=-1", "loss.l2 must be at least 0"),
        ("loss.adv_batch_size=0", "loss.adv_batch_size must be a whole number of at least 1"),
        (
            "encoder.start=publishd",
            "encoder.start must be one of phase1, published, random.*did you mean 'published'",
        ),
        ("encoder.heads=levels", "encoder.heads must be one of layer, .*did you mean 'level'"),
        ("encoder.initial=0.5", "encoder.initial must be one of full, half, quarter, got 0.5"),
        ("domain.resolution=48", "power of two"),
        ("phase.monitor=train/l2", "must be a validation number"),
        ("phase.kimg=0.001", "less than one batch"),
        ("data.num_train=2", "do not fill one batch"),
        ("coverage=custom", "coverage.include has no value"),
        ("data=folder", "data.root has no value: add data.root="),
    ],
)
def test_values_that_cannot_work(typed: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        config.validate(config.compose(["phase=2", typed]))


def test_values_that_do_not_fit_each_other() -> None:
    with pytest.raises(UserError, match="the critic would join after loss.adv_from_kimg=50"):
        config.validate(config.compose(["phase=2", "loss.adv=0.1", "loss.adv_from_kimg=50"]))
    with pytest.raises(
        UserError, match="loss.id=0.1 needs a network that compares: use judges.identity=id_moco"
    ):
        config.validate(config.compose(["generator=x.pkl", "data.root=x", "loss.id=0.1"]))
    with pytest.raises(UserError, match="nothing compares image and photo"):
        config.validate(config.compose(["loss.l2=0", "loss.lpips=0", "loss.id=0"]))


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


def at_the_door(*typed: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), *typed]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_the_front_door_answers_a_typo_in_one_line_without_loading_torch() -> None:
    done = at_the_door("phase=2", "fusion=conct")
    assert done.returncode == 1
    assert done.stderr.startswith("error: fusion has no option 'conct', did you mean 'concat'?")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_debug_shows_the_traceback() -> None:
    done = at_the_door("fusion=conct", "debug=true")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "error: fusion has no option" in done.stderr


def test_help_lists_groups_and_keys_without_loading_torch() -> None:
    command = "import runpy, sys; sys.argv = ['train.py', '--help']\n"
    command += "try: runpy.run_path('train.py', run_name='__main__')\nexcept SystemExit: pass\n"
    command += "assert 'torch' not in sys.modules and 'pandas' not in sys.modules, 'slow start'"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "fusion: add, attention, concat" in done.stdout
    assert "python train.py phase=2 +sweep" in done.stdout
    assert "kimg:" in done.stdout


def test_a_flag_comes_first_whatever_is_added() -> None:
    typed = config.normalise_overrides(["phase=2", "-m", "data.root=photos", "fusion=add,film"])
    assert typed == ["-m", "data=folder", "phase='2'", "data.root=photos", "fusion=add,film"]


def test_auto_finds_the_newest_unfinished_run_of_the_same_command(tmp_path: Path) -> None:
    typed = ["phase=2", "fusion=add", f"paths.outputs={tmp_path}", "resume=auto"]
    assert "hydra.mode=RUN" not in config.normalise_overrides(typed)  # nothing there: a new run
    kept = ["phase='2'", "fusion=add", f"paths.outputs={tmp_path}"]
    described = [
        ("old", "2026-01-01", "failed", kept),
        ("new", "2026-01-02", "interrupted", [*reversed(kept), "resume=auto"]),
        ("done", "2026-01-03", "finished", kept),
        ("other", "2026-01-04", "interrupted", [*kept, "seed=1"]),
        ("busy", "2026-01-05", "running", kept),
    ]
    for name, started, status, overrides in described:
        (tmp_path / "runs" / name).mkdir(parents=True)
        card = {"started": started, "status": status, "overrides": overrides}
        (tmp_path / "runs" / name / "run.json").write_text(json.dumps(card))
    claim = runcard.hold(tmp_path / "runs" / "busy")
    assert claim is not None
    found = config.normalise_overrides(typed)
    assert found[-1] == f"hydra.run.dir={config.quote(str(tmp_path / 'runs' / 'new'))}"
    claim.close()
    free = config.normalise_overrides(typed)[-1]
    assert free == f"hydra.run.dir={config.quote(str(tmp_path / 'runs' / 'busy'))}"
