"""A whole run with two providers whose contract opens dimensions: the files explain each score, then and later."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.small_consortium import SmallConsortium, concordat

pytestmark = pytest.mark.process

RECIPE = """
open = ["dimensions"]

[sample]
seed = 7

[keys]
bits = 2048

[scorecard]
grades = "six"
reason_codes = 3

[parties.bank.dimensions]
means = ["bank_ratio", "bank_turnover"]

[parties.bureau.dimensions]
"历史" = ["bureau_late", "bureau_class"]
"""
COLUMNS = ("bank.means", "bank.bank", "bureau.bureau", "bureau.历史", "tax")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_score_is_the_base_and_the_points_of_all_dimensions(tmp_path: Path) -> None:
    consortium = SmallConsortium(tmp_path, 2)
    consortium.recipe = RECIPE
    ended = consortium.simulate()
    assert ended.returncode == 0, ended.text + ended.stderr
    model = json.loads((ended.out / "bank" / "model.json").read_bytes())
    base = model["points"]["base_points"]
    rows = _rows(ended.out / "bank" / "scores.csv")
    assert {name for name in rows[0] if name.startswith("points_")} == {f"points_{name}" for name in COLUMNS}
    for row in rows:
        assert int(row["score"]) == base + sum(int(row[f"points_{name}"]) for name in COLUMNS)
        lost = [int(row[f"lost_{place}"] or 0) for place in (1, 2, 3)]
        assert lost == sorted(lost, reverse=True)
    named = {row[f"reason_{place}"] for row in rows for place in (1, 2, 3)} - {""}
    own = {"bank_ratio", "bank_turnover", "bank_late", "bank_class"}
    assert named & own
    assert named & {"bureau.bureau", "bureau.历史", "tax"}
    assert named <= own | {"bureau.bureau", "bureau.历史", "tax"}

    report = json.loads((ended.out / "bank" / "report.json").read_bytes())
    assert report["judgement"]["provider_points"] == "each"
    without = {row["without"]: row["auc"] for row in report["judgement"]["contribution"]}
    assert set(without) == {None, "bank", "bureau", "tax", *COLUMNS[:4]}
    assert min(without["bureau"], without["tax"]) < without[None]
    shared = json.loads((ended.out / "report.json").read_bytes())
    assert [row["grade"] for row in shared["grades"]] == ["S", "A+", "A", "B", "C", "D"]
    lines = {
        (line["source"], line["what"]): line["numbers"]
        for line in shared["statement"]["bank"]
        if "opened" in line["what"]
    }
    opened = "opened dimensions: points of the provider by dimension, per row"
    assert (lines["bureau", opened], lines["tax", opened]) == (2 * len(rows), len(rows))
    for provider in ("bureau", "tax"):
        assert not any("opened dimensions" in line["what"] for line in shared["statement"][provider])

    wanted = {row["id"]: row for row in rows[:40]}
    (tmp_path / "ids.csv").write_text("id\n" + "\n".join(wanted), encoding="utf-8")
    scored = concordat(["score", "--out", str(ended.out), "--ids", str(tmp_path / "ids.csv"), "--json"], ended.out)
    assert scored.returncode == 0, scored.text + scored.stderr
    again = _rows(ended.out / "bank" / "scored.csv")
    assert len(again) == len(wanted)
    for row in again:
        same = [name for name in row if name.startswith(("score", "points_", "reason_", "lost_"))]
        assert {name: row[name] for name in same} == {name: wanted[row["id"]][name] for name in same}
