"""A whole simulation under a recipe of a credit lab: optimal bins, own splits, policies, screening."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from party_agent import model
from party_agent.dataset import read_table
from party_agent.store import Folder
from protocols.recipe import load_recipe
from tests.small_consortium import Ended, Row, SmallConsortium, concordat

pytestmark = pytest.mark.process

RECIPE = """
[binning]
method = "optimal"
max_bins = 5
min_bin_share = 0.05
missing = "nearest"

[selection]
maximum_missing_rate = 0.5
maximum_single_value_share = 0.95
maximum_psi = 0.5

[parties.bank]
keep = ["bank_class", "bank_state"]
[parties.bank.features.bank_ratio]
splits = [-1.0, 0.0, 1.0, 99.0]
[parties.bureau]
drop = ["bureau_note"]
special = { bureau_late = [-7] }
[parties.bureau.features.bureau_class]
groups = [["A", "B"], ["C"], ["D"]]
[parties.bureau.features.bureau_turnover]
method = "quantile"
missing = "riskiest"
[parties.bureau.features.bureau_late]
special_with = 3
[parties.bureau.features.bureau_late2]
trend = "descending"
"""


def more_columns(rows: list[Row]) -> None:
    """A note to drop, a column that is nearly always missing, one without a value, and a risk under a false trend."""
    for i, row in enumerate(rows):
        row["bureau_note"] = str(i % 13)
        row["bureau_rare"] = str(i) if i % 3 == 0 else ""
        row["bureau_empty"] = ""
        row["bureau_late2"] = str(float(row["bureau_ratio"]) ** 3)


def a_bin_without_bads(rows: list[Row]) -> None:
    """A category of 200 borrowers who all paid, among others of whom some did not."""
    clean = [row for row in rows if row["y"] == "0"][:200]
    for i, row in enumerate(rows):
        row["bank_state"] = "closed" if i % 3 else "open"
    for row in clean:
        row["bank_state"] = "clean"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    consortium = SmallConsortium(tmp_path_factory.mktemp("rules"), 1)
    consortium.recipe += RECIPE
    consortium.edit("bureau", more_columns)
    consortium.edit("bank", a_bin_without_bads)
    ended = consortium.simulate("--check-parity")
    assert ended.returncode == 0, ended.text + ended.stderr
    return ended


def report(ended: Ended, party: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ended.out / party / "report.json").read_bytes())
    return document


def features(ended: Ended, party: str) -> dict[str, dict[str, Any]]:
    return {feature["name"]: feature for feature in report(ended, party)["features"]}


def test_the_scorecard_equals_the_one_of_pooled_data(ended: Ended) -> None:
    parity = json.loads((ended.out / "report.json").read_bytes())["parity"]
    assert parity["max_abs_coef_diff"] <= 1e-4
    assert (parity["max_abs_woe_diff"], parity["max_abs_iv_diff"], parity["points_equal"]) == (0, 0, True)


def test_own_splits_and_groups_are_the_bins_and_what_is_lost_is_a_finding(ended: Ended) -> None:
    labels = [b["label"].split(", missing")[0] for b in features(ended, "bank")["bank_ratio"]["bins"]]
    assert labels == ["(-inf, -1]", "(-1, 0]", "(0, 1]", "(1, inf)"]
    findings = {item["code"]: item["sentence"] for item in report(ended, "bank")["findings"]}
    assert findings["SPLIT_EMPTY"].startswith("bank_ratio: 1 of its own splits")
    assert [b["label"] for b in features(ended, "bureau")["bureau_class"]["bins"]][1:] == ["{C}", "{D}"]


def test_optimal_bins_follow_a_trend_and_have_the_least_size(ended: Ended) -> None:
    n = report(ended, "bank")["training"]["n"]
    for feature in features(ended, "bank").values():
        if feature["name"] in ("bank_turnover", "bank_late"):
            woe = [b["woe"] for b in feature["bins"]]
            assert woe == sorted(woe, reverse=True)
            assert 2 <= len(woe) <= 5
            assert min(b["rows"] for b in feature["bins"]) >= 0.05 * n


def test_missing_goes_to_the_riskiest_bin_where_its_owner_says_so(ended: Ended) -> None:
    bins = features(ended, "bureau")["bureau_turnover"]["bins"]
    assert "missing" in min(bins, key=lambda b: b["woe"])["label"]
    assert len(bins) == 5


def test_a_bin_without_bads_joins_the_one_of_nearest_woe(ended: Ended) -> None:
    own = {feature.name: feature for feature in model.read(Folder(ended.out / "bank")).features}
    for feature in own.values():
        assert all(bads is not None and 0 < bads < rows for rows, bads in zip(feature.rows, feature.bads, strict=True))
    bins = features(ended, "bank")["bank_state"]["bins"]
    (joined,) = [b for b in bins if "clean" in b["label"]]
    assert joined["label"] != "{clean}"
    assert joined["woe"] == max(b["woe"] for b in bins)  # it joined the safest of the others


def test_screening_counts_each_step_and_names_no_column_to_others(ended: Ended) -> None:
    screening = report(ended, "bureau")["screening"]
    left_out = {item["name"]: item["step"] for item in screening["features"]}
    assert left_out["bureau_note"] == "expert list"
    assert left_out["bureau_rare"] == "missing rate"
    assert left_out["bureau_late2"] == "gate"
    assert (screening["counts"]["expert list"], screening["counts"]["missing rate"]) == (1, 1)
    findings = {item["code"]: item["sentence"] for item in report(ended, "bureau")["findings"]}
    assert "bureau_empty" in findings["COLUMN_CONSTANT"]
    shared = (ended.out / "report.json").read_text() + (ended.out / "bank" / "report.json").read_text()
    assert "bureau_" not in shared


def test_a_trend_that_cannot_be_met_is_a_finding_of_the_label_owner_under_the_alias(ended: Ended) -> None:
    alias = features(ended, "bureau")["bureau_late2"]["alias"]
    (finding,) = [item for item in report(ended, "bank")["findings"] if item["code"] == "BINNING_INFEASIBLE"]
    assert finding["sentence"].startswith(f"{alias}: no two bins")
    assert features(ended, "bureau")["bureau_late2"]["reason"] == "dropped by the gate"
    shared = json.loads((ended.out / "report.json").read_bytes())
    assert "BINNING_INFEASIBLE" not in {item["code"] for item in shared["findings"]}


def test_a_special_code_that_training_never_saw_and_a_single_record_are_scored(ended: Ended, tmp_path: Path) -> None:
    own = model.read(Folder(ended.out / "bureau"))
    feature = next(f for f in own.features if f.name == "bureau_late")
    unseen, three = feature.codes(np.array([-7.0])), feature.codes(np.array([3.0]))
    assert unseen.tolist() == three.tolist()
    one = (ended.out / "bank" / "scores.csv").read_text().splitlines()[-1].split(",")
    ids = tmp_path / "one.csv"
    ids.write_text(f"id\n{one[0]}\n", encoding="utf-8")
    scoring = concordat(["score", "--out", str(ended.out), "--ids", str(ids), "--json"], ended.out)
    assert scoring.returncode == 0, scoring.text
    assert (ended.out / "bank" / "scored.csv").read_text().splitlines()[1].split(",")[:2] == one[:2]
    table, _ = read_table(ended.out.parent / "bureau.csv", "id", None, load_recipe(RECIPE), "bureau", dict(own.kinds))
    assert own.codes(table.take(np.array([0]))).shape == (1, len(own.features))
