"""The contract between the institutions, and the job document that runs under it.

Both are JSON in one canonical form (sorted keys, no spaces, UTF-8, integers only), so that "the bytes that were signed"
and "the bytes of this object" are the same thing: a document in any other form is refused before it is looked at.
A contract counts when every member signed it; a job counts when the label owner signed it, under a contract that counts
now, and its nonce was never accepted before. Whoever delivers them authorises nothing.

Source: PROTOCOLS.md sections 0, 2 and 7; docs/protocols/channels.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any, NoReturn, Protocol, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocols.errors import ContractViolationError, LocalProtocolError
from protocols.roles import COORDINATOR, Parties, Role

SMALLEST_KEY_BITS = 2048
SMALLEST_BIN_FLOOR = 50
LARGEST_LABEL_SHARE = (1, 8)  # F <= n h(p) / 8, PROTOCOLS.md section 2
CLOCK_SKEW_S = 300
LONGEST_JOB_S = 7 * 86_400  # from a job document's issue to its expiry: so long its nonce matters, and no longer
MAX_DOCUMENT_BYTES = 1 << 20
NONCE_BYTES = 16
MEMBER_ROLES = (Role.LABEL_OWNER, Role.PROVIDER, Role.COORDINATOR)

ALIGN, BIN, TRAIN, SCORE = "align-ecdh", "bin-chimerge", "train-logistic", "score-points"
KKRT = "align-kkrt"  # the engine for large sets: our own oblivious transfer extension, so a contract must name it
ALIGNMENTS = {"ecdh": ALIGN, "kkrt": KKRT}  # by engine of the recipe
MOMENTS = "moments-exact"  # opens second moments over the features of all parties to the label owner
BINNINGS = {"chimerge": BIN, "optimal": "bin-optimal", "quantile": "bin-quantile"}  # by method of the recipe
ALGORITHMS = (
    ALIGN,
    KKRT,
    *BINNINGS.values(),
    MOMENTS,
    SCORE,
    TRAIN,
)  # what a contract may allow, in alphabetical order
USUAL_ALGORITHMS = (ALIGN, *BINNINGS.values(), SCORE, TRAIN)  # what it allows if it names none

_LARGEST_INTEGER = (1 << 53) - 1  # every JSON reader agrees up to here
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_CONTRACT_DOMAIN = b"concordat/contract/1\0"
_JOB_DOMAIN = b"concordat/job/1\0"

R = TypeVar("R")


class JobKind(Enum):
    """What a job does."""

    TRAIN = "train"
    SCORE = "score"


@dataclass(frozen=True)
class Member:
    """One institution of a contract. `role`: value of a `MEMBER_ROLES` entry; `identity`: its Ed25519 key in hex."""

    name: str
    role: str
    identity: str

    def key(self) -> Ed25519PublicKey:
        """The pinned identity key."""
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.identity))

    def fingerprint(self) -> str:
        """SHA-256 of the identity key in hex: what two people compare over the telephone."""
        return fingerprint(self.key())


@dataclass(frozen=True)
class Caps:
    """The bounds that every agent enforces on its own copy of the contract.

    minimum_intersection, maximum_set_size: rows; minimum_key_bits: bits of a Paillier modulus; opened_numbers: the most
    numbers that may open to one party in one job (ledger lines of nature 'opened'); label_budget_numerator,
    label_budget_denominator: share of n h(p) that exact counts may use, at most 1/8; bin_floor: rows in the smallest
    bin, at least 50; aborts: jobs that may end in a failed check; runs: jobs in all; gradients: opened to a party in
    one job, at most (the budget of section 3 may be lower).
    """

    minimum_intersection: int = 500
    maximum_set_size: int = 1_000_000
    minimum_key_bits: int = 3072
    opened_numbers: int = 1_000_000
    label_budget_numerator: int = 1
    label_budget_denominator: int = 8
    bin_floor: int = SMALLEST_BIN_FLOOR
    aborts: int = 3
    runs: int = 100
    gradients: int = 200

    def __post_init__(self) -> None:
        for item in fields(self):
            _require_integer(getattr(self, item.name), "CONTRACT_INVALID")
        numerator, denominator = LARGEST_LABEL_SHARE
        if self.minimum_key_bits < SMALLEST_KEY_BITS:
            raise _invalid(f"a contract names keys of at least {SMALLEST_KEY_BITS} bits")
        if self.bin_floor < SMALLEST_BIN_FLOOR:
            raise _invalid(f"a contract names a bin floor of at least {SMALLEST_BIN_FLOOR} rows")
        if self.label_budget_denominator < 1:
            raise _invalid("the denominator of the label budget is positive")
        if self.label_budget_numerator * denominator > numerator * self.label_budget_denominator:
            raise _invalid(f"the label budget is at most {numerator}/{denominator}")
        if self.minimum_intersection < 1 or self.maximum_set_size < self.minimum_intersection or self.runs < 1:
            raise _invalid("a contract allows at least one run, and sets that can reach the minimum intersection")


@dataclass(frozen=True)
class DataSet:
    """What one member brings: a data set of its catalogue, the id column, the label column ('' at a provider) and
    the feature columns, by name or by alias as the member published them.
    """

    member: str
    name: str
    id_column: str
    label_column: str
    features: tuple[str, ...]

    def __post_init__(self) -> None:
        for text in (self.member, self.name, self.id_column, *self.features):
            if not _require_text(text, 128, "CONTRACT_INVALID"):
                raise _invalid("a data set has a name, an id column and named features")
        _require_text(self.label_column, 128, "CONTRACT_INVALID")
        columns = [self.id_column, self.label_column, *self.features]
        if not self.features or len(set(columns)) != len(columns):
            raise _invalid("a data set names at least one feature, and each column in one role")


@dataclass(frozen=True)
class Contract:
    """Who works together, to what end, within which bounds. Times are whole Unix seconds, UTC.

    members: the label owner, the feature providers in role order (the first is the co-holder) and the coordinator,
    whose operator must not collude with the first two. outputs: what may be opened, e.g. ('scorecard',)
    to all members or ('dimensions',) to the label owner.
    algorithms: what may be run, of `ALGORITHMS`. datasets: what each member brings; none binds no member to certain
    columns. version: 1, or one more than the contract that this one amends, whose hash is `supersedes`.
    """

    contract_id: str
    members: tuple[Member, ...]
    purpose: str
    caps: Caps
    outputs: tuple[str, ...]
    valid_from: int
    valid_until: int
    algorithms: tuple[str, ...] = USUAL_ALGORITHMS
    datasets: tuple[DataSet, ...] = ()
    version: int = 1
    supersedes: str = ""

    def __post_init__(self) -> None:
        _require_identifier(self.contract_id, "CONTRACT_INVALID")
        _require_text(self.purpose, 2000, "CONTRACT_INVALID")
        for output in self.outputs:
            _require_identifier(output, "CONTRACT_INVALID")
        if list(self.outputs) != sorted(set(self.outputs)):
            raise _invalid("outputs are named once each, in alphabetical order")
        for time in (self.valid_from, self.valid_until, self.version):
            _require_integer(time, "CONTRACT_INVALID")
        if not set(self.algorithms) <= set(ALGORITHMS) or list(self.algorithms) != sorted(set(self.algorithms)):
            raise _invalid("algorithms are known ones, named once each, in alphabetical order")
        if self.supersedes:
            _require_hex(self.supersedes, 32, "CONTRACT_INVALID")
        if (self.version == 1) != (not self.supersedes) or self.version < 1:
            raise _invalid("a first version supersedes nothing, and a later one names what it supersedes")
        if self.valid_from >= self.valid_until:
            raise _invalid("a contract ends after it begins")
        self._check_members()

    def _check_members(self) -> None:
        names = [member.name for member in self.members]
        roles = [member.role for member in self.members]
        if not set(roles) <= {role.value for role in MEMBER_ROLES}:
            raise _invalid("a member is label owner, feature provider or coordinator")
        if roles.count(Role.LABEL_OWNER.value) != 1:
            raise _invalid("a contract has exactly one label owner")
        if [name for name, role in zip(names, roles, strict=True) if role == Role.COORDINATOR.value] != [COORDINATOR]:
            raise _invalid(f"a contract has exactly one coordinator, named '{COORDINATOR}'")
        try:
            _ = self.parties
            identities = {bytes.fromhex(member.identity) for member in self.members}
            canonical = all(member.identity == member.key().public_bytes_raw().hex() for member in self.members)
        except (LocalProtocolError, ValueError) as error:
            raise _invalid("a member's name or identity key is not well formed") from error
        if not canonical or len(identities) != len(self.members):
            raise _invalid("every member has an identity key of its own, in small hexadecimal digits")
        owners = [dataset.member for dataset in self.datasets]
        if owners and sorted(owners) != sorted(self.parties.all):
            raise _invalid("every party brings exactly one data set")
        for dataset in self.datasets:
            if (dataset.member == self.parties.label_owner) != bool(dataset.label_column):
                raise _invalid("the label owner, and only the label owner, brings a label column")

    @property
    def parties(self) -> Parties:
        """Who plays which role."""
        owner = next(member.name for member in self.members if member.role == Role.LABEL_OWNER.value)
        return Parties(owner, tuple(m.name for m in self.members if m.role == Role.PROVIDER.value))

    def member(self, name: str) -> Member:
        """The member of this name.

        Raises: ContractViolationError: NOT_A_MEMBER.
        """
        for member in self.members:
            if member.name == name:
                return member
        raise ContractViolationError("NOT_A_MEMBER", "the contract has no member of this name", _ASK_PARTIES)

    def dataset(self, name: str) -> DataSet | None:
        """What `name` brings, or None where the contract binds no one to certain columns."""
        return next((dataset for dataset in self.datasets if dataset.member == name), None)

    def roles(self) -> dict[str, str]:
        """Role of every member, by name: what a handshake signs."""
        return {member.name: member.role for member in self.members}

    def peers(self, me: str) -> dict[str, Ed25519PublicKey]:
        """The pinned identity key of everyone but `me`, by name."""
        self.member(me)
        return {member.name: member.key() for member in self.members if member.name != me}

    def canonical(self) -> bytes:
        """The bytes that are hashed and signed."""
        return _canonical(asdict(self))

    def hash(self) -> bytes:
        """SHA-256 of the canonical bytes: how jobs and channels name this contract."""
        return hashlib.sha256(self.canonical()).digest()

    def sign(self, key: Ed25519PrivateKey) -> str:
        """A member's signature, in hex."""
        return key.sign(_CONTRACT_DOMAIN + self.canonical()).hex()

    def check_valid(self, now: int) -> None:
        """Raise unless the contract is in force at `now` (Unix seconds)."""
        if now < self.valid_from:
            raise ContractViolationError("CONTRACT_NOT_YET_VALID", "the contract is not in force yet", _ASK_PARTIES)
        if now >= self.valid_until:
            raise ContractViolationError("CONTRACT_EXPIRED", "the contract is no longer in force", _ASK_PARTIES)

    def check_set_size(self, rows: int) -> None:
        """Raise if a party's id set of `rows` is larger than agreed."""
        self._check(rows <= self.caps.maximum_set_size, "SET_TOO_LARGE", "an id set is larger than the contract allows")

    def check_key_bits(self, bits: int) -> None:
        """Raise if a Paillier modulus of `bits` is shorter than agreed."""
        self._check(bits >= self.caps.minimum_key_bits, "KEY_TOO_SHORT", "a key is shorter than the contract demands")

    def check_opened(self, numbers: int) -> None:
        """Raise if `numbers`, the opened total of one party on the ledger, passes the cap."""
        self._check(
            numbers <= self.caps.opened_numbers,
            "DISCLOSURE_CAP",
            "a party would learn more numbers than the contract allows",
        )

    def check_algorithms(self, kind: JobKind) -> None:
        """Raise unless a job of this kind may be run."""
        needed = {SCORE} | ({TRAIN} if kind is JobKind.TRAIN else set())
        binned = kind is not JobKind.TRAIN or bool(self.binnings)
        aligned = not set(ALIGNMENTS.values()).isdisjoint(self.algorithms)
        self._check(
            aligned and binned and needed <= set(self.algorithms),
            "ALGORITHM_NOT_ALLOWED",
            "the contract does not allow this kind of job",
        )

    def check_alignment(self, engine: str) -> None:
        """Raise unless ids may be intersected by this engine."""
        allowed = ALIGNMENTS[engine] in self.algorithms
        self._check(allowed, "ALGORITHM_NOT_ALLOWED", "the contract does not allow this engine of alignment")

    @property
    def binnings(self) -> frozenset[str]:
        """The methods by which bins may be merged, as a recipe names them."""
        return frozenset(method for method, algorithm in BINNINGS.items() if algorithm in self.algorithms)

    def check_binning(self, method: str) -> None:
        """Raise unless bins may be merged by this method."""
        allowed = method in self.binnings
        self._check(allowed, "ALGORITHM_NOT_ALLOWED", "the contract does not allow this method of binning")

    def check_moments(self) -> None:
        """Raise unless exact second moments may be opened to the label owner."""
        allowed = MOMENTS in self.algorithms
        self._check(allowed, "ALGORITHM_NOT_ALLOWED", "the contract does not allow second moments to be opened")

    def check_output(self, output: str) -> None:
        """Raise unless `output` may be opened to all members."""
        self._check(output in self.outputs, "OUTPUT_NOT_ALLOWED", "the contract does not allow this to be opened")

    def check_runs(self, started: int) -> None:
        """Raise if `started`, the jobs already run under this contract, leaves none."""
        self._check(started < self.caps.runs, "RUNS_SPENT", "every run that the contract allows has been used")

    def check_aborts(self, failed: int) -> None:
        """Raise if `failed`, the jobs that ended in a failed check, passes the abort budget."""
        self._check(
            failed <= self.caps.aborts, "ABORTS_SPENT", "too many jobs of this contract ended in a failed check"
        )

    @staticmethod
    def _check(holds: bool, code: str, sentence: str) -> None:
        if not holds:
            raise ContractViolationError(code, sentence, _ASK_PARTIES)


@dataclass(frozen=True)
class SignedContract:
    """A contract with the signatures it has so far, as (name, hex) in the order of the members."""

    contract: Contract
    signatures: tuple[tuple[str, str], ...]

    def signed_by(self, name: str, key: Ed25519PrivateKey) -> SignedContract:
        """This contract with the signature of `name` added or renewed."""
        if self.contract.member(name).key().public_bytes_raw() != key.public_key().public_bytes_raw():
            raise LocalProtocolError("WRONG_IDENTITY", "this key is not the one the contract names for this member")
        signatures = dict(self.signatures) | {name: self.contract.sign(key)}
        order = [member.name for member in self.contract.members if member.name in signatures]
        return SignedContract(self.contract, tuple((member, signatures[member]) for member in order))

    def verify(self, now: int) -> Contract:
        """The contract, if every member signed it and it is in force at `now` (Unix seconds).

        Raises: ContractViolationError: CONTRACT_SIGNATURE_MISSING, CONTRACT_SIGNATURE_INVALID, CONTRACT_NOT_YET_VALID,
            CONTRACT_EXPIRED.
        """
        if [name for name, _ in self.signatures] != [member.name for member in self.contract.members]:
            raise ContractViolationError(
                "CONTRACT_SIGNATURE_MISSING", "not every member has signed the contract", _ASK_PARTIES
            )
        self.check_signatures()
        self.contract.check_valid(now)
        return self.contract

    def check_signatures(self) -> None:
        """Check the signatures there are; some may still be missing.

        Raises: ContractViolationError: CONTRACT_SIGNATURE_INVALID.
        """
        message = _CONTRACT_DOMAIN + self.contract.canonical()
        for name, signature in self.signatures:
            key = self.contract.member(name).key()
            _verify(key, signature, message, "CONTRACT_SIGNATURE_INVALID", "a contract")

    def encode(self) -> bytes:
        """The bytes to store and to send."""
        return _canonical({"contract": asdict(self.contract), "signatures": dict(self.signatures)})

    @classmethod
    def decode(cls, data: bytes) -> SignedContract:
        """The signed contract in `data`.

        Raises: ContractViolationError: CONTRACT_MALFORMED: not the canonical form of one; CONTRACT_INVALID: a bound
            that no contract may name.
        """
        code = "CONTRACT_MALFORMED"
        outer = _record(_parse(data, code), ("contract", "signatures"), code)
        inner = _record(outer["contract"], [item.name for item in fields(Contract)], code)
        members = [_record(m, [item.name for item in fields(Member)], code) for m in _list(inner["members"], code)]
        caps = _record(inner["caps"], [item.name for item in fields(Caps)], code)
        contract = Contract(
            contract_id=_require_text(inner["contract_id"], 64, code),
            members=tuple(Member(**{key: _require_text(m[key], 64, code) for key in m}) for m in members),
            purpose=_require_text(inner["purpose"], 2000, code),
            caps=Caps(**{key: _require_integer(caps[key], code) for key in caps}),
            outputs=tuple(_require_text(item, 64, code) for item in _list(inner["outputs"], code)),
            valid_from=_require_integer(inner["valid_from"], code),
            valid_until=_require_integer(inner["valid_until"], code),
            algorithms=tuple(_require_text(item, 64, code) for item in _list(inner["algorithms"], code)),
            datasets=tuple(_read_dataset(item, code) for item in _list(inner["datasets"], code)),
            version=_require_integer(inner["version"], code),
            supersedes=_require_text(inner["supersedes"], 64, code),
        )
        given = outer["signatures"]
        if not isinstance(given, dict) or not set(given) <= set(contract.roles()):
            _malformed(code)
        signatures = tuple(
            (m.name, _require_text(given[m.name], 128, code)) for m in contract.members if m.name in given
        )
        return _same(cls(contract, signatures), data, code)


def _read_dataset(value: Any, code: str) -> DataSet:
    item = _record(value, [field.name for field in fields(DataSet)], code)
    return DataSet(
        member=_require_text(item["member"], 64, code),
        name=_require_text(item["name"], 128, code),
        id_column=_require_text(item["id_column"], 128, code),
        label_column=_require_text(item["label_column"], 128, code),
        features=tuple(_require_text(name, 128, code) for name in _list(item["features"], code, most=5_000)),
    )


class SpentNonces(Protocol):
    """The agent's durable list of the job nonces it accepted."""

    def spend(self, nonce: str) -> bool:
        """Mark `nonce` as accepted, durably, before returning; False if it was marked before."""


@dataclass(frozen=True)
class JobDocument:
    """A request to run one attempt of one job under one contract. Times are whole Unix seconds, UTC.

    contract_hash, nonce: hex, 32 and 16 bytes. recipe: the recipe in canonical text, whose hash every party reports.
    model: in a scoring job the training job whose model is used, '' (and absent from the bytes) in a training job.
    No seed is in here: a seed in a job document would be a back door. Nor what is scored: that is its owner's own.
    """

    contract_hash: str
    job: str
    kind: JobKind
    recipe: str
    nonce: str
    issued: int
    expires: int
    attempt: int = 1
    model: str = ""

    def __post_init__(self) -> None:
        code = "JOB_MALFORMED"
        _require_identifier(self.job, code)
        if self.model != "" or self.kind is JobKind.SCORE:
            _require_identifier(self.model, code)
        _require_text(self.recipe, MAX_DOCUMENT_BYTES // 2, code)
        for value in (self.issued, self.expires, self.attempt):
            _require_integer(value, code)
        _require_hex(self.contract_hash, 32, code)
        _require_hex(self.nonce, NONCE_BYTES, code)
        if not isinstance(self.kind, JobKind) or self.issued >= self.expires or self.attempt < 1:
            _malformed(code)
        if (self.kind is JobKind.SCORE) != bool(self.model) or self.model == self.job:
            _malformed(code)

    @property
    def recipe_hash(self) -> bytes:
        """SHA-256 of the recipe's text."""
        return hashlib.sha256(self.recipe.encode()).digest()

    def canonical(self) -> bytes:
        """The bytes that are signed."""
        return _canonical(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """As it stands in its canonical form."""
        document = asdict(self) | {"kind": self.kind.value}
        return {name: document[name] for name in _job_fields(self.kind.value)}

    def sign(self, key: Ed25519PrivateKey) -> SignedJob:
        """This document with the label owner's signature."""
        return SignedJob(self, key.sign(_JOB_DOMAIN + self.canonical()).hex())


@dataclass(frozen=True)
class SignedJob:
    """A job document with the label owner's signature in hex."""

    document: JobDocument
    signature: str

    def verify(self, contract: Contract, now: int, spent: SpentNonces) -> JobDocument:
        """The document, if the label owner of `contract` (itself verified) asked for it now and for the first time.

        Raises: ContractViolationError: JOB_OTHER_CONTRACT, JOB_SIGNATURE_INVALID, CONTRACT_NOT_YET_VALID,
            CONTRACT_EXPIRED, JOB_LIFETIME (over `LONGEST_JOB_S`), JOB_NOT_YET_VALID (more than five minutes ahead of
            this clock), JOB_EXPIRED, JOB_REPLAYED.
        """
        document = self.document
        if document.contract_hash != contract.hash().hex():
            raise ContractViolationError("JOB_OTHER_CONTRACT", "the job names another contract", _ASK_OWNER)
        owner = contract.member(contract.parties.label_owner)
        _verify(owner.key(), self.signature, _JOB_DOMAIN + document.canonical(), "JOB_SIGNATURE_INVALID", "a job")
        contract.check_valid(now)
        if document.expires - document.issued > LONGEST_JOB_S:
            raise ContractViolationError(
                "JOB_LIFETIME", "the job document is to be good for more than seven days", _ASK_OWNER
            )
        if document.issued > now + CLOCK_SKEW_S:
            raise ContractViolationError(
                "JOB_NOT_YET_VALID", "the job was issued in the future", "compare the clocks of the parties"
            )
        if now >= document.expires:
            raise ContractViolationError("JOB_EXPIRED", "the job document has expired", _ASK_OWNER)
        if not spent.spend(document.nonce):
            raise ContractViolationError("JOB_REPLAYED", "this job document was accepted before", _ASK_OWNER)
        return document

    def encode(self) -> bytes:
        """The bytes to store and to send."""
        return _canonical({"document": self.document.to_json(), "signature": self.signature})

    @classmethod
    def decode(cls, data: bytes) -> SignedJob:
        """The signed job in `data`.

        Raises: ContractViolationError: JOB_MALFORMED: not the canonical form of one.
        """
        code = "JOB_MALFORMED"
        outer = _record(_parse(data, code), ("document", "signature"), code)
        given = outer["document"]
        inner = _record(given, _job_fields(given.get("kind") if isinstance(given, dict) else None), code)
        kinds = {kind.value: kind for kind in JobKind}
        kind = _require_text(inner["kind"], 16, code)
        if kind not in kinds:
            _malformed(code)
        document = JobDocument(
            contract_hash=_require_text(inner["contract_hash"], 64, code),
            job=_require_text(inner["job"], 64, code),
            kind=kinds[kind],
            recipe=_require_text(inner["recipe"], MAX_DOCUMENT_BYTES // 2, code),
            nonce=_require_text(inner["nonce"], 2 * NONCE_BYTES, code),
            issued=_require_integer(inner["issued"], code),
            expires=_require_integer(inner["expires"], code),
            attempt=_require_integer(inner["attempt"], code),
            model=_require_text(inner.get("model", ""), 64, code),
        )
        return _same(cls(document, _require_text(outer["signature"], 128, code)), data, code)


def _job_fields(kind: object) -> list[str]:
    """What a job document of this kind has: only one that scores names a model."""
    names = [item.name for item in fields(JobDocument)]
    return names if kind == JobKind.SCORE.value else [name for name in names if name != "model"]


def fingerprint(identity: Ed25519PublicKey) -> str:
    """SHA-256 of an identity key in hex."""
    return hashlib.sha256(identity.public_bytes_raw()).hexdigest()


_ASK_PARTIES = "the members amend the contract by a new version that all of them sign, or the request is withdrawn"
_ASK_OWNER = "the label owner issues a new job document under the contract in force"


def _invalid(sentence: str) -> ContractViolationError:
    return ContractViolationError("CONTRACT_INVALID", sentence, "whoever proposes the contract corrects it")


def _malformed(code: str) -> NoReturn:
    sentence = "a signed document is not in its canonical form"
    raise ContractViolationError(code, sentence, "obtain the document again from the one who issued it")


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _parse(data: bytes, code: str) -> Any:
    if len(data) > MAX_DOCUMENT_BYTES:
        _malformed(code)
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        _malformed(code)


def _same(document: R, data: bytes, code: str) -> R:
    """`document`, if encoding it gives `data` again: one document has one form."""
    if document.encode() != data:  # type: ignore[attr-defined]
        _malformed(code)
    return document


def _record(value: Any, names: Any, code: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        _malformed(code)
    return value


def _list(value: Any, code: str, most: int = 256) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        _malformed(code)
    return value


def _require_text(value: Any, longest: int, code: str) -> str:
    if not isinstance(value, str) or len(value) > longest or not _encodable(value):
        _malformed(code)
    return value


def _encodable(value: str) -> bool:
    return value.isascii() or not re.search("[\ud800-\udfff]", value)  # a lone surrogate has no UTF-8 form


def _require_integer(value: Any, code: str) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST_INTEGER:
        _malformed(code)
    return value


def _require_identifier(value: Any, code: str) -> None:
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        _malformed(code)


def _require_hex(value: Any, size: int, code: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", value):
        _malformed(code)


def _verify(key: Ed25519PublicKey, signature: str, message: bytes, code: str, what: str) -> None:
    try:
        key.verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError) as error:
        raise ContractViolationError(
            code, f"a signature on {what} is not that of the member it names", "compare fingerprints out of band"
        ) from error
