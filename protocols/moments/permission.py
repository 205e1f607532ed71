"""Whether exact second moments may open: the contract allows them, and they did not open before.

Source: PROTOCOLS.md section 4: "exact, for the named features of a signed recipe, once per contract". A label owner
that could ask twice could choose other columns each time, and solve for a provider's rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from protocols.contract import Contract
from protocols.errors import ContractViolationError
from protocols.moments.layout import MomentKind


class OpenedMoments(Protocol):
    """A durable set of the features of a party whose exact moments were opened, by contract and kind."""

    def spent(self, contract_hash: str, kind: str, features: Sequence[str]) -> bool:
        """Whether one of `features` was marked before."""

    def spend(self, contract_hash: str, kind: str, features: Sequence[str]) -> None:
        """Mark every one of `features`, durably, before returning; all of them or none.

        Raises: ContractViolationError MOMENTS_SPENT: one of them was marked before.
        """


class MemoryOpenedMoments:
    """A set in memory: enough where a party plays one job and ends."""

    def __init__(self) -> None:
        self._opened: set[tuple[str, str, str]] = set()

    def spent(self, contract_hash: str, kind: str, features: Sequence[str]) -> bool:
        """See `OpenedMoments.spent`."""
        return any((contract_hash, kind, feature) in self._opened for feature in features)

    def spend(self, contract_hash: str, kind: str, features: Sequence[str]) -> None:
        """See `OpenedMoments.spend`."""
        if self.spent(contract_hash, kind, features):
            raise moments_spent()
        self._opened |= {(contract_hash, kind, feature) for feature in features}


@dataclass(frozen=True)
class MomentPermission:
    """One party's permission to take part in opening moments.

    contract: verified and in force; opened: what was opened before; search: whether a selection searches around the fit
    of all features: weighted moments are those of that fit then, and not of the model (ADR 18).
    """

    contract: Contract
    opened: OpenedMoments
    search: bool = False

    def left(self, kind: MomentKind, features: Sequence[str]) -> bool:
        """Whether it is there, and not used up for one of these own features."""
        self.contract.check_moments()
        return not self.opened.spent(self.contract.hash().hex(), self._name(kind), features)

    def spend(self, kind: MomentKind, features: Sequence[str]) -> None:
        """Use the permission up, for these own features, before anything computed from them is sent.

        Raises: ContractViolationError: ALGORITHM_NOT_ALLOWED, MOMENTS_SPENT.
        """
        self.contract.check_moments()
        self.opened.spend(self.contract.hash().hex(), self._name(kind), features)

    def _name(self, kind: MomentKind) -> str:
        return "search" if self.search and kind is MomentKind.WEIGHTED else kind.value


def moments_spent() -> ContractViolationError:
    """The error of a second opening."""
    return ContractViolationError(
        "MOMENTS_SPENT",
        "exact second moments of one of these features were opened before under this contract",
        "use the moments that were opened, or have every party sign a new version of the contract",
    )
