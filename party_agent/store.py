"""What an agent keeps on disk: its folder of artefacts, spent indices, accepted nonces, and its log.

Every file is written whole under another name and renamed, readable by its owner only. The log says what the agent did;
it never holds an id, a label, a value, a share or a key.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from protocols.disclosure import REPEATED, Line
from protocols.errors import DataError
from protocols.spent import index_spent

_KEY_BYTES = 32
_ASK_IT = "check the folder's permissions and the free space of its disk"


class Folder:
    """A party's own folder.

    Raises: DataError: FOLDER_UNUSABLE.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise folder_unusable() from error

    def write_json(self, name: str, document: Mapping[str, Any]) -> Path:
        """Write `document` as JSON text."""
        return self.write(name, json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False).encode())

    def write(self, name: str, data: bytes) -> Path:
        """Write `data` to `name`, all or nothing."""
        target = self.path / name
        with self._part(name, data) as part:
            part.replace(target)
        return target

    def key(self, name: str) -> bytes:
        """32 random bytes of this agent's own, made when first asked for; processes that ask at once get the same."""
        target = self.path / name
        if not target.exists():
            with self._part(name, os.urandom(_KEY_BYTES)) as part, contextlib.suppress(FileExistsError):
                os.link(part, target)
        return target.read_bytes()

    @contextlib.contextmanager
    def _part(self, name: str, data: bytes) -> Iterator[Path]:
        """`data` on disk under a name of this process's and thread's own, which is gone afterwards."""
        part = self.path / f".{name}.{os.getpid()}-{threading.get_ident()}.part"
        try:
            self.clear_parts(name)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield part
        except OSError as error:
            raise folder_unusable() from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def clear_parts(self, name: str | None = None) -> None:
        """Remove what processes that were killed while they wrote `name`, or anything in here, left behind."""
        found = self.path.rglob(".*.part") if name is None else self.path.glob(f".{glob.escape(name)}.*.part")
        for part in found:
            writer = part.name.removesuffix(".part").rpartition(".")[2].partition("-")[0]
            if not writer.isdigit() or not _runs(int(writer)):
                part.unlink(missing_ok=True)

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in `name`.

        Raises: DataError: MODEL_MISSING: there is no such file; MODEL_UNREADABLE: it is not a JSON object.
        """
        try:
            document = json.loads((self.path / name).read_bytes())
        except FileNotFoundError as error:
            raise DataError(
                "MODEL_MISSING", f"the folder has no {name}", "train first, or name another folder"
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise DataError("MODEL_UNREADABLE", f"{name} cannot be read", _ASK_IT) from error
        if not isinstance(document, dict):
            raise DataError("MODEL_UNREADABLE", f"{name} is not what this agent wrote", "restore it from a backup")
        return document


class FileSpentIndices:
    """`SpentIndices` in an append-only file, synced before `spend` returns."""

    def __init__(self, path: Path) -> None:
        self._lines = _AppendOnly(path)

    def spend(self, kind: str, index: int) -> None:
        """See `SpentIndices.spend`."""
        if not self._lines.add(f"{kind}\t{index}"):
            raise index_spent()

    def count(self, kind: str, *, prefix: bool = False) -> int:
        """How many indices of this kind are spent, or of all kinds that begin so."""
        return self._lines.count(kind if prefix else f"{kind}\t")


class FileNonces:
    """The nonces of the job documents that this agent accepted (`SpentNonces`)."""

    def __init__(self, path: Path) -> None:
        self._lines = _AppendOnly(path)

    def spend(self, nonce: str) -> bool:
        """Accept `nonce`; False if it was accepted before."""
        return self._lines.add(nonce)


class LedgerJournal:
    """Every addition to a job's ledger, over all attempts, written before it is sent or used."""

    def __init__(self, path: Path, attempt: int) -> None:
        self._attempt = attempt
        self._earlier = read_journal(path)
        try:
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8")
            if path.stat().st_size:
                self._file.write("\n")  # a loss of power may have cut the last line off
        except OSError as error:
            raise folder_unusable() from error

    def write(self, line: Line) -> None:
        """Note one addition."""
        row = [self._attempt, line.to, line.stage, line.source, line.what, line.nature, line.numbers]
        try:
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise folder_unusable() from error

    def earlier(self, kept: Mapping[str, int]) -> list[Line]:
        """What earlier attempts noted. kept: stage -> the attempt whose artefact is used; all else was broken off."""
        return [
            line if kept.get(line.stage) == attempt else replace(line, stage=line.stage + REPEATED)
            for attempt, line in self._earlier
        ]


def journal_path(folder: Folder, job: str) -> Path:
    """Where the journal of a job lies."""
    return folder.path / f"ledger-{job}.jsonl"


def read_journal(path: Path) -> list[tuple[int, Line]]:
    """Every addition noted so far, with its attempt; none if there is no journal.

    Raises: DataError: FOLDER_UNUSABLE.
    """
    try:
        rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except OSError as error:
        raise folder_unusable() from error
    noted = []
    for row in rows:
        try:
            attempt, *fields = json.loads(row)
            noted.append((attempt, Line(*fields)))
        except (ValueError, TypeError):
            continue  # the line that a loss of power cut off was not sent either
    return noted


class Log:
    """The agent's own log: one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: str, **fields: str | int | float) -> None:
        """Append one event. Fields are counts, names of stages and codes; never data."""
        line = json.dumps({"at": round(time.time(), 3), "event": event, **fields}, ensure_ascii=False)
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise folder_unusable() from error


class _AppendOnly:
    """A set of lines on disk."""

    def __init__(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            self._seen = set(text.splitlines())
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            if text and not text.endswith("\n"):
                self._append(b"\n")  # power was lost within a line: what stands there counts, the next begins anew
        except OSError as error:
            raise folder_unusable() from error

    def add(self, line: str) -> bool:
        """Append `line` durably; False if it is there already."""
        if line in self._seen:
            return False
        try:
            self._append(line.encode() + b"\n")
        except OSError as error:
            raise folder_unusable() from error
        self._seen.add(line)
        return True

    def count(self, beginning: str) -> int:
        """How many lines begin so."""
        return sum(line.startswith(beginning) for line in self._seen)

    def _append(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def folder_unusable() -> DataError:
    """The error of an own folder that cannot be read or written."""
    return DataError("FOLDER_UNUSABLE", "the agent cannot write to its own folder", _ASK_IT)
