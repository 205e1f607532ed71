"""A relay that lies: swaps, redirects, replays, alters, drops, reorders, delays. It can end a job, with one code for
all, or hold it up; it never changes what the job finds.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from coordinator.certificates import CertificateFiles
from coordinator.relay import Relay
from protocols.envelope import Envelope, FrameQueue, Kind, encode_frame
from tests.chaos import check_same
from tests.small_consortium import no_process_of
from tests.test_faults import NAMES, Prepared

pytestmark = pytest.mark.process

Deliver = Callable[[FrameQueue, Envelope, bytes], None]
SILENCE_S = 6.0


class LyingRelay(Relay):
    """Lies about the frames that `chosen` picks, by their number on their link, counted from 1."""

    def __init__(self, certificates: CertificateFiles, jobs: Mapping[str, Collection[str]]) -> None:
        super().__init__(certificates, jobs)
        self.numbers: dict[tuple[str, str], int] = {}
        self.lies = 0
        self.held: tuple[FrameQueue, Envelope, bytes] | None = None

    link = ("tax", "bank")
    at = 3

    def chosen(self, envelope: Envelope, number: int) -> bool:
        return envelope.kind is Kind.DATA and (envelope.sender, envelope.receiver) == self.link and number == self.at

    def forward(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        link = (envelope.sender, envelope.receiver)
        self.numbers[link] = self.numbers.get(link, 0) + (envelope.kind is Kind.DATA)
        if self.chosen(envelope, self.numbers[link]):
            self.lies += 1
            self.lie(queue, envelope, frame)
        else:
            self.honestly(queue, envelope, frame)

    def honestly(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        super().forward(queue, envelope, frame)

    def lie(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        raise NotImplementedError

    def other_queue(self, envelope: Envelope) -> tuple[str, FrameQueue]:
        """Another party than the receiver."""
        seats = self._jobs[envelope.job].seats
        other = next(name for name in NAMES if name not in (envelope.sender, envelope.receiver))
        return other, seats[other]


class Drops(LyingRelay):
    """A frame never arrives."""

    def lie(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        pass


class Redirects(LyingRelay):
    """A frame is delivered to another party, as it is."""

    def lie(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        _, other = self.other_queue(envelope)
        other.put(frame, wait=False)


class Readdresses(LyingRelay):
    """A frame is delivered to another party, under an envelope that names it."""

    def lie(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        name, other = self.other_queue(envelope)
        forged = encode_frame(envelope.kind, envelope.job, envelope.sender, name, bytes(envelope.payload))
        other.put(forged, wait=False)


class ChangesSender(LyingRelay):
    """A frame arrives as if another party had sent it."""

    def lie(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        other, _ = self.other_queue(envelope)
        forged = encode_frame(envelope.kind, envelope.job, other, envelope.receiver, bytes(envelope.payload))
        queue.put(forged, wait=True)


class Replays(LyingRelay):
    """A frame arrives once more, after the next one."""

    def chosen(self, envelope: Envelope, number: int) -> bool:
        kind, link = envelope.kind, (envelope.sender, envelope.receiver)
        return kind is Kind.DATA and link == self.link and number in (self.at, self.at + 1)

    def lie(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        self.honestly(queue, envelope, frame)
        if self.held is None:
            self.held = (queue, envelope, frame)
        else:
            self.honestly(*self.held)


class Reorders(Replays):
    """Two frames of one link arrive in the other order."""

    def lie(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        if self.held is None:
            self.held = (queue, envelope, frame)
        else:
            self.honestly(queue, envelope, frame)
            self.honestly(*self.held)


class Swaps(LyingRelay):
    """What the dealer deals to two parties is exchanged between them."""

    link = ("coordinator", "bank")

    def chosen(self, envelope: Envelope, number: int) -> bool:
        return envelope.kind is Kind.DATA and envelope.sender == "coordinator" and number == 1

    def lie(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        if self.held is None:
            self.held = (queue, envelope, frame)
            return
        first_queue, first, _ = self.held
        for target, to, payload in ((queue, envelope, first.payload), (first_queue, first, envelope.payload)):
            target.put(encode_frame(to.kind, to.job, to.sender, to.receiver, bytes(payload)), wait=True)


class AltersHandshakes(LyingRelay):
    """One bit of what is not data: the handshake of a link."""

    def chosen(self, envelope: Envelope, number: int) -> bool:
        return envelope.kind not in (Kind.DATA, Kind.SEALED_ABORT) and self.lies == 0

    def lie(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        middle = len(frame) - max(1, len(envelope.payload) // 2)
        altered = frame[:middle] + bytes([frame[middle] ^ 4]) + frame[middle + 1 :]
        self.honestly(queue, envelope, altered)


class Alters(LyingRelay):
    """One bit anywhere in some frames, envelopes included, drawn from a seed."""

    seed = 1
    share = 0.05

    def __init__(self, certificates: CertificateFiles, jobs: Mapping[str, Collection[str]]) -> None:
        super().__init__(certificates, jobs)
        self.draw = random.Random(self.seed)

    def chosen(self, envelope: Envelope, number: int) -> bool:
        return envelope.kind is not Kind.SEALED_ABORT and self.draw.random() < self.share

    def lie(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        place = self.draw.randrange(len(frame))
        altered = frame[:place] + bytes([frame[place] ^ 1 << self.draw.randrange(8)]) + frame[place + 1 :]
        queue.put(altered, wait=envelope.kind is Kind.DATA)


class Delays(LyingRelay):
    """Frames arrive late, some much later than others."""

    def __init__(self, certificates: CertificateFiles, jobs: Mapping[str, Collection[str]]) -> None:
        super().__init__(certificates, jobs)
        self.draw = random.Random(3)

    def chosen(self, envelope: Envelope, number: int) -> bool:
        return self.draw.random() < 0.1

    def lie(self, queue: FrameQueue, envelope: Envelope, frame: bytes) -> None:
        time.sleep(self.draw.choice((0.02, 0.02, 0.02, 0.3)))
        self.honestly(queue, envelope, frame)


def late(kind: type[LyingRelay], link: tuple[str, str], at: int) -> type[LyingRelay]:
    """The same lie on another link, later in the job."""
    return type(f"{kind.__name__}Late", (kind,), {"link": link, "at": at})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The model of a job under an honest relay."""
    prepared = Prepared(tmp_path_factory.mktemp("honest"))
    assert prepared.run().code == "OK"
    return models(prepared)


def models(prepared: Prepared) -> dict[str, Any]:
    return {name: json.loads((prepared.out / name / "model.json").read_bytes()) for name in NAMES}


def run(folder: Path, relay_maker: type[LyingRelay]) -> tuple[str, int, Prepared]:
    """A job under such a relay: its code, the number of lies."""
    prepared = Prepared(folder)
    for command in prepared.commands.values():
        command += ["--silence-timeout-s", str(SILENCE_S)]
    made: list[LyingRelay] = []

    def maker(*arguments: Any) -> LyingRelay:
        made.append(relay_maker(*arguments))
        return made[-1]

    outcome = prepared.run(relay_maker=maker, connect_timeout_s=15.0)
    if outcome.code != "OK":
        assert {error["code"] for error in outcome.errors.values()} == {outcome.code}
        assert set(outcome.errors) == set(NAMES)
        assert not list(prepared.out.rglob("report.html"))
    assert no_process_of(prepared.out)
    assert not [path for path in prepared.out.rglob("stderr.txt") if b"Traceback" in path.read_bytes()]
    return outcome.code, made[0].lies, prepared


@pytest.mark.parametrize(
    "relay_maker",
    [
        Drops,
        Redirects,
        Readdresses,
        ChangesSender,
        Replays,
        Reorders,
        Swaps,
        AltersHandshakes,
        Alters,
        late(Drops, ("bureau", "tax"), 12),
        late(Replays, ("bank", "bureau"), 12),
    ],
)
def test_a_lie_ends_the_job_with_one_code_or_changes_nothing(
    tmp_path: Path, reference: dict[str, Any], relay_maker: type[LyingRelay]
) -> None:
    code, lies, prepared = run(tmp_path, relay_maker)
    assert lies > 0
    assert code != "INTERNAL_ERROR"
    if code == "OK":
        check_same(models(prepared), reference)
    else:
        assert not [path for path in prepared.out.rglob("model.json") if (path.parent / "statement.json").exists()]


def test_a_relay_that_only_delays_changes_nothing(tmp_path: Path, reference: dict[str, Any]) -> None:
    code, lies, prepared = run(tmp_path, Delays)
    assert (code, lies > 10) == ("OK", True)
    check_same(models(prepared), reference)
