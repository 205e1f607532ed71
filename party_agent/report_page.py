"""The two reports as pages: self-contained HTML with inline CSS and SVG, no script, nothing fetched.

A page is made of the report's JSON alone. Everything that comes from a file or a peer is escaped.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from party_agent.figures import calibration_plot, distribution_plot, ks_plot, roc_plot
from party_agent.notation import MINUS, bin_label, decimals, duration, list_of, percent, small, thousands, trial
from party_agent.report_reading import reading_of
from protocols.disclosure import Nature
from protocols.errors import RemoteProtocolError

if TYPE_CHECKING:
    import jinja2

PARITY_LIMITS = {
    "max_abs_coef_diff": 1e-4,
    "max_abs_pd_diff": 1e-4,
    "max_abs_woe_diff": 0.0,
    "abs_auc_diff": 1e-3,
    "rel_loglik_diff": 1e-6,
    "max_rel_se_diff": 1e-3,
    "max_rel_vif_diff": 1e-3,
}
_PARITY_WORDS = {
    "max_abs_coef_diff": "Largest difference of a coefficient",
    "max_abs_pd_diff": "Largest difference of a predicted default rate",
    "max_abs_woe_diff": "Largest difference of a WOE",
    "abs_auc_diff": "Difference of the AUC",
    "rel_loglik_diff": "Relative difference of the log-likelihood, training sample",
    "max_rel_se_diff": "Largest relative difference of a standard error",
    "max_rel_vif_diff": "Largest relative difference of a variance inflation factor",
}
_STAGES = {  # in the order of the job
    "align": "find the borrowers in common",
    "encrypt": "encrypt the rows",
    "bin": "count goods and bads in bins, choose features",
    "review": "change bins before training",
    "screen": "screen features across parties",
    "train": "fit the coefficients",
    "inference": "find the errors of the coefficients",
    "validate": "judge the scorecard",
    "score": "score borrowers",
    "statement": "agree on this statement",
}
_SAMPLES = {"train": "Training", "test": "Test", "out_of_time": "Out of time"}
_OTHERS = {"test": "test", "out_of_time": "out of time", "rest": "other rows"}
_ALIAS = re.compile(r"(.*?)([0-9]+)")


class _Kind(Enum):
    """Kinds of things a party can learn: columns of the statement's overview."""

    IDS = "Ids in common"
    SCORES = "Scores by borrower"
    BINS = "Counts by bin"
    FIT = "Sums of the fit"
    REPORT = "Report, scorecard"
    SIZES = "Sizes"
    OTHER = "Other"


_IN_WORDS = {  # the ledger's terms in plain words, in the order to read them
    "size of the sender's id set": (_Kind.SIZES, "How many ids the other brought"),
    "which of its own ids the sender holds": (_Kind.IDS, "Which of its own ids the other holds too"),
    "which of its own ids all parties hold": (_Kind.IDS, "Which of its own ids all parties hold"),
    "number of training rows": (_Kind.SIZES, "How many borrowers are in the training sample"),
    "number of features": (_Kind.SIZES, "How many features the other brought"),
    "rows per pre-bin of an aliased feature": (
        _Kind.BINS,
        "How many borrowers fall into each fine bin of a feature whose name and cut-offs it does not see",
    ),
    "bads per pre-bin of an aliased feature": (_Kind.BINS, "How many of those are bad"),
    "order of the pre-bins of an aliased feature": (_Kind.BINS, "How many fine bins of such a feature are in order"),
    "how an aliased feature is to be merged, and whether its owner wants it kept": (
        _Kind.BINS,
        "How its owner wants such a feature merged, and whether it is to be kept",
    ),
    "which aliased features enter the model": (_Kind.SIZES, "Which of those features enter the model"),
    "number of bads in the training sample": (_Kind.BINS, "How many borrowers of the training sample are bad"),
    "WOE per bin of an own feature that was kept (equals its label counts)": (
        _Kind.BINS,
        "How risky each bin of its own kept features is, which tells how many in it are bad",
    ),
    "IV of an own feature that was kept": (_Kind.BINS, "How well each of its own kept features separates"),
    "merge map of an own feature that was kept": (_Kind.BINS, "Which of its own fine bins were joined"),
    "that an own feature was dropped": (_Kind.BINS, "That an own feature was not kept"),
    "that another version of an own feature was refused": (_Kind.BINS, "That other bins of a feature were refused"),
    "number of model features per party": (_Kind.SIZES, "How many features of each party are in the model"),
    "own gradient block": (_Kind.FIT, "Which way to move its own coefficients, at every step"),
    "gradients that earlier jobs opened on the sender's training rows": (
        _Kind.SIZES,
        "How many gradients earlier jobs opened on the other’s training rows",
    ),
    "Gram matrix of the training history, summed over parties": (
        _Kind.FIT,
        "Products of past steps, summed over all coefficients of all parties: how far to move",
    ),
    "the peer's part of the Gram matrix of the training history": (
        _Kind.FIT,
        "Products of past steps, summed over the other's coefficients: how far to move",
    ),
    "range of the logits, in integers (sum of the parties' least and greatest)": (
        _Kind.FIT,
        "Between which whole numbers all logits lie, at every step",
    ),
    "least and greatest partial logit of the peer, in integers": (
        _Kind.FIT,
        "Between which whole numbers the other's part of the logits lies, at every step",
    ),
    "sum of the traces of the preconditioners": (_Kind.FIT, "One number for how alike the features are"),
    "trace of the peer's preconditioner": (_Kind.FIT, "One number for how alike the other's features are"),
    "what sample weights multiply the curvature by, to a power of two": (
        _Kind.FIT,
        "One number for how much the weights of the borrowers change the fit",
    ),
    "period of a batch (whether logits exceed 12), or that the fit has ended": (
        _Kind.FIT,
        "Whether logits are large, and when the fit ends",
    ),
    "exact second moments of own columns and a peer's model features": (
        _Kind.FIT,
        "Sums over borrowers of products of its own and the other's columns",
    ),
    "exact second moments among a peer's model features": (_Kind.FIT, "The same among the other's columns"),
    "exact second moments between model features of two providers": (
        _Kind.FIT,
        "The same between the columns of two others",
    ),
    "which own features the screening across parties keeps": (
        _Kind.FIT,
        "Which of its own features are not too much like others",
    ),
    "penalty, fold and start of a fit of a sequence": (_Kind.FIT, "What kind of fit comes next"),
    "that an own feature is left out of a fit": (_Kind.FIT, "Which of its own features a fit leaves out"),
    "which fit of a sequence is the model": (_Kind.FIT, "Which of the fits is the model"),
    "fold of each training row, drawn at random": (_Kind.FIT, "Into which random part each borrower falls"),
    "label sums of own features over the rows of a fold, or over all": (
        _Kind.FIT,
        "How its own features differ between goods and bads, in each random part",
    ),
    "log-likelihood of a fit over the rows of a fold, or over all": (_Kind.FIT, "How likely the labels are, one fit"),
    "the peer's part of a log-likelihood": (_Kind.FIT, "The other's part of that"),
    "which aliased features have, or would have, a coefficient of which sign": (
        _Kind.FIT,
        "Which of the other's features have a coefficient of the wrong sign",
    ),
    "standard errors of own coefficients": (_Kind.FIT, "How uncertain its own coefficients are"),
    "variance inflation factors of own features": (_Kind.FIT, "How much its own features overlap with all others"),
    "score per row": (_Kind.SCORES, "The total score of every borrower in common"),
    "logit per row, rounded to 0.01": (_Kind.SCORES, "The total logit of every borrower in common"),
    "partial points of the provider's features, per row": (
        _Kind.SCORES,
        "The other's points of every borrower in common (with one provider the total gives them away)",
    ),
    "partial logits of the provider, rounded to 0.01, per row": (
        _Kind.SCORES,
        "The other's part of the logit of every borrower in common",
    ),
    "shared report: metrics, curves, grades, features by alias": (
        _Kind.REPORT,
        "The figures, curves and tables of the shared report",
    ),
    "opened scorecard: names of the provider's model features": (
        _Kind.REPORT,
        "What the other's features in the model are called (opened by the contract)",
    ),
    "opened scorecard: edges (3 digits), WOE and points per bin": (
        _Kind.REPORT,
        "Cut-offs, WOE and points of the other's bins (opened by the contract)",
    ),
    "opened dimensions: names and reference points of the provider's dimensions": (
        _Kind.REPORT,
        "What the other's groups of features are called, and their usual points (opened by the contract)",
    ),
    "opened dimensions: points of the provider by dimension, per row": (
        _Kind.SCORES,
        "The other's points of every borrower, by group of features (opened by the contract)",
    ),
}


def render_shared(report: Mapping[str, Any]) -> str:
    """The shared report as one HTML page.

    Raises: RemoteProtocolError: FRAME_REJECTED: the label owner's document does not have the form of a report.
    """
    import jinja2

    try:
        return _shared_page(report)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, jinja2.TemplateError) as error:
        raise RemoteProtocolError("FRAME_REJECTED", "the shared report is malformed") from error


def _shared_page(report: Mapping[str, Any]) -> str:
    providers = report["parties"]["providers"]
    test = report["metrics"]["test"]
    page = _environment().get_template("shared.html")
    return page.render(
        report=report,
        names=[report["parties"]["label_owner"], *providers],
        test=test,
        samples={name: words for name, words in _SAMPLES.items() if name in report["metrics"]},
        figure_rows=_figure_rows(report["metrics"]),
        opening=_opening(report),
        reading=reading_of(report),
        cards=_cards(report),
        figures=[ks_plot(report), roc_plot(report), calibration_plot(report), distribution_plot(report)],
        worst_rate=_worst_rate(report),
        statement={name: _ledger(rows) for name, rows in report["statement"].items()},
        glance=_glance(report["statement"]),
        chosen={name: _chosen(lines, report["parties"]["label_owner"]) for name, lines in report["features"].items()},
        scorecard=_scorecard(report["scorecard"]),
        parity=_parity(report["parity"]),
        parameters=_parameters(report["recipe"]),
    )


def render_party(report: Mapping[str, Any]) -> str:
    """A party's own report as one HTML page."""
    kept = [feature for feature in report["features"] if feature["kept"]]
    bins = [item for feature in kept for item in feature["bins"]]
    return (
        _environment()
        .get_template("party.html")
        .render(
            report=report,
            judgement=_judgement(report),
            sample_words=_SAMPLES,
            others={name: words for name, words in _OTHERS.items() if any(name in f["psi"] for f in kept)},
            kept=sorted(kept, key=lambda feature: -(feature["iv"] or 0.0)),
            dimensions=_dimensions(kept),
            reversed_signs=sum((feature["coefficient"] or 0.0) > 0 for feature in kept),
            dropped=[
                {**feature, "reason": _why(feature["reason"], "the label owner")}
                for feature in report["features"]
                if not feature["kept"]
            ],
            selection=[
                {**line, "reason": _why(line["reason"], "the label owner") if not line["kept"] else ""}
                for line in sorted(report["selection"], key=lambda x: (x["party"], not x["kept"], -x["iv"]))
            ],
            widest_woe=max((abs(item["woe"]) for item in bins), default=1.0) or 1.0,
            most_rows=max((item["rows"] for item in bins), default=1) or 1,
            learned=_ledger(report["learned"]),
            gave={name: _ledger(rows) for name, rows in report["gave"].items()},
        )
    )


def page(template: str, **context: Any) -> str:
    """A page of another kind, with the filters of the reports."""
    return _environment().get_template(template).render(**context)


@functools.lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        thousands=thousands,
        decimals=decimals,
        percent=percent,
        duration=duration,
        list_of=list_of,
        capitalize_first=lambda text: text[:1].upper() + text[1:],
        signed=lambda value: f"{value:+,}".replace("-", MINUS) if value else "0",
        bin_label=bin_label,
        bad_rate=_bad_rate,
        trial=trial,
        p_value=lambda value: "<0.001" if value < 0.001 else decimals(value),
        amount=lambda value: f"{value:,.{0 if abs(value) >= 1000 else 1}f}".replace("-", MINUS),
        gap=_gap,
        css_text=lambda text: re.sub(r"[^\w .:-]", "", str(text)),
        edge=lambda value: f"{value:,.6g}".replace("-", MINUS),
    )
    return environment


def _opening(report: Mapping[str, Any]) -> str:
    names = [report["parties"]["label_owner"], *report["parties"]["providers"]]
    kept = sum(feature["kept"] for features in report["features"].values() for feature in features)
    return (
        f"Together, {list_of(names)} have {thousands(report['alignment']['rows'])} borrowers in common "
        f"and built one scorecard from {kept} features. Every row stayed with its owner."
    )


def _cards(report: Mapping[str, Any]) -> list[dict[str, str]]:
    metrics = report["metrics"]
    train, test = metrics["train"], metrics["test"]
    low, high = test["auc_interval"]
    psi = metrics["psi"]
    reading = "stable" if psi < 0.1 else ("some shift" if psi <= 0.25 else "shifted")
    late = f"; {metrics['psi_out_of_time']:.3f} to out of time" if "psi_out_of_time" in metrics else ""
    others = f", {thousands(metrics['out_of_time']['n'])} out of time" if "out_of_time" in metrics else ""
    offered = sum(len(features) for features in report["features"].values())
    kept = sum(feature["kept"] for features in report["features"].values() for feature in features)
    return [
        {
            "name": "AUC",
            "value": f"{test['auc']:.3f}",
            "note": f"95 % interval {low:.3f} to {high:.3f}; training {train['auc']:.3f}",
        },
        {
            "name": "KS",
            "value": f"{test['ks']:.3f}",
            "note": f"at score {test['ks_score']}; training {train['ks']:.3f}",
        },
        {"name": "Gini", "value": f"{test['gini']:.3f}", "note": f"training {train['gini']:.3f}"},
        {"name": "Score PSI", "value": f"{psi:.3f}", "note": f"{reading}, training to test{late}"},
        {
            "name": "Borrowers",
            "value": thousands(report["alignment"]["rows"]),
            "note": f"in common; {thousands(train['n'])} training, {thousands(test['n'])} test{others}",
        },
        {"name": "Features", "value": str(kept), "note": f"kept, of {offered} offered"},
    ]


def _figure_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    alone = metrics["baseline"] or {}
    kinds: list[tuple[str, str, Callable[[Any], str]]] = [
        ("Borrowers", "n", thousands),
        ("Bads", "bads", thousands),
        ("Observed bad rate", "bad_rate", percent),
        ("Predicted bad rate", "mean_pd", percent),
        ("AUC", "auc", decimals),
        ("95 % interval of the AUC", "auc_interval", _interval),
        ("KS", "ks", decimals),
        ("95 % interval of the KS", "ks_interval", _interval),
        ("Gini", "gini", decimals),
        ("Log loss", "log_loss", functools.partial(decimals, digits=4)),
        ("Brier score", "brier", functools.partial(decimals, digits=4)),
        ("Calibration test (Hosmer–Lemeshow)", "hosmer_lemeshow", trial),
    ]
    return [
        {
            "name": name,
            "samples": [written(metrics[sample][key]) for sample in _SAMPLES if sample in metrics],
            "alone": written(alone[key]) if key in alone else "",
        }
        for name, key, written in kinds
    ]


def _dimensions(kept: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A party's dimensions, if it has several: their features, and the least and the most points they can give."""
    names = list(dict.fromkeys(feature["dimension"] for feature in kept))
    found = []
    for name in names if len(names) > 1 else ():
        members = [feature for feature in kept if feature["dimension"] == name]
        points = [[item["points"] for item in feature["bins"]] for feature in members]
        found.append(
            {
                "name": name,
                "features": [feature["name"] for feature in members],
                "low": sum(min(values) for values in points),
                "high": sum(max(values) for values in points),
            }
        )
    return found


def _judgement(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The label owner's tables, with what their headings need to know."""
    tables = report["judgement"]
    if tables is None:
        return None
    profits = any(row["expected_profit"] is not None for row in tables["cut_offs"])
    return {**tables, "profits": profits, "together": tables["provider_points"] == "sum"}


def _gap(row: Mapping[str, Any], key: str) -> str:
    """A difference of two AUCs with its interval."""
    value, error = row[key], row[f"{key}_error"]
    if error is None:
        return decimals(value)
    return f"{decimals(value)} ({decimals(value - 1.96 * error)} to {decimals(value + 1.96 * error)})"


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def _bad_rate(cell: Mapping[str, Any]) -> str:
    """The bad rate of a grade; where its count is blurred, the bound that the count allows."""
    if cell["bad_rate"] is not None:
        return percent(cell["bad_rate"])
    if isinstance(cell["n"], int) and isinstance(cell["bads"], str) and cell["bads"].startswith("<"):
        return "<" + percent(min(int(cell["bads"][1:]) / cell["n"], 1.0))
    return "–"


def _ledger(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A party's lines by stage, what was opened apart from what was masked; the same from several sources as one."""
    opened = [row for row in rows if row["nature"] == Nature.OPENED.value]
    masked = [row for row in rows if row["nature"] != Nature.OPENED.value]
    return {
        "opened": _by_stage(opened),
        "masked": _by_stage(masked),
        "opened_numbers": sum(row["numbers"] for row in opened),
        "masked_numbers": sum(row["numbers"] for row in masked),
    }


def _by_stage(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    known = list(_STAGES)
    stages = sorted(
        {row["stage"] for row in rows}, key=lambda stage: (known.index(stage) if stage in known else len(known), stage)
    )
    return [
        {"name": stage, "words": _STAGES.get(stage, ""), "lines": _lines([r for r in rows if r["stage"] == stage])}
        for stage in stages
    ]


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    known = list(_IN_WORDS)
    whats = sorted(
        {row["what"] for row in rows}, key=lambda what: (known.index(what) if what in known else len(known), what)
    )
    lines = []
    for what in whats:
        same = sorted((row for row in rows if row["what"] == what), key=lambda row: row["source"])
        numbers = [row["numbers"] for row in same]
        sources = list_of([row["source"] for row in same])
        if len(same) > 1 and len(set(numbers)) == 1:
            sources += f", {thousands(numbers[0])} each"
        elif len(same) > 1:
            sources = ", ".join(f"{row['source']} {thousands(row['numbers'])}" for row in same)
        _, words = _IN_WORDS.get(what, (_Kind.OTHER, ""))
        words = "" if words.casefold() == what.casefold() else words
        lines.append({"words": words, "what": what, "sources": sources, "numbers": sum(numbers)})
    return lines


def _glance(statement: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """How many numbers opened to each party, by kind; kinds that nobody learned anything of are left out."""
    counts: dict[str, dict[_Kind, int]] = {name: dict.fromkeys(_Kind, 0) for name in statement}
    for name, rows in statement.items():
        for row in rows:
            if row["nature"] == Nature.OPENED.value:
                kind, _ = _IN_WORDS.get(row["what"], (_Kind.OTHER, ""))
                counts[name][kind] += row["numbers"]
    kinds = [kind for kind in _Kind if any(count[kind] for count in counts.values())]
    return {
        "kinds": [kind.value for kind in kinds],
        "parties": {
            name: {"cells": [count[kind] for kind in kinds], "all": sum(count.values())}
            for name, count in counts.items()
        },
    }


def _chosen(lines: Sequence[Mapping[str, Any]], owner: str) -> dict[str, Any]:
    """A party's features as others know them: how many, why some are out, and the aliases in short."""
    out: dict[str, list[str]] = {}
    for line in lines:
        if not line["kept"]:
            out.setdefault(_why(line["reason"], owner), []).append(line["alias"])
    kept = [line["alias"] for line in lines if line["kept"]]
    return {
        "offered": len(lines),
        "kept": len(kept),
        "kept_aliases": _short(kept),
        "out": [{"why": why, "count": len(aliases), "aliases": _short(aliases)} for why, aliases in out.items()],
    }


def _why(reason: str, owner: str) -> str:
    return {
        "correlation": "too much like a stronger feature of the same party",
        "across parties": "too much like other features of the model, whoever’s they are",
        "stepwise": "the model is better without it",
        "sign": "its coefficient has the wrong sign",
        "information value": "separates goods from bads too little",
        "label budget": "beyond the label budget",
        "small bins": "too many features beside bins this small",
        "dropped by the gate": f"not selected by {owner}",
        "": f"not selected by {owner}",
    }.get(reason, reason)


def _short(aliases: Sequence[str]) -> str:
    """Aliases in a row, runs of numbers joined.

    >>> _short(["tax.01", "tax.02", "tax.03", "tax.07"])
    'tax.01–03, 07'
    """
    found = [_ALIAS.fullmatch(alias) for alias in aliases]
    matches = sorted((m for m in found if m), key=lambda m: (m[1], int(m[2])))
    if len(matches) != len(aliases):
        return ", ".join(aliases)
    parts: list[str] = []
    for stem, group in itertools.groupby(matches, key=lambda m: m[1]):
        digits = [m[2] for m in group]
        runs: list[list[str]] = []
        for text in digits:
            if runs and int(text) == int(runs[-1][-1]) + 1:
                runs[-1].append(text)
            else:
                runs.append([text])
        joined = [run[0] if len(run) == 1 else f"{run[0]}{'–' if len(run) > 2 else ', '}{run[-1]}" for run in runs]
        parts.append(stem + ", ".join(joined))
    return ", ".join(parts)


def _scorecard(scorecard: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if scorecard is None:
        return None
    bins = [b for features in scorecard["parties"].values() for feature in features for b in feature["bins"]]
    ranges = [
        [b["points"] for b in feature["bins"]] for features in scorecard["parties"].values() for feature in features
    ]
    return {
        **scorecard,
        "widest": max((abs(b["points"]) for b in bins), default=1) or 1,
        "low": scorecard["base_points"] + sum(min(points) for points in ranges),
        "high": scorecard["base_points"] + sum(max(points) for points in ranges),
    }


def _parity(parity: Mapping[str, Any] | None) -> list[dict[str, str]] | None:
    if parity is None:
        return None
    limits = {**PARITY_LIMITS, **(parity.get("limits") or {})}
    rows = [
        {
            "name": words,
            "value": small(parity[key]),
            "limit": f"at most {small(limits[key])}",
            "verdict": "within" if parity[key] <= limits[key] else "outside",
        }
        for key, words in _PARITY_WORDS.items()
        if parity.get(key) is not None
    ]
    if "same_features" in parity:
        same = bool(parity["same_features"])
        verdict = "within" if same else "outside"
        value = "the same" if same else "others"
        rows.append({"name": "Features that are selected", "value": value, "limit": "the same", "verdict": verdict})
    ties = parity.get("points_ties", 0)
    equal = bool(parity["points_equal"])
    rows.append(
        {
            "name": "Points of every bin",
            "value": "equal" if equal else "different",
            "limit": f"equal but for rounding ties ({ties} here)" if ties else "equal",
            "verdict": "within" if equal else "outside",
        }
    )
    return rows


def _worst_rate(report: Mapping[str, Any]) -> float:
    named = [sample for sample in _SAMPLES if sample in report["metrics"]]
    rates = [row[sample]["bad_rate"] or 0.0 for row in report["grades"] for sample in named]
    return max(rates, default=0.0) or 1.0


def _parameters(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The recipe by section, every value as text; sections without a value are left out."""
    loose = {key: value for key, value in recipe.items() if not isinstance(value, Mapping)}
    sections = {"general": loose} | {key: value for key, value in recipe.items() if isinstance(value, Mapping)}
    return [{"name": name, "rows": list(_flat(section))} for name, section in sections.items() if section]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(str(item) for item in value) or "none"
        elif isinstance(value, bool):
            yield f"{prefix}{key}", "yes" if value else "no"
        elif value is None:
            yield f"{prefix}{key}", "not set"
        else:
            yield f"{prefix}{key}", f"{value:,}" if isinstance(value, int) else str(value)
