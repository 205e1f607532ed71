"""How a job that ended enters the audit log: with what it disclosed, also if it broke off; and on a full disk."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from party_agent.agent import JobState
from party_agent.store import Folder, LedgerJournal, journal_path
from protocols.audit import entries_of
from protocols.audit_files import LOG_FILE
from protocols.disclosure import Learned, Ledger, Nature
from protocols.errors import DataError
from tests.party_agent.test_agent import ME, World, world

__all__ = ["world"]
JOB = "train-1"


@pytest.fixture
def running(world: World) -> World:
    """A world in which a job runs."""
    world.deliver(world.job(world.contract()))
    world.start()
    assert world.state() is JobState.RUNNING
    return world


@contextmanager
def full_disk() -> Iterator[None]:
    """The kernel refuses whatever this process writes into a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def learns(world: World, attempt: int, to: str, source: str, numbers: int, **more: Any) -> None:
    """The job's process adds to its ledger, as it does before it sends."""
    journal = LedgerJournal(journal_path(Folder(world.folder / "jobs" / JOB), JOB), attempt)
    learned = [Learned("something", numbers, **more)]
    Ledger(ME, journal=journal.write).add(to=to, source=source, stage="train", learned=learned)


def disclosures(world: World) -> list[tuple[int, str, int, int]]:
    """Attempt, who learned, opened and masked numbers, of every entry."""
    entries = entries_of((world.folder / LOG_FILE).read_bytes())
    fields = [entry.fields for entry in entries if entry.kind == "disclosure"]
    return [(int(f["attempt"]), str(f["to"]), int(f["opened"]), int(f["masked"])) for f in fields]


def test_what_a_job_disclosed_before_it_broke_off_is_in_the_audit_log(running: World) -> None:
    learns(running, 1, ME, "bank", 7)
    learns(running, 1, ME, "tax", 5, nature=Nature.MASKED)
    learns(running, 1, "bank", ME, 3)
    running.ended_with("CHECK_FAILED")
    assert disclosures(running) == [(1, "bank", 3, 0), (1, ME, 7, 5)]
    assert running.records()[-1] == ("job ended", "CHECK_FAILED")


def test_a_killed_process_and_a_later_attempt_add_up(running: World) -> None:
    learns(running, 1, ME, "bank", 7)
    process = running.agent._processes[JOB]
    process.kill()
    process.wait(10)
    running.agent.step(0)
    assert running.agent.job(JOB).code == "PARTY_LOST"
    (signed,) = running.agent.contracts.all()
    running.deliver(running.job(signed.contract, attempt=2))
    running.start(attempt=2)
    learns(running, 2, ME, "bank", 2)
    running.ended_with("TIMEOUT")
    assert disclosures(running) == [(1, ME, 7, 0), (2, ME, 9, 0)]


def test_what_a_killed_process_was_writing_into_an_account_is_cleared_when_its_job_ends(running: World) -> None:
    process = running.agent._processes[JOB]
    process.kill()
    process.wait(10)
    account = running.folder / "gradient-account"
    account.mkdir()
    half, others = account / f".x.bin.{process.pid}-1.part", account / f".y.bin.{os.getpid()}-1.part"
    for part in (half, others):
        part.write_bytes(b"half")
    running.agent.step(0)
    assert running.agent.job(JOB).code == "PARTY_LOST"
    assert not half.exists()
    assert others.exists()  # its writer lives


def test_a_job_that_ended_before_it_disclosed_anything_has_no_such_entry(running: World) -> None:
    running.ended_with("FILE_MISSING")
    assert disclosures(running) == []
    assert running.records()[-1] == ("job ended", "FILE_MISSING")


def test_a_job_that_ends_on_a_full_disk_is_settled_once_when_there_is_room(running: World) -> None:
    learns(running, 1, ME, "bank", 7)
    process = running.agent._processes[JOB]
    process.kill()
    process.wait(10)
    before, told = running.records(), list(running.lab.told)
    for _ in range(3):
        with full_disk(), pytest.raises(DataError) as refused:
            running.agent.step(0)
        assert refused.value.code == "AUDIT_UNWRITABLE"
    assert running.state() is JobState.RUNNING
    assert (running.records(), running.lab.told) == (before, told)
    running.agent.step(0)
    assert (running.state(), running.agent.job(JOB).code) == (JobState.FAILED, "PARTY_LOST")
    assert running.records()[len(before) :] == [("disclosure", ""), ("job ended", "PARTY_LOST")]
    assert running.lab.told[len(told) :] == [(JOB, 1, "failed", "PARTY_LOST")]
    running.agent.step(0)
    assert len(running.records()) == len(before) + 2


def test_the_audit_log_does_not_grow_while_only_the_state_of_a_job_cannot_be_written(running: World) -> None:
    before = len(running.records())
    blocked = running.folder / "jobs" / JOB / f".state.json.{os.getpid()}-{threading.get_ident()}.part"
    blocked.mkdir()
    with pytest.raises(DataError, match="FOLDER_UNUSABLE"):
        running.ended_with("TIMEOUT")
    with pytest.raises(DataError, match="FOLDER_UNUSABLE"):
        running.agent.step(0)
    assert running.records()[before:] == [("job ended", "TIMEOUT")]
    blocked.rmdir()
    running.agent.step(0)
    assert (running.state(), running.agent.job(JOB).code) == (JobState.FAILED, "TIMEOUT")
    assert len(running.records()) == before + 1


def test_an_agent_that_starts_again_on_a_full_disk_settles_its_jobs_when_there_is_room(running: World) -> None:
    process = running.agent._processes.pop(JOB)
    process.kill()
    process.wait(10)
    running.agent = running.new_agent()
    with full_disk():
        running.agent._recover()
        with pytest.raises(DataError, match="AUDIT_UNWRITABLE"):
            running.agent.step(0)
    assert running.state() is JobState.RUNNING
    running.agent.step(0)
    assert (running.state(), running.agent.job(JOB).code) == (JobState.FAILED, "PARTY_LOST")


def test_a_process_whose_start_cannot_be_kept_does_not_run_on(world: World) -> None:
    world.deliver(world.job(world.contract()))
    blocked = world.folder / "jobs" / JOB / f".state.json.{os.getpid()}-{threading.get_ident()}.part"
    blocked.mkdir()
    with pytest.raises(DataError, match="FOLDER_UNUSABLE"):
        world.start()
    assert not world.agent._processes
    blocked.rmdir()
    world.agent.step(0)
    assert (world.state(), world.agent.job(JOB).code) == (JobState.FAILED, "FOLDER_UNUSABLE")
