"""The lab as the agent sees it."""

from __future__ import annotations

from typing import Any, Protocol


class LabPort(Protocol):
    """What the agent asks of the lab; `RestClient` is one."""

    def requests(self, after: int, wait_s: int) -> tuple[list[dict[str, Any]], int]:
        """What has come since number `after`."""

    def contract(self, digest: str) -> dict[str, Any]:
        """One contract with its signatures and events."""

    def model(self, digest: str) -> dict[str, Any]:
        """One model's record and the events on it."""

    def add_model_event(self, digest: str, document: str) -> dict[str, Any]:
        """Deliver a `SignedModelEvent` of ours."""

    def submit(self, document: str) -> dict[str, Any]:
        """Hand in a signed job; the same bytes again are the same job."""

    def report(self, job: str, attempt: int, stage: str, code: str | None = None) -> None:
        """Say how far this agent has come with a job."""

    def send_head(self, to: str, kind: str, document: str) -> None:
        """Pass a head of our audit log, or a receipt, on to another agent."""
