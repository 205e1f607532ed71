"""Caps that bind while a job runs, at every party."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from protocols.contract import SignedContract
from tests.test_faults import NAMES, Prepared, check_ended

pytestmark = pytest.mark.process


def test_no_party_opens_more_gradients_than_the_contract_allows(tmp_path: Path) -> None:
    prepared = Prepared(tmp_path)
    contract = SignedContract.decode((prepared.out / "bank" / "contract.json").read_bytes()).verify(int(time.time()))
    contract = replace(contract, caps=replace(contract.caps, gradients=2))
    signed = SignedContract(contract, ())
    for name in (*NAMES, "coordinator"):
        signed = signed.signed_by(name, prepared.identity(name))
    for name in NAMES:
        (prepared.out / name / "contract.json").write_bytes(signed.encode())
    prepared.issue(replace(prepared.document(), contract_hash=contract.hash().hex()))
    prepared.job = replace(prepared.job, contract=contract)
    outcome = prepared.run()
    check_ended(outcome, "NOT_CONVERGED", prepared.out)
    assert "gradient budget of 2 " in str(outcome.first["message"])
