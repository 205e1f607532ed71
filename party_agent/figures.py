"""The figures of the shared report: geometry here, drawn as inline SVG by templates/figure.html.

A plot is made of the shared report's JSON alone, in which small counts are blurred already.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from party_agent.notation import NBSP, percent, thousands


@dataclass(frozen=True)
class _Mark:
    """An SVG element."""

    tag: str
    attributes: Mapping[str, Any]
    text: str = ""
    title: str = ""


class Plot:
    """A plot on a canvas of 480 x 320; `x` and `y` turn values into positions."""

    WIDTH, HEIGHT = 480, 320
    LEFT, RIGHT, TOP, BOTTOM = 48, 20, 32, 46

    def __init__(
        self,
        title: str,
        caption: str,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        x_name: str,
        y_name: str,
    ) -> None:
        self.title, self.caption = title, caption
        self._x, self._y = x_range, y_range
        self.marks: list[_Mark] = []
        self.text(self.x(sum(x_range) / 2), self.HEIGHT - 8, x_name, "axis-name", "middle")
        self.text(0, 14, y_name, "axis-name")

    def x(self, value: float) -> float:
        low, high = self._x
        return round(self.LEFT + (value - low) / (high - low) * (self.WIDTH - self.LEFT - self.RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self._y
        span = self.HEIGHT - self.TOP - self.BOTTOM
        return round(self.HEIGHT - self.BOTTOM - (value - low) / (high - low) * span, 1)

    def add(self, tag: str, text: str = "", title: str = "", **attributes: Any) -> None:
        self.marks.append(_Mark(tag, attributes, text, title))

    def text(self, x: float, y: float, text: str, style: str, anchor: str = "start") -> None:
        self.add("text", text, x=x, y=y, **_styled(style, anchor))

    def x_ticks(self, ticks: Iterable[tuple[float, str]]) -> None:
        for value, label in ticks:
            self.text(self.x(value), self.HEIGHT - self.BOTTOM + 17, label, "tick", "middle")

    def y_ticks(self, ticks: Iterable[tuple[float, str]]) -> None:
        for value, label in ticks:
            y = self.y(value)
            style = "baseline" if value == self._y[0] else "grid"
            self.add("line", x1=self.LEFT, x2=self.WIDTH - self.RIGHT, y1=y, y2=y, **_styled(style))
            self.text(self.LEFT - 7, y + 4, label, "tick", "end")

    def line(self, points: Sequence[tuple[float, float]], style: str, title: str = "") -> None:
        self.add("path", title=title, d=self._d(points), **_styled(style))

    def area(self, points: Sequence[tuple[float, float]], style: str) -> None:
        self.add("path", d=self._d(points) + "Z", **_styled(style))

    def _d(self, points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{self.x(x)},{self.y(y)}" for x, y in points)


def _styled(style: str, anchor: str = "") -> dict[str, str]:
    return {"class": style, "text-anchor": anchor} if anchor else {"class": style}


_SHARES = [(share / 100, f"{share}{NBSP}%") for share in range(0, 101, 20)]


def ks_plot(report: Mapping[str, Any]) -> Plot:
    curve, test = report["curves"]["test"], report["metrics"]["test"]
    plot = Plot(
        "Separation (KS)",
        "Test sample. Going from the riskiest borrower to the safest, the share of all bads and of all goods met. "
        f"They are furthest apart, by {test['ks']:.3f}, at a score of {test['ks_score']}.",
        (0, 1),
        (0, 1),
        "Borrowers, riskiest first",
        "Share of class met so far",
    )
    plot.y_ticks(_SHARES)
    plot.x_ticks(_SHARES)
    bads = [(point["rows"], point["bads"]) for point in curve]
    goods = [(point["rows"], point["goods"]) for point in curve]
    plot.area(bads + goods[::-1], "gap")
    plot.line(goods, "curve good", "goods")
    plot.line(bads, "curve bad", "bads")
    widest = min(curve, key=lambda point: abs(point["rows"] - test["ks_share"]))
    x = plot.x(widest["rows"])
    low, high = plot.y(widest["goods"]), plot.y(widest["bads"])
    plot.add("line", x1=x, x2=x, y1=low, y2=high, **_styled("bracket"))
    for y in (low, high):
        plot.add("circle", cx=x, cy=y, r=3.2, **_styled("knob"))
    plot.text(x + 8, (low + high) / 2 + 4, f"KS {test['ks']:.3f}", "label strong")
    over = curve[min(range(len(curve)), key=lambda i: abs(curve[i]["rows"] - min(widest["rows"] + 0.16, 0.8)))]
    plot.text(plot.x(over["rows"]), plot.y(over["bads"]) - 9, "bads", "label bad-text", "end")
    under = curve[min(range(len(curve)), key=lambda i: abs(curve[i]["rows"] - 0.7))]
    plot.text(plot.x(under["rows"]) + 8, plot.y(under["goods"]) + 16, "goods", "label good-text")
    return plot


def roc_plot(report: Mapping[str, Any]) -> Plot:
    metrics, curves = report["metrics"], report["curves"]
    plot = Plot(
        "ROC",
        "Share of bads against share of goods below each possible cut-off. The diagonal is chance. "
        "Curves are drawn from points at least 1 % of the borrowers apart.",
        (0, 1),
        (0, 1),
        "Goods below the cut-off",
        "Bads below the cut-off",
    )
    plot.y_ticks(_SHARES)
    plot.x_ticks(_SHARES)
    plot.line([(0, 0), (1, 1)], "chance")
    train, test = ([(point["goods"], point["bads"]) for point in curves[sample]] for sample in ("train", "test"))
    plot.area([*test, (1, 0)], "under")
    plot.line(train, "curve reference", "training")
    plot.line(test, "curve good", "test")
    x, y = plot.x(0.42), plot.y(0.22)
    plot.line([(0.42, 0.235), (0.49, 0.235)], "curve good")
    plot.line([(0.42, 0.155), (0.49, 0.155)], "curve reference")
    plot.text(x + 37, y + 1, f"test, AUC {metrics['test']['auc']:.3f}", "label strong")
    plot.text(x + 37, plot.y(0.14), f"training, AUC {metrics['train']['auc']:.3f}", "label")
    return plot


def calibration_plot(report: Mapping[str, Any]) -> Plot:
    rows = report["calibration"]["test"]
    top = max(max(_interval(row)[1], row["mean_pd"]) for row in rows)
    ticks = _ticks(top)
    joined = any(row["tenths"] > 1 for row in rows)
    plot = Plot(
        "Calibration",
        "Test sample in tenths by predicted risk, safest left. Observed bad rates with 95 % intervals."
        + (" Neighbouring tenths with fewer than 5 bads or goods are joined." if joined else ""),
        (0, 10),
        (0, max(ticks[-1], top * 1.02)),
        "Tenths of borrowers, by predicted risk",
        "Bad rate",
    )
    digits = 0 if ticks[-1] >= 0.05 and all(abs(100 * t - round(100 * t)) < 1e-6 for t in ticks) else 1
    plot.y_ticks((tick, percent(tick, digits)) for tick in ticks)
    start = 0
    for row in rows:
        width = row["tenths"]
        left, right = plot.x(start) + 5, plot.x(start + width) - 5
        y, centre = plot.y(row["observed"]), (left + right) / 2
        label = f"{start + 1}" if width == 1 else f"{start + 1}–{start + width}"
        title = f"predicted {percent(row['mean_pd'])}, observed {percent(row['observed'])} of {thousands(row['n'])}"
        plot.add("rect", title=title, x=left, y=y, width=right - left, height=plot.y(0) - y, **_styled("bar good-bar"))
        low, high = _interval(row)
        plot.add("line", x1=centre, x2=centre, y1=plot.y(low), y2=plot.y(high), **_styled("whisker"))
        predicted = plot.y(row["mean_pd"])
        plot.add("line", title=title, x1=left - 3, x2=right + 3, y1=predicted, y2=predicted, **_styled("predicted"))
        plot.text(centre, plot.HEIGHT - plot.BOTTOM + 17, label, "tick", "middle")
        start += width
    x, y = plot.LEFT + 14, plot.TOP + 12
    plot.add("line", x1=x - 8, x2=x + 8, y1=y, y2=y, **_styled("predicted"))
    plot.text(x + 14, y + 4, "predicted", "label")
    plot.add("rect", x=x - 6, y=y + 14, width=12, height=12, **_styled("bar good-bar"))
    plot.text(x + 14, y + 24, "observed", "label")
    return plot


def distribution_plot(report: Mapping[str, Any]) -> Plot:
    data, test = report["distribution"]["test"], report["metrics"]["test"]
    edges = data["edges"]
    totals = {"goods": test["n"] - test["bads"], "bads": test["bads"]}
    shares = {name: _drawn(data[name], total) for name, total in totals.items()}
    hidden = any(isinstance(count, str) for name in totals for count in data[name])
    ticks = _ticks(max(max(values) for values in shares.values()))
    plot = Plot(
        "Score by class",
        "Test sample. Share of each class by score. The outermost bins hold all beyond."
        + (" Counts below 5 are withheld; those bins are drawn as one flat average." if hidden else ""),
        (edges[0], edges[-1]),
        (0, ticks[-1]),
        "Score",
        "Share of class",
    )
    plot.y_ticks((tick, percent(tick, 0)) for tick in ticks)
    step = next(width for width in (5, 10, 20, 25, 50, 100, 200, 500, 10_000) if (edges[-1] - edges[0]) / width <= 8)
    first = math.ceil(edges[0] / step) * step
    plot.x_ticks((score, thousands(score)) for score in range(first, edges[-1] + 1, step))
    for name, style in (("goods", "good"), ("bads", "bad")):
        outline: list[tuple[float, float]] = [(edges[0], 0)]
        for left, right, share in zip(edges, edges[1:], shares[name], strict=False):
            outline += [(left, share), (right, share)]
        outline.append((edges[-1], 0))
        plot.area(outline, f"fill-{style}")
        plot.line(outline, f"curve {style}", name)
        peak = max(range(len(shares[name])), key=lambda i: shares[name][i])
        x, y = plot.x((edges[peak] + edges[peak + 1]) / 2), plot.y(shares[name][peak])
        plot.text(x, max(y - 6, 12), name, f"label {style}-text", "middle")
    return plot


def _drawn(counts: Sequence[int | str], total: int) -> list[float]:
    """Share of a class in each bin; hidden counts get what the shown ones leave, in proportion to their bounds."""
    left = total - sum(count for count in counts if isinstance(count, int))
    bounds = [float(count.lstrip("<>=")) if isinstance(count, str) else 0.0 for count in counts]
    hidden = sum(bounds) or 1.0
    return [
        (count if isinstance(count, int) else left * bound / hidden) / total
        for count, bound in zip(counts, bounds, strict=True)
    ]


def _interval(row: Mapping[str, Any]) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate."""
    n, p, z = row["n"], row["observed"], 1.96
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def _ticks(top: float) -> list[float]:
    """Round values from 0 to the first one not below `top`, four to six of them."""
    raw = max(top, 1e-6) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    return [round(step * index, 10) for index in range(math.ceil(top / step - 1e-9) + 1)]
