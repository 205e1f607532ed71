"""Every error the system raises on purpose: who is to blame, a stable code, a sentence, a remedy.

An error never carries an id, a label, a share, a key or a value of a row. Codes are part of the interface: scripts and
runbooks branch on them, so a code is never renamed.
"""

from __future__ import annotations

from typing import ClassVar


class ConcordatError(Exception):
    """Base of the tree. `code` is stable; `remedy` says who can do what about it.

    >>> error = DataError("COLUMN_MISSING", "column 'y' is not in bank.csv", "name the label column with --label")
    >>> str(error)
    "COLUMN_MISSING: column 'y' is not in bank.csv. Remedy: name the label column with --label."
    """

    default_remedy: ClassVar[str] = "see docs/errors.md for this code"

    def __init__(self, code: str, message: str, remedy: str | None = None) -> None:
        self.code = code
        self.message = message
        self.remedy = remedy or self.default_remedy
        super().__init__(f"{code}: {message}. Remedy: {self.remedy}.")


class DataError(ConcordatError):
    """A party's own file or column is not usable; that party's IT can mend it."""


class RecipeError(ConcordatError):
    """The recipe has an unknown key or a value out of range; the modeller can mend it."""


class PrivacyError(ConcordatError):
    """Going on would disclose more than the protocol or the contract allows."""


class LabelLeakageError(PrivacyError):
    """A step would give away labels beyond the label budget."""


class SmallIntersectionError(PrivacyError):
    """Too few rows in common, or too few for the number of features."""


class ContractViolationError(PrivacyError):
    """A request, or a total on the ledger, that the signed contract does not cover."""


class ModelError(ConcordatError):
    """The fit cannot be completed: not converged, or numerically unsound. Changing the recipe can mend it."""


class ProtocolError(ConcordatError):
    """A protocol was not followed."""


class LocalProtocolError(ProtocolError):
    """Our own code tried something the protocol forbids: a bug here, and nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """A peer sent something the protocol forbids. The sentence stays generic: a detailed refusal is an oracle."""

    default_remedy = "ask the peer's operator for its log of this job; a failed check counts against the abort budget"


class TransportError(ConcordatError):
    """A connection, a certificate or a process failed; the operator can mend it."""


class PeerAbortedError(ConcordatError):
    """A peer ended the job with this code; it is ended here with the same one."""


def check_failed() -> RemoteProtocolError:
    """The one generic error for every failed check on a peer's message (PROTOCOLS.md section 2)."""
    return RemoteProtocolError("CHECK_FAILED", "a check on a message of a peer failed and the job was ended")
