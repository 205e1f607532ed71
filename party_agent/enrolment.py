"""An institution's keys, and how it joins a lab: both keys are made here and stay here.

agent.toml     settings                        tls/<name>.key  EC P-256, for TLS
identity.pem   Ed25519, signs contracts        tls/<name>.pem  certificate, signed by the lab
agent.db       peers, data sources             tls/ca.pem      the lab's authority, pinned by the token
"""

from __future__ import annotations

import contextlib
import datetime
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from party_agent.agent_store import AgentSettings, DatabaseReference, open_store, read_settings, write_settings
from party_agent.peers import PeerBook
from party_agent.rest_client import RestClient
from party_agent.store import Folder
from party_agent.transport import TlsFiles, load_identity
from protocols.enrolment import EnrolmentToken, check_name, enrolment_statement
from protocols.errors import DataError, TransportError

WARNING_DAYS = 30  # before a certificate expires

Clock = Callable[[], float]


@dataclass(frozen=True)
class CertificateStatus:
    """days_left: whole days, negative once expired; warning: a sentence, or ''."""

    days_left: int
    warning: str


def create_institution(folder: Path, name: str, database: DatabaseReference | None = None) -> Ed25519PublicKey:
    """Make the institution's folder with both keys; its public identity key.

    Raises: ContractViolationError: NAME_INVALID; DataError: IDENTITY_EXISTS: the folder has one, which is never
        overwritten; FOLDER_UNUSABLE.
    """
    check_name(name)
    if any((folder / present).exists() for present in ("identity.pem", "agent.toml")):
        raise DataError(
            "IDENTITY_EXISTS", "the folder is an institution's already; its identity is kept", "name a new folder"
        )
    own = Folder(folder)
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
    tls = Folder(folder / "tls")
    tls.write(f"{name}.key", _private_bytes(ec.generate_private_key(ec.SECP256R1())))
    identity = Ed25519PrivateKey.generate()
    write_settings(folder, AgentSettings(name=name, database=database or DatabaseReference()))
    open_store(folder).dispose()
    own.write("identity.pem", _private_bytes(identity))
    return identity.public_key()


def join(folder: Path, token: str, clock: Clock = time.time) -> AgentSettings:
    """Enrol the institution in `folder` with the lab whose token this is; the settings, completed.

    The lab's authority is compared with the token's fingerprint before anything that matters is sent. If the answer is
    lost, the same token can be used again from the same folder.
    Raises: TransportError: TOKEN_MALFORMED, LAB_FINGERPRINT_MISMATCH: someone else answers at the lab's address;
        LAB_ANSWER_INVALID, what `RestClient` raises. DataError: AGENT_MISSING, ALREADY_JOINED, KEY_UNREADABLE.
    """
    settings = read_settings(folder)
    if settings.lab:
        raise DataError("ALREADY_JOINED", "the institution has joined a lab", "use a folder of its own for another lab")
    parsed = EnrolmentToken.decode(token.strip())
    identity = load_identity(folder / "identity.pem")
    key = _load_tls_key(folder, settings.name)
    ca = _pinned_authority(parsed)
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    own = identity.public_key().public_bytes_raw()
    statement = enrolment_statement(settings.name, own, public, parsed.ca_fingerprint)
    with RestClient(parsed.address, ca, clock=clock) as lab:
        answer = lab.enrol(
            {
                "token": parsed.encode(),
                "name": settings.name,
                "identity": own.hex(),
                "csr": _certificate_request(settings.name, key),
                "identity_signature": identity.sign(statement).hex(),
                "tls_signature": key.sign(statement, ec.ECDSA(hashes.SHA256())).hex(),
            }
        )
    certificate = _checked_certificate(answer, ca, settings.name, key)
    lab_identity = _identity_in(answer)
    tls = Folder(folder / "tls")
    tls.write("ca.pem", ca.encode())
    tls.write(f"{settings.name}.pem", certificate)
    with PeerBook.open(folder, clock) as book:
        book.pin_lab(lab_identity)
    joined = replace_settings(settings, lab=parsed.address, ca_fingerprint=parsed.ca_fingerprint.hex())
    write_settings(folder, joined)
    return joined


def renew(folder: Path, clock: Clock = time.time) -> CertificateStatus:
    """A new TLS key and certificate; the old ones stay until both new ones are here.

    Raises: what `lab_client` and `RestClient.renew` raise.
    """
    settings = read_settings(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    ca = _read_authority(folder)
    with lab_client(folder, clock) as lab:
        answer = lab.renew(_certificate_request(settings.name, key))
    certificate = _checked_certificate(answer, ca, settings.name, key)
    tls = Folder(folder / "tls")
    # One file holds both for the moment between the two renames: a crash in between is mended by `tls_files`.
    tls.write("renewed.pem", certificate + _private_bytes(key))
    _install_renewed(folder, settings.name)
    return certificate_status(folder, clock)


def tls_files(folder: Path) -> TlsFiles:
    """Authority, certificate and key of the institution in `folder`.

    Raises: what `read_settings` raises; DataError: NOT_JOINED.
    """
    settings = read_settings(folder)
    if not settings.lab:
        raise _not_joined()
    _install_renewed(folder, settings.name)
    tls = folder / "tls"
    return TlsFiles(tls / "ca.pem", tls / f"{settings.name}.pem", tls / f"{settings.name}.key")


def lab_client(folder: Path, clock: Clock = time.time) -> RestClient:
    """A client that signs as the institution in `folder`.

    Raises: what `read_settings` raises; DataError: NOT_JOINED, IDENTITY_UNREADABLE.
    """
    settings = read_settings(folder)
    if not settings.lab:
        raise _not_joined()
    identity = load_identity(folder / "identity.pem")
    return RestClient(settings.lab, _read_authority(folder), settings.name, identity, clock=clock)


def certificate_status(folder: Path, clock: Clock = time.time) -> CertificateStatus:
    """How long the institution's certificate is good for, with a warning from 30 days before its end.

    Raises: DataError: NOT_JOINED.
    """
    try:
        certificate = x509.load_pem_x509_certificate(tls_files(folder).certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise _not_joined() from error
    now = datetime.datetime.fromtimestamp(clock(), datetime.UTC)
    days = (certificate.not_valid_after_utc - now).days
    if days > WARNING_DAYS:
        return CertificateStatus(days, "")
    state = "has expired" if days < 0 else f"expires in {days} days"
    return CertificateStatus(days, f"the certificate of this institution {state}; run `concordat-party renew`")


def replace_settings(settings: AgentSettings, **changed: str) -> AgentSettings:
    """`settings` with some fields changed."""
    return settings.model_copy(update=changed)


def _pinned_authority(token: EnrolmentToken) -> str:
    """PEM of the lab's authority: asked for over a connection that proves nothing, then compared with the token."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with RestClient(token.address, "", context=context) as anyone:
        text = anyone.authority()
    try:
        ca = x509.load_pem_x509_certificate(text.encode())
    except ValueError as error:
        raise _answer_invalid() from error
    if ca.fingerprint(hashes.SHA256()) != token.ca_fingerprint:
        raise TransportError(
            "LAB_FINGERPRINT_MISMATCH",
            "who answers at the lab's address is not the lab that issued the token; nothing was sent",
            "tell the lab's operator: someone may stand between you, or the lab was made anew and owes you a new token",
        )
    return ca.public_bytes(serialization.Encoding.PEM).decode()


def _checked_certificate(answer: dict[str, Any], ca: str, name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The certificate in the lab's answer, if it is ours and of the pinned authority."""
    try:
        certificate = x509.load_pem_x509_certificate(str(answer.get("certificate")).encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.encode()))
        names = [item.value for item in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _answer_invalid() from error
    if names != [name] or certificate.public_key() != key.public_key():
        raise _answer_invalid()
    return certificate.public_bytes(serialization.Encoding.PEM)


def _identity_in(answer: dict[str, Any]) -> str:
    try:
        identity = bytes.fromhex(str(answer.get("lab_identity")))
        Ed25519PublicKey.from_public_bytes(identity)
    except ValueError as error:
        raise _answer_invalid() from error
    return identity.hex()


def _certificate_request(name: str, key: ec.EllipticCurvePrivateKey) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _install_renewed(folder: Path, name: str) -> None:
    """Put a renewed certificate and its key in place; does nothing if there is none."""
    waiting = folder / "tls" / "renewed.pem"
    try:
        both = waiting.read_bytes()
        begin = both.index(b"-----BEGIN PRIVATE KEY-----")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise _key_unreadable() from error
    tls = Folder(folder / "tls")
    tls.write(f"{name}.key", both[begin:])
    tls.write(f"{name}.pem", both[:begin])
    waiting.unlink(missing_ok=True)


def _load_tls_key(folder: Path, name: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key((folder / "tls" / f"{name}.key").read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise _key_unreadable() from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _key_unreadable()
    return key


def _read_authority(folder: Path) -> str:
    try:
        return (folder / "tls" / "ca.pem").read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise _not_joined() from error


def _private_bytes(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _not_joined() -> DataError:
    return DataError("NOT_JOINED", "the institution has not joined a lab", "run `concordat-party join TOKEN`")


def _key_unreadable() -> DataError:
    return DataError("KEY_UNREADABLE", "the institution's TLS key cannot be read", "restore tls/ from a backup")


def _answer_invalid() -> TransportError:
    return TransportError(
        "LAB_ANSWER_INVALID", "the lab's answer is not of the form that was agreed", "compare versions with the lab"
    )
