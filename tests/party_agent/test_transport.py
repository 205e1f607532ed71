"""The data plane over a real relay on loopback: delivery, lies of the relay, loss, abort, certificates."""

from __future__ import annotations

import datetime
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from coordinator.certificates import Authority, create_identity
from coordinator.relay import Relay
from party_agent.transport import METHOD, RelayChannel, TlsFiles, load_identity
from protocols.disclosure import Ledger
from protocols.envelope import CHUNK_BYTES, Envelope, FrameQueue, Kind, encode_frame
from protocols.errors import ConcordatError, DataError, PeerAbortedError, RemoteProtocolError, TransportError
from protocols.messages import Bounds
from protocols.roles import Parties, Role
from protocols.rows.messages import FeatureCount
from protocols.session import Player, Session, Step, receive, send
from tests.party_agent.consortium import CONTRACT, JOB, Consortium, in_parallel

LIMIT = 1 << 30


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    consortium = Consortium(tmp_path)
    yield consortium
    consortium.close()


def code_of(outcome: Any) -> str:
    assert isinstance(outcome, ConcordatError), outcome
    return outcome.code


# -- delivery


def test_messages_arrive_in_order_between_all_members(consortium: Consortium) -> None:
    channels = consortium.connect()
    for sender in channels:
        for to in channels:
            if to != sender:
                for step in ("first", "second"):
                    channels[sender].send(to, "stage", step, f"{sender} {to} {step}".encode())
    for to in channels:
        for sender in channels:
            if to != sender:
                got = [channels[to].receive(sender, "stage", step, LIMIT) for step in ("first", "second")]
                assert got == [f"{sender} {to} {step}".encode() for step in ("first", "second")]
    in_parallel([channel.close for channel in channels.values()])


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_messages_of_any_length_arrive_whole(consortium: Consortium, size: int) -> None:
    channels = consortium.connect()
    payload = os.urandom(size)
    channels["bank"].send("bureau", "stage", "step", payload)
    assert channels["bureau"].receive("bank", "stage", "step", size) == payload
    in_parallel([channel.close for channel in channels.values()])


def test_two_parties_can_send_each_other_64_mb_at_once(consortium: Consortium) -> None:
    """More than every queue and the unread cap: nobody may stand still."""
    bank = consortium.party("bank", max_held_bytes=33 << 20)
    bureau = consortium.party("bureau", max_held_bytes=33 << 20)
    dealer = consortium.dealer()
    payload = os.urandom(64 << 20)

    def exchange(channel: RelayChannel, peer: str) -> bytes:
        channel.send(peer, "stage", "step", payload)
        return channel.receive(peer, "stage", "step", LIMIT)

    outcomes = in_parallel([lambda: exchange(bank, "bureau"), lambda: exchange(bureau, "bank"), dealer.wait_for_peers])
    assert outcomes[0] == payload
    assert outcomes[1] == payload
    in_parallel([bank.close, bureau.close, dealer.close])


def test_the_last_messages_survive_closing(consortium: Consortium) -> None:
    channels = consortium.connect()
    payload = os.urandom(20 << 20)
    reader = threading.Thread(target=channels["bank"].close)
    channels["bank"].send("bureau", "stage", "step", payload)
    reader.start()
    time.sleep(0.2)  # the sender is gone, or going, before the receiver looks
    assert channels["bureau"].receive("bank", "stage", "step", LIMIT) == payload
    with pytest.raises(TransportError) as caught:
        channels["bureau"].receive("bank", "stage", "step", LIMIT)
    assert caught.value.code == "PARTY_LOST"
    reader.join(5)
    in_parallel([channels["bureau"].close, channels["coordinator"].close])


def test_a_message_longer_than_allowed_is_refused(consortium: Consortium) -> None:
    channels = consortium.connect()
    channels["bank"].send("bureau", "stage", "step", bytes(1001))
    with pytest.raises(RemoteProtocolError) as caught:
        channels["bureau"].receive("bank", "stage", "step", 1000)
    assert caught.value.code == "FRAME_REJECTED"


def test_a_message_of_another_step_is_refused(consortium: Consortium) -> None:
    channels = consortium.connect()
    channels["bank"].send("bureau", "bin", "PreBins", b"data")
    with pytest.raises(RemoteProtocolError) as caught:
        channels["bureau"].receive("bank", "bin", "GateDecision", 1000)
    assert caught.value.code == "FRAME_REJECTED"


def test_the_players_of_a_protocol_run_over_it(consortium: Consortium) -> None:
    channels = consortium.connect()
    parties = Parties("bank", ("bureau",))
    steps = (Step("1", Role.LABEL_OWNER, FeatureCount, Role.CO_HOLDER),)
    bounds = Bounds(rows=10, set_size=10, features=1, key_bytes=384)

    def session(name: str) -> Session:
        return Session(name, parties, "stage", steps, bounds, Ledger(name))

    def play(name: str, script: Any) -> Any:
        return Player(script, session(name), channels[name]).run()

    outcomes = in_parallel(
        [
            lambda: play("bank", send("bureau", FeatureCount(7))),
            lambda: play("bureau", receive("bank", FeatureCount)),
        ]
    )
    assert outcomes == [None, FeatureCount(7)]


def test_a_silent_peer_is_named(consortium: Consortium) -> None:
    bank = consortium.party("bank", receive_timeout_s=0.3)
    bureau, dealer = consortium.party("bureau"), consortium.dealer()
    with pytest.raises(TransportError, match="bureau sent nothing") as caught:
        bank.receive("bureau", "stage", "step", LIMIT)
    assert caught.value.code == "PEER_SILENT"
    in_parallel([bank.close, bureau.close, dealer.close])


def test_unread_messages_are_held_up_to_a_limit(consortium: Consortium) -> None:
    bank, dealer = consortium.party("bank"), consortium.dealer()
    bureau = consortium.party("bureau", max_held_bytes=2 << 20)
    outcomes = in_parallel(
        [
            lambda: bank.send("bureau", "stage", "step", bytes(8 << 20)),
            lambda: bureau.receive("coordinator", "stage", "step", LIMIT),
            dealer.wait_for_peers,
        ]
    )
    assert code_of(outcomes[1]) == "INBOX_FULL"
    in_parallel([bank.close, bureau.close, dealer.close])


# -- a relay that lies


class LyingRelay(Relay):
    """Does to the second data frame from bank to bureau what `lie` says."""

    lie = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen = 0
        self.held: bytes | None = None

    def forward(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        if envelope.kind is not Kind.DATA or (envelope.sender, envelope.receiver) != ("bank", "bureau"):
            super().forward(queue, envelope, frame)
            return
        self.seen += 1
        start = len(frame) - len(envelope.payload)
        if self.held is not None:
            super().forward(queue, envelope, frame)
            super().forward(queue, envelope, self.held)
            self.held = None
        elif self.seen != 2:
            super().forward(queue, envelope, frame)
        elif self.lie == "alter":
            super().forward(queue, envelope, frame[:-1] + bytes((frame[-1] ^ 1,)))
        elif self.lie == "flip last flag":
            super().forward(queue, envelope, frame[:start] + bytes((frame[start] ^ 1,)) + frame[start + 1 :])
        elif self.lie == "change length":
            super().forward(queue, envelope, frame[: start + 8] + bytes((frame[start + 8] ^ 1,)) + frame[start + 9 :])
        elif self.lie == "repeat":
            super().forward(queue, envelope, frame)
            super().forward(queue, envelope, frame)
        elif self.lie == "reorder":
            self.held = frame
        elif self.lie == "truncate":
            super().forward(queue, envelope, frame[:-5])
        elif self.lie == "empty":
            super().forward(queue, envelope, frame[:start])
        elif self.lie == "drop":
            pass
        elif self.lie == "swap sender":
            swapped = encode_frame(Kind.DATA, JOB, "tax", "bureau", bytes(envelope.payload))
            super().forward(queue, replace(envelope, sender="tax"), swapped)
        elif self.lie == "swap receiver":
            swapped = encode_frame(Kind.DATA, JOB, "bank", "tax", bytes(envelope.payload))
            super().forward(self._jobs[JOB].seats["tax"], replace(envelope, receiver="tax"), swapped)
        elif self.lie == "other job":
            super().forward(queue, envelope, encode_frame(Kind.DATA, "job-2", "bank", "bureau", envelope.payload))
        elif self.lie == "garbage":
            super().forward(queue, envelope, b"\x07garbage")


@pytest.mark.parametrize(
    "lie",
    [
        "alter",
        "flip last flag",
        "change length",
        "repeat",
        "reorder",
        "truncate",
        "empty",
        "drop",
        "swap sender",
        "swap receiver",
        "other job",
        "garbage",
    ],
)
def test_no_lie_of_the_relay_about_a_frame_is_believed(tmp_path: Path, lie: str) -> None:
    consortium = Consortium(tmp_path, ("bank", "bureau", "tax"), LyingRelay)
    consortium.relay.lie = lie  # type: ignore[attr-defined]
    channels = consortium.connect()
    for number in range(4):
        channels["bank"].send("bureau", "stage", "step", b"message %d" % number)
    victim, sender = ("tax", "bank") if lie == "swap receiver" else ("bureau", "bank")
    sender = "tax" if lie == "swap sender" else sender
    got: list[bytes] = []

    def read_all() -> None:
        for _ in range(4):
            got.append(channels[victim].receive(sender, "stage", "step", LIMIT))

    with pytest.raises(RemoteProtocolError) as caught:
        read_all()
    assert caught.value.code == "FRAME_REJECTED"
    assert got == [b"message %d" % number for number in range(len(got))]
    assert len(got) < 4
    consortium.close()


class MiddleRelay(Relay):
    """Puts a share of its own in the place of the bank's."""

    def forward(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        if envelope.kind is Kind.HELLO and envelope.sender == "bank":
            frame = frame[:-32] + os.urandom(32)
        super().forward(queue, envelope, frame)


def test_a_relay_in_the_middle_of_the_handshake_is_found(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, relay=MiddleRelay)
    bank, bureau, dealer = consortium.party("bank"), consortium.party("bureau"), consortium.dealer()
    codes = [code_of(x) for x in in_parallel([bank.wait_for_peers, bureau.wait_for_peers])]
    assert codes == ["HANDSHAKE_REJECTED", "HANDSHAKE_REJECTED"]
    in_parallel([bank.close, bureau.close, dealer.close])
    consortium.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"contract_hash": bytes(32)},
        {"attempt": 2},
        {"roles": {"bank": "label owner", "bureau": "feature provider", "coordinator": "coordinator"}},
    ],
)
def test_parties_that_disagree_on_the_terms_get_no_link(consortium: Consortium, changes: dict[str, Any]) -> None:
    bank, bureau = consortium.party("bank"), consortium.party("bureau", **changes)
    outcomes = in_parallel([bank.wait_for_peers, bureau.wait_for_peers])
    assert [code_of(outcome) for outcome in outcomes] == ["HANDSHAKE_REJECTED", "HANDSHAKE_REJECTED"]
    in_parallel([bank.close, bureau.close])


class RecordingRelay(Relay):
    """Keeps every frame, as a curious operator would."""

    frames: list[bytes]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frames = []

    def forward(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        self.frames.append(frame)
        super().forward(queue, envelope, frame)


def test_the_relay_sees_sizes_and_names_and_no_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    consortium = Consortium(tmp_path, relay=RecordingRelay)
    channels = consortium.connect()
    planted = b"91350211M000100Y43"
    channels["bank"].send("bureau", "planted-stage", "PlantedStep", planted * 1000)
    channels["coordinator"].send("bureau", "planted-stage", "PlantedStep", planted * 10)
    assert planted in channels["bureau"].receive("bank", "planted-stage", "PlantedStep", LIMIT)
    assert planted in channels["bureau"].receive("coordinator", "planted-stage", "PlantedStep", LIMIT)
    seen = b"".join(consortium.relay.frames)  # type: ignore[attr-defined]
    assert seen.count(b"bureau") >= 4
    for secret in (planted, planted.hex().encode(), b"planted-stage", b"PlantedStep"):
        assert secret not in seen
        assert secret.decode() not in caplog.text
    sent = consortium.relay.meter()[JOB, "bank"].bytes_sent
    assert 18_000 < sent < 20_000
    in_parallel([channel.close for channel in channels.values()])
    consortium.close()


# -- who may connect


def test_a_certificate_of_another_authority_is_rejected(consortium: Consortium, tmp_path: Path) -> None:
    own = consortium.tls("bank")
    other = Authority(datetime.datetime.now(datetime.UTC)).client(tmp_path / "other", "bank")
    for tls in (TlsFiles(own.ca, other.certificate, other.key), TlsFiles(other.ca, own.certificate, own.key)):
        with pytest.raises(TransportError) as caught:
            RelayChannel(consortium.address, tls, me="bank", **consortium.terms("bank"))
        assert caught.value.code == "CERTIFICATE_REJECTED"


def test_an_expired_certificate_is_rejected(consortium: Consortium, tmp_path: Path) -> None:
    consortium.authority._until = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    with pytest.raises(TransportError) as caught:
        consortium.party("bank")
    assert caught.value.code == "CERTIFICATE_REJECTED"


def test_a_certificate_of_another_name_is_rejected(consortium: Consortium) -> None:
    with pytest.raises(TransportError) as caught:
        RelayChannel(consortium.address, consortium.tls("bureau"), me="bank", **consortium.terms("bank"))
    assert caught.value.code == "CERTIFICATE_REJECTED"


def test_files_that_are_no_certificates_are_rejected(consortium: Consortium, tmp_path: Path) -> None:
    tls = consortium.tls("bank")
    (tmp_path / "junk.pem").write_bytes(b"junk")
    for broken in (
        replace(tls, ca=tmp_path / "junk.pem"),
        replace(tls, certificate=tmp_path / "junk.pem"),
        replace(tls, key=tmp_path / "junk.pem"),
        replace(tls, key=tmp_path / "none.pem"),
    ):
        with pytest.raises(TransportError) as caught:
            RelayChannel(consortium.address, broken, me="bank", **consortium.terms("bank"))
        assert caught.value.code == "CERTIFICATE_REJECTED"


def raw_stream(consortium: Consortium, frames: list[bytes], name: str | None) -> grpc.RpcError:
    """Open a stream as a client of our own would, and read until the relay ends it."""
    ca = (consortium.folder / "relay" / "ca.pem").read_bytes()
    if name is None:
        credentials = grpc.ssl_channel_credentials(ca)
    else:
        tls = consortium.tls(name)
        credentials = grpc.ssl_channel_credentials(ca, tls.key.read_bytes(), tls.certificate.read_bytes())
    done = threading.Event()

    def requests() -> Iterator[bytes]:
        yield from frames
        done.wait(5)

    with grpc.secure_channel(consortium.address, credentials) as channel:
        call = channel.stream_stream(METHOD)(requests(), timeout=5)
        try:
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
        finally:
            done.set()
    return caught.value


def test_a_client_without_a_certificate_is_refused(consortium: Consortium) -> None:
    error = raw_stream(consortium, [encode_frame(Kind.JOIN, JOB, "bank", "")], None)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert consortium.relay.present(JOB) == frozenset()


JOIN = encode_frame(Kind.JOIN, JOB, "bank", "")


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([encode_frame(Kind.JOIN, JOB, "bureau", "")], "SENDER_REFUSED"),
        ([encode_frame(Kind.JOIN, "no-such-job", "bank", "")], "JOB_UNKNOWN"),
        ([b"junk"], "SENDER_REFUSED"),
        ([encode_frame(Kind.DATA, JOB, "bank", "bureau", b"")], "SENDER_REFUSED"),
        ([JOIN, encode_frame(Kind.DATA, JOB, "bureau", "coordinator", b"")], "SENDER_REFUSED"),
        ([JOIN, encode_frame(Kind.DATA, "job-2", "bank", "bureau", b"")], "SENDER_REFUSED"),
        ([JOIN, encode_frame(Kind.DATA, JOB, "bank", "bank", b"")], "SENDER_REFUSED"),
        ([JOIN, encode_frame(Kind.DATA, JOB, "bank", "stranger", b"")], "SENDER_REFUSED"),
        ([JOIN, encode_frame(Kind.LOST, JOB, "bank", "bureau", b"coordinator")], "SENDER_REFUSED"),
        ([JOIN, encode_frame(Kind.ABORT, JOB, "bank", "bureau", b"SOME_CODE")], "SENDER_REFUSED"),
        ([JOIN, encode_frame(Kind.ABORT, JOB, "bank", "", b"a row: 17")], "SENDER_REFUSED"),
    ],
)
def test_a_frame_that_does_not_fit_its_certificate_is_refused(
    consortium: Consortium, frames: list[bytes], code: str
) -> None:
    error = raw_stream(consortium, frames, "bank")
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error.details() == code  # type: ignore[attr-defined]


def test_nobody_takes_the_coordinators_seat_from_outside(consortium: Consortium) -> None:
    error = raw_stream(consortium, [encode_frame(Kind.JOIN, JOB, "coordinator", "")], "coordinator")
    assert error.details() == "SENDER_REFUSED"  # type: ignore[attr-defined]


def test_a_seat_is_taken_once(consortium: Consortium) -> None:
    bank = consortium.party("bank")
    with pytest.raises(TransportError) as caught:
        consortium.party("bank")
    assert caught.value.code == "ALREADY_CONNECTED"
    bank.close()


def test_an_unknown_job_is_refused(consortium: Consortium) -> None:
    with pytest.raises(TransportError) as caught:
        consortium.party("bank", job="job-2")
    assert caught.value.code == "JOB_UNKNOWN"


def test_a_relay_that_is_not_there_is_unreachable(consortium: Consortium) -> None:
    consortium.close()
    for address in (consortium.address, "127.0.0.1:port"):
        with pytest.raises(TransportError) as caught:
            RelayChannel(address, consortium.tls("bank"), me="bank", **consortium.terms("bank", connect_timeout_s=0.5))
        assert caught.value.code == "RELAY_UNREACHABLE"


def test_an_absent_party_is_named_and_the_present_ones_are_not(consortium: Consortium) -> None:
    bank, dealer = consortium.party("bank", connect_timeout_s=0.5), consortium.dealer()
    with pytest.raises(TransportError) as caught:
        bank.send("coordinator", "stage", "step", b"")
    assert caught.value.code == "PARTY_ABSENT"
    assert "bureau" in str(caught.value)
    assert "coordinator" not in str(caught.value)
    in_parallel([bank.close, dealer.close])


# -- loss and abort


def waiting(channel: Any, sender: str) -> tuple[threading.Thread, list[Any], list[float]]:
    """A thread that waits in `receive`; its outcome, and when it came."""
    outcome: list[Any] = []
    ended: list[float] = []

    def wait() -> None:
        try:
            outcome.append(channel.receive(sender, "stage", "step", LIMIT))
        except ConcordatError as error:
            outcome.append(error)
        ended.append(time.monotonic())

    thread = threading.Thread(target=wait)
    thread.start()
    return thread, outcome, ended


def test_an_abort_interrupts_whoever_waits_and_whoever_computes(consortium: Consortium) -> None:
    channels = consortium.connect()
    thread, outcome, ended = waiting(channels["coordinator"], "bureau")
    time.sleep(0.1)
    begun = time.monotonic()
    assert channels["bank"].abort("TOO_FEW_ROWS") == "TOO_FEW_ROWS"
    thread.join(5)
    assert isinstance(outcome[0], PeerAbortedError)
    assert outcome[0].code == "TOO_FEW_ROWS"
    assert ended[0] - begun < 1.0
    time.sleep(0.1)
    with pytest.raises(PeerAbortedError) as caught:
        channels["bureau"].send("bank", "stage", "step", b"computed meanwhile")
    assert caught.value.code == "TOO_FEW_ROWS"
    in_parallel([channel.close for channel in channels.values()])


def test_an_error_in_the_block_ends_the_job_for_all_with_its_code(consortium: Consortium) -> None:
    channels = consortium.connect()
    thread, outcome, _ = waiting(channels["bureau"], "bank")
    with pytest.raises(DataError), channels["bank"]:
        raise DataError("COLUMN_MISSING", "a sentence that stays here")
    thread.join(5)
    assert code_of(outcome[0]) == "COLUMN_MISSING"
    assert "stays here" not in str(outcome[0])
    in_parallel([channels["bureau"].close, channels["coordinator"].close])


def test_of_two_aborts_all_parties_report_the_same(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, ("bank", "bureau", "tax"))
    channels = consortium.connect()
    thread, outcome, _ = waiting(channels["tax"], "bank")
    codes = in_parallel([lambda: channels["bank"].abort("CODE_ONE"), lambda: channels["bureau"].abort("CODE_TWO")])
    thread.join(5)
    assert {*codes, code_of(outcome[0]), consortium.relay.verdict(JOB)} in ({"CODE_ONE"}, {"CODE_TWO"})
    in_parallel([channel.close for channel in channels.values()])
    consortium.close()


def test_who_comes_after_the_end_is_told_the_code(consortium: Consortium) -> None:
    bank = consortium.party("bank")
    bank.abort("COLUMN_MISSING")
    bank.close()
    with pytest.raises(PeerAbortedError) as caught:
        consortium.party("bureau").wait_for_peers()
    assert caught.value.code == "COLUMN_MISSING"


class DeafRelay(Relay):
    """Swallows aborts addressed to it."""

    def _control(self, seat: Any, envelope: Envelope) -> bool:
        return True if envelope.kind is Kind.ABORT else super()._control(seat, envelope)


def test_an_abort_reaches_the_peers_past_a_relay_that_swallows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocols.linked_channel.ABORT_ECHO_S", 0.2)
    consortium = Consortium(tmp_path, relay=DeafRelay)
    channels = consortium.connect()
    thread, outcome, _ = waiting(channels["bureau"], "coordinator")
    assert channels["bank"].abort("CHECK_FAILED") == "CHECK_FAILED"
    thread.join(5)
    assert code_of(outcome[0]) == "CHECK_FAILED"
    in_parallel([channel.close for channel in channels.values()])
    consortium.close()


def test_the_supervisor_stops_a_job(consortium: Consortium) -> None:
    channels = consortium.connect()
    thread, outcome, _ = waiting(channels["bureau"], "bank")
    assert consortium.relay.stop_job(JOB, "JOB_STOPPED") == "JOB_STOPPED"
    assert consortium.relay.stop_job(JOB, "SECOND_CODE") == "JOB_STOPPED"
    thread.join(5)
    assert code_of(outcome[0]) == "JOB_STOPPED"
    in_parallel([channel.close for channel in channels.values()])


def test_an_abort_wakes_a_sender_that_waits_for_room(consortium: Consortium) -> None:
    """The receiver computes and reads nothing more than its cap: the sender stands in `send`."""
    bank, dealer = consortium.party("bank"), consortium.dealer()
    bureau = consortium.party("bureau", max_held_bytes=1 << 20)
    in_parallel([bank.wait_for_peers, bureau.wait_for_peers, dealer.wait_for_peers])
    outcomes: list[Any] = []
    sender = threading.Thread(
        target=lambda: outcomes.extend(in_parallel([lambda: bank.send("bureau", "stage", "step", bytes(80 << 20))]))
    )
    sender.start()
    sender.join(0.5)
    assert sender.is_alive(), "back pressure should hold the sender"
    dealer.abort("DEALER_FAILED")
    sender.join(5)
    assert code_of(outcomes[0]) == "DEALER_FAILED"
    in_parallel([bank.close, bureau.close, dealer.close])


@pytest.mark.process
def test_a_killed_process_is_a_lost_party_within_seconds(consortium: Consortium, tmp_path: Path) -> None:
    consortium.identities["bureau"] = create_identity(tmp_path / "bureau.identity")
    keys = {
        name: key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()
        for name, key in consortium.identities.items()
    }
    tls = consortium.tls("bureau")
    files = [str(path) for path in (tls.ca, tls.certificate, tls.key)]
    script = f"""
import pathlib, time
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from party_agent.transport import RelayChannel, TlsFiles, load_identity
keys = {keys!r}
channel = RelayChannel({consortium.address!r}, TlsFiles(*map(pathlib.Path, {files!r})),
    me="bureau", identity=load_identity(pathlib.Path({str(tmp_path / "bureau.identity")!r})),
    peers={{n: Ed25519PublicKey.from_public_bytes(bytes.fromhex(k)) for n, k in keys.items() if n != "bureau"}},
    contract_hash=bytes.fromhex({CONTRACT.hex()!r}), job={JOB!r}, roles={consortium.roles!r}, connect_timeout_s=20)
channel.send("bank", "stage", "ready", b"ready")
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    bank, dealer = consortium.party("bank", connect_timeout_s=20), consortium.dealer(connect_timeout_s=20)
    try:
        assert bank.receive("bureau", "stage", "ready", LIMIT) == b"ready"
        thread, outcome, ended = waiting(dealer, "bank")  # waits for another one than the killed
        begun = time.monotonic()
        process.send_signal(signal.SIGKILL)
        with pytest.raises(TransportError, match="bureau") as caught:
            bank.receive("bureau", "stage", "step", LIMIT)
        thread.join(5)
        assert (caught.value.code, code_of(outcome[0])) == ("PARTY_LOST", "PARTY_LOST")
        assert ended[0] - begun < 3.0
        assert bank.abort("PARTY_LOST") == "PARTY_LOST"
    finally:
        process.kill()
        process.wait()
        in_parallel([bank.close, dealer.close])


def test_a_relay_that_ends_leaves_no_one_waiting(consortium: Consortium) -> None:
    channels = consortium.connect()
    thread, outcome, _ = waiting(channels["bank"], "bureau")
    time.sleep(0.1)
    consortium.close()
    thread.join(5)
    assert code_of(outcome[0]) in {"RELAY_UNREACHABLE", "PARTY_LOST"}
    in_parallel([channel.close for channel in channels.values()])


# -- identities


def test_an_identity_file_is_private_and_reads_back(tmp_path: Path) -> None:
    key = create_identity(tmp_path / "identity.pem")
    assert (tmp_path / "identity.pem").stat().st_mode & 0o777 == 0o600
    assert load_identity(tmp_path / "identity.pem").private_bytes_raw() == key.private_bytes_raw()


def test_a_file_that_is_no_identity_is_refused(consortium: Consortium, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    for path in (tmp_path / "junk", tmp_path / "none", consortium.tls("bank").key):
        with pytest.raises(DataError) as caught:
            load_identity(path)
        assert caught.value.code == "IDENTITY_UNREADABLE"
