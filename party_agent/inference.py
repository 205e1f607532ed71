"""Standard errors of a joint fit, from moments that open to the label owner: each party's own, and its report's table.

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


@dataclass(frozen=True)
class PeerErrors:
    """Of a provider's coefficients at the label owner, in model order. estimates: what the moments imply."""

    estimates: tuple[float, ...] = field(repr=False)
    errors: tuple[float, ...] = field(repr=False)
    inflation: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True)
class OwnErrors:
    """errors: of own coefficients in model order; intercept: of the intercept, at the label owner; inflation: VIF of
    own features, or none where no plain moments opened; peers: at the label owner, by provider.
    """

    errors: tuple[float, ...]
    inflation: tuple[float, ...]
    intercept: float | None = None
    peers: Mapping[str, PeerErrors] = field(default_factory=dict)


def own_errors(
    part: MomentsOfFit, logits: IntArray, l2: float, inflation: FloatArray | None
) -> Script[OwnErrors | None]:
    """One party's part of the stage; None: moments of a feature were opened before under this contract.

    Args: logits: own partial ones of the training rows, in units of 0.01; l2: of the fit; inflation: VIF of the
        features of all parties in the moments' order, at the label owner, where it knows them.
    """
    leads = part.name == part.parties.label_owner
    return (yield from (_lead(part, logits, l2, inflation) if leads else _follow(part, logits)))


def _lead(part: MomentsOfFit, logits: IntArray, l2: float, inflation: FloatArray | None) -> Script[OwnErrors | None]:
    moments = yield from part.lead(logits)
    if moments is None:
        return None
    errors = np.sqrt(np.diag(covariance(moments, l2)))
    estimates = implied_estimates(moments, l2)
    places = {party: [i for i, (p, _) in enumerate(moments.columns) if p == party] for party in part.parties.all}
    found = {}
    for party, at in places.items():
        factors = [] if inflation is None else [float(inflation[i - 1]) for i in at]
        found[party] = PeerErrors(tuple(estimates[at].tolist()), tuple(errors[at].tolist()), tuple(factors))
    for party in part.parties.providers:
        yield from send_errors(party, list(found[party].errors), list(found[party].inflation))
    own = found.pop(part.name)
    return OwnErrors(own.errors, own.inflation, float(errors[0]), found)


def _follow(part: MomentsOfFit, logits: IntArray) -> Script[OwnErrors | None]:
    if not (yield from part.follow(logits)):
        return None
    errors, inflation = yield from receive_errors(part.parties.label_owner, len(part.table.features))
    return OwnErrors(tuple(errors), tuple(inflation))


def implied_estimates(moments: Moments, l2: float) -> FloatArray:
    """The coefficients of which weighted moments are the curvature: (X^T W X + lambda)^-1 X^T W y_w, shape (D,)."""
    penalty = np.full(len(moments.columns), l2)
    penalty[0] = 0.0
    return np.linalg.solve(moments.matrix + np.diag(penalty), moments.response_vector).astype(np.float64)


def table_of(found: OwnErrors | None, own: OwnModel, aliases: Mapping[str, Sequence[str]], l2: float) -> dict[str, Any]:
    """The part on inference of the party's own report.

    Args: aliases: of the providers' model features that the label owner shows; none where the recipe opens nothing.
    """
    if found is None:
        return {"opened": False, "level": LEVEL, "l2": l2, "rows": []}
    rows = []
    if own.intercept is not None and found.intercept is not None:
        rows += _rows(["intercept"], [""], [own.intercept], [found.intercept], [])
    names = [feature.name for feature in own.features]
    rows += _rows(names, [f.alias for f in own.features], own.weights, found.errors, found.inflation)
    for party, peer in found.peers.items():
        if party in aliases:
            shown = aliases[party]
            rows += _rows([""] * len(shown), shown, peer.estimates, peer.errors, peer.inflation)
    return {"opened": True, "level": LEVEL, "l2": l2, "rows": rows}


def _rows(
    names: Sequence[str],
    aliases: Sequence[str],
    estimates: Sequence[float],
    errors: Sequence[float],
    inflation: Sequence[float],
) -> list[dict[str, Any]]:
    tests = coefficient_tests(np.array(estimates), np.diag(np.array(errors) ** 2), LEVEL)
    return [
        {
            "name": names[i],
            "alias": aliases[i],
            "estimate": float(tests.estimates[i]),
            "standard_error": float(tests.standard_errors[i]),
            "z": float(tests.z[i]),
            "p_value": float(tests.p_values[i]),
            "low": float(tests.low[i]),
            "high": float(tests.high[i]),
            "inflation": float(inflation[i]) if len(inflation) else None,
        }
        for i in range(len(names))
    ]


def errors_to(value: OwnErrors | None) -> Stored:
    """For a checkpoint."""
    return {"opened": value is not None} | ({} if value is None else asdict(value)), {}


def errors_from(header: dict[str, Any], _blobs: Blobs) -> OwnErrors | None:
    """Inverse of `errors_to`."""
    if not header.pop("opened"):
        return None
    peers = {
        party: PeerErrors(tuple(item["estimates"]), tuple(item["errors"]), tuple(item["inflation"]))
        for party, item in header["peers"].items()
    }
    return OwnErrors(tuple(header["errors"]), tuple(header["inflation"]), header["intercept"], peers)
