"""A job of three parties that was never run: what its stages would have found, and its reports, for tests of these."""

from __future__ import annotations

from typing import Any

import numpy as np

from party_agent.dataset import Finding
from party_agent.judgement import Judged, judge
from party_agent.report import (
    AlignmentSummary,
    Baseline,
    BinLine,
    FeatureLine,
    OwnFeature,
    SelectionLine,
    TrainingSummary,
    opened_scorecard,
    party_report,
    shared_report,
)
from party_agent.scorecard import FeaturePoints, GradeTable, PointsTable, Scaling, base_points, points_of
from party_agent.validation import Validation, ranking_figures, validate
from protocols.disclosure import Line
from protocols.recipe import Judgement
from protocols.roles import Parties

SCALING = Scaling()
PARTIES = Parties("bank", ("bureau", "tax"))
ROWS, TRAINING = 6072, 4250
COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "bank": {
        "months_as_customer": ("(-inf, 11.5]", "(11.5, 36]", "(36, 84]", "(84, inf)"),
        "current_ratio": ("(-inf, 0.82]", "(0.82, 1.1]", "(1.1, 1.75]", "(1.75, inf)", "missing"),
        "行业": ("{建筑业, 房地产业}", "{批发业, 零售业}", "{制造业}", "{信息技术, 医疗}"),
        "overdraft_days": ("(-inf, 0]", "(0, 14]", "(14, inf)", "-999"),
    },
    "bureau": {
        "worst_arrears_24m": ("(-inf, 0]", "(0, 1]", "(1, 2]", "(2, inf)"),
        "enquiries_6m": ("(-inf, 1]", "(1, 3]", "(3, 6]", "(6, inf)"),
        "utilisation": ("(-inf, 0.21]", "(0.21, 0.48]", "(0.48, 0.77]", "(0.77, inf)", "missing"),
        "open_guarantees": ("(-inf, 0]", "(0, 2]", "(2, inf)"),
        "oldest_line_months": ("(-inf, 18]", "(18, 60]", "(60, inf)"),
    },
    "tax": {
        "vat_growth": ("(-inf, -0.18]", "(-0.18, 0.02]", "(0.02, 0.15]", "(0.15, inf)"),
        "late_filings": ("(-inf, 0]", "(0, 1]", "(1, inf)"),
        "taxpayer_class": ("{A, B}", "{M}", "{C, D}"),
    },
}
SPREAD = {"bank": 0.55, "bureau": 0.9, "tax": 0.6}


def _tables() -> dict[str, PointsTable]:
    random = np.random.default_rng(11)
    tables = {}
    for party, columns in COLUMNS.items():
        features = []
        for index, (name, labels) in enumerate(columns.items()):
            woe = np.round(np.linspace(-1.0, 0.9, len(labels)) * SPREAD[party] * random.uniform(0.7, 1.6), 4)
            if name in ("worst_arrears_24m", "enquiries_6m", "utilisation", "open_guarantees", "late_filings"):
                woe = woe[::-1]
            units = np.round(woe * 1e4).astype(np.int64)
            (points,) = points_of(np.array([-random.uniform(0.6, 1.05)]), [units], SCALING)
            alias = f"{party}-{index + 1}"
            features.append(FeaturePoints(name, alias, labels, tuple(units.tolist()), tuple(points.tolist())))
        base = base_points(-2.95, SCALING) if party == "bank" else None
        tables[party] = PointsTable(party, SCALING, tuple(features), base)
    return tables


TABLES = _tables()


def _validation() -> tuple[Validation, GradeTable]:
    random = np.random.default_rng(5)
    scores = np.zeros(ROWS, dtype=np.int64)
    for table in TABLES.values():
        codes = np.column_stack([random.integers(0, len(f.points), ROWS) for f in table.features])
        scores += table.partial_points(codes)
    logits = np.round((SCALING.offset - scores) / SCALING.factor + random.normal(0, 0.05, ROWS), 2)
    labels = (random.random(ROWS) < 1 / (1 + np.exp(-logits * 0.95))).astype(np.int64)
    training = np.arange(ROWS) < TRAINING
    grades = GradeTable.of_training_scores(scores[training])
    return validate(labels, logits, scores, training, grades), grades


VALIDATION, GRADES = _validation()


def made_up_judgement() -> dict[str, Any]:
    """The label owner's own tables of that job."""
    random = np.random.default_rng(8)
    logits, labels = VALIDATION.test_logits, VALIDATION.test_labels
    scores = np.round(SCALING.offset - SCALING.factor * logits).astype(np.int64)
    existing = np.where(random.random(scores.size) < 0.1, np.nan, scores + random.normal(0, 40, scores.size))
    without = {name: scores + random.integers(-30, 30, scores.size) for name in ("bureau and tax", "bank")}
    rules = Judgement(margin=0.06, exposure=20_000.0)
    return judge(VALIDATION, Judged(labels, logits, scores, existing), GRADES, without, rules, each=False)


BASELINE_LOGITS = VALIDATION.test_logits + np.random.default_rng(6).normal(0, 1.2, ROWS - TRAINING)
BASELINE = Baseline(*ranking_figures(VALIDATION.test_labels, BASELINE_LOGITS), BASELINE_LOGITS)

LEDGER = (
    Line("bank", "align", "bureau", "which of its own ids the sender holds", "opened", 9120),
    Line("bank", "align", "tax", "which of its own ids the sender holds", "opened", 7980),
    Line("bank", "align", "bureau", "size of the sender's id set", "opened", 1),
    Line("bank", "align", "tax", "size of the sender's id set", "opened", 1),
    Line("bank", "align", "bureau", "ids under the sender's blinding", "masked", 10_400),
    Line("bank", "bin", "bureau", "rows per pre-bin of an aliased feature", "opened", 142),
    Line("bank", "bin", "bureau", "bads per pre-bin of an aliased feature", "opened", 142),
    Line("bank", "bin", "tax", "bads per pre-bin of an aliased feature", "opened", 96),
    Line("bank", "bin", "bureau", "sums of own masks per pre-bin, masked again", "masked", 142),
    Line("bank", "train", "bank", "its own gradient blocks", "opened", 56),
    Line("bank", "train", "bureau", "sums of inner products over all parties", "opened", 406),
    Line("bank", "train", "bureau", "partial logits under a fresh uniform mask", "masked", 59_500),
    Line("bank", "validate", "bureau", "sum of the partial logits of every row, to 0.01", "opened", 6072),
    Line("bureau", "align", "bank", "which of its own ids all parties hold", "opened", 6072),
    Line("bureau", "align", "bank", "number of training rows", "opened", 1),
    Line(
        "bureau", "bin", "bank", "WOE per bin of an own feature that was kept (equals its label counts)", "opened", 19
    ),
    Line("bureau", "bin", "bank", "number of bads in the training sample", "opened", 1),
    Line("bureau", "bin", "bank", "encrypted rows, in chunks", "masked", 5),
    Line("bureau", "train", "bureau", "its own gradient blocks", "opened", 70),
    Line("bureau", "train", "tax", "partial logits under a fresh uniform mask", "masked", 59_500),
    Line("tax", "align", "bank", "which of its own ids all parties hold", "opened", 6072),
    Line("tax", "bin", "bank", "WOE per bin of an own feature that was kept (equals its label counts)", "opened", 10),
    Line("tax", "train", "tax", "its own gradient blocks", "opened", 42),
    Line(
        "coordinator",
        "train",
        "bank",
        "period of a batch (whether logits exceed 12), or that the fit has ended",
        "opened",
        14,
    ),
)

PARITY = {
    "max_abs_coef_diff": 3.1e-5,
    "max_abs_pd_diff": 6.4e-6,
    "max_abs_woe_diff": 0.0,
    "abs_auc_diff": 2.2e-6,
    "points_equal": True,
    "points_ties": 2,
}


def made_up_report(*, opened: bool = True, baseline: bool = True) -> dict[str, Any]:
    """A job of three parties, as the label owner would write it up."""
    features = {
        party: [FeatureLine(feature.alias, True) for feature in table.features] for party, table in TABLES.items()
    }
    features["bureau"] += [FeatureLine("bureau-6", False), FeatureLine("bureau-7", False, "dropped: not selected")]
    features["bank"].append(FeatureLine("bank-5", False, "dropped: information value below 0.02"))
    return shared_report(
        job="2031-sme-joint-7f3a",
        finished="2031-04-02 14:07 UTC",
        parties=PARTIES,
        alignment=AlignmentSummary(ROWS, "ecdh", 3.42, {"bank": 10_311, "bureau": 10_400, "tax": 9_850}),
        training=TrainingSummary(TRAINING, 14, 48.3, 1, 212, 157, 24.5),
        validation=VALIDATION,
        key_bits=3072,
        statement=LEDGER,
        features=features,
        grades=GRADES,
        scaling=SCALING,
        recipe={
            "training_share": 0.7,
            "binning": {"chi_merge": 3.84, "most_bins": 8, "least_iv": 0.02},
            "logistic": {"l2": 1.0},
            "scorecard": {"pdo": 20, "base_score": 600, "base_odds": 50},
            "open": ["scorecard"] if opened else [],
        },
        versions={"concordat": "0.1.0", "python": "3.11.9", "numpy": "2.2.1", "gmpy2": "2.2.1"},
        findings={
            "bank": [Finding("DUPLICATE_ROWS", 12, "12 rows that repeat another were counted once.")],
            "tax": [Finding("COLUMN_CONSTANT", 1, "secret_column has one value and was dropped.")],
        },
        baseline=BASELINE if baseline else None,
        scorecard=opened_scorecard(TABLES) if opened else None,
    )


def made_up_party_report(party: str = "bureau") -> dict[str, Any]:
    """The same job, as one party keeps it."""
    random = np.random.default_rng(3)
    features = []
    for feature in TABLES[party].features:
        shares = random.dirichlet(np.full(len(feature.labels), 6.0))
        woe = np.array(feature.woe_units) * 1e-4
        bins = [
            BinLine(label, int(share * TRAINING), float(w), p, float(1 / (1 + 17 * np.exp(w))))
            for label, share, w, p in zip(feature.labels, shares, woe, feature.points, strict=True)
        ]
        edges = [0.5, 1.0, 12_500.0]
        psi = {"test": 0.0123, "out_of_time": 0.31} if party == "bank" else {"rest": 0.0123}
        features.append(OwnFeature(feature.name, feature.alias, "numeric", True, "", 0.21, -0.8431, edges, bins, psi))
    features.append(OwnFeature("postcode_risk", f"{party}-6", "categorical", False))
    own = party == "bank"
    return party_report(
        party=party,
        job="2031-sme-joint-7f3a",
        finished="2031-04-02 14:07 UTC",
        parties=PARTIES,
        features=features,
        statement=LEDGER,
        scaling=SCALING,
        training_rows=TRAINING,
        findings=[Finding("COLUMN_CONSTANT", 1, "Column country has one value and was dropped.")],
        base_points=TABLES[party].base,
        intercept=-2.95 if own else None,
        selection=[SelectionLine("bureau", "bureau-7", 0.0131, False, "IV below 0.02")] if own else [],
        judgement=made_up_judgement() if own else None,
    )
