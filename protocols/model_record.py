"""The library of models: what a version is made of, what each party has said about it, and the state that follows.

A record names a trained model by hashes: contract, job document, recipe. The label owner submits it; every party then
approves it under its own signature, and in doing so names its own part (a salted commitment), the data it read (a keyed
digest) and its program's version. What a part holds never leaves its party.

The state follows from the signed documents alone, whatever the order they come in: a retirement or a rejection by any
party ends a model at once, and "live" needs the approval of every party. Whoever stores or delivers decides nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.contract import Contract
from protocols.errors import ContractViolationError, LocalProtocolError

MAX_DOCUMENT_BYTES = 8192  # an encoded record, or an encoded event
MAX_REASON = 1000
SALT_BYTES = 32
METRIC_UNIT = 10_000  # a metric is a whole number of these parts of one
METRICS = (  # what a record may open, in alphabetical order
    *("out_of_time_auc", "out_of_time_ks", "psi", "psi_out_of_time"),
    *("test_auc", "test_ks", "train_auc", "train_ks"),
)

_RECORD_DOMAIN = b"concordat/model-record/1\0"
_EVENT_DOMAIN = b"concordat/model-event/1\0"
_PART_DOMAIN = b"concordat/model-part/1\0"
_LARGEST_INTEGER = (1 << 53) - 1
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_CODE = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,31}")
_ASK = "ask the party that signed it, out of band"


class Act(Enum):
    """What a party does about a model."""

    SUBMIT = "submit"
    APPROVE = "approve"
    REJECT = "reject"
    GO_LIVE = "go-live"
    RETIRE = "retire"


class ModelState(Enum):
    """What became of a model. A draft is one that was trained and not submitted."""

    DRAFT = "draft"
    SUBMITTED = "submitted"
    APPROVED = "approved"
    LIVE = "live"
    RETIRED = "retired"
    REJECTED = "rejected"


ENDED = frozenset({ModelState.RETIRED, ModelState.REJECTED})
_FROM: Mapping[Act, frozenset[ModelState]] = {  # in which states an act can be done
    Act.SUBMIT: frozenset({ModelState.DRAFT}),
    Act.APPROVE: frozenset({ModelState.SUBMITTED}),
    Act.REJECT: frozenset({ModelState.SUBMITTED, ModelState.APPROVED}),
    Act.GO_LIVE: frozenset({ModelState.APPROVED}),
    Act.RETIRE: frozenset({ModelState.SUBMITTED, ModelState.APPROVED, ModelState.LIVE}),
}
_OWNERS_ACTS = frozenset({Act.SUBMIT, Act.GO_LIVE})


@dataclass(frozen=True)
class ModelRecord:
    """One version of one model. Hashes: SHA-256 in hex.

    job, job_document: the training job, and the hash of its signed document; recipe_hash: of the recipe's canonical
    text, which holds every parameter; code: version of the label owner's program; metrics: those opened, as (name of
    `METRICS`, whole number of `1 / METRIC_UNIT`), by name.
    Raises: ContractViolationError: MODEL_RECORD_MALFORMED.
    """

    name: str
    version: int
    contract_hash: str
    job: str
    job_document: str
    recipe_hash: str
    code: str
    metrics: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        forms = (
            *((text, _NAME) for text in (self.name, self.job)),
            *((text, _HASH) for text in (self.contract_hash, self.job_document, self.recipe_hash)),
            (self.code, _CODE),
        )
        if not all(isinstance(text, str) and form.fullmatch(text) for text, form in forms):
            raise _record_malformed()
        names = [name for name, _ in self.metrics]
        if not _is_count(self.version) or self.version < 1 or not all(_is_count(value) for _, value in self.metrics):
            raise _record_malformed()
        if not set(names) <= set(METRICS) or names != sorted(set(names)):
            raise _record_malformed()

    def encode(self) -> bytes:
        """The bytes to store, to send, and to hash: its canonical form."""
        return _canonical(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """As it stands in its canonical form."""
        return asdict(self) | {"metrics": dict(self.metrics)}

    def hash(self) -> str:
        """SHA-256 of domain and canonical bytes, in hex: how events name this model."""
        return hashlib.sha256(_RECORD_DOMAIN + self.encode()).hexdigest()

    @classmethod
    def decode(cls, data: bytes) -> ModelRecord:
        """The record in `data`.

        Raises: ContractViolationError: MODEL_RECORD_MALFORMED: not the canonical form of one.
        """
        inner = _parsed(data, _record_malformed())
        if not isinstance(inner, dict) or set(inner) != {item.name for item in fields(cls)}:
            raise _record_malformed()
        if not isinstance(inner["metrics"], dict):
            raise _record_malformed()
        record = cls(**(inner | {"metrics": tuple(inner["metrics"].items())}))
        if record.encode() != data:
            raise _record_malformed()
        return record


@dataclass(frozen=True)
class PartLine:
    """What a party says of its own side as it approves.

    part: `commitment` to its own part; data: digest of the rows it read, keyed with a key that only it has; code:
    version of its program. Hex, but the version.
    """

    part: str = ""
    data: str = ""
    code: str = ""


@dataclass(frozen=True)
class ModelEvent:
    """One party's act on one model. sequence: counts this party's events on it, from 1; time: Unix seconds of its
    clock; own: of an approval, and empty otherwise.
    """

    model: str
    party: str
    act: Act
    sequence: int
    time: int
    reason: str
    own: PartLine = PartLine()

    def canonical(self) -> bytes:
        """The bytes that are signed, after the domain."""
        return _canonical(asdict(self) | {"act": self.act.value})

    def sign(self, key: Ed25519PrivateKey) -> SignedModelEvent:
        """This event with its party's signature."""
        return SignedModelEvent(self, key.sign(_EVENT_DOMAIN + self.canonical()).hex())


@dataclass(frozen=True)
class SignedModelEvent:
    """An event with its party's signature in hex."""

    event: ModelEvent
    signature: str

    def verify(self, record: ModelRecord, contract: Contract) -> ModelEvent:
        """The event, if a party of `contract` signed it for this record.

        Raises: ContractViolationError: EVENT_OTHER_MODEL, NOT_A_MEMBER, MODEL_ROLE, EVENT_SIGNATURE_INVALID.
        """
        event = self.event
        if event.model != record.hash() or record.contract_hash != contract.hash().hex():
            raise ContractViolationError("EVENT_OTHER_MODEL", "the event names another model", _ASK)
        if event.party not in contract.parties.all:
            raise ContractViolationError("NOT_A_MEMBER", "only a party of the contract has a say in its models", _ASK)
        if event.act in _OWNERS_ACTS and event.party != contract.parties.label_owner:
            raise ContractViolationError(
                "MODEL_ROLE", "only the label owner submits a model or takes it live", "ask the label owner"
            )
        try:
            key = contract.member(event.party).key()
            key.verify(bytes.fromhex(self.signature), _EVENT_DOMAIN + event.canonical())
        except (InvalidSignature, ValueError) as error:
            raise ContractViolationError(
                "EVENT_SIGNATURE_INVALID", "an event on a model is not signed by the party it names", _ASK
            ) from error
        return event

    def encode(self) -> bytes:
        """The bytes to store and to send."""
        return _canonical({"event": json.loads(self.event.canonical()), "signature": self.signature})

    @classmethod
    def decode(cls, data: bytes) -> SignedModelEvent:
        """The signed event in `data`.

        Raises: ContractViolationError: EVENT_MALFORMED: not the canonical form of one.
        """
        outer = _parsed(data, _event_malformed())
        try:
            inner = outer["event"]
            own = inner["own"]
            if set(outer) != {"event", "signature"} or set(inner) != {item.name for item in fields(ModelEvent)}:
                raise _event_malformed()
            event = ModelEvent(**(inner | {"act": Act(inner["act"]), "own": PartLine(**own)}))
            signed = cls(event, outer["signature"])
            if not _well_formed(event) or not _SIGNATURE.fullmatch(signed.signature) or signed.encode() != data:
                raise _event_malformed()
        except (ValueError, KeyError, TypeError) as error:
            raise _event_malformed() from error
        return signed


def commitment(salt: bytes, part: bytes) -> str:
    """Commitment to a party's own part, in hex: the salt keeps few small integers from being guessed.

    Raises: LocalProtocolError: SALT_INVALID: not `SALT_BYTES` bytes.
    """
    if len(salt) != SALT_BYTES:
        raise LocalProtocolError("SALT_INVALID", f"a salt has {SALT_BYTES} bytes")
    return hashlib.sha256(_PART_DOMAIN + salt + part).hexdigest()


def state_of(
    record: ModelRecord, contract: Contract, events: Iterable[SignedModelEvent], *, replaced: bool = False
) -> ModelState:
    """What became of a model.

    Args: events: in any order; replaced: whether a later version of this name under this contract `went_live`.
    Raises: ContractViolationError: what `SignedModelEvent.verify` raises; EVENT_MISSING: a party's events are not
        numbered 1, 2, ... A model that was retired or rejected stays so, whatever else is missing.
    """
    facts = [item.verify(record, contract) for item in events]
    acts = {fact.act for fact in facts}
    if Act.RETIRE in acts:
        return ModelState.RETIRED
    if Act.REJECT in acts:
        return ModelState.REJECTED
    for party in {fact.party for fact in facts}:
        numbers = sorted(fact.sequence for fact in facts if fact.party == party)
        if numbers != list(range(1, len(numbers) + 1)):
            raise ContractViolationError("EVENT_MISSING", "a party's events on a model are not complete", _ASK)
    if Act.SUBMIT not in acts:
        return ModelState.DRAFT
    if not approved_by_all(contract, facts):
        return ModelState.SUBMITTED
    if Act.GO_LIVE not in acts:
        return ModelState.APPROVED
    return ModelState.RETIRED if replaced else ModelState.LIVE


def approved_by_all(contract: Contract, facts: Iterable[ModelEvent]) -> bool:
    """Whether every party of `contract` has approved, by verified events."""
    return {fact.party for fact in facts if fact.act is Act.APPROVE} == set(contract.parties.all)


def went_live(contract: Contract, facts: Sequence[ModelEvent]) -> bool:
    """Whether a model was taken live, with every approval, by verified events; it may have been retired since."""
    return approved_by_all(contract, facts) and any(fact.act is Act.GO_LIVE for fact in facts)


def replaces(later: ModelRecord, record: ModelRecord) -> bool:
    """Whether `later`, once live, takes the place of `record`."""
    same = (later.name, later.contract_hash) == (record.name, record.contract_hash)
    return same and later.version > record.version


def check_act(act: Act, state: ModelState, *, approved: bool) -> None:
    """Raise unless a party may do `act` on a model in `state`. approved: whether this party has approved it.

    Raises: ContractViolationError: MODEL_STATE, MODEL_NOT_APPROVED.
    """
    if act is Act.GO_LIVE and state is ModelState.SUBMITTED:
        raise not_approved()
    if state not in _FROM[act] or (act is Act.APPROVE and approved):
        raise ContractViolationError(
            "MODEL_STATE",
            f"the model is {state.value}{' and approved here' if approved else ''}: it cannot {act.value}",
            "see `concordat-party model show`; a model that has ended is trained anew",
        )


def not_approved() -> ContractViolationError:
    """The error of a model that is taken live too early."""
    return ContractViolationError(
        "MODEL_NOT_APPROVED", "the model goes live before every party has approved it", "wait for every approval"
    )


def _well_formed(event: ModelEvent) -> bool:
    """Whether every field has its form; raises TypeError where one has another type."""
    own = event.own
    approves = event.act is Act.APPROVE
    filled = bool(_HASH.fullmatch(own.part) and _HASH.fullmatch(own.data) and _CODE.fullmatch(own.code))
    return (
        (filled if approves else own == PartLine())
        and bool(_HASH.fullmatch(event.model) and _NAME.fullmatch(event.party))
        and _is_count(event.sequence)
        and event.sequence >= 1
        and _is_count(event.time)
        and isinstance(event.reason, str)
        and len(event.reason) <= MAX_REASON
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_INTEGER


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _parsed(data: bytes, malformed: ContractViolationError) -> Any:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise malformed
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise malformed from error


def _record_malformed() -> ContractViolationError:
    return ContractViolationError(
        "MODEL_RECORD_MALFORMED", "a model's record is not in its canonical form", "ask the label owner for it"
    )


def _event_malformed() -> ContractViolationError:
    return ContractViolationError("EVENT_MALFORMED", "an event is not in its canonical form", _ASK)
