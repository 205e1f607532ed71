"""Files of an agent: whole or not at all, whoever else writes them, and indices that are spent once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from party_agent.store import FileNonces, FileSpentIndices, Folder, LedgerJournal
from protocols.disclosure import REPEATED, Line
from protocols.errors import DataError, LocalProtocolError

WRITER = """
import sys
from pathlib import Path
from party_agent.store import Folder
folder = Folder(Path(sys.argv[1]))
for number in range(200):
    folder.write("state.json", (sys.argv[2] * 50_000).encode())
"""


def test_two_processes_that_write_one_file_leave_the_whole_of_one(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), letter]) for letter in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    text = (tmp_path / "state.json").read_text()
    assert text in ("a" * 50_000, "b" * 50_000)
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_the_part_of_a_process_that_was_killed_is_cleared(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(30)
    stale, live = tmp_path / f".a.json.{dead.pid}-1.part", tmp_path / f".a.json.{os.getppid()}-1.part"
    stale.write_text("half")
    live.write_text("half")
    Folder(tmp_path).write_json("a.json", {"whole": True})
    assert json.loads((tmp_path / "a.json").read_text()) == {"whole": True}
    assert not stale.exists()
    assert live.exists()


def test_a_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    assert Folder(tmp_path).write("secret", b"x").stat().st_mode & 0o777 == 0o600


def test_a_folder_that_cannot_be_written_is_an_error_with_a_code(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as refused:
        Folder(tmp_path / "file")
    assert refused.value.code == "FOLDER_UNUSABLE"


def test_an_index_is_spent_once_and_stays_spent_after_a_restart(tmp_path: Path) -> None:
    FileSpentIndices(tmp_path / "spent").spend("batch", 1)
    again = FileSpentIndices(tmp_path / "spent")
    with pytest.raises(LocalProtocolError) as refused:
        again.spend("batch", 1)
    assert refused.value.code == "INDEX_SPENT"
    again.spend("batch", 2)
    again.spend("column", 1)
    assert (again.count("batch"), again.count("ba", prefix=True)) == (2, 2)


def test_a_line_that_a_loss_of_power_cut_off_counts_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "spent"
    path.write_text("batch\t1\nbatch\t2")
    spent = FileSpentIndices(path)
    spent.spend("batch", 3)
    for index in (1, 2, 3):
        with pytest.raises(LocalProtocolError):
            FileSpentIndices(path).spend("batch", index)


def test_a_nonce_is_accepted_once(tmp_path: Path) -> None:
    assert FileNonces(tmp_path / "nonces").spend("00")
    assert not FileNonces(tmp_path / "nonces").spend("00")


def test_lines_of_a_stage_that_is_repeated_say_so(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    first = LedgerJournal(path, 1)
    kept = Line("bank", "align", "bureau", "size", "opened", 1)
    lost = Line("bank", "train", "bureau", "gradient", "opened", 7)
    first.write(kept)
    first.write(lost)
    with path.open("a") as file:
        file.write('[1, "bank", "tr')
    second = LedgerJournal(path, 2)
    second.write(Line("bank", "train", "bureau", "gradient", "opened", 9))
    stages = {(line.stage, line.numbers) for line in second.earlier({"align": 1})}
    assert stages == {("align", 1), ("train" + REPEATED, 7)}
    third = {(line.stage, line.numbers) for line in LedgerJournal(path, 3).earlier({"align": 1, "train": 2})}
    assert third == {("align", 1), ("train" + REPEATED, 7), ("train", 9)}
