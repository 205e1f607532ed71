"""The coordinator's audit log on disk: `audit.log`, its sealed head in `audit.head`, receipts in `audit.receipts`.

The same lines as `party_agent/audit_log.py`, since neither package imports the other; a test keeps them the same.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.audit import AuditLog, Receipt
from protocols.errors import ConcordatError, DataError

LOG_FILE = "audit.log"
HEAD_FILE = "audit.head"
RECEIPTS_FILE = "audit.receipts"

_LOCK_FILE = "audit.lock"
_LOCK_TIMEOUT_S = 30.0
_LOCK_POLL_S = 0.005


class FileMedium:
    """A `Medium` in a folder. `head_path`: keep the sealed head elsewhere, best on another disk.

    Raises: DataError: AUDIT_UNWRITABLE: no right, no space, a failing disk; AUDIT_BUSY: another process holds the log.
    """

    def __init__(self, folder: Path, head_path: Path | None = None, lock_timeout_s: float = _LOCK_TIMEOUT_S) -> None:
        self._log = folder / LOG_FILE
        self._head = head_path or folder / HEAD_FILE
        self._lock = folder / _LOCK_FILE
        self._lock_timeout_s = lock_timeout_s

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `Medium.exclusive`. The kernel gives the lock back when a process dies."""
        with _coded():
            self._lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(descriptor)
            yield
        finally:
            os.close(descriptor)

    def size(self) -> int:
        """See `Medium.size`."""
        with _coded():
            return self._log.stat().st_size if self._log.exists() else 0

    def read(self, start: int = 0) -> bytes:
        """See `Medium.read`."""
        with _coded():
            if not self._log.exists():
                return b""
            with self._log.open("rb") as file:
                file.seek(start)
                return file.read()

    def append(self, data: bytes) -> None:
        """See `Medium.append`."""
        with _coded():
            new = not self._log.exists()
            descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                _sync_folder(self._log.parent)

    def cut(self, size: int) -> None:
        """See `Medium.cut`."""
        with _coded():
            descriptor = os.open(self._log, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.ftruncate(descriptor, size)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def read_head(self) -> bytes | None:
        """See `Medium.read_head`."""
        with _coded():
            return self._head.read_bytes() if self._head.exists() else None

    def write_head(self, data: bytes) -> None:
        """See `Medium.write_head`."""
        part = self._head.with_name(f".{self._head.name}.part")
        with _coded():
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            part.replace(self._head)
            _sync_folder(self._head.parent)

    def _take(self, descriptor: int) -> None:
        deadline = time.monotonic() + self._lock_timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise DataError(
                        "AUDIT_BUSY", "another process keeps the audit log to itself", "end the process that hangs"
                    ) from error
            time.sleep(_LOCK_POLL_S)


class ReceiptFile:
    """The receipts that peers gave for heads of this log, one a line, kept apart from the log."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RECEIPTS_FILE

    def add(self, receipt: Receipt) -> None:
        """Keep `receipt`; the caller has checked `receipt.is_of`.

        Raises: DataError: AUDIT_UNWRITABLE.
        """
        with _coded():
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                _write_all(descriptor, b"\n" + receipt.encode() + b"\n")  # a line cut short by a crash stays alone
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def all(self) -> tuple[Receipt, ...]:
        """Every receipt that can be read; a line cut short by a crash, or altered, is no receipt.

        Raises: DataError: AUDIT_UNWRITABLE: the file is there and cannot be read.
        """
        with _coded():
            lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        receipts = []
        for line in lines:
            try:
                receipts.append(Receipt.decode(line))
            except ConcordatError:
                continue
        return tuple(receipts)


def open_audit_log(folder: Path, owner: str, key: Ed25519PrivateKey, head_path: Path | None = None) -> AuditLog:
    """The audit log of the institution `owner` in its folder."""
    return AuditLog(FileMedium(folder, head_path), owner, key, lambda: int(time.time()))


@contextmanager
def _coded() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            "AUDIT_UNWRITABLE",
            "the audit log cannot be read or written, and nothing is done that cannot be recorded",
            "check the folder's permissions and the free space of its disk",
        ) from error


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
