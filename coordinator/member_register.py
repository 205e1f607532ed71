"""Who is enrolled at the lab: institutions, invitations, certificates, and the nonces of signed requests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from coordinator.database import Transactions
from coordinator.tables import Institution, InstitutionState, Invitation, IssuedCertificate, UsedNonce
from protocols.audit import Kind
from protocols.errors import ContractViolationError, TransportError


@dataclass(frozen=True)
class IssuedFacts:
    """What the registry keeps of a certificate. serial: decimal digits; expires: Unix seconds."""

    serial: str
    expires: int


class MemberRegister(Transactions):
    """The part of the registry that knows the members."""

    def invite(self, name: str, token_hash: str, expires: int) -> None:
        """Keep a token's hash; an earlier unused token of the name is void from now on.

        Raises: ContractViolationError: NAME_TAKEN, NAME_REVOKED.
        """
        with self._writing() as session:
            self._check_name_free(session, name)
            self._note(Kind.ADMINISTRATION, action="institution-invited", subject=name)
            session.execute(delete(Invitation).where(Invitation.name == name, Invitation.used.is_(None)))
            session.add(
                Invitation(
                    token_hash=token_hash, name=name, created=self.now(), expires=expires, used=None, used_for=None
                )
            )

    def enrol(
        self, token_hash: str, name: str, identity: str, statement_hash: str, issue: Callable[[], IssuedFacts]
    ) -> None:
        """Spend the token and enter the institution; `issue` signs its certificate once everything else is right.

        The same statement again, as after an answer that was lost, is served again; another one is refused.
        Raises: TransportError: TOKEN_UNKNOWN, TOKEN_EXPIRED, TOKEN_USED, TOKEN_OTHER_NAME.
            ContractViolationError: NAME_TAKEN, NAME_REVOKED, IDENTITY_TAKEN.
        """
        now = self.now()
        with self._writing() as session:
            invitation = session.get(Invitation, token_hash)
            if invitation is None:
                raise _token("TOKEN_UNKNOWN", "the lab has not issued this token, or has issued a newer one")
            if invitation.name != name:
                raise _token("TOKEN_OTHER_NAME", "the token was issued to an institution of another name")
            if now >= invitation.expires:
                raise _token("TOKEN_EXPIRED", "the token has expired")
            if invitation.used is not None:
                if invitation.used_for != statement_hash:
                    raise _token("TOKEN_USED", "the token has been used")
                institution = session.get(Institution, name)
                if institution is None or institution.state != InstitutionState.ACTIVE.value:
                    raise _token("TOKEN_USED", "the token has been used")
                facts = issue()
                institution.serial, institution.certificate_expires = facts.serial, facts.expires
            else:
                self._check_name_free(session, name)
                if session.scalar(select(Institution).where(Institution.identity == identity)) is not None:
                    raise ContractViolationError(
                        "IDENTITY_TAKEN", "another institution is enrolled with this identity key", "make a new one"
                    )
                self._note(Kind.ADMINISTRATION, action="institution-enrolled", subject=name, digest=_key_hash(identity))
                facts = issue()
                invitation.used, invitation.used_for = now, statement_hash
                session.add(
                    Institution(
                        name=name,
                        identity=identity,
                        serial=facts.serial,
                        certificate_expires=facts.expires,
                        state=InstitutionState.ACTIVE.value,
                        joined=now,
                    )
                )
            self._add_certificate(session, name, facts)

    def renew(self, name: str, issue: Callable[[], IssuedFacts]) -> None:
        """Enter a new certificate of an active institution."""
        with self._writing() as session:
            institution = session.get(Institution, name)
            if institution is None or institution.state != InstitutionState.ACTIVE.value:
                raise member_revoked()
            self._note(Kind.ADMINISTRATION, action="certificate-renewed", subject=name)
            facts = issue()
            institution.serial, institution.certificate_expires = facts.serial, facts.expires
            self._add_certificate(session, name, facts)

    def revoke(self, name: str) -> None:
        """Shut an institution out, with all its certificates and tokens.

        Raises: TransportError: MEMBER_UNKNOWN.
        """
        with self._writing() as session:
            institution = session.get(Institution, name)
            if institution is None:
                raise TransportError(
                    "MEMBER_UNKNOWN", "no enrolled institution has this name", "see `concordat members`"
                )
            self._note(Kind.ADMINISTRATION, action="institution-revoked", subject=name)
            institution.state = InstitutionState.REVOKED.value
            session.execute(delete(Invitation).where(Invitation.name == name, Invitation.used.is_(None)))
            for item in session.scalars(select(IssuedCertificate).where(IssuedCertificate.name == name)):
                item.revoked = item.revoked or self.now()

    def institutions(self) -> list[Institution]:
        """All, by name."""
        with self._reading() as session:
            return list(session.scalars(select(Institution).order_by(Institution.name)))

    def admit(self, name: str, serial: int) -> None:
        """Raise unless an institution may connect with the certificate of this serial number: only its latest counts.

        Raises: TransportError: MEMBER_REVOKED, CERTIFICATE_SUPERSEDED, CERTIFICATE_UNKNOWN: the lab has not issued it
            to `name`, or was restored from a backup that is older than it.
        """
        with self._reading() as session:
            institution = session.get(Institution, name)
            issued = session.get(IssuedCertificate, str(serial))
        if institution is None or issued is None or issued.name != name:
            raise TransportError(
                "CERTIFICATE_UNKNOWN", "the lab's register has no such certificate of this institution", _RENEW
            )
        if issued.revoked is not None or institution.state != InstitutionState.ACTIVE.value:
            raise member_revoked()
        if institution.serial != issued.serial:
            raise TransportError(
                "CERTIFICATE_SUPERSEDED", "a newer certificate of this institution has taken its place", _RENEW
            )

    def revoked_among(self, serials: Collection[int]) -> frozenset[int]:
        """Those of `serials` that are revoked."""
        if not serials:
            return frozenset()
        listed = select(IssuedCertificate.serial).where(
            IssuedCertificate.serial.in_([str(serial) for serial in serials]), IssuedCertificate.revoked.is_not(None)
        )
        with self._reading() as session:
            return frozenset(int(serial) for serial in session.scalars(listed))

    def is_active(self, name: str) -> bool:
        """Whether an institution of this name is enrolled and not revoked."""
        with self._reading() as session:
            institution = session.get(Institution, name)
            return institution is not None and institution.state == InstitutionState.ACTIVE.value

    def identity_of(self, name: str) -> Ed25519PublicKey | None:
        """The identity key of an institution, revoked ones included, or None."""
        with self._reading() as session:
            institution = session.get(Institution, name)
        if institution is None:
            return None
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(institution.identity))

    def revoked_certificates(self) -> list[tuple[int, int]]:
        """(serial number, Unix second) of every revoked certificate that has not expired."""
        with self._reading() as session:
            rows = session.scalars(
                select(IssuedCertificate).where(
                    IssuedCertificate.revoked.is_not(None), IssuedCertificate.expires > self.now()
                )
            )
            return [(int(row.serial), row.revoked or 0) for row in rows]

    def spend(self, name: str, nonce: str, expires: int) -> bool:
        """See `protocols.signed_request.RequestNonces.spend`. Who was shut out is told so here, its signature checked.

        Raises: TransportError: MEMBER_REVOKED.
        """
        key = f"{name}:{nonce}"
        with self._writing(quiet=True) as session:
            institution = session.get(Institution, name)
            if institution is None or institution.state != InstitutionState.ACTIVE.value:
                raise member_revoked()
            if session.get(UsedNonce, key) is not None:
                return False
            session.add(UsedNonce(nonce=key, expires=expires))
        return True

    def forget_nonces(self) -> None:
        """Drop the nonces whose window is over."""
        with self._writing(quiet=True) as session:
            session.execute(delete(UsedNonce).where(UsedNonce.expires < self.now() - 60))

    def _check_name_free(self, session: Session, name: str) -> None:
        institution = session.get(Institution, name)
        if institution is None:
            return
        if institution.state == InstitutionState.REVOKED.value:
            raise ContractViolationError(
                "NAME_REVOKED", "an institution of this name was revoked; its name is not given again", "choose another"
            )
        raise ContractViolationError("NAME_TAKEN", "an institution of this name is enrolled", "choose another name")

    def _add_certificate(self, session: Session, name: str, facts: IssuedFacts) -> None:
        session.add(
            IssuedCertificate(serial=facts.serial, name=name, issued=self.now(), expires=facts.expires, revoked=None)
        )


def member_revoked() -> TransportError:
    """The institution was shut out."""
    return TransportError(
        "MEMBER_REVOKED", "this institution's enrolment was revoked", "ask the operator of the lab for the reason"
    )


def _key_hash(identity: str) -> str:
    return hashlib.sha256(bytes.fromhex(identity)).hexdigest()


def _token(code: str, sentence: str) -> TransportError:
    return TransportError(code, sentence, "ask the lab's operator for a new token: `concordat invite NAME`")


_RENEW = "run `concordat-party renew`, then connect again"
