"""Two models side by side, from one party's own folders: metrics, own features, own points, own partial scores."""

from __future__ import annotations

from typing import Any

from party_agent import lineage, model
from party_agent.model import OwnModel
from party_agent.store import Folder
from party_agent.validation import population_stability
from protocols.model_record import METRIC_UNIT


def compare(first: Folder, second: Folder) -> dict[str, Any]:
    """What differs between the models in two jobs' folders, JSON-ready.

    same_data: whether both jobs read the same rows, None where a folder does not say; parameters: of the recipe, each
    that differs; metrics: name -> [first, second, difference], those of the shared reports; features: own ones that
    only one has, and those that both have; points: of each bin whose points differ, None where one model has no such
    bin; psi: of own partial scores, first to second, by sample, where both folders have them.
    Raises: DataError: MODEL_MISSING, MODEL_UNREADABLE.
    """
    models = (model.read(first), model.read(second))
    names = [{feature.name for feature in own.points.features} for own in models]
    return {
        "jobs": [own.job for own in models],
        "same_data": _same_data(first, second),
        "parameters": _parameters(first, second),
        "metrics": _metrics(first, second),
        "features": {
            "only_first": sorted(names[0] - names[1]),
            "only_second": sorted(names[1] - names[0]),
            "both": sorted(names[0] & names[1]),
        },
        "base_points": [own.points.base for own in models],
        "points": _points(*models),
        "psi": _stability(first, second),
    }


def text(found: dict[str, Any]) -> str:
    """The comparison in words."""
    first, second = found["jobs"]
    lines = [f"{'':24}  {first:>16}  {second:>16}  difference"]
    lines += [
        f"{name:24}  {_figure(a):>16}  {_figure(b):>16}  {_figure(gain)}"
        for name, (a, b, gain) in found["metrics"].items()
    ]
    said = {True: "the same rows", False: "other rows", None: "not known"}
    lines.append(f"own data: {said[found['same_data']]}")
    lines += [f"{row['name']}: {row['first']} -> {row['second']}" for row in found["parameters"]]
    features = found["features"]
    lines.append(f"own features in both: {len(features['both'])}")
    lines += [f"only in {first}: {name}" for name in features["only_first"]]
    lines += [f"only in {second}: {name}" for name in features["only_second"]]
    if found["base_points"][0] != found["base_points"][1]:
        lines.append("base points: {} -> {}".format(*found["base_points"]))
    lines += [f"{row['feature']}, {row['bin']}: {_points_of(row)}" for row in found["points"]]
    lines += [f"PSI of own partial scores, {sample}: {value:.4f}" for sample, value in found["psi"].items()]
    return "\n".join(lines)


def _same_data(first: Folder, second: Folder) -> bool | None:
    if not all((folder.path / lineage.LINEAGE_FILE).exists() for folder in (first, second)):
        return None
    return lineage.read(first)[0] == lineage.read(second)[0]


def _parameters(first: Folder, second: Folder) -> list[dict[str, Any]]:
    left, right = (_flat(folder.read_json("shared.json").get("recipe")) for folder in (first, second))
    names = sorted(name for name in {*left, *right} if left.get(name) != right.get(name))
    return [{"name": name, "first": left.get(name), "second": right.get(name)} for name in names]


def _flat(recipe: Any, under: str = "") -> dict[str, Any]:
    """Parameters by their dotted names."""
    if not isinstance(recipe, dict):
        return {under: recipe} if under else {}
    found: dict[str, Any] = {}
    for name, value in recipe.items():
        found |= _flat(value, f"{under}.{name}" if under else str(name))
    return found


def _metrics(first: Folder, second: Folder) -> dict[str, list[float | None]]:
    left, right = (dict(lineage.opened_metrics(folder.read_json("shared.json"))) for folder in (first, second))
    found: dict[str, list[float | None]] = {}
    for name in sorted({*left, *right}):
        a, b = (None if name not in side else side[name] / METRIC_UNIT for side in (left, right))
        gain = None if a is None or b is None else (right[name] - left[name]) / METRIC_UNIT
        found[name] = [a, b, gain]
    return found


def _points(first: OwnModel, second: OwnModel) -> list[dict[str, Any]]:
    left, right = (
        {feature.name: dict(zip(feature.labels, feature.points, strict=True)) for feature in own.points.features}
        for own in (first, second)
    )
    rows = []
    for name in sorted(left.keys() & right.keys()):
        for label in dict.fromkeys([*left[name], *right[name]]):
            a, b = left[name].get(label), right[name].get(label)
            if a != b:
                rows.append({"feature": name, "bin": label, "first": a, "second": b})
    return rows


def _stability(first: Folder, second: Folder) -> dict[str, float]:
    found = {}
    for sample in ("train", "rest"):
        left, right = (lineage.partial_scores(folder, sample) for folder in (first, second))
        if left is not None and right is not None:
            found[sample] = round(population_stability(left.expanded(), right.expanded()), 4)
    return found


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _points_of(row: dict[str, Any]) -> str:
    return " -> ".join("no such bin" if row[side] is None else f"{row[side]:+d}" for side in ("first", "second"))
