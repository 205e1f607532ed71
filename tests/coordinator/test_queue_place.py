"""A lab restored from a backup: agents that were further on notice, read again, and decide nothing twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from coordinator.lab import Lab
from coordinator.lab_commands import app
from coordinator.queue_place import QueueEnd, another_epoch
from coordinator.server import LabServer
from party_agent.agent import JobState
from party_agent.rest_client import RestClient
from tests.party_agent.test_agent import World
from tests.running_lab import RunningLab, running_lab


@given(st.integers(1, (1 << 21) - 1), st.integers(0, (1 << 32) - 1), st.integers(0, 1000))
def test_a_place_is_known_to_its_own_queue_and_below_two_to_the_53(epoch: int, highest: int, back: int) -> None:
    end = QueueEnd(epoch, highest)
    number = max(0, highest - back)
    assert end.place(number) < 1 << 53
    assert end.number(end.place(number)) == number
    assert end.number(end.place(highest) + 1) is None
    other = another_epoch(epoch)
    assert 1 <= other < 1 << 21
    assert QueueEnd(other, highest).number(end.place(number)) is None


def read_all(client: RestClient, after: int = 0) -> tuple[list[str], int]:
    """Everything that is new after a place, and the place then."""
    found: list[str] = []
    while (page := client.requests(after, 0))[0]:
        found += [str(item["reference"]) for item in page[0]]
        after = page[1]
    return found, page[1]


def submit(lab: RunningLab, contract: Any, *names: str) -> None:
    for name in names:
        lab.client("bank").submit(lab.job(contract, name).encode().decode())


def restore(lab: RunningLab, backup: Path, *, say_so: bool) -> None:
    """Stop the lab, put the older database in place, start it again."""
    lab.server.close()
    lab.lab.close()
    for name in ("lab.db-wal", "lab.db-shm"):
        (lab.lab.folder / name).unlink(missing_ok=True)
    shutil.copy(backup, lab.lab.folder / "lab.db")
    if say_so:
        assert CliRunner().invoke(app, ["restored", "--folder", str(lab.lab.folder)]).exit_code == 0
    lab.lab = Lab.load(lab.lab.folder, lab.clock)
    lab.server = LabServer(lab.lab, keeper_interval_s=0.05)
    lab.server.start("127.0.0.1", lab.port)


def back_up(lab: RunningLab, to: Path) -> Path:
    with lab.lab.registry.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql(f"VACUUM INTO '{to}'")
        connection.exec_driver_sql("BEGIN")
    return to


@pytest.mark.parametrize("say_so", [False, True])
def test_an_agent_ahead_of_a_restored_lab_reads_again_and_misses_nothing(tmp_path: Path, say_so: bool) -> None:
    with running_lab(tmp_path) as lab:
        contract = lab.contract()
        digest = lab.agree(contract)
        backup = back_up(lab, tmp_path / "lab.backup")
        submit(lab, contract, "lost-1", "lost-2")
        bureau = lab.client("bureau")
        before, after = read_all(bureau)
        assert before[-2:] == ["lost-1", "lost-2"]
        restore(lab, backup, say_so=say_so)
        late = ("late-1", "late-2", "late-3") if say_so else ("late-1",)  # more than were lost, or fewer
        submit(lab, contract, *late)
        again, place = read_all(bureau, after)
        assert again[0] == digest
        assert again[-len(late) :] == list(late)
        assert not {"lost-1", "lost-2"} & set(again)
        assert read_all(bureau, place) == ([], place)


def test_an_agent_that_reads_an_empty_queue_again_begins_at_its_start(tmp_path: Path) -> None:
    with running_lab(tmp_path, names=("bank",)) as lab:
        bank = lab.client("bank")
        found, place = bank.requests(77, 20)  # at once, without waiting
        assert found == []
        assert bank.requests(place, 0) == ([], place)
        assert lab.lab.registry.queue_end("bank").number(place) == 0


def test_a_place_from_a_lab_that_had_no_epochs_goes_on(tmp_path: Path) -> None:
    with running_lab(tmp_path) as lab:
        lab.agree(lab.contract())
        number = lab.lab.registry.queue_end("bureau").highest
        assert lab.client("bureau").requests(number, 0) == ([], number)


def test_a_queue_that_is_read_again_decides_nothing_anew(tmp_path: Path) -> None:
    world = World(tmp_path)
    contract = world.contract()
    job = world.job(contract)
    world.deliver(job)
    records, told = world.records(), list(world.lab.told)
    (world.folder / "queue.json").write_text(json.dumps({"after": 0}))
    world.agent.step(0)
    assert world.state() is JobState.ACCEPTED
    assert world.records() == records
    assert world.lab.told == told * 2  # it says again what it has decided
    world.agent.close()
