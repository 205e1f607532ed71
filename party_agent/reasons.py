"""Why a row scored as it did: its points by dimension, and the features that cost it most.

A dimension is a named group of features. A party knows the points of its own; those of a provider come to the label
owner only where the recipe and the contract open them (`open = ["dimensions"]`). Definitions: docs/scorecard.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from party_agent.dataset import column_name
from party_agent.model import OwnModel
from party_agent.scorecard import IntArray, round_half_away
from protocols.recipe import PartyColumns, Recipe, Scorecard
from protocols.scoring.dimensions import DimensionPoints, grouped


def dimensions_of(columns: Sequence[str], rules: PartyColumns, party: str) -> tuple[str, ...]:
    """The dimension of each of this party's columns: the one that names it, else the party's own name."""
    named = {column_name(column): name for name, members in rules.dimensions.items() for column in members}
    return tuple(named.get(column, party) for column in columns)


def dimension_points(own: OwnModel, codes: IntArray, rules: Scorecard) -> DimensionPoints:
    """Own points of each row by dimension, the base left out. codes: shape (n, d)."""
    names, points = grouped(own.points.feature_points(codes), own.dimensions)
    _, references = grouped(_references(own, rules)[np.newaxis, :], own.dimensions)
    return DimensionPoints(names, points, references[0])


def opened_dimensions(own: OwnModel, codes: IntArray, recipe: Recipe) -> DimensionPoints | None:
    """What a provider opens to the label owner: nothing, unless the recipe says so."""
    return dimension_points(own, codes, recipe.scorecard) if "dimensions" in recipe.open else None


@dataclass(frozen=True, eq=False)
class Explanation:
    """What explains each scored row, as further columns of a file: `points_*` by dimension, `reason_*` and `lost_*`.

    dimensions: by party, its own part among them; points: shape (n, n_dimensions), in the order of `columns`; reasons:
    index into `names` of each row's reasons, -1 for none left; lost: the points that each of them cost. Both (n, r).
    """

    columns: tuple[str, ...]
    points: IntArray
    names: tuple[str, ...]
    reasons: IntArray
    lost: IntArray

    @property
    def header(self) -> list[str]:
        """Names of the columns."""
        places = range(1, self.reasons.shape[1] + 1)
        pairs = [name for place in places for name in (f"reason_{place}", f"lost_{place}")]
        return [*(f"points_{name}" for name in self.columns), *pairs]

    def cells(self) -> list[list[int | str]]:
        """The cells of each row; a reason that is not there is empty."""
        return [
            [*points, *(cell for i, gap in zip(why, lost, strict=True) for cell in self._reason(i, gap))]
            for points, why, lost in zip(self.points.tolist(), self.reasons.tolist(), self.lost.tolist(), strict=True)
        ]

    def _reason(self, index: int, lost: int) -> tuple[int | str, int | str]:
        return (self.names[index], lost) if index >= 0 else ("", "")


def explain(own: OwnModel, codes: IntArray, opened: Mapping[str, DimensionPoints], rules: Scorecard) -> Explanation:
    """The explanation of each row at the label owner: reasons by own feature, and by dimension where those are opened.

    Args: codes: own bins, shape (n, d); opened: the providers' points by dimension, empty if they stay with them.
    """
    party = own.points.party
    parts = {party: dimension_points(own, codes, rules), **opened}
    columns = tuple(column for name, part in parts.items() for column in part.qualified(name))
    own_lost = _references(own, rules) - own.points.feature_points(codes)
    lost = np.concatenate([own_lost, *(part.references - part.points for part in opened.values())], axis=1)
    names = [feature.name for feature in own.features]
    names += [name for provider, part in opened.items() for name in part.qualified(provider)]
    order = np.argsort(-lost, axis=1, kind="stable")[:, : rules.reason_codes]
    costs = np.take_along_axis(lost, order, axis=1)
    return Explanation(
        columns,
        np.concatenate([part.points for part in parts.values()], axis=1),
        tuple(names),
        np.where(costs > 0, order, -1),
        costs,
    )


def _references(own: OwnModel, rules: Scorecard) -> IntArray:
    """Points of each own feature's best bin, or their mean over the training rows in whole points; shape (d,)."""
    if rules.reason_reference == "best":
        return np.array([max(feature.points) for feature in own.points.features], dtype=np.int64)
    means = [
        np.average(points.points, weights=feature.rows)
        for points, feature in zip(own.points.features, own.features, strict=True)
    ]
    return round_half_away(np.array(means, dtype=np.float64))
