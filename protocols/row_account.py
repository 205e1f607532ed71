"""What the rows of a job have paid for already: budgets that hold over all jobs, contracts and attempts on shared rows.

Source: PROTOCOLS.md section 2.5 (the labels' budget) and sections 3 and 4 (the gradients', and the row sets'). Each
agent keeps its own.
"""

from __future__ import annotations

from typing import Protocol

from protocols.errors import PrivacyError


class RowAccount(Protocol):
    """One purse of these rows; durable at an agent (`party_agent.row_account`)."""

    def spent(self) -> float:
        """All that was entered so far, by this job or another, for a set of rows that meets this one."""

    def entered(self) -> float:
        """Of that, what this entry has paid."""

    def charge(self, cost: float) -> None:
        """Enter what is about to be disclosed, before it is."""


class NoRowAccount:
    """For rows that nothing was ever disclosed on: tests, and single runs in one process."""

    def spent(self) -> float:
        """Nothing."""
        return 0.0

    def entered(self) -> float:
        """Nothing."""
        return 0.0

    def charge(self, cost: float) -> None:
        """Keep nothing."""


def pay_for_row_sets(account: RowAccount, cost: int, limit: int) -> None:
    """Enter row sets times features of one party, once for an entry, within n h(q) / 12 (PROTOCOLS.md section 4).

    Raises: PrivacyError: ROW_SETS.
    """
    due = max(cost - account.entered(), 0)
    _check_row_sets(account.spent() + due, limit)
    if due:
        account.charge(due)
        _check_row_sets(account.spent(), limit)  # a job on the same rows may have paid at the same time


def _check_row_sets(needed: float, limit: int) -> None:
    if needed > limit:
        raise PrivacyError(
            "ROW_SETS",
            f"the sets of rows that this and earlier jobs train on, times features of one party, come to {needed:g}, "
            f"and the smallest own bin stands {limit}",
            "train on exactly the rows of an earlier job, or on rows that none used; fewer features, or larger bins",
        )
