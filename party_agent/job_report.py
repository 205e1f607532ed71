"""What the stages of a job found, as lines of its reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from party_agent import report
from party_agent.across_parties import ACROSS
from party_agent.model import OwnModel
from protocols.binning.table import BinningTable
from protocols.scoring.messages import OpenBin, OpenFeature, OpenScorecard

_KNOWN_TO_ITS_OWNER = ("correlation", ACROSS, "stepwise", "sign")


def feature_lines(name: str, bins: BinningTable) -> dict[str, list[report.FeatureLine]]:
    """What all parties may know of each other's features: kept, or dropped by whom; never an IV."""
    lines = {name: [report.FeatureLine(feature.alias, True) for feature in bins.features]}
    lines[name] += [report.FeatureLine(gone.alias, False, gone.reason.split(":")[0]) for gone in bins.dropped]
    for party, features in bins.peers.items():
        kept = [report.FeatureLine(feature.alias, True) for feature in features]
        reasons = {peer.alias: peer.reason.split(":")[0] for peer in bins.dropped_peers[party]}
        dropped = [
            report.FeatureLine(alias, False, why if why in _KNOWN_TO_ITS_OWNER else "dropped by the gate")
            for alias, why in reasons.items()
        ]
        lines[party] = sorted(kept + dropped, key=lambda line: line.alias)
    return lines


def own_features(
    bins: BinningTable, own: OwnModel, stability: Sequence[Mapping[str, float]]
) -> list[report.OwnFeature]:
    """Every own feature, with its stability indices if it is in the model."""
    kept = [
        report.OwnFeature.of(feature, weight, np.array(points.points), psi, dimension)
        for feature, weight, points, psi, dimension in zip(
            own.features, own.weights, own.points.features, stability, own.dimensions, strict=True
        )
    ]
    return kept + [
        report.OwnFeature(dropped.name, dropped.alias, "", False, dropped.reason) for dropped in bins.dropped
    ]


def selection(bins: BinningTable) -> list[report.SelectionLine]:
    """The gate's record of the providers' features."""
    lines = [
        report.SelectionLine(party, feature.alias, feature.iv / 1000, True)
        for party, features in bins.peers.items()
        for feature in features
    ]
    return lines + [
        report.SelectionLine(party, peer.alias, peer.iv / 1000, False, peer.reason)
        for party, dropped in bins.dropped_peers.items()
        for peer in dropped
    ]


def open_part(own: OwnModel) -> OpenScorecard:
    """Own part of the scorecard for everyone, edges rounded to 3 digits."""
    return OpenScorecard(
        tuple(
            OpenFeature(
                feature.name,
                feature.alias,
                tuple(
                    OpenBin(label, woe, points)
                    for label, woe, points in zip(feature.labels(3), feature.woe, own_points.points, strict=True)
                ),
            )
            for feature, own_points in zip(own.features, own.points.features, strict=True)
        )
    )


def joint_scorecard(name: str, own: OwnModel, opened: dict[str, OpenScorecard]) -> dict[str, Any]:
    """The scorecard of all parties, where the contract opens it."""
    parts = {name: open_part(own), **opened}
    return {
        "base_points": own.points.base,
        "parties": {
            party: [
                {
                    "name": feature.name,
                    "alias": feature.alias,
                    "bins": [
                        {"label": item.label, "woe_units": item.woe, "woe": item.woe / 1e4, "points": item.points}
                        for item in feature.bins
                    ],
                }
                for feature in part.features
            ]
            for party, part in parts.items()
        },
    }
