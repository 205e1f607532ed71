"""What a finished run prints: the verdict, the figures, what each party learned, and where the reports are."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from coordinator.simulate import Outcome

_VERDICTS = {"gain": "green", "open": "yellow", "loss": "red"}
_WIDEST = 96


def print_summary(report: dict[str, Any], out: Path, outcome: Outcome) -> None:
    """What a banker wants to know, in a few lines."""
    console = Console(highlight=False)

    def say(text: str = "", style: str | None = None) -> None:
        console.print(text, style=style, markup=False, soft_wrap=True)

    def fact(name: str, value: str) -> None:
        say(f"{name:<23} {value}")

    width = min(console.width, _WIDEST)
    metrics, reading = report["metrics"], report["reading"]
    names = [report["parties"]["label_owner"], *report["parties"]["providers"]]
    say()
    say(f"Joint scorecard of {', '.join(names[:-1])} and {names[-1]}", "bold")
    say()
    say(textwrap.fill(reading["headline"], width), _VERDICTS.get(reading["verdict"]))
    say(textwrap.fill(reading["sentences"][0], width))
    for caution in reading["cautions"]:
        say(textwrap.fill(f"Note: {caution}", width, subsequent_indent=" " * 6))
    say()
    say(f"{'':<30}{'AUC':>8}{'KS':>8}{'Gini':>8}", "dim")
    lines = [("joint scorecard, test", metrics["test"]), ("joint scorecard, training", metrics["train"])]
    if metrics["baseline"]:
        lines.insert(0, (f"{names[0]} alone, test", metrics["baseline"]))
    for name, figures in lines:
        say(f"{name:<30}{figures['auc']:>8.3f}{figures['ks']:>8.3f}{figures['gini']:>8.3f}")
    say()
    rows, n = report["alignment"]["rows"], report["training"]["n"]
    after = metrics.get("out_of_time", {}).get("n", 0)
    late = f", {after:,} out of time" if after else ""
    fact("Borrowers in common", f"{rows:,}: {n:,} to train, {rows - n - after:,} to test{late}")
    kept = {name: sum(line["kept"] for line in lines) for name, lines in report["features"].items()}
    offered = sum(len(lines) for lines in report["features"].values())
    fact("Features in the model", f"{sum(kept.values())} of {offered}: {_each(kept)}")
    opened = {
        name: sum(line["numbers"] for line in lines if line["nature"] == "opened")
        for name, lines in report["statement"].items()
    }
    fact("Numbers each learned", _each(opened))
    if report["parity"]:
        _say_parity(report["parity"], fact)
    training = report["training"]
    passes, fits = training["passes"], training.get("fits", 1)
    fact(
        "How it was computed",
        f"{outcome.seconds:.0f} s, {report['keys']['bits']}-bit keys, {training['iterations']} gradients"
        f"{f' of {fits} fits' if fits > 1 else ''} in {passes} encrypted {'pass' if passes == 1 else 'passes'}",
    )
    fact("Through the coordinator", f"{outcome.relayed_bytes / 1e6:,.0f} MB, of which it could read nothing")
    say()
    fact("Report for everybody", str(out / "report.html"))
    for name in names:
        fact(f"For {name} only", str(out / name / "report.html"))


def _say_parity(parity: dict[str, Any], fact: Callable[[str, str], None]) -> None:
    """How far the joint scorecard is from the one that pooled data would give."""
    ties = ", rounding ties aside" if parity["points_ties"] else ""
    points = f"the same points in every bin{ties}" if parity["points_equal"] else "OTHER POINTS in some bins"
    fact("Beside pooled data", points)
    if "same_features" in parity:
        fact("", "a search keeps the same features" if parity["same_features"] else "A SEARCH KEEPS OTHER FEATURES")
    fact("", f"coefficients differ by {parity['max_abs_coef_diff']:.6f} at most,")
    fact("", f"default rates by {100 * parity['max_abs_pd_diff']:.5f} percentage points at most")


def _each(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
