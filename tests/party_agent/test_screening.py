"""Screening before the gate: each cut and its reason, the expert's lists, own splits, findings."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from party_agent.dataset import Column, Table
from party_agent.screening import STEPS, ScreenedOut, screen, screening_of
from protocols.binning.prebins import FeatureKind
from protocols.binning.table import DroppedFeature
from protocols.errors import DataError
from protocols.recipe import Recipe

N, TEST = 2000, 800
RNG = np.random.default_rng(3)


def columns(rows: int, shift: float = 0.0) -> dict[str, Any]:
    plain = RNG.normal(size=(3, rows))
    return {
        "a": plain[0],
        "b": plain[1],
        "c": plain[2],
        "often_missing": np.where(RNG.random(rows) < 0.6, np.nan, plain[0]),
        "mostly_zero": np.where(RNG.random(rows) < 0.9, 0.0, 1.0 + plain[1]),
        "drifting": plain[2] + shift,
        "code": np.array(["A", "B", "C", "D"], dtype=object)[RNG.integers(0, 4, rows)],
        "all_missing": np.full(rows, np.nan),
    }


def table(values: dict[str, Any]) -> Table:
    kinds = {True: FeatureKind.CATEGORICAL, False: FeatureKind.NUMERIC}
    made = tuple(Column(name, kinds[column.dtype == object], column) for name, column in values.items())
    return Table(tuple(f"C{i}" for i in range(len(values["a"]))), None, made)


TRAINING, LATER = table(columns(N)), table(columns(TEST, shift=1.0))
CUTS = {"maximum_missing_rate": 0.5, "maximum_single_value_share": 0.8, "maximum_psi": 0.25}


def recipe(section: dict[str, Any] | None = None, **parts: Any) -> Recipe:
    return Recipe.model_validate_json(json.dumps(parts | {"parties": {"tax": section or {}}}))


def steps(**parts: Any) -> dict[str, str]:
    return {item.name: item.step for item in screen(TRAINING, LATER, recipe(**parts), "tax").left_out}


def test_without_cuts_only_a_column_without_two_bins_goes() -> None:
    found = screen(TRAINING, LATER, recipe(), "tax")
    assert found.left_out == (ScreenedOut("all_missing", "one bin", "no two bins of 50 training rows"),)
    assert [finding.code for finding in found.findings] == ["COLUMN_SINGLE_BIN"]
    assert found.codes.shape == (N, 7)


def test_each_cut_takes_its_column_and_says_why() -> None:
    assert steps(selection=CUTS) == {
        "often_missing": "missing rate",
        "mostly_zero": "single value",
        "drifting": "stability",
        "all_missing": "missing rate",
    }
    left_out = screen(TRAINING, LATER, recipe(selection=CUTS), "tax").left_out
    assert all("above 0." in item.reason for item in left_out)


def test_stability_looks_at_training_and_test_rows_only_and_passes_what_does_not_drift() -> None:
    assert "drifting" not in {
        i.name for i in screen(TRAINING, table(columns(TEST)), recipe(selection=CUTS), "tax").left_out
    }
    nothing = LATER.take(np.arange(0))
    assert "drifting" not in {item.name for item in screen(TRAINING, nothing, recipe(selection=CUTS), "tax").left_out}


def test_the_experts_lists_go_before_the_cuts_but_not_before_the_floors() -> None:
    section = {"keep": ["often_missing", "mostly_zero", "drifting", "all_missing"], "drop": ["a"]}
    assert steps(section=section, selection=CUTS) == {"a": "expert list", "all_missing": "one bin"}
    found = screen(TRAINING, LATER, recipe(section=section, selection=CUTS), "tax")
    kept = {b.feature for b, rule in zip(found.binnings, found.rules, strict=True) if rule.keep}
    assert kept == {"often_missing", "mostly_zero", "drifting"}


def test_too_few_columns_end_the_job() -> None:
    with pytest.raises(DataError, match="TOO_FEW_COLUMNS"):
        screen(TRAINING, LATER, recipe(section={"drop": ["a", "b", "c", "code", "drifting"]}), "tax")


def test_splits_that_cannot_be_honoured_are_findings_that_name_the_rule_and_no_value() -> None:
    section = {"features": {"a": {"splits": [-2.5, 0.125, 77.0]}, "code": {"groups": [["A"], ["Z"]]}}}
    found = screen(TRAINING, LATER, recipe(section=section), "tax")
    codes = {(finding.code, finding.count, finding.sentence.split(":")[0]) for finding in found.findings}
    assert codes == {
        ("COLUMN_SINGLE_BIN", 1, "1 columns have one bin only on the common rows and were left out."),
        ("SPLIT_EMPTY", 1, "a"),
        ("SPLIT_BELOW_FLOOR", 1, "a"),
        ("SPLIT_EMPTY", 1, "code"),
    }
    assert not any("77" in f.sentence or "2.5" in f.sentence for f in found.findings)
    rules = {b.feature: rule.method for b, rule in zip(found.binnings, found.rules, strict=True)}
    assert (rules["a"], rules["code"], rules["b"]) == ("splits", "splits", "chimerge")


@pytest.mark.parametrize(
    "rules", [{"code": {"splits": [1.0]}}, {"a": {"groups": [["A"]]}}, {"a": {"missing_with": "A"}}]
)
def test_a_rule_of_the_other_kind_is_refused_by_the_columns_name(rules: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="RULE_OF_OTHER_KIND") as caught:
        screen(TRAINING, LATER, recipe(section={"features": rules}), "tax")
    assert f"'{next(iter(rules))}'" in caught.value.message


def test_the_report_counts_every_step_in_its_order() -> None:
    left_out = screen(TRAINING, LATER, recipe(selection=CUTS), "tax").left_out
    dropped = (
        DroppedFeature("b", "", "not sent: a bin of it differs from one of 'a' in 3 rows"),
        DroppedFeature("c", "tax.01", "dropped by the gate"),
        DroppedFeature("code", "tax.02", "correlation"),
        DroppedFeature("d", "tax.03", "across parties: VIF 12.10"),
        DroppedFeature("e", "tax.04", "stepwise"),
        DroppedFeature("f", "tax.05", "sign"),
    )
    report = screening_of(left_out, dropped)
    assert tuple(report["counts"]) == STEPS
    assert list(report["counts"].values()) == [0, 2, 1, 0, 1, 1, 1, 1, 1, 2]
    assert len(report["features"]) == 10
