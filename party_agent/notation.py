"""How numbers, bins and lists of names are written in a report, in its sentences, tables and figures alike."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

MINUS = "\u2212"
NBSP = "\u00a0"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_INTERVAL = re.compile(r"\((-inf|-?[\d.e+-]+), (inf|-?[\d.e+-]+)[\])]")


def thousands(value: float | str | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:,}".replace("-", MINUS)


def decimals(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}{NBSP}%"


def trial(test: Mapping[str, Any] | None) -> str:
    """A test's statistic, freedom and p-value: 'χ² 7.90, 10 df, p 0.64', 'z 6.10, p < 0.0001'."""
    if test is None:
        return "–"
    p = f"p{NBSP}<{NBSP}0.0001" if test["p"] < 1e-4 else f"p{NBSP}{test['p']:.2g}"
    if test["freedom"] is None:
        return f"z{NBSP}{decimals(test['statistic'], 2)}, {p}"
    return f"χ²{NBSP}{decimals(test['statistic'], 2)}, {test['freedom']}{NBSP}df, {p}"


def small(value: float) -> str:
    """Two digits of a small number: '3.1 × 10⁻⁵'."""
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if power >= -3:
        return f"{value:.4g}"
    return f"{value / 10**power:.2g}{NBSP}×{NBSP}10{str(power).translate(_SUPERSCRIPT)}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{NBSP}min {rest}{NBSP}s"


def bin_label(label: str) -> str:
    """An interval as people write it: '(-inf, 3.5]' as '≤ 3.5', '(3.5, 8]' as '3.5 – 8', above the lower edge only."""
    if label.startswith("{") and "}" in label:  # categories, named as in the file; what joined them after the brace
        names, _, rest = label[1:].rpartition("}")
        return names + rest.replace(", ", "; ")
    return _INTERVAL.sub(_interval_in_words, label)


def _interval_in_words(found: re.Match[str]) -> str:
    low, high = (edge.replace("-", MINUS) for edge in found.groups())
    if low == f"{MINUS}inf":
        return "any number" if high == "inf" else f"≤{NBSP}{high}"
    return f">{NBSP}{low}" if high == "inf" else f"{low}{NBSP}–{NBSP}{high}"


def list_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
