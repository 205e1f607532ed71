"""From coefficients to points: a party's own part of the scorecard, and the grades a total score falls into.

Source: PROTOCOLS.md section 5; Siddiqi, Credit Risk Scorecards (points to double the odds). With `z` the logit of bad,

    score = offset - factor * z,   factor = pdo / ln 2,   offset = base_score - factor * ln(base_odds),

odds being goods to one bad; so `base_score` points mean `base_odds`, and `pdo` points more mean twice the odds. A bin
of a feature is worth `-factor * w * WOE` points and the intercept `offset - factor * b`, each rounded to an integer,
**half away from zero**. WOE travels as an integer of 1e-4 (section 2), and points are computed from that integer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import DataError, RecipeError
from protocols.recipe import GRADE_TABLES

if TYPE_CHECKING:
    from protocols.binning.table import BinnedFeature

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

WOE_UNIT = 1e-4
DEFAULT_GRADES, DEFAULT_CUT_QUANTILES = GRADE_TABLES["seven"]


def round_half_away(values: FloatArray) -> IntArray:
    """The nearest integers, a half going away from zero; same shape.

    >>> round_half_away(np.array([0.5, -0.5, 2.5, -2.5, 0.49999999999999994])).tolist()
    [1, -1, 3, -3, 0]
    """
    whole = np.trunc(values)
    away = np.where(np.abs(values - whole) >= 0.5, np.sign(values), 0.0)  # no `+ 0.5`: that sum itself rounds up
    return (whole + away).astype(np.int64)


@dataclass(frozen=True)
class Scaling:
    """How logits become points: `base_score` at `base_odds` goods to one bad, the odds doubling every `pdo` points.

    Raises: RecipeError: a parameter that gives no rising scale.

    >>> scaling = Scaling(pdo=20, base_score=600, base_odds=50)
    >>> round(scaling.factor, 4), round(scaling.offset, 4)
    (28.8539, 487.1229)
    """

    pdo: float = 20.0
    base_score: float = 600.0
    base_odds: float = 50.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.pdo) and 0 < self.pdo <= 10_000):
            raise RecipeError("RECIPE_OUT_OF_RANGE", "pdo must be above 0 and at most 10000", "set pdo, usually 20")
        if not (math.isfinite(self.base_odds) and self.base_odds > 0):
            raise RecipeError("RECIPE_OUT_OF_RANGE", "base_odds must be above 0", "set base_odds, usually 50")
        if not (math.isfinite(self.base_score) and abs(self.base_score) <= 1_000_000):
            raise RecipeError("RECIPE_OUT_OF_RANGE", "base_score is not usable", "set base_score, usually 600")

    @property
    def factor(self) -> float:
        """Points per unit of log odds."""
        return self.pdo / math.log(2.0)

    @property
    def offset(self) -> float:
        """The score at even odds."""
        return self.base_score - self.factor * math.log(self.base_odds)

    def to_json(self) -> dict[str, float]:
        """The three parameters."""
        return {"pdo": self.pdo, "base_score": self.base_score, "base_odds": self.base_odds}


def points_of(weights: FloatArray, woe_units: Sequence[IntArray], scaling: Scaling) -> tuple[IntArray, ...]:
    """Integer points of every bin, `round(-factor * w * WOE)`.

    Args: weights: coefficients of this party's features, shape (n_features,); woe_units: WOE of each feature's bins in
        units of 1e-4, n_features arrays of shape (n_bins,).
    Returns: one array per feature, as long as its WOE.
    Raises: DataError: coefficients that are not finite, or not one per feature.
    """
    return tuple(round_half_away(exact) for exact in unrounded_points(weights, woe_units, scaling))


def unrounded_points(weights: FloatArray, woe_units: Sequence[IntArray], scaling: Scaling) -> tuple[FloatArray, ...]:
    """What `points_of` rounds; a comparison of two models counts as ties the values near a half."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (len(woe_units),) or not np.all(np.isfinite(weights)):
        raise DataError("COEFFICIENTS_INVALID", "the coefficients are not one finite number per feature", "train again")
    return tuple(
        -scaling.factor * weight * (np.asarray(units, dtype=np.float64) * WOE_UNIT)
        for weight, units in zip(weights, woe_units, strict=True)
    )


def base_points(intercept: float, scaling: Scaling) -> int:
    """The points everyone starts from, `round(offset - factor * intercept)`; kept by the label owner.

    >>> base_points(-3.0, Scaling())
    574
    """
    return int(round_half_away(np.array([scaling.offset - scaling.factor * intercept]))[0])


def pd_of_score(score: NDArray[Any] | float, scaling: Scaling) -> FloatArray:
    """The probability of bad that a total score stands for, `sigma((offset - score) / factor)`; same shape as `score`.

    It differs from the model's own probability only by the rounding of points.

    >>> pd_of_score(np.array([600, 620]), Scaling()).round(5).tolist()  # odds 50:1 and 100:1
    [0.01961, 0.0099]
    """
    logits = (scaling.offset - np.asarray(score, dtype=np.float64)) / scaling.factor
    small = np.exp(-np.abs(logits))  # never overflows
    return np.where(logits >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


@dataclass(frozen=True)
class FeaturePoints:
    """One kept feature: bins in the order of their codes 0..n_bins-1. `alias` is the name other parties know it by."""

    name: str
    alias: str
    labels: tuple[str, ...]
    woe_units: tuple[int, ...]
    points: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.labels) == len(self.woe_units) == len(self.points) >= 1:
            raise DataError("POINTS_TABLE_INVALID", "a feature's labels, WOE and points are not of one length")


@dataclass(frozen=True)
class PointsTable:
    """A party's own part of the scorecard. `base` is set at the label owner and None at a provider.

    Raises: DataError: two features of one name.
    """

    party: str
    scaling: Scaling
    features: tuple[FeaturePoints, ...]
    base: int | None = None

    def __post_init__(self) -> None:
        if len({feature.name for feature in self.features}) != len(self.features):
            raise DataError("POINTS_TABLE_INVALID", "two features of the points table have one name")

    @classmethod
    def of(
        cls,
        party: str,
        features: Sequence[BinnedFeature],
        weights: FloatArray,
        scaling: Scaling,
        intercept: float | None = None,
    ) -> PointsTable:
        """This party's table from its binning and its coefficients; `intercept` at the label owner only.

        Raises: DataError: coefficients that are not finite, or not one per feature.
        """
        points = points_of(weights, [np.array(feature.woe, dtype=np.int64) for feature in features], scaling)
        return cls(
            party,
            scaling,
            tuple(
                FeaturePoints(feature.name, feature.alias, feature.labels(), feature.woe, tuple(values.tolist()))
                for feature, values in zip(features, points, strict=True)
            ),
            None if intercept is None else base_points(intercept, scaling),
        )

    def partial_points(self, codes: NDArray[Any]) -> IntArray:
        """This party's addend of each row's score, **the base included at the label owner**.

        Args: codes: bin code of each row and feature in the table's order, integers, shape (n_rows, n_features).
        Returns: shape (n_rows,); the score is the sum over all parties.
        Raises: DataError: a wrong shape, or a code that is no bin of its feature.
        """
        total: IntArray = self.feature_points(codes).sum(axis=1) + (self.base or 0)
        return total

    def feature_points(self, codes: NDArray[Any]) -> IntArray:
        """The points of each row and feature, without the base; arguments and errors as of `partial_points`."""
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[1] != len(self.features) or not np.issubdtype(codes.dtype, np.integer):
            raise DataError("BIN_CODES_INVALID", "bin codes are not one integer per row and feature of the table")
        points = np.zeros(codes.shape, dtype=np.int64)
        for place, (column, feature) in enumerate(zip(codes.T, self.features, strict=True)):
            if column.size and not (column.min() >= 0 and column.max() < len(feature.points)):
                raise DataError("BIN_CODES_INVALID", "a bin code is no bin of its feature", "bin with the same table")
            points[:, place] = np.array(feature.points, dtype=np.int64)[column]
        return points

    def range(self) -> tuple[int, int]:
        """The lowest and the highest addend that any row can get."""
        low = sum(min(feature.points) for feature in self.features) + (self.base or 0)
        return low, sum(max(feature.points) for feature in self.features) + (self.base or 0)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready and complete; `from_json` gives the same table back."""
        return {
            "party": self.party,
            "scaling": self.scaling.to_json(),
            "base_points": self.base,
            "features": [
                {
                    "name": feature.name,
                    "alias": feature.alias,
                    "bins": [
                        {"label": label, "woe_units": units, "woe": round(units * WOE_UNIT, 4), "points": points}
                        for label, units, points in zip(feature.labels, feature.woe_units, feature.points, strict=True)
                    ],
                }
                for feature in self.features
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PointsTable:
        """The table that `to_json` wrote.

        Raises: DataError: not such a table.
        """
        try:
            features = tuple(
                FeaturePoints(
                    str(feature["name"]),
                    str(feature["alias"]),
                    tuple(str(item["label"]) for item in feature["bins"]),
                    tuple(_integer(item["woe_units"]) for item in feature["bins"]),
                    tuple(_integer(item["points"]) for item in feature["bins"]),
                )
                for feature in data["features"]
            )
            scaling = Scaling(**{key: float(value) for key, value in data["scaling"].items()})
            base = data["base_points"]
            return cls(str(data["party"]), scaling, features, None if base is None else _integer(base))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError("POINTS_TABLE_INVALID", "the file is not a points table", "export it again") from error


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("not an integer")
    return value


@dataclass(frozen=True)
class GradeTable:
    """Grades by score, best first. `cuts[i]` is the lowest score of grade `i`; the last grade takes what is below.

    Raises: RecipeError: cuts that do not fall, or not one fewer than grades.

    >>> GradeTable(("A", "B", "C"), (620, 580)).grade(np.array([620, 619, 580, 1])).tolist()
    ['A', 'B', 'B', 'C']
    """

    names: tuple[str, ...]
    cuts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names) or not all(self.names):
            raise RecipeError("GRADES_INVALID", "grade names must be given and differ", "set grades.names")
        if len(self.cuts) != len(self.names) - 1:
            raise RecipeError("GRADES_INVALID", "there must be one cut score fewer than grades", "set grades.cuts")
        if any(low >= high for high, low in zip(self.cuts, self.cuts[1:], strict=False)):
            raise RecipeError("GRADES_INVALID", "cut scores must fall from the best grade to the worst")

    @classmethod
    def of_training_scores(
        cls,
        scores: IntArray,
        names: Sequence[str] = DEFAULT_GRADES,
        cut_quantiles: Sequence[float] = DEFAULT_CUT_QUANTILES,
    ) -> GradeTable:
        """Cuts at score quantiles: from the best score down, each cut takes in at least its share of the sample.

        Args: scores: scores of the training sample, integers, shape (n_rows,); cut_quantiles: share of the sample in
            this grade or a better one, rising, one fewer than grades. Where many rows have one score and two cuts
            would meet, the lower one goes one point lower: a grade may then be empty, but none is lost.
        Raises: RecipeError: quantiles that do not rise in (0, 1), or not one fewer than grades; DataError: no scores.
        """
        steps = np.diff([0.0, *cut_quantiles, 1.0])
        if len(cut_quantiles) != len(names) - 1 or not np.all(steps > 0):
            raise RecipeError("GRADES_INVALID", "cut quantiles must rise between 0 and 1, one fewer than grades")
        falling = np.sort(np.asarray(scores, dtype=np.int64))[::-1]
        if not falling.size:
            raise DataError("NO_ROWS", "there is no training score to set grades by")
        cuts: list[int] = []
        for wanted in cut_quantiles:
            cut = int(falling[max(math.ceil(wanted * falling.size - 1e-9), 1) - 1])
            cuts.append(min(cut, cuts[-1] - 1) if cuts else cut)
        return cls(tuple(names), tuple(cuts))

    def positions(self, scores: NDArray[Any]) -> IntArray:
        """Index into `names` of each score's grade, 0 the best; same shape as `scores`."""
        rising = np.array(self.cuts[::-1], dtype=np.int64)
        return len(self.cuts) - np.searchsorted(rising, np.asarray(scores), side="right").astype(np.int64)

    def grade(self, scores: NDArray[Any]) -> NDArray[np.str_]:
        """The name of each score's grade; same shape as `scores`."""
        return np.array(self.names)[self.positions(scores)]

    def bands(self) -> tuple[tuple[str, int | None, int | None], ...]:
        """(name, lowest score or None, highest score or None) of each grade, best first."""
        lows: list[int | None] = [*self.cuts, None]
        highs: list[int | None] = [None, *(cut - 1 for cut in self.cuts)]
        return tuple(zip(self.names, lows, highs, strict=True))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `from_json` gives the same table back."""
        return {"names": list(self.names), "cuts": list(self.cuts)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GradeTable:
        """The table that `to_json` wrote.

        Raises: DataError: not such a table.
        """
        try:
            return cls(tuple(str(name) for name in data["names"]), tuple(_integer(cut) for cut in data["cuts"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("GRADES_INVALID", "the file is not a table of grades", "train or export again") from error
