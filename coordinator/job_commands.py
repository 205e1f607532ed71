"""`concordat job submit|resume|status|logs|stop`: jobs as the lab's operator sees them.

The operator signs nothing and sees no content: a job is a document that the label owner signed, and every agent decides
by its own contracts. What is shown are states, stages and codes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.lab import Lab
from coordinator.lab_commands import FolderOption, JsonOption, _refusing, _say
from coordinator.registry import JobRecord, job_not_found
from coordinator.tables import JobState
from protocols.contract import SignedJob
from protocols.errors import ContractViolationError, DataError

job_app = typer.Typer(help="Jobs: deliver, watch, stop, resume.", no_args_is_help=True)

JobArgument = Annotated[str, typer.Argument(help="The job's name.")]
FileArgument = Annotated[Path, typer.Argument(help="The document, of `concordat-party jobs request --out FILE`.")]
AttemptOption = Annotated[int | None, typer.Option(help="Which attempt; by default the latest.")]
MOST_DOCUMENT_BYTES = 2 << 20


@job_app.command()
def submit(document: FileArgument, folder: FolderOption, as_json: JsonOption = False) -> None:
    """Deliver a job document that the label owner signed; every agent decides for itself."""
    with _refusing(as_json), _lab(folder) as lab:
        record, created = _deliver(lab, document, _read(document))
    _say(as_json, _brief(record) | {"created": created}, _line(record) + ("" if created else "  (known already)"))


@job_app.command()
def resume(document: FileArgument, folder: FolderOption, as_json: JsonOption = False) -> None:
    """Deliver the label owner's document for a further attempt at a job that broke off."""
    with _refusing(as_json), _lab(folder) as lab:
        data = _read(document)
        wanted = SignedJob.decode(data).document
        earlier = [record for record in lab.registry.every_job() if record.signed.document.job == wanted.job]
        if wanted.attempt < 2 or not earlier:
            raise ContractViolationError(
                "ATTEMPT_INVALID", "this is no further attempt at a job of this lab", "use `concordat job submit`"
            )
        record, created = _deliver(lab, document, data)
    _say(as_json, _brief(record) | {"created": created}, _line(record))


@job_app.command()
def status(
    folder: FolderOption,
    job: Annotated[str | None, typer.Argument(help="The job's name; without it, every job.")] = None,
    attempt: AttemptOption = None,
    wait_s: Annotated[float, typer.Option(help="Wait so long for the job to end.")] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Where jobs stand, and the last stage that each agent has told."""
    with _refusing(as_json), _lab(folder) as lab:
        if job is None:
            records = lab.registry.every_job()
            _say(as_json, {"jobs": [_brief(record) for record in records]}, "\n".join(map(_line, records)) or "No job.")
            return
        deadline = time.monotonic() + wait_s
        record = _find(lab, job, attempt)
        while record.state is not JobState.ENDED and time.monotonic() < deadline:
            time.sleep(0.5)
            record = _find(lab, job, attempt)
    latest = {party: (stage, code) for party, stage, code, _ in record.reports}
    lines = [f"  {party}  {stage}  {code or ''}".rstrip() for party, (stage, code) in sorted(latest.items())]
    _say(as_json, _brief(record), "\n".join([_line(record), *lines]))


@job_app.command()
def logs(job: JobArgument, folder: FolderOption, as_json: JsonOption = False) -> None:
    """What the agents have told of a job, all attempts, in order of arrival: stages and codes."""
    with _refusing(as_json), _lab(folder) as lab:
        records = [record for record in lab.registry.every_job() if record.signed.document.job == job]
        if not records:
            raise job_not_found()
    told: list[dict[str, Any]] = [
        {"at": at, "attempt": record.signed.document.attempt, "party": party, "stage": stage, "code": code}
        for record in records
        for party, stage, code, at in record.reports
    ]
    lines = [
        f"{_instant(row['at'])}  attempt {row['attempt']}  {row['party']}  {row['stage']}  {row['code'] or ''}".rstrip()
        for row in told
    ]
    _say(as_json, {"job": job, "reports": told}, "\n".join(lines) or "Nothing was told yet.")


@job_app.command()
def stop(job: JobArgument, folder: FolderOption, attempt: AttemptOption = None, as_json: JsonOption = False) -> None:
    """End an attempt for all its parties, with JOB_STOPPED; does nothing to one that has ended."""
    with _refusing(as_json), _lab(folder) as lab:
        record = _find(lab, job, attempt)
        lab.registry.end_job(record, "JOB_STOPPED", stopped=True)
        record = _find(lab, job, record.signed.document.attempt)
    _say(as_json, _brief(record), _line(record))


def _deliver(lab: Lab, path: Path, data: bytes) -> tuple[JobRecord, bool]:
    owner = lab.registry.label_owner(SignedJob.decode(data).document.contract_hash)
    return lab.submit(owner, data)


def _find(lab: Lab, job: str, attempt: int | None) -> JobRecord:
    found = [record for record in lab.registry.every_job() if record.signed.document.job == job]
    wanted = [record for record in found if attempt in (None, record.signed.document.attempt)]
    if not wanted:
        raise job_not_found()
    return max(wanted, key=lambda record: record.signed.document.attempt)


def _brief(record: JobRecord) -> dict[str, Any]:
    document = record.signed.document
    return {
        "job": document.job,
        "attempt": document.attempt,
        "kind": document.kind.value,
        "contract": document.contract_hash,
        "state": record.state.value,
        "code": record.code,
        "submitted": record.submitted,
        "ended": record.ended,
        "reports": [
            {"party": party, "stage": stage, "code": code, "at": at} for party, stage, code, at in record.reports
        ],
    }


def _line(record: JobRecord) -> str:
    document = record.signed.document
    what = f"{document.job}  {document.kind.value}  attempt {document.attempt}"
    return f"{what}  {record.state.value}  {record.code or ''}".rstrip()


def _instant(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise DataError("FILE_MISSING", "the document cannot be read", "name the file of the label owner") from error
    if len(data) > MOST_DOCUMENT_BYTES:
        raise DataError("FILE_MISSING", "the file is too large for a job document", "name the file of the label owner")
    return data


@contextmanager
def _lab(folder: Path) -> Iterator[Lab]:
    lab = Lab.load(folder, time.time)
    try:
        yield lab
    finally:
        lab.close()
