"""What the rows of a job have paid for already: budgets that hold over all jobs, contracts and attempts on shared rows.

Source: PROTOCOLS.md section 2.5 (the labels' budget) and sections 3 and 4 (the gradients'). Each agent keeps its own.
"""

from __future__ import annotations

from typing import Protocol


class RowAccount(Protocol):
    """One purse of these rows; durable at an agent (`party_agent.row_account`)."""

    def spent(self) -> float:
        """All that was entered so far, by this job or another, for a set of rows that meets this one."""

    def charge(self, cost: float) -> None:
        """Enter what is about to be disclosed, before it is."""


class NoRowAccount:
    """For rows that nothing was ever disclosed on: tests, and single runs in one process."""

    def spent(self) -> float:
        """Nothing."""
        return 0.0

    def charge(self, cost: float) -> None:
        """Keep nothing."""
