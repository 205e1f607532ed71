"""What became of a contract: proposed, in force, suspended, revoked, superseded, expired.

A contract comes into force when every member has signed it. From then on any party can suspend it, take its own
suspension back, or revoke it for good, by an event that it signs itself; nobody else has to agree. The state follows
from the signed documents alone: whoever stores or delivers them decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.contract import MAX_DOCUMENT_BYTES, Contract, SignedContract
from protocols.errors import ContractViolationError
from protocols.roles import COORDINATOR

_DOMAIN = b"concordat/contract-event/1\0"
_ASK = "ask the party that signed the event, or sign a new contract"


class EventKind(Enum):
    """What a party does to a contract in force."""

    SUSPEND = "suspend"
    RESUME = "resume"
    REVOKE = "revoke"


class ContractState(Enum):
    """Whether jobs may run under a contract."""

    PROPOSED = "proposed"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"


@dataclass(frozen=True)
class ContractEvent:
    """One party's act on one contract. contract_hash: hex; sequence: counts this party's events on it, from 1."""

    contract_hash: str
    party: str
    kind: EventKind
    sequence: int
    time: int
    reason: str

    def canonical(self) -> bytes:
        """The bytes that are signed."""
        document = asdict(self) | {"kind": self.kind.value}
        return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()

    def sign(self, key: Ed25519PrivateKey) -> SignedEvent:
        """This event with its party's signature."""
        return SignedEvent(self, key.sign(_DOMAIN + self.canonical()).hex())


@dataclass(frozen=True)
class SignedEvent:
    """An event with its party's signature in hex."""

    event: ContractEvent
    signature: str

    def verify(self, contract: Contract) -> ContractEvent:
        """The event, if a party of `contract` signed it for this contract.

        Raises: ContractViolationError: EVENT_OTHER_CONTRACT, NOT_A_MEMBER, EVENT_SIGNATURE_INVALID.
        """
        event = self.event
        if event.contract_hash != contract.hash().hex():
            raise ContractViolationError("EVENT_OTHER_CONTRACT", "the event names another contract", _ASK)
        if event.party == COORDINATOR:
            raise ContractViolationError("NOT_A_MEMBER", "the coordinator has no say in a contract", _ASK)
        try:
            contract.member(event.party).key().verify(bytes.fromhex(self.signature), _DOMAIN + event.canonical())
        except (InvalidSignature, ValueError) as error:
            raise ContractViolationError(
                "EVENT_SIGNATURE_INVALID", "an event on a contract is not signed by the party it names", _ASK
            ) from error
        return event

    def encode(self) -> bytes:
        """The bytes to store and to send."""
        document = {"event": json.loads(self.event.canonical()), "signature": self.signature}
        return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> SignedEvent:
        """The signed event in `data`.

        Raises: ContractViolationError: EVENT_MALFORMED: not the canonical form of one.
        """
        malformed = ContractViolationError("EVENT_MALFORMED", "an event is not in its canonical form", _ASK)
        try:
            if len(data) > MAX_DOCUMENT_BYTES:
                raise malformed
            outer = json.loads(data.decode("utf-8"))
            inner = outer["event"]
            if set(outer) != {"event", "signature"} or set(inner) != {item.name for item in fields(ContractEvent)}:
                raise malformed
            texts = ("contract_hash", "party", "reason")
            if not all(isinstance(inner[name], str) and len(inner[name]) <= 2000 for name in texts):
                raise malformed
            if not all(type(inner[name]) is int and 0 <= inner[name] < 1 << 53 for name in ("sequence", "time")):
                raise malformed
            event = cls(ContractEvent(**(inner | {"kind": EventKind(inner["kind"])})), str(outer["signature"]))
            same = event.encode() == data  # a lone surrogate has no encoding
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise malformed from error
        if not same:
            raise malformed
        return event


def state_of(
    signed: SignedContract, events: Sequence[SignedEvent], now: int, successors: Sequence[SignedContract] = ()
) -> ContractState:
    """The state at `now` (Unix seconds).

    Args: events: in any order; successors: contracts that name this one as superseded.
    Raises: ContractViolationError: a signature is wrong, an event is not for this contract, or a party's events are not
        numbered 1, 2, ... (EVENT_MISSING: whoever delivers them may be holding one back).
    """
    contract = signed.contract
    if len(signed.signatures) < len(contract.members):
        return ContractState.PROPOSED
    by_party: dict[str, list[ContractEvent]] = {}
    for item in events:
        event = item.verify(contract)
        by_party.setdefault(event.party, []).append(event)
    for own in by_party.values():
        own.sort(key=lambda event: event.sequence)
        if [event.sequence for event in own] != list(range(1, len(own) + 1)):
            raise ContractViolationError("EVENT_MISSING", "a party's events on a contract are not complete", _ASK)
    if any(event.kind is EventKind.REVOKE for own in by_party.values() for event in own):
        return ContractState.REVOKED
    if any(_replaces(successor, contract, now) for successor in successors):
        return ContractState.SUPERSEDED
    if now >= contract.valid_until:
        return ContractState.EXPIRED
    signed.verify(max(now, contract.valid_from))
    if any(own[-1].kind is EventKind.SUSPEND for own in by_party.values()):
        return ContractState.SUSPENDED
    return ContractState.ACTIVE


def check_active(
    signed: SignedContract, events: Sequence[SignedEvent], now: int, successors: Sequence[SignedContract] = ()
) -> Contract:
    """The contract, if jobs may run under it now.

    Raises: ContractViolationError: CONTRACT_PROPOSED, CONTRACT_SUSPENDED, CONTRACT_REVOKED, CONTRACT_SUPERSEDED,
        CONTRACT_EXPIRED, CONTRACT_NOT_YET_VALID, or what `state_of` raises.
    """
    state = state_of(signed, events, now, successors)
    if state is not ContractState.ACTIVE:
        raise ContractViolationError(
            f"CONTRACT_{state.value.upper()}", f"the contract is {state.value}; no job runs under it", _ASK
        )
    return signed.verify(now)


def _replaces(successor: SignedContract, contract: Contract, now: int) -> bool:
    """Whether a fully signed amendment, by the same members, has come into force."""
    amended = successor.contract
    if amended.supersedes != contract.hash().hex() or amended.version != contract.version + 1:
        return False
    if set(amended.roles()) < set(contract.roles()) or now < amended.valid_from:
        return False
    successor.verify(max(now, amended.valid_from) if now < amended.valid_until else amended.valid_from)
    return True
