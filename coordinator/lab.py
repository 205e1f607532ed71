"""The lab's folder: settings, the coordinator's identity, the certificate authority, TLS certificate, database.

    lab.toml       settings, no secret        identity.pem   Ed25519, the coordinator's name in every contract
    ca.pem ca.key  certificate authority      relay.pem .key TLS certificate of the lab's one port
    metrics.token  reads /v1/metrics          lab.db         SQLite, unless lab.toml refers to another database

Secrets are referred to: a database URL with a password is in an environment variable or a file that `lab.toml` names.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import URL

from coordinator.certificates import (
    WARNING_DAYS,
    CertificateFiles,
    LabAuthority,
    create_identity,
    days_left,
    write_private,
)
from coordinator.database import Clock, check_schema, migrate, open_engine
from coordinator.member_register import IssuedFacts
from coordinator.model_registry import ModelRegistry
from coordinator.registry import ContractRecord, JobRecord
from protocols.audit_files import open_audit_log
from protocols.contract import SignedContract, SignedJob
from protocols.contract_state import check_active
from protocols.enrolment import (
    SECRET_BYTES,
    EnrolmentToken,
    check_name,
    enrolment_statement,
    host_of,
    is_address,
)
from protocols.errors import ConcordatError, ContractViolationError, DataError, TransportError
from protocols.recipe import recipe_from_canonical
from protocols.roles import COORDINATOR
from protocols.toml_document import parse_toml

SETTINGS_FILE = "lab.toml"
INVITATION_HOURS = 72
LONGEST_INVITATION_HOURS = 24 * 31


class DatabaseSettings(BaseModel):
    """Where the URL of the database is; neither: SQLite in the lab's folder."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    url_env: str | None = None
    url_file: str | None = None


class LabSettings(BaseModel):
    """`lab.toml`. address: 'host:port' as institutions reach the lab; names: further names and IP addresses of it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=64)
    address: str
    names: tuple[str, ...] = Field(default=(), strict=False)
    countersign: Literal["automatic", "never"] = "automatic"
    database: DatabaseSettings = DatabaseSettings()


@dataclass(frozen=True)
class Enrolled:
    """The answer to an enrolment or a renewal, PEM texts."""

    certificate: str
    ca: str


class Lab:
    """A lab in its folder.

    Args: folder: of `create`; settings: of its `lab.toml`; environment: where `url_env` is looked up; clock: in Unix
        seconds.
    """

    def __init__(
        self,
        folder: Path,
        settings: LabSettings,
        clock: Clock,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self._clock = clock
        self._environment = os.environ if environment is None else environment
        self.identity = load_identity(folder / "identity.pem")
        self.authority = LabAuthority.load(folder)
        self.audit = open_audit_log(folder, COORDINATOR, self.identity)
        self.registry = ModelRegistry(open_engine(self._database_url()), clock, self.audit.append)

    @classmethod
    def create(
        cls,
        folder: Path,
        settings: LabSettings,
        clock: Clock,
        environment: Mapping[str, str] | None = None,
    ) -> Lab:
        """A new lab: keys, certificate authority, certificate of the relay, database.

        Raises: DataError: OUT_NOT_EMPTY, FOLDER_UNUSABLE, LAB_SETTINGS_INVALID, DATABASE_URL_INVALID.
            TransportError: DATABASE_UNAVAILABLE.
        """
        if folder.exists() and any(folder.iterdir()):
            raise DataError("OUT_NOT_EMPTY", "the lab's folder is not empty", "name an empty or a new folder")
        _check(settings)
        now = _utc(clock)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            create_identity(folder / "identity.pem")
            LabAuthority.create(folder, settings.name, now).server(folder, server_names(settings), now)
            write_private(folder / "metrics.token", secrets.token_urlsafe(32).encode() + b"\n")
            write_private(folder / "lab.db", b"")  # so that it is nobody else's from the first moment on
            write_private(folder / SETTINGS_FILE, _toml(settings).encode())
        except OSError as error:
            raise DataError(
                "FOLDER_UNUSABLE", "the lab's folder cannot be written", "check its permissions and the disk"
            ) from error
        lab = cls(folder, settings, clock, environment)
        migrate(lab.registry.engine)
        lab.audit.head()  # opens the log
        return lab

    @classmethod
    def load(cls, folder: Path, clock: Clock, environment: Mapping[str, str] | None = None) -> Lab:
        """The lab in `folder`, with the database's version checked.

        Raises: DataError: LAB_MISSING, LAB_SETTINGS_INVALID, IDENTITY_UNREADABLE, AUTHORITY_UNREADABLE,
            DATABASE_URL_INVALID, SCHEMA_OUTDATED, SCHEMA_UNKNOWN. TransportError: DATABASE_UNAVAILABLE.
        """
        lab = cls(folder, read_settings(folder), clock, environment)
        check_schema(lab.registry.engine)
        return lab

    @classmethod
    def upgrade(cls, folder: Path, clock: Clock, environment: Mapping[str, str] | None = None) -> Lab:
        """The lab in `folder`, its database brought to this program's version."""
        lab = cls(folder, read_settings(folder), clock, environment)
        migrate(lab.registry.engine)
        return lab

    def close(self) -> None:
        """Let go of the database."""
        self.registry.engine.dispose()

    # -- keys

    @property
    def identity_hex(self) -> str:
        """The coordinator's public identity key."""
        return self.identity.public_key().public_bytes_raw().hex()

    def utc(self) -> datetime.datetime:
        """Now."""
        return _utc(self._clock)

    def server_certificate(self) -> CertificateFiles:
        """The relay's certificate, a new one if the old one expires within 30 days or lacks a name of `lab.toml`."""
        files = CertificateFiles(self.folder / "ca.pem", self.folder / "relay.pem", self.folder / "relay.key")
        now = _utc(self._clock)
        try:
            present = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        except (OSError, ValueError):
            present = None
        if present is None or days_left(present, now) <= WARNING_DAYS or not _covers(present, self.settings):
            return self.authority.server(self.folder, server_names(self.settings), now)
        return files

    def metrics_token(self) -> str:
        """What a request for /v1/metrics must show.

        Raises: DataError: LAB_MISSING.
        """
        try:
            return (self.folder / "metrics.token").read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise DataError("LAB_MISSING", "metrics.token cannot be read", "restore it, or write a new one") from error

    def warnings(self) -> list[str]:
        """Sentences on what expires within 30 days."""
        now = _utc(self._clock)
        found = []
        if (days := days_left(self.authority.certificate, now)) <= WARNING_DAYS:
            found.append(f"the lab's authority expires in {days} days; make a new lab and enrol everyone again")
        for item in self.registry.institutions():
            days = (item.certificate_expires - self.registry.now()) // 86_400
            if item.state == "active" and days <= WARNING_DAYS:
                found.append(f"the certificate of {item.name} expires in {days} days; it runs `concordat-party renew`")
        return found

    # -- enrolment

    def invite(self, name: str, hours: int = INVITATION_HOURS) -> str:
        """A token for `name`, good once within `hours`.

        Raises: ContractViolationError: NAME_INVALID, NAME_TAKEN, NAME_REVOKED; DataError: INVITATION_HOURS.
        """
        check_name(name)
        if not 1 <= hours <= LONGEST_INVITATION_HOURS:
            raise DataError(
                "INVITATION_HOURS", f"a token lives from 1 to {LONGEST_INVITATION_HOURS} hours", "choose within these"
            )
        token = EnrolmentToken(self.settings.address, secrets.token_bytes(SECRET_BYTES), self.authority.fingerprint)
        self.registry.invite(name, token.hash(), self.registry.now() + hours * 3600)
        return token.encode()

    def enrol(
        self, token: EnrolmentToken, name: str, identity: bytes, request: bytes, identity_proof: bytes, tls_proof: bytes
    ) -> Enrolled:
        """Enter an institution and sign its certificate.

        Args: identity: raw Ed25519 public key; request: PKCS #10 in PEM form; the proofs: both keys' signatures over
            `enrolment_statement`.
        Raises: ContractViolationError: NAME_INVALID, NAME_TAKEN, NAME_REVOKED, IDENTITY_TAKEN.
            TransportError: ENROLMENT_PROOF_INVALID, TOKEN_UNKNOWN, TOKEN_EXPIRED, TOKEN_USED, TOKEN_OTHER_NAME.
        """
        check_name(name)
        if identity == self.identity.public_key().public_bytes_raw():
            raise ContractViolationError("IDENTITY_TAKEN", "this is the lab's own identity key", "make a new one")
        key = _requested_key(request, name)
        statement = enrolment_statement(name, identity, _der(key), self.authority.fingerprint)
        try:
            Ed25519PublicKey.from_public_bytes(identity).verify(identity_proof, statement)
            key.verify(tls_proof, statement, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError) as error:
            raise _proof_invalid() from error
        signed: list[x509.Certificate] = []
        digest = hashlib.sha256(statement).hexdigest()
        self.registry.enrol(token.hash(), name, identity.hex(), digest, lambda: self._issue(name, key, signed))
        return self._answer(signed[-1])

    def renew(self, name: str, request: bytes) -> Enrolled:
        """A new certificate for an enrolled institution, whose signed request this is.

        Raises: TransportError: ENROLMENT_PROOF_INVALID, MEMBER_REVOKED.
        """
        key = _requested_key(request, name)
        signed: list[x509.Certificate] = []
        self.registry.renew(name, lambda: self._issue(name, key, signed))
        return self._answer(signed[-1])

    # -- contracts and jobs: what the lab checks spares everyone noise; agents check again, and only that counts

    def propose(self, proposer: str, document: bytes) -> tuple[str, bool]:
        """Keep a proposed contract; its hash, and whether it is new.

        Raises: ContractViolationError: what `SignedContract.decode`, `check_signatures` and `Registry.propose` raise;
            CONTRACT_OTHER_LAB: it names another coordinator than this one.
        """
        signed = SignedContract.decode(document)
        if signed.contract.member(COORDINATOR).identity != self.identity_hex:
            raise ContractViolationError(
                "CONTRACT_OTHER_LAB", "the contract names another identity for the coordinator", "compare fingerprints"
            )
        signed.check_signatures()
        created = self.registry.propose(proposer, signed)
        return signed.contract.hash().hex(), created

    def sign(self, digest: str, name: str, signature: str) -> ContractRecord:
        """Keep a party's signature; when every party has signed, add the lab's own if `countersign` says so.

        Raises: ContractViolationError: CONTRACT_UNKNOWN, CONTRACT_SIGNATURE_INVALID.
        """
        contract = self.registry.contract(digest, name).signed.contract
        SignedContract(contract, ((name, signature),)).check_signatures()
        record = self.registry.sign_contract(digest, name, signature)
        names = {signer for signer, _ in record.signed.signatures}
        if self.settings.countersign == "automatic" and names == set(contract.parties.all):
            return self.registry.sign_contract(digest, COORDINATOR, contract.sign(self.identity))
        return record

    def submit(self, submitter: str, document: bytes) -> tuple[JobRecord, bool]:
        """Keep a job document; the job, and whether it is new. The same bytes again are the same job.

        Raises: ContractViolationError: what `SignedJob.decode` and `verify`, `check_active` and `Registry.submit`
            raise; RecipeError: its recipe is not one.
        """
        signed = SignedJob.decode(document)
        wanted = signed.document
        try:
            present = self.registry.job(wanted.job, submitter, wanted.attempt)
        except ContractViolationError:
            present = None
        if present is not None and present.signed == signed:
            return present, False
        record = self.registry.contract(wanted.contract_hash, submitter)
        successors = [
            other.signed
            for other in self.registry.contracts(submitter)
            if other.signed.contract.supersedes == wanted.contract_hash
        ]
        now = self.registry.now()
        contract = check_active(record.signed, record.events, now, successors)
        signed.verify(contract, now, _EveryNonce())
        recipe_from_canonical(wanted.recipe.encode())
        created = self.registry.submit(submitter, signed)
        return self.registry.job(wanted.job, submitter, wanted.attempt), created

    def _issue(self, name: str, key: ec.EllipticCurvePublicKey, signed: list[x509.Certificate]) -> IssuedFacts:
        certificate = self.authority.client(name, key, _utc(self._clock))
        signed.append(certificate)
        return IssuedFacts(str(certificate.serial_number), int(certificate.not_valid_after_utc.timestamp()))

    def _answer(self, certificate: x509.Certificate) -> Enrolled:
        return Enrolled(certificate.public_bytes(serialization.Encoding.PEM).decode(), self.authority.pem)

    def _database_url(self) -> str:
        database = self.settings.database
        if database.url_env is not None:
            url = self._environment.get(database.url_env, "")
        elif database.url_file is not None:
            try:
                url = (self.folder / database.url_file).read_text(encoding="utf-8").strip()
            except (OSError, ValueError):
                url = ""
        else:
            return URL.create("sqlite", database=str(self.folder / "lab.db")).render_as_string(hide_password=False)
        if not url:
            raise DataError(
                "DATABASE_URL_INVALID",
                "the environment variable or file that lab.toml names holds no database URL",
                "write postgresql+psycopg://user:password@host/database into it",
            )
        return url


class _EveryNonce:
    """The lab keeps no list of its own of job nonces: a job document is one row, whoever sends it again."""

    def spend(self, nonce: str) -> bool:
        """See `protocols.contract.SpentNonces.spend`."""
        return True


def server_names(settings: LabSettings) -> Sequence[str]:
    """What the relay's certificate is made out to."""
    return tuple(dict.fromkeys((host_of(settings.address), *settings.names, "localhost", "127.0.0.1")))


def read_settings(folder: Path) -> LabSettings:
    """The settings in `lab.toml`.

    Raises: DataError: LAB_MISSING, LAB_SETTINGS_INVALID.
    """
    try:
        document = parse_toml((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        settings = LabSettings.model_validate(document)
    except OSError as error:
        raise DataError(
            "LAB_MISSING", "the folder holds no lab", "make one with `concordat init`, or name another with --folder"
        ) from error
    except (ValidationError, ValueError, RecursionError) as error:
        raise _settings_invalid("lab.toml is not TOML, has an unknown key, or a value of the wrong type") from error
    _check(settings)
    return settings


def _check(settings: LabSettings) -> None:
    if not is_address(settings.address):
        raise _settings_invalid("the address is not of the form host:port")
    if settings.database.url_env is not None and settings.database.url_file is not None:
        raise _settings_invalid("the database's URL is in a variable or in a file, not in both")
    for name in settings.names:
        if not is_address(f"{name}:1") and not is_address(f"[{name}]:1"):
            raise _settings_invalid("a name of the lab is neither a host name nor an IP address")


def _settings_invalid(sentence: str) -> DataError:
    return DataError("LAB_SETTINGS_INVALID", sentence, "compare lab.toml with docs/enrolment.md")


def _toml(settings: LabSettings) -> str:
    quoted = json.dumps  # a TOML basic string escapes as JSON does
    lines = [
        "# Settings of this lab; no secret belongs here (docs/enrolment.md).",
        f"name = {quoted(settings.name, ensure_ascii=False)}",
        f"address = {quoted(settings.address)}  # as institutions reach the lab; every token carries it",
        f"names = {quoted(list(settings.names))}",
        f"countersign = {quoted(settings.countersign)}  # contracts that every party has signed: automatic, never",
    ]
    database = {"url_env": settings.database.url_env, "url_file": settings.database.url_file}
    if any(database.values()):
        lines += ["", "[database]", *(f"{key} = {quoted(value)}" for key, value in database.items() if value)]
    return "\n".join(lines) + "\n"


def _requested_key(request: bytes, name: str) -> ec.EllipticCurvePublicKey:
    """The key in a certificate request that is well formed, signed by that key, and made out to `name`."""
    try:
        parsed = x509.load_pem_x509_csr(request)
        names = [item.value for item in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        key = parsed.public_key()
        valid = parsed.is_signature_valid and names == [name]
    except (ValueError, ConcordatError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise _proof_invalid() from error
    if not valid or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _proof_invalid()
    return key


def _der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _covers(certificate: x509.Certificate, settings: LabSettings) -> bool:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    present = {str(item.value) for item in names}
    return set(server_names(settings)) <= present


def load_identity(path: Path) -> Ed25519PrivateKey:
    """The coordinator's identity key.

    Raises: DataError: IDENTITY_UNREADABLE.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise _identity_unreadable() from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _identity_unreadable()
    return key


def _identity_unreadable() -> DataError:
    return DataError("IDENTITY_UNREADABLE", "the coordinator's identity key cannot be read", "restore identity.pem")


def _proof_invalid() -> TransportError:
    return TransportError(
        "ENROLMENT_PROOF_INVALID",
        "the certificate request, or a signature over it, does not fit the name and the keys",
        "make the keys again with `concordat-party init`, and join with the same name",
    )


def _utc(clock: Clock) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(clock(), datetime.UTC)
