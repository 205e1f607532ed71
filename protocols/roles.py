"""The roles of PROTOCOLS.md section 0 and who plays them in one job."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from protocols.errors import LocalProtocolError

COORDINATOR = "coordinator"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")


class Role(Enum):
    """One of the seats at the table; a co-holder is a feature provider with one more duty."""

    LABEL_OWNER = "label owner"
    CO_HOLDER = "co-holder"
    PROVIDER = "feature provider"  # every feature provider, the co-holder among them
    PARTY = "party"  # the label owner and every feature provider
    COORDINATOR = "coordinator"


@dataclass(frozen=True)
class Parties:
    """Who takes part: label owner `A`, feature providers `H_1..H_k` in the order of the contract.

    >>> parties = Parties("bank", ("bureau", "tax"))
    >>> parties.all, parties.co_holder
    (('bank', 'bureau', 'tax'), 'bureau')
    >>> parties.others("bureau")
    ('bank', 'tax')
    """

    label_owner: str
    providers: tuple[str, ...]

    def __post_init__(self) -> None:
        names = self.all
        if not self.providers:
            raise LocalProtocolError("PARTIES_INVALID", "a job needs at least one feature provider")
        if len(set(names)) != len(names) or COORDINATOR in names:
            raise LocalProtocolError("PARTIES_INVALID", "party names must differ, and none may be 'coordinator'")
        if not all(_NAME.fullmatch(name) for name in names):
            raise LocalProtocolError(
                "PARTIES_INVALID", "a party name is a small letter followed by at most 31 of a-z, 0-9, '_' and '-'"
            )

    @property
    def all(self) -> tuple[str, ...]:
        """Every party that owns rows, in role order: A, H_1, ..., H_k."""
        return (self.label_owner, *self.providers)

    @property
    def co_holder(self) -> str:
        """H_1, who holds the other share of the residual."""
        return self.providers[0]

    @property
    def share_holders(self) -> tuple[str, str]:
        """A and H_1."""
        return (self.label_owner, self.co_holder)

    def others(self, name: str) -> tuple[str, ...]:
        """Every party but `name`, in role order."""
        return tuple(party for party in self.all if party != name)

    def seats(self, name: str) -> frozenset[Role]:
        """The roles that `name` plays."""
        if name == COORDINATOR:
            return frozenset({Role.COORDINATOR})
        if name == self.label_owner:
            return frozenset({Role.LABEL_OWNER, Role.PARTY})
        if name == self.co_holder:
            return frozenset({Role.CO_HOLDER, Role.PROVIDER, Role.PARTY})
        if name in self.providers:
            return frozenset({Role.PROVIDER, Role.PARTY})
        raise LocalProtocolError("PARTIES_INVALID", "no such party in this job")
