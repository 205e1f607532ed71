"""The figures: on their canvas, with round ticks, and right where counts are few or hidden."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from party_agent.figures import _drawn, _interval, _ticks
from party_agent.report import AlignmentSummary, FeatureLine, TrainingSummary, shared_report
from party_agent.report_page import render_shared
from party_agent.scorecard import GradeTable
from party_agent.validation import validate
from protocols.roles import Parties
from tests.party_agent.html_page import Page
from tests.party_agent.made_up_job import SCALING, made_up_report


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return made_up_report()


def test_the_marks_of_every_figure_lie_on_its_canvas(report: dict[str, Any]) -> None:
    svgs = re.findall(r"<svg.*?</svg>", render_shared(report), flags=re.DOTALL)
    assert len(svgs) == 4
    for svg in svgs:
        for x, y in re.findall(r"[ML](-?[\d.]+),(-?[\d.]+)", svg):
            assert 0 <= float(x) <= 480
            assert 0 <= float(y) <= 320
        heights = [float(h) for h in re.findall(r' height="(-?[\d.]+)"', svg)]
        assert all(height >= 0 for height in heights)


def test_the_figures_stand_on_few_bads_and_one_provider() -> None:
    random = np.random.default_rng(9)
    logits = np.round(random.normal(-4.2, 0.8, 1500), 2)
    labels = (random.random(1500) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    labels[:2], labels[-2:] = 1, 1
    scores = np.round(SCALING.offset - SCALING.factor * logits).astype(np.int64)
    training = np.arange(1500) < 1050
    grades = GradeTable.of_training_scores(scores[training])
    weak = shared_report(
        job="j",
        finished="t",
        parties=Parties("bank", ("bureau",)),
        alignment=AlignmentSummary(1500, "ecdh", 0.4, {"bank": 1500, "bureau": 1500}),
        training=TrainingSummary(1050, 12, 75.0),
        validation=validate(labels, logits, scores, training, grades),
        key_bits=2048,
        statement=[],
        features={"bank": [], "bureau": [FeatureLine("bureau-1", True)]},
        grades=grades,
        scaling=SCALING,
        recipe={},
        versions={},
        findings={},
    )
    text = Page(render_shared(weak)).text
    assert "A joint scorecard was built." in text
    assert "1 min 15 s" in text
    assert "<5" in text


def test_the_interval_of_a_rate_is_wilsons() -> None:
    low, high = _interval({"n": 10, "observed": 0.2})
    assert (round(low, 4), round(high, 4)) == (0.0567, 0.5098)  # statsmodels proportion_confint(2, 10, method="wilson")


@pytest.mark.parametrize("top", [0.003, 0.049, 0.2, 0.21, 0.5, 1.0])
def test_ticks_are_round_and_reach_the_top(top: float) -> None:
    ticks = _ticks(top)
    assert ticks[0] == 0
    assert ticks[-2] < top <= ticks[-1]
    assert 3 <= len(ticks) <= 7


def test_hidden_counts_are_drawn_so_that_a_class_adds_up() -> None:
    drawn = _drawn(["<5", 40, "<20", 30], 85)
    assert sum(drawn) == pytest.approx(1.0)
    assert drawn[2] == pytest.approx(4 * drawn[0])
