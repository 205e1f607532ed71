"""The documents of a job, as JSON with stable keys: the shared report, and each party's own.

`shared_report` and `party_report` make plain dictionaries that go to `report.json`; `report_reading` says in words what
the shared one means, and `report_page` turns either into a page.

The shared report goes to every party, so it may hold only what all of them may know. Figures that depend on labels come
from `Validation.to_json`, which blurs small counts; reasons for a dropped provider feature must say no more than its
owner was told (PROTOCOLS.md section 2: kept or dropped).
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from party_agent.report_reading import reading_of
from party_agent.scorecard import WOE_UNIT, FloatArray, GradeTable, IntArray, PointsTable, Scaling
from party_agent.validation import Validation
from protocols import montgomery
from protocols.disclosure import Line
from protocols.roles import COORDINATOR, Parties

if TYPE_CHECKING:
    from party_agent.dataset import Finding
    from protocols.binning.table import BinnedFeature

SCHEMA = "concordat.report/1"
PARTY_SCHEMA = "concordat.party-report/1"
_FINDINGS = {  # what other parties read: a party's own sentences may name its columns
    "EMPTY_IDS": "rows without an id, dropped",
    "ID_CHECK_CHARACTER": "ids of 18 characters with a wrong check character, kept",
    "DUPLICATE_IDS_KEPT_FIRST": "rows that repeat an id with other values, the first kept",
    "DUPLICATE_ROWS": "identical rows, counted once",
    "COLUMN_CONSTANT": "columns of one value, dropped",
    "CATEGORICAL_INFERRED": "columns taken as categorical",
    "SCREENING_NOT_OPENED": "no screening across parties: exact moments were opened before; all features stay",
}


@dataclass(frozen=True)
class AlignmentSummary:
    """Stage align. `ids`: distinct usable ids each party brought; `engine`: 'ecdh' or 'kkrt'; `seconds`: wall time."""

    rows: int
    engine: str
    seconds: float
    ids: Mapping[str, int]


@dataclass(frozen=True)
class TrainingSummary:
    """Stage train. `n`: training rows; `iterations`: gradients taken; `passes`: encrypted passes; budgets of section 3.

    `fits`: how many the gradients and passes are of; `within_budget`: false if the gradients were spent before the last
    of them ended, so that the model is the best of the others.
    `label_budget` and `label_budget_spent` are counts `F` of PROTOCOLS.md section 2; None where not known.
    """

    n: int
    iterations: int
    seconds: float
    passes: int = 1
    gradient_budget: int | None = None
    label_budget: int | None = None
    label_budget_spent: float | None = None
    fits: int = 1
    within_budget: bool = True


@dataclass(frozen=True)
class FeatureLine:
    """A feature as the other parties know it. `reason`: why dropped, in words its owner may read; empty if kept."""

    alias: str
    kept: bool
    reason: str = ""


@dataclass(frozen=True)
class Baseline:
    """The label owner's own columns alone, same rows and same method: what the partners' data is measured against.

    logits: of the test rows, shape (n_test,), for the error of the difference; they enter no report.
    """

    auc: float
    ks: float
    logits: FloatArray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class BinLine:
    """A merged bin of a party's own feature. `bad_rate` where this party can compute it, else None."""

    label: str
    rows: int
    woe: float
    points: int
    bad_rate: float | None = None


@dataclass(frozen=True)
class OwnFeature:
    """A feature in its owner's report; bins, `iv`, `coefficient`, `psi` only if kept.

    kind: 'numeric' or 'categorical'; dimension: the group it is in; psi: stability index of its bins, from the training
    rows to each other sample.
    """

    name: str
    alias: str
    kind: str
    kept: bool
    reason: str = ""
    iv: float | None = None
    coefficient: float | None = None
    edges: Sequence[float] = ()
    bins: Sequence[BinLine] = field(default=())
    psi: Mapping[str, float] = field(default_factory=dict)
    dimension: str = ""

    @classmethod
    def of(
        cls,
        feature: BinnedFeature,
        coefficient: float,
        points: IntArray,
        psi: Mapping[str, float] | None = None,
        dimension: str = "",
    ) -> OwnFeature:
        """A feature of the model, from the artefacts of binning, training and points."""
        return cls(
            name=feature.name,
            alias=feature.alias,
            kind=feature.binning.kind.value,
            kept=True,
            iv=feature.iv / 1000,
            coefficient=coefficient,
            edges=tuple(float(edge) for edge in feature.binning.edges),
            bins=tuple(
                BinLine(label, rows, woe * WOE_UNIT, int(value), None if bads is None else bads / rows)
                for label, rows, woe, value, bads in zip(
                    feature.labels(), feature.rows, feature.woe, points, feature.bads, strict=True
                )
            ),
            psi=dict(psi or {}),
            dimension=dimension,
        )


@dataclass(frozen=True)
class SelectionLine:
    """The gate's own record (label owner only): the IV of every feature that came before it."""

    party: str
    alias: str
    iv: float
    kept: bool
    reason: str = ""


def versions() -> dict[str, str]:
    """Versions of this program and of what it computes with."""
    packages = ("concordat", "cryptography", "gmpy2", "grpcio", "numpy", "phe")
    own = {"python": platform.python_version(), "arithmetic": montgomery.engine_name()}
    return own | {name: metadata.version(name) for name in packages}


def statement_of(lines: Iterable[Line], parties: Parties) -> dict[str, list[dict[str, Any]]]:
    """Ledger lines by receiver, every party and the coordinator present even if it learned nothing."""
    statement: dict[str, list[dict[str, Any]]] = {name: [] for name in (*parties.all, COORDINATOR)}
    for line in sorted(lines):
        statement.setdefault(line.to, []).append(
            {
                "what": line.what,
                "numbers": line.numbers,
                "source": line.source,
                "stage": line.stage,
                "nature": line.nature,
            }
        )
    return statement


def opened_scorecard(tables: Mapping[str, PointsTable]) -> dict[str, Any]:
    """The joint scorecard for a report whose contract opens it: every party's bins, WOE and points, by party."""
    parts = {name: table.to_json() for name, table in tables.items()}
    bases = [part["base_points"] for part in parts.values() if part["base_points"] is not None]
    return {
        "base_points": bases[0] if bases else 0,
        "parties": {name: part["features"] for name, part in parts.items()},
    }


def shared_report(
    *,
    job: str,
    finished: str,
    parties: Parties,
    alignment: AlignmentSummary,
    training: TrainingSummary,
    validation: Validation,
    key_bits: int,
    statement: Iterable[Line],
    features: Mapping[str, Sequence[FeatureLine]],
    grades: GradeTable,
    scaling: Scaling,
    recipe: Mapping[str, Any],
    versions: Mapping[str, str],
    findings: Mapping[str, Sequence[Finding]],
    baseline: Baseline | None = None,
    scorecard: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report every party gets, JSON-ready.

    Args: job: the job's name; finished: time, as text; findings: by party, of which others read code and count, not the
        sentence, which may name a column; grades: the cut-offs; scorecard: of `opened_scorecard`, only if
        the contract opens it. `report["parity"]` is None here; a simulation that has a pooled twin fills it with
        max_abs_coef_diff, max_abs_pd_diff, max_abs_woe_diff, abs_auc_diff, points_equal, points_ties, and
        optionally limits, a mapping of the same names.
    """
    figures = validation.to_json()
    metrics = dict(figures["metrics"])
    metrics["baseline"] = None
    if baseline is not None:
        auc, ks = round(baseline.auc, 4), round(baseline.ks, 4)
        error = None if baseline.logits is None else validation.gain_error(baseline.logits)
        metrics["baseline"] = {
            "party": parties.label_owner,
            "auc": auc,
            "ks": ks,
            "gini": round(2 * auc - 1, 4),
            "gain": round(metrics["test"]["auc"] - auc, 4),
            "gain_error": None if error is None else round(error, 4),
        }
    report = {
        "schema": SCHEMA,
        "job": job,
        "finished": finished,
        "parties": {"label_owner": parties.label_owner, "providers": list(parties.providers)},
        "alignment": {
            "rows": alignment.rows,
            "engine": alignment.engine,
            "seconds": round(alignment.seconds, 1),
            "ids": dict(alignment.ids),
        },
        "training": {
            "n": training.n,
            "iterations": training.iterations,
            "seconds": round(training.seconds, 1),
            "passes": training.passes,
            "gradient_budget": training.gradient_budget,
            "label_budget": training.label_budget,
            "label_budget_spent": training.label_budget_spent,
            "fits": training.fits,
            "within_budget": training.within_budget,
        },
        "metrics": metrics,
        "curves": figures["curves"],
        "calibration": figures["calibration"],
        "gains": figures["gains"],
        "distribution": figures["distribution"],
        "grades": figures["grades"],
        "grade_table": grades.to_json(),
        "scaling": scaling.to_json(),
        "features": {
            name: [{"alias": line.alias, "kept": line.kept, "reason": line.reason} for line in lines]
            for name, lines in features.items()
        },
        "scorecard": dict(scorecard) if scorecard is not None else None,
        "keys": {"bits": key_bits},
        "statement": statement_of(statement, parties),
        "parity": None,
        "findings": [
            {"party": name, "code": item.code, "count": item.count, "sentence": _FINDINGS.get(item.code, "")}
            for name, items in findings.items()
            for item in items
        ],
        "recipe": dict(recipe),
        "versions": dict(versions),
    }
    return report | {"reading": reading_of(report).to_json()}


def party_report(
    *,
    party: str,
    job: str,
    finished: str,
    parties: Parties,
    features: Sequence[OwnFeature],
    statement: Iterable[Line],
    scaling: Scaling,
    training_rows: int,
    findings: Sequence[Finding] = (),
    base_points: int | None = None,
    intercept: float | None = None,
    selection: Sequence[SelectionLine] = (),
    screening: Mapping[str, Any] | None = None,
    judgement: Mapping[str, Any] | None = None,
    estimation: Mapping[str, Any] | None = None,
    inference: Mapping[str, Any] | None = None,
    weights: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """A party's own report, JSON-ready; it stays in that party's folder.

    Args: statement: this party's ledger, of which what it learned and what it gave others to learn are kept;
        base_points, intercept, selection, judgement: at the label owner only; screening: of `screening_of`;
        estimation: of `estimation.fitted_of`; inference: of `inference.table_of`, where the recipe asks for them;
        weights: of `sample_weights.weights_summary`, at the label owner of a weighted fit.
    """
    lines = tuple(statement)
    return {
        "schema": PARTY_SCHEMA,
        "party": party,
        "role": "label owner" if party == parties.label_owner else "feature provider",
        "job": job,
        "finished": finished,
        "training": {"n": training_rows},
        "scaling": scaling.to_json(),
        "base_points": base_points,
        "intercept": intercept,
        "features": [_own_feature(feature) for feature in features],
        "screening": dict(screening) if screening is not None else None,
        "selection": [
            {
                "party": line.party,
                "alias": line.alias,
                "iv": round(line.iv, 4),
                "kept": line.kept,
                "reason": line.reason,
            }
            for line in selection
        ],
        "judgement": None if judgement is None else dict(judgement),
        "estimation": None if estimation is None else dict(estimation),
        "inference": None if inference is None else dict(inference),
        "weights": None if weights is None else dict(weights),
        "findings": [{"code": item.code, "count": item.count, "sentence": item.sentence} for item in findings],
        "learned": statement_of((x for x in lines if x.to == party), parties)[party],
        "gave": {
            name: rows
            for name, rows in statement_of((x for x in lines if x.source == party and x.to != party), parties).items()
            if rows
        },
    }


def _own_feature(feature: OwnFeature) -> dict[str, Any]:
    return {
        "name": feature.name,
        "alias": feature.alias,
        "kind": feature.kind,
        "dimension": feature.dimension,
        "kept": feature.kept,
        "reason": feature.reason,
        "iv": feature.iv,
        "coefficient": feature.coefficient,
        "psi": {name: round(value, 4) for name, value in feature.psi.items()},
        "edges": list(feature.edges),
        "bins": [
            {"label": b.label, "rows": b.rows, "woe": b.woe, "points": b.points, "bad_rate": b.bad_rate}
            for b in feature.bins
        ],
    }
