from __future__ import annotations

from pathlib import Path

from hyperinverter_recipes.over_seeds import markdown, read

RECORDED = Path(__file__).parents[2] / "outputs" / "published" / "ablation"


def test_the_recorded_ablation_has_a_row_for_each_recipe() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown(read(RECORDED)).splitlines()
    ]
    by_name = {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}
    assert [*by_name] == ["phase1", "paper", "best_weights", "weights_alone", "features_alone", "best"]
    assert by_name["phase1"]["yaw effect, of phase I's"].startswith("1.0000 ")
    assert by_name["best"]["L2"].startswith("0.0071 ")
    assert by_name["paper"]["L2"].startswith("0.0288 ")
