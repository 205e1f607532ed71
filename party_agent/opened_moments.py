"""Whose exact moments were opened under which contract, in a file of this agent's own (PROTOCOLS.md section 4)."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path

from party_agent.store import folder_unusable
from protocols.moments.permission import moments_spent

OPENED_MOMENTS = "opened-moments.jsonl"


class FileOpenedMoments:
    """`OpenedMoments` in an append-only file of the agent's folder. Jobs of one agent may run at once: it is locked."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def spent(self, contract_hash: str, kind: str, features: Sequence[str]) -> bool:
        """See `OpenedMoments.spent`.

        Raises: DataError: FOLDER_UNUSABLE.
        """
        try:
            known = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        except OSError as error:
            raise folder_unusable() from error
        return not set(known).isdisjoint(_lines(contract_hash, kind, features))

    def spend(self, contract_hash: str, kind: str, features: Sequence[str]) -> None:
        """See `OpenedMoments.spend`; on disk when it returns.

        Raises: ContractViolationError: MOMENTS_SPENT. DataError: FOLDER_UNUSABLE.
        """
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if self.spent(contract_hash, kind, features):
                    raise moments_spent()
                # A blank line first: power may have been lost within the last one, which then was never acted on.
                file.write("\n".join(["", *_lines(contract_hash, kind, features), ""]).encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise folder_unusable() from error


def _lines(contract_hash: str, kind: str, features: Sequence[str]) -> list[str]:
    return [json.dumps([contract_hash, kind, feature]) for feature in features]
