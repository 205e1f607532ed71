"""The KKRT engine: the same intersection as sets have, by either side, on both engines, and what it refuses."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator

import gmpy2
import numpy as np
import pytest

from protocols.disclosure import Ledger
from protocols.errors import LocalProtocolError, RemoteProtocolError, SmallIntersectionError
from protocols.messages import Message, decode, encode
from protocols.psi import kkrt, oprf, oprf_engine
from protocols.psi import oblivious_transfer as transfer
from protocols.psi.alignment import Alignment
from protocols.psi.messages import BinRows, CommonRows, MatchedHandles, SeedReveal, SetOpening, TagEntries
from protocols.psi.oprf import Receiver, Sender, Terms
from protocols.psi.oprf_engine import Codes, Columns, Texts
from protocols.psi.run import run
from protocols.roles import Parties
from protocols.sharing import keystream
from tests.protocols.test_psi import Record, Recorder
from tests.simulator import seeded

SEED = bytes(range(32))


@pytest.fixture(scope="module", params=["C", "numpy"], autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test here runs with the C module and without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(oprf_engine, "loops", None)
        elif oprf_engine.loops is None:
            pytest.skip("the C module was not built: no compiler at installation")
        yield


def ids(first: int, last: int, step: int = 1) -> list[str]:
    return [f"客户-{i}" if i % 7 == 0 else f"C{i:09d}" for i in range(first, last, step)]


def align(own: dict[str, list[str]], **more: object) -> dict[str, Alignment]:
    parties = Parties("bank", tuple(name for name in own if name != "bank"))
    return run(own, parties, seeded("kkrt"), engine="kkrt", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "own",
    [
        {"bank": ids(0, 90), "bureau": ids(40, 300)},
        {"bank": ids(0, 300), "bureau": ids(280, 340)},  # the provider has fewer: it receives
        {"bank": ids(0, 50), "bureau": ids(0, 50)},
        {"bank": ["A"], "bureau": ["A"]},
        {"bank": ids(0, 200), "bureau": ids(100, 150), "tax": ids(90, 400)},
        {"bank": ids(0, 60), "bureau": ids(0, 60, 2), "tax": ids(0, 60, 3), "power": ids(10, 80)},
    ],
    ids=["bank smaller", "provider smaller", "equal", "one", "two providers", "three providers"],
)
def test_the_intersection_is_that_of_the_sets(own: dict[str, list[str]]) -> None:
    done = align(own)
    common = set.intersection(*map(set, own.values()))
    rows = {name: [own[name][row] for row in alignment.rows.tolist()] for name, alignment in done.items()}
    assert set(rows["bank"]) == common
    assert len(rows["bank"]) == len(common)
    assert all(listed == rows["bank"] for listed in rows.values())
    assert len({alignment.training_rows for alignment in done.values()}) == 1
    assert done["bank"].pairwise_sizes == {
        name: len(set(own["bank"]) & set(theirs)) for name, theirs in own.items() if name != "bank"
    }


def test_both_engines_of_alignment_give_the_same_rows() -> None:
    own = {"bank": ids(0, 120), "bureau": ids(60, 200)}
    parties = Parties("bank", ("bureau",))
    by = {
        name: run(own, parties, seeded("x"), engine=name, row_choice=seeded("rows"))["bank"].rows.tolist()
        for name in ("ecdh", "kkrt")
    }
    assert by["ecdh"] == by["kkrt"]


def test_too_few_rows_in_common_are_refused() -> None:
    with pytest.raises(SmallIntersectionError, match="SMALL_INTERSECTION"):
        align({"bank": ids(0, 50), "bureau": ids(45, 90)}, minimum_intersection=6)


def pair(first: list[str], second: list[str], seed: bytes = SEED) -> tuple[Receiver, Sender, np.ndarray]:
    """Both halves without messages, up to the sender's entries."""
    receiver_texts, sender_texts = Texts.of(first), Texts.of(second)
    terms = Terms(len(first), len(second), seed)
    seeds = [(os.urandom(16), os.urandom(16)) for _ in range(448)]
    choices = os.urandom(56)
    receiver = Receiver(receiver_texts, terms, os.urandom)
    sender = Sender(sender_texts, terms, receiver.restart, os.urandom)
    chosen = [both[bit] for both, bit in zip(seeds, transfer.bits(choices), strict=True)]
    work = sender.work(chosen, choices)
    for (start, count), rows in zip(terms.chunks(), receiver.rows(seeds), strict=True):
        assert len(rows) == 56 * count
        work.take(start, rows)
    return receiver, sender, work.entries()


@pytest.mark.parametrize("chunk", [64, 128, 1 << 16])
def test_chunks_of_bins_do_not_change_what_is_found(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oprf, "CHUNK_BINS", chunk)
    first, second = ids(0, 400), ids(150, 700)
    receiver, sender, entries = pair(first, second)
    rows, handles = receiver.matched(entries)
    assert [first[row] for row in rows] == [second[place] for place in sender.handles[handles]] == ids(150, 400)


def test_a_tag_names_the_same_handle_in_every_bin_and_only_to_who_has_the_id() -> None:
    """Of a common id the receiver learns its handle; the entries of others look like noise."""
    receiver, sender, entries = pair(ids(0, 300), ids(0, 300))
    size = receiver._terms.entry_bytes
    _, handles = receiver.matched(entries)
    assert sorted(handles) == list(range(300))
    assert entries.shape == (900, size)
    counts = np.bincount(entries[:, -4:].reshape(-1), minlength=256)
    assert abs(counts - 900 * 4 / 256).max() < 7 * math.sqrt(900 * 4 / 256)  # handles under a pad: no small numbers
    keys = np.ascontiguousarray(entries[:, :8]).view("<u8").reshape(-1)
    assert np.all(keys[:-1] <= keys[1:])
    assert not np.array_equal(sender.handles, np.arange(300))


def test_tags_out_of_order_or_all_alike_are_refused_and_searched_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oprf, "tag_bytes", lambda *_: 11)
    receiver, _, entries = pair(ids(0, 40), ids(0, 40))
    assert len(receiver.matched(entries)[0]) == 40
    alike = entries.copy()
    alike[:, :8] = receiver._entry[0, :8]
    alike[:, 8] = receiver._entry[0, 8] ^ 1
    for bad in (entries[::-1], alike):
        with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
            receiver.matched(bad)


def test_two_tags_with_the_same_first_bytes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oprf, "tag_bytes", lambda *_: 11)
    receiver, _, entries = pair(ids(0, 40), ids(20, 60))
    rows, handles = receiver.matched(entries)
    mine = receiver._entry[rows[0]]
    at = int(np.flatnonzero(np.all(entries[:, :8] == mine[:8], axis=1))[0])
    twin = entries[at].copy()
    twin[8] ^= 1
    both = np.insert(entries, at, twin, axis=0)
    found = receiver.matched(both)
    assert found[0].tolist() == rows.tolist()
    assert found[1].tolist() == handles.tolist()


def test_a_receiver_that_deviates_learns_the_secret_and_can_then_test_any_id() -> None:
    """docs/protocols/kkrt.md, "What a deviating party could do": why both parties must follow the protocol."""
    known, hidden, absent = ids(0, 56), ids(1000, 1020), ids(2000, 2020)
    terms = Terms(len(known), len(known) + len(hidden), SEED)
    seeds = [(os.urandom(16), os.urandom(16)) for _ in range(448)]
    choices = os.urandom(56)
    chosen = [both[bit] for both, bit in zip(seeds, transfer.bits(choices), strict=True)]
    sender = Sender(Texts.of(known + hidden), terms, 0, os.urandom)
    items = oprf_engine.digests(Texts.of(known), terms.salt(0))
    bins = oprf_engine.place(items, terms.segment)
    assert bins is not None
    ((_, count),) = terms.chunks()
    own = Columns([first for first, _ in seeds]).rows(count)
    words = np.zeros((count, 56), dtype=np.uint8)
    filled = np.flatnonzero(bins >= 0)
    words[filled] = Codes(SEED).rows(items[bins[filled]])
    words[filled, np.arange(56)] ^= 0xFF  # each word is wrong in another byte
    work = sender.work(chosen, choices)
    work.take(0, (own ^ Columns([second for _, second in seeds]).rows(count) ^ words).tobytes())
    tag = terms.entry_bytes - 4
    received = {bytes(entry) for entry in work.entries()[:, :tag]}
    salt = keystream(SEED, "kkrt/tag", 32)

    def made(row: bytes, bin_: int) -> bytes:
        block = salt + bytes(32) + row + bin_.to_bytes(8, "little")
        return hashlib.blake2s(block, digest_size=terms.entry_bytes).digest()[:tag]

    secret = bytearray(56)
    for k, b in enumerate(filled.tolist()):
        for guess in range(256):
            row = bytearray(own[b].tobytes())
            row[k] ^= guess
            if made(bytes(row), b) in received:
                secret[k] = guess
    assert bytes(secret) == choices

    def held(text: str) -> bool:
        digest = oprf_engine.digests(Texts.of([text]), terms.salt(0))
        word, b = Codes(SEED).rows(digest)[0], int(oprf_engine.bins_of(digest, terms.segment)[0, 0])
        return made((own[b] ^ np.frombuffer(secret, dtype=np.uint8) & (words[b] ^ word)).tobytes(), b) in received

    assert all(map(held, hidden))
    assert not any(map(held, absent))


def test_more_ids_than_the_bounds_hold_for_are_refused_on_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kkrt, "MOST_IDS", 60)
    with pytest.raises(LocalProtocolError, match="SET_TOO_LARGE"):
        align({"bank": ids(0, 61), "bureau": ids(0, 50)})
    assert len(align({"bank": ids(0, 60), "bureau": ids(0, 60)})["bank"].rows) == 60


@pytest.mark.parametrize("size", [50, 70])
def test_the_ledger_counts_the_tags(size: int) -> None:
    own = {"bank": ids(0, 60), "bureau": ids(0, size)}
    ledgers = {name: Ledger(name) for name in own}
    align(own, ledgers=ledgers)
    lines = [line for ledger in ledgers.values() for line in ledger.lines() if line.what == "tags of the sender's ids"]
    assert [line.numbers for line in lines] == [3 * max(60, size)] * 2  # in the ledger of either party


def test_what_the_receiver_sends_does_not_depend_on_its_ids() -> None:
    """Rows are masked by streams the sender has one half of: every bit is a coin, whatever is in the bin."""
    for own in (ids(0, 200), ["A", *ids(1, 200)]):
        terms = Terms(len(own), 5, SEED)
        seeds = [(os.urandom(16), os.urandom(16)) for _ in range(448)]
        sent = b"".join(Receiver(Texts.of(own), terms, os.urandom).rows(seeds))
        ones = int(np.unpackbits(np.frombuffer(sent, dtype=np.uint8)).sum())
        assert abs(ones - 4 * len(sent)) < 6 * math.sqrt(2 * len(sent))
    assert len(sent) == 56 * sum(count for _, count in terms.chunks())


def test_sizes_of_messages_depend_on_the_sizes_of_the_sets_only() -> None:
    def lengths(own: dict[str, list[str]]) -> list[tuple[str, int]]:
        network = Recorder()
        align(own, network=network)
        return [(step, len(data)) for _, _, step, data in network.records]

    assert lengths({"bank": ids(0, 80), "bureau": ids(40, 150)}) == lengths(
        {"bank": ids(1000, 1080), "bureau": ids(1040, 1150)}
    )


def test_a_restart_takes_another_salt_and_both_go_on_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def place(items: np.ndarray, segment: int) -> np.ndarray | None:
        tries.append(segment)
        return None if len(tries) < 3 else original(items, segment)

    original = oprf.place
    monkeypatch.setattr(oprf, "place", place)
    done = align({"bank": ids(0, 70), "bureau": ids(30, 100)})
    assert len(tries) == 3
    assert len(done["bank"].rows) == 40


class TestEngine:
    def test_digests_are_blake2s_of_salt_and_text_at_every_length(self) -> None:
        texts = ["x" * length for length in (*range(1, 70), 95, 96, 97, 160, 161, 1000)] + ["是否"]
        expected = [hashlib.blake2s(SEED + text.encode(), digest_size=16).digest() for text in texts]
        assert [bytes(d) for d in oprf_engine.digests(Texts.of(texts), SEED)] == expected

    @pytest.mark.parametrize("items", [1, 2, 50, 3000])
    def test_every_item_is_in_one_of_its_bins(self, items: int) -> None:
        own = oprf_engine.digests(Texts.of(ids(0, items)), SEED)
        segment = oprf_engine.segment_of(items)
        bins = oprf_engine.place(own, segment)
        assert bins is not None
        taken = np.flatnonzero(bins >= 0)
        assert sorted(bins[taken].tolist()) == list(range(items))
        allowed = oprf_engine.bins_of(own, segment)
        assert all(b in allowed[:, bins[b]] for b in taken)
        assert all(k * segment <= b < (k + 1) * segment for k in range(3) for b in allowed[k])

    def test_more_items_than_bins_find_no_place(self) -> None:
        assert oprf_engine.place(oprf_engine.digests(Texts.of(ids(0, 30)), SEED), 8) is None

    @pytest.mark.parametrize("items", [20, 200])
    def test_a_second_salt_is_rarely_needed(self, items: int) -> None:
        texts, segment = Texts.of(ids(0, items)), oprf_engine.segment_of(items)
        salts = [bytes([i]) * 32 for i in range(100)]
        assert sum(oprf_engine.place(oprf_engine.digests(texts, salt), segment) is None for salt in salts) <= 1

    def test_a_turned_matrix_has_rows_for_columns(self) -> None:
        columns = os.urandom(448 * 16)
        bits = np.unpackbits(np.frombuffer(columns, dtype=np.uint8).reshape(448, 16), axis=1, bitorder="little")
        turned = np.unpackbits(oprf_engine.turned(columns), axis=1, bitorder="little")
        assert np.array_equal(turned, bits.T)

    def test_code_words_of_different_items_are_far_apart(self) -> None:
        """At least 128 of 448 bits, else a guess of the secret's bits would do: see docs/protocols/kkrt.md."""
        words = Codes(SEED).rows(oprf_engine.digests(Texts.of(ids(0, 400)), SEED))
        bits = np.unpackbits(words, axis=1).astype(np.int32)
        distance = (bits[:, None, :] != bits[None, :, :]).sum(axis=2)
        np.fill_diagonal(distance, 448)
        assert distance.min() >= 128
        assert abs(distance[np.triu_indices(400, 1)].mean() - 224) < 0.5

    @pytest.mark.parametrize("size", [12, 15, 16])
    def test_tags_are_blake2s_of_salt_row_and_bin(self, size: int) -> None:
        rows = np.frombuffer(os.urandom(56 * 5), dtype=np.uint8).reshape(5, 56)
        bins = np.array([12, 10, 14, 12])
        codes = np.frombuffer(os.urandom(4 * 4 * 16), dtype=np.uint8).reshape(4, 4, 16)
        secret = os.urandom(56)
        made = oprf_engine.tags(SEED, rows, bins, secret, codes, 10, size)
        for i, b in enumerate(bins.tolist()):
            word = b"".join(bytes(codes[k, i]) for k in range(4))[:56]
            row = bytes(x ^ (c & s) for x, c, s in zip(bytes(rows[b - 10]), word, secret, strict=True))
            block = SEED + bytes(32) + row + b.to_bytes(8, "little")
            assert bytes(made[i]) == hashlib.blake2s(block, digest_size=size).digest()

    def test_a_tag_is_long_enough_for_every_pair(self) -> None:
        for receiver, sender in ((1, 1), (10**4, 10**4), (10**6, 10**6), (10**7, 10**7), (5, 10**9)):
            bits = 8 * oprf_engine.tag_bytes(receiver, sender)
            assert math.log2(3 * receiver * sender) - bits <= -40
            assert bits == 64 or bits - math.log2(3 * receiver * sender) < 49


class TestTransfer:
    def test_the_prime_is_safe_and_that_of_the_standard(self) -> None:
        prime = transfer.prime()
        assert gmpy2.is_prime(prime, 30)
        assert gmpy2.is_prime(prime // 2, 30)
        text = f"{int(prime):X}"
        assert text.startswith("FFFFFFFFFFFFFFFFADF85458A2BB4A9AAFDC5620273D3CF1D8B9C583CE2D3695")
        assert text.endswith("66C62E37FFFFFFFFFFFFFFFF")
        assert len(text) == 768

    def test_the_chooser_gets_the_key_of_its_choice_and_never_the_other(self) -> None:
        offerer = transfer.BaseOfferer(SEED, os.urandom)
        choices = os.urandom(16)
        chooser = transfer.BaseChooser(SEED, offerer.opening(), choices, os.urandom)
        pairs = offerer.pairs(chooser.answers())
        for bit, key, both in zip(transfer.bits(choices), chooser.keys, pairs, strict=True):
            assert both[bit] == key
            assert both[1 - bit] != key
        assert len({key for both in pairs for key in both}) == 256
        secret = os.urandom(56)
        columns, seeds = transfer.choose_extended(SEED, pairs, secret)
        offered = transfer.offer_extended(SEED, chooser.keys, choices, columns)
        for bit, seed, both in zip(transfer.bits(secret), seeds, offered, strict=True):
            assert both[bit] == seed
            assert both[1 - bit] != seed

    def test_the_answers_do_not_tell_the_choice(self) -> None:
        """A choice multiplies a uniform element by another: the Jacobi symbol is 1 either way, and bits are coins."""
        offerer = transfer.BaseOfferer(SEED, os.urandom)
        for choices in (bytes(16), b"\xff" * 16):
            sent = transfer.BaseChooser(SEED, offerer.opening(), choices, os.urandom).answers()
            numbers = [int.from_bytes(sent[i : i + 384], "little") for i in range(0, len(sent), 384)]
            assert all(gmpy2.jacobi(x, transfer.prime()) == 1 for x in numbers)
            counts = Counter(byte & 1 for byte in sent)
            assert abs(counts[1] - len(sent) / 2) < 6 * math.sqrt(len(sent)) / 2

    @pytest.mark.parametrize("bad", [0, 1, 5, -1, -4, 1 << 3072])
    def test_an_element_outside_the_group_is_refused(self, bad: int) -> None:
        number = int(bad % transfer.prime()) if bad < 1 << 3000 else (1 << 3072) - 1
        data = number.to_bytes(384, "little")
        assert number in (0, 1) or number >= transfer.prime() or gmpy2.jacobi(number, transfer.prime()) == -1
        with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
            transfer.BaseChooser(SEED, data, bytes(16), os.urandom)
        with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
            transfer.BaseOfferer(SEED, os.urandom).pairs(data * 128)


def changed(message: Message) -> Message:
    """A message that no honest party sends in its place."""
    match message:
        case SetOpening():
            return SetOpening(message.size, bytes(32))
        case SeedReveal():
            return SeedReveal(bytes(32), message.opening)
        case BinRows():
            return BinRows(message.rows[56:])
        case TagEntries():
            return TagEntries(message.entries[:-1], message.count)
        case MatchedHandles():
            return MatchedHandles(message.handles[:4] + message.handles[:-4])
        case CommonRows():
            return CommonRows(message.positions[:4] + message.positions[:-4], message.training_rows)
    return message


@pytest.mark.parametrize("kind", [SetOpening, SeedReveal, BinRows, TagEntries, MatchedHandles, CommonRows])
def test_a_message_that_no_honest_party_sends_ends_the_job(kind: type[Message]) -> None:
    def change(record: Record, _: Recorder) -> bytes:
        return encode(changed(decode(kind, record[3]))) if record[2] == kind.__name__ else record[3]

    with pytest.raises(RemoteProtocolError, match=r"CHECK_FAILED|FRAME_REJECTED"):
        align({"bank": ids(0, 300), "bureau": ids(200, 290)}, network=Recorder(change))
