"""An institution believes its own copies of contracts, and signs none before it has compared identities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from party_agent.contract_store import ContractStore
from party_agent.explanation import explain
from protocols.contract import ALGORITHMS, Caps, Contract, DataSet, Member, SignedContract
from protocols.contract_state import ContractState, EventKind
from protocols.errors import ConcordatError, ContractViolationError

NAMES = ("bank", "bureau", "tax", "coordinator")
ROLES = ("label owner", "feature provider", "feature provider", "coordinator")
KEYS = {name: Ed25519PrivateKey.generate() for name in NAMES}
NOW = 1_000_000


class _Pinned:
    """Identities that were compared out of band."""

    def __init__(self, *names: str) -> None:
        self._identities = {name: KEYS[name].public_key().public_bytes_raw().hex() for name in names}

    def check(self, name: str, identity: str) -> None:
        if self._identities.get(name) != identity:
            raise ContractViolationError("PEER_UNVERIFIED", "a peer's identity was not compared")


def _contract(**changes: object) -> Contract:
    members = tuple(
        Member(name, role, KEYS[name].public_key().public_bytes_raw().hex())
        for name, role in zip(NAMES, ROLES, strict=True)
    )
    return replace(Contract("c1", members, "a test", Caps(), (), NOW - 10, NOW + 1000), **changes)  # type: ignore[arg-type]


def _store(folder: Path, *pinned: str) -> ContractStore:
    return ContractStore(folder, "bank", _Pinned(*pinned))


def _complete(store: ContractStore, contract: Contract) -> SignedContract:
    signed = store.propose(contract, KEYS["bank"])
    for name in NAMES[1:]:
        signed = store.receive(signed.signed_by(name, KEYS[name]))
    return signed


def _refusal(call: object, *arguments: object) -> str:
    with pytest.raises(ConcordatError) as refused:
        call(*arguments)  # type: ignore[operator]
    return refused.value.code


def test_nothing_is_signed_while_a_peer_is_unverified(tmp_path: Path) -> None:
    assert _refusal(_store(tmp_path, "bureau").propose, _contract(), KEYS["bank"]) == "PEER_UNVERIFIED"
    assert list(_store(tmp_path).all()) == []


def test_signatures_that_arrive_one_by_one_bring_a_contract_into_force(tmp_path: Path) -> None:
    store = _store(tmp_path, "bureau", "tax")
    contract = _contract()
    hash_ = contract.hash().hex()
    first = store.propose(contract, KEYS["bank"])
    assert _refusal(store.in_force, hash_, NOW) == "CONTRACT_PROPOSED"
    for name in reversed(NAMES[1:]):
        store.receive(SignedContract(contract, ()).signed_by(name, KEYS[name]))
    assert store.in_force(hash_[:10], NOW) == contract
    assert first.contract == store.get(hash_).contract


def test_a_forged_signature_is_not_kept(tmp_path: Path) -> None:
    store = _store(tmp_path, "bureau", "tax")
    signed = store.propose(_contract(), KEYS["bank"])
    forged = SignedContract(signed.contract, (("bureau", dict(signed.signatures)["bank"]),))
    assert _refusal(store.receive, forged) == "CONTRACT_SIGNATURE_INVALID"
    assert dict(store.get(signed.contract.hash().hex()).signatures).keys() == {"bank"}


def test_a_contract_file_that_was_altered_is_refused(tmp_path: Path) -> None:
    store = _store(tmp_path, "bureau", "tax")
    hash_ = _complete(store, _contract()).contract.hash().hex()
    path = tmp_path / "contracts" / hash_ / "contract.json"
    other = _contract(purpose="another purpose")
    path.write_bytes(SignedContract(other, ()).signed_by("bank", KEYS["bank"]).encode())
    assert _refusal(store.in_force, hash_, NOW) == "CONTRACT_UNKNOWN"


def test_a_suspension_holds_at_once_and_a_second_event_of_one_number_is_a_conflict(tmp_path: Path) -> None:
    store = _store(tmp_path, "bureau", "tax")
    contract = _complete(store, _contract()).contract
    hash_ = contract.hash().hex()
    store.act(contract, EventKind.SUSPEND, "a question", NOW, KEYS["bank"])
    assert _refusal(store.in_force, hash_, NOW) == "CONTRACT_SUSPENDED"
    again = replace(store.events(hash_)[0].event, reason="another story").sign(KEYS["bank"])
    assert _refusal(store.receive_event, again) == "EVENT_CONFLICT"
    store.act(contract, EventKind.RESUME, "answered", NOW, KEYS["bank"])
    assert store.in_force(hash_, NOW) == contract
    store.act(contract, EventKind.REVOKE, "over", NOW, KEYS["bank"])
    assert store.state(store.get(hash_), NOW) is ContractState.REVOKED


def test_an_identity_that_changed_after_signing_closes_the_contract(tmp_path: Path) -> None:
    hash_ = _complete(_store(tmp_path, "bureau", "tax"), _contract()).contract.hash().hex()
    assert _refusal(_store(tmp_path, "bureau").in_force, hash_, NOW) == "PEER_UNVERIFIED"


def test_an_amendment_counts_from_the_last_signature_on(tmp_path: Path) -> None:
    store = _store(tmp_path, "bureau", "tax")
    contract = _complete(store, _contract()).contract
    hash_ = contract.hash().hex()
    amended = _contract(version=2, supersedes=hash_, purpose="a wider test")
    store.propose(amended, KEYS["bank"])
    assert store.in_force(hash_, NOW) == contract
    _complete(store, amended)
    assert _refusal(store.in_force, hash_, NOW) == "CONTRACT_SUPERSEDED"
    assert store.in_force(amended.hash().hex(), NOW) == amended


def test_the_explanation_names_what_each_side_gives_and_gets() -> None:
    datasets = (
        DataSet("bank", "loans", "id", "y", ("limit",)),
        DataSet("bureau", "history", "id", "", ("overdue",)),
        DataSet("tax", "returns", "id", "", ("paid",)),
    )
    contract = _contract(datasets=datasets, outputs=("scorecard",))
    owner, provider = explain(contract, "bank").text(), explain(contract, "tax").text()
    assert "exact label counts" in owner
    assert "'y'" in owner
    assert "'y'" not in provider
    assert "only as part of the sum" in provider
    assert "must not collude" in provider
    assert "part of the scorecard" in provider
    assert "part of the scorecard" not in explain(_contract(), "tax").text()
    moments = replace(contract, algorithms=ALGORITHMS)
    for member in ("bank", "tax"):
        assert "exact sums over the training rows" in explain(moments, member).text()
        assert "exact sums over the training rows" not in explain(contract, member).text()
    two = replace(_contract(), members=tuple(m for m in _contract().members if m.name != "tax"))
    assert "only as part of the sum" not in explain(two, "bureau").text()
