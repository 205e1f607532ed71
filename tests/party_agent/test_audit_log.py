"""The audit log on disk and its commands: several processes, kill -9, a full disk, tampering, the export."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner, Result

from party_agent.audit_commands import audit_app
from protocols.audit import MAX_LINE_BYTES, AuditLog, Event, Head, Kind, disclosure_events, entries_of
from protocols.audit_files import HEAD_FILE, LOG_FILE, RECEIPTS_FILE, FileMedium, ReceiptFile, open_audit_log
from protocols.disclosure import Line
from protocols.errors import DataError

KEY = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\2" * 32)
EVENT = Event(Kind.JOB_STARTED, {"job": "job-1", "attempt": 1})
WRITER = """
import sys, time
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from protocols.audit_files import open_audit_log
from protocols.audit import Event, Kind
log = open_audit_log(Path(sys.argv[1]), "bank", Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
for number in range(int(sys.argv[3])):
    log.append(Event(Kind.JOB_STAGE, {"job": sys.argv[2], "attempt": number, "stage": "align"}))
    print(number, flush=True)
"""


def writer(folder: Path, job: str, entries: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), job, str(entries)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bank's folder with a log of five entries."""
    path = tmp_path / "bank"
    path.mkdir()
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (path / "identity.pem").write_bytes(pem)
    log = opened(path)
    log.append(Event(Kind.CONTRACT_SIGNED, {"contract": "ab" * 32, "contract_id": "pilot-1", "by": "bank"}))
    log.append(EVENT)
    log.append_all(disclosure_events("job-1", 1, [Line("bank", "align", "tax", "matches", "opened", 42)]))
    log.append(Event(Kind.JOB_ENDED, {"job": "job-1", "attempt": 1, "code": "OK"}))
    return path


def opened(folder: Path, key: Ed25519PrivateKey = KEY, owner: str = "bank") -> AuditLog:
    return open_audit_log(folder, owner, key)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(audit_app, [str(argument) for argument in arguments])


# -- the file


def test_log_head_and_receipts_are_the_owners_alone(folder: Path) -> None:
    ReceiptFile(folder).add(
        opened(folder / "tax", OTHER, "tax").receive_head("bank", opened(folder).head(), KEY.public_key())
    )
    for name in (LOG_FILE, HEAD_FILE, RECEIPTS_FILE):
        assert (folder / name).stat().st_mode & 0o777 == 0o600


def test_three_processes_at_once_write_one_chain(tmp_path: Path) -> None:
    processes = [writer(tmp_path, f"job-{number}", 15) for number in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    for process in processes:
        process.communicate()
    result = opened(tmp_path).verify()
    assert (result.sound, result.entries) == (True, 46)
    for number in range(3):
        entries = entries_of((tmp_path / LOG_FILE).read_bytes())
        assert [e.fields["attempt"] for e in entries if e.fields.get("job") == f"job-{number}"] == list(range(15))


def test_what_was_acknowledged_before_a_kill_is_there_and_the_log_goes_on(tmp_path: Path) -> None:
    process = writer(tmp_path, "job-1", 100_000)
    assert process.stdout is not None
    for _ in range(10):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    rest = process.communicate()[0].split()
    acknowledged = int(rest[-1]) if rest else 9
    opened(tmp_path).append(EVENT)
    assert opened(tmp_path).verify().sound
    stages = [e for e in entries_of((tmp_path / LOG_FILE).read_bytes()) if e.kind == "job stage"]
    assert len(stages) >= acknowledged + 1


def test_a_full_disk_is_a_code_and_the_next_append_puts_the_log_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = os.write, [100]

    def nearly_full(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "no space left")
        fits, room[0] = data[: room[0]], 0
        return write(descriptor, fits)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", nearly_full)
        with pytest.raises(DataError) as caught:
            opened(folder).append(EVENT)
    assert caught.value.code == "AUDIT_UNWRITABLE"
    assert json.loads(run("verify", "--folder", folder, "--json").stdout)["first_finding"]["code"] == "AUDIT_TORN"
    opened(folder).append(EVENT)
    kinds = [entry.kind for entry in entries_of((folder / LOG_FILE).read_bytes())]
    assert kinds[-2:] == ["log repaired", "job started"]
    assert opened(folder).verify().sound


def test_a_log_that_another_process_never_lets_go_is_a_code(folder: Path) -> None:
    with (folder / "audit.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = AuditLog(FileMedium(folder, lock_timeout_s=0.05), "bank", KEY, lambda: 0)
        with pytest.raises(DataError) as caught:
            log.append(EVENT)
    assert caught.value.code == "AUDIT_BUSY"
    log.append(EVENT)


def test_the_sealed_head_may_lie_on_another_disk(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    head = tmp_path / "elsewhere" / "bank.head"
    log = open_audit_log(tmp_path / "bank", "bank", KEY, head)
    log.append(EVENT)
    assert log.verify().sound
    assert Head.decode(head.read_bytes()).sequence == 1
    assert not (tmp_path / "bank" / HEAD_FILE).exists()


def test_a_receipt_after_one_cut_short_by_a_crash_is_read(folder: Path) -> None:
    receipt = opened(folder / "tax", OTHER, "tax").receive_head("bank", opened(folder).head(), KEY.public_key())
    (folder / RECEIPTS_FILE).write_bytes(receipt.encode()[:50])
    ReceiptFile(folder).add(receipt)
    assert ReceiptFile(folder).all() == (receipt,)


def test_appending_reads_no_more_than_the_end_of_a_long_log(tmp_path: Path) -> None:
    read: list[int] = []

    class Counting(FileMedium):
        def read(self, start: int = 0) -> bytes:
            data = super().read(start)
            read.append(len(data))
            return data

    log = AuditLog(Counting(tmp_path), "bank", KEY, lambda: 0)
    log.append_all([EVENT] * 40)
    read.clear()
    log.append(EVENT)
    assert sum(read) == MAX_LINE_BYTES < (tmp_path / LOG_FILE).stat().st_size / 2


# -- the commands


def test_verify_says_so_when_the_log_is_sound(folder: Path) -> None:
    result = run("verify", "--folder", folder)
    assert result.exit_code == 0
    assert "sound: 5 entries; no peer holds a head" in result.stdout
    assert json.loads(run("verify", "--folder", folder, "--json").stdout)["sound"] is True


def test_verify_names_the_first_bad_entry_and_exits_not_zero(folder: Path) -> None:
    log = folder / LOG_FILE
    log.write_bytes(log.read_bytes().replace(b'"opened":42', b'"opened":41'))
    result = run("verify", "--folder", folder)
    assert result.exit_code == 1
    assert "AUDIT_SIGNATURE_INVALID: entry 3: it was altered" in result.stderr
    document = json.loads(run("verify", "--folder", folder, "--json").stdout)
    assert (document["sound"], document["first_finding"]["entry"]) == (False, 3)


def test_a_log_and_head_rolled_back_together_are_found_by_a_receipt(folder: Path) -> None:
    older = {name: (folder / name).read_bytes() for name in (LOG_FILE, HEAD_FILE)}
    opened(folder).append(EVENT)
    ReceiptFile(folder).add(
        opened(folder / "tax", OTHER, "tax").receive_head("bank", opened(folder).head(), KEY.public_key())
    )
    assert "1 heads that peers hold agree" in run("verify", "--folder", folder).stdout
    for name, data in older.items():
        (folder / name).write_bytes(data)
    assert "AUDIT_TRUNCATED: entry 5" in run("verify", "--folder", folder).stderr


def test_a_peers_log_is_verified_against_its_heads_in_the_own_log(folder: Path, tmp_path: Path) -> None:
    tax = tmp_path / "tax"
    theirs = opened(tax, OTHER, "tax")
    theirs.append(EVENT)
    opened(folder).receive_head("tax", theirs.head(), OTHER.public_key())
    handed = ["--log", tax / LOG_FILE, "--peer", "tax", "--identity", OTHER.public_key().public_bytes_raw().hex()]
    assert "sound: 2 entries; 1 heads" in run("verify", "--folder", folder, *handed).stdout
    (tax / LOG_FILE).write_bytes((tax / LOG_FILE).read_bytes().splitlines(keepends=True)[0])
    assert "AUDIT_TRUNCATED: entry 1" in run("verify", "--folder", folder, *handed).stderr
    assert "AUDIT_IDENTITY_MISSING" in run("verify", "--folder", folder, "--log", tax / LOG_FILE).stderr


def test_show_gives_entries_in_plain_words_of_one_kind_or_job(folder: Path) -> None:
    shown = run("show", "--folder", folder).stdout
    assert "bank signed contract pilot-1." in shown
    assert "bank learned 42 numbers" in shown
    assert len(run("show", "--folder", folder, "--job", "job-1").stdout.splitlines()) == 3
    document = json.loads(run("show", "--folder", folder, "--kind", "job ended", "--json").stdout)
    assert [entry["sequence"] for entry in document["entries"]] == [4]


def test_a_folder_without_a_log_is_a_code(folder: Path) -> None:
    (folder / LOG_FILE).unlink()
    assert "AUDIT_TRUNCATED: entry 0" in run("verify", "--folder", folder).stderr  # the sealed head remembers
    (folder / HEAD_FILE).unlink()
    assert "AUDIT_LOG_MISSING" in run("verify", "--folder", folder).stderr


def exported(folder: Path, out: Path) -> tuple[Result, zipfile.ZipFile]:
    result = run("export", "--folder", folder, "--out", out)
    return result, zipfile.ZipFile(io.BytesIO(out.read_bytes()))


def test_the_verifier_of_the_export_needs_nothing_of_concordat_and_agrees(folder: Path, tmp_path: Path) -> None:
    result, archive = exported(folder, tmp_path / "audit.zip")
    assert result.exit_code == 0
    archive.extractall(tmp_path / "export")
    log = tmp_path / "export" / LOG_FILE
    assert log.read_bytes() == (folder / LOG_FILE).read_bytes()
    head = Head.decode((tmp_path / "export" / HEAD_FILE).read_bytes())
    witness = f"{head.sequence}:{head.hash}:{head.signature}"

    def verdict(data: bytes, *heads: str) -> tuple[int, str]:
        log.write_bytes(data)
        command = [sys.executable, "-I", "verify.py", LOG_FILE, KEY.public_key().public_bytes_raw().hex(), *heads]
        done = subprocess.run(command, cwd=log.parent, capture_output=True, text=True, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    good = log.read_bytes()
    lines = good.splitlines(keepends=True)
    assert verdict(good, witness) == (0, f"GOOD: 5 entries; last hash {head.hash}")
    assert verdict(good.replace(b":42", b":41"))[1].startswith("BAD at entry 3: altered")
    assert verdict(lines[0] + lines[2])[1].startswith("BAD at entry 1: not the entry that followed")
    assert verdict(b"".join(lines[:-1]), witness)[1].startswith("BAD at entry 4: missing")
    assert verdict(good[:-1])[0] == 1


def test_the_export_is_readable_as_a_table_a_page_and_a_document(folder: Path, tmp_path: Path) -> None:
    _, archive = exported(folder, tmp_path / "audit.zip")
    assert len(archive.read("entries.csv").decode().splitlines()) == 6
    page = archive.read("entries.html").decode()
    assert "All 5 entries hold." in page
    assert "http" not in page
    run("export", "--folder", folder, "--out", tmp_path / "audit.json")
    document = json.loads((tmp_path / "audit.json").read_bytes())
    assert document == json.loads(archive.read("audit.json"))
    assert document["log"].encode("latin-1") == (folder / LOG_FILE).read_bytes()
    assert len(document["fingerprint_words"].split()) == 12
    assert document["verification"]["sound"] is True


def test_a_damaged_log_is_exported_whole_with_the_finding_and_exits_not_zero(folder: Path, tmp_path: Path) -> None:
    log = folder / LOG_FILE
    log.write_bytes(log.read_bytes().replace(b'"opened":42', b'"opened":\xff1'))
    result, archive = exported(folder, tmp_path / "audit.zip")
    assert result.exit_code == 1
    assert archive.read(LOG_FILE) == log.read_bytes()
    assert json.loads(archive.read("audit.json"))["verification"]["first_finding"]["entry"] == 3
    assert "3 entries hold. Then, at entry 3" in archive.read("entries.html").decode()


def test_an_export_to_another_kind_of_file_is_refused(folder: Path, tmp_path: Path) -> None:
    assert "AUDIT_EXPORT_INVALID" in run("export", "--folder", folder, "--out", tmp_path / "audit.pdf").stderr
