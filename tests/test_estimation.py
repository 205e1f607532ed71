"""Standard errors, selection and cross-validation in whole jobs, against plaintext on the same rows."""

from __future__ import annotations

import csv
import json
import signal
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from party_agent import model
from party_agent.dataset import read_table
from party_agent.policy import check_recipe
from party_agent.store import Folder
from protocols.contract import USUAL_ALGORITHMS, SignedContract
from protocols.errors import ContractViolationError
from protocols.fixed_point import FEATURE_BITS
from protocols.recipe import Recipe, load_recipe
from tests.small_consortium import (
    CUSTOMERS,
    Ended,
    SmallConsortium,
    command,
    concordat,
    party_processes,
    stage_begun,
    wait_until,
)
from tests.test_faults import signal_to

pytestmark = pytest.mark.process
ERRORS = "\n[inference]\nstandard_errors = true\n"


def run(folder: Path, recipe: str, providers: int = 1, customers: int = CUSTOMERS) -> Ended:
    consortium = SmallConsortium(folder, providers=providers, customers=customers)
    consortium.recipe += recipe
    return consortium.simulate("--check-parity")


def report_of(ended: Ended, party: str = "") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ended.out / party / "report.json").read_bytes())
    return document


def model_of(ended: Ended, party: str) -> list[dict[str, Any]]:
    features: list[dict[str, Any]] = json.loads((ended.out / party / "model.json").read_bytes())["features"]
    return features


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
            numbers = told.pop("number of model features per party")
            assert told == {"standard errors of own coefficients": len(kept)}
            assert numbers in (1, 2)  # of each other party
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


# -- folds and penalties -----------------------------------------------------------------------------------------------

FOLDS = "\n[validation]\nfolds = 3\npenalties = [50.0, 5.0, 0.5]\n"


@pytest.fixture(scope="module")
def with_folds(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    ended = run(tmp_path_factory.mktemp("folds"), FOLDS, customers=4_000)
    assert ended.returncode == 0, ended.text + ended.stderr
    return ended


def test_the_penalty_with_the_best_log_likelihood_out_of_fold_makes_the_model(with_folds: Ended) -> None:
    record = report_of(with_folds, "bank")["estimation"]
    judged = {row["l2"]: row["log_likelihood"] for row in record["cross_validation"]["penalties"]}
    assert list(judged) == [50.0, 5.0, 0.5]
    assert record["l2"] == max(judged, key=lambda l2: judged[l2])
    assert record["fits"] == 10
    assert len(set(judged.values())) == 3
    rows = report_of(with_folds)["training"]["n"]
    for value in judged.values():
        assert -0.6 * rows < value < report_of(with_folds)["metrics"]["train"]["log_likelihood"]
    parity = report_of(with_folds)["parity"]
    assert parity["max_abs_coef_diff"] <= 1e-4  # of a pooled fit with the penalty that was chosen
    assert parity["rel_loglik_diff"] <= 1e-6


def test_a_provider_knows_which_penalty_won_and_no_log_likelihood(with_folds: Ended) -> None:
    record = report_of(with_folds, "bureau")["estimation"]
    assert record["l2"] == report_of(with_folds, "bank")["estimation"]["l2"]
    assert record["cross_validation"] is None


def test_folds_are_on_the_ledger_and_paid_for_by_the_labels(with_folds: Ended) -> None:
    features = len([f for f in report_of(with_folds, "bureau")["features"] if f["kept"]])
    told = numbers_to(with_folds, "bureau", "train")
    assert told["label sums of own features over the rows of a fold, or over all"] == 3 * features
    assert told["fold of each training row, drawn at random"] == report_of(with_folds)["training"]["n"]
    (account,) = (with_folds.out / "bank" / "label-account").glob("*.bin")
    (paid,) = struct.unpack("<d", account.read_bytes()[:8])
    bins = sum(len(f["woe"]) - 1 for f in model_of(with_folds, "bureau"))  # a sum gives its counts away
    assert paid == report_of(with_folds)["training"]["label_budget_spent"] + 3 * bins


def test_folds_that_the_rows_cannot_stand_are_refused_with_the_reason(tmp_path: Path) -> None:
    ended = run(tmp_path, "\n[validation]\nfolds = 10\n")
    assert ended.returncode == 1
    assert ended.code == "FOLDS_TOO_SMALL"
    assert not (ended.out / "bank" / "model.json").exists()


def test_a_job_that_is_killed_in_the_middle_of_a_sequence_goes_on_to_the_same_model(
    tmp_path: Path, with_folds: Ended
) -> None:
    consortium = SmallConsortium(tmp_path, customers=4_000)
    consortium.recipe += FOLDS
    out = tmp_path / "out"

    def spent() -> list[str]:
        return [line for path in (out / "bureau").glob("spent-*.tsv") for line in path.read_text().splitlines()]

    with subprocess.Popen(command(consortium.arguments(out)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as job:
        assert wait_until(lambda: stage_begun(out, "bureau", "train"), 60)
        assert wait_until(lambda: sum("column" in line for line in spent()) >= 15, 60)
        signal_to(party_processes(out)["bureau"], signal.SIGKILL)
        job.communicate(timeout=60)
    before = len(spent())
    ended = concordat(["resume", "--out", str(out), "--seed", "7", "--json"], out)
    assert ended.returncode == 0, ended.text + ended.stderr
    assert len(spent()) == len(set(spent())) > before
    for name in consortium.names:
        ours, theirs = (
            json.loads((folder / name / "model.json").read_bytes())["features"] for folder in (out, with_folds.out)
        )
        weights = {item["binning"]["feature"]: item["weight"] for item in theirs}
        assert {item["binning"]["feature"]: item["weight"] for item in ours} == pytest.approx(weights, abs=1e-4)
    assert len({json.loads((out / n / "statement.json").read_bytes())["digest"] for n in consortium.names}) == 1
    assert len(list((out / "bank" / "label-account").glob("*.bin"))) == 2  # the folds of both attempts are paid for


# -- selection ---------------------------------------------------------------------------------------------------------

STEPWISE = '\n[model]\nsearch = "stepwise"\n'


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    ended = run(tmp_path_factory.mktemp("selected"), ERRORS + STEPWISE, 2)
    assert ended.returncode == 0, ended.text + ended.stderr
    return ended


def test_a_search_keeps_the_features_that_it_would_keep_on_pooled_data(selected: Ended) -> None:
    parity = report_of(selected)["parity"]
    assert parity["same_features"] is True
    assert parity["max_abs_coef_diff"] <= 1e-4
    assert parity["rel_loglik_diff"] <= 1e-6
    assert parity["max_rel_se_diff"] <= 1e-3
    path = report_of(selected, "bank")["estimation"]["path"]
    assert 2 <= len(path) <= 13
    assert [row["model"] for row in path].count(True) == 1
    best = min(path, key=lambda row: row["criterion"])
    assert best["model"]
    assert best["left_out"]
    assert best["criterion"] < path[0]["criterion"]


def test_what_a_search_leaves_out_is_in_no_model_and_its_owner_is_told(selected: Ended) -> None:
    gone = next(row["left_out"] for row in report_of(selected, "bank")["estimation"]["path"] if row["model"])
    shared = {f["alias"]: f for part in report_of(selected)["features"].values() for f in part}
    for name in ("bank", "bureau", "tax"):
        own = {feature["alias"]: feature for feature in report_of(selected, name)["features"]}
        left = {alias for alias, feature in own.items() if feature["reason"] == "stepwise"}
        assert left == {alias for alias in gone if alias.startswith(name)}
        kept = {item["alias"] for item in json.loads((selected.out / name / "model.json").read_bytes())["features"]}
        assert kept == set(own) - left
        assert all(shared[alias]["kept"] == (alias in kept) for alias in own)
    path = report_of(selected, "bureau")["estimation"]["path"]
    assert all(row["criterion"] is None for row in path)  # a provider is told of its own features, and no likelihood
    assert {alias for row in path for alias in row["left_out"]} <= set(own_aliases(selected, "bureau"))


def own_aliases(ended: Ended, party: str) -> list[str]:
    return [feature["alias"] for feature in report_of(ended, party)["features"]]


def test_a_search_and_the_model_each_open_moments_once_and_the_statement_says_so(selected: Ended) -> None:
    rows = report_of(selected)["training"]["n"]
    for stage in ("train", "inference"):
        told = numbers_to(selected, "bank", stage)
        assert told["logit per row, rounded to 0.01"] == rows
        assert told["exact second moments of own columns and a peer's model features"] > 0
    lines = (selected.out / "tax" / "opened-moments.jsonl").read_text().split("\n")
    kinds = [json.loads(line)[1] for line in lines if line]
    assert kinds.count("search") == len(own_aliases(selected, "tax")) >= kinds.count("weighted") > 0


def test_a_search_that_is_killed_after_its_moments_opened_goes_on_with_them(tmp_path: Path, selected: Ended) -> None:
    consortium = SmallConsortium(tmp_path, providers=2)
    consortium.recipe += ERRORS + STEPWISE
    out = tmp_path / "out"

    def lines(name: str, pattern: str) -> list[str]:
        return [line for path in sorted((out / name).glob(pattern)) for line in path.read_text().splitlines() if line]

    with subprocess.Popen(command(consortium.arguments(out)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as job:
        assert wait_until(lambda: any((out / "bank" / "checkpoints").glob("*/search.bin")), 60)
        signal_to(party_processes(out)["tax"], signal.SIGKILL)
        job.communicate(timeout=60)
    assert not (out / "bank" / "model.json").exists()
    opened = {name: lines(name, "opened-moments.jsonl") for name in consortium.names}
    assert {json.loads(line)[1] for line in opened["tax"]} == {"search"}
    spent = sum("column" in line for line in lines("bank", "spent-*.tsv"))
    ended = concordat(["resume", "--out", str(out), "--seed", "7", "--json"], out)
    assert ended.returncode == 0, ended.text + ended.stderr

    def names_of(folder: Path, name: str) -> set[str]:
        features = json.loads((folder / name / "model.json").read_bytes())["features"]
        return {feature["binning"]["feature"] for feature in features}

    for name in consortium.names:
        assert names_of(out, name) == names_of(selected.out, name)
        again = lines(name, "opened-moments.jsonl")
        assert [line for line in again if json.loads(line)[1] == "search"] == opened[name]
        indices = lines(name, "spent-*.tsv")
        assert len(indices) == len(set(indices))
    path = report_of(ended, "bank")["estimation"]["path"]
    before, after = (
        json.loads((folder / "shared.json").read_bytes())["training"]["gradient_budget"]
        for folder in (selected.out / "bank", out / "bank")
    )
    assert after == before - spent  # what the first attempt spent is gone
    assert len(path) == len(report_of(selected, "bank")["estimation"]["path"])
    exact = "exact second moments of own columns and a peer's model features"
    statement = report_of(ended)["statement"]["bank"]
    times = [line["stage"] for line in statement if line["what"] == exact]
    assert len([stage for stage in times if stage.startswith("train")]) == 2  # one a provider


def test_a_sign_constraint_leaves_no_positive_coefficient(tmp_path: Path) -> None:
    ended = run(tmp_path, "\n[model]\nsign_constraint = true\n")
    assert ended.returncode == 0, ended.text + ended.stderr
    weights = [
        f["weight"]
        for n in ("bank", "bureau")
        for f in json.loads((ended.out / n / "model.json").read_bytes())["features"]
    ]
    assert weights
    assert max(weights) <= 0
    assert report_of(ended)["parity"]["max_abs_coef_diff"] <= 1e-4


def test_a_recipe_that_opens_moments_needs_a_contract_that_allows_them(selected: Ended) -> None:
    contract = SignedContract.decode((selected.out / "bank" / "contract.json").read_bytes()).contract
    recipe = load_recipe(STEPWISE + "[keys]\nbits = 2048\n")
    check_recipe(recipe, contract)
    with pytest.raises(ContractViolationError, match="ALGORITHM_NOT_ALLOWED"):
        check_recipe(recipe, replace(contract, algorithms=USUAL_ALGORITHMS))
