"""The audit log on disk: `audit.log`, its sealed head in `audit.head`, the peers' receipts in `audit.receipts`.

The one module of `protocols` that touches files: an institution and the lab keep their logs by the same lines, and
neither of their packages imports the other (ADR 16). Every append and every head is synced before it counts. A lock on
`audit.lock` keeps two processes of one owner, daemon and job, from writing at once. What the bytes mean and when they
hold is `protocols/audit.py`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocols.audit import AuditLog, Entry, Head, Receipt, entries_of, verify_stored
from protocols.audit_export import export_document, export_files, zipped
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


class StoredLog:
    """The log in a folder, verified: `log` as it is, `result`, `sealed` head, `receipts` of peers, `owner` by its name.

    Args: called: what the folder is to its owner, for the remedy of an error.
    Raises: DataError: AUDIT_LOG_MISSING, AUDIT_UNWRITABLE, AUDIT_BUSY.
    """

    def __init__(self, folder: Path, identity: Ed25519PublicKey, head_path: Path | None, called: str) -> None:
        medium = FileMedium(folder, head_path)
        self.identity = identity
        self.receipts = tuple(receipt for receipt in ReceiptFile(folder).all() if receipt.head.is_of(identity))
        with medium.exclusive():
            self.log = medium.read()
            encoded = medium.read_head()
            if not self.log and encoded is None and not self.receipts:
                raise DataError("AUDIT_LOG_MISSING", f"the folder has no {LOG_FILE}", f"name {called}")
            self.result = verify_stored(medium, identity, [receipt.head for receipt in self.receipts])
        self.sealed: Head | None = None
        if encoded is not None and (self.result.finding is None or self.result.finding.code != "AUDIT_HEAD_INVALID"):
            self.sealed = Head.decode(encoded)
        opened = next(self.sound_entries(), None)
        self.owner = str(opened.fields.get("owner", "")) if opened else ""

    def sound_entries(self) -> Iterator[Entry]:
        """The entries before the first finding."""
        return entries_of(self.log[: self.result.good_bytes])

    def entries(self, last: int, kind: str | None, job: str | None) -> list[Entry]:
        """The last sound entries of that kind and job; None: of any."""
        found = [e for e in self.sound_entries() if kind in (None, e.kind) and job in (None, e.fields.get("job"))]
        return found[-last:]

    def export(self, suffix: str) -> bytes:
        """The export for a regulator. suffix: '.json' for one document, '.zip' with tables and verifier.

        Raises: DataError: AUDIT_EXPORT_INVALID: another suffix.
        """
        parts = (self.owner, self.log, self.identity, self.result, self.sealed, self.receipts)
        if suffix == ".json":
            return export_document(*parts)
        if suffix == ".zip":
            return zipped(export_files(*parts))
        raise DataError("AUDIT_EXPORT_INVALID", "the file is neither .json nor .zip", "name it audit.zip or audit.json")


def write_export(path: Path, data: bytes) -> None:
    """Write an export, for its owner's eyes only.

    Raises: DataError: FILE_UNWRITABLE.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        raise DataError("FILE_UNWRITABLE", "the export cannot be written", "choose another place for it") from error


def open_audit_log(folder: Path, owner: str, key: Ed25519PrivateKey, head_path: Path | None = None) -> AuditLog:
    """The audit log of `owner`, an institution or the lab, in its folder."""
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
