"""What a finished run prints, for someone who lends money."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.simulate import Outcome
from coordinator.summary import print_summary

CHANCE = "The joint scorecard is not better than the columns of bank alone."
REPORT: dict[str, Any] = {
    "parties": {"label_owner": "bank", "providers": ["bureau", "tax"]},
    "alignment": {"rows": 6072},
    "training": {"n": 4250, "iterations": 37, "passes": 3},
    "metrics": {
        "train": {"auc": 0.9281, "ks": 0.7042, "gini": 0.8562},
        "test": {"auc": 0.8621, "ks": 0.5766, "gini": 0.7243},
        "baseline": {"party": "bank", "auc": 0.8787, "ks": 0.5854, "gini": 0.7574},
    },
    "features": {
        "bank": [{"kept": True}, {"kept": False}],
        "bureau": [{"kept": True}],
        "tax": [{"kept": True}],
    },
    "statement": {
        "bank": [{"numbers": 30_824, "nature": "opened"}, {"numbers": 9, "nature": "masked"}],
        "coordinator": [],
    },
    "keys": {"bits": 3072},
    "parity": {"max_abs_coef_diff": 1.8e-5, "max_abs_pd_diff": 4.8e-6, "points_equal": True, "points_ties": 9},
    "reading": {
        "verdict": "open",
        "headline": CHANCE,
        "sentences": ["On 1,822 borrowers kept for testing, 57 of them bad, the AUC is what it is. " * 2],
        "cautions": ["174 bads trained 43 features, 4 for each. " * 4],
    },
}


def printed(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_summary(report, Path("/somewhere/" + 12 * "a-long-folder/"), Outcome("OK", {}, 144.5, 174_634_585))
    return capsys.readouterr().out.splitlines()


def test_a_joint_scorecard_that_is_no_better_is_said_to_be_none_before_any_figure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = printed(REPORT, capsys)
    assert lines.index(CHANCE) < next(i for i, line in enumerate(lines) if "0.862" in line)
    assert any(line.startswith("Note: 174 bads trained 43 features") for line in lines)


def test_a_search_is_told_with_all_its_fits_and_compared_with_one_on_pooled_data(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert any("37 gradients in 3 encrypted passes" in line for line in printed(REPORT, capsys))
    for same, words in ((True, "keeps the same features"), (False, "KEEPS OTHER FEATURES")):
        searched = {"training": REPORT["training"] | {"fits": 2}, "parity": REPORT["parity"] | {"same_features": same}}
        text = "\n".join(printed(REPORT | searched, capsys))
        assert words in text
        assert "37 gradients of 2 fits in 3 encrypted passes" in text


def test_rows_out_of_time_are_not_counted_as_test_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert any("6,072: 4,250 to train, 1,822 to test" in line for line in printed(REPORT, capsys))
    late = REPORT | {"metrics": REPORT["metrics"] | {"out_of_time": {"n": 1000}}}
    assert any("4,250 to train, 822 to test, 1,000 out of time" in line for line in printed(late, capsys))


def test_prose_breaks_between_words_and_paths_do_not_break(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(REPORT, capsys)
    assert all(len(line) <= 96 or "/report.html" in line for line in lines)
    assert not any(line != line.rstrip() for line in lines)
    assert sum(line.endswith("/report.html") for line in lines) == 4


def test_figures_stand_in_columns_and_numbers_have_separators(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(REPORT, capsys)
    table = [line for line in lines if line.endswith(("Gini", "0.757", "0.724", "0.856"))]
    assert len(table) == 4
    assert len({len(line) for line in table}) == 1
    text = "\n".join(lines)
    for words in (
        "6,072: 4,250 to train, 1,822 to test",
        "3 of 4: bank 1, bureau 1, tax 1",
        "bank 30,824, coordinator 0",
        "the same points in every bin, rounding ties aside",
        "37 gradients in 3 encrypted passes",
        "175 MB, of which it could read nothing",
    ):
        assert words in text


def test_points_that_differ_from_the_pooled_ones_are_shouted(capsys: pytest.CaptureFixture[str]) -> None:
    other = json.loads(json.dumps(REPORT))
    other["parity"]["points_equal"] = False
    assert "OTHER POINTS" in "\n".join(printed(other, capsys))


def test_a_run_without_a_twin_or_a_baseline_is_summarised_too(capsys: pytest.CaptureFixture[str]) -> None:
    other = json.loads(json.dumps(REPORT))
    other["parity"] = other["metrics"]["baseline"] = None
    text = "\n".join(printed(other, capsys))
    assert "pooled" not in text
    assert "bank alone, test" not in text
