"""Private set intersection: equals the plain one, tells no party more than the page says, stops deviating peers."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.disclosure import Ledger, Line
from protocols.errors import LocalProtocolError, RemoteProtocolError, SmallIntersectionError
from protocols.group import FIELD_PRIME, Blinder, hash_to_curve_x
from protocols.messages import Bounds, Message, decode, encode
from protocols.psi import blinding
from protocols.psi.alignment import Alignment
from protocols.psi.blinding import Context, dst
from protocols.psi.identifiers import canonical_id, check_character_valid
from protocols.psi.label_owner import LabelOwner
from protocols.psi.messages import KKRT_STEPS, STEPS, BlindedIds, CommonRows, DoublyBlindedIds
from protocols.psi.provider import Provider
from protocols.psi.run import run
from protocols.roles import Parties
from protocols.session import MemoryNetwork, Progress, Receive, Send, Session

DATA = Path(os.environ.get("CONCORDAT_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
CONTEXT = Context(hashlib.sha256(b"contract").digest(), "job-1")
PROVIDERS = ("bureau", "tax", "utility")
KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in (BlindedIds, DoublyBlindedIds, CommonRows)}
OF_KKRT = {step.message.__name__ for step in KKRT_STEPS}
Record = tuple[str, str, str, bytes]


def parties_of(providers: int) -> Parties:
    return Parties("bank", PROVIDERS[:providers])


def seeded(seed: str) -> Callable[[int], bytes]:
    """A reproducible source for tests only."""
    state = hashlib.shake_256(seed.encode())
    offset = 0

    def entropy(size: int) -> bytes:
        nonlocal offset
        offset += size
        return state.digest(offset)[-size:] if size else b""

    return entropy


class Recorder(MemoryNetwork):
    """Links that keep what passes, and may change it on the way: a peer that deviates."""

    def __init__(self, change: Callable[[Record, Recorder], bytes] | None = None) -> None:
        super().__init__()
        self.records: list[Record] = []
        recorder = self

        class Link(deque[tuple[str, str, bytes]]):
            def __init__(self, ends: tuple[str, str]) -> None:
                super().__init__()
                self._ends = ends

            def append(self, item: tuple[str, str, bytes]) -> None:
                stage, step, data = item
                if change is not None and (step in KINDS or step in OF_KKRT):
                    data = change((*self._ends, step, data), recorder)
                recorder.records.append((*self._ends, step, data))
                super().append((stage, step, data))

        class Links(dict[tuple[str, str], deque[tuple[str, str, bytes]]]):
            def setdefault(
                self, key: tuple[str, str], default: deque[tuple[str, str, bytes]] | None = None
            ) -> deque[tuple[str, str, bytes]]:
                if key not in self:
                    self[key] = Link(key)
                return self[key]

        self.queues = Links()

    def messages(self, sender: str, to: str, kind: type[Message]) -> list[Message]:
        return [decode(kind, data) for s, t, step, data in self.records if (s, t, step) == (sender, to, kind.__name__)]


def points_of(message: Message) -> list[bytes]:
    assert isinstance(message, BlindedIds | DoublyBlindedIds)
    return [message.points[at : at + 32] for at in range(0, len(message.points), 32)]


def aligned(ids: Mapping[str, Sequence[str]], alignments: Mapping[str, Alignment]) -> dict[str, list[str]]:
    """Each party's ids in the common order."""
    return {name: [ids[name][row] for row in result.rows.tolist()] for name, result in alignments.items()}


def small_sets(count: int, *, offset: int = 2) -> dict[str, list[str]]:
    """`count` ids a party; each shares all but `offset` with the next, all but twice as many with the one after."""
    names = ("bank", *PROVIDERS)
    return {name: [f"ID{i + offset * at}" for i in range(count)] for at, name in enumerate(names)}


# -- the intersection ------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.lists(st.sampled_from("ABCDEFGHIJ"), unique=True, min_size=1), min_size=4, max_size=4),
)
def test_intersection_equals_set_intersection(providers: int, drawn: list[list[str]]) -> None:
    parties = parties_of(providers)
    ids = dict(zip(parties.all, drawn, strict=False))
    expected = set.intersection(*(set(own) for own in ids.values()))
    if not expected:
        with pytest.raises(SmallIntersectionError, match="SMALL_INTERSECTION"):
            run(ids, parties, os.urandom)
        return
    alignments = run(ids, parties, os.urandom, training_share=0.5)
    orders = aligned(ids, alignments)
    assert set(orders["bank"]) == expected
    assert len(orders["bank"]) == len(expected)
    assert all(order == orders["bank"] for order in orders.values())
    assert {result.training_rows for result in alignments.values()} == {round(0.5 * len(expected))}
    sizes = {name: len(set(ids["bank"]) & set(ids[name])) for name in parties.providers}
    assert alignments["bank"].pairwise_sizes == sizes
    assert all(alignments[name].pairwise_sizes == {} for name in parties.providers)


@pytest.mark.consortium
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real consortia at {DATA}; set CONCORDAT_DATA")
@pytest.mark.parametrize(
    ("folder", "providers", "rows"),
    [("german", ("bureau",), 963), ("polish_1year", ("bureau", "tax"), 6072), ("uci_default", ("bureau",), None)],
)
def test_real_consortium_equals_set_intersection(folder: str, providers: tuple[str, ...], rows: int | None) -> None:
    parties = Parties("bank", providers)
    ids: dict[str, list[str]] = {}
    for name in parties.all:
        column = pd.read_csv(DATA / folder / f"{name}.csv", usecols=["id"], dtype=str)["id"]
        ids[name] = list(dict.fromkeys(canonical_id(text) for text in column))
    expected = set.intersection(*(set(own) for own in ids.values()))
    started = time.perf_counter()
    alignments = run(ids, parties, os.urandom, context=CONTEXT)
    print(f"{folder}: {time.perf_counter() - started:.1f} s")  # noqa: T201 - shown with -s
    orders = aligned(ids, alignments)
    assert set(orders["bank"]) == expected
    assert rows is None or len(orders["bank"]) == rows
    assert all(order == orders["bank"] for order in orders.values())
    assert all(check_character_valid(text) for text in orders["bank"])


def test_training_rows_are_the_first_of_the_common_order() -> None:
    ids = small_sets(20)
    result = run(ids, parties_of(1), os.urandom, training_share=0.7)["bank"]
    assert result.training_rows == 13  # 0.7 of 18, rounded
    assert np.array_equal(np.concatenate([result.training, result.test]), result.rows)


def test_rows_that_may_not_train_do_not_and_their_places_among_the_others_tell_nothing() -> None:
    """Fixed seeds. The 8 rows that do not train are 4 that may not and 4 others, each place as likely for either."""
    ids = {name: [f"ID{i}" for i in range(12)] for name in ("bank", "bureau")}
    may_train = np.arange(12) < 8
    row_choice, late = seeded("late"), np.zeros(8)
    for _ in range(200):
        result = run(ids, parties_of(1), os.urandom, row_choice=row_choice, training_share=0.5, may_train=may_train)[
            "bank"
        ]
        assert result.training_rows == 4
        assert may_train[result.training].all()
        assert sorted(result.rows.tolist()) == list(range(12))
        late += ~may_train[result.test]
    assert late.sum() == 800
    assert np.all(np.abs(late - 100) < 4 * np.sqrt(50))


def test_common_order_is_drawn_from_row_choice_and_not_from_the_file() -> None:
    ids = small_sets(40)
    one, two, other = (
        aligned(ids, run(ids, parties_of(1), os.urandom, row_choice=seeded(seed)))["bank"]
        for seed in ("rows", "rows", "others")
    )
    assert one == two
    assert one != other
    assert sorted(one) == sorted(other)
    assert one != [text for text in ids["bank"] if text in set(one)]


def test_common_order_and_sample_are_uniform() -> None:
    """Each of 4 common rows is in the training half about half of the time; fixed seeds, so no chance is involved."""
    ids = {name: list("ABCD") for name in ("bank", "bureau")}
    counts = np.zeros(4)
    row_choice = seeded("uniform")
    for _ in range(200):
        counts[run(ids, parties_of(1), os.urandom, row_choice=row_choice, training_share=0.5)["bank"].training] += 1
    assert counts.sum() == 400
    assert np.all(np.abs(counts - 100) < 4 * np.sqrt(50))


def test_too_small_an_intersection_ends_the_run_before_anyone_is_told() -> None:
    network = Recorder()
    with pytest.raises(SmallIntersectionError, match="SMALL_INTERSECTION"):
        run(small_sets(10), parties_of(2), os.urandom, minimum_intersection=7, network=network)
    assert "CommonRows" not in {step for _, _, step, _ in network.records}
    assert len(run(small_sets(10), parties_of(2), os.urandom, minimum_intersection=6)["bank"].rows) == 6


def test_provider_enforces_the_minimum_itself() -> None:
    def shorten(record: Record, _: Recorder) -> bytes:
        sender, to, step, data = record
        return data if (sender, to, step) != ("bank", "bureau", "CommonRows") else encode(CommonRows(bytes(4), 0))

    with pytest.raises(SmallIntersectionError, match="SMALL_INTERSECTION"):
        run(small_sets(10), parties_of(1), os.urandom, minimum_intersection=2, network=Recorder(shorten))


@pytest.mark.parametrize("ids", [["A", "A"], ["a"], [" A"], [""], ["Ａ"]])
def test_ids_that_are_not_canonical_and_distinct_are_refused(ids: list[str]) -> None:
    parties = parties_of(1)
    with pytest.raises(LocalProtocolError, match="IDS_NOT_CANONICAL"):
        LabelOwner(ids, parties, CONTEXT, os.urandom, None, 0.7, 1)
    with pytest.raises(LocalProtocolError, match="IDS_NOT_CANONICAL"):
        Provider("bureau", ids, parties, CONTEXT, os.urandom, 1)


# -- who learns what -------------------------------------------------------------------------------------------------


def test_provider_learns_only_the_all_way_subset() -> None:
    ids = small_sets(12, offset=3)  # bank and bureau share 9, all three share 6
    network = Recorder()
    alignments = run(ids, parties_of(2), os.urandom, network=network)
    assert alignments["bank"].pairwise_sizes == {"bureau": 9, "tax": 6}
    assert len(alignments["bureau"].rows) == 6
    received = [(step, data) for _, to, step, data in network.records if to == "bureau"]
    assert [step for step, _ in received] == ["BlindedIds", "CommonRows", "StageEnd"]
    common = decode(CommonRows, received[1][1])
    assert len(common.positions) == 4 * 6
    assert len(points_of(decode(BlindedIds, received[0][1]))) == 12
    assert {(sender, to) for sender, to, _, _ in network.records} == {
        ("bank", "bureau"),
        ("bank", "tax"),
        ("bureau", "bank"),
        ("tax", "bank"),
    }


def test_ledger_names_everything_that_was_opened() -> None:
    parties = parties_of(2)
    ledgers = {name: Ledger(name) for name in parties.all}
    run(small_sets(12, offset=3), parties, os.urandom, ledgers=ledgers)

    def opened(to: str, source: str) -> list[tuple[str, int]]:
        lines: tuple[Line, ...] = ledgers[to].lines(to=to, source=source)
        assert lines == ledgers[source].lines(to=to, source=source)
        return [(line.what, line.numbers) for line in lines if line.nature == "opened"]

    assert opened("bank", "bureau") == [
        ("size of the sender's id set", 1),
        ("which of its own ids the sender holds", 12),
    ]
    assert opened("bureau", "bank") == [
        ("number of training rows", 1),
        ("size of the sender's id set", 1),
        ("which of its own ids all parties hold", 6),
    ]
    masked = [line for line in ledgers["tax"].lines(to="tax") if line.nature == "masked"]
    assert [(line.what, line.numbers) for line in masked] == [("ids under the sender's blinding", 12)]


def test_transcript_sizes_and_order_depend_only_on_set_sizes() -> None:
    def sizes(ids: dict[str, list[str]]) -> list[tuple[str, str, str, int]]:
        network = Recorder()
        run(ids, parties_of(2), os.urandom, network=network)
        return [(sender, to, step, len(data)) for sender, to, step, data in network.records]

    one = small_sets(12, offset=3)
    two = {name: [f"A MUCH LONGER ID {text}" for text in reversed(own)] for name, own in one.items()}
    assert sizes(one) == sizes(two)
    assert sizes(one) != sizes(small_sets(13, offset=3))


def test_two_providers_see_the_same_id_under_different_scalars(monkeypatch: pytest.MonkeyPatch) -> None:
    # One tag for all, so that only the scalars can make the points differ.
    monkeypatch.setattr(blinding, "hash_to_curve_x", lambda message, tag: hash_to_curve_x(message, b"one tag"))
    network = Recorder()
    run(small_sets(8), parties_of(2), os.urandom, network=network)
    to_bureau, to_tax = (network.messages("bank", name, BlindedIds)[0] for name in ("bureau", "tax"))
    assert set(points_of(to_bureau)).isdisjoint(points_of(to_tax))


def test_the_same_run_twice_gives_different_bytes() -> None:
    seen = []
    for _ in range(2):
        network = Recorder()
        run(small_sets(8), parties_of(1), os.urandom, network=network)
        seen.append({item for name in KINDS for item in _all_points(network, name)})
    assert seen[0].isdisjoint(seen[1])


def _all_points(network: Recorder, kind: str) -> list[bytes]:
    return [
        item
        for _, _, step, data in network.records
        if step == kind and step != "CommonRows"
        for item in points_of(decode(KINDS[step], data))
    ]


def _constant(value: bytes, _: int) -> bytes:
    return value


def test_own_points_go_out_in_random_order() -> None:
    """With the scalar and the tag known, the order sent can be read back: it is not the file's, and differs by pair."""
    orders = []
    network = Recorder()
    parties = parties_of(2)
    ids = {name: [f"ID{i:02}" for i in range(30)] for name in parties.all}
    scalars: list[bytes] = []

    def entropy(size: int) -> bytes:
        drawn = os.urandom(size)
        if size == 32:
            scalars.append(drawn)
        return drawn

    run(ids, parties, entropy, network=network)
    for name, scalar in zip(parties.providers, scalars[:2], strict=True):
        blinder = Blinder(partial(_constant, scalar))
        tag = dst(*Context(bytes(32), "in-process"), ("bank", name))
        row_of = {blinder.blind(hash_to_curve_x(text.encode(), tag)): row for row, text in enumerate(ids["bank"])}
        orders.append([row_of[item] for item in points_of(network.messages("bank", name, BlindedIds)[0])])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(30))
    assert orders[0] != list(range(30))
    assert orders[0] != orders[1]


def test_tag_binds_contract_run_and_pair_without_ambiguity() -> None:
    tags = {
        dst(b"c", "job", ("bank", "tax")),
        dst(b"d", "job", ("bank", "tax")),
        dst(b"c", "job2", ("bank", "tax")),
        dst(b"c", "job", ("bank", "bureau")),
        dst(b"c", "job", ("tax", "bank")),
        dst(b"cjob", "", ("bank", "tax")),
        dst(b"c", "job", ("bankt", "ax")),
    }
    assert len(tags) == 7
    assert all(len(tag) <= 255 for tag in tags)


# -- deviating peers -------------------------------------------------------------------------------------------------

Change = Callable[[list[bytes], Recorder], list[bytes]]


def _low_order(points: list[bytes], _: Recorder) -> list[bytes]:
    return [bytes(32), *points[1:]]


def _duplicate(points: list[bytes], _: Recorder) -> list[bytes]:
    return [points[1], *points[1:]]


def _bit_255(points: list[bytes], _: Recorder) -> list[bytes]:
    return [*points[:-1], points[-1][:31] + bytes([points[-1][31] | 0x80])]


def _second_encoding(points: list[bytes], _: Recorder) -> list[bytes]:
    return [(9).to_bytes(32, "little"), (9 + FIELD_PRIME).to_bytes(32, "little"), *points[2:]]


def _torsion_twin(points: list[bytes], _: Recorder) -> list[bytes]:
    # P + (0, 0) has u-coordinate 1/u: other bytes, the same point once blinded.
    twin = pow(int.from_bytes(points[0], "little"), -1, FIELD_PRIME)
    return [points[0], twin.to_bytes(32, "little"), *points[2:]]


def _too_many(points: list[bytes], _: Recorder) -> list[bytes]:
    # One more than agreed: the frame limit has room for it, the count does not.
    return [*points, (9).to_bytes(32, "little")]


def _truncated(points: list[bytes], _: Recorder) -> list[bytes]:
    return points[:-1]


def _cut_inside_a_point(points: list[bytes], _: Recorder) -> list[bytes]:
    return [*points[:-1], points[-1][:-1]]


def _reflected(points: list[bytes], network: Recorder) -> list[bytes]:
    return [*points[:-1], points_of(network.messages("bank", "bureau", BlindedIds)[0])[3]]


@pytest.mark.parametrize(
    ("sender", "kind", "change"),
    [
        *(
            (sender, BlindedIds, change)
            for sender in ("bank", "bureau")
            for change in (
                _low_order,
                _duplicate,
                _bit_255,
                _second_encoding,
                _torsion_twin,
                _too_many,
                _cut_inside_a_point,
            )
        ),
        ("bureau", BlindedIds, _reflected),
        *(
            ("bureau", DoublyBlindedIds, change)
            for change in (_duplicate, _bit_255, _second_encoding, _truncated, _cut_inside_a_point, _reflected)
        ),
    ],
)
def test_points_that_break_a_rule_end_in_the_generic_error(sender: str, kind: type[Message], change: Change) -> None:
    def deviate(record: Record, network: Recorder) -> bytes:
        if (record[0], record[2]) != (sender, kind.__name__):
            return record[3]
        points = b"".join(change(points_of(decode(kind, record[3])), network))
        return encode(BlindedIds(points) if kind is BlindedIds else DoublyBlindedIds(points))

    with pytest.raises(RemoteProtocolError, match="CHECK_FAILED") as caught:
        run(small_sets(12), parties_of(1), os.urandom, network=Recorder(deviate))
    assert not re.search(r"ID\d", str(caught.value))


def test_a_label_owner_that_reflects_is_stopped() -> None:
    """In a run it cannot (the provider's points go out later), so the provider's randomness is repeated here."""
    parties = parties_of(1)
    ids = small_sets(12)
    rehearsal = Provider("bureau", ids["bureau"], parties, CONTEXT, seeded("repeated"), 1).play()
    assert isinstance(next(rehearsal), Receive)
    event = rehearsal.send(BlindedIds(hash_to_curve_x(b"a", b"tag")))
    assert isinstance(event, Send)
    theirs = points_of(event.message)
    script = Provider("bureau", ids["bureau"], parties, CONTEXT, seeded("repeated"), 1).play()
    next(script)
    with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
        script.send(BlindedIds(theirs[5]))


@pytest.mark.parametrize(
    ("positions", "training_rows"),
    [
        (np.array([0, 1, 1], "<u4").tobytes(), 1),
        (np.array([0, 1, 12], "<u4").tobytes(), 1),
        (np.array([0, 1, 2**32 - 1], "<u4").tobytes(), 1),
        (np.array([0, 1, 2], "<u4").tobytes(), 4),
        (np.array([0, 1, 2], "<u4").tobytes()[:-1], 1),
        (np.arange(13, dtype="<u4").tobytes(), 1),
    ],
    ids=["twice", "just out of range", "far out of range", "more training rows than rows", "cut", "more than its ids"],
)
def test_wrong_positions_end_in_the_generic_error(positions: bytes, training_rows: int) -> None:
    def deviate(record: Record, _: Recorder) -> bytes:
        return encode(CommonRows(positions, training_rows)) if record[2] == "CommonRows" else record[3]

    with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
        run(small_sets(12), parties_of(1), os.urandom, network=Recorder(deviate))


# -- the order of messages -------------------------------------------------------------------------------------------

LANES: dict[tuple[str, str], tuple[Message, ...]] = {
    ("bank", "bureau"): (BlindedIds(b""), CommonRows(b"", 0)),
    ("bureau", "bank"): (BlindedIds(b""), DoublyBlindedIds(b"")),
    ("bureau", "tax"): (),
}


@pytest.mark.parametrize("lane", LANES, ids="-to-".join)
@pytest.mark.parametrize("kind", KINDS.values())
def test_every_message_in_every_wrong_state_is_rejected(lane: tuple[str, str], kind: type[Message]) -> None:
    sender, to = lane
    message = CommonRows(b"", 0) if kind is CommonRows else kind(b"")  # type: ignore[call-arg]
    bounds = Bounds(rows=9, set_size=9, features=0, key_bytes=0)
    for state in range(len(LANES[lane]) + 1):
        receiver = Session(to, parties_of(2), "align", STEPS, bounds, Ledger(to))
        author = Session(sender, parties_of(2), "align", STEPS, bounds, Ledger(sender))
        for earlier in LANES[lane][:state]:
            receiver.incoming(sender, type(earlier), encode(earlier))
            author.outgoing(to, earlier, encode(earlier))
        if state < len(LANES[lane]) and type(LANES[lane][state]) is kind:
            assert receiver.incoming(sender, kind, encode(message)) == message
            author.outgoing(to, message, encode(message))
        else:
            with pytest.raises(RemoteProtocolError, match="OUT_OF_ORDER"):
                receiver.incoming(sender, kind, encode(message))
            with pytest.raises(LocalProtocolError, match="OUT_OF_ORDER"):
                author.outgoing(to, message, encode(message))


def test_long_work_reports_progress_every_thousand_points() -> None:
    ids = [f"ID{i}" for i in range(2500)]
    script = Provider("bureau", ids, parties_of(1), CONTEXT, os.urandom, 1).play()
    events = [next(script) for _ in range(3)]
    assert events[:2] == [Progress("own ids blinded", 1000, 2500), Progress("own ids blinded", 2000, 2500)]
    assert events[2] == Receive("bank", BlindedIds)


@pytest.mark.parametrize("kind", [BlindedIds, DoublyBlindedIds])
def test_a_message_of_more_points_than_the_bound_exceeds_its_limit(kind: type[BlindedIds | DoublyBlindedIds]) -> None:
    limit = kind.max_bytes(Bounds(rows=9, set_size=9, features=0, key_bytes=0))
    assert len(encode(kind(bytes(32 * 9)))) <= limit < len(encode(kind(bytes(32 * 12))))


def test_a_list_of_more_rows_than_the_bound_exceeds_its_limit() -> None:
    limit = CommonRows.max_bytes(Bounds(rows=9, set_size=9, features=0, key_bytes=0))
    assert len(encode(CommonRows(bytes(4 * 9), 9))) <= limit < len(encode(CommonRows(bytes(4 * 26), 9)))


# -- ids -------------------------------------------------------------------------------------------------------------


@given(st.text())
def test_canonical_form_is_its_own_canonical_form(text: str) -> None:
    assert canonical_id(canonical_id(text)) == canonical_id(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  91350100m000100y43\t", "91350100M000100Y43"),
        ("９１３５０１００Ｍ０００１００Ｙ４３", "91350100M000100Y43"),
        ("\u00a0x\u3000", "X"),
        ("straße", "STRASSE"),
        ("", ""),
    ],
)
def test_canonical_form_ignores_width_case_and_outer_space(text: str, expected: str) -> None:
    assert canonical_id(text) == expected


@pytest.mark.parametrize(
    ("code", "undetected"),
    [("11010519491231002X", 5), ("91350100M000100Y43", 0)],
    ids=["resident: one in 31 is right as an enterprise's", "enterprise"],
)
def test_single_wrong_digits_are_found(code: str, undetected: int) -> None:
    assert check_character_valid(code)
    wrong = {code[:place] + digit + code[place + 1 :] for place in range(18) for digit in "0123456789"} - {code}
    assert sum(check_character_valid(other) is True for other in wrong) == undetected


def test_an_enterprise_code_of_digits_is_not_checked_as_a_resident_number() -> None:
    valid = [last for last in "0123456789ABCDEFGHJKLMNPQRTUWXY" if check_character_valid("91350000000000000" + last)]
    assert len(valid) == 1


@pytest.mark.parametrize(
    "code", ["", "1234", "11010519491231002x", "9135010IM000100Y43", "911350100M000100Y43", "ABC-" * 4]
)
def test_other_ids_have_no_check_character(code: str) -> None:
    assert check_character_valid(code) is None


@pytest.mark.consortium
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real consortia at {DATA}; set CONCORDAT_DATA")
@pytest.mark.parametrize("folder", ["german", "polish_1year", "uci_default"])
def test_check_characters_of_the_real_consortia_are_valid(folder: str) -> None:
    column = pd.read_csv(DATA / folder / "bank.csv", usecols=["id"], dtype=str)["id"]
    assert all(check_character_valid(canonical_id(text)) for text in column)
