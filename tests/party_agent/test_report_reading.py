"""The reading: a gain is claimed only where the figures carry it, and a careful reader is warned."""

from __future__ import annotations

import json
from typing import Any

import pytest

from party_agent.report_page import render_shared
from party_agent.report_reading import reading_of
from tests.party_agent.html_page import Page
from tests.party_agent.made_up_job import PARITY, made_up_report


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return made_up_report()


@pytest.fixture(scope="module")
def page(report: dict[str, Any]) -> Page:
    return Page(render_shared({**report, "parity": PARITY}))


def test_a_banker_reads_first_whether_the_partners_data_help(page: Page, report: dict[str, Any]) -> None:
    auc, alone = report["metrics"]["test"]["auc"], report["metrics"]["baseline"]["auc"]
    sentence = f"the AUC is {auc:.3f} with the data of bureau and tax and {alone:.3f} with bank’s columns alone."
    assert 0 < page.text.index("The data of bureau and tax help.") < page.text.index("Separation (KS)")
    assert sentence in page.text
    assert "On 1,822 borrowers kept for testing" in page.text


def test_without_a_baseline_the_page_claims_no_gain() -> None:
    alone = made_up_report(baseline=False)
    text = Page(render_shared(alone)).text
    assert alone["reading"]["verdict"] == "not compared"
    assert "help" not in text
    assert "columns alone" not in text


@pytest.mark.parametrize(
    ("gain", "error", "verdict", "headline"),
    [
        (0.05, 0.02, "gain", "The data of bureau and tax help."),
        (0.03, 0.02, "open", "This test sample does not show that the data of bureau and tax help."),
        (-0.03, 0.02, "open", "The joint scorecard is not better than the columns of bank alone."),
        (-0.05, 0.02, "loss", "The joint scorecard is worse than the columns of bank alone."),
        (-0.05, None, "open", "The joint scorecard is not better than the columns of bank alone."),
    ],
)
def test_a_gain_is_claimed_only_where_the_test_sample_shows_it(
    report: dict[str, Any], gain: float, error: float | None, verdict: str, headline: str
) -> None:
    other = json.loads(json.dumps(report))
    other["metrics"]["baseline"] |= {"gain": gain, "gain_error": error}
    reading = reading_of(other)
    assert (reading.verdict.value, reading.headline) == (verdict, headline)
    assert headline in Page(render_shared(other)).text
    if verdict == "loss":
        assert "The loss of 0.050 (95\u00a0% interval 0.011 to 0.089) is more than chance." in reading.sentences[0]


def test_a_careful_reader_is_warned_of_what_the_figures_cannot_carry(report: dict[str, Any]) -> None:
    weak = json.loads(json.dumps(report))
    assert reading_of(weak).cautions == ()
    weak["metrics"]["train"] |= {"auc": weak["metrics"]["test"]["auc"] + 0.05, "bads": 110}
    weak["metrics"]["test"] |= {"bads": 60, "mean_pd": 2 * weak["metrics"]["test"]["bad_rate"]}
    weak["metrics"]["psi"] = 0.13
    cautions = " ".join(reading_of(weak).cautions)
    for words in (
        "part of the fit is chance",
        "110 bads trained 12 features, 9 for each",
        "60 bads",
        "above the observed",
    ):
        assert words in cautions
    assert "PSI 0.13" in cautions
    assert "gradients" not in cautions
    weak["training"] |= {"fits": 2, "within_budget": False}
    (spent,) = [caution for caution in reading_of(weak).cautions if "gradients" in caution]
    assert "212 gradients" in spent
    assert "best fit until then" in spent
    assert spent in Page(render_shared(weak)).text
    assert "14 gradients of 2 fits of at most 212" in Page(render_shared(weak)).text
    assert "Read with care" in Page(render_shared(weak)).text
