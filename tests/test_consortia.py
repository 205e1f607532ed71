"""The main job on the real consortia, by the commands a user types (issue acceptance; 3072 and 2048 bits)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from party_agent.scorecard import Scaling
from protocols.psi.identifiers import canonical_id
from protocols.recipe import Recipe, load_recipe
from protocols.recipe_text import default_recipe_text

pytestmark = [pytest.mark.consortium, pytest.mark.process, pytest.mark.timeout(1200)]

UCI, POLISH, GERMAN = "uci_default", "polish_1year", "german"
PARTIES = {UCI: ("bank", "bureau"), POLISH: ("bank", "bureau", "tax"), GERMAN: ("bank", "bureau")}
COEFFICIENT_LIMITS = {UCI: 1e-4, POLISH: 1e-3}
KEY_BITS = {UCI: 3072, POLISH: 2048}
BOTH = pytest.mark.parametrize("simulated", [UCI, POLISH], indirect=True)


def concordat(*arguments: str) -> tuple[int, dict[str, Any]]:
    """One `concordat` command with --json: its exit code and the document it printed."""
    finished = subprocess.run(
        [str(Path(sys.executable).with_name("concordat")), *arguments, "--json"],
        capture_output=True,
        check=False,
        env=os.environ | {"GRPC_VERBOSITY": "ERROR"},
    )
    assert finished.stdout, finished.stderr.decode()
    return finished.returncode, json.loads(finished.stdout)


def files(data: Path, name: str) -> dict[str, Path]:
    return {party: data / name / f"{party}.csv" for party in PARTIES[name]}


def simulate(data: Path, name: str, out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    parties = [text for party, path in files(data, name).items() for text in ("--party", f"{party}={path}")]
    return concordat("simulate", *parties, "--id", "id", "--label", "y", "--out", str(out), *more)


def canonical_ids(path: Path) -> pd.Series:
    """The id column of a file, canonicalised, with repetitions."""
    return pd.read_csv(path, dtype=str, usecols=["id"])["id"].map(canonical_id)


@dataclass(frozen=True)
class Simulated:
    """A finished simulation. printed: what the command said; report: report.json."""

    name: str
    files: dict[str, Path]
    out: Path
    returncode: int
    printed: dict[str, Any]

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.out / "report.json").read_bytes())
        return report

    def scores(self) -> pd.DataFrame:
        """id, score, pd, sample of every aligned row."""
        return pd.read_csv(self.out / "bank" / "scores.csv", dtype={"id": str})


@pytest.fixture(scope="module")
def runs() -> dict[str, Simulated]:
    """The runs made so far, by consortium."""
    return {}


@pytest.fixture
def simulated(
    request: pytest.FixtureRequest,
    data_folder: Path,
    runs: dict[str, Simulated],
    tmp_path_factory: pytest.TempPathFactory,
) -> Simulated:
    """The acceptance run of a consortium, made once."""
    name = request.param
    if name not in runs:
        folder = tmp_path_factory.mktemp(name)
        out, recipe = folder / "out", folder / "recipe.toml"
        recipe.write_text(f"[keys]\nbits = {KEY_BITS[name]}\n", encoding="utf-8")
        own = () if KEY_BITS[name] == Recipe().keys.bits else ("--recipe", str(recipe))
        returncode, printed = simulate(data_folder, name, out, "--check-parity", *own)
        runs[name] = Simulated(name, files(data_folder, name), out, returncode, printed)
    assert runs[name].returncode == 0, runs[name].printed
    return runs[name]


# -- what the report says ----------------------------------------------------------------------------------------------


@BOTH
def test_the_report_has_every_figure_that_was_promised(simulated: Simulated) -> None:
    report = simulated.report
    assert report["keys"]["bits"] == KEY_BITS[simulated.name]
    training = report["training"]
    assert training["n"] == (simulated.scores()["sample"] == "train").sum() == round(0.7 * report["alignment"]["rows"])
    assert training["iterations"] > 0
    assert 0 < training["seconds"] <= simulated.printed["seconds"]
    assert 0 < report["metrics"]["test"]["ks"] < 1
    assert report["metrics"]["test"]["auc"] > report["metrics"]["test"]["ks"]
    assert {"alignment", "training", "metrics", "keys", "parity"} <= simulated.printed.keys()
    assert simulated.printed["parity"] == report["parity"]


@pytest.mark.parametrize(("simulated", "least"), [(UCI, 0.745), (POLISH, 0.80)], indirect=["simulated"])
def test_the_scorecard_ranks_the_test_sample(simulated: Simulated, least: float) -> None:
    test = simulated.report["metrics"]["test"]
    assert test["auc"] >= least
    scores = simulated.scores().set_index("id")
    bank = pd.read_csv(simulated.files["bank"], dtype={"id": str})
    label = bank.assign(id=bank["id"].map(canonical_id)).drop_duplicates("id").set_index("id")["y"]
    sample = scores[scores["sample"] == "test"]
    assert _auc(sample["pd"], label.loc[sample.index]) == pytest.approx(test["auc"], abs=5.1e-5)  # given to 4 decimals


@BOTH
def test_points_and_probability_of_default_are_two_scales_of_one_score(simulated: Simulated) -> None:
    rules = load_recipe(default_recipe_text()).scorecard
    scaling = Scaling(rules.pdo, rules.base_score, rules.base_odds)
    scores = simulated.scores()
    exact = scaling.offset - scaling.factor * np.log(scores["pd"] / (1 - scores["pd"]))
    features = sum(feature["kept"] for part in simulated.report["features"].values() for feature in part)
    # Each feature's points and the base are rounded, half a point each at most, and the logits to 0.01.
    assert np.abs(scores["score"] - exact).max() <= (features + 1) / 2 + scaling.factor * 0.0051


def _auc(risk: pd.Series, label: pd.Series) -> float:
    """Probability that a bad has a higher risk than a good, ties counting half."""
    ranks, bads = risk.rank(), int(label.sum())
    return float((ranks[label == 1].sum() - bads * (bads + 1) / 2) / (bads * (len(label) - bads)))


@BOTH
def test_the_scorecard_is_the_one_that_pooled_data_would_give(simulated: Simulated) -> None:
    parity = simulated.report["parity"]
    assert parity["max_abs_coef_diff"] <= COEFFICIENT_LIMITS[simulated.name]
    assert parity["max_abs_pd_diff"] <= 1e-4
    assert parity["max_abs_woe_diff"] == 0
    assert parity["abs_auc_diff"] <= 0.001
    assert parity["points_equal"] is True
    assert parity["points_ties"] >= 0
    features = sum(line["kept"] for lines in simulated.report["features"].values() for line in lines)
    assert parity["twin"]["coefficients"] == features + 1


@BOTH
def test_the_statement_has_a_list_a_party_that_all_signed(simulated: Simulated) -> None:
    report, parties = simulated.report, PARTIES[simulated.name]
    assert set(report["statement"]) == {*parties, "coordinator"}
    for party, lines in report["statement"].items():
        assert lines
        assert all(line["source"] != party and line["numbers"] > 0 for line in lines)
    statements = [json.loads((simulated.out / party / "statement.json").read_bytes()) for party in parties]
    assert len({statement["digest"] for statement in statements}) == 1
    assert all(set(statement["signatures"]) == set(parties) for statement in statements)
    assert all(
        json.loads((simulated.out / party / "shared.json").read_bytes())["statement"] == report["statement"]
        for party in parties
    )


@pytest.mark.parametrize("simulated", [POLISH], indirect=True)
def test_collinear_features_take_several_passes_within_the_gradient_budget(simulated: Simulated) -> None:
    training = simulated.report["training"]
    widest = max(sum(line["kept"] for line in lines) for lines in simulated.report["features"].values())
    assert training["passes"] > 1
    assert 15 <= training["gradient_budget"] <= training["n"] // (4 * widest)
    assert training["iterations"] <= training["gradient_budget"]


# -- the rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("simulated", "rows"), [(UCI, 24_389), (POLISH, 6_072)], indirect=["simulated"])
def test_alignment_equals_the_plain_intersection(simulated: Simulated, rows: int) -> None:
    plain = set.intersection(*(set(canonical_ids(path)) for path in simulated.files.values()))
    ids = simulated.scores()["id"]
    assert simulated.report["alignment"]["rows"] == len(ids) == rows
    assert ids.is_unique
    assert set(ids) == plain


@pytest.mark.parametrize("simulated", [POLISH], indirect=True)
def test_dirty_ids_were_there_to_be_cleaned(simulated: Simulated) -> None:
    raw = [set(pd.read_csv(path, dtype=str)["id"]) for path in simulated.files.values()]
    assert len(set.intersection(*raw)) < simulated.report["alignment"]["rows"]
    assert any(canonical_ids(path).duplicated().any() for path in simulated.files.values())
    assert simulated.report["findings"]


@pytest.mark.parametrize("simulated", [UCI], indirect=True)
def test_scoring_the_test_ids_gives_the_scores_of_validation(simulated: Simulated, tmp_path: Path) -> None:
    scores = simulated.scores()
    asked = scores.loc[scores["sample"] == "test", ["id"]].sample(frac=1, random_state=1)
    asked.to_csv(tmp_path / "ids.csv", index=False)
    returncode, printed = concordat("score", "--out", str(simulated.out), "--ids", str(tmp_path / "ids.csv"))
    assert (returncode, printed["asked"], printed["scored"]) == (0, len(asked), len(asked))
    scored = pd.read_csv(printed["scores"], dtype={"id": str}).set_index("id")
    test = scores[scores["sample"] == "test"].set_index("id")
    assert scored["score"].sort_index().equals(test["score"].sort_index())
    assert scored["pd"].between(0, 1, inclusive="neither").all()
    cuts = simulated.report["grade_table"]
    for grade, cut in zip(cuts["names"], cuts["cuts"], strict=False):
        at_least = scored["score"] >= cut
        assert set(scored.loc[at_least, "grade"]) <= set(cuts["names"][: cuts["names"].index(grade) + 1])


# -- jobs that end otherwise -------------------------------------------------------------------------------------------


def test_a_small_consortium_is_refused_by_every_party(data_folder: Path, tmp_path: Path) -> None:
    returncode, printed = simulate(data_folder, GERMAN, tmp_path / "out", "--check-parity")
    assert returncode == 1
    assert printed["ok"] is False
    assert printed["error"]["code"] == "TOO_FEW_ROWS"
    assert printed["error"]["remedy"]
    assert printed["parties"] == dict.fromkeys(PARTIES[GERMAN], "TOO_FEW_ROWS")
    assert not (tmp_path / "out" / "report.json").exists()
    plain = set.intersection(*(set(canonical_ids(path)) for path in files(data_folder, GERMAN).values()))
    assert len(plain) == 963


def test_a_lower_label_budget_drops_features_and_names_them(data_folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[keys]\nbits = 2048\n\n[selection]\nlabel_budget_share = 0.0015\n", encoding="utf-8")
    returncode, printed = simulate(data_folder, UCI, tmp_path / "out", "--recipe", str(recipe))
    assert returncode == 0, printed
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    training = report["training"]
    assert training["label_budget_spent"] <= training["label_budget"] < 27
    dropped = [line["alias"] for line in report["features"]["bureau"] if not line["kept"]]
    own = json.loads((tmp_path / "out" / "bank" / "report.json").read_bytes())
    budget = {line["alias"]: line for line in own["selection"] if line["reason"] == "label budget"}
    assert budget
    assert budget.keys() <= set(dropped)
    provider = json.loads((tmp_path / "out" / "bureau" / "report.json").read_bytes())
    names = {feature["alias"]: feature for feature in provider["features"]}
    assert all(names[alias]["name"] and not names[alias]["kept"] for alias in budget)
