"""An audit log for somebody who has never seen one: entries in plain words, what was verified, how to verify it again.

The export holds the lines of the log as they are, so that nothing in it has to be believed: `VERIFIER` is a program of
one page that needs Python and the package `cryptography`, and nothing of Concordat.
"""

from __future__ import annotations

import csv
import html
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocols.audit import Entry, Head, Kind, Receipt, Verification, entries_of
from protocols.contract import fingerprint
from protocols.fingerprint_words import words

FORMAT = "concordat audit export 1"

_SENTENCES: Mapping[str, str] = {
    Kind.LOG_OPENED.value: "{owner} opened this log under the identity key with SHA-256 {identity}.",
    Kind.LOG_REPAIRED.value: "After a crash, {bytes} bytes of an entry that was never acknowledged were cut off.",
    Kind.CONTRACT_PROPOSED.value: "{by} proposed contract {contract_id}.",
    Kind.CONTRACT_SIGNED.value: "{by} signed contract {contract_id}.",
    Kind.CONTRACT_AMENDED.value: "{by} amended contract {contract_id} by a new version.",
    Kind.CONTRACT_SUSPENDED.value: "{by} suspended contract {contract_id}: no job runs under it.",
    Kind.CONTRACT_RESUMED.value: "{by} resumed contract {contract_id}.",
    Kind.CONTRACT_REVOKED.value: "{by} revoked contract {contract_id} for good.",
    Kind.MODEL_SUBMITTED.value: "{by} submitted version {version} of model {name}.",
    Kind.MODEL_APPROVED.value: "{by} approved version {version} of model {name}.",
    Kind.MODEL_REJECTED.value: "{by} rejected version {version} of model {name}.",
    Kind.MODEL_LIVE.value: "{by} took version {version} of model {name} live.",
    Kind.MODEL_RETIRED.value: "{by} retired version {version} of model {name}: no new job scores with it.",
    Kind.JOB_ACCEPTED.value: "Job {job}, attempt {attempt}, was accepted.",
    Kind.JOB_REFUSED.value: "A request for a job was refused with code {code}.",
    Kind.JOB_STARTED.value: "Job {job}, attempt {attempt}, started.",
    Kind.JOB_STAGE.value: "Job {job}, attempt {attempt}, reached stage {stage}.",
    Kind.JOB_ENDED.value: "Job {job}, attempt {attempt}, ended with code {code}.",
    Kind.DISCLOSURE.value: "In job {job}, attempt {attempt}, {to} learned {opened} numbers ({masked} masked).",
    Kind.ADMINISTRATION.value: "Administration: {action}.",
    Kind.HEAD_RECEIVED.value: "{peer} showed its log at entry {sequence}.",
    Kind.HEAD_REFUSED.value: "{peer} showed its log at entry {sequence}, which does not fit its earlier ones: {code}.",
}


def sentence(entry: Entry) -> str:
    """An entry in plain words; one of a later version gives its kind."""
    try:
        return _SENTENCES[entry.kind].format(**entry.fields)
    except (KeyError, IndexError):
        return f"{entry.kind}."


def instant(entry: Entry) -> str:
    """The time of an entry in UTC, as the clock of its owner had it."""
    try:
        return datetime.fromtimestamp(entry.time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{entry.time} s"


def export_document(
    owner: str,
    log: bytes,
    identity: Ed25519PublicKey,
    result: Verification,
    sealed: Head | None,
    receipts: Sequence[Receipt],
) -> bytes:
    """The whole export as one JSON document.

    Args: result: of `log`, for `identity`. Entries behind the first finding are in `log` but not put into words.
    """
    sound = log[: result.good_bytes]
    finding = result.finding
    document = {
        "format": FORMAT,
        "owner": owner,
        "identity": identity.public_bytes_raw().hex(),
        "fingerprint": fingerprint(identity),
        "fingerprint_words": " ".join(words(identity)),
        "verification": {
            "sound": result.sound,
            "entries": result.entries,
            "last_hash": result.last_hash,
            "first_finding": None
            if finding is None
            else {"entry": finding.sequence, "code": finding.code, "sentence": finding.sentence},
        },
        "head": None if sealed is None else json.loads(sealed.encode()),
        "receipts": [json.loads(receipt.encode()) for receipt in receipts],
        "entries": [
            {
                "sequence": e.sequence,
                "time": instant(e),
                "kind": e.kind,
                "sentence": sentence(e),
                "fields": dict(e.fields),
            }
            for e in entries_of(sound)
        ],
        "log": log.decode("latin-1"),
        "how_to_verify": HOW_TO_VERIFY,
        "verifier": VERIFIER,
    }
    return json.dumps(document, indent=1, allow_nan=False).encode("ascii") + b"\n"


def export_files(
    owner: str,
    log: bytes,
    identity: Ed25519PublicKey,
    result: Verification,
    sealed: Head | None,
    receipts: Sequence[Receipt],
) -> dict[str, bytes]:
    """The export as files: the log itself, tables for reading, the JSON document, the verifier."""
    entries = list(entries_of(log[: result.good_bytes]))
    files = {
        "README.txt": HOW_TO_VERIFY.encode(),
        "audit.log": log,
        "audit.json": export_document(owner, log, identity, result, sealed, receipts),
        "entries.csv": _table(entries),
        "entries.html": _page(owner, identity, result, entries),
        "verify.py": VERIFIER.encode(),
    }
    if sealed is not None:
        files["audit.head"] = sealed.encode()
    if receipts:
        files["audit.receipts"] = b"".join(receipt.encode() + b"\n" for receipt in receipts)
    return files


def zipped(files: Mapping[str, bytes]) -> bytes:
    """The files in one archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def shown(entry: Entry) -> dict[str, object]:
    """An entry as the commands print it with --json."""
    return {
        "sequence": entry.sequence,
        "time": entry.time,
        "kind": entry.kind,
        "sentence": sentence(entry),
        "fields": dict(entry.fields),
    }


def verdict(result: Verification, witnesses: int) -> dict[str, object]:
    """A verification as the commands print it with --json. witnesses: heads that peers hold."""
    finding = result.finding
    return {
        "sound": result.sound,
        "good_entries": result.entries,
        "last_hash": result.last_hash,
        "witnesses": witnesses,
        "first_finding": None
        if finding is None
        else {"entry": finding.sequence, "code": finding.code, "sentence": finding.sentence},
    }


def verdict_sentence(result: Verification, witnesses: int) -> str:
    """A sound log in one sentence."""
    seen = f"; {witnesses} heads that peers hold agree" if witnesses else "; no peer holds a head of it yet"
    return f"The log is sound: {result.entries} entries{seen}. Last hash {result.last_hash}."


def _table(entries: Sequence[Entry]) -> bytes:
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["entry", "time", "kind", "in plain words", "fields"])
    for e in entries:
        rows.writerow([e.sequence, instant(e), e.kind, sentence(e), json.dumps(dict(e.fields), sort_keys=True)])
    return out.getvalue().encode()


def _page(owner: str, identity: Ed25519PublicKey, result: Verification, entries: Sequence[Entry]) -> bytes:
    finding = result.finding
    verdict = (
        f"All {result.entries} entries hold."
        if finding is None
        else f"{result.entries} entries hold. Then, at entry {finding.sequence}: {finding.sentence} ({finding.code})."
    )
    rows = "\n".join(
        f"<tr><td>{e.sequence}</td><td>{instant(e)}</td><td>{html.escape(sentence(e))}</td>"
        f"<td><code>{html.escape(_details(e))}</code></td></tr>"
        for e in entries
    )
    return _PAGE.format(
        owner=html.escape(owner),
        words=" ".join(words(identity)),
        identity=identity.public_bytes_raw().hex(),
        verdict=html.escape(verdict),
        colour="#1a6b3c" if finding is None else "#a3241c",
        rows=rows,
    ).encode()


def _details(entry: Entry) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(entry.fields.items()))


HOW_TO_VERIFY = """How to verify this audit log without Concordat
================================================

1. Learn the identity key of the log's owner from somewhere else than this export: from the owner by
   telephone (its twelve words), or from a signed contract.
2. Install Python 3.9 or later and the package `cryptography`.
3. Run:   python verify.py audit.log IDENTITY_KEY_IN_HEX
   With heads of this log that others hold (their logs' "head received" entries, or receipts), add each as
   SEQUENCE:HASH:SIGNATURE. They show whether the log was cut or written anew since.

Each line of audit.log is an entry as JSON, a space, and an Ed25519 signature in hex. The signature is over the
bytes "concordat/audit-entry/1", a zero byte, and the JSON as it stands. "previous" is the SHA-256 of the line
before, without its newline; in the first line 64 zeros. "sequence" counts from 0. A head is a signature over
"concordat/audit-head/1", a zero byte, and {"hash":"...","sequence":N}.
"""

VERIFIER = '''"""Verify an audit log: python verify.py audit.log IDENTITY_HEX [SEQUENCE:HASH:SIGNATURE ...]"""
import hashlib
import json
import re
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def bad(entry, why):
    sys.exit(f"BAD at entry {entry}: {why}")


def holds(key, signature, message):
    try:
        key.verify(bytes.fromhex(signature), message)
        return True
    except (InvalidSignature, ValueError):
        return False


key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(sys.argv[2]))
log = open(sys.argv[1], "rb").read()
lines = log.split(b"\\n")
if lines.pop() != b"":
    bad(len(lines), "the last line is not complete")
hashes = []
for number, line in enumerate(lines):
    match = re.fullmatch(rb"(.*) ([0-9a-f]{128})", line, re.DOTALL)
    if match is None:
        bad(number, "not an entry and a signature")
    if not holds(key, match[2].decode(), b"concordat/audit-entry/1\\0" + match[1]):
        bad(number, "altered, or signed with another key")
    entry = json.loads(match[1])
    if entry["sequence"] != number or entry["previous"] != (hashes[-1] if hashes else "0" * 64):
        bad(number, "not the entry that followed the one before")
    hashes.append(hashlib.sha256(line).hexdigest())
for head in sys.argv[3:]:
    sequence, digest, signature = head.split(":")
    signed = '{"hash":"' + digest + '","sequence":' + sequence + "}"
    if not holds(key, signature, b"concordat/audit-head/1\\0" + signed.encode()):
        sys.exit(f"the head {sequence} is not signed by this identity")
    if int(sequence) >= len(hashes):
        bad(len(hashes), f"missing; the log once reached entry {sequence}")
    if hashes[int(sequence)] != digest:
        bad(sequence, "another entry was here before")
print(f"GOOD: {len(hashes)} entries; last hash {hashes[-1] if hashes else None}")
'''

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Audit log of {owner}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1d2430; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #d8dde5; }}
td:nth-child(2) {{ white-space: nowrap; }} code {{ font-size: 12px; color: #5a6472; overflow-wrap: anywhere; }}
.verdict {{ font-weight: 600; color: {colour}; }}
</style></head><body>
<h1>Audit log of {owner}</h1>
<p class="verdict">{verdict}</p>
<p>Identity key <code>{identity}</code><br>In words: <strong>{words}</strong></p>
<p>Do not take this page's word for it: README.txt says how to verify audit.log with a program of one page.</p>
<table><thead><tr><th>Entry</th><th>Time</th><th>What happened</th><th>Details</th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""
