"""A joint scorecard as a scikit-learn estimator: a simulation on frames, or the own part of a job between institutions.

The estimator computes no model. `fit` writes one file a party and starts `concordat simulate`; `from_job` reads what
the institution's own agent has kept. Predictions come from the stored parts, by the code that scores a job.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import assert_all_finite, check_consistent_length, column_or_1d, validate_data

from party_agent import model_export
from party_agent.dataset import column_name, listed
from party_agent.model import OwnModel
from party_agent.notebook import cells, plots
from party_agent.notebook.cells import InputError
from party_agent.notebook.command import RecipeSource, recipe_text, run
from party_agent.notebook.job_folder import PartFolder, read_part
from party_agent.scorecard import WOE_UNIT, FloatArray, IntArray
from party_agent.store import Folder
from protocols.binning.budget import LEAST_ROWS
from protocols.errors import ConcordatError, ContractViolationError, DataError, SmallIntersectionError
from protocols.recipe import load_recipe

INTERCEPT = "(base)"
_TESTED = {"standard_error": "standard_error", "p_value": "p_value", "inflation": "vif"}  # of a report: here
_CODE_LABELS = "code bad as 1 and good as 0"


class JointScorecard(ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """A joint scorecard of a label owner and its providers. Labels: 1 = bad, 0 = good.

    Args: providers: provider -> its columns of `X`; all others are the label owner's. label_owner: its name. recipe:
        parameters as in `concordat recipe`: a mapping, TOML text, the path of a file, or None for every default.
        connect_timeout_s: how long each party's process may take to appear.
    Attributes, once fitted: classes_, n_features_in_, feature_names_in_ (if `X` had names); parts_: party -> its part
        of the model; report_: the shared report; party_reports_: party -> its own report; statement_: what each party
        learned, signed by all; grades_: the cut-offs; scores_: score and probability of default as the job computed
        them, of the rows it used, `row` being the position in `X`.
    """

    def __init__(
        self,
        providers: Mapping[str, Sequence[str]] | None = None,
        *,
        label_owner: str = "bank",
        recipe: RecipeSource = None,
        connect_timeout_s: float = 60.0,
    ) -> None:
        self.providers = providers
        self.label_owner = label_owner
        self.recipe = recipe
        self.connect_timeout_s = connect_timeout_s

    def __sklearn_tags__(self) -> Any:
        """Two classes, missing values and text are taken, a label is needed."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = []
        tags.non_deterministic = True  # the rows that train are drawn anew, unless the recipe has a seed
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a model."""
        return hasattr(self, "parts_")

    # -- from data, and from a job

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> JointScorecard:
        """Run the whole job as `concordat simulate`: every party a process that reads its own columns only.

        Args: X: shape (n, d), a frame with named columns, or an array whose columns are then called x0, x1, ...;
            missing values allowed. y: 0 or 1, shape (n,). sample_weight: the label owner's, shape (n,), in place of a
            column that the recipe names; only ratios count, and rows of weight 0 are left out.
        Raises: ConcordatError: whatever the job ends with; of `X` and `y`, an error that is a ValueError too.
        """
        self.__dict__.pop("parts_", None)
        frame = self._frame(X, y)
        weights = np.ones(len(frame)) if sample_weight is None else _weights(sample_weight, len(frame))
        labels = _labels(y, weights > 0)
        frame, weights = frame[weights > 0], weights[weights > 0]
        columns = self._columns_of_parties(frame)
        text = {party: [name for name in names if not cells.is_number(frame[name])] for party, names in columns.items()}
        weighted = None if sample_weight is None else (self.label_owner, _unused("weight", frame))
        recipe = recipe_text(self.recipe, {party: names for party, names in text.items() if names}, weighted)
        _check_rows(len(frame), load_recipe(recipe).sample.training_share)
        self.classes_ = np.array([0, 1])
        with tempfile.TemporaryDirectory(prefix="concordat-") as place:
            folder = Folder(Path(place))
            counted = None if sample_weight is None else weights
            arguments = self._write(folder, frame, labels, counted, columns, recipe)
            run("coordinator", arguments, folder.path)
            self._keep({party: read_part(folder.path / "result" / party) for party in columns})
        self._mark_rows()
        return self

    @classmethod
    def from_job(cls, folder: Path | str, job: str, *, wait_s: float = 0.0) -> JointScorecard:
        """This institution's own part of a training job, from its agent's folder. The other parts are not there.

        Args: wait_s: first wait so long for the job to end (`concordat-party jobs status`).
        Raises: ConcordatError: the code that the job ended with; DataError: MODEL_MISSING, MODEL_UNREADABLE.
        """
        home = Path(folder).resolve()
        if wait_s > 0:
            _wait(home, job, wait_s)
        part = read_part(home / "jobs" / job)
        parties = part.shared["parties"]
        scorecard = cls(label_owner=parties["label_owner"])
        scorecard.classes_ = np.array([0, 1])
        scorecard._keep({part.own.points.party: part})
        scorecard.feature_names_in_ = np.array([feature.name for feature in part.own.features], dtype=object)
        scorecard.n_features_in_ = len(scorecard.feature_names_in_)
        return scorecard

    def request(self, folder: Path | str, contract: str) -> str:
        """Have this institution's own agent sign and submit a training job with this recipe; the job's name.

        The same as `concordat-party jobs request`; every agent decides for itself. Then `from_job` reads the own part.
        Args: folder: the agent's; contract: its hash, or its beginning.
        Raises: ConcordatError: the command's code.
        """
        with tempfile.TemporaryDirectory(prefix="concordat-") as place:
            path = Folder(Path(place)).write("recipe.toml", recipe_text(self.recipe).encode())
            words = ["jobs", "request", contract, "--folder", str(Path(folder).resolve()), "--recipe", str(path)]
            return str(run("party_agent", words, Path(place))["job"])

    # -- predictions

    def decision_function(self, X: Any) -> FloatArray:
        """The logit of bad of each row, shape (n,). Raises: ContractViolationError: PARTS_MISSING."""
        self._check_all_parts()
        logits: FloatArray = np.sum([part.logits(codes) for part, codes in self._codes(X)], axis=0)
        return logits

    def predict_proba(self, X: Any) -> FloatArray:
        """Probability of good and of bad of each row, shape (n, 2). Raises: as `decision_function`."""
        logits = self.decision_function(X)
        small = np.exp(-np.abs(logits))  # never overflows
        bad = np.where(logits >= 0, 1.0, small) / (1.0 + small)
        return np.column_stack([1.0 - bad, bad])

    def predict(self, X: Any) -> NDArray[Any]:
        """1 where bad is likelier than good; a cut-off of credit is another: sklearn's FixedThresholdClassifier."""
        likelier = self.decision_function(X) > 0
        return self.classes_[likelier.astype(np.int64)]

    def score_points(self, X: Any) -> IntArray:
        """The score of each row, integers of shape (n,), higher is safer. Raises: as `decision_function`."""
        self._check_all_parts()
        return self.partial_points(X)

    def partial_points(self, X: Any) -> IntArray:
        """What the parts that are here add to each score, the base included at the label owner, shape (n,)."""
        points: IntArray = np.sum([part.points.partial_points(codes) for part, codes in self._codes(X)], axis=0)
        return points

    def grade(self, X: Any) -> NDArray[np.str_]:
        """The grade of each row, shape (n,). Raises: as `decision_function`."""
        points = self.score_points(X)
        names: NDArray[np.str_] = self.grades_.grade(points)
        return names

    def transform(self, X: Any) -> FloatArray:
        """Weight of evidence of each row and feature of the model, positive is safer, shape (n, d_model)."""
        columns = [
            np.array(feature.woe)[codes[:, j]] * WOE_UNIT
            for part, codes in self._codes(X)
            for j, feature in enumerate(part.features)
        ]
        return np.column_stack(columns)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """The names of the columns of `transform`."""
        self._check_fitted()
        names = [feature.name for part in self.parts_.values() for feature in part.features]
        return np.array(names, dtype=object)

    # -- tables

    def summary(self) -> pd.DataFrame:
        """A row for the base and for each feature of the parts that are here, with every figure of its own report.

        party, feature, alias, kind, bins, points_min, points_max, iv, coefficient, and what else the report holds of a
        feature, such as its standard error.
        """
        self._check_fitted()
        rows: list[dict[str, Any]] = []
        for party, part in self.parts_.items():
            told = {feature["name"]: feature for feature in self.party_reports_[party]["features"]}
            table = self.party_reports_[party].get("inference") or {"rows": []}
            tests = {row["name"]: row for row in table["rows"]}
            if part.points.base is not None:
                base = part.points.base
                line = {"party": party, "feature": INTERCEPT, "points_min": base, "points_max": base}
                rows.append(line | {"coefficient": part.intercept})
            for feature, points in zip(part.features, part.points.features, strict=True):
                figures = {key: value for key, value in told[feature.name].items() if _is_figure(key, value)}
                line = {"party": party, "feature": feature.name, "bins": len(points.points)}
                line |= {"points_min": min(points.points), "points_max": max(points.points)}
                row = tests.get(feature.name, {})
                tested = {name: row[key] for key, name in _TESTED.items() if row.get(key) is not None}
                rows.append(line | figures | tested)
        first = ["party", "feature", "alias", "kind", "bins", "points_min", "points_max", "iv", "coefficient"]
        table = pd.DataFrame(rows)
        return table[[*first, *(name for name in table.columns if name not in first)]]

    def binning_table(self, feature: str) -> pd.DataFrame:
        """The bins of one feature of the model: what each holds, rows, bads, bad rate, WOE, IV and points.

        `ranges` are above the lower and up to the upper end; the bins with `missing` or `other` take a missing value,
        and one that no bin names. `bads` is missing where the owner cannot know it.
        Raises: InputError: COLUMN_MISSING: no such feature in the parts that are here.
        """
        part, j = self._find(feature)
        bins = json.loads(model_export.to_json(part))["features"][j]["bins"]
        own = part.features[j]
        table = pd.DataFrame(bins).rename(columns={"label": "bin"})
        table["bads"] = pd.array(list(own.bads), dtype="Int64")
        bads = table["bads"].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
        rows = table["rows"].to_numpy(dtype=np.float64)
        goods = rows - bads
        table["bad_rate"] = bads / rows
        table["iv"] = (goods / goods.sum() - bads / bads.sum()) * table["woe"]
        held = ["ranges", "categories", "special", "missing", "other"]
        return table[["bin", "rows", "bads", "bad_rate", "woe", "iv", "points", *held]]

    # -- pictures; each takes the axes to draw on, makes them if there are none, and returns them

    def plot_roc(self, ax: Any = None) -> Any:
        """Share of bads against share of goods, on every sample of the report."""
        return plots.roc(self._shared(), ax)

    def plot_ks(self, ax: Any = None, *, sample: str = "test") -> Any:
        """Cumulated shares of bads and goods, riskiest first, and where they are furthest apart."""
        return plots.ks(self._shared(), ax, sample)

    def plot_calibration(self, ax: Any = None, *, sample: str = "test") -> Any:
        """Observed rate of bads against the mean probability of default, by groups of risk."""
        return plots.calibration(self._shared(), ax, sample)

    def plot_score_distribution(self, ax: Any = None, *, sample: str = "test") -> Any:
        """Goods and bads by score; counts that the report hides are not drawn, and said to be hidden."""
        return plots.score_distribution(self._shared(), ax, sample)

    def plot_woe(self, feature: str, ax: Any = None) -> Any:
        """Weight of evidence of each bin of one feature."""
        return plots.woe(feature, self.binning_table(feature), ax)

    # -- pieces

    def _frame(self, X: Any, y: Any = None, *, fitting: bool = True) -> pd.DataFrame:
        """`X` with the names of its columns, checked against those of the fit unless this is one."""
        wanted = {"y": y} if fitting else {"reset": False}
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, **wanted, skip_check_array=True)
            if not len(X):
                raise InputError("FILE_EMPTY", "X has 0 sample(s), a minimum of 1 is required", "bring rows")
            frame = X.reset_index(drop=True)
        else:
            checks = {"dtype": None, "ensure_all_finite": "allow-nan"}
            if fitting:
                X, _ = validate_data(self, X, y, **checks)
            else:
                X = validate_data(self, X, reset=False, **checks)
            frame = pd.DataFrame(X).infer_objects()
        names = getattr(self, "feature_names_in_", [f"x{j}" for j in range(frame.shape[1])])
        return frame.set_axis([column_name(str(name)) for name in names], axis=1)

    def _columns_of_parties(self, frame: pd.DataFrame) -> dict[str, list[str]]:
        """Each party's columns, the label owner first."""
        wanted = {party: [column_name(name) for name in names] for party, names in (self.providers or {}).items()}
        named = [name for names in wanted.values() for name in names]
        if not wanted or self.label_owner in wanted or len(set(named)) < len(named):
            raise InputError(
                "PARTY_INVALID",
                "providers is empty, names the label owner, or gives a column to two parties",
                "write for instance providers={'bureau': ['late_payments', 'inquiries', 'age_of_file']}",
            )
        unknown = [name for name in named if name not in frame.columns]
        if unknown:
            raise InputError(
                "COLUMN_MISSING",
                f"X has {frame.shape[1]} feature(s), and none is called {listed(unknown)}",
                "compare providers with the columns of X",
            )
        taken = set(named)
        return {self.label_owner: [name for name in frame.columns if name not in taken], **wanted}

    def _write(
        self,
        folder: Folder,
        frame: pd.DataFrame,
        labels: IntArray,
        weights: FloatArray | None,
        columns: Mapping[str, Sequence[str]],
        recipe: str,
    ) -> list[str]:
        """Files of all parties and the recipe; the words of the command that reads them."""
        row, label = _unused("row", frame), _unused("label", frame)
        ids = cells.row_ids(frame.index)
        words = ["simulate", "--id", row, "--label", label, "--out", str(folder.path / "result")]
        for party, names in columns.items():
            own: dict[str, Sequence[str | None]] = {row: ids}
            if party == self.label_owner:
                own[label] = [str(value) for value in labels.tolist()]
                if weights is not None:
                    own[_unused("weight", frame)] = [repr(value) for value in weights.tolist()]
            own |= {name: cells.text_of(frame[name]) for name in names}
            path = folder.write(f"{len(words)}.csv", cells.file_of(own))
            words += ["--party", f"{party}={path}"]
        words += ["--recipe", str(folder.write("recipe.toml", recipe.encode()))]
        return [*words, "--connect-timeout-s", str(self.connect_timeout_s)]

    def _keep(self, parts: Mapping[str, PartFolder]) -> None:
        self.parts_: dict[str, OwnModel] = {party: part.own for party, part in parts.items()}
        self.party_reports_ = {party: dict(part.report) for party, part in parts.items()}
        first = next(iter(parts.values()))
        self.report_ = dict(first.shared)
        self.statement_ = dict(first.statement)
        self.grades_: Any = first.grades  # None at a provider, as scores_
        self.scores_: Any = first.scores

    def _mark_rows(self) -> None:
        """Positions in `X` in the place of the ids that `fit` made up."""
        rows = self.scores_["id"].str[1:].astype(np.int64)
        scores = self.scores_.drop(columns="id")
        scores.insert(0, "row", rows)
        self.scores_ = scores.sort_values("row", ignore_index=True)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet: call fit, or make it with from_job.")

    def _check_all_parts(self) -> None:
        self._check_fitted()
        parties = self.report_["parties"]
        away = [name for name in (parties["label_owner"], *parties["providers"]) if name not in self.parts_]
        if away:
            raise ContractViolationError(
                "PARTS_MISSING",
                f"a whole score needs the parts of {', '.join(away)}, and these stay with their owners",
                "score by a job and read scored.csv with read_scored; partial_points gives what the own part adds",
            )

    def _codes(self, X: Any) -> list[tuple[OwnModel, IntArray]]:
        self._check_fitted()
        frame = self._frame(X, fitting=False)
        return [(part, part.codes(cells.table(frame, part.kinds))) for part in self.parts_.values()]

    def _find(self, feature: str) -> tuple[OwnModel, int]:
        self._check_fitted()
        for part in self.parts_.values():
            for j, own in enumerate(part.features):
                if own.name == column_name(feature):
                    return part, j
        raise InputError("COLUMN_MISSING", f"the model has no feature '{feature}'", "choose one of summary()")

    def _shared(self) -> dict[str, Any]:
        self._check_fitted()
        return self.report_


def _labels(y: Any, counted: NDArray[np.bool_]) -> IntArray:
    """Checked labels of the rows that count. Raises: InputError: LABEL_INVALID, LABEL_CONSTANT."""
    found = column_or_1d(y, warn=True)
    check_consistent_length(found, counted)
    assert_all_finite(found, input_name="y")
    kind = type_of_target(found, input_name="y", raise_unknown=True)
    if kind != "binary":
        sentence = f"Only binary classification is supported. The type of the target is {kind}"
        raise InputError("LABEL_INVALID", sentence, _CODE_LABELS)
    found = found[counted]
    values = set(np.unique(found).tolist())
    if not values <= {0, 1}:
        raise InputError("LABEL_INVALID", "y has classes other than 0 and 1", _CODE_LABELS)
    if len(values) == 1:
        raise InputError("LABEL_CONSTANT", "y has only one class", "bring goods (0) and bads (1)")
    labels: IntArray = found.astype(np.int64)
    return labels


def _weights(sample_weight: Any, rows: int) -> FloatArray:
    """Checked sample weights. Raises: InputError: WEIGHT_INVALID."""
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (rows,) or not np.all(np.isfinite(weights) & (weights >= 0)):
        raise InputError("WEIGHT_INVALID", "sample_weight is not one number a row, 0 or positive", "correct it")
    if not weights.any():
        raise InputError("WEIGHT_INVALID", "every sample weight is zero", "bring rows that count")
    return weights


def _check_rows(rows: int, share: float) -> None:
    """Refuse at once what every party's process would refuse."""
    if round(share * rows) < LEAST_ROWS:
        raise SmallIntersectionError(
            "TOO_FEW_ROWS",
            f"of {rows} rows {round(share * rows)} would train, and a job needs {LEAST_ROWS}",
            "more rows, or a larger training_share",
        )


def _unused(name: str, frame: pd.DataFrame) -> str:
    """A name that is no column's."""
    while name in frame.columns:
        name += "_"
    return name


def _is_figure(key: str, value: Any) -> bool:
    return key not in {"name", "kept", "reason"} and (value is None or isinstance(value, str | int | float))


def _wait(home: Path, job: str, wait_s: float) -> None:
    with tempfile.TemporaryDirectory(prefix="concordat-") as place:
        words = ["jobs", "status", job, "--folder", str(home), "--wait-s", str(wait_s)]
        answer = run("party_agent", words, Path(place))
    if answer["state"] == "ended" and answer["code"]:
        raise ConcordatError(str(answer["code"]), "the job ended with this code", "see the job's log at each party")
    if answer["state"] != "ended":
        raise DataError("MODEL_MISSING", f"the job has not ended after {wait_s:g} seconds", "wait longer")
