"""What the labels of each row have already paid for (PROTOCOLS.md section 2.5).

The label budget holds over all providers, calls and contracts on the same rows. The label owner's agent therefore
keeps, for every answer of its gate, the cost and the training rows (as a keyed hash each), written before the answer is
sent. A later job that shares a row with it has so much less to spend, and so has a repeated attempt at the same job.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from party_agent.store import Folder

_KEY_FILE = "rows.key"
_HASH_BYTES = 8


class LabelAccount:
    """The account for one job's training rows.

    Args: home: the agent's folder; job: what the entry is called; ids: canonical ids of the training rows.
    """

    def __init__(self, home: Folder, job: str, ids: Sequence[str]) -> None:
        self._folder = Folder(home.path / "label-account")
        self._job = job
        path = home.path / _KEY_FILE
        if not path.exists():
            home.write(_KEY_FILE, os.urandom(32))
        self._rows = _hashes(path.read_bytes(), ids)

    def spent(self) -> float:
        """The cost of all earlier answers whose rows meet this job's."""
        total = 0.0
        for path in sorted(self._folder.path.glob("*.bin")):
            data = path.read_bytes()
            (cost,) = struct.unpack_from("<d", data)
            rows = np.frombuffer(data, dtype="<u8", offset=8)
            if np.isin(self._rows, rows, assume_unique=True).any():
                total += cost
        return total

    def charge(self, cost: float) -> None:
        """Enter the cost of an answer, durably."""
        self._folder.write(f"{self._job}.bin", struct.pack("<d", cost) + self._rows.astype("<u8").tobytes())


def _hashes(key: bytes, ids: Sequence[str]) -> NDArray[np.uint64]:
    digests = b"".join(hmac.digest(key, name.encode(), hashlib.sha256)[:_HASH_BYTES] for name in ids)
    return np.unique(np.frombuffer(digests, dtype="<u8").astype(np.uint64))
