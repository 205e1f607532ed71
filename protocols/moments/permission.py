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

    def spend(self, contract_hash: str, kind: str, features: Sequence[str]) -> None:
        """Mark every one of `features`, durably, before returning; all of them or none.

        Raises: ContractViolationError MOMENTS_SPENT: one of them was marked before.
        """


class MemoryOpenedMoments:
    """A set in memory: enough where a party plays one job and ends."""

    def __init__(self) -> None:
        self._opened: set[tuple[str, str, str]] = set()

    def spend(self, contract_hash: str, kind: str, features: Sequence[str]) -> None:
        """See `OpenedMoments.spend`."""
        asked = {(contract_hash, kind, feature) for feature in features}
        if asked & self._opened:
            raise moments_spent()
        self._opened |= asked


@dataclass(frozen=True)
class MomentPermission:
    """One party's permission to take part in opening moments.

    contract: verified and in force; opened: what was opened before.
    """

    contract: Contract
    opened: OpenedMoments

    def spend(self, kind: MomentKind, features: Sequence[str]) -> None:
        """Use the permission up, for these own features, before anything computed from them is sent.

        Raises: ContractViolationError: ALGORITHM_NOT_ALLOWED, MOMENTS_SPENT.
        """
        self.contract.check_moments()
        self.opened.spend(self.contract.hash().hex(), kind.value, features)


def moments_spent() -> ContractViolationError:
    """The error of a second opening."""
    return ContractViolationError(
        "MOMENTS_SPENT",
        "exact second moments of one of these features were opened before under this contract",
        "use the moments that were opened, or have every party sign a new version of the contract",
    )
