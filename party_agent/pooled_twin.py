"""The pooled twin of a simulation: the same rows and bins, fitted on all parties' plaintext at once.

Only a simulation can do this, because only there one process may read every party's file and folder. Counts, WOE and
coefficients are computed anew from the files; rows, edges and merge maps are taken from the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from party_agent import model, report_page
from party_agent.across_parties import rules_of
from party_agent.baseline import fit
from party_agent.dataset import Table, read_table
from party_agent.estimation import stepwise
from party_agent.model import OwnModel
from party_agent.policy import OWN_COLUMNS_FILE
from party_agent.scorecard import PointsTable, base_points, unrounded_points
from party_agent.store import Folder
from party_agent.validation import ranking_figures
from protocols.binning.table import BinnedFeature
from protocols.binning.weight_of_evidence import feature_values, information_value, iv_units, woe_units
from protocols.fixed_point import FEATURE_BITS, FloatArray, IntArray
from protocols.logistic.plan import Outcome
from protocols.logistic.search import Moments, kept
from protocols.logistic.weights import SampleWeights
from protocols.moments.inference import inflation_factors
from protocols.moments.screening import screen
from protocols.recipe import PartyColumns, Recipe, recipe_from_canonical

BoolArray = NDArray[np.bool_]

TIE = 0.03  # points whose unrounded value lies this close to a half may round either way


@dataclass(frozen=True)
class _Part:
    """One party in the twin: its model as it wrote it, the bins of all rows, and WOE computed from pooled labels."""

    own: OwnModel
    codes: IntArray
    features: tuple[BinnedFeature, ...]
    iv_differs: float
    counts_equal: bool

    @property
    def design(self) -> FloatArray:
        columns = [feature_values(f.woe)[self.codes[:, j]] for j, f in enumerate(self.features)]
        return np.column_stack(columns) / (1 << FEATURE_BITS)


def compare(out: Path, sources: Mapping[str, Any]) -> dict[str, Any]:
    """Fit the twin of the run in `out`, add the differences to the shared report there, and render it.

    Args: sources: party -> {"data", "id", "label"}; the label owner first.
    """
    names = list(sources)
    owner = names[0]
    recipe = recipe_from_canonical((out / "coordinator" / "recipe.json").read_bytes())
    ids, training, test = _rows(out / owner)
    tables = {party: _table(out / party, party, source, recipe, ids) for party, source in sources.items()}
    label = tables[owner].label
    if label is None:
        raise ValueError("the label owner comes first")
    parts = [_part(out / party, tables[party], label, training) for party in names]
    x = np.column_stack([np.ones(len(ids)), *(part.design for part in parts)])
    record = json.loads((out / owner / "report.json").read_bytes())["estimation"]
    l2 = recipe.model.l2 if record is None else float(record["l2"])
    sample = _sample_weights(tables[owner], training, recipe)
    weights = fit(x[training], label[training], l2, sample)
    shared = json.loads((out / owner / "shared.json").read_bytes())
    parity = _differences(parts, weights, x, label, test, shared["metrics"]["test"]["auc"])
    parity |= _on_training_rows(parts, weights, x[training], label[training], sample)
    if recipe.screens_across or recipe.model.search != "none":
        ended = [row["converged"] for row in (record or {}).get("path") or ()]
        parity["same_features"] = _same_selection(out, names, tables, label, training, recipe, ended, sample)
    if recipe.inference.standard_errors:
        parity["max_rel_se_diff"] = _errors_differ(out, names, weights, x[training], l2, sample)
    if recipe.screens_across:
        parity["max_rel_vif_diff"] = _inflation_differs(out, names, x[training][:, 1:])
    document = shared | {"parity": parity}
    folder = Folder(out)
    folder.write_json("report.json", document)
    folder.write("report.html", report_page.render_shared(document).encode())
    return parity


def _sample_weights(table: Table, training: BoolArray, recipe: Recipe) -> FloatArray:
    """The weights of the training rows as the run rounded them; ones if its fit was not weighted."""
    if not recipe.model.weighted or table.weights is None:
        return np.ones(int(training.sum()))
    return SampleWeights.of(table.weights[training]).values


def _rows(folder: Path) -> tuple[list[str], BoolArray, BoolArray]:
    """Ids of the aligned rows, and which of them train and which test."""
    rows = pd.read_csv(folder / "scores.csv", dtype=str, keep_default_na=False)
    training, test = ((rows["sample"] == name).to_numpy(dtype=bool) for name in ("train", "test"))
    return rows["id"].tolist(), training, test


def _table(folder: Path, party: str, source: Mapping[str, Any], recipe: Recipe, ids: Sequence[str]) -> Table:
    own = folder / OWN_COLUMNS_FILE
    section = PartyColumns.model_validate_json(own.read_bytes()) if own.exists() else PartyColumns()
    recipe = recipe.model_copy(update={"parties": {party: section}})
    table, _ = read_table(Path(source["data"]), source["id"], source["label"], recipe, party)
    place = {name: row for row, name in enumerate(table.ids)}
    return table.take(np.array([place[name] for name in ids], dtype=np.int64))


def _part(folder: Path, table: Table, label: IntArray, training: Any, name: str = model.MODEL_FILE) -> _Part:
    own = model.read(Folder(folder), name)
    codes = own.codes(table)
    features = []
    iv_differs, counts_equal = 0.0, True
    for j, feature in enumerate(own.features):
        column = codes[training, j]
        rows = np.bincount(column, minlength=len(feature.woe))
        bads = np.bincount(column, weights=label[training], minlength=len(feature.woe)).astype(np.int64)
        woe = tuple(woe_units(rows, bads).tolist())
        known = zip(feature.bads, bads.tolist(), strict=True)
        counts_equal &= feature.rows == tuple(rows.tolist()) and all(told in (None, count) for told, count in known)
        features.append(replace(feature, woe=woe, iv=iv_units(rows, bads)))
        iv_differs = max(iv_differs, abs(round(1000 * information_value(rows, bads)) - feature.iv) / 1000)
    return _Part(own, codes, tuple(features), iv_differs, counts_equal)


def _differences(
    parts: Sequence[_Part], weights: FloatArray, x: FloatArray, label: IntArray, test: BoolArray, auc: float
) -> dict[str, Any]:
    ours = _ours(parts)
    rates_ours, rates_twin = (1 / (1 + np.exp(-(x @ w))) for w in (ours, weights))
    twin_auc, _ = ranking_figures(label[test], x[test] @ weights)
    woe = [
        abs(a - b) / 1e4
        for part in parts
        for f, g in zip(part.features, part.own.features, strict=True)
        for a, b in zip(f.woe, g.woe, strict=True)
    ]
    equal, ties = _points(parts, weights)
    return {
        "max_abs_coef_diff": float(np.abs(ours - weights).max()),
        "max_abs_pd_diff": float(np.abs(rates_ours - rates_twin).max()),
        "counts_equal": all(part.counts_equal for part in parts),
        "max_abs_woe_diff": max(woe),
        "max_abs_iv_diff": max(part.iv_differs for part in parts),
        "abs_auc_diff": abs(twin_auc - auc),
        "points_equal": equal,
        "points_ties": ties,
        "twin": {"auc_test": twin_auc, "coefficients": len(weights)},
    }


def _on_training_rows(
    parts: Sequence[_Part], weights: FloatArray, x: FloatArray, label: IntArray, sample: FloatArray
) -> dict[str, float]:
    ours, twin = (float(sample @ (np.logaddexp(0, x @ w) - label * (x @ w))) for w in (_ours(parts), weights))
    return {"rel_loglik_diff": abs(ours - twin) / twin}


def _same_selection(
    out: Path,
    names: Sequence[str],
    tables: Mapping[str, Table],
    label: IntArray,
    training: BoolArray,
    recipe: Recipe,
    ended: Sequence[bool],
    sample: FloatArray,
) -> bool:
    """Whether the same screening and search on pooled plaintext, with the same rules, keep the same features.

    Args: ended: of each fit of the run, whether it did within the gradient budget, which pooled fits know nothing of.
    """
    parts = [_part(out / name, tables[name], label, training, model.CANDIDATES_FILE) for name in names]
    features = [(name, f.alias, f.iv) for name, part in zip(names, parts, strict=True) for f in part.features]
    x = np.column_stack([np.ones(len(training)), *(part.design for part in parts)])[training]
    if recipe.screens_across:
        stay = screened(x[:, 1:], features, recipe)
        x, features = x[:, [0, *(place + 1 for place in stay)]], [features[place] for place in stay]
    owners = {alias: name for name, alias, _ in features}
    kept_here = set(owners)
    if recipe.model.search != "none":
        kept_here = PooledSearch(x, label[training], owners, sample).best(recipe, ended)
    kept_there = {f.alias for name in names for f in model.read(Folder(out / name)).features}
    if recipe.model.sign_constraint:  # which left out more, after the screening
        reports = [json.loads((out / name / "report.json").read_bytes()) for name in names]
        kept_there |= {f["alias"] for report in reports for f in report["features"] if f["reason"] == "sign"}
    return kept_here == kept_there


def screened(x: FloatArray, features: Sequence[tuple[str, str, int]], recipe: Recipe) -> tuple[int, ...]:
    """Places of the features that the recipe's screening across parties leaves.

    Args: x: pooled WOE, shape (n, d); features: party, alias and IV of each column.
    """
    ivs, owners = [iv for *_, iv in features], [party for party, *_ in features]
    return screen(_correlations(x), ivs, owners, rules_of(recipe)).kept


def _correlations(x: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore"):  # a constant column correlates with none
        return np.asarray(np.corrcoef(x, rowvar=False), dtype=np.float64)


class PooledSearch:
    """The fits that a label owner directs, each made on pooled columns.

    Args: x: intercept first, shape (n, d); sample: sample weights, shape (n,), where the fits have them.
    """

    def __init__(
        self, x: FloatArray, label: IntArray, owners: Mapping[str, str], sample: FloatArray | None = None
    ) -> None:
        self._sample = np.ones(len(label)) if sample is None else sample
        self._x = x
        self._label = label
        self._owners = dict(owners)
        self.moments: Moments | None = None
        self.outcomes: list[Outcome] = []

    def best(self, recipe: Recipe, ended: Sequence[bool] = ()) -> set[str]:
        """The aliases that a stepwise search keeps. ended: false for a fit that the search is not to see the end of."""
        director = stepwise(recipe, self._owners, self)
        done = self.outcomes
        while (plan := director.next_fit(done)) is not None:
            if not all(ended[: len(done) + 1]):
                done.append(Outcome(plan, 0, 0.0, False))
                break
            model_of_plan = kept(plan.dropped, self._owners)
            columns = [0, *(j for j, alias in enumerate(self._owners, start=1) if alias in model_of_plan)]
            x = self._x[:, columns]
            z = x @ fit(x, self._label, recipe.model.l2, self._sample)
            likelihood = float(self._sample @ (self._label * z - np.logaddexp(0, z)))
            if self.moments is None:
                p = 1 / (1 + np.exp(-z))
                w = self._sample * p * (1 - p)
                score = x.T @ (w * z + self._sample * (self._label - p))
                self.moments = Moments((x.T * w) @ x, score, tuple(self._owners), self._owners, len(z))
            done.append(Outcome(plan, 0, 0.0, True, likelihood, len(z)))
        return set(kept(done[director.chosen(done)].plan.dropped, self._owners))


def _errors_differ(
    out: Path, names: Sequence[str], weights: FloatArray, x: FloatArray, l2: float, sample: FloatArray
) -> float | None:
    """The largest relative difference of a standard error; None where moments were not opened."""
    tables = [json.loads((out / name / "report.json").read_bytes())["inference"] for name in names]
    if not all(table["opened"] for table in tables):
        return None
    # The label owner's table goes on with the providers' rows where the recipe opens the scorecard.
    owns = [1 + len(json.loads((out / names[0] / "model.json").read_bytes())["features"])]
    owns += [len(table["rows"]) for table in tables[1:]]
    ours = [row["standard_error"] for table, own in zip(tables, owns, strict=True) for row in table["rows"][:own]]
    p = 1 / (1 + np.exp(-(x @ weights)))
    penalty = np.full(x.shape[1], l2)
    penalty[0] = 0.0
    twin = np.sqrt(np.diag(np.linalg.inv((x.T * (sample * p * (1 - p))) @ x + np.diag(penalty))))
    return float(np.abs(np.array(ours) / twin - 1).max())


def _inflation_differs(out: Path, names: Sequence[str], x: FloatArray) -> float | None:
    """The largest relative difference of a VIF; None where no plain moments were opened. x: pooled WOE, (n, d)."""
    tables = [json.loads((out / name / "report.json").read_bytes())["inference"] for name in names]
    rows = [row for table in tables if table is not None for row in table["rows"] if row["name"] and row["alias"]]
    ours = np.array([row["inflation"] for row in rows if row["inflation"] is not None])
    if not len(ours):
        return None
    return float(np.abs(ours / inflation_factors(_correlations(x)) - 1).max())


def _ours(parts: Sequence[_Part]) -> FloatArray:
    """The coefficients of the run, intercept first."""
    intercept = parts[0].own.intercept
    return np.concatenate([[0.0 if intercept is None else intercept], *(np.array(p.own.weights) for p in parts)])


def _points(parts: Sequence[_Part], weights: FloatArray) -> tuple[bool, int]:
    """Whether all points agree but for ties, and how many of the twin's points are ties."""
    equal, ties, first = True, 0, 1
    for part in parts:
        own = weights[first : first + len(part.features)]
        first += len(part.features)
        scaling = part.own.points.scaling
        twin = PointsTable.of(part.own.points.party, part.features, own, scaling)
        exact = unrounded_points(own, [np.array(f.woe, dtype=np.int64) for f in part.features], scaling)
        for mine, theirs, values in zip(part.own.points.features, twin.features, exact, strict=True):
            tied = np.abs(np.abs(values - np.trunc(values)) - 0.5) <= TIE
            ties += int(tied.sum())
            equal &= bool(np.all((np.array(mine.points) == np.array(theirs.points)) | tied))
        if part.own.points.base is not None:
            base = scaling.offset - scaling.factor * float(weights[0])
            tied_base = abs(abs(base - np.trunc(base)) - 0.5) <= TIE
            ties += int(tied_base)
            equal &= base_points(float(weights[0]), scaling) == part.own.points.base or bool(tied_base)
    return equal, ties
