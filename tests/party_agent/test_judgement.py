"""The label owner's own tables against the rows they are made of, and on the page of no one else."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from party_agent.judgement import Judged, contribution, cut_offs, grade_order, judge, score_information, swap_set
from party_agent.report_page import render_party
from party_agent.scorecard import GradeTable
from party_agent.validation import Validation, feature_stability, population_stability, validate
from protocols.binning.weight_of_evidence import information_value
from protocols.errors import DataError
from protocols.recipe import Judgement
from tests.party_agent.html_page import Page
from tests.party_agent.made_up_job import GRADES, VALIDATION, made_up_judgement, made_up_party_report, made_up_report

RANDOM = np.random.default_rng(2)
N = 3000
LOGITS = np.round(RANDOM.normal(-2.0, 1.2, N), 2)
LABELS = (RANDOM.random(N) < 1 / (1 + np.exp(-LOGITS))).astype(np.int64)
SCORES = np.round(500 - 29 * LOGITS).astype(np.int64)
TEST = Judged(LABELS, LOGITS, SCORES)
RULES = Judgement(loss_given_default=0.4, exposure=1000.0, margin=0.05)


def test_every_cut_off_counts_the_rows_at_or_above_it() -> None:
    grades = GradeTable.of_training_scores(SCORES)
    rows = cut_offs(TEST, grades, RULES)
    assert [row["score"] for row in rows] == sorted({row["score"] for row in rows}, reverse=True)
    assert {row["grade"] for row in rows} == {*grades.names[:-1], ""}
    pd = 1 / (1 + np.exp(-LOGITS))
    for row in rows:
        approved = row["score"] <= SCORES
        assert (row["approved"], row["bads"]) == (approved.sum(), LABELS[approved].sum())
        assert row["approval_rate"] == pytest.approx(approved.mean())
        assert row["bad_rate"] == pytest.approx(LABELS[approved].mean())
        assert row["bads_refused"] == pytest.approx(LABELS[~approved].sum() / LABELS.sum())
        assert row["expected_loss"] == pytest.approx(400 * pd[approved].sum())
        assert row["loss_rate"] == pytest.approx(0.4 * pd[approved].mean())
        assert row["expected_profit"] == pytest.approx((50 * (1 - pd) - 400 * pd)[approved].sum())
    assert (rows[-1]["approval_rate"], rows[-1]["bads_refused"]) == (1.0, 0.0)
    assert cut_offs(TEST, grades, Judgement())[0]["expected_profit"] is None


def test_a_grade_above_all_scores_has_no_cut_off() -> None:
    rows = cut_offs(TEST, GradeTable(("A", "B"), (int(SCORES.max()) + 1,)), RULES)
    assert all(row["approved"] > 0 and row["grade"] == "" for row in rows)


def _validated(scores: np.ndarray, grades: GradeTable) -> Validation:
    return validate(LABELS, LOGITS, scores, np.arange(N) < 2000, grades)


def test_grades_out_of_order_are_named_and_the_trend_tells_a_ranking_from_none() -> None:
    found = grade_order(_validated(SCORES, GradeTable(("A", "B", "C"), (560, 520))))
    assert set(found) == {"train", "test"}
    assert found["test"]["trend"]["p"] < 1e-6
    assert found["test"]["out_of_order"] == []
    backwards = grade_order(_validated(-SCORES, GradeTable(("A", "B", "C"), (-520, -560))))["test"]
    assert backwards["trend"]["p"] > 0.99
    assert backwards["out_of_order"] == [["A", "B"], ["B", "C"]]


def test_taking_useless_points_away_loses_nothing_and_useful_ones_something() -> None:
    noise = RANDOM.integers(-2, 3, N)
    rows = {row["without"]: row for row in contribution(TEST, {"noise": SCORES + noise, "all": 0 * SCORES + noise})}
    assert abs(rows["noise"]["loss"]) < 0.005
    assert rows["all"]["loss"] == pytest.approx(rows[None]["auc"] - rows["all"]["auc"])
    assert rows["all"]["loss"] > 5 * rows["all"]["loss_error"]
    assert rows["all"]["iv"] < 0.1 < rows[None]["iv"]


def test_the_information_of_a_score_is_that_of_its_tenths() -> None:
    risk = RANDOM.permutation(N) + 150.0 * LABELS + np.linspace(0, 0.9, N)  # tenths of exactly 300 rows
    tenth = np.argsort(np.argsort(risk)) // 300
    rows, bads = np.bincount(tenth), np.bincount(tenth, weights=LABELS).astype(np.int64)
    assert min(bads.min(), (rows - bads).min()) >= 5
    assert score_information(LABELS, risk) == pytest.approx(information_value(rows, bads), rel=1e-9)
    assert score_information(LABELS, LABELS.astype(np.float64)) == 0.0  # goods and bads in no group together


def test_the_swap_set_counts_each_row_once_and_leaves_out_those_without_a_score() -> None:
    existing = np.where(RANDOM.random(N) < 0.2, np.nan, SCORES + RANDOM.normal(0, 60, N))
    swap = swap_set(TEST, existing, 0.7)
    there = ~np.isnan(existing)
    assert (swap["rows"], swap["left_out"]) == (there.sum(), (~there).sum())
    assert sum(cell["n"] for cell in swap["cells"].values()) == there.sum()
    assert sum(cell["bads"] for cell in swap["cells"].values()) == LABELS[there].sum()
    for score, name in ((SCORES, "joint"), (existing, "existing")):
        cut = np.sort(score[there])[::-1][round(0.7 * there.sum()) - 1]
        assert swap[name]["approved"] == (score[there] >= cut).sum()
    assert swap["gain"] == pytest.approx(swap["joint"]["auc"] - swap["existing"]["auc"])
    swapped_in, swapped_out = (swap["cells"][name]["bad_rate"] for name in ("swapped_in", "swapped_out"))
    assert swapped_in < swapped_out
    with pytest.raises(DataError) as caught:
        swap_set(TEST, np.full(N, np.nan), 0.7)
    assert caught.value.code == "SCORE_MISSING"


def test_a_shift_of_one_feature_shows_in_its_index_alone() -> None:
    codes = RANDOM.integers(0, 4, (N, 2))
    training = np.arange(N) < 2000
    codes[~training, 1] = np.minimum(codes[~training, 1], 1)
    steady, shifted = feature_stability(codes, [4, 4], training, {"rest": ~training})
    assert steady["rest"] < 0.02 < 0.25 < shifted["rest"]
    expected, actual = (np.maximum(np.bincount(codes[rows, 1], minlength=4), 0.5) for rows in (training, ~training))
    e, a = expected / expected.sum(), actual / actual.sum()
    assert shifted["rest"] == pytest.approx(sum((a - e) * np.log(a / e)))
    assert steady["rest"] == pytest.approx(population_stability(codes[training, 0], codes[~training, 0]))
    assert feature_stability(codes, [4, 4], training, {"out_of_time": np.zeros(N, dtype=bool)}) == [{}, {}]


def _tables() -> dict[str, Any]:
    return made_up_judgement()


def test_the_tables_are_plain_json_and_on_the_label_owners_page() -> None:
    tables = _tables()
    assert json.loads(json.dumps(tables, allow_nan=False)) == tables
    text = Page(render_party(made_up_party_report("bank"))).text
    for words in ("Cut-offs", "all but bureau and tax", "(swapped in)", "Cochran–Armitage", "PSI to out of time"):
        assert words in text
    assert "only the sum of their points" in text
    strictest = tables["cut_offs"][0]
    assert f"{strictest['approved']:,}" in text


def test_neither_the_shared_report_nor_a_providers_has_them() -> None:
    assert "judgement" not in made_up_report()
    assert made_up_party_report("tax")["judgement"] is None
    assert "Cut-offs" not in Page(render_party(made_up_party_report("tax"))).text


def test_without_an_existing_score_there_is_no_swap_set() -> None:
    test = Judged(VALIDATION.test_labels, VALIDATION.test_logits, VALIDATION.test_labels * 0 + 500)
    assert judge(VALIDATION, test, GRADES, {}, RULES, each=True)["swap_set"] is None
