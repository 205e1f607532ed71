"""Certificates and identities, EC P-256 and Ed25519; keys are written with mode 0600.

`Authority` is for a simulation: valid for a day, its own key never leaves memory, so that nothing can be added to a
simulation once it has begun. `LabAuthority` lives in the lab's folder for years; it signs certificate requests, so that
an institution's TLS key is made at the institution and stays there.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocols.errors import DataError

VALIDITY_HOURS = 24
AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 365
WARNING_DAYS = 30  # before expiry
CLOCK_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class CertificateFiles:
    """PEM files of one end of mutual TLS: the authority it trusts, its certificate, its key."""

    ca: Path
    certificate: Path
    key: Path


class Authority:
    """A certificate authority that lives as long as this object.

    Args: now: start of validity, UTC; hours: length of validity.
    """

    def __init__(self, now: datetime.datetime, hours: int = VALIDITY_HOURS) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._from = now - CLOCK_SKEW
        self._until = now + datetime.timedelta(hours=hours)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Concordat throwaway authority")])
        self._certificate = _sign_authority(self._name, self._key, self._from, self._until)

    def server(self, folder: Path, names: Sequence[str] = ("localhost", "127.0.0.1")) -> CertificateFiles:
        """A server certificate for `names` (DNS names or IP addresses), written to `folder`."""
        return self._issue(folder, "relay", names, ExtendedKeyUsageOID.SERVER_AUTH)

    def client(self, folder: Path, name: str) -> CertificateFiles:
        """A client certificate whose common name is the party's `name`, written to `folder`."""
        return self._issue(folder, name, [name], ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(
        self, folder: Path, common_name: str, names: Sequence[str], purpose: x509.ObjectIdentifier
    ) -> CertificateFiles:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = _sign_leaf(
            subject, key.public_key(), names, purpose, self._name, self._key, self._from, self._until
        )
        folder.mkdir(parents=True, exist_ok=True)
        files = CertificateFiles(folder / "ca.pem", folder / f"{common_name}.pem", folder / f"{common_name}.key")
        write_private(files.ca, self._certificate.public_bytes(serialization.Encoding.PEM))
        write_private(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        write_private(files.key, private_bytes(key))
        return files


class LabAuthority:
    """The certificate authority of a lab; its key lies in the lab's folder.

    Args: certificate: of the authority itself; key: its private key.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, folder: Path, lab: str, now: datetime.datetime) -> LabAuthority:
        """A new authority, `ca.pem` and `ca.key` in `folder`. lab: the lab's name, shown in the certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Concordat {lab}"[:64])])
        certificate = _sign_authority(name, key, now - CLOCK_SKEW, now + datetime.timedelta(days=AUTHORITY_DAYS))
        write_private(folder / "ca.key", private_bytes(key))
        write_private(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))
        return cls(certificate, key)

    @classmethod
    def load(cls, folder: Path) -> LabAuthority:
        """The authority in `folder`.

        Raises: DataError: AUTHORITY_UNREADABLE.
        """
        try:
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
            certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise _authority_unreadable() from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            raise _authority_unreadable()
        return cls(certificate, key)

    @property
    def pem(self) -> str:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the authority's certificate in DER form: what a token carries."""
        return self.certificate.fingerprint(hashes.SHA256())

    def server(self, folder: Path, names: Sequence[str], now: datetime.datetime) -> CertificateFiles:
        """`relay.pem` and `relay.key` for `names` (DNS names or IP addresses), a new key each time."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._leaf("relay", key.public_key(), names, ExtendedKeyUsageOID.SERVER_AUTH, now)
        files = CertificateFiles(folder / "ca.pem", folder / "relay.pem", folder / "relay.key")
        write_private(files.key, private_bytes(key))
        write_private(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
        return files

    def client(self, name: str, key: ec.EllipticCurvePublicKey, now: datetime.datetime) -> x509.Certificate:
        """A client certificate for an institution's own TLS key."""
        return self._leaf(name, key, [name], ExtendedKeyUsageOID.CLIENT_AUTH, now)

    def revocation_list(self, revoked: Sequence[tuple[int, int]], now: datetime.datetime) -> bytes:
        """A CRL in PEM form of (serial number, Unix second of revocation), good for a day."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - CLOCK_SKEW)
            .next_update(now + datetime.timedelta(days=1))
        )
        for serial, second in revoked:
            at = datetime.datetime.fromtimestamp(second, datetime.UTC)
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _leaf(
        self,
        common_name: str,
        key: ec.EllipticCurvePublicKey,
        names: Sequence[str],
        purpose: x509.ObjectIdentifier,
        now: datetime.datetime,
    ) -> x509.Certificate:
        until = min(now + datetime.timedelta(days=CERTIFICATE_DAYS), self.certificate.not_valid_after_utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        issuer = self.certificate.subject
        return _sign_leaf(subject, key, names, purpose, issuer, self._key, now - CLOCK_SKEW, until)


def days_left(certificate: x509.Certificate, now: datetime.datetime) -> int:
    """Whole days until the certificate expires; negative once it has."""
    return (certificate.not_valid_after_utc - now).days


def create_identity(path: Path) -> Ed25519PrivateKey:
    """A new Ed25519 identity key, written to `path` as PKCS #8 PEM with mode 0600."""
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, private_bytes(key))
    return key


def private_bytes(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to `path`, readable and writable by its owner only from the first moment on."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _sign_authority(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, begin: datetime.datetime, end: datetime.datetime
) -> x509.Certificate:
    return (
        _builder(name, key.public_key(), name, key, begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _sign_leaf(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    names: Sequence[str],
    purpose: x509.ObjectIdentifier,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    begin: datetime.datetime,
    end: datetime.datetime,
) -> x509.Certificate:
    return (
        _builder(subject, key, issuer, issuer_key, begin, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    begin: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _authority_unreadable() -> DataError:
    return DataError(
        "AUTHORITY_UNREADABLE", "the lab's certificate authority cannot be read", "restore ca.pem and ca.key"
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
