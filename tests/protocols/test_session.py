"""The order of messages: every message in every state, loops against an oracle, links and peers that misbehave."""

from __future__ import annotations

import dataclasses
import hashlib
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import statement
from protocols.binning import messages as binning
from protocols.disclosure import Learned, Ledger
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.logistic import messages as logistic
from protocols.messages import Bounds, Control, Message, StageEnd, decode, encode
from protocols.moments import messages as moments
from protocols.psi import messages as psi
from protocols.roles import COORDINATOR, Parties, Role
from protocols.rows import messages as rows
from protocols.rows.messages import EncryptedRows, FeatureCount, PublicKey
from protocols.scoring import messages as scoring
from protocols.session import (
    MemoryNetwork,
    Opened,
    Player,
    Progress,
    Script,
    Send,
    Session,
    Step,
    play_all,
    receive,
    send,
)
from tests.simulator import (
    Job,
    PartyFailedError,
    SimulatedNetwork,
    Stages,
    consortium,
    delay,
    drop,
    flip_bit,
    repeat,
)

PARTIES = Parties("bank", ("bureau", "tax", "utility"))
BOUNDS = Bounds(rows=2000, set_size=2000, features=20, key_bytes=64)
TABLES = {
    "align": psi.STEPS,
    "align by kkrt": psi.KKRT_STEPS,
    "encrypt": rows.STEPS,
    "bin": binning.STEPS,
    "review": binning.REVIEW_STEPS,
    "train": logistic.STEPS,
    "search": logistic.SEARCH_STEPS,
    "moments": moments.STEPS,
    "screen": moments.SCREEN_STEPS,
    "inference": moments.FIT_STEPS,
    "inflation": moments.INFLATION_STEPS,
    "score": scoring.SCORE_STEPS,
    "validate": scoring.VALIDATE_STEPS,
    "statement": statement.STEPS,
}

# -- an oracle: the language of a lane as a regular expression, read by Brzozowski's derivatives -----------------------

NOTHING, EMPTY = ("nothing",), ("empty",)
Expression = tuple[Any, ...]


def letter(name: Any) -> Expression:
    return ("letter", name)


def follow(first: Expression, second: Expression) -> Expression:
    if NOTHING in (first, second):
        return NOTHING
    if first == EMPTY:
        return second
    return first if second == EMPTY else ("follow", first, second)


def either(first: Expression, second: Expression) -> Expression:
    members = {m for x in (first, second) for m in (x[1] if x[0] == "either" else {x}) if m != NOTHING}
    if not members:
        return NOTHING
    return members.pop() if len(members) == 1 else ("either", frozenset(members))


def star(inner: Expression) -> Expression:
    return EMPTY if inner in (NOTHING, EMPTY) else ("star", inner)


def may_be_empty(x: Expression) -> bool:
    match x[0]:
        case "empty" | "star":
            return True
        case "follow":
            return may_be_empty(x[1]) and may_be_empty(x[2])
        case "either":
            return any(may_be_empty(member) for member in x[1])
    return False


def derivative(x: Expression, name: Any) -> Expression:
    match x[0]:
        case "letter":
            return EMPTY if x[1] == name else NOTHING
        case "follow":
            first = follow(derivative(x[1], name), x[2])
            return either(first, derivative(x[2], name)) if may_be_empty(x[1]) else first
        case "star":
            return follow(derivative(x[1], name), x)
        case "either":
            result: Expression = NOTHING
            for member in x[1]:
                result = either(result, derivative(member, name))
            return result
    return NOTHING


def expression(steps: Sequence[Step], depth: int = 0) -> Expression:
    """Steps with equal loop names at `depth` repeat together."""
    result: Expression = EMPTY
    at = 0
    while at < len(steps):
        names = steps[at].loop.split("/")[: depth + 1] if steps[at].loop else []
        if len(names) > depth:
            end = at
            while end < len(steps) and steps[end].loop.split("/")[: depth + 1] == names:
                end += 1
            result = follow(result, star(expression(steps[at:end], depth + 1)))
            at = end
        else:
            one = letter(steps[at].message)
            result = follow(result, either(one, EMPTY) if steps[at].optional else one)
            at += 1
    return result


def letters(x: Expression) -> set[Any]:
    if x[0] == "letter":
        return {x[1]}
    inner = x[1] if x[0] == "either" else x[1:]
    return {name for part in inner for name in letters(part)}


# -- every message in every state --------------------------------------------------------------------------------------


def lanes() -> Iterator[tuple[str, str, str]]:
    for stage in TABLES:
        for sender in (*PARTIES.all, COORDINATOR):
            for receiver in (*PARTIES.all, COORDINATOR):
                if sender != receiver:
                    yield stage, sender, receiver


def steps_of(stage: str, sender: str, receiver: str) -> list[Step]:
    source, target = PARTIES.seats(sender), PARTIES.seats(receiver)
    return [step for step in TABLES[stage] if step.sender in source and step.to in target]


def least(kind: type[Message]) -> Message:
    """A message of this type with nothing in it."""
    if kind is scoring.SharedReport:
        return scoring.SharedReport(b"{}")
    hints = typing.get_type_hints(kind)
    return kind(**{f.name: (typing.get_origin(hints[f.name]) or hints[f.name])() for f in dataclasses.fields(kind)})


def states(start: Expression, alphabet: Sequence[Any]) -> dict[Expression, list[Any]]:
    """Every state that messages can lead to, with a shortest way there."""
    found: dict[Expression, list[Any]] = {start: []}
    pending = [start]
    while pending:
        state = pending.pop(0)
        for name in alphabet:
            after = derivative(state, name)
            if after != NOTHING and after not in found:
                found[after] = [*found[state], name]
                pending.append(after)
    return found


@pytest.mark.parametrize("stage", list(TABLES))
def test_every_message_in_every_wrong_state_is_refused_by_sender_and_receiver(stage: str) -> None:
    alphabet = list(dict.fromkeys(step.message for step in TABLES[stage]))
    tried = refused = 0
    for _, sender, receiver in (lane for lane in lanes() if lane[0] == stage):
        start = expression(steps_of(stage, sender, receiver))
        for state, way in states(start, alphabet).items():
            for kind in alphabet:
                ends = [
                    Session(name, PARTIES, stage, TABLES[stage], BOUNDS, Ledger(name)) for name in (sender, receiver)
                ]
                for before in way:
                    data = encode(least(before))
                    ends[0].outgoing(receiver, least(before), data)
                    ends[1].incoming(sender, before, data)
                tried += 1
                if derivative(state, kind) != NOTHING:
                    ends[0].outgoing(receiver, least(kind), encode(least(kind)))
                    ends[1].incoming(sender, kind, encode(least(kind)))
                    continue
                refused += 1
                with pytest.raises(LocalProtocolError, match="OUT_OF_ORDER"):
                    ends[0].outgoing(receiver, least(kind), encode(least(kind)))
                with pytest.raises(RemoteProtocolError, match="OUT_OF_ORDER"):
                    ends[1].incoming(sender, kind, encode(least(kind)))
                with pytest.raises(RemoteProtocolError, match="OUT_OF_ORDER"):  # and the refusal changed nothing
                    ends[1].incoming(sender, kind, encode(least(kind)))
    assert 0 < refused < tried


@pytest.mark.parametrize("stage", list(TABLES))
def test_a_stage_may_end_only_where_its_table_may(stage: str) -> None:
    alphabet = list(dict.fromkeys(step.message for step in TABLES[stage]))
    for _, sender, receiver in (lane for lane in lanes() if lane[0] == stage):
        for state, way in states(expression(steps_of(stage, sender, receiver)), alphabet).items():
            session = Session(sender, PARTIES, stage, TABLES[stage], BOUNDS, Ledger(sender))
            for kind in way:
                session.outgoing(receiver, least(kind), encode(least(kind)))
            lane = session._lane(sender, receiver)
            assert lane.may_end() == may_be_empty(state)


def test_a_party_that_leaves_out_a_message_is_told_before_the_stage_ends() -> None:
    parties = Parties("bank", ("bureau",))

    def silent() -> Script[None]:
        return
        yield

    session = Session("bureau", parties, "bin", binning.STEPS, BOUNDS, Ledger("bureau"))
    with pytest.raises(LocalProtocolError, match="OUT_OF_ORDER"):
        Player(silent(), session, MemoryNetwork().channel("bureau")).run()


# -- loops ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ping(Control):
    pass


@dataclass(frozen=True)
class Pong(Control):
    pass


@dataclass(frozen=True)
class Pang(Control):
    pass


KINDS: list[type[Message]] = [Ping, Pong, Pang]
LOOPS = ["", "", "a", "a", "a/b", "a/c", "a/b/d", "e"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(LOOPS), st.booleans()), min_size=1, max_size=6),
    st.lists(st.sampled_from(KINDS), max_size=12),
)
def test_loops_in_a_table_accept_what_the_regular_expression_accepts(
    lines: list[tuple[type[Message], str, bool]], sequence: list[type[Message]]
) -> None:
    steps = [
        Step(str(i), Role.LABEL_OWNER, kind, Role.PROVIDER, loop, optional)
        for i, (kind, loop, optional) in enumerate(lines)
    ]
    session = Session("bank", PARTIES, "test", steps, BOUNDS, Ledger("bank"))
    lane = session._lane("bank", "bureau")
    state = expression(steps)
    assert lane.may_end() == may_be_empty(state)
    for kind in sequence:
        after = derivative(state, kind)
        assert lane.advance(kind) == (after != NOTHING)
        if after != NOTHING:
            state = after
        assert lane.may_end() == may_be_empty(state)


# -- links and peers that misbehave -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        (drop(FeatureCount), {"DEADLOCK", "OUT_OF_ORDER"}),
        (drop(EncryptedRows), {"CHECK_FAILED"}),
        (drop(StageEnd), {"DEADLOCK"}),
        (repeat(FeatureCount), {"OUT_OF_ORDER"}),
        (repeat(PublicKey), {"OUT_OF_ORDER"}),
        (repeat(EncryptedRows), {"CHECK_FAILED"}),
        (delay(PublicKey), {"OUT_OF_ORDER"}),
        (delay(EncryptedRows), {"CHECK_FAILED"}),
        (flip_bit(FeatureCount), {"TRANSCRIPT_DIFFERS"}),
        (flip_bit(PublicKey), {"CHECK_FAILED"}),
        (flip_bit(EncryptedRows), {"CHECK_FAILED", "TRANSCRIPT_DIFFERS"}),
        (flip_bit(StageEnd), {"TRANSCRIPT_DIFFERS"}),
    ],
    ids=[
        f"{what}"
        for what in (
            "count lost", "rows lost", "end lost", "count repeated", "key repeated", "rows repeated", "key delayed",
            "rows delayed", "count changed", "key changed", "rows changed", "end changed",
        )
    ],
)  # fmt: skip
def test_loss_repetition_reordering_and_change_on_a_link_end_the_stage(fault: Any, codes: set[str]) -> None:
    stages = Stages(consortium(2), network=SimulatedNetwork(fault))
    with pytest.raises(PartyFailedError) as caught:
        stages.encrypt()
    assert caught.value.code in codes


def test_a_message_longer_than_the_job_allows_is_refused_unread() -> None:
    session = Session("bureau", PARTIES, "encrypt", rows.STEPS, BOUNDS, Ledger("bureau"))
    with pytest.raises(RemoteProtocolError, match="FRAME_REJECTED"):
        session.incoming("bank", FeatureCount, bytes(17))
    network = MemoryNetwork()
    network.channel("bank").send("bureau", "encrypt", "FeatureCount", bytes(17))
    with pytest.raises(RemoteProtocolError, match="FRAME_REJECTED"):
        network.channel("bureau").receive("bank", "encrypt", "FeatureCount", 16)


def test_a_message_of_another_stage_or_step_is_refused() -> None:
    for stage, step in (("bin", "FeatureCount"), ("encrypt", "PublicKey")):
        network = MemoryNetwork()
        network.channel("bank").send("bureau", stage, step, b"")
        with pytest.raises(RemoteProtocolError, match="OUT_OF_ORDER"):
            network.channel("bureau").receive("bank", "encrypt", "FeatureCount", 16)


def test_a_malformed_message_is_refused() -> None:
    session = Session("bureau", PARTIES, "encrypt", rows.STEPS, BOUNDS, Ledger("bureau"))
    with pytest.raises(RemoteProtocolError, match="FRAME_REJECTED"):
        session.incoming("bank", FeatureCount, b"\xff\xff")


def test_transcripts_bind_the_stage_the_order_and_the_direction_of_every_byte() -> None:
    def transcript(stage: str, events: Sequence[tuple[str, int]]) -> bytes:
        session = Session("bureau", PARTIES, stage, steps, BOUNDS, Ledger("bureau"))
        for direction, features in events:
            message = FeatureCount(features)
            if direction == "out":
                session.outgoing("bank", message, encode(message))
            else:
                session.incoming("bank", FeatureCount, encode(message))
        return session.transcript("bank")

    steps = [Step("1", Role.PARTY, FeatureCount, Role.PARTY, loop="many")]
    histories = [
        ("a", [("out", 1), ("out", 2)]),
        ("a", [("out", 2), ("out", 1)]),
        ("a", [("in", 1), ("in", 2)]),
        ("a", [("out", 1), ("in", 2)]),
        ("a", [("in", 1), ("out", 2)]),
        ("b", [("out", 1), ("out", 2)]),
        ("a", [("out", 1)]),
    ]
    assert len({transcript(stage, events) for stage, events in histories}) == len(histories)


def test_a_transcript_over_other_bytes_than_were_sent_is_an_error() -> None:
    parties = Parties("bank", ("bureau",))
    steps = [Step("1", Role.LABEL_OWNER, FeatureCount, Role.PROVIDER)]

    def owner() -> Script[None]:
        yield from send("bureau", FeatureCount(3))

    def provider() -> Script[int]:
        return (yield from receive("bank", FeatureCount)).features

    def run(network: MemoryNetwork) -> dict[str, Any]:
        sessions = {name: Session(name, parties, "s", steps, BOUNDS, Ledger(name)) for name in parties.all}
        return play_all({"bank": owner(), "bureau": provider()}, sessions, network)

    assert run(MemoryNetwork())["bureau"] == 3

    def other(frame: Any) -> Sequence[Any]:
        return [frame._replace(data=encode(FeatureCount(4)))] if frame.step == "FeatureCount" else [frame]

    with pytest.raises(RemoteProtocolError, match="TRANSCRIPT_DIFFERS"):
        run(SimulatedNetwork(other))


def test_a_channel_that_gives_nothing_ends_a_player_that_cannot_wait() -> None:
    def waiting() -> Script[None]:
        yield from receive("bank", FeatureCount)

    session = Session("bureau", PARTIES, "encrypt", rows.STEPS, BOUNDS, Ledger("bureau"))
    with pytest.raises(LocalProtocolError, match="CHANNEL_EMPTY"):
        Player(waiting(), session, MemoryNetwork().channel("bureau")).run()


def test_progress_and_what_is_opened_locally_are_reported() -> None:
    def working() -> Script[str]:
        yield Progress("rows", 1, 2)
        yield Opened((Learned("a sum", 2),))
        return "done"

    seen: list[Progress] = []
    ledger = Ledger("bank")
    session = Session("bank", PARTIES, "s", [], BOUNDS, ledger)
    assert Player(working(), session, MemoryNetwork().channel("bank"), seen.append).run() == "done"
    assert seen == [Progress("rows", 1, 2)]
    assert [(line.to, line.what, line.numbers) for line in ledger.lines()] == [("bank", "a sum", 2)]


# -- transcripts of whole jobs --------------------------------------------------------------------------------------


def _shape(job: Job) -> list[tuple[str, str, str, str, int]]:
    return [(*frame[:4], len(frame.data)) for frame in job.stages.network.frames]


def test_sizes_and_order_of_messages_depend_only_on_public_sizes(job_of: Callable[[int], Job]) -> None:
    """Same rows, label, features and rounds; other values of every provider's rows, other masks and keys."""
    first = Stages(consortium(2), seed="shape 1")
    swapped = dict(first.data.columns) | {
        name: tuple((values[::-1].copy(), kind, special) for values, kind, special in first.data.columns[name])
        for name in first.parties.providers
    }
    second = Stages(replace(first.data, columns=swapped), seed="shape 2")
    for stages in (first, second):
        stages.encrypt()
    shapes = [[(*f[:4], len(f.data)) for f in stages.network.frames] for stages in (first, second)]
    assert shapes[0] == shapes[1]
    assert [f.data for f in first.network.frames] != [f.data for f in second.network.frames]


def test_two_jobs_on_the_same_rows_send_messages_of_the_same_sizes_and_no_equal_ciphertext(
    job_of: Callable[[int], Job],
) -> None:
    job = job_of(1)
    again = Stages(job.stages.data, seed="again")
    masks = again.encrypt()
    tables = again.bin(masks)
    again.train(masks, tables)
    count = min(len(job.stages.network.frames), len(again.network.frames))  # the noise may change the last round
    assert count > 100
    first, second = (
        [(*f[:4], len(f.data)) for f in n.frames][: count - 8] for n in (job.stages.network, again.network)
    )
    assert [line for line in first if line[3] not in VARINT] == [line for line in second if line[3] not in VARINT]
    hidden = {"EncryptedRows", "PreBins", "MaskedLogits", "MaskedResidual", "GradientShare", "MaskedProducts"}
    bodies = [
        {hashlib.sha256(f.data).digest() for f in n.frames if f.step in hidden}
        for n in (job.stages.network, again.network)
    ]
    assert not bodies[0] & bodies[1]


VARINT = {"PreBins"}  # counts of rows under random aliases: their order, hence the varints' places, differ


def test_every_message_type_has_a_place_in_a_table() -> None:
    known = {step.message for steps in TABLES.values() for step in steps}
    kinds = [kind for module in (psi, rows, binning, logistic, scoring) for kind in vars(module).values()]
    messages = {k for k in kinds if isinstance(k, type) and issubclass(k, Message) and k not in (Message, Control)}
    assert messages <= known
    assert all(decode(kind, encode(least(kind))) == least(kind) for kind in known)
    assert Send(("bank",), least(FeatureCount)).message == FeatureCount(0)
