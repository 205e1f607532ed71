"""What a shared report says in words: the verdict on the partners' data, what the score does, and the cautions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from party_agent.notation import NBSP, decimals, list_of, percent, thousands

LARGE_GAP = 0.04  # of the AUC, training above test
FEW_BADS_A_FEATURE = 10
FEW_TEST_BADS = 100
SHIFTED = 0.1  # score PSI


class Verdict(Enum):
    """What the test sample says of the providers' data, at 95 % confidence."""

    GAIN = "gain"
    OPEN = "open"
    LOSS = "loss"
    NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Reading:
    """The figures in sentences: the verdict, what the score does, and what a careful reader holds against it."""

    verdict: Verdict
    headline: str
    sentences: tuple[str, ...]
    cautions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, in plain spaces, for the terminal."""
        plain = str.maketrans(NBSP, " ")
        return {
            "verdict": self.verdict.value,
            "headline": self.headline.translate(plain),
            "sentences": [sentence.translate(plain) for sentence in self.sentences],
            "cautions": [caution.translate(plain) for caution in self.cautions],
        }


def reading_of(report: Mapping[str, Any]) -> Reading:
    """What the figures of a shared report mean, for someone who lends money."""
    verdict, headline, figures = _verdict(report)
    test = report["metrics"]["test"]
    caught = _caught(report["curves"]["test"], 0.2)
    sentences = (
        figures,
        f"Of one borrower who went bad and one who did not, the score puts the bad one lower "
        f"{round(100 * test['auc'])} times in 100.",
        f"The riskiest {percent(0.2, 0)} of borrowers account for {percent(caught, 0)} of all bads.",
        f"The predicted bad rate is {percent(test['mean_pd'])}, the observed one {percent(test['bad_rate'])}.",
    )
    return Reading(verdict, headline, sentences, tuple(_cautions(report)))


def _verdict(report: Mapping[str, Any]) -> tuple[Verdict, str, str]:
    """The verdict, its headline, and the figures behind it."""
    owner, others = report["parties"]["label_owner"], list_of(report["parties"]["providers"])
    test, baseline = report["metrics"]["test"], report["metrics"]["baseline"]
    sample = f"On {thousands(test['n'])} borrowers kept for testing, {thousands(test['bads'])} of them bad, the AUC is"
    if baseline is None:
        return Verdict.NOT_COMPARED, "A joint scorecard was built.", f"{sample} {test['auc']:.3f}."
    both = (
        f"{sample} {test['auc']:.3f} with the data of {others} and {baseline['auc']:.3f} with {owner}’s columns alone."
    )
    gain, error = baseline.get("gain", test["auc"] - baseline["auc"]), baseline.get("gain_error")
    no_better = f"The joint scorecard is not better than the columns of {owner} alone."
    if error is None:
        headline = f"The data of {others} may help." if gain > 0 else no_better
        return Verdict.OPEN, headline, f"{both} How much of the difference is chance was not computed."
    low, high = gain - 1.96 * error, gain + 1.96 * error
    if high < 0:
        interval = f"(95{NBSP}% interval {decimals(-high)} to {decimals(-low)})"
        headline = f"The joint scorecard is worse than the columns of {owner} alone."
        return Verdict.LOSS, headline, f"{both} The loss of {decimals(-gain)} {interval} is more than chance."
    interval = f"(95{NBSP}% interval {decimals(low)} to {decimals(high)})"
    if low > 0:
        headline = f"The data of {others} help."
        return Verdict.GAIN, headline, f"{both} The gain of {decimals(gain)} {interval} is more than chance."
    headline = f"This test sample does not show that the data of {others} help." if gain > 0 else no_better
    return Verdict.OPEN, headline, f"{both} The difference of {decimals(gain)} {interval} can be chance."


def _cautions(report: Mapping[str, Any]) -> Iterable[str]:
    training = report["training"]
    if not training.get("within_budget", True):
        yield (
            f"The {thousands(training['gradient_budget'])} gradients that rows and recipe allow were spent before the "
            "selection of features ended: the model is the best fit until then. Begin with fewer features, or bring "
            "more rows."
        )
    train, test, psi = (report["metrics"][name] for name in ("train", "test", "psi"))
    gap = train["auc"] - test["auc"]
    if gap > LARGE_GAP:
        yield (
            f"On the training sample the AUC is {train['auc']:.3f}, {gap:.3f} higher: part of the fit is chance. "
            "Expect the test figures."
        )
    kept = sum(feature["kept"] for features in report["features"].values() for feature in features)
    if kept and train["bads"] < FEW_BADS_A_FEATURE * kept:
        yield (
            f"{thousands(train['bads'])} bads trained {kept} features, {train['bads'] / kept:.0f} for each. "
            f"Below {FEW_BADS_A_FEATURE}, coefficients are unsteady: use fewer features, or more bads."
        )
    if test["bads"] < FEW_TEST_BADS:
        yield (
            f"The test sample has {test['bads']} bads: its AUC is known to about ±{1.96 * test['auc_error']:.2f} only."
        )
    if any(item["code"] == "SCREENING_NOT_OPENED" for item in report.get("findings", ())):
        yield (
            "Features were not screened across parties as the recipe asks: exact moments of one of them were opened "
            "before under this contract. Some may repeat each other."
        )
    off, rate = test["mean_pd"] - test["bad_rate"], test["bad_rate"]
    if abs(off) > 1.96 * math.sqrt(rate * (1 - rate) / test["n"]):
        yield (
            f"The predicted bad rate of the test sample, {percent(test['mean_pd'])}, is "
            f"{'above' if off > 0 else 'below'} the observed {percent(rate)} by more than chance."
        )
    late, late_psi = report["metrics"].get("out_of_time"), report["metrics"].get("psi_out_of_time")
    if late is not None and test["auc"] - late["auc"] > LARGE_GAP:
        yield (
            f"On {thousands(late['n'])} later borrowers, out of time, the AUC is {late['auc']:.3f}, against "
            f"{test['auc']:.3f} on the test sample: expect the later figure."
        )
    if late_psi is not None and late_psi >= SHIFTED:
        yield f"The scores of later borrowers differ from the training sample’s (PSI {late_psi:.2f})."
    if psi >= SHIFTED:
        yield f"The scores of the two samples differ (PSI {psi:.2f}; below {SHIFTED} is stable)."


def _caught(curve: Sequence[Mapping[str, Any]], share: float) -> float:
    """Share of bads among the `share` of rows with the highest risk, on the straight line between curve points."""
    for before, after in itertools.pairwise(curve):
        if after["rows"] >= share:
            span = after["rows"] - before["rows"]
            part = (share - before["rows"]) / span if span else 1.0
            return float(before["bads"] + part * (after["bads"] - before["bads"]))
    return 1.0
