"""The two pages: all that the documents say, nothing fetched or run, and no text that becomes markup."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import protocols
from party_agent.notation import bin_label
from party_agent.report_page import _IN_WORDS, _chosen, _glance, _ledger, render_party, render_shared
from tests.party_agent.html_page import Page
from tests.party_agent.made_up_job import LEDGER, PARITY, PARTIES, TABLES, made_up_party_report, made_up_report


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return made_up_report()


@pytest.fixture(scope="module")
def page(report: dict[str, Any]) -> Page:
    return Page(render_shared({**report, "parity": PARITY}))


def test_the_page_is_the_same_from_the_file_as_from_memory(report: dict[str, Any]) -> None:
    assert render_shared(json.loads(json.dumps(report))) == render_shared(report)


def test_the_page_shows_every_line_of_the_statement(page: Page) -> None:
    for line in LEDGER:
        assert line.what.casefold() in page.text.casefold()
        assert re.search(rf"(?<![\d,]){line.numbers:,}(?!,?\d)", page.text)


def test_masked_lines_are_folded_and_opened_ones_are_not(report: dict[str, Any]) -> None:
    text = render_shared(report)
    folded = " ".join(re.findall(r"<details>.*?</details>", text, flags=re.DOTALL)).casefold()
    for line in LEDGER:
        what = line.what.replace("'", "&#39;").casefold()
        assert (what in folded) == (line.nature == "masked")


def test_one_thing_learned_from_several_parties_is_one_line_with_the_sum() -> None:
    account = _ledger(made_up_report()["statement"]["bank"])
    lines = {line["what"]: line for stage in account["opened"] for line in stage["lines"]}
    bads = lines["bads per pre-bin of an aliased feature"]
    assert (bads["sources"], bads["numbers"], bads["words"]) == ("bureau 142, tax 96", 238, "How many of those are bad")
    assert lines["size of the sender's id set"]["sources"] == "bureau and tax, 1 each"
    assert [stage["name"] for stage in account["opened"]] == ["align", "bin", "train", "validate"]


def test_the_overview_of_the_statement_counts_every_opened_number_once(report: dict[str, Any]) -> None:
    overview = _glance(report["statement"])
    for party, row in overview["parties"].items():
        opened = sum(line.numbers for line in LEDGER if line.to == party and line.nature == "opened")
        assert sum(row["cells"]) == row["all"] == opened
    assert overview["kinds"][-1] == "Other"  # a term that has no plain words is not lost
    assert overview["parties"]["coordinator"]["all"] == 14


def test_every_term_that_a_party_can_learn_has_plain_words() -> None:
    terms = set()
    for path in Path(protocols.__file__).parent.rglob("*.py"):
        for call in re.findall(r"(?:Learned|_opened|_part)\(\s*f?([\"'])(.+?)\1,([^\n]*)", path.read_text("utf-8")):
            if "MASKED" not in call[2] and "{" not in call[1]:
                terms.add(call[1])
    terms -= {"rows per pre-bin"}  # an example in a docstring
    assert len(terms) >= 25
    assert terms - set(_IN_WORDS) == set()


def test_dropped_features_are_counted_by_reason_and_named_in_short() -> None:
    lines = [{"alias": f"tax.{k:02d}", "kept": k < 4, "reason": "" if k < 4 else "correlation"} for k in range(1, 9)]
    lines[7]["reason"] = "dropped by the gate"
    part = _chosen(lines, "bank")
    assert (part["offered"], part["kept"], part["kept_aliases"]) == (8, 3, "tax.01–03")
    assert part["out"] == [
        {"why": "too much like a stronger feature of the same party", "count": 4, "aliases": "tax.04–07"},
        {"why": "not selected by bank", "count": 1, "aliases": "tax.08"},
    ]


def test_a_coefficient_of_the_opposite_sign_is_pointed_out() -> None:
    own = made_up_party_report()
    assert "opposite sign" not in Page(render_party(own)).text
    own["features"][1]["coefficient"] = 0.4
    assert "† 1 coefficient has the opposite sign" in Page(render_party(own)).text


def test_the_scorecard_is_on_the_page_only_if_the_contract_opens_it() -> None:
    closed, opened = render_shared(made_up_report(opened=False)), render_shared(made_up_report())
    for name in ("worst_arrears_24m", "taxpayer_class", "行业"):
        assert name in opened
        assert name not in closed


def test_every_bin_of_the_opened_scorecard_is_shown_with_its_points(page: Page) -> None:
    shown = list(page.texts)
    for table in TABLES.values():
        for feature in table.features:
            assert feature.name in shown
            for label, points in zip(feature.labels, feature.points, strict=True):
                at = [
                    i
                    for i, text in enumerate(shown)
                    if text.replace("\u00a0", " ") == bin_label(label).replace("\u00a0", " ")
                ]
                written = f"{points:+d}".replace("-", "−")
                assert any(written in shown[i + 1 : i + 4] for i in at)


def test_parity_within_and_outside_its_limits_is_told_apart(report: dict[str, Any]) -> None:
    def verdicts(parity: dict[str, Any]) -> list[str]:
        text = render_shared({**report, "parity": parity})
        return re.findall(r'class="verdict (\w+)"', text)

    assert verdicts(PARITY) == ["within"] * 5
    assert verdicts({**PARITY, "max_abs_coef_diff": 2e-4, "points_equal": False}) == [
        "outside",
        *["within"] * 3,
        "outside",
    ]
    assert verdicts({**PARITY, "max_abs_coef_diff": 2e-4, "limits": {"max_abs_coef_diff": 1e-3}}) == ["within"] * 5
    assert "verdict" not in re.sub(r"<style>.*?</style>", "", render_shared(report), flags=re.DOTALL)


@pytest.mark.parametrize(
    "text",
    [
        render_shared({**made_up_report(), "parity": PARITY}),
        *(render_party(made_up_party_report(name)) for name in PARTIES.all),
    ],
)
def test_a_page_fetches_nothing_and_runs_nothing(text: str) -> None:
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}
        assert not any(name.startswith("on") for name in attributes)
        assert not attributes.keys() & {"src", "srcset", "xlink:href"}
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"url\(|@import|https?://", text)
    assert "charset" in page.tags[2][1]


def test_text_from_files_and_peers_never_becomes_markup() -> None:
    evil = '"><script>alert(1)</script><b onclick=x>&'
    shared = json.loads(json.dumps(made_up_report()))
    shared["job"] = evil
    shared["recipe"][evil] = evil
    shared["versions"][evil] = evil
    shared["features"]["bureau"][0]["alias"] = evil
    shared["features"]["bureau"][5]["reason"] = evil
    shared["scorecard"]["parties"]["tax"][0]["name"] = evil
    shared["scorecard"]["parties"]["tax"][0]["bins"][0]["label"] = evil
    shared["statement"]["tax"][0]["what"] = evil
    shared["findings"][0]["sentence"] = evil
    own = json.loads(json.dumps(made_up_party_report("bank")))
    own["features"][0]["name"] = own["features"][0]["bins"][0]["label"] = own["features"][-1]["name"] = evil
    own["selection"][0]["reason"] = own["findings"][0]["sentence"] = evil
    for text, least in ((render_shared(shared), 10), (render_party(own), 5)):
        page = Page(text)
        assert not any(tag == "script" or "onclick" in attributes for tag, attributes in page.tags)
        assert text.count("&lt;script&gt;") >= least


def test_a_partys_page_has_its_own_bins_points_and_account(report: dict[str, Any]) -> None:
    own = made_up_party_report("bureau")
    text = Page(render_party(own)).text
    for feature in own["features"][:-1]:
        assert feature["name"] in text
    assert "postcode_risk" in text
    assert {row["source"] for row in own["learned"]} == {"bank", "tax", "bureau"}
    assert set(own["gave"]) == {"bank"}
    assert (
        sum(row["numbers"] for row in own["gave"]["bank"] if row["nature"] == "opened") == 9120 + 1 + 284 + 406 + 6072
    )
    assert own["selection"] == []
    assert "IV below 0.02" not in text


def test_only_the_label_owners_page_has_the_record_of_the_selection() -> None:
    own = made_up_party_report("bank")
    assert own["selection"] == [
        {"party": "bureau", "alias": "bureau-7", "iv": 0.0131, "kept": False, "reason": "IV below 0.02"}
    ]
    text = Page(render_party(own)).text
    assert "0.013" in text
    assert f"Every score starts at {TABLES['bank'].base} points" in text
