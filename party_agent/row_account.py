"""What each training row has already paid for (PROTOCOLS.md sections 2.5, 3 and 4), in files of this agent's own.

The label budget and the gradient budget hold over all jobs, attempts and contracts that share a row. The agent
therefore keeps what an answer of the gate costs, and each gradient, with the training rows (as a keyed hash each),
written before it is disclosed. Whatever shares a row with it later has so much less to spend.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from party_agent.store import Folder

_KEY_FILE = "rows.key"
_HASH_BYTES = 8


class Purse(Enum):
    """What the rows pay for. LABELS: F of section 2.5, at the label owner; at every party GRADIENTS: their number, and
    ROW_SETS: sets of rows times features of one other party (section 4).
    """

    LABELS = "label"
    GRADIENTS = "gradient"
    ROW_SETS = "row-set"


class FileRowAccount:
    """A `RowAccount`.

    Args: home: the agent's folder; entry: what pays, a job and attempt; ids: canonical ids of the training rows.
    """

    def __init__(self, home: Folder, purse: Purse, entry: str, ids: Sequence[str]) -> None:
        self._folder = Folder(home.path / f"{purse.value}-account")
        self._rows = _hashes(home.key(_KEY_FILE), ids)
        # One job may pay for several sets of rows, and one that was broken off may have chosen others before.
        self._entry = f"{entry}-{hashlib.sha256(self._rows.tobytes()).hexdigest()[:16]}.bin"
        self._meets: dict[str, bool] = {}  # an entry never changes its rows

    def spent(self) -> float:
        """See `RowAccount.spent`."""
        paths = self._folder.path.glob("*.bin")
        return sum(_cost(path) for path in sorted(paths) if self._shares_rows(path))

    def entered(self) -> float:
        """See `RowAccount.entered`."""
        path = self._folder.path / self._entry
        return _cost(path) if path.exists() else 0.0

    def charge(self, cost: float) -> None:
        """See `RowAccount.charge`; on disk when it returns."""
        self._folder.write(self._entry, struct.pack("<d", self.entered() + cost) + self._rows.astype("<u8").tobytes())

    def _shares_rows(self, path: Path) -> bool:
        if path.name not in self._meets:
            rows = np.frombuffer(path.read_bytes(), dtype="<u8", offset=8)
            self._meets[path.name] = bool(np.isin(self._rows, rows, assume_unique=True).any())
        return self._meets[path.name]


def _cost(path: Path) -> float:
    with path.open("rb") as file:
        return float(struct.unpack("<d", file.read(8))[0])


def _hashes(key: bytes, ids: Sequence[str]) -> NDArray[np.uint64]:
    digests = b"".join(hmac.digest(key, name.encode(), hashlib.sha256)[:_HASH_BYTES] for name in ids)
    return np.unique(np.frombuffer(digests, dtype="<u8").astype(np.uint64))
