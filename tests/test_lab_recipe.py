"""The whole recipe of a credit lab (`examples/lab.toml`) as one command on the real consortia, at 2048 bits."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from optbinning import OptimalBinning
from sklearn.metrics import roc_auc_score

from party_agent import model
from party_agent.dataset import read_table
from party_agent.pooled_twin import PooledSearch
from party_agent.store import Folder
from protocols.fixed_point import FEATURE_BITS
from protocols.logistic.search import Direction
from protocols.recipe import Recipe, load_recipe
from tests.reference.exact_stepwise import ExactModels, Model, exact_search
from tests.test_consortia import COEFFICIENT_LIMITS, POLISH, UCI, canonical_id, files, simulate

pytestmark = [pytest.mark.consortium, pytest.mark.process, pytest.mark.timeout(1200)]
ON_UCI = pytest.mark.parametrize("lab", [UCI], indirect=True)
RECIPE = Path(__file__).parents[1] / "examples" / "lab.toml"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Lab:
    """A finished job of the recipe. data: the consortia; printed: what the command said."""

    name: str
    data: Path
    out: Path
    printed: dict[str, Any]

    def report(self, party: str = "") -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.out / party / "report.json").read_bytes())
        return document

    @property
    def samples(self) -> pd.DataFrame:
        """id and sample of every aligned row."""
        return pd.read_csv(self.out / "bank" / "scores.csv", dtype={"id": str}, usecols=["id", "sample"])


@dataclass(frozen=True)
class Pooled:
    """WOE of the features that the search chose from, on all rows, from the files and the bins of the job.

    owners: party by alias, in the order of the columns; kept: places of those that are in the job's model.
    """

    x: Floats
    label: NDArray[np.int64]
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    owners: dict[str, str]
    kept: Model

    @classmethod
    def of(cls, lab: Lab) -> Pooled:
        ids, samples = (lab.samples[name] for name in ("id", "sample"))
        columns, label, owners, kept = [], np.zeros(len(ids), dtype=np.int64), {}, set()
        for party, path in files(lab.data, lab.name).items():
            table, _ = read_table(path, "id", "y" if party == "bank" else None, Recipe(), party)
            place = {item: row for row, item in enumerate(table.ids)}
            table = table.take(np.array([place[item] for item in ids]))
            candidates = model.read(Folder(lab.out / party), model.CANDIDATES_FILE)
            codes = candidates.codes(table)
            chosen = {feature.alias for feature in model.read(Folder(lab.out / party)).features}
            for j, feature in enumerate(candidates.features):
                columns.append(feature.values[codes[:, j]] / (1 << FEATURE_BITS))
                kept |= {len(owners)} if feature.alias in chosen else set()
                owners[feature.alias] = party
            label = label if table.label is None else table.label
        train, test = ((samples == name).to_numpy(dtype=bool) for name in ("train", "test"))
        return cls(np.stack(columns, axis=1), label, train, test, owners, frozenset(kept))

    def allowed(self, candidate: Model) -> bool:
        """Whether every party keeps three."""
        owners = list(self.owners.values())
        counts = [sum(owners[j] == party for j in candidate) for party in set(owners)]
        return min(counts) >= 3

    def auc(self, candidate: Model, l2: float) -> float:
        weights = ExactModels(self.x[self.train], self.label[self.train], l2).weights(candidate)
        logits = self.x[self.test][:, sorted(candidate)] @ weights[1:]
        return float(roc_auc_score(self.label[self.test], logits))


@pytest.fixture(scope="module", params=[UCI, POLISH])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    out, recipe = folder / "out", folder / "lab.toml"
    recipe.write_text(RECIPE.read_text(encoding="utf-8") + "\n[keys]\nbits = 2048\n", encoding="utf-8")
    code, printed = simulate(data_folder, request.param, out, "--recipe", str(recipe), "--check-parity")
    assert code == 0, printed
    return Lab(request.param, data_folder, out, printed)


@pytest.fixture(scope="module")
def pooled(lab: Lab) -> Pooled:
    return Pooled.of(lab)


def test_the_lab_recipe_is_what_the_pooled_twin_gives_by_the_same_rules(lab: Lab) -> None:
    report, parity = lab.report(), lab.report()["parity"]
    assert report["keys"]["bits"] == 2048
    assert parity["same_features"] is True
    assert parity["max_abs_coef_diff"] <= COEFFICIENT_LIMITS[lab.name]
    assert parity["max_rel_se_diff"] <= 1e-3
    assert parity["rel_loglik_diff"] <= 1e-6
    assert parity["counts_equal"] is True
    assert (parity["max_abs_woe_diff"], parity["max_abs_iv_diff"], parity["points_equal"]) == (0, 0, True)


def test_the_search_ends_within_the_gradients_of_the_rows_and_says_what_they_were(lab: Lab) -> None:
    training, estimation = lab.report()["training"], lab.report("bank")["estimation"]
    path = estimation["path"]
    assert sum(not fit["loose"] for fit in path) <= 12
    assert training["within_budget"] is estimation["within_budget"] is all(fit["converged"] for fit in path) is True
    assert training["iterations"] == sum(fit["gradients"] for fit in path) < training["gradient_budget"]
    assert (training["fits"], lab.printed["training"]) == (len(path), training)
    best = min(path, key=lambda fit: fit["criterion"])
    assert best["model"]
    assert not best["loose"]


@ON_UCI
def test_the_search_ends_within_two_units_of_one_by_exact_fits_on_pooled_data(lab: Lab, pooled: Pooled) -> None:
    models = ExactModels(pooled.x[pooled.train], pooled.label[pooled.train], load_recipe(RECIPE.read_text()).model.l2)
    columns = len(pooled.owners)
    exact = exact_search(models.bic, columns, "both", pooled.allowed)
    assert models.bic(frozenset(range(columns))) > models.bic(exact) + 2  # else there is nothing to select
    assert models.bic(pooled.kept) <= models.bic(exact) + 2
    said = next(fit for fit in lab.report("bank")["estimation"]["path"] if fit["model"])
    assert said["criterion"] == pytest.approx(models.bic(pooled.kept), rel=1e-6)


@ON_UCI
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_so_does_a_search_in_one_direction(lab: Lab, pooled: Pooled, direction: Direction) -> None:
    recipe = load_recipe(RECIPE.read_text(encoding="utf-8"))
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"direction": direction})})
    x, label = pooled.x[pooled.train], pooled.label[pooled.train]
    search = PooledSearch(np.column_stack([np.ones(len(x)), x]), label, pooled.owners)
    kept = search.best(recipe)
    assert sum(not outcome.plan.loose for outcome in search.outcomes) <= 12
    models = ExactModels(x, label, recipe.model.l2)
    exact = exact_search(models.bic, len(pooled.owners), direction, pooled.allowed)
    chosen = frozenset(j for j, alias in enumerate(pooled.owners) if alias in kept)
    assert models.bic(chosen) <= models.bic(exact) + 2


def test_it_ranks_as_well_as_optbinning_and_statsmodels_on_the_same_rows(lab: Lab, pooled: Pooled) -> None:
    """Like with like: after a search by BIC, and with all features that screening leaves."""
    rules = load_recipe(RECIPE.read_text(encoding="utf-8"))
    ours = lab.report()["metrics"]["test"]["auc"], pooled.auc(frozenset(range(len(pooled.owners))), rules.model.l2)
    x, label = _reference_columns(lab, rules)
    train, test = pooled.train, pooled.test
    models = ExactModels(x[train], label[train])
    selected = exact_search(models.bic, x.shape[1], "backward")
    theirs = []
    for columns in (sorted(selected), list(range(x.shape[1]))):
        design = sm.add_constant(x[:, columns])
        fitted = sm.Logit(label[train], design[train]).fit(disp=0)
        assert fitted.bic == pytest.approx(models.bic(frozenset(columns)), rel=1e-9)
        theirs.append(float(roc_auc_score(label[test], fitted.predict(design[test]))))
    lines = [f"{lab.name}, test AUC: ours, optbinning and statsmodels"]
    for what, own, other in zip(("selected by BIC", "all features"), ours, theirs, strict=True):
        lines.append(f"{what:<16} {own:.4f} {other:.4f}")
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert len(selected) >= 5
    for own, other in zip(ours, theirs, strict=True):
        assert own >= other - 0.003


def _reference_columns(lab: Lab, rules: Recipe) -> tuple[Floats, NDArray[np.int64]]:
    """WOE by optbinning on all rows, of the columns that pass the recipe's cuts of IV and correlation; the label."""
    rows = lab.samples
    for path in files(lab.data, lab.name).values():
        table = pd.read_csv(path, dtype={"id": str})
        table["id"] = table["id"].map(canonical_id)
        rows = rows.merge(table.drop_duplicates("id"), on="id", how="left", validate="one_to_one")
    train, label = (rows["sample"] == "train").to_numpy(), rows["y"].to_numpy()
    columns = []
    for name in rows.columns.drop(["id", "sample", "y"]):
        values = rows[name].to_numpy(float)
        binning = OptimalBinning(monotonic_trend="auto_asc_desc", min_bin_size=rules.binning.min_bin_share)
        binning.fit(values[train], label[train])
        binning.binning_table.build()
        if binning.binning_table.iv >= rules.selection.minimum_iv:
            columns.append(
                (binning.binning_table.iv, binning.transform(values, metric="woe", metric_missing="empirical"))
            )
    kept: list[Floats] = []
    for _, woe in sorted(columns, key=lambda item: -item[0]):
        if all(abs(np.corrcoef(woe[train], o[train])[0, 1]) <= rules.selection.maximum_correlation for o in kept):
            kept.append(woe)
    return np.stack(kept, axis=1), label
