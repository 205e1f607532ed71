"""The relay's seats, queues and verdicts, in process; its certificates."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey

from coordinator.certificates import Authority, CertificateFiles
from coordinator.relay import Endpoint, Relay, Traffic
from protocols.envelope import Envelope, FrameQueue, Kind, decode_frame, encode_frame
from protocols.errors import LocalProtocolError, TransportError

NAMES = ("bank", "bureau", "tax")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return Authority(datetime.datetime.now(datetime.UTC)).server(tmp_path_factory.mktemp("relay"))


@pytest.fixture
def relay(certificates: CertificateFiles) -> Iterator[Relay]:
    relay = Relay(certificates, {"job-1": NAMES, "job-2": NAMES}, queue_bytes=100)
    yield relay
    relay.close()


def waiting_frames(seat: Endpoint) -> list[Envelope]:
    """What the relay has for this seat, taken out after the seat is closed."""
    seat.inbound.close()
    return [decode_frame(frame) for frame in seat.inbound]


def summary(seat: Endpoint) -> list[tuple[str, str]]:
    return [(frame.kind.name, bytes(frame.payload).decode()) for frame in waiting_frames(seat)]


def data(sender: str, to: str, payload: bytes = b"x", job: str = "job-1") -> bytes:
    return encode_frame(Kind.DATA, job, sender, to, payload)


def test_everyone_hears_who_is_there(relay: Relay) -> None:
    bank = relay.attach("job-1", "bank")
    bureau = relay.attach("job-1", "bureau")
    assert relay.present("job-1") == {"bank", "bureau"}
    assert summary(bank) == [("JOINED", "bank"), ("JOINED", "bureau")]
    assert summary(bureau) == [("JOINED", "bureau"), ("JOINED", "bank")]


def test_a_frame_goes_to_its_receiver_in_its_job_and_nowhere_else(relay: Relay) -> None:
    seats = {(job, name): relay.attach(job, name) for job in ("job-1", "job-2") for name in NAMES}
    frame = data("bank", "bureau", b"for the bureau")
    assert seats["job-1", "bank"].put(frame)
    got = {key: [x for x in waiting_frames(seat) if x.kind is Kind.DATA] for key, seat in seats.items()}
    assert [key for key, frames in got.items() if frames] == [("job-1", "bureau")]
    assert relay.meter() == {
        ("job-1", "bank"): Traffic(1, len(frame), 0, 0),
        ("job-1", "bureau"): Traffic(0, 0, 1, len(frame)),
    }


def test_the_bytes_are_passed_on_as_they_came(relay: Relay) -> None:
    bank, bureau = relay.attach("job-1", "bank"), relay.attach("job-1", "bureau")
    frame = data("bank", "bureau")
    bank.put(frame)
    bureau.inbound.close()
    assert list(bureau.inbound)[-1] is frame


@pytest.mark.parametrize(
    "frame",
    [
        data("bureau", "bank"),
        data("bank", "bureau", job="job-2"),
        data("bank", "bank"),
        data("bank", "stranger"),
        encode_frame(Kind.JOINED, "job-1", "bank", "bureau", b"tax"),
        encode_frame(Kind.LEFT, "job-1", "bank", "", b"tax"),
        encode_frame(Kind.ABORT, "job-1", "bank", "", b"not a code"),
        encode_frame(Kind.JOIN, "job-1", "bank", ""),
        b"junk",
    ],
)
def test_a_frame_that_the_seat_may_not_send_is_refused(relay: Relay, frame: bytes) -> None:
    bank, bureau = relay.attach("job-1", "bank"), relay.attach("job-1", "bureau")
    with pytest.raises(TransportError) as caught:
        bank.put(frame)
    assert caught.value.code == "SENDER_REFUSED"
    assert [kind for kind, _ in summary(bureau)] == ["JOINED", "JOINED"]


def test_only_the_parties_of_a_job_get_a_seat_and_one_each(relay: Relay) -> None:
    relay.attach("job-1", "bank")
    for job, name, code in (
        ("job-1", "bank", "ALREADY_CONNECTED"),
        ("job-1", "stranger", "JOB_UNKNOWN"),
        ("job-3", "bank", "JOB_UNKNOWN"),
    ):
        with pytest.raises(TransportError) as caught:
            relay.attach(job, name)
        assert caught.value.code == code


def test_a_job_is_opened_once(relay: Relay) -> None:
    relay.add_job("job-3", NAMES)
    relay.attach("job-3", "bank")
    with pytest.raises(LocalProtocolError):
        relay.add_job("job-3", NAMES)


def test_leave_is_told_after_the_data_and_loss_before(relay: Relay) -> None:
    bank, bureau = relay.attach("job-1", "bank"), relay.attach("job-1", "bureau")
    tax = relay.attach("job-1", "tax")
    bank.put(data("bank", "tax", b"last"))
    assert not bank.put(encode_frame(Kind.LEAVE, "job-1", "bank", ""))
    bank.lose()  # the stream of one that took leave: nothing more to say
    assert relay.verdict("job-1") is None
    bureau.lose()
    assert relay.verdict("job-1") == "PARTY_LOST"
    told = summary(tax)
    assert told[0] == ("LOST", "bureau")
    assert told[-2:] == [("DATA", "last"), ("LEFT", "bank")]


def test_the_first_code_stays_and_everyone_hears_it(relay: Relay) -> None:
    bank, bureau = relay.attach("job-1", "bank"), relay.attach("job-1", "bureau")
    bank.put(encode_frame(Kind.ABORT, "job-1", "bank", "", b"FIRST_CODE"))
    bureau.put(encode_frame(Kind.ABORT, "job-1", "bureau", "", b"SECOND_CODE"))
    assert relay.stop_job("job-1", "THIRD_CODE") == "FIRST_CODE"
    late = relay.attach("job-1", "tax")
    for seat in (bank, bureau, late):
        assert {text for kind, text in summary(seat) if kind == "ABORT"} == {"FIRST_CODE"}
    assert relay.verdict("job-2") is None


def test_a_sentence_is_no_code(relay: Relay) -> None:
    with pytest.raises(LocalProtocolError):
        relay.stop_job("job-1", "row 17 is bad")


def test_a_full_queue_holds_its_senders_and_no_one_else(relay: Relay) -> None:
    bank, bureau, tax = (relay.attach("job-1", name) for name in NAMES)
    big = data("bank", "tax", bytes(200))
    bank.put(big)
    held = threading.Thread(target=bank.put, args=(big,))
    held.start()
    held.join(0.2)
    assert held.is_alive()
    assert bureau.put(data("bureau", "bank"))
    frames = iter(tax.inbound)
    while decode_frame(next(frames)).kind is not Kind.DATA:
        pass
    held.join(2)
    assert not held.is_alive()


def test_a_sender_that_waits_for_a_party_that_is_lost_goes_on(relay: Relay) -> None:
    bank, tax = relay.attach("job-1", "bank"), relay.attach("job-1", "tax")
    bank.put(data("bank", "tax", bytes(200)))
    held = threading.Thread(target=bank.put, args=(data("bank", "tax", bytes(200)),))
    held.start()
    time.sleep(0.05)
    tax.lose()
    held.join(2)
    assert not held.is_alive()
    assert ("LOST", "tax") in summary(bank)


def test_a_port_that_is_taken_is_an_error(certificates: CertificateFiles) -> None:
    first, second = Relay(certificates), Relay(certificates)
    port = first.start()
    assert port > 0
    with pytest.raises(TransportError) as caught:
        second.start(port=port)
    assert caught.value.code == "PORT_TAKEN"
    first.close()


# -- the queue


def test_urgent_frames_overtake_in_their_own_order() -> None:
    queue = FrameQueue(1000)
    for frame, urgent in ((b"a", False), (b"B", True), (b"c", False), (b"D", True)):
        assert queue.put(frame, urgent=urgent)
    queue.close()
    assert not queue.put(b"late")
    assert list(queue) == [b"B", b"D", b"a", b"c"]


def test_a_discarded_queue_keeps_what_is_urgent_and_has_room() -> None:
    queue = FrameQueue(2)
    queue.put(b"aaaa")
    queue.put(b"U", urgent=True, wait=False)
    queue.discard()
    assert queue.put(b"b")
    queue.close()
    assert list(queue) == [b"U", b"b"]


# -- certificates


def test_certificates_are_private_short_lived_and_signed_by_their_authority(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    authority = Authority(now)
    server, client = authority.server(tmp_path / "relay"), authority.client(tmp_path / "bank", "bank")
    for files in (server, client):
        for path in (files.ca, files.certificate, files.key):
            assert path.stat().st_mode & 0o777 == 0o600
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        root = x509.load_pem_x509_certificate(files.ca.read_bytes())
        key = root.public_key()
        assert isinstance(key, EllipticCurvePublicKey)
        assert certificate.signature_hash_algorithm is not None
        key.verify(
            certificate.signature, certificate.tbs_certificate_bytes, ECDSA(certificate.signature_hash_algorithm)
        )
        assert certificate.not_valid_after_utc - now <= datetime.timedelta(hours=24)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert not constraints.ca
    name = x509.load_pem_x509_certificate(client.certificate.read_bytes()).subject.rfc4514_string()
    assert name == "CN=bank"
    assert not list(tmp_path.rglob("ca.key"))
