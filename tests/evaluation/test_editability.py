"""Measures of edits tell an inverter that edits from one that does not, and know a perfect one."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from hyperinverter import load_inverter
from hyperinverter.checkpoints import save_hyperinverter
from hyperinverter.commands import main
from hyperinverter.contracts import Inversion, UserError
from hyperinverter.data.digiface import accepted_indices, sample_faces
from hyperinverter.data.transforms import to_tensor
from hyperinverter.editing import catalogue
from hyperinverter.editing.directions import Direction
from hyperinverter.evaluation.editability import PARTS, Editing, Edits, Way, end_of, equal_changes, relative
from hyperinverter.evaluation.measure import identity_of
from hyperinverter.evaluation.plane import keep_edits, read_edits
from hyperinverter.inversion.drawing import Drawing, Strength
from hyperinverter.inversion.phase2 import HyperInverter
from hyperinverter.inverters import load_inverter as named_inverter
from hyperinverter.judges.catalogue import build_judge
from hyperinverter.networks.generator import Generator


class Knowing(Drawing):
    """Gives back the code that a picture was drawn from."""

    def __init__(self, generator: Generator, w: Tensor) -> None:
        super().__init__()
        self._generator, self.w = [generator], w
        with torch.no_grad():
            self.drawn = generator.synthesis(w).clamp(-1, 1)

    @property
    def generator(self) -> Generator:
        return self._generator[0]

    @torch.no_grad()
    def invert(self, images: Tensor, strength: Strength = 1.0) -> Inversion:
        nearest = torch.cdist(images.flatten(1), self.drawn.flatten(1)).argmin(1)
        w = self.w[nearest]
        image = self.render(w)
        return Inversion(w, {}, image, image)


class Stubborn(Knowing):
    """Draws its inversion again whatever is asked."""

    def edit(self, inversion: Inversion, *asked: object, **options: object) -> Tensor:  # type: ignore[override]
        return inversion.image


@pytest.fixture(scope="module")
def editing() -> Editing:
    photos = to_tensor(sample_faces(accepted_indices()[:4]))
    judges = build_judge("st_lpips_alex"), build_judge("id_descriptor")
    model = load_inverter("digiface")
    return Editing(photos, model.generator, *judges, model)


def test_directions_are_those_of_the_domain(editing: Editing) -> None:
    assert [d.name for d in editing.ends] == ["yaw", "smile", "pc0"]
    assert editing.seen == ["yaw", "smile"]
    assert editing.kinds == ("plain", "odd")


def test_who_knows_the_code_makes_no_error_where_nothing_is_odd(editing: Editing) -> None:
    found = editing.measure(Knowing(editing.generator, editing.w))
    assert max(found.numbers["truth_l2_yaw_plain"]) < 1e-10
    assert max(found.numbers["truth_st_lpips_alex_smile_plain"]) < 1e-6
    assert min(found.numbers["truth_l2_yaw_odd"]) > 1e-5
    assert not found.curve  # it has no residuals


def test_who_does_not_edit_has_no_effect_and_errs_by_the_edit(editing: Editing) -> None:
    found = editing.measure(Stubborn(editing.generator, editing.w))
    assert found.numbers["effect_yaw"] == pytest.approx([0.0] * 4)
    shift = editing.ends[0].shift
    with torch.no_grad():
        before, after = (editing.generator.synthesis(w).clamp(-1, 1) for w in (editing.w, editing.w + shift))
    missed = (after - before).square().mean((1, 2, 3))
    assert found.numbers["truth_l2_yaw_plain"] == pytest.approx(missed.tolist(), rel=1e-4)
    assert found.ways["yaw"].reached() == 0
    assert not equal_changes({"one": found})


def test_strength_zero_of_phase_two_is_phase_one(editing: Editing) -> None:
    model = load_inverter("digiface")
    whole, first = editing.measure(model), editing.measure(model.w_inverter)
    assert [point[0] for point in whole.curve] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert whole.curve[0][1] == pytest.approx(sum(first.numbers["inversion_l2"]) / 4, rel=0.02)  # not clamped
    odd = [name for name in first.numbers if name.startswith("truth_l2_") and name.endswith("_odd")]
    errors = sum(sum(first.numbers[name]) for name in odd) / 4 / len(odd)
    assert whole.curve[0][2] == pytest.approx(errors, rel=1e-3)
    assert whole.curve[-1][1] < whole.curve[0][1]
    parts = relative({"one": first, "two": whole}, "one")
    assert whole.curve[-1][3] == pytest.approx(effect(whole), rel=1e-3)
    assert whole.curve[0][3] == pytest.approx(effect(first), rel=1e-3)
    assert parts["one"] == pytest.approx({"yaw": 1.0, "smile": 1.0})
    assert 0.3 < parts["two"]["yaw"] < 1.2


def effect(edits: Edits) -> float:
    return sum(sum(edits.numbers[f"effect_{name}"]) / 4 for name in ("yaw", "smile")) / 2


def test_a_mirror_image_is_a_known_edit(editing: Editing) -> None:
    mirrored = torch.cat([editing.photos, editing.photos.flip(-1)])

    class Copying(Knowing):
        """Draws the photo itself, and after an edit the one of the nearest code: flips are perfect."""

        def __init__(self) -> None:
            super().__init__(
                editing.generator, torch.randn(8, 128, generator=torch.Generator().manual_seed(1))
            )
            self.drawn = mirrored

        def draw_unseen(self, w: Tensor, *others: object, **maps: object) -> Tensor:  # type: ignore[override]
            return mirrored[torch.cdist(w, self.w).argmin(1)]

    rows = editing._flip(model := Copying(), editing.photos, model.invert(editing.photos))
    assert rows["flip_l2"].tolist() == pytest.approx([0.0] * 4)
    assert rows["flip_id_descriptor"].tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    stubborn = Stubborn(editing.generator, editing.w)
    missed = editing._flip(stubborn, editing.photos, stubborn.invert(editing.photos))
    image = stubborn.invert(editing.photos).image.clamp(-1, 1)
    wanted = (image - editing.photos.flip(-1)).square().mean((1, 2, 3))
    assert missed["flip_l2"].tolist() == pytest.approx(wanted.tolist())


def test_some_questions_of_several_models_have_the_same_answers(editing: Editing) -> None:
    knowing, stubborn = (kind(editing.generator, editing.w) for kind in (Knowing, Stubborn))
    done: list[int] = []
    found = editing.measure_together({"a": knowing, "b": stubborn}, done.append, ("effect", "back"))
    assert sum(done) == 2 * editing.steps()
    for label, model in (("a", knowing), ("b", stubborn)):
        whole = editing.measure(model)
        assert set(found[label].numbers) == {"effect_yaw", "effect_smile", "back_l2", "inversion_l2"}
        assert found[label].numbers == {name: whole.numbers[name] for name in found[label].numbers}
        assert found[label].ways == whole.ways


def test_without_judges_only_errors_and_ends_are_measured(editing: Editing) -> None:
    bare = Editing(editing.photos, editing.generator, None, None)
    bare.ends = bare.ends[:1]
    knowing = Knowing(editing.generator, editing.w)
    found = bare.measure_together({"a": knowing}, asked=("effect", "truth"))["a"]
    assert set(found.numbers) == {"effect_yaw", "truth_l2_yaw_plain"}
    assert found.numbers["effect_yaw"] == pytest.approx(editing.measure(knowing).numbers["effect_yaw"])
    assert not found.ways


def test_an_end_is_two_standard_deviations_or_what_is_safe() -> None:
    codes = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1.0])
    free = Direction("a", torch.tensor([0.5, 0.0]), safe=(-99, 99))
    assert end_of(free, codes).shift.tolist() == pytest.approx([6.0, 0.0], rel=0.05)
    assert end_of(Direction("b", free.shift, safe=(-4, 99)), codes).shift.tolist() == pytest.approx(
        [2.0, 0.0]
    )
    layers = Direction("c", torch.tensor([[0.0, 0.1], [0.5, 0.0]]), safe=(-99, 99))
    assert end_of(layers, codes).shift[1].tolist() == pytest.approx([6.0, 0.0], rel=0.05)


def test_identity_is_compared_at_a_change_that_all_reach() -> None:
    far = Way(list(PARTS), [-3.0, -2.0, -1.0, 0.5, 1.5, 2.5], [0.2, 0.4, 0.6, 0.8, 0.4, 0.3])
    near = Way(list(PARTS), [-0.6, -0.4, -0.2, 0.3, 0.6, 0.9], [0.5, 0.7, 0.9, 0.9, 0.8, 0.6])
    still = Way(list(PARTS), [0.0] * 6, [1.0] * 6)
    models = {
        name: Edits(ways={"yaw": way}) for name, way in (("far", far), ("near", near), ("still", still))
    }
    assert equal_changes(models) == {"yaw": pytest.approx(0.6)}
    assert equal_changes({"far": models["far"]}) == {"yaw": 1.0}
    assert far.identity_at(1.0) == pytest.approx((0.6 + 0.6) / 2)
    assert near.identity_at(0.6) == pytest.approx((0.5 + 0.8) / 2)
    assert math.isnan(near.identity_at(0.8))
    assert math.isnan(still.identity_at(0.6))


def test_what_was_measured_is_read_back(tmp_path: Path) -> None:
    way = Way(list(PARTS), [-1.0, -0.5, -0.2, 0.2, 0.5, 1.0], [0.5] * 6)
    edits = Edits({"back_l2": [0.1, 0.2]}, {"yaw": way}, [(0.0, 0.2, 0.3, 0.4)])
    keep_edits(tmp_path / "e.json", edits)
    assert read_edits(tmp_path / "e.json") == edits
    assert read_edits(tmp_path / "other.json") is None


def test_one_photo_is_too_few(editing: Editing) -> None:
    with pytest.raises(UserError, match="at least 2 photos"):
        Editing(editing.photos[:1], editing.generator, editing.perceptual, None)


def test_the_command_writes_tables_and_the_plane(tmp_path: Path) -> None:
    typed = ["evaluate", "digiface", "--n", "16", "--edits", "2", "--out", str(tmp_path / "e")]
    assert main(typed) == 0
    with (tmp_path / "e" / "edits_per_photo.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 2
    assert {row["model"] for row in rows} == {"digiface"}
    with (tmp_path / "e" / "edits.csv").open(newline="") as lines:
        (table,) = csv.DictReader(lines)
    mean = sum(float(row["truth_l2_yaw_odd"]) for row in rows) / 2
    assert float(table["truth_l2_yaw_odd"]) == pytest.approx(mean, rel=1e-6)
    with Image.open(tmp_path / "e" / "plane.png") as plane:
        assert plane.size[0] > 1000
    assert not (tmp_path / "e" / "edits_pairs.csv").read_text().count("\n") > 1  # one model: no pairs
    with (tmp_path / "e" / "strengths.csv").open(newline="") as lines:
        strengths = list(csv.DictReader(lines))
    assert [float(row["strength"]) for row in strengths] == [0, 0.25, 0.5, 0.75, 1]
    assert float(strengths[-1]["l2"]) == pytest.approx(float(table["inversion_l2"]), rel=1e-3)
    assert "effect_smile" in (tmp_path / "e" / "edits.md").read_text()


def test_odd_details_may_come_from_a_model_that_is_not_in_the_table(tmp_path: Path) -> None:
    typed = [
        "evaluate",
        "phase1@digiface",
        "--n",
        "2",
        "--edits",
        "2",
        "--without",
        "frechet_effnet_lite0",
        "--without",
        "kernel_effnet_lite0",
    ]
    assert main([*typed, "--odd", "digiface_best", "--out", str(tmp_path / "e")]) == 0
    said = (tmp_path / "e" / "edits.md").read_text()
    assert "`digiface_best` found on other photos" in said
    assert "| truth_l2_yaw_odd |" in said


def test_odd_faces_are_made_once_for_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = to_tensor(sample_faces(accepted_indices()[:10]))
    models = {name: load_inverter(name) for name in ("digiface", "digiface_best")}
    maker, calls = load_inverter("digiface"), list[int]()
    invert = maker.invert
    monkeypatch.setattr(maker, "invert", lambda images: (calls.append(len(images)), invert(images))[1])
    editing = Editing(photos, maker.generator, None, None, maker)
    together = editing.measure_together(models, asked=("truth",))
    assert calls == [8, 2]
    again = Editing(photos, maker.generator, None, None, load_inverter("digiface"))
    alone = again.measure_together({"": models["digiface_best"]}, asked=("truth",))[""]
    assert alone.numbers == together["digiface_best"].numbers


def test_a_model_without_residuals_makes_no_odd_details(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [
        "evaluate",
        "digiface",
        "--n",
        "2",
        "--edits",
        "2",
        "--odd",
        "phase1@digiface",
        "--out",
        str(tmp_path),
    ]
    assert main(typed) == 1
    assert "--odd=phase1@digiface: it finds no residuals" in capsys.readouterr().err


def test_a_self_contained_file_of_the_built_in_domain_is_known_for_what_it_is(
    editing: Editing, tmp_path: Path
) -> None:
    model = load_inverter("digiface")
    assert isinstance(model, HyperInverter)
    save_hyperinverter(model, tmp_path / "model.safetensors")
    again = load_inverter(tmp_path / "model.safetensors")
    own = Editing(editing.photos[:2], again.generator, editing.perceptual, None)
    assert own.seen == ["yaw", "smile"]
    assert "smile" in catalogue.for_generator(again.generator)
    refined = named_inverter(
        f"{tmp_path / 'model.safetensors'}+pti:2"
    )  # needs no weights but those that ship
    assert refined.source.endswith("+pti:2")


def test_a_model_whose_edits_leave_less_is_another_model() -> None:
    """Numbers that are kept of one must not stand for the other."""
    model = load_inverter("digiface")
    before = identity_of(model)
    model.edit_strength = 0.5
    assert identity_of(model) == {**before, "edit_strength": "0.5"}
    model.rule = "warp"
    assert identity_of(model) == {**before, "edit_strength": "0.5", "rule": "warp"}
