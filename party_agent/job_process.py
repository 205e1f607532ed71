"""The process of one job: its command line, its start and its end, and what it leaves in the job's folder."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from party_agent.job_output import OUTPUT_FILE
from party_agent.store import Folder
from protocols.contract import JobDocument, JobKind
from protocols.errors import DataError

STOP_GRACE_S = 10.0
ASKED_FILE = "asked.csv"  # ids to be scored, at the label owner: written when it asks, and in no document
ASKED_COLUMN = "id"
_ERROR_FILE, _PID_FILE = "error.json", "process.txt"
_FINISHED = b'{"finished": true}\n'
_PR_SET_PDEATHSIG = 1


def command_line(
    document: JobDocument, folder: Path, home: Path, *, name: str, relay: str, source: str, leads: bool
) -> list[str]:
    """What starts a job's process.

    Args: folder: the job's; home: the agent's; source: the data set that is read; leads: whether this institution owns
        the label.
    """
    verb = "score" if document.kind is JobKind.SCORE else "job"
    command = [
        *(sys.executable, "-m", "party_agent", verb, "--folder", str(folder), "--home", str(home)),
        *("--name", name, "--relay", relay, "--source", source, "--connect-timeout-s", "60"),
    ]
    if document.kind is JobKind.SCORE:
        command += ["--model", str(folder.parent / document.model)]
        if leads:
            command += ["--ids", str(folder / ASKED_FILE), "--id", ASKED_COLUMN]
    return command


def check_asked(folder: Path) -> None:
    """Raise unless the ids to be scored lie in the job's folder: without them a job would score every row.

    Raises: DataError: IDS_MISSING.
    """
    if not (folder / ASKED_FILE).is_file():
        raise DataError(
            "IDS_MISSING",
            "a scoring job was asked for in this institution's name, and the ids to be scored are not here",
            "ask for it with `concordat-party jobs request --kind score` in this institution's own folder",
        )


def start(command: list[str], folder: Folder) -> subprocess.Popen[bytes]:
    """Start a job's process; it ends when this one does."""
    (folder.path / _ERROR_FILE).unlink(missing_ok=True)  # of an earlier attempt
    with (folder.path / OUTPUT_FILE).open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"GRPC_VERBOSITY": "ERROR"},
            preexec_fn=_die_with_parent,
        )
    try:
        folder.write(_PID_FILE, f"{process.pid} {_began(process.pid)}".encode())
    except DataError:
        end(process)
        raise
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, in order if it lets itself."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_GRACE_S)


def await_orphan(folder: Path) -> None:
    """Wait until the process that an earlier agent started has ended; end it if it does not."""
    try:
        number, began = (folder / _PID_FILE).read_text().split()
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + STOP_GRACE_S
    while _began(int(number)) == began:
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)
        time.sleep(0.1)


def code_of_orphan(folder: Path) -> str:
    """What a process ended with whose exit code nobody saw."""
    return "OK" if (folder / OUTPUT_FILE).read_bytes().endswith(_FINISHED) else code_of_failed(folder)


def code_of_failed(folder: Path) -> str:
    """What a process that failed left as its code; PARTY_LOST if it left none."""
    try:
        return str(json.loads((folder / _ERROR_FILE).read_bytes())["code"])
    except (OSError, ValueError, KeyError):
        return "PARTY_LOST"


def _began(process: int) -> str:
    """When a living process began, in ticks since the system did: with its number, a name for ever (Linux)."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _die_with_parent() -> None:
    """In the child, before it begins: the kernel ends it when the agent ends, however that happens (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
