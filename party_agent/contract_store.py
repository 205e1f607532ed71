"""This institution's own copies of the contracts: the only ones that its agent believes.

One folder a contract under `contracts/`, named by its hash: the document, each signature as it arrives, each event.
What arrives is verified before it is kept; a contract can be signed here only when every other party's identity was
compared out of band (`Pins`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from party_agent.store import Folder
from protocols.audit import Kind
from protocols.contract import Contract, SignedContract
from protocols.contract_state import ContractEvent, ContractState, EventKind, SignedEvent, check_active, state_of
from protocols.errors import ContractViolationError, DataError
from protocols.roles import COORDINATOR

_CONTRACT, _EVENTS = "contract.json", "events"
EVENT_KINDS = {  # how the audit log calls them
    EventKind.SUSPEND: Kind.CONTRACT_SUSPENDED,
    EventKind.RESUME: Kind.CONTRACT_RESUMED,
    EventKind.REVOKE: Kind.CONTRACT_REVOKED,
}


class Pins(Protocol):
    """Which identities of peers were compared out of band."""

    def check(self, name: str, identity: str) -> None:
        """Raise ContractViolationError unless `identity` (hex) is the one that was verified for `name`."""


class ContractStore:
    """The contracts of one institution, in its folder.

    Args: me: this institution's name; pins: of its peers.
    """

    def __init__(self, folder: Path, me: str, pins: Pins) -> None:
        self._root = folder / "contracts"
        self._me = me
        self._pins = pins

    def propose(self, contract: Contract, key: Ed25519PrivateKey) -> SignedContract:
        """Keep a contract of our own making, signed by us."""
        return self.sign(SignedContract(contract, ()), key)

    def sign(self, signed: SignedContract, key: Ed25519PrivateKey) -> SignedContract:
        """Sign and keep.

        Raises: ContractViolationError: a peer is not verified, or verified under another identity; NOT_A_MEMBER.
        """
        contract = signed.contract
        contract.member(self._me)
        for member in contract.members:
            if member.name not in (self._me, COORDINATOR):
                self._pins.check(member.name, member.identity)
        return self.receive(signed.signed_by(self._me, key))

    def receive(self, signed: SignedContract) -> SignedContract:
        """Join signatures that arrived with those kept, and keep the whole.

        Raises: ContractViolationError: CONTRACT_SIGNATURE_INVALID, NOT_A_MEMBER.
        """
        contract = signed.contract
        contract.member(self._me)
        signed.check_signatures()
        kept = self._read(contract.hash().hex())
        signatures = dict(kept.signatures if kept else ()) | dict(signed.signatures)
        order = [member.name for member in contract.members if member.name in signatures]
        joined = SignedContract(contract, tuple((name, signatures[name]) for name in order))
        self._folder(contract.hash().hex()).write(_CONTRACT, joined.encode())
        return joined

    def act(self, contract: Contract, kind: EventKind, reason: str, now: int, key: Ed25519PrivateKey) -> SignedEvent:
        """Suspend, resume or revoke a contract, at once and alone."""
        hash_ = contract.hash().hex()
        sequence = 1 + sum(event.event.party == self._me for event in self.events(hash_))
        signed = ContractEvent(hash_, self._me, kind, sequence, now, reason).sign(key)
        self.receive_event(signed)
        return signed

    def receive_event(self, signed: SignedEvent) -> None:
        """Keep an event of any party, once it is verified.

        Raises: ContractViolationError: as `SignedEvent.verify`; EVENT_CONFLICT: the party signed another event with
            this number.
        """
        event = signed.verify(self.get(signed.event.contract_hash).contract)
        folder = Folder(self._folder(event.contract_hash).path / _EVENTS)
        name = f"{event.party}-{event.sequence:06d}.json"
        target = folder.path / name
        if target.exists():
            if target.read_bytes() != signed.encode():
                raise ContractViolationError(
                    "EVENT_CONFLICT", "a party signed two events under one number", "ask that party, out of band"
                )
            return
        folder.write(name, signed.encode())

    def get(self, hash_: str) -> SignedContract:
        """The contract of this hash, or of the only one that begins so.

        Raises: DataError: CONTRACT_UNKNOWN.
        """
        found = [name for name in self._hashes() if name.startswith(hash_)] if hash_ else []
        signed = self._read(found[0]) if len(found) == 1 else None
        if signed is None:
            raise DataError("CONTRACT_UNKNOWN", "no such contract is kept here", "see `concordat-party contract list`")
        return signed

    def events(self, hash_: str) -> tuple[SignedEvent, ...]:
        """The events kept on a contract."""
        folder = self._root / hash_ / _EVENTS
        return tuple(SignedEvent.decode(path.read_bytes()) for path in sorted(folder.glob("*.json")))

    def all(self) -> Iterator[SignedContract]:
        """Every contract kept."""
        for name in self._hashes():
            signed = self._read(name)
            if signed is not None:
                yield signed

    def state(self, signed: SignedContract, now: int) -> ContractState:
        """What became of a contract."""
        return state_of(signed, self.events(signed.contract.hash().hex()), now, self._successors(signed))

    def in_force(self, hash_: str, now: int) -> Contract:
        """The contract, if jobs may run under it now. This, and no word of the coordinator, opens the door to a job.

        Raises: DataError: CONTRACT_UNKNOWN. ContractViolationError: it is not in force.
        """
        signed = self.get(hash_)
        for member in signed.contract.members:
            if member.name not in (self._me, COORDINATOR):
                self._pins.check(member.name, member.identity)
        return check_active(signed, self.events(signed.contract.hash().hex()), now, self._successors(signed))

    def _successors(self, signed: SignedContract) -> list[SignedContract]:
        """Amendments of a contract that every member has signed."""
        hash_ = signed.contract.hash().hex()
        return [
            other
            for other in self.all()
            if other.contract.supersedes == hash_ and len(other.signatures) == len(other.contract.members)
        ]

    def _hashes(self) -> list[str]:
        return sorted(path.name for path in self._root.glob("*") if path.is_dir()) if self._root.exists() else []

    def _folder(self, hash_: str) -> Folder:
        return Folder(self._root / hash_)

    def _read(self, hash_: str) -> SignedContract | None:
        path = self._root / hash_ / _CONTRACT
        if not path.exists():
            return None
        signed = SignedContract.decode(path.read_bytes())
        if signed.contract.hash().hex() != hash_:
            raise DataError("CONTRACT_UNKNOWN", "a contract kept here was altered", "restore it from a backup")
        return signed
