"""Export of a party's own part of the scorecard: JSON with a stable form, and one SQL expression.

Both say the same thing as `OwnModel.codes` and `PointsTable.partial_points`, for whoever scores without this program.
A rule is read in the order missing, special values, then ranges or categories, then `other`. docs/scorecard.md
documents the JSON form; tests/party_agent/test_model_export.py plays both against the model.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from party_agent.model import OwnModel
from party_agent.scorecard import WOE_UNIT
from protocols.binning.prebins import FeatureKind, PreBinning
from protocols.binning.table import BinnedFeature
from protocols.errors import DataError

FORMAT = "concordat.scorecard/1"


def to_json(model: OwnModel) -> str:
    """The own part as JSON text, form `FORMAT`; floats are written so that reading them gives the same numbers."""
    document = {
        "format": FORMAT,
        "party": model.points.party,
        "job": model.job,
        "contract": model.contract,
        "scaling": model.points.scaling.to_json(),
        "base_points": model.points.base,
        "intercept": model.intercept,
        "features": [
            {
                "name": feature.name,
                "alias": feature.alias,
                "kind": feature.binning.kind.value,
                "dimension": dimension,
                "coefficient": weight,
                "bins": _bins(feature, points.points),
            }
            for feature, weight, points, dimension in zip(
                model.features, model.weights, model.points.features, model.dimensions, strict=True
            )
        ],
    }
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def to_sql(model: OwnModel) -> str:
    """This party's addend of the score as one expression of standard SQL over its own columns, the base included.

    A missing value is NULL, or for a categorical column blank text too. Numbers are written as approximate literals
    (`1.5E0`), so that a database compares in double precision as the model does.
    Raises: DataError: EXPORT_IMPOSSIBLE: a name that SQL text cannot hold.
    """
    terms = [str(model.points.base or 0)]
    terms += [
        _case(feature, points.points) for feature, points in zip(model.features, model.points.features, strict=True)
    ]
    return "\n+ ".join(terms) + "\n"


def _bins(feature: BinnedFeature, points: tuple[int, ...]) -> list[dict[str, Any]]:
    binning, labels = feature.binning, feature.labels()
    return [
        {
            "label": labels[merged],
            "points": points[merged],
            "woe": round(feature.woe[merged] * WOE_UNIT, 4),
            "rows": feature.rows[merged],
            "ranges": _ranges(binning, feature.merge_map, merged),
            "categories": [
                name
                for index, group in enumerate(binning.categories, binning.ordered_bins)
                if feature.merge_map[index] == merged
                for name in group
            ],
            "special": [
                value
                for value, index in zip(binning.special, binning.special_bins, strict=True)
                if feature.merge_map[index] == merged
            ],
            "missing": feature.merge_map[binning.missing_bin] == merged,
            "other": binning.ordered_bins == 0 and feature.merge_map[binning.fallback] == merged,
        }
        for merged in range(len(points))
    ]


def _ranges(binning: PreBinning, merge_map: tuple[int, ...], merged: int) -> list[dict[str, float | None]]:
    """The ranges of a merged bin, above the lower end and up to the upper one; None is no end."""
    lows: list[float | None] = [None, *binning.edges]
    highs: list[float | None] = [*binning.edges, None]
    runs = groupby(range(binning.ordered_bins), key=lambda index: merge_map[index] == merged)
    found = []
    for inside, run in runs:
        members = list(run)
        if inside:
            found.append({"above": lows[members[0]], "up_to": highs[members[-1]]})
    return found


def _case(feature: BinnedFeature, points: tuple[int, ...]) -> str:
    binning = feature.binning
    worth = [points[merged] for merged in feature.merge_map]  # of each pre-bin
    column = _quoted(feature.name, '"')
    if binning.kind is FeatureKind.NUMERIC:
        missing = f"{column} IS NULL"
        rules = [
            (f"{column} = {_number(value)}", worth[index])
            for value, index in zip(binning.special, binning.special_bins, strict=True)
        ]
        ends = [(edge, worth[index]) for index, edge in enumerate(binning.edges)]
        for value, run in groupby(ends, key=lambda end: end[1]):
            rules.append((f"{column} <= {_number(list(run)[-1][0])}", value))
        last = worth[binning.ordered_bins - 1] if binning.ordered_bins else worth[binning.fallback]
    else:
        text = f"TRIM(CAST({column} AS VARCHAR))"
        missing = f"{column} IS NULL OR {text} = ''"
        groups = list(zip(binning.categories, worth[binning.ordered_bins :], strict=False))
        groups += [((str(v),), worth[i]) for v, i in zip(binning.special, binning.special_bins, strict=True)]
        rules = [
            (f"{text} IN ({', '.join(_quoted(name, chr(39)) for name in names)})", value)
            for names, value in groups
            if names
        ]
        last = worth[binning.fallback]
    lines = [f"CASE WHEN {missing} THEN {worth[binning.missing_bin]}"]
    lines += [f"  WHEN {condition} THEN {value}" for condition, value in rules]
    return "\n".join([*lines, f"  ELSE {last} END"])


def _number(value: float | str) -> str:
    """An approximate literal; a decimal one would be compared in decimals."""
    text = repr(float(value))
    return text.upper() if "e" in text else f"{text}E0"


def _quoted(name: str, mark: str) -> str:
    if "\0" in name:
        raise DataError(
            "EXPORT_IMPOSSIBLE",
            "a column or a category has a NUL character, which SQL text cannot hold",
            "export as json, or clean the column and train again",
        )
    return mark + name.replace(mark, 2 * mark) + mark
