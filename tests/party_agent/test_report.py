"""The two documents: stable keys, the statement in full, and no sentence that names a column of another party."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from party_agent.notation import bin_label
from party_agent.report import OwnFeature, statement_of
from party_agent.report_page import render_party, render_shared
from party_agent.significance import auc_difference
from protocols.binning.prebins import FeatureKind, PreBinning
from protocols.binning.table import BinnedFeature
from tests.party_agent.html_page import Page
from tests.party_agent.made_up_job import (
    BASELINE_LOGITS,
    LEDGER,
    PARTIES,
    ROWS,
    TRAINING,
    VALIDATION,
    made_up_party_report,
    made_up_report,
)

KEYS = {
    *("schema", "job", "finished", "parties", "alignment", "training", "metrics", "curves", "calibration", "gains"),
    *("distribution", "grades", "grade_table", "scaling", "features", "scorecard", "keys", "statement", "parity"),
    *("findings", "recipe", "versions", "reading"),
}


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return made_up_report()


@pytest.mark.parametrize("opened", [True, False])
def test_the_keys_of_the_shared_report_do_not_depend_on_the_job(opened: bool) -> None:
    assert set(made_up_report(opened=opened, baseline=opened)) == KEYS


def test_the_keys_that_scripts_branch_on_are_where_the_issue_names_them(report: dict[str, Any]) -> None:
    assert report["alignment"]["rows"] == ROWS
    assert (report["training"]["n"], report["training"]["iterations"]) == (TRAINING, 14)
    assert report["training"]["seconds"] == 48.3
    assert report["keys"]["bits"] == 3072
    for sample in ("train", "test"):
        assert {"auc", "ks", "gini"} <= report["metrics"][sample].keys()
    assert set(report["statement"]) == {"bank", "bureau", "tax", "coordinator"}
    assert report["statement"]["tax"][0].keys() == {"what", "numbers", "source", "stage", "nature"}


def test_reports_survive_json_unchanged(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    own = made_up_party_report("bank")
    assert json.loads(json.dumps(own, allow_nan=False)) == own


def test_the_statement_counts_every_line_of_the_ledger_once(report: dict[str, Any]) -> None:
    rows = [
        (to, r["stage"], r["source"], r["what"], r["nature"], r["numbers"])
        for to in report["statement"]
        for r in report["statement"][to]
    ]
    assert sorted(rows) == sorted((x.to, x.stage, x.source, x.what, x.nature, x.numbers) for x in LEDGER)


def test_a_party_that_learned_nothing_is_still_in_the_statement() -> None:
    assert statement_of([], PARTIES) == {"bank": [], "bureau": [], "tax": [], "coordinator": []}
    silent = made_up_report()
    silent["statement"] = statement_of([], PARTIES)
    assert Page(render_shared(silent)).text.count("Nothing was opened to it.") == 4


def test_the_error_of_the_gain_is_that_of_the_same_rows(report: dict[str, Any]) -> None:
    baseline = report["metrics"]["baseline"]
    expected = auc_difference(VALIDATION.test_labels, VALIDATION.test_logits, BASELINE_LOGITS)
    assert (baseline["gain"], baseline["gain_error"]) == pytest.approx(expected, abs=1e-4)


def test_a_partys_own_sentence_about_its_columns_stays_out_of_the_shared_report(report: dict[str, Any]) -> None:
    assert "secret_column" not in json.dumps(report)
    assert {
        "party": "tax",
        "code": "COLUMN_CONSTANT",
        "count": 1,
        "sentence": "columns of one value, dropped",
    } in report["findings"]
    assert "Column country has one value and was dropped." in Page(render_party(made_up_party_report())).text


def test_an_own_feature_is_built_from_the_artefacts_of_the_job() -> None:
    binning = PreBinning("ratio", FeatureKind.NUMERIC, (0.5, 2.0), 3, (), (), (), 3, 0, (400, 300, 200, 100))
    binned = BinnedFeature("bank-1", binning, (0, 1, 1, 2), (-5000, 5000, 0), 184, (400, 500, 100), (40, 20, None))
    own = OwnFeature.of(binned, -0.8, np.array([-12, 12, 0]))
    assert (own.name, own.alias, own.kind, own.iv, own.edges) == ("ratio", "bank-1", "numeric", 0.184, (0.5, 2.0))
    assert [(line.rows, line.points, line.bad_rate) for line in own.bins] == [
        (400, -12, 0.1),
        (500, 12, 0.04),
        (100, 0, None),
    ]
    assert [line.woe for line in own.bins] == [-0.5, 0.5, 0.0]
    assert [bin_label(line.label).replace("\u00a0", " ") for line in own.bins] == ["≤ 0.5", "> 0.5", "missing"]


def test_importing_the_reports_loads_no_heavy_library() -> None:
    heavy = "pandas", "matplotlib", "sklearn", "duckdb", "jinja2"
    modules = "party_agent.report, party_agent.report_page"
    code = f"import sys, {modules}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
