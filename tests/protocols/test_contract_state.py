"""A contract's life follows from signed documents alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.contract import Caps, Contract, DataSet, JobKind, Member, SignedContract
from protocols.contract_state import ContractEvent, ContractState, EventKind, SignedEvent, check_active, state_of
from protocols.errors import ContractViolationError

NAMES = ("bank", "bureau", "coordinator")
ROLES = ("label owner", "feature provider", "coordinator")
KEYS = {name: Ed25519PrivateKey.generate() for name in NAMES}
NOW = 1_000_000


def _contract(**changes: object) -> Contract:
    members = tuple(
        Member(name, role, KEYS[name].public_key().public_bytes_raw().hex())
        for name, role in zip(NAMES, ROLES, strict=True)
    )
    contract = Contract("c1", members, "a test", Caps(), (), NOW - 10, NOW + 1000)
    return replace(contract, **changes)  # type: ignore[arg-type]


def _signed(contract: Contract, names: tuple[str, ...] = NAMES) -> SignedContract:
    signed = SignedContract(contract, ())
    for name in names:
        signed = signed.signed_by(name, KEYS[name])
    return signed


def _event(contract: Contract, party: str, kind: EventKind, sequence: int = 1) -> SignedEvent:
    return ContractEvent(contract.hash().hex(), party, kind, sequence, NOW, "because").sign(KEYS[party])


def test_a_contract_is_proposed_until_every_member_has_signed() -> None:
    contract = _contract()
    assert state_of(_signed(contract, ("bank", "bureau")), [], NOW) is ContractState.PROPOSED
    assert state_of(_signed(contract), [], NOW) is ContractState.ACTIVE


def test_any_party_suspends_and_only_it_takes_its_suspension_back() -> None:
    contract = _contract()
    signed, suspended = _signed(contract), _event(contract, "bureau", EventKind.SUSPEND)
    assert state_of(signed, [suspended], NOW) is ContractState.SUSPENDED
    other = _event(contract, "bank", EventKind.RESUME)
    assert state_of(signed, [suspended, other], NOW) is ContractState.SUSPENDED
    own = _event(contract, "bureau", EventKind.RESUME, 2)
    assert state_of(signed, [own, suspended], NOW) is ContractState.ACTIVE


def test_a_revoked_contract_stays_revoked() -> None:
    contract = _contract()
    events = [_event(contract, "bank", EventKind.REVOKE), _event(contract, "bank", EventKind.RESUME, 2)]
    with pytest.raises(ContractViolationError) as refused:
        check_active(_signed(contract), events, NOW)
    assert refused.value.code == "CONTRACT_REVOKED"


def test_an_event_held_back_is_noticed() -> None:
    contract = _contract()
    with pytest.raises(ContractViolationError) as refused:
        state_of(_signed(contract), [_event(contract, "bureau", EventKind.RESUME, 2)], NOW)
    assert refused.value.code == "EVENT_MISSING"


def test_the_coordinator_can_neither_suspend_nor_forge() -> None:
    contract = _contract()
    own = _event(contract, "coordinator", EventKind.REVOKE)
    forged = SignedEvent(_event(contract, "bank", EventKind.REVOKE).event, own.signature)
    for event, code in ((own, "NOT_A_MEMBER"), (forged, "EVENT_SIGNATURE_INVALID")):
        with pytest.raises(ContractViolationError) as refused:
            state_of(_signed(contract), [event], NOW)
        assert refused.value.code == code


def test_an_amendment_signed_by_all_supersedes_and_an_unsigned_one_does_not() -> None:
    contract = _contract()
    amended = _contract(version=2, supersedes=contract.hash().hex(), purpose="a wider test")
    assert state_of(_signed(contract), [], NOW, [_signed(amended)]) is ContractState.SUPERSEDED
    with pytest.raises(ContractViolationError):
        state_of(_signed(contract), [], NOW, [_signed(amended, ("bank",))])


def test_a_contract_ends_with_its_validity() -> None:
    assert state_of(_signed(_contract()), [], NOW + 1000) is ContractState.EXPIRED


def test_an_event_survives_its_encoding_and_no_other_form_is_read() -> None:
    event = _event(_contract(), "bureau", EventKind.SUSPEND)
    assert SignedEvent.decode(event.encode()) == event
    for bad in (b"", b"{}", event.encode() + b" ", event.encode().replace(b'"suspend"', b'"pause"'), b"[" * 100_000):
        with pytest.raises(ContractViolationError) as refused:
            SignedEvent.decode(bad)
        assert refused.value.code == "EVENT_MALFORMED"


def test_datasets_name_one_per_party_and_the_label_at_its_owner() -> None:
    bank = DataSet("bank", "loans", "id", "y", ("limit", "age"))
    bureau = DataSet("bureau", "history", "id", "", ("overdue",))
    signed = _signed(_contract(datasets=(bank, bureau)))
    assert SignedContract.decode(signed.encode()) == signed
    for datasets in ((bank,), (bank, replace(bureau, label_column="y")), (replace(bank, label_column=""), bureau)):
        with pytest.raises(ContractViolationError):
            _contract(datasets=datasets)


def test_a_kind_of_job_that_the_contract_leaves_out_is_refused() -> None:
    contract = _contract(algorithms=("align-ecdh", "score-points"))
    contract.check_algorithms(JobKind.SCORE)
    with pytest.raises(ContractViolationError) as refused:
        contract.check_algorithms(JobKind.TRAIN)
    assert refused.value.code == "ALGORITHM_NOT_ALLOWED"
