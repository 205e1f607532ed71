"""Standard errors and VIF of a joint fit, from moments that open to the label owner: each party's own, and its table.

Covariance: inverse curvature of the penalised log-likelihood (`protocols.moments.inference`); tests are Wald's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from party_agent.artefacts import Stored
from party_agent.checkpoint import Blobs
from party_agent.model import OwnModel
from protocols.fixed_point import FloatArray, IntArray
from protocols.moments.inference import coefficient_tests, covariance
from protocols.moments.label_owner import Moments
from protocols.moments.of_fit import MomentsOfFit, receive_errors, send_errors
from protocols.session import Script

LEVEL = 0.95
_FIGURES = ("estimate", "standard_error", "z", "p_value", "low", "high", "inflation")


@dataclass(frozen=True)
class PeerErrors:
    """Of a provider's coefficients at the label owner, in model order. estimates: what the moments imply; these and
    errors are empty where no weighted moments opened, inflation where no plain ones did.
    """

    estimates: tuple[float, ...] = field(repr=False)
    errors: tuple[float, ...] = field(repr=False)
    inflation: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True)
class OwnErrors:
    """errors: of own coefficients in model order; intercept: of the intercept, at the label owner; inflation: VIF of
    own features; either is empty where no moments of its kind opened. peers: at the label owner, by provider.
    """

    errors: tuple[float, ...]
    inflation: tuple[float, ...]
    intercept: float | None = None
    peers: Mapping[str, PeerErrors] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What the stage is to find. errors: what the recipe says; inflation: whether plain moments opened; factors: VIF of
    the model's features of all parties in the moments' order, at the label owner, then.
    """

    errors: bool
    inflation: bool
    factors: FloatArray | None = field(default=None, repr=False)


def own_errors(part: MomentsOfFit, logits: IntArray, l2: float, wanted: Wanted) -> Script[OwnErrors]:
    """One party's part of the stage; without errors where moments of a feature were opened before under this contract.

    Args: logits: own partial ones of the training rows, in units of 0.01; l2: of the fit.
    """
    leads = part.name == part.parties.label_owner
    return (yield from (_lead(part, logits, l2, wanted) if leads else _follow(part, logits, wanted)))


def _lead(part: MomentsOfFit, logits: IntArray, l2: float, wanted: Wanted) -> Script[OwnErrors]:
    moments = (yield from part.lead(logits)) if wanted.errors else None
    found = _by_party(part, moments, l2, wanted)
    if moments is not None or wanted.inflation:
        for party in part.parties.providers:
            yield from send_errors(party, list(found[party].errors), list(found[party].inflation))
    own = found.pop(part.name)
    intercept = None if moments is None else float(np.sqrt(covariance(moments, l2)[0, 0]))
    return OwnErrors(own.errors, own.inflation, intercept, found)


def _by_party(part: MomentsOfFit, moments: Moments | None, l2: float, wanted: Wanted) -> dict[str, PeerErrors]:
    peers = part.table.peers
    owners = [party for party in part.parties.all for _ in peers.get(party, part.table.features)]
    estimates = errors = np.zeros(0)
    if moments is not None:
        errors = np.sqrt(np.diag(covariance(moments, l2)))[1:]
        estimates = implied_estimates(moments, l2)[1:]
    found = {}
    for party in part.parties.all:
        at = [i for i, owner in enumerate(owners) if owner == party]
        columns = [
            tuple(a[at].tolist()) if a is not None and len(a) else () for a in (estimates, errors, wanted.factors)
        ]
        found[party] = PeerErrors(*columns)
    return found


def _follow(part: MomentsOfFit, logits: IntArray, wanted: Wanted) -> Script[OwnErrors]:
    opened = (yield from part.follow(logits)) if wanted.errors else False
    if not opened and not wanted.inflation:
        return OwnErrors((), ())
    features = len(part.table.features)
    errors, inflation = yield from receive_errors(
        part.parties.label_owner, features * opened, features * wanted.inflation
    )
    return OwnErrors(tuple(errors), tuple(inflation))


def implied_estimates(moments: Moments, l2: float) -> FloatArray:
    """The coefficients of which weighted moments are the curvature: (X^T W X + lambda)^-1 X^T W y_w, shape (D,)."""
    penalty = np.full(len(moments.columns), l2)
    penalty[0] = 0.0
    return np.linalg.solve(moments.matrix + np.diag(penalty), moments.response_vector).astype(np.float64)


def table_of(
    found: OwnErrors, own: OwnModel, aliases: Mapping[str, Sequence[str]], l2: float, *, asked: bool, shown: bool
) -> dict[str, Any]:
    """The part on inference of the party's own report.

    Args: aliases: of the providers' model features, at the label owner; asked: whether the recipe asks for standard
        errors; shown: whether the recipe opens the scorecard: else of a provider's coefficient its VIF alone is shown.
    """
    rows = []
    if own.intercept is not None and found.intercept is not None:
        rows += _rows(["intercept"], [""], [own.intercept], [found.intercept], [])
    if found.errors or found.inflation:
        names = [feature.name for feature in own.features]
        rows += _rows(names, [f.alias for f in own.features], own.weights, found.errors, found.inflation)
    for party, peer in found.peers.items():
        known = aliases[party]
        if shown and peer.errors:
            rows += _rows([""] * len(known), known, peer.estimates, peer.errors, peer.inflation)
        elif peer.inflation:
            rows += _rows([""] * len(known), known, [], [], peer.inflation)
    return {"opened": bool(found.errors), "asked": asked, "level": LEVEL, "l2": l2, "rows": rows}


def _rows(
    names: Sequence[str],
    aliases: Sequence[str],
    estimates: Sequence[float],
    errors: Sequence[float],
    inflation: Sequence[float],
) -> list[dict[str, Any]]:
    columns: dict[str, Sequence[float]] = {"estimate": estimates, "inflation": inflation}
    if errors:
        tests = coefficient_tests(np.array(estimates), np.diag(np.array(errors) ** 2), LEVEL)
        columns |= {"standard_error": tests.standard_errors.tolist(), "z": tests.z.tolist()}
        columns |= {"p_value": tests.p_values.tolist(), "low": tests.low.tolist(), "high": tests.high.tolist()}
    return [
        {"name": names[i], "alias": aliases[i]}
        | {key: float(columns[key][i]) if len(columns.get(key, ())) else None for key in _FIGURES}
        for i in range(len(names))
    ]


def errors_to(value: OwnErrors) -> Stored:
    """For a checkpoint."""
    return asdict(value), {}


def errors_from(header: dict[str, Any], _blobs: Blobs) -> OwnErrors:
    """Inverse of `errors_to`."""
    peers = {
        party: PeerErrors(tuple(item["estimates"]), tuple(item["errors"]), tuple(item["inflation"]))
        for party, item in header["peers"].items()
    }
    return OwnErrors(tuple(header["errors"]), tuple(header["inflation"]), header["intercept"], peers)
