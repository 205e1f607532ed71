"""What the label owner alone reads of a scorecard: cut-offs, grades, what each provider added, and an existing score.

Exact figures from every row, so they stay in the label owner's own report. Definitions: docs/validation.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from party_agent.notation import list_of
from party_agent.scorecard import FloatArray, GradeTable, IntArray
from party_agent.significance import auc_difference, trend
from party_agent.validation import LEAST_COUNT, Validation, joined_groups, ranking_figures
from protocols.errors import DataError
from protocols.recipe import Judgement
from protocols.roles import Parties
from protocols.scoring.dimensions import DimensionPoints
from protocols.scoring.label_owner import Totals

CUT_SHARES = tuple(share / 100 for share in range(5, 100, 5))  # of the test sample, approved
SCORE_GROUPS = 10


@dataclass(frozen=True)
class Judged:
    """The test rows: labels (1 = bad), logits of bad, scores, and an existing score (NaN: none), all (n_rows,)."""

    labels: IntArray
    logits: FloatArray
    scores: IntArray
    existing: FloatArray | None = None


def judge(
    validation: Validation,
    test: Judged,
    grades: GradeTable,
    without: Mapping[str, IntArray],
    rules: Judgement,
    *,
    each: bool,
) -> dict[str, Any]:
    """The label owner's own tables, JSON-ready.

    Args: without: whose points were taken away -> the score without them, shape (n_rows,); each: whether the points of
        each provider are known, and not only their sum.
    """
    return {
        "provider_points": "each" if each else "sum",
        "cut_offs": cut_offs(test, grades, rules),
        "grades": grade_order(validation),
        "contribution": contribution(test, without),
        "swap_set": None if test.existing is None else swap_set(test, test.existing, rules.approval_rate),
    }


def scores_without(
    parties: Parties, totals: Totals, own: DimensionPoints, base: int
) -> tuple[dict[str, IntArray], bool]:
    """Scores without the points of each party, and of each dimension of a party that has several.

    Without opened dimensions the points of one provider follow from the score; of more, only their sum does.
    Args: own: the label owner's points by dimension, which with `base` and the providers' points make the score. All
        scores have shape (n_rows,).
    Returns: whose points were taken away -> scores; whether each provider's are known, and not only their sum.
    """
    owner = own.points.sum(axis=1)
    taken = {name: part.points.sum(axis=1) for name, part in totals.dimensions.items()}
    each = len(parties.providers) == 1 or bool(taken)
    if not taken:
        taken = {list_of(parties.providers): totals.points - base - owner}
    taken[parties.label_owner] = owner
    for name, part in {**totals.dimensions, parties.label_owner: own}.items():
        if len(part.names) > 1:
            taken |= dict(zip(part.qualified(name), part.points.T, strict=True))
    return {name: totals.points - points for name, points in taken.items()}, each


def cut_offs(test: Judged, grades: GradeTable, rules: Judgement) -> list[dict[str, Any]]:
    """What approving everyone at or above a score would do, from the strictest cut-off to approving all.

    Cut-offs: those of the grades, and the scores that approve about 5 %, 10 %, ... of the test sample. Bad rates are
    observed; losses and profit are expected, from predicted probabilities: `pd * loss_given_default * exposure` lost
    and `(1 - pd) * margin * exposure` earned, summed over the approved.
    """
    pd = 1.0 / (1.0 + np.exp(-test.logits))
    loss = pd * rules.loss_given_default * rules.exposure
    gain = None if rules.margin is None else (1.0 - pd) * rules.margin * rules.exposure - loss
    n, bads = test.labels.size, int(test.labels.sum())
    falling = np.sort(test.scores)[::-1]
    cuts = {int(falling[max(round(share * n), 1) - 1]) for share in CUT_SHARES} | set(grades.cuts) | {int(falling[-1])}
    names = {cut: name for name, cut in zip(grades.names, grades.cuts, strict=False)}
    rows = []
    for cut in sorted(cuts, reverse=True):
        approved = test.scores >= cut
        count, bad = int(approved.sum()), int(test.labels[approved].sum())
        if not count:
            continue
        rows.append(
            {
                "score": cut,
                "grade": names.get(cut, ""),
                "approved": count,
                "approval_rate": count / n,
                "bads": bad,
                "bad_rate": bad / count,
                "bads_refused": (bads - bad) / bads,
                "mean_pd": float(pd[approved].mean()),
                "expected_loss": float(loss[approved].sum()),
                "loss_rate": float(loss[approved].sum()) / (count * rules.exposure),
                "expected_profit": None if gain is None else float(gain[approved].sum()),
            }
        )
    return rows


def grade_order(validation: Validation) -> dict[str, dict[str, Any]]:
    """By sample: whether bad rates rise from grade to grade, and which neighbours are out of order."""
    found = {}
    for name, sample in validation.samples().items():
        filled = [row for row in sample.grades if row.n]
        test = trend([row.n for row in sample.grades], [row.bads for row in sample.grades])
        found[name] = {
            "trend": None if test is None else test.to_json(),
            "out_of_order": [
                [better.grade, worse.grade]
                for better, worse in pairwise(filled)
                if better.bads * worse.n > worse.bads * better.n
            ],
        }
    return found


def contribution(test: Judged, without: Mapping[str, IntArray]) -> list[dict[str, Any]]:
    """AUC, KS and information value of the score with all points, then without those of each name; nothing is fitted.

    `loss` is the AUC lost by taking the points away, `loss_error` its standard error (DeLong).
    """
    full = -test.scores.astype(np.float64)
    rows: list[dict[str, Any]] = [{"without": None, **_ranked(test.labels, full), "loss": None, "loss_error": None}]
    for name, scores in without.items():
        less = -scores.astype(np.float64)
        loss, error = auc_difference(test.labels, full, less)
        rows.append({"without": name, **_ranked(test.labels, less), "loss": loss, "loss_error": error})
    return rows


def swap_set(test: Judged, existing: FloatArray, approval_rate: float) -> dict[str, Any]:
    """Whom the joint score would approve and the existing one refuse, and the reverse, each approving its best.

    Rows without an existing score are left out. Ties at a cut-off are approved, so that the rates may lie above.
    Raises: DataError: SCORE_MISSING: fewer than two rows with an existing score, or of one class only.
    """
    there = np.flatnonzero(~np.isnan(existing))
    labels, joint, old = test.labels[there], test.scores[there], existing[there]
    if not 0 < labels.sum() < labels.size:
        raise DataError(
            "SCORE_MISSING",
            "the test rows with an existing score have no goods or no bads",
            "bring the existing score of more borrowers, or take score_column out of the recipe",
        )
    by_joint, by_old = (_best(values, approval_rate) for values in (joint, old))
    gain, error = auc_difference(labels, -joint.astype(np.float64), -old)
    cells = {
        "both_approve": by_joint & by_old,
        "swapped_in": by_joint & ~by_old,
        "swapped_out": ~by_joint & by_old,
        "both_refuse": ~by_joint & ~by_old,
    }
    return {
        "rows": int(there.size),
        "left_out": int(existing.size - there.size),
        "approval_rate": approval_rate,
        "joint": _ranked(labels, -joint.astype(np.float64)) | {"approved": int(by_joint.sum())},
        "existing": _ranked(labels, -old) | {"approved": int(by_old.sum())},
        "gain": gain,
        "gain_error": error,
        "cells": {name: _counted(labels[rows]) for name, rows in cells.items()},
    }


def score_information(labels: IntArray, risk: FloatArray) -> float:
    """Information value of a score in tenths of the rows, neighbours joined until each has 5 goods and 5 bads.

    Args: labels: 1 = bad; risk: higher is riskier. Both of shape (n_rows,).
    """
    inner = np.unique(np.quantile(risk, np.arange(1, SCORE_GROUPS) / SCORE_GROUPS, method="higher"))
    group = np.searchsorted(inner, risk, side="right")
    rows = np.bincount(group, minlength=inner.size + 1)
    bads = np.bincount(group, weights=labels, minlength=inner.size + 1).astype(np.int64)
    groups = joined_groups(bads, rows - bads, least=LEAST_COUNT)
    bad = np.array([bads[a:b].sum() for a, b in groups]) / bads.sum()
    good = np.array([(rows - bads)[a:b].sum() for a, b in groups]) / (rows - bads).sum()
    return float(np.sum((good - bad) * np.log(good / bad)))


def _ranked(labels: IntArray, risk: FloatArray) -> dict[str, float]:
    auc, ks = ranking_figures(labels, risk)
    return {"auc": auc, "ks": ks, "iv": score_information(labels, risk)}


def _best(scores: NDArray[Any], share: float) -> NDArray[np.bool_]:
    """The best `share` of the rows, and all that tie with the last of them."""
    cut = np.sort(scores)[::-1][max(round(share * scores.size), 1) - 1]
    best: NDArray[np.bool_] = scores >= cut
    return best


def _counted(labels: IntArray) -> dict[str, Any]:
    n, bads = int(labels.size), int(labels.sum())
    return {"n": n, "bads": bads, "bad_rate": bads / n if n else None}
