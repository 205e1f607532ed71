"""Standard errors, selection and cross-validation in whole jobs, against plaintext on the same rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from party_agent import model
from party_agent.dataset import read_table
from party_agent.store import Folder
from protocols.fixed_point import FEATURE_BITS
from protocols.recipe import Recipe
from tests.small_consortium import Ended, SmallConsortium

pytestmark = pytest.mark.process
ERRORS = "\n[inference]\nstandard_errors = true\n"


def run(folder: Path, recipe: str, providers: int = 1) -> Ended:
    consortium = SmallConsortium(folder, providers=providers)
    consortium.recipe += recipe
    return consortium.simulate("--check-parity")


def report_of(ended: Ended, party: str = "") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ended.out / party / "report.json").read_bytes())
    return document


def numbers_to(ended: Ended, party: str, stage: str) -> dict[str, int]:
    lines = report_of(ended)["statement"][party]
    return {line["what"]: line["numbers"] for line in lines if line["stage"] == stage and line["nature"] == "opened"}


@pytest.fixture(scope="module")
def with_errors(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    ended = run(tmp_path_factory.mktemp("errors"), ERRORS + "[model]\nl2 = 1e-6\n", 2)
    assert ended.returncode == 0, ended.text + ended.stderr
    return ended


def pooled(ended: Ended, consortium: SmallConsortium, names: tuple[str, ...]) -> tuple[Any, Any]:
    """[1, WOE] and label of the training rows, from the files and the parties' own models."""
    with (ended.out / "bank" / "scores.csv").open(newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file) if row["sample"] == "train"]
    columns, label = [np.ones((len(ids), 1))], None
    for name in names:
        table, _ = read_table(consortium.file(name), "id", "y" if name == "bank" else None, Recipe(), name)
        place = {item: row for row, item in enumerate(table.ids)}
        table = table.take(np.array([place[item] for item in ids]))
        own = model.read(Folder(ended.out / name))
        codes = own.codes(table)
        columns += [f.values[codes[:, j], None] / (1 << FEATURE_BITS) for j, f in enumerate(own.features)]
        label = table.label if table.label is not None else label
    return np.concatenate(columns, axis=1), label


def test_standard_errors_are_those_of_statsmodels_on_pooled_rows(with_errors: Ended) -> None:
    consortium = SmallConsortium(with_errors.out.parent, providers=2)
    x, label = pooled(with_errors, consortium, consortium.names)
    reference = sm.Logit(label, x).fit(disp=0)
    rows = [row for name in consortium.names for row in report_of(with_errors, name)["inference"]["rows"]]
    assert [row["standard_error"] for row in rows] == pytest.approx(reference.bse, rel=1e-3)
    assert [row["z"] for row in rows] == pytest.approx(reference.tvalues, rel=5e-3, abs=1e-3)
    assert [row["p_value"] for row in rows] == pytest.approx(reference.pvalues, rel=5e-2, abs=1e-4)
    low, high = np.array(reference.conf_int()).T
    assert [row["low"] for row in rows] == pytest.approx(low, abs=1e-3)
    assert [row["high"] for row in rows] == pytest.approx(high, abs=1e-3)
    parity = report_of(with_errors)["parity"]
    assert parity["max_rel_se_diff"] <= 1e-3
    assert parity["rel_loglik_diff"] <= 1e-6


def test_each_party_is_told_its_own_errors_and_nobody_elses(with_errors: Ended) -> None:
    for name in ("bank", "bureau", "tax"):
        own = report_of(with_errors, name)
        kept = [feature["name"] for feature in own["features"] if feature["kept"]]
        assert [row["name"] for row in own["inference"]["rows"] if row["alias"]] == kept
        told = numbers_to(with_errors, name, "inference")
        if name != "bank":
            assert told == {"standard errors of own coefficients": len(kept)}
    told = numbers_to(with_errors, "bank", "inference")
    assert told["logit per row, rounded to 0.01"] == report_of(with_errors)["training"]["n"]
    assert told["exact second moments of own columns and a peer's model features"] > 0
    page = (with_errors.out / "bureau" / "report.html").read_text()
    assert "Coefficients and their errors" in page


def test_moments_are_spent_by_the_job(with_errors: Ended) -> None:
    for name in ("bank", "bureau", "tax"):
        lines = (with_errors.out / name / "opened-moments.jsonl").read_text().split("\n")
        spent = [json.loads(line) for line in lines if line]
        own = [feature["name"] for feature in report_of(with_errors, name)["features"] if feature["kept"]]
        assert sorted(feature for _, _, feature in spent) == sorted(own)
        assert {kind for _, kind, _ in spent} == {"weighted"}
