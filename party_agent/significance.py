"""How far chance reaches: errors of AUC and KS, the Hosmer-Lemeshow test, and the trend of bad rates over grades."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc, gammaincc

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

Z95 = 1.96


@dataclass(frozen=True)
class Trial:
    """A test: its statistic, degrees of freedom (None: normal) and p-value."""

    statistic: float
    freedom: int | None
    p: float

    def to_json(self) -> dict[str, float | int | None]:
        """JSON-ready: statistic to 2 decimals, p to 4."""
        return {"statistic": round(self.statistic, 2), "freedom": self.freedom, "p": round(self.p, 4)}


def interval(value: float, error: float) -> tuple[float, float]:
    """95 % interval of a share, `value +- 1.96 error` within [0, 1]."""
    return max(value - Z95 * error, 0.0), min(value + Z95 * error, 1.0)


def placements(labels: IntArray, logits: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Share of goods that each bad is riskier than, and share of bads that each good is safer than; ties half."""
    bads, goods = logits[labels == 1], logits[labels == 0]

    def share_below(values: FloatArray, others: FloatArray) -> FloatArray:
        others = np.sort(others)
        return (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / (2 * others.size)

    return share_below(bads, goods), 1.0 - share_below(goods, bads)


def auc_error(labels: IntArray, logits: FloatArray) -> float:
    """Standard error of the AUC; with a single good or bad, that of Hanley and McNeil.

    Args: labels: 1 = bad; logits: of bad. Both of shape (n_rows,).
    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); Hanley and McNeil, Radiology 143 (1982).
    """
    by_bad, by_good = placements(labels, logits)
    bads, goods = by_bad.size, by_good.size
    if min(bads, goods) >= 2:
        return math.sqrt(by_bad.var(ddof=1) / bads + by_good.var(ddof=1) / goods)
    auc = float(by_bad.mean())
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (bads - 1) * (q1 - auc**2) + (goods - 1) * (q2 - auc**2)) / (bads * goods)
    return math.sqrt(max(variance, 0.0))


def auc_difference(labels: IntArray, first: FloatArray, second: FloatArray) -> tuple[float, float | None]:
    """AUC of `first` minus AUC of `second` on the same rows, and its standard error; None with a single good or bad.

    Args: labels: 1 = bad; first, second: logits of bad. All of shape (n_rows,).
    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).
    """
    by_bad, by_good = (a - b for a, b in zip(placements(labels, first), placements(labels, second), strict=True))
    if min(by_bad.size, by_good.size) < 2:
        return float(by_bad.mean()), None
    variance = by_bad.var(ddof=1) / by_bad.size + by_good.var(ddof=1) / by_good.size
    return float(by_bad.mean()), math.sqrt(variance)


def ks_error(bad_share: float, good_share: float, bads: int, goods: int) -> float:
    """Standard error of a KS from the shares of bads and goods below the score where it is reached.

    Two binomial shares at one point: right in the limit where the largest gap is reached at one score only, and the
    classes do differ; a KS near 0 has no normal error.
    Source: Raghavachari, Annals of Statistics 1 (1973).

    >>> round(ks_error(0.6, 0.2, 100, 400), 4)
    0.0529
    """
    return math.sqrt(bad_share * (1 - bad_share) / bads + good_share * (1 - good_share) / goods)


def hosmer_lemeshow(groups: Sequence[tuple[int, int, float]], estimated: int) -> Trial | None:
    """Whether predicted and observed bad rates agree in groups by predicted risk; None if no freedom is left.

    Args: groups: rows, bads and mean predicted probability of each; estimated: parameters lost to the fit, 2 on the
        sample that was trained on, 0 on another.
    Source: Hosmer and Lemeshow, Applied Logistic Regression; for another sample, its section on external validation.
    """
    freedom = len(groups) - estimated
    variances = [rows * pd * (1 - pd) for rows, _, pd in groups]
    if freedom < 1 or min(variances) <= 0:
        return None
    pairs = zip(groups, variances, strict=True)
    statistic = sum((bads - rows * pd) ** 2 / variance for (rows, bads, pd), variance in pairs)
    return Trial(statistic, freedom, float(gammaincc(freedom / 2, statistic / 2)))


def trend(rows: Sequence[int], bads: Sequence[int]) -> Trial | None:
    """Whether bad rates rise from group to group, best first: z of the Cochran-Armitage test, scores 0, 1, 2, ...

    One-sided: p is small where rates rise. Empty groups keep their place; None with one group or label.
    Source: Armitage, Biometrics 11 (1955).

    >>> trend([100, 100, 100], [2, 5, 12]).p < 0.01
    True
    """
    n, total = sum(rows), sum(bads)
    scores = range(len(rows))
    mean = sum(s * r for s, r in zip(scores, rows, strict=True)) / n if n else 0.0
    spread = sum(r * (s - mean) ** 2 for s, r in zip(scores, rows, strict=True))
    rate = total / n if n else 0.0
    variance = rate * (1 - rate) * spread
    if variance <= 0:
        return None
    z = sum((s - mean) * b for s, b in zip(scores, bads, strict=True)) / math.sqrt(variance)
    return Trial(z, None, float(erfc(z / math.sqrt(2)) / 2))
