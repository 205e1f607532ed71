"""Heads between agents through a lab that may hold back, repeat, alter and invent; stages and disclosures recorded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from typer.testing import CliRunner

from coordinator import registry
from party_agent.audit_commands import audit_app
from party_agent.enrolment import create_institution
from party_agent.head_exchange import HEAD, OVERDUE_S, SILENT_S, HeadExchange, exchange_warnings
from party_agent.job_output import JobRecord, read_progress
from party_agent.store import Folder
from protocols.audit import Event, Head, Kind, entries_of, verify_log
from protocols.audit_exchange import HeadNotice
from protocols.audit_files import HEAD_FILE, LOG_FILE, ReceiptFile, open_audit_log
from protocols.errors import ConcordatError, ContractViolationError, DataError, TransportError
from tests.running_lab import RunningLab, running_lab

NAMES = ("bank", "bureau")


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(ConcordatError) as caught:
        action()
    return caught.value.code


@dataclass
class Post:
    """A lab that keeps what is sent until a test delivers it."""

    sent: list[tuple[str, str, bytes]] = field(default_factory=list)
    away: bool = False

    def send_head(self, to: str, kind: str, document: str) -> None:
        if self.away:
            raise TransportError("LAB_UNREACHABLE", "away")
        self.sent.append((to, kind, document.encode()))


class Party:
    """One institution with its log and its end of the exchange."""

    def __init__(self, root: Path, name: str, keys: dict[str, Ed25519PrivateKey], post: Post) -> None:
        self.name, self.folder, self.keys, self.ahead = name, root / name, keys, 0.0
        self.folder.mkdir()
        self.audit = open_audit_log(self.folder, name, keys[name])
        self.post = post
        self.refused: list[str] = []
        self.unpinned: set[str] = set()
        self.exchange = HeadExchange(self.folder, name, keys[name], self.audit, self, post, self.clock)

    def clock(self) -> float:
        return time.time() + self.ahead

    def pinned(self, name: str) -> Ed25519PublicKey:
        if name not in self.keys or name in self.unpinned:
            raise ContractViolationError("PEER_UNKNOWN", "no such peer", "")
        return self.keys[name].public_key()

    def work(self, entries: int = 1, action: str = "work") -> Head:
        for _ in range(entries):
            head = self.audit.append(Event(Kind.ADMINISTRATION, {"action": action}))
        return head

    def show(self, to: str) -> bytes:
        """Send our head; the notice."""
        self.exchange.show_to([to])
        self.exchange.send_due(lambda: (), self.refused.append)
        return self.post.sent[-1][2]

    def log(self) -> bytes:
        return (self.folder / LOG_FILE).read_bytes()

    def kinds(self) -> list[str]:
        return [entry.kind for entry in entries_of(self.log())]

    def cut(self, lines: int) -> None:
        """As an insider would: drop the last lines and seal a new head with the institution's own key."""
        kept = self.log().splitlines(keepends=True)[:-lines]
        (self.folder / LOG_FILE).write_bytes(b"".join(kept))
        result = verify_log(b"".join(kept), self.keys[self.name].public_key())
        head = Head.sign(result.entries - 1, result.last_hash, self.keys[self.name])
        (self.folder / HEAD_FILE).write_bytes(head.encode())


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Party, Party, Post]:
    keys = {name: Ed25519PrivateKey.generate() for name in NAMES}
    post = Post()
    return Party(tmp_path, "bank", keys, post), Party(tmp_path, "bureau", keys, post), post


def test_a_head_is_recorded_by_the_peer_and_its_receipt_is_kept(pair: tuple[Party, Party, Post]) -> None:
    bank, bureau, post = pair
    head = bank.work(3)
    notice = bank.show("bureau")
    bureau.exchange.take(HEAD, notice)
    assert bureau.kinds()[-1] == "head received"
    to, kind, receipt = post.sent[-1]
    assert (to, kind) == ("bank", "receipt")
    bank.exchange.take(kind, receipt)
    bank.exchange.take(kind, receipt)  # delivered twice
    (kept,) = ReceiptFile(bank.folder).all()
    assert (kept.peer, kept.head) == ("bureau", head)
    assert bank.audit.verify([kept.head]).sound


def test_a_log_that_was_cut_is_found_by_the_next_head_and_by_the_heads_that_the_peer_holds(
    pair: tuple[Party, Party, Post],
) -> None:
    bank, bureau, _ = pair
    bank.work(5)
    bureau.exchange.take(HEAD, bank.show("bureau"))
    bank.cut(2)
    assert bank.audit.verify().sound  # by itself the log looks whole
    assert code_of(lambda: bureau.exchange.take(HEAD, bank.show("bureau"))) == "AUDIT_ROLLED_BACK"
    assert bureau.kinds()[-1] == "head refused"
    bank.work(9, "other-work")  # grown again, past the old head
    bureau.exchange.take(HEAD, bank.show("bureau"))
    create_key(bureau)
    identity = bank.keys["bank"].public_key().public_bytes_raw().hex()
    answer = CliRunner().invoke(
        audit_app,
        [
            *("verify", "--folder", str(bureau.folder), "--log", str(bank.folder / LOG_FILE), "--peer", "bank"),
            *("--identity", identity, "--json"),
        ],
    )
    assert answer.exit_code == 1
    assert json.loads(answer.stdout)["first_finding"]["code"] == "AUDIT_REWRITTEN"


def create_key(party: Party) -> None:
    """What the command reads besides the log."""
    own = party.folder.parent / f"{party.name}-keys"
    create_institution(own, party.name)
    (own / "identity.pem").rename(party.folder / "identity.pem")


def test_a_lab_that_delivers_late_or_again_makes_nobody_look_guilty(pair: tuple[Party, Party, Post]) -> None:
    bank, bureau, _ = pair
    bank.work()
    early = bank.show("bureau")
    time.sleep(0.002)
    bank.work()
    late = bank.show("bureau")
    bureau.exchange.take(HEAD, late)
    assert code_of(lambda: bureau.exchange.take(HEAD, early)) == "AUDIT_NOTICE_STALE"
    bureau.exchange.take(HEAD, late)
    assert bureau.kinds() == ["log opened", "head received"]


def test_what_the_lab_alters_invents_or_sends_to_another_is_not_counted(pair: tuple[Party, Party, Post]) -> None:
    bank, bureau, post = pair
    notice = bank.show("bureau")
    decoded = HeadNotice.decode(notice)
    stranger = Ed25519PrivateKey.generate()
    forged = HeadNotice.sign("bank", "bureau", decoded.issued_ms, Head.sign(0, "00" * 32, stranger), stranger)
    other = HeadNotice.sign("bank", "tax", decoded.issued_ms, decoded.head, bank.keys["bank"])
    for document in (forged.encode(), other.encode(), notice.replace(b'"issued_ms":1', b'"issued_ms":2')):
        assert code_of(lambda document=document: bureau.exchange.take(HEAD, document)) == "AUDIT_NOTICE_INVALID"
    for document in (b"", b"{}", b"[" * 2000, b"\xff", notice[:-1], notice + b" ", b'{"head":1}'):
        assert code_of(lambda document=document: bureau.exchange.take(HEAD, document)).startswith("AUDIT_")
    assert not (bureau.folder / LOG_FILE).exists()
    bureau.exchange.take(HEAD, notice)
    receipt = post.sent[-1][2]
    assert code_of(lambda: bank.exchange.take("receipt", receipt.replace(b"bureau", b"bank"))) == "AUDIT_HEAD_INVALID"
    assert ReceiptFile(bank.folder).all() == ()


def test_a_lab_that_holds_messages_back_shows_within_a_day_at_the_sender_and_two_at_the_receiver(
    pair: tuple[Party, Party, Post],
) -> None:
    bank, bureau, post = pair
    bureau.exchange.take(HEAD, bank.show("bureau"))
    bank.exchange.take("receipt", post.sent[-1][2])
    now = int(time.time())
    assert exchange_warnings(bank.folder, now + OVERDUE_S + 5) == []
    bank.work()
    bank.show("bureau")  # and the lab swallows it
    assert exchange_warnings(bank.folder, now) == []
    (warning,) = exchange_warnings(bank.folder, now + OVERDUE_S + 5)
    assert "bureau has given no receipt" in warning
    create_key(bank)
    (bank.folder / "heads" / "sent" / "bureau").write_text('{"at": 1, "open_sequence": 2, "open_since": 1}')
    answer = CliRunner().invoke(audit_app, ["verify", "--folder", str(bank.folder), "--json"])
    assert "bureau has given no receipt" in answer.stdout
    (silence,) = exchange_warnings(bureau.folder, now + SILENT_S + 5)
    assert "bank" in silence
    bank.ahead = OVERDUE_S
    bank.work(3)
    bureau.exchange.take(HEAD, bank.show("bureau"))  # a later one gets through
    bank.exchange.take("receipt", post.sent[-1][2])
    assert exchange_warnings(bank.folder, now + 3 * OVERDUE_S) == []


def test_heads_are_shown_daily_and_what_is_due_waits_for_a_lab_that_is_away(pair: tuple[Party, Party, Post]) -> None:
    bank, _, post = pair

    def round_() -> None:
        bank.exchange.send_due(lambda: ["bureau", "bank"], bank.refused.append)

    post.away = True
    assert code_of(round_) == "LAB_UNREACHABLE"
    post.away = False
    round_()
    round_()
    assert [to for to, _, _ in post.sent] == ["bureau"]
    bank.ahead = 90_000
    round_()
    assert len(post.sent) == 2
    bank.unpinned = {"bureau"}
    bank.exchange.show_to(["bureau"])
    round_()
    round_()
    assert bank.refused == ["PEER_UNKNOWN"]
    assert len(post.sent) == 2


def test_the_lab_passes_heads_on_between_parties_of_a_contract_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "MOST_NOTICES", 20)
    with running_lab(tmp_path, names=(*NAMES, "tax")) as lab:
        lab.agree(lab.contract())
        bank, bureau, tax = (lab.client(name) for name in (*NAMES, "tax"))
        bank.send_head("bureau", "head", "a notice")
        bank.send_head("bureau", "head", "a notice")
        found = [item for item in bureau.requests(0, 0)[0] if item["kind"] == "head"]
        assert [item["document"] for item in found] == ["a notice"]
        for receiver in ("bureau", "tax", "nobody"):
            assert code_of(lambda to=receiver: tax.send_head(to, "head", "a notice")) == "NOT_A_MEMBER"
        assert code_of(lambda: bank.send_head("bureau", "job", "a notice")) == "REQUEST_MALFORMED"
        for number in range(25):
            bank.send_head("bureau", "receipt", f"notice {number}")
        assert len(documents(lab, "bureau")) == 20


def documents(lab: RunningLab, name: str) -> list[str]:
    found, after = [], 0
    while page := (answer := lab.client(name).requests(after, 0))[0]:
        found += [item["document"] for item in page if item["kind"] in ("head", "receipt")]
        after = answer[1]
    assert None not in found
    return found


# -- what a job's process says


def test_stages_and_disclosures_of_a_job_are_recorded_once_and_in_order(pair: tuple[Party, Party, Post]) -> None:
    bank, _, _ = pair
    folder, record = Folder(bank.folder / "jobs" / "job-1"), JobRecord(bank.audit)
    said = [("connect", "started", 0, 0), ("read", "started", 0, 0), ("align", "own ids blinded", 5, 10)]
    lines = [json.dumps({"stage": s, "what": w, "done": d, "total": t}) for s, w, d, t in said]
    (folder.path / "output.jsonl").write_text("\n".join([*lines, '{"stage": "al']))
    assert record.stages(folder, "job-1", 1) == ("connect", "read")
    assert record.stages(folder, "job-1", 1) == ()
    progress = read_progress(folder.path)
    assert (progress.stage, progress.what, progress.percent) == ("align", "own ids blinded", 29)
    assert record.stages(folder, "job-1", 1, ended_well=True) == ("align",)
    row = {"to": "bank", "stage": "bin", "source": "bureau", "what": "rows per pre-bin", "nature": "opened"}
    folder.write_json("statement.json", {"lines": [row | {"numbers": 40}, row | {"to": "bureau", "numbers": 2}]})
    record.disclosures(folder, "job-1", 1, ended_well=True)
    entries = list(entries_of(bank.log()))[1:]
    assert [entry.fields.get("stage") for entry in entries[:3]] == ["connect", "read", "align"]
    assert [(e.fields["to"], e.fields["opened"]) for e in entries[3:]] == [("bank", 40), ("bureau", 2)]
    assert record.stages(folder, "job-1", 2) == ("connect", "read")  # another attempt is counted anew


def test_a_job_without_a_statement_is_an_error_and_no_entry(pair: tuple[Party, Party, Post]) -> None:
    bank, _, _ = pair
    folder, record = Folder(bank.folder / "jobs" / "job-1"), JobRecord(bank.audit)
    with pytest.raises(DataError, match="STATEMENT_UNREADABLE"):
        record.disclosures(folder, "job-1", 1, ended_well=True)
    (folder.path / "statement.json").write_text('{"lines": [{"to": 3}]}')
    assert code_of(lambda: record.disclosures(folder, "job-1", 1, ended_well=True)) == "STATEMENT_UNREADABLE"
    assert not (bank.folder / LOG_FILE).exists()
