"""Who may say what to whom, in which order: one table a protocol, checked on every message, both ways.

A role of a protocol is written as a *script*: a generator that yields `Send`, `Receive` and `Progress` and returns an
artefact. It touches no socket. `Session` checks each message against the protocol's table of steps, adds it to the
ledger and to the transcript of its link; `Player` runs a script over any channel with `send` and `receive`:
in-process (`play_all`, for tests and documentation) or over the relay (`party_agent.transport`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from protocols.disclosure import Learned, Ledger
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.messages import Bounds, M, Message, StageEnd, decode, encode
from protocols.roles import COORDINATOR, Parties, Role

T = TypeVar("T")

JOINT = "all parties"  # the source of what only several messages together give


@dataclass(frozen=True)
class Step:
    """One line of a protocol's table: `sender` sends `message` to every party that sits as `to`.

    Consecutive steps with the same `loop` may repeat together any number of times, none included; 'outer/inner' names a
    loop inside a loop. An `optional` step may be left out. `number` is the step's number in docs/protocols.
    """

    number: str
    sender: Role
    message: type[Message]
    to: Role
    loop: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Send:
    """Yielded by a script: send one message, the same bytes to every party in `to`."""

    to: tuple[str, ...]
    message: Message


@dataclass(frozen=True)
class Receive:
    """Yielded by a script: wait for the next message of `sender`, which must be of type `kind`."""

    sender: str
    kind: type[Message]


@dataclass(frozen=True)
class Progress:
    """Yielded by a script in long work: `done` of `total` units of `what`."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Opened:
    """Yielded by a script: what this party can now compute from all it received, and could not from any one message."""

    learned: tuple[Learned, ...]


Event = Send | Receive | Progress | Opened
Script = Generator[Event, Message | None, T]


def send(to: str | Sequence[str], message: Message) -> Script[None]:
    """`yield from send(...)`: send `message` to one party or to several."""
    yield Send((to,) if isinstance(to, str) else tuple(to), message)


def receive(sender: str, kind: type[M]) -> Script[M]:
    """`message = yield from receive(...)`: the next message of `sender`."""
    message = yield Receive(sender, kind)
    if not isinstance(message, kind):
        raise LocalProtocolError("WRONG_MESSAGE", f"the channel delivered no {kind.__name__}")
    return message


def receive_each(senders: Sequence[str], kind: type[M]) -> Script[dict[str, M]]:
    """One message of type `kind` from each sender, in the order given."""
    messages: dict[str, M] = {}
    for sender in senders:
        messages[sender] = yield from receive(sender, kind)
    return messages


class _Lane:
    """The steps that one party may send to one other, as an automaton over message types.

    A state is the set of steps that the last message may have been. Source: Glushkov 1961 (position automaton).
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._positions = {-1}
        self._followers: dict[int, set[int]] = {position: set() for position in range(-1, len(steps))}
        may_be_empty, first, last = self._connect(0, len(steps), 0)
        self._followers[-1] |= first
        for position in last | ({-1} if may_be_empty else set()):
            self._followers[position].add(len(steps))  # stands for the end

    def advance(self, kind: type[Message]) -> bool:
        """Take `kind` as the next message; False if the table does not allow it here."""
        reached = {
            target
            for position in self._positions
            for target in self._followers[position]
            if target < len(self._steps) and self._steps[target].message is kind
        }
        if reached:
            self._positions = reached
        return bool(reached)

    def may_end(self) -> bool:
        """True if no message that the table demands is still to come."""
        return any(len(self._steps) in self._followers[position] for position in self._positions)

    def _connect(self, start: int, stop: int, depth: int) -> tuple[bool, set[int], set[int]]:
        """Note which steps of start..stop-1 may follow each other, inside `depth` loops.

        Returns: whether all may be left out; the steps that may come first; those that may come last.
        """
        may_be_empty = True
        first: set[int] = set()
        last: set[int] = set()
        while start < stop:
            loop = self._loop(start)[: depth + 1]
            if len(loop) > depth:
                after = next((i for i in range(start, stop) if self._loop(i)[: depth + 1] != loop), stop)
                _, begins, ends = self._connect(start, after, depth + 1)
                self._join(ends, begins)
                optional = True
            else:
                after, begins, ends = start + 1, {start}, {start}
                optional = self._steps[start].optional
            self._join(last, begins)
            if may_be_empty:
                first |= begins
            last = last | ends if optional else ends
            may_be_empty = may_be_empty and optional
            start = after
        return may_be_empty, first, last

    def _join(self, before: set[int], after: set[int]) -> None:
        for position in before:
            self._followers[position] |= after

    def _loop(self, index: int) -> list[str]:
        """The loops around a step, outermost first; 'outer/inner' names a loop inside a loop."""
        loop = self._steps[index].loop
        return loop.split("/") if loop else []


class Session:
    """One party's view of one stage: the order of messages, the ledger and the transcript of each link.

    Args: me: this party's name; parties: who takes part; stage: the stage's name; steps: the protocol's table; bounds:
        limits of this job; ledger: this party's running account.
    """

    def __init__(
        self, me: str, parties: Parties, stage: str, steps: Sequence[Step], bounds: Bounds, ledger: Ledger
    ) -> None:
        self.me = me
        self.parties = parties
        self.stage = stage
        self.bounds = bounds
        self.ledger = ledger
        self._steps = steps
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._sent: dict[str, Any] = {}
        self._received: dict[str, Any] = {}

    def outgoing(self, to: str, message: Message, data: bytes) -> None:
        """Account for `data`, the encoding of `message`, about to be sent to `to`.

        Raises: LocalProtocolError: the table does not allow this message here.
        """
        if not self._lane(self.me, to).advance(type(message)):
            raise LocalProtocolError("OUT_OF_ORDER", f"{type(message).__name__} may not be sent here")
        self.ledger.add(to=to, source=self.me, stage=self.stage, learned=message.learned())
        _absorb(self._sent, to, type(message), data)

    def incoming(self, sender: str, kind: type[M], data: bytes) -> M:
        """Decode and account for `data` from `sender`, which must be a `kind`.

        Raises: RemoteProtocolError: too long, malformed, or not allowed here.
        """
        if len(data) > kind.max_bytes(self.bounds):
            raise RemoteProtocolError("FRAME_REJECTED", "a message of a peer is longer than this job allows")
        if not self._lane(sender, self.me).advance(kind):
            raise RemoteProtocolError("OUT_OF_ORDER", "a peer sent a message that may not come here")
        message = decode(kind, data)
        self.ledger.add(to=self.me, source=sender, stage=self.stage, learned=message.learned())
        _absorb(self._received, sender, kind, data)
        return message

    def opened(self, event: Opened) -> None:
        """Account for what this party computes from the messages of several peers."""
        self.ledger.add(to=self.me, source=JOINT, stage=self.stage, learned=event.learned)

    def peers(self) -> tuple[str, ...]:
        """Everyone with whom this stage exchanged a message, sorted."""
        return tuple(sorted(self._sent.keys() | self._received.keys()))

    def transcript(self, peer: str, *, as_peer: bool = False) -> bytes:
        """SHA-256 over this stage's traffic with `peer`: what went out, then what came in (or as the peer sees it)."""
        out = self._sent[peer].digest() if peer in self._sent else bytes(32)
        back = self._received[peer].digest() if peer in self._received else bytes(32)
        first, second = (back, out) if as_peer else (out, back)
        return hashlib.sha256(self.stage.encode() + b"\0" + first + second).digest()

    def check_complete(self) -> None:
        """Raise unless every message that the table demands of us was sent."""
        everyone = (*self.parties.all, COORDINATOR)
        if any(not self._lane(self.me, to).may_end() for to in everyone if to != self.me):
            raise LocalProtocolError("OUT_OF_ORDER", "the stage ended before its last message")

    def _lane(self, sender: str, receiver: str) -> _Lane:
        if (sender, receiver) not in self._lanes:
            source, target = self.parties.seats(sender), self.parties.seats(receiver)
            steps = [step for step in self._steps if step.sender in source and step.to in target and sender != receiver]
            self._lanes[sender, receiver] = _Lane(steps)
        return self._lanes[sender, receiver]


def _absorb(hashes: dict[str, Any], peer: str, kind: type[Message], data: bytes) -> None:
    running = hashes.setdefault(peer, hashlib.sha256())
    running.update(kind.__name__.encode() + b"\0" + len(data).to_bytes(8, "big"))
    running.update(data)


class Channel(Protocol):
    """What carries bytes between parties. `step` is the message type's name and is authenticated with the bytes."""

    def send(self, to: str, stage: str, step: str, data: bytes) -> None:
        """Hand over `data`; may return before it has arrived."""

    def receive(self, sender: str, stage: str, step: str, max_bytes: int) -> bytes | None:
        """The next message of `sender`. A cooperative channel returns None when there is none yet."""


OnProgress = Callable[[Progress], None]


class Player(Generic[T]):
    """Runs one party's script over a channel, and closes the stage by comparing transcripts with every peer."""

    def __init__(
        self, script: Script[T], session: Session, channel: Channel, on_progress: OnProgress | None = None
    ) -> None:
        self._script: Script[T] = self._with_ending(script, session)
        self._session = session
        self._channel = channel
        self._on_progress = on_progress
        self._pending: Receive | None = None
        self._started = False
        self.finished = False
        self.result: T | None = None

    def run(self) -> T:
        """Run to the end over a channel that blocks."""
        while not self.finished:
            if not self.step():
                raise LocalProtocolError("CHANNEL_EMPTY", "the channel gave no message and did not wait for one")
        return self.result  # type: ignore[return-value]

    def step(self) -> bool:
        """Run until the next message that is not there yet; False if nothing could be done."""
        moved = False
        while not self.finished:
            answer: Message | None = None
            if self._pending is not None:
                kind = self._pending.kind
                limit = kind.max_bytes(self._session.bounds)
                sender = self._pending.sender
                data = self._channel.receive(sender, self._session.stage, kind.__name__, limit)
                if data is None:
                    return moved
                answer = decode(StageEnd, data) if kind is StageEnd else self._session.incoming(sender, kind, data)
                self._pending = None
            moved = True
            self._advance(answer)
        return moved

    def _advance(self, answer: Message | None) -> None:
        try:
            event = self._script.send(answer) if self._started else next(self._script)
        except StopIteration as stop:
            self.finished = True
            self.result = stop.value
            return
        self._started = True
        if isinstance(event, Receive):
            self._pending = event
        elif isinstance(event, Send):
            data = encode(event.message)
            for to in event.to:
                if not isinstance(event.message, StageEnd):
                    self._session.outgoing(to, event.message, data)
                self._channel.send(to, self._session.stage, type(event.message).__name__, data)
        elif isinstance(event, Opened):
            self._session.opened(event)
        elif self._on_progress is not None:
            self._on_progress(event)

    @staticmethod
    def _with_ending(script: Script[T], session: Session) -> Script[T]:
        result = yield from script
        session.check_complete()
        for peer in session.peers():
            yield Send((peer,), StageEnd(session.transcript(peer)))
        for peer in session.peers():
            ending = yield from receive(peer, StageEnd)
            if ending.transcript != session.transcript(peer, as_peer=True):
                raise RemoteProtocolError("TRANSCRIPT_DIFFERS", "a peer saw other messages than were sent")
        return result


class MemoryNetwork:
    """Links between parties in one process; every message is encoded and decoded as on the wire."""

    def __init__(self) -> None:
        self.queues: dict[tuple[str, str], deque[tuple[str, str, bytes]]] = {}

    def channel(self, me: str) -> MemoryChannel:
        """The end that belongs to `me`."""
        return MemoryChannel(self, me)


class MemoryChannel:
    """One party's end of a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, me: str) -> None:
        self._network = network
        self._me = me

    def send(self, to: str, stage: str, step: str, data: bytes) -> None:
        """Put `data` at the end of the queue to `to`."""
        self._network.queues.setdefault((self._me, to), deque()).append((stage, step, data))

    def receive(self, sender: str, stage: str, step: str, max_bytes: int) -> bytes | None:
        """The next message of `sender`, or None; one of another stage or step is an error."""
        queue = self._network.queues.get((sender, self._me))
        if not queue:
            return None
        got_stage, got_step, data = queue.popleft()
        if (got_stage, got_step) != (stage, step):
            raise RemoteProtocolError("OUT_OF_ORDER", "a peer sent a message that may not come here")
        if len(data) > max_bytes:
            raise RemoteProtocolError("FRAME_REJECTED", "a message of a peer is longer than this job allows")
        return data


def play_all(
    scripts: Mapping[str, Script[Any]], sessions: Mapping[str, Session], network: MemoryNetwork | None = None
) -> dict[str, Any]:
    """Play all parties in this process, in turn; the artefact of each, by name.

    Raises: LocalProtocolError: every party waits for another (DEADLOCK).
    """
    network = network or MemoryNetwork()
    players = {name: Player(script, sessions[name], network.channel(name)) for name, script in scripts.items()}
    while not all(player.finished for player in players.values()):
        if not any(player.step() for player in players.values() if not player.finished):
            raise LocalProtocolError("DEADLOCK", "every party waits for another")
    return {name: player.result for name, player in players.items()}
