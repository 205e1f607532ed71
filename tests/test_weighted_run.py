"""A whole weighted run as the processes a user gets, against statsmodels on the same rows, bins and weights."""

from __future__ import annotations

import csv
import json
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from party_agent.artefacts import rows_from, rows_to
from party_agent.dataset import Table
from party_agent.sample_weights import check_weights
from protocols.errors import RecipeError
from protocols.recipe import Recipe, load_recipe
from tests.protocols.test_sample_weights import fitted
from tests.small_consortium import Ended, Row, SmallConsortium
from tests.test_estimation import pooled

WEIGHTED = """
[model]
weighted = true
l2 = 1e-6

[inference]
standard_errors = true

[parties.bank]
weight_column = "times_drawn"
"""


def _weigh(rows: list[Row]) -> None:
    """Goods stand for four, as where one in four was drawn; and for more or less of them by the row."""
    for place, row in enumerate(rows):
        row["times_drawn"] = str((4.0 if row["y"] == "0" else 1.0) * (1 + place % 7 / 10))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    consortium = SmallConsortium(tmp_path_factory.mktemp("weighted"), providers=1)
    consortium.edit("bank", _weigh)
    consortium.recipe += WEIGHTED
    ended = consortium.simulate("--check-parity")
    assert ended.returncode == 0, ended.text + ended.stderr
    return ended


def report_of(ended: Ended, party: str = "") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ended.out / party / "report.json").read_bytes())
    return document


@pytest.mark.process
def test_coefficients_and_their_errors_are_those_of_statsmodels_with_these_weights(ended: Ended) -> None:
    consortium = SmallConsortium(ended.out.parent / "same", providers=1)
    consortium.edit("bank", _weigh)
    with (ended.out / "bank" / "scores.csv").open(newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file) if row["sample"] == "train"]
    weight_of = {row["id"]: float(row["times_drawn"]) for row in consortium.read("bank")}
    weights = np.array([weight_of[name] for name in ids])
    x, label = _without_weights(ended, consortium)
    fit = sm.GLM(label, x, family=sm.families.Binomial(), freq_weights=weights / weights.mean()).fit()
    rows = [row for name in consortium.names for row in report_of(ended, name)["inference"]["rows"]]
    assert [row["estimate"] for row in rows] == pytest.approx(fit.params, abs=2e-3)  # weights rounded to 2^-10
    assert [row["standard_error"] for row in rows] == pytest.approx(fit.bse, rel=1e-3)
    parity = report_of(ended)["parity"]  # of the weights as they were rounded
    assert parity["max_abs_coef_diff"] <= 1e-4
    assert parity["max_rel_se_diff"] <= 1e-3
    assert parity["rel_loglik_diff"] <= 1e-6
    summary = report_of(ended, "bank")["weights"]
    assert summary["effective_rows"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-3)
    assert summary["bad_rate"] == pytest.approx(np.average(label, weights=weights), rel=1e-2)
    assert summary["plain_bad_rate"] == pytest.approx(label.mean())
    assert "The fit is weighted" in (ended.out / "bank" / "report.html").read_text()


def _without_weights(ended: Ended, consortium: SmallConsortium) -> tuple[Any, Any]:
    """The pooled rows, from files that have no column of weights, which the model has no feature of."""
    plain = SmallConsortium(consortium.folder.parent / "plain", providers=1)
    return pooled(ended, plain, plain.names)


@pytest.mark.process
def test_no_peer_hears_of_the_weights(ended: Ended) -> None:
    assert report_of(ended, "bureau")["weights"] is None
    for folder in ("bureau", "coordinator"):
        for path in (ended.out / folder).rglob("*"):
            assert not path.is_file() or b"times_drawn" not in path.read_bytes(), path
    told = {line["what"]: line for line in report_of(ended)["statement"]["bureau"] if line["stage"] == "train"}
    assert told["what sample weights multiply the curvature by, to a power of two"]["numbers"] == 1
    assert told["sample weights under a fresh uniform mask"]["nature"] == "masked"


def test_a_weighted_recipe_needs_a_column_and_a_column_without_it_is_a_finding() -> None:
    label = np.array([0, 1])
    bare, full = Table(("A", "B"), label, ()), Table(("A", "B"), label, (), weights=np.array([1.0, 2.0]))
    recipe = load_recipe("[model]\nweighted = true")
    assert check_weights(full, recipe) == check_weights(bare, Recipe()) == ()
    (finding,) = check_weights(full, Recipe())
    assert finding.code == "WEIGHTS_UNUSED"
    with pytest.raises(RecipeError, match="WEIGHT_COLUMN_MISSING"):
        check_weights(bare, recipe)


def test_a_checkpoint_of_weighted_rows_keeps_their_ring() -> None:
    rows = fitted(1).rows["bank"]
    assert rows.layout.weighted
    assert rows_from(*rows_to(rows)).layout == rows.layout
