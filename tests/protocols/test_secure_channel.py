"""Handshake, sealing and the machine of links, without a socket."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import secure_channel
from protocols.envelope import CHUNK_BYTES, RELAY, Envelope, Kind, decode_frame, encode_frame
from protocols.errors import LocalProtocolError, PeerAbortedError, RemoteProtocolError, TransportError
from protocols.secure_channel import Handshake, Links, LinkTerms, Opened, Reassembly, SecureLink

KEYS = {name: Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i, name in enumerate(("bank", "bureau", "tax"))}
ROLES = {"bank": "label owner", "bureau": "feature provider", "tax": "feature provider"}


def terms(me: str, **changes: Any) -> LinkTerms:
    peers = {name: key.public_key() for name, key in KEYS.items() if name != me}
    values = {
        "me": me,
        "job": "job-1",
        "attempt": 1,
        "contract_hash": b"c" * 32,
        "roles": ROLES,
        "identity": KEYS[me],
        "peers": peers,
    }
    return LinkTerms(**(values | changes))


def link_pair(
    bank: LinkTerms | None = None, bureau: LinkTerms | None = None, names: tuple[str, str] = ("bank", "bureau")
) -> tuple[SecureLink, SecureLink]:
    """Both ends of a fresh link."""
    left = Handshake(bank or terms(names[0]), names[1], os.urandom)
    right = Handshake(bureau or terms(names[1]), names[0], os.urandom)
    left_proof, right_proof = left.on_hello(right.hello()), right.on_hello(left.hello())
    return left.on_proof(right_proof), right.on_proof(left_proof)


def rejected(call: Any, code: str = "FRAME_REJECTED") -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        call()
    assert caught.value.code == code


# -- one link


def test_what_one_end_seals_the_other_opens() -> None:
    bank, bureau = link_pair()
    assert bureau.open("s", "m", b"".join(bank.seal("s", "m", b"hello", True, 5))) == Opened(b"hello", True, 5)
    assert bank.open("s", "m", b"".join(bureau.seal("s", "m", b"back", True, 4))) == Opened(b"back", True, 4)


def test_no_key_and_nonce_are_ever_used_twice() -> None:
    """One text, both directions, twice, as data and as abort, on two links: every ciphertext (tag aside) differs."""
    text, bodies = b"THE_SAME_TEXT_AGAIN", []
    for _ in range(2):
        for link in link_pair():
            bodies += [link.seal("s", "m", text, True, len(text))[1][:-16] for _ in range(2)]
            bodies.append((link.seal_abort(text.decode()) or b"")[:-16])
    assert len(set(bodies)) == 12


@pytest.mark.parametrize("changes", [{"job": "job-2"}, {"attempt": 2}, {"contract_hash": b"d" * 32}])
def test_a_frame_names_its_contract_job_and_attempt_besides_its_key(changes: dict[str, Any]) -> None:
    keys = secure_channel._Directions(b"s" * 32, b"t" * 32, "bank", "bureau")
    back = secure_channel._Directions(b"s" * 32, b"t" * 32, "bureau", "bank")
    frame = b"".join(SecureLink(terms("bank"), "bureau", keys).seal("s", "m", b"x", True, 1))
    rejected(lambda: SecureLink(terms("bureau", **changes), "bank", back).open("s", "m", frame))
    assert SecureLink(terms("bureau"), "bank", back).open("s", "m", frame).chunk == b"x"


@pytest.mark.parametrize(
    "changes",
    [
        {"job": "job-2"},
        {"attempt": 2},
        {"contract_hash": b"d" * 32},
        {"roles": ROLES | {"bank": "feature provider"}},
        {"roles": ROLES | {"bureau": "label owner"}},
        {"identity": KEYS["tax"]},
        {"peers": {"bank": KEYS["tax"].public_key(), "tax": KEYS["bank"].public_key()}},
    ],
)
def test_no_link_comes_of_different_terms(changes: dict[str, Any]) -> None:
    rejected(lambda: link_pair(bureau=terms("bureau", **changes)), "HANDSHAKE_REJECTED")


def test_a_share_that_was_replaced_on_its_way_is_found() -> None:
    bank, bureau = Handshake(terms("bank"), "bureau", os.urandom), Handshake(terms("bureau"), "bank", os.urandom)
    middle = Handshake(terms("tax"), "bank", os.urandom)
    bank.on_hello(middle.hello())
    proof = bureau.on_hello(bank.hello())
    rejected(lambda: bank.on_proof(proof), "HANDSHAKE_REJECTED")


def test_a_proof_of_an_earlier_handshake_is_worthless() -> None:
    old = Handshake(terms("bank"), "bureau", os.urandom)
    proof = Handshake(terms("bureau"), "bank", os.urandom).on_hello(old.hello())
    bank, bureau = Handshake(terms("bank"), "bureau", os.urandom), Handshake(terms("bureau"), "bank", os.urandom)
    bank.on_hello(bureau.hello())
    rejected(lambda: bank.on_proof(proof), "HANDSHAKE_REJECTED")


def test_our_own_hello_and_proof_sent_back_make_no_link() -> None:
    bank = Handshake(terms("bank"), "bureau", os.urandom)
    rejected(lambda: bank.on_hello(bank.hello()))
    other = Handshake(terms("bank"), "bureau", os.urandom)
    proof = other.on_hello(Handshake(terms("bureau"), "bank", os.urandom).hello())
    rejected(lambda: other.on_proof(proof), "HANDSHAKE_REJECTED")


def test_a_share_of_small_order_is_refused_even_when_signed() -> None:
    bank, bureau = Handshake(terms("bank"), "bureau", os.urandom), Handshake(terms("bureau"), "bank", os.urandom)
    bureau._share = bytes(32)
    proof = bureau.on_hello(bank.hello())
    bank.on_hello(bureau.hello())
    rejected(lambda: bank.on_proof(proof), "HANDSHAKE_REJECTED")


def test_another_version_is_named_before_anything_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Handshake(terms("bank"), "bureau", os.urandom)
    hello = bank.hello()
    monkeypatch.setattr(secure_channel, "_VERSIONS", b"\x02\x01")
    rejected(lambda: Handshake(terms("bureau"), "bank", os.urandom).on_hello(hello), "VERSION_MISMATCH")


def test_terms_need_two_different_members_with_roles() -> None:
    for changes in (
        {"me": "stranger"},
        {"peers": {"bank": KEYS["tax"].public_key()}},
        {"roles": {"bank": "label owner"}},
        {"contract_hash": b"short"},
        {"attempt": 0},
    ):
        with pytest.raises(LocalProtocolError):
            replace(terms("bank"), **changes)


def test_every_field_of_a_frame_is_authenticated() -> None:
    """Any bit flipped in header, ciphertext or tag; another stage or step: refused, and the true frame still fits."""
    bank, bureau = link_pair()
    frame = b"".join(bank.seal("stage", "step", b"payload", True, 7))
    for bit in range(8 * len(frame)):
        altered = bytearray(frame)
        altered[bit // 8] ^= 1 << (bit % 8)
        rejected(lambda altered=altered: bureau.open("stage", "step", bytes(altered)))
    for stage, step in (("stage", "other"), ("other", "step"), ("stages", "tep"), ("", "stagestep")):
        rejected(lambda stage=stage, step=step: bureau.open(stage, step, frame))
    for cut in range(len(frame)):
        rejected(lambda cut=cut: bureau.open("stage", "step", frame[:cut]))
    assert bureau.open("stage", "step", frame).chunk == b"payload"
    rejected(lambda: bureau.open("stage", "step", frame))


@settings(max_examples=60, deadline=None)
@given(order=st.permutations(range(5)), dropped=st.sets(st.integers(0, 4), max_size=3))
def test_only_the_order_of_sending_is_accepted(order: list[int], dropped: set[int]) -> None:
    bank, bureau = link_pair()
    frames = [b"".join(bank.seal("s", "m", bytes([i]), True, 1)) for i in range(5)]
    delivered = [i for i in order if i not in dropped]
    got = []
    for i in delivered:
        try:
            got.append(bureau.open("s", "m", frames[i]).chunk[0])
        except RemoteProtocolError:
            break
    in_order = list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(delivered, range(5), strict=False)))
    assert got == [i for i, _ in in_order]


def test_a_frame_of_one_link_does_not_open_on_another() -> None:
    bank_bureau, bureau_bank = link_pair()
    bank_tax, tax_bank = link_pair(names=("bank", "tax"))
    frame = b"".join(bank_bureau.seal("s", "m", b"x", True, 1))
    rejected(lambda: tax_bank.open("s", "m", frame))
    rejected(lambda: bank_bureau.open("s", "m", frame))
    rejected(lambda: bank_tax.open("s", "m", frame))
    assert bureau_bank.open("s", "m", frame).chunk == b"x"


def test_a_link_stops_before_its_counter_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, _ = link_pair()
    monkeypatch.setattr(secure_channel, "_MOST_FRAMES", 2)
    bank.seal("s", "m", b"", True, 0)
    bank.seal("s", "m", b"", True, 0)
    with pytest.raises(LocalProtocolError) as caught:
        bank.seal("s", "m", b"", True, 0)
    assert caught.value.code == "LINK_SPENT"


def test_an_abort_travels_once_and_only_as_a_code() -> None:
    bank, bureau = link_pair()
    sealed = bank.seal_abort("CHECK_FAILED")
    assert sealed is not None
    assert bank.seal_abort("CHECK_FAILED") is None
    rejected(lambda: bank.open_abort(sealed))
    assert bureau.open_abort(sealed) == "CHECK_FAILED"
    for text in ("id 17 is bad", "check_failed", "A" * 49, "", "A\n"):
        with pytest.raises(LocalProtocolError):
            bureau.seal_abort(text)


# -- chunks


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_a_message_is_cut_and_put_together(size: int) -> None:
    bank, bureau = link_pair()
    payload = os.urandom(size)
    message = Reassembly(size)
    parts = [
        message.add(bureau.open("s", "m", header + sealed)) for header, sealed in bank.seal_message("s", "m", payload)
    ]
    assert parts[-1] == payload
    assert parts[:-1] == [None] * (len(parts) - 1)


@pytest.mark.parametrize(
    "chunks",
    [
        [Opened(b"", False, 11)],  # longer than allowed
        [Opened(b"abc", True, 4)],  # shorter than announced
        [Opened(b"abcde", True, 4)],  # longer than announced
        [Opened(b"", False, 4)],  # a chunk that brings nothing
        [Opened(b"abcd", False, 4)],  # the last chunk is not flagged
        [Opened(bytes(CHUNK_BYTES), False, CHUNK_BYTES + 2), Opened(b"ab", True, CHUNK_BYTES + 1)],
    ],
)
def test_a_message_that_is_not_what_it_announced_is_refused(chunks: list[Opened]) -> None:
    message = Reassembly(10 if len(chunks) == 1 else 2 * CHUNK_BYTES)
    for chunk in chunks[:-1]:
        assert message.add(chunk) is None
    rejected(lambda: message.add(chunks[-1]))


# -- all links of a party


def relay_frame(kind: Kind, to: str, text: str, sender: str = RELAY) -> bytes:
    return encode_frame(kind, "job-1", sender, to, text.encode())


def three_parties() -> dict[str, Links]:
    """All links made, over a perfect relay."""
    links = {name: Links(terms(name), os.urandom) for name in KEYS}
    pending = [relay_frame(Kind.JOINED, to, who) for to in KEYS for who in KEYS]
    while pending:
        frame = pending.pop(0)
        pending += links[decode_frame(frame).receiver].arrived(frame)
    for machine in links.values():
        machine.check()
        assert machine.unlinked() == ()
    return links


def deliver(links: dict[str, Links], frames: Any) -> None:
    for frame in frames:
        envelope = decode_frame(frame)
        if envelope.receiver != RELAY:
            assert links[envelope.receiver].arrived(frame) == []


def test_messages_pass_between_all_parties() -> None:
    links = three_parties()
    for sender, to in itertools.permutations(KEYS, 2):
        deliver(links, links[sender].outgoing(to, "s", "m", f"{sender} to {to}".encode()))
        assert links[to].take(sender, "s", "m", 100) == f"{sender} to {to}".encode()
        assert links[to].take(sender, "s", "m", 100) is None
        assert links[to].held_bytes == 0


def test_a_party_that_left_can_be_read_to_the_end() -> None:
    links = three_parties()
    deliver(links, links["bank"].outgoing("tax", "s", "m", b"last words"))
    links["tax"].arrived(relay_frame(Kind.LEFT, "tax", "bank"))
    assert links["tax"].take("bank", "s", "m", 100) == b"last words"
    with pytest.raises(TransportError, match="bank"):
        links["tax"].take("bank", "s", "m", 100)
    with pytest.raises(TransportError):
        list(links["tax"].outgoing("bank", "s", "m", b""))
    assert links["tax"].take("bureau", "s", "m", 100) is None


def test_a_lost_party_ends_everything_at_once() -> None:
    links = three_parties()
    deliver(links, links["bureau"].outgoing("tax", "s", "m", b"unread"))
    links["tax"].arrived(relay_frame(Kind.LOST, "tax", "bank"))
    with pytest.raises(TransportError) as caught:
        links["tax"].take("bureau", "s", "m", 100)
    assert caught.value.code == "PARTY_LOST"


def test_a_sealed_abort_overtakes_unread_messages() -> None:
    links = three_parties()
    deliver(links, links["bank"].outgoing("tax", "s", "m", b"unread"))
    deliver(links, links["bank"].abort("CHECK_FAILED"))
    with pytest.raises(PeerAbortedError) as caught:
        links["tax"].take("bank", "s", "m", 100)
    assert caught.value.code == "CHECK_FAILED"
    deliver(links, links["bureau"].abort("SECOND_CODE"))
    with pytest.raises(PeerAbortedError, match="CHECK_FAILED"):
        links["tax"].check()


def test_a_sealed_abort_of_another_link_is_not_believed() -> None:
    links = three_parties()
    frame = next(f for f in links["bank"].abort("CHECK_FAILED") if decode_frame(f).receiver == "bureau")
    forged = encode_frame(Kind.SEALED_ABORT, "job-1", "bank", "tax", bytes(decode_frame(frame).payload))
    links["tax"].arrived(forged)
    rejected(links["tax"].check)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"junk",
        encode_frame(Kind.DATA, "job-2", "bank", "tax", b""),
        encode_frame(Kind.DATA, "job-1", "bank", "bureau", b""),
        encode_frame(Kind.DATA, "job-1", "stranger", "tax", b""),
        encode_frame(Kind.DATA, "job-1", "tax", "tax", b""),
        encode_frame(Kind.LEFT, "job-1", "bank", "tax", b"bureau"),
        encode_frame(Kind.ABORT, "job-1", "bank", "tax", b"FORGED_CODE"),
        relay_frame(Kind.JOINED, "tax", "stranger"),
        relay_frame(Kind.ABORT, "tax", "a sentence with a value: 17"),
        relay_frame(Kind.DATA, "tax", "bank"),
        encode_frame(Kind.HELLO, "job-1", "bank", "tax", bytes(34)),
        encode_frame(Kind.PROOF, "job-1", "bank", "tax", bytes(64)),
    ],
)
def test_a_frame_that_has_no_business_here_ends_the_job(frame: bytes) -> None:
    links = three_parties()
    assert links["tax"].arrived(frame) == []
    rejected(links["tax"].check)


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.SEALED_ABORT, Kind.PROOF])
def test_nothing_of_a_peer_is_taken_before_its_handshake(kind: Kind) -> None:
    tax = Links(terms("tax"), os.urandom)
    assert tax.arrived(encode_frame(kind, "job-1", "bank", "tax", bytes(64))) == []
    rejected(tax.check)


def test_after_a_failure_nothing_more_is_kept() -> None:
    links = three_parties()
    links["tax"].arrived(b"junk")
    deliver(links, links["bank"].outgoing("tax", "s", "m", bytes(1000)))
    assert links["tax"].held_bytes == 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_make_the_machine_fall_over(data: bytes) -> None:
    tax = Links(terms("tax"), os.urandom)
    assert isinstance(tax.arrived(data), list)
    for kind in Kind:
        assert isinstance(tax.arrived(encode_frame(kind, "job-1", RELAY, "tax", data)), list)
        assert isinstance(tax.arrived(encode_frame(kind, "job-1", "bank", "tax", data)), list)
    assert tax.failure is not None


# -- the envelope


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(list(Kind)),
    names=st.tuples(*[st.text(max_size=20)] * 3).filter(lambda n: all(x.isprintable() for x in n)),
    payload=st.binary(max_size=50),
)
def test_an_envelope_reads_back(kind: Kind, names: tuple[str, str, str], payload: bytes) -> None:
    got = decode_frame(encode_frame(kind, *names, payload[:10], payload[10:]))
    assert got == Envelope(kind, *names, memoryview(payload))


def test_an_envelope_that_is_too_long_or_of_another_version_is_refused() -> None:
    frame = encode_frame(Kind.DATA, "j", "a", "b", bytes(CHUNK_BYTES + 5000))
    rejected(lambda: decode_frame(frame))
    rejected(lambda: decode_frame(b"\x02" + encode_frame(Kind.DATA, "j", "a", "b")[1:]))
