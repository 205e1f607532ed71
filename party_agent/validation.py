"""How good the model is: separation, calibration, stability and grades, from labels, logits and scores.

Made by the label owner, who alone has labels and the total scores. The figures kept here are exact; `to_json` is the
form that other parties may read. It is aggregated data, and stays so by three rules, because a curve drawn row by row
*is* the labels in the order of the score:

- two neighbouring points of a curve are at least 1 % of the rows, and at least 20 rows, apart;
- a group of the calibration table has at least 5 goods and 5 bads, neighbouring tenths being joined until it has;
- a count below 5 in a table whose total is known reads '<5', and further cells are blurred until the hidden ones cannot
  be found by subtraction.

AUC, KS and the likelihood are computed from every row and then rounded to 4 decimals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from party_agent.scorecard import FloatArray, GradeTable, IntArray
from party_agent.significance import Trial, auc_difference, auc_error, hosmer_lemeshow, interval, ks_error
from protocols.errors import DataError

LEAST_COUNT = 5  # a smaller count is not shown
CURVE_SHARE = 0.01  # of the rows, the least between two points of a curve
CURVE_ROWS = 20
PSI_GROUPS = 10
_BLURS = (LEAST_COUNT, 10, 20, 50, 100, 200, 500, 1000)
_WIDTHS = (1, 2, 5, 10, 15, 20, 25, 30, 40, 50, 75, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Metrics:
    """Figures of one sample. `ks_share` of the rows, riskiest first, have the scores up to `ks_score`: there the
    distributions of bads and goods are furthest apart. Likelihoods in natural-log units."""

    n: int
    bads: int
    auc: float
    auc_error: float
    ks: float
    ks_error: float
    ks_share: float
    ks_score: int
    mean_pd: float
    log_likelihood: float
    brier: float

    @property
    def gini(self) -> float:
        """2 AUC - 1."""
        return 2.0 * self.auc - 1.0

    @property
    def bad_rate(self) -> float:
        """Share of bads."""
        return self.bads / self.n

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, rounded to 4 decimals."""
        return {
            "n": self.n,
            "bads": self.bads,
            "bad_rate": round(self.bad_rate, 4),
            "auc": round(self.auc, 4),
            "auc_error": round(self.auc_error, 4),
            "auc_interval": [round(end, 4) for end in interval(self.auc, self.auc_error)],
            "gini": round(self.gini, 4),
            "ks": round(self.ks, 4),
            "ks_interval": [round(end, 4) for end in interval(self.ks, self.ks_error)],
            "ks_share": round(self.ks_share, 4),
            "ks_score": self.ks_score,
            "mean_pd": round(self.mean_pd, 4),
            "log_likelihood": round(self.log_likelihood, 1),
            "log_loss": round(-self.log_likelihood / self.n, 4),
            "brier": round(self.brier, 4),
        }


@dataclass(frozen=True)
class CurvePoint:
    """The riskiest `rows` share of a sample holds these shares of its bads and goods, and scores up to `score`."""

    rows: float
    bads: float
    goods: float
    score: int | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, shares rounded to 4 decimals."""
        shares = {"rows": round(self.rows, 4), "bads": round(self.bads, 4), "goods": round(self.goods, 4)}
        return {**shares, "score": self.score}


@dataclass(frozen=True)
class CalibrationRow:
    """`tenths` neighbouring tenths of the rows by predicted risk: mean PD beside the observed rate."""

    tenths: int
    n: int
    bads: int
    mean_pd: float

    @property
    def observed(self) -> float:
        """Share of bads."""
        return self.bads / self.n

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, rates rounded to 4 decimals."""
        rates = {"mean_pd": round(self.mean_pd, 4), "observed": round(self.observed, 4)}
        return {"tenths": self.tenths, "n": self.n, **rates}


@dataclass(frozen=True)
class GainRow:
    """The riskiest `rows` share of a sample holds `caught` of its bads, `lift` times as many as chance would."""

    rows: float
    caught: float
    lift: float

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, shares to 4 decimals, lift to 2."""
        return {"rows": round(self.rows, 4), "caught": round(self.caught, 4), "lift": round(self.lift, 2)}


def gains_of(calibration: Sequence[CalibrationRow]) -> tuple[GainRow, ...]:
    """Cumulative gains and lift over the groups of the calibration table, the riskiest first: no count beyond theirs.

    >>> [row.lift for row in gains_of((CalibrationRow(9, 900, 10, 0.01), CalibrationRow(1, 100, 10, 0.1)))]
    [5.0, 1.0]
    """
    n, total = sum(row.n for row in calibration), sum(row.bads for row in calibration)
    rows = np.cumsum([row.n for row in reversed(calibration)]) / n
    caught = np.cumsum([row.bads for row in reversed(calibration)]) / total
    return tuple(GainRow(float(r), float(c), float(c / r)) for r, c in zip(rows, caught, strict=True))


@dataclass(frozen=True)
class Distribution:
    """Goods and bads by score. Bin `i` holds scores in `[edges[i], edges[i+1])`; the outermost take all beyond."""

    edges: tuple[int, ...]
    goods: tuple[int, ...]
    bads: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, small counts blurred."""
        return {"edges": list(self.edges), "goods": blurred(self.goods), "bads": blurred(self.bads)}


@dataclass(frozen=True)
class GradeRow:
    """One grade of one sample."""

    grade: str
    low: int | None
    high: int | None
    n: int
    bads: int


@dataclass(frozen=True)
class Sample:
    """Everything about one sample. `fit`: Hosmer-Lemeshow over the groups of `calibration`."""

    metrics: Metrics
    curve: tuple[CurvePoint, ...]
    calibration: tuple[CalibrationRow, ...]
    fit: Trial | None
    distribution: Distribution
    grades: tuple[GradeRow, ...]

    def to_json(self) -> dict[str, Any]:
        """The figures of `metrics` with the test of calibration."""
        return self.metrics.to_json() | {"hosmer_lemeshow": None if self.fit is None else self.fit.to_json()}


@dataclass(frozen=True)
class Validation:
    """The figures of one model on each of its samples.

    psi: of the score, training to test; psi_late: training to out-of-time, where there is such a sample; test_labels,
    test_logits: of the test rows, shape (n_test,); they stay with the label owner, for `gain_error`.
    """

    train: Sample
    test: Sample
    psi: float
    test_labels: IntArray = field(repr=False, compare=False)
    test_logits: FloatArray = field(repr=False, compare=False)
    late: Sample | None = None
    psi_late: float | None = None

    def gain_error(self, other_logits: FloatArray) -> float | None:
        """Standard error of the difference of the test AUC to that of another model's logits of the same rows."""
        return auc_difference(self.test_labels, self.test_logits, other_logits)[1]

    def samples(self) -> dict[str, Sample]:
        """The samples by name: 'train', 'test', and 'out_of_time' where there is one."""
        named = {"train": self.train, "test": self.test}
        return named if self.late is None else named | {"out_of_time": self.late}

    def to_json(self) -> dict[str, Any]:
        """What other parties may read: `metrics`, `curves`, `calibration`, `gains`, `distribution`, `grades`."""
        samples = self.samples()
        metrics: dict[str, Any] = {name: sample.to_json() for name, sample in samples.items()}
        metrics["psi"] = round(self.psi, 4)
        if self.psi_late is not None:
            metrics["psi_out_of_time"] = round(self.psi_late, 4)
        return {
            "metrics": metrics,
            "curves": {name: [point.to_json() for point in sample.curve] for name, sample in samples.items()},
            "calibration": {name: [row.to_json() for row in sample.calibration] for name, sample in samples.items()},
            "gains": {name: [row.to_json() for row in gains_of(x.calibration)] for name, x in samples.items()},
            "distribution": {name: sample.distribution.to_json() for name, sample in samples.items()},
            "grades": _grades_json({name: sample.grades for name, sample in samples.items()}),
        }

    def numbers(self) -> int:
        """How many numbers `to_json` gives away; a line of the ledger."""
        return _count_numbers(self.to_json())


def validate(
    labels: NDArray[Any],
    logits: FloatArray,
    scores: IntArray,
    is_training: NDArray[np.bool_],
    grades: GradeTable,
    is_late: NDArray[np.bool_] | None = None,
) -> Validation:
    """The figures of a model on its training, its test and its out-of-time rows.

    Args: labels: 1 = bad, 0 = good; logits: of bad, opened to 0.01 (PROTOCOLS.md section 5); scores: integers, higher
        is safer; is_training: True for training rows; is_late: True for out-of-time rows, of which none trains. All of
        shape (n_rows,); a row that is neither is a test row.
    Raises: DataError: lengths that differ, labels other than 0 and 1, logits that are not finite, or a sample without
        goods or without bads.
    """
    labels, logits, scores = np.asarray(labels), np.asarray(logits, dtype=np.float64), np.asarray(scores)
    is_training = np.asarray(is_training)
    late = np.zeros(labels.shape, dtype=np.bool_) if is_late is None else np.asarray(is_late)
    if labels.ndim != 1 or not labels.shape == logits.shape == scores.shape == is_training.shape == late.shape:
        raise DataError("VALIDATION_INVALID", "labels, logits and scores are not one per row")
    if {is_training.dtype, late.dtype} != {np.dtype(np.bool_)} or not np.issubdtype(scores.dtype, np.integer):
        raise DataError("VALIDATION_INVALID", "scores are not integers, or the split is not a mask of rows")
    if not np.all((labels == 0) | (labels == 1)) or not np.all(np.isfinite(logits)) or (is_training & late).any():
        raise DataError("VALIDATION_INVALID", "a label is not 0 or 1, a logit not finite, or a row in two samples")
    labels, scores = labels.astype(np.int64), scores.astype(np.int64)
    test = ~is_training & ~late
    check_classes(labels, is_training, late if is_late is not None else None)
    edges = _score_edges(scores, int(labels[test].sum()), int(test.sum()))

    def sample(rows: NDArray[np.bool_], estimated: int) -> Sample:
        return _sample(labels[rows], logits[rows], scores[rows], grades, edges, estimated)

    return Validation(
        sample(is_training, 2),
        sample(test, 0),
        population_stability(scores[is_training], scores[test]),
        labels[test],
        logits[test],
        None if is_late is None else sample(late, 0),
        None if is_late is None else population_stability(scores[is_training], scores[late]),
    )


def check_classes(labels: IntArray, is_training: NDArray[np.bool_], is_late: NDArray[np.bool_] | None) -> None:
    """Check that each sample has goods and bads, before a job costs anything.

    Raises: DataError: ONE_CLASS.
    """
    late = np.zeros(labels.shape, dtype=np.bool_) if is_late is None else is_late
    named = {"training": is_training, "test": ~is_training & ~late}
    for name, rows in (named if is_late is None else named | {"out-of-time": late}).items():
        if not 0 < labels[rows].sum() < rows.sum():
            raise DataError("ONE_CLASS", f"the {name} rows have no goods or no bads", "use more rows, or other dates")


def ranking_figures(labels: IntArray, logits: FloatArray) -> tuple[float, float]:
    """AUC and KS of logits of bad against labels (1 = bad), both of shape (n_rows,)."""
    order = np.argsort(-logits, kind="stable")
    metrics = _Ranking(labels[order], logits[order], np.zeros(len(labels), dtype=np.int64)).metrics()
    return metrics.auc, metrics.ks


def population_stability(expected: IntArray, actual: IntArray) -> float:
    """Population stability index of a score, `sum (a - e) ln(a / e)` over ten groups of equal share in `expected`.

    Below 0.1 is usually read as stable, above 0.25 as a shift. A group that one of the two samples leaves empty is
    joined with its neighbour; nothing is smoothed.

    >>> population_stability(np.arange(1000), np.arange(1000))
    0.0
    """
    inner = np.unique(np.quantile(expected, np.arange(1, PSI_GROUPS) / PSI_GROUPS, method="higher"))
    first = np.bincount(np.searchsorted(inner, expected, side="right"), minlength=inner.size + 1)
    second = np.bincount(np.searchsorted(inner, actual, side="right"), minlength=inner.size + 1)
    return stability_of_counts(first, second)


def stability_of_counts(expected: IntArray, actual: IntArray) -> float:
    """Population stability index of counts per group in two samples, groups that one leaves empty joined as above."""
    groups = joined_groups(expected, actual, least=1)
    return _stability(
        np.array([expected[a:b].sum() for a, b in groups], dtype=np.float64),
        np.array([actual[a:b].sum() for a, b in groups], dtype=np.float64),
    )


def _stability(expected: FloatArray, actual: FloatArray) -> float:
    e, a = expected / expected.sum(), actual / actual.sum()
    return float(np.sum((a - e) * np.log(a / e)))


def feature_stability(
    codes: IntArray, bins: Sequence[int], training: NDArray[np.bool_], others: Mapping[str, NDArray[np.bool_]]
) -> list[dict[str, float]]:
    """By feature: the stability index of its bins, from the training rows to each other sample.

    Bins have no order to join by, and one that a sample leaves empty is the shift to be seen: it counts as half a row.
    Args: codes: bin of each row and feature, shape (n_rows, n_features); bins: of each feature, how many.
    """
    samples = {"": training, **{name: rows for name, rows in others.items() if rows.any()}}
    found = []
    for column, size in zip(codes.T, bins, strict=True):
        counts = {name: np.bincount(column[rows], minlength=size) for name, rows in samples.items()}
        filled = {name: np.maximum(count, 0.5) for name, count in counts.items()}
        found.append({name: _stability(filled[""], filled[name]) for name in samples if name})
    return found


def blurred(counts: Sequence[int]) -> list[int | str]:
    """Counts of one column with a known total, small ones as '<5'.

    While a single hidden cell, or hidden cells that together hold fewer than 5, could be found by subtraction from the
    total, the smallest cell still shown is hidden as well, behind the next of '<10', '<20', '<50', ...

    >>> blurred([40, 2, 30, 1])
    [40, '<5', '<50', '<5']
    """
    hidden = {index for index, count in enumerate(counts) if count < LEAST_COUNT}
    while hidden and (len(hidden) < 2 or sum(counts[index] for index in hidden) < LEAST_COUNT):
        shown = [index for index in range(len(counts)) if index not in hidden]
        if not shown:
            break
        hidden.add(min(shown, key=lambda index: counts[index]))
    return [_blur(count) if index in hidden else int(count) for index, count in enumerate(counts)]


def _blur(count: int) -> str:
    return next((f"<{bound}" for bound in _BLURS if count < bound), f">={_BLURS[-1]}")


def _sample(
    labels: IntArray,
    logits: FloatArray,
    scores: IntArray,
    grades: GradeTable,
    edges: tuple[int, ...],
    estimated: int,
) -> Sample:
    order = np.argsort(-logits, kind="stable")  # riskiest first
    labels, logits, scores = labels[order], logits[order], scores[order]
    ranking = _Ranking(labels, logits, scores)
    calibration = ranking.calibration()
    positions = grades.positions(scores)
    bin_of = np.searchsorted(np.array(edges[1:-1]), scores, side="right")
    bads_by_bin = np.bincount(bin_of, weights=labels, minlength=len(edges) - 1).astype(int)
    rows_by_bin = np.bincount(bin_of, minlength=len(edges) - 1)
    return Sample(
        ranking.metrics(),
        ranking.curve(),
        calibration,
        hosmer_lemeshow([(row.n, row.bads, row.mean_pd) for row in calibration], estimated),
        Distribution(edges, tuple((rows_by_bin - bads_by_bin).tolist()), tuple(bads_by_bin.tolist())),
        tuple(
            GradeRow(name, low, high, int((positions == index).sum()), int(labels[positions == index].sum()))
            for index, (name, low, high) in enumerate(grades.bands())
        ),
    )


class _Ranking:
    """One sample, riskiest first, cut only where the logit changes: rows of one logit are never told apart."""

    def __init__(self, labels: IntArray, logits: FloatArray, scores: IntArray) -> None:
        self.n = labels.size
        self.auc_error = auc_error(labels, logits)
        self.total_bads = int(labels.sum())
        last = np.flatnonzero(np.append(np.diff(logits) != 0, True))
        small = np.exp(-np.abs(logits))
        pd = np.where(logits >= 0, 1.0, small) / (1.0 + small)
        # every array below starts with the empty prefix
        self.rows = np.concatenate(([0], last + 1))
        self.bads = np.concatenate(([0], np.cumsum(labels)[last]))
        self.pd = np.concatenate(([0.0], np.cumsum(pd)[last]))
        self.score = np.concatenate(([scores[0]], np.maximum.accumulate(scores)[last]))
        self.bad_share = self.bads / self.total_bads
        self.good_share = (self.rows - self.bads) / (self.n - self.total_bads)
        gaps = np.abs(self.bad_share - self.good_share)
        self.widest = int(np.argmax(gaps))
        self.ks = float(gaps[self.widest])
        self.log_likelihood = -float(np.sum(np.logaddexp(0.0, np.where(labels == 1, -logits, logits))))
        self.brier = float(np.mean((pd - labels) ** 2))

    def metrics(self) -> Metrics:
        auc = float(np.sum(np.diff(self.good_share) * (self.bad_share[1:] + self.bad_share[:-1]) / 2.0))
        return Metrics(
            n=self.n,
            bads=self.total_bads,
            auc=auc,
            auc_error=self.auc_error,
            ks=self.ks,
            ks_error=ks_error(
                float(self.bad_share[self.widest]),
                float(self.good_share[self.widest]),
                self.total_bads,
                self.n - self.total_bads,
            ),
            ks_share=float(self.rows[self.widest] / self.n),
            ks_score=int(self.score[self.widest]),
            mean_pd=float(self.pd[-1] / self.n),
            log_likelihood=self.log_likelihood,
            brier=self.brier,
        )

    def curve(self) -> tuple[CurvePoint, ...]:
        """Points at least `max(1 % of the rows, 20)` rows apart, the one of the KS among them if it may be."""
        gap = max(math.ceil(CURVE_SHARE * self.n), CURVE_ROWS)
        anchor = int(self.rows[self.widest])
        start = self.widest if gap <= anchor <= self.n - gap else 0
        chosen = [start]
        for index in range(start - 1, -1, -1):
            if self.rows[chosen[0]] - self.rows[index] >= gap and (index == 0 or self.rows[index] >= gap):
                chosen.insert(0, index)
        for index in range(start + 1, self.rows.size):
            left = self.n - self.rows[index]
            if self.rows[index] - self.rows[chosen[-1]] >= gap and (left == 0 or left >= gap):
                chosen.append(index)
        if chosen[-1] != self.rows.size - 1:  # fewer rows than one gap
            chosen.append(self.rows.size - 1)
        return tuple(
            CurvePoint(
                float(self.rows[i] / self.n),
                float(self.bad_share[i]),
                float(self.good_share[i]),
                int(self.score[i]) if i else None,
            )
            for i in chosen
        )

    def calibration(self) -> tuple[CalibrationRow, ...]:
        """Tenths of the rows from the safest to the riskiest, joined until each has 5 goods and 5 bads."""
        ends = [int(np.searchsorted(self.rows, round(tenth * self.n / 10))) for tenth in range(11)]
        rows, bads = np.diff(self.rows[ends])[::-1], np.diff(self.bads[ends])[::-1]
        pd = np.diff(self.pd[ends])[::-1]
        return tuple(
            CalibrationRow(b - a, int(rows[a:b].sum()), int(bads[a:b].sum()), float(pd[a:b].sum() / rows[a:b].sum()))
            for a, b in joined_groups(bads, rows - bads, least=LEAST_COUNT)
        )


def joined_groups(first: NDArray[Any], second: NDArray[Any], least: int) -> list[tuple[int, int]]:
    """Neighbouring groups, joined from the left until each has `least` of both; what is left joins the last."""
    groups: list[tuple[int, int]] = []
    start = 0
    for end in range(1, len(first) + 1):
        if min(first[start:end].sum(), second[start:end].sum()) >= least:
            groups.append((start, end))
            start = end
    if not groups:
        return [(0, len(first))]
    groups[-1] = (groups[-1][0], len(first))
    return groups


def _score_edges(scores: IntArray, bads: int, n: int) -> tuple[int, ...]:
    """Edges of the score distribution: round numbers, at most 24 bins, fewer when bads are few; no thin tails."""
    most = min(max(bads // 6, 6), 24)
    low, high = (int(x) for x in np.quantile(scores, (0.005, 0.995), method="nearest"))
    width = next((w for w in _WIDTHS if (high - low) // w + 2 <= most), _WIDTHS[-1])
    edges = list(range(low // width * width, high // width * width + width + 1, width))
    least = max(CURVE_ROWS, CURVE_SHARE * n)
    while len(edges) > 2 and (scores < edges[1]).sum() < least:
        del edges[0]
    while len(edges) > 2 and (scores >= edges[-2]).sum() < least:
        del edges[-1]
    return tuple(edges)


def _grades_json(samples: Mapping[str, Sequence[GradeRow]]) -> list[dict[str, Any]]:
    columns = {name: _grade_cells(rows) for name, rows in samples.items()}
    return [
        {"grade": row.grade, "low": row.low, "high": row.high} | {name: columns[name][index] for name in samples}
        for index, row in enumerate(samples["train"])
    ]


def _grade_cells(rows: Sequence[GradeRow]) -> list[dict[str, Any]]:
    counts = iter(blurred([row.bads for row in rows if row.n]))
    bads = [next(counts) if row.n else 0 for row in rows]  # an empty grade hides nothing
    if any(row.n and row.n - row.bads < LEAST_COUNT for row in rows):
        bads = ["withheld" for _ in rows]  # a grade of bads alone: its size would be their number
    return [
        {
            "n": row.n if row.n == 0 or row.n >= LEAST_COUNT else f"<{LEAST_COUNT}",
            "bads": count,
            "bad_rate": round(row.bads / row.n, 4) if isinstance(count, int) and row.n else None,
        }
        for row, count in zip(rows, bads, strict=True)
    ]


def _count_numbers(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_count_numbers(item) for item in value.values())
    if isinstance(value, list):
        return sum(_count_numbers(item) for item in value)
    return int(isinstance(value, int | float))
