"""Moments that opened stay opened: over processes, contracts apart, all of a request or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from party_agent.opened_moments import FileOpenedMoments
from protocols.errors import ContractViolationError


def test_what_was_opened_is_known_to_the_next_process_and_only_under_its_contract_and_kind(tmp_path: Path) -> None:
    path = tmp_path / "opened-moments.jsonl"
    FileOpenedMoments(path).spend("aa", "weighted", ["age", 'a "quoted"\nname'])
    later = FileOpenedMoments(path)
    assert later.spent("aa", "weighted", ["income", 'a "quoted"\nname'])
    assert not later.spent("aa", "plain", ["age"])
    assert not later.spent("bb", "weighted", ["age"])
    assert path.stat().st_mode & 0o077 == 0


def test_a_request_with_one_opened_feature_is_refused_whole(tmp_path: Path) -> None:
    opened = FileOpenedMoments(tmp_path / "opened-moments.jsonl")
    opened.spend("aa", "weighted", ["age"])
    with pytest.raises(ContractViolationError, match="MOMENTS_SPENT"):
        opened.spend("aa", "weighted", ["income", "age"])
    assert not opened.spent("aa", "weighted", ["income"])


def test_a_line_that_a_loss_of_power_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "opened-moments.jsonl"
    opened = FileOpenedMoments(path)
    opened.spend("aa", "weighted", ["age"])
    path.write_text(path.read_text() + '["aa", "weigh')
    opened.spend("aa", "weighted", ["income"])
    assert opened.spent("aa", "weighted", ["age"])
    assert opened.spent("aa", "weighted", ["income"])
