"""Pictures of the shared report and of bins, by matplotlib, which the extra `notebook` brings."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pandas as pd

from party_agent.notebook.cells import InputError
from protocols.errors import DataError

BADS, GOODS = "#b3261e", "#2f6f4f"


def roc(report: Mapping[str, Any], ax: Any) -> Any:
    """Of every sample in the report, with the AUC."""
    ax = _axes(ax)
    for sample, points in report["curves"].items():
        goods, bads = ([point[key] for point in points] for key in ("goods", "bads"))
        label = f"{sample}, AUC {report['metrics'][sample]['auc']:.3f}"
        ax.plot(goods, bads, "--" if sample == "train" else "-", label=label)
    ax.plot([0, 1], [0, 1], ":", color="grey")
    return _named(ax, "ROC", "share of goods", "share of bads")


def ks(report: Mapping[str, Any], ax: Any, sample: str) -> Any:
    """Cumulated shares of one sample, riskiest first."""
    points, metrics = _of(report["curves"], sample), report["metrics"][sample]
    ax = _axes(ax)
    rows = [point["rows"] for point in points]
    ax.plot(rows, [point["bads"] for point in points], color=BADS, label="bads")
    ax.plot(rows, [point["goods"] for point in points], color=GOODS, label="goods")
    text = f"KS {metrics['ks']:.3f}, at a score of {metrics['ks_score']}"
    ax.axvline(metrics["ks_share"], linestyle=":", color="grey", label=text)
    return _named(ax, f"Kolmogorov-Smirnov, {sample}", "share of rows, riskiest first", "cumulated share")


def calibration(report: Mapping[str, Any], ax: Any, sample: str) -> Any:
    """Observed rate by predicted risk, one sample."""
    groups = _of(report["calibration"], sample)
    ax = _axes(ax)
    predicted, observed = ([group[key] for group in groups] for key in ("mean_pd", "observed"))
    top = max(*predicted, *observed)
    ax.plot([0, top], [0, top], ":", color="grey", label="as predicted")
    ax.plot(predicted, observed, "o-", color=BADS, label="observed")
    return _named(ax, f"Calibration, {sample}", "mean probability of default", "observed rate of bads")


def score_distribution(report: Mapping[str, Any], ax: Any, sample: str) -> Any:
    """Counts by score; a count that the report blurs is left out."""
    counts = _of(report["distribution"], sample)
    ax = _axes(ax)
    edges = counts["edges"]
    widths = [high - low for low, high in pairwise(edges)]
    below = [0] * len(widths)
    hidden = 0
    for name, colour in (("goods", GOODS), ("bads", BADS)):
        shown = [count if isinstance(count, int) else 0 for count in counts[name]]
        hidden += sum(not isinstance(count, int) for count in counts[name])
        ax.bar(edges[:-1], shown, widths, bottom=below, align="edge", color=colour, edgecolor="white", label=name)
        below = [first + second for first, second in zip(below, shown, strict=True)]
    note = f" ({hidden} small counts hidden)" if hidden else ""
    return _named(ax, f"Scores, {sample}{note}", "score", "rows")


def woe(feature: str, table: pd.DataFrame, ax: Any) -> Any:
    """Of each bin, in the order of the table."""
    ax = _axes(ax)
    places = range(len(table))
    ax.bar(places, table["woe"], color=[GOODS if value >= 0 else BADS for value in table["woe"]])
    ax.set_xticks(list(places), table["bin"], rotation=30, ha="right")
    ax.axhline(0, color="grey", linewidth=0.8)
    ax.set(title=feature, ylabel="weight of evidence")
    return ax


def _of(figures: Mapping[str, Any], sample: str) -> Any:
    if sample not in figures:
        raise InputError("SAMPLE_UNKNOWN", "the report has no such sample", f"choose one of {', '.join(figures)}")
    return figures[sample]


def _axes(ax: Any) -> Any:
    """The axes given, or those of a new figure. Raises: DataError: EXTRA_MISSING."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise DataError("EXTRA_MISSING", "matplotlib is not installed", "pip install 'concordat[notebook]'") from error
    return pyplot.subplots(layout="constrained")[1]


def _named(ax: Any, title: str, x_name: str, y_name: str) -> Any:
    ax.set(title=title, xlabel=x_name, ylabel=y_name)
    ax.legend(frameon=False)
    return ax
