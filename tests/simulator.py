"""Consortia in one process, with links and parties that can misbehave.

`SimulatedNetwork` records every message and can drop, repeat, reorder or change them on the way. A party that deviates
is a script whose messages are changed before they leave (`deviating`): its transcript fits what it sent, so that only
the checks of the protocol itself can stop it. `consortium` makes small seeded data; `Stages` plays stage after stage.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocols.binning.label_owner import LabelOwner
from protocols.binning.messages import STEPS as BIN_STEPS
from protocols.binning.prebins import FeatureKind, PreBinning, floor_rows, prebin
from protocols.binning.provider import FeatureProvider
from protocols.binning.table import BinningTable
from protocols.disclosure import Ledger
from protocols.errors import ConcordatError, LocalProtocolError
from protocols.fixed_point import IntArray
from protocols.logistic.dealer import Dealer
from protocols.logistic.messages import STEPS as TRAIN_STEPS
from protocols.logistic.party import Coefficients, FitRules, FitSequence, TrainingParty
from protocols.logistic.plan import Director
from protocols.logistic.weights import SampleWeights
from protocols.messages import Bounds, Message, decode
from protocols.recipe import Recipe
from protocols.roles import COORDINATOR, Parties
from protocols.rows.encryption import RowEncryption, RowMasks
from protocols.rows.messages import STEPS as ROW_STEPS
from protocols.session import (
    MemoryChannel,
    MemoryNetwork,
    Player,
    Script,
    Send,
    Session,
    Step,
)
from protocols.sharing import Entropy
from protocols.spent import MemorySpentIndices, SpentIndices

ROWS = 1200
KEY_BITS = 576  # T = 3 at 1,200 rows: two iterations in the first pass, two in each further one
WEIGHTED_KEY_BITS = 640  # the same where rows are weighted
PROVIDERS = ("bureau", "tax", "utility")


def parties_of(providers: int) -> Parties:
    return Parties("bank", PROVIDERS[:providers])


def seeded(seed: object) -> Entropy:
    """A reproducible source of bytes: for tests only."""
    return random.Random(f"tests/{seed}").randbytes


# -- links that misbehave ----------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """One message on a link."""

    sender: str
    receiver: str
    stage: str
    step: str
    data: bytes

    def message(self, kind: type[Message]) -> Any:
        return decode(kind, self.data)


Fault = Callable[[Frame], Sequence[Frame]]  # what the link carries instead of a frame


class SimulatedNetwork(MemoryNetwork):
    """A `MemoryNetwork` that keeps every frame, as sent, and lets `fault` decide what arrives."""

    def __init__(self, fault: Fault | None = None) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self._fault = fault

    def channel(self, me: str) -> MemoryChannel:
        return _Channel(self, me)

    def put(self, frame: Frame) -> None:
        self.frames.append(frame)
        for carried in [frame] if self._fault is None else self._fault(frame):
            self.queues.setdefault((carried.sender, carried.receiver), deque()).append(carried[2:])

    def sent(self, step: type[Message], sender: str | None = None, receiver: str | None = None) -> list[Frame]:
        return [
            frame
            for frame in self.frames
            if frame.step == step.__name__ and sender in (None, frame.sender) and receiver in (None, frame.receiver)
        ]


class _Channel(MemoryChannel):
    def send(self, to: str, stage: str, step: str, data: bytes) -> None:
        network = self._network
        assert isinstance(network, SimulatedNetwork)
        network.put(Frame(self._me, to, stage, step, data))


def drop(step: type[Message], nth: int = 0) -> Fault:
    """The nth frame of this type is lost."""
    return _nth(step, nth, lambda frame: [])


def repeat(step: type[Message], nth: int = 0) -> Fault:
    """The nth frame of this type arrives twice."""
    return _nth(step, nth, lambda frame: [frame, frame])


def flip_bit(step: type[Message], nth: int = 0) -> Fault:
    """The last bit of the nth frame of this type is flipped."""
    return _nth(step, nth, lambda frame: [frame._replace(data=frame.data[:-1] + bytes([frame.data[-1] ^ 1]))])


def delay(step: type[Message], nth: int = 0) -> Fault:
    """The nth frame of this type arrives after the next one on its link."""
    held: list[Frame] = []
    count = iter(range(1 << 30))

    def fault(frame: Frame) -> Sequence[Frame]:
        if frame.step == step.__name__ and next(count) == nth:
            held.append(frame)
            return []
        if held and frame[:2] == held[0][:2]:
            return [frame, held.pop()]
        return [frame]

    return fault


def _nth(step: type[Message], nth: int, carried: Callable[[Frame], Sequence[Frame]]) -> Fault:
    count = iter(range(1 << 30))
    return lambda frame: carried(frame) if frame.step == step.__name__ and next(count) == nth else [frame]


# -- parties that misbehave --------------------------------------------------------------------------------------------

Change = Callable[[Send], Send]


def deviating(script: Script[Any], change: Change) -> Script[Any]:
    """`script`, whose party sends something else: its own session and transcript see only what it really sent."""
    try:
        event = next(script)
        while True:
            answer = yield change(event) if isinstance(event, Send) else event
            event = script.send(answer)
    except StopIteration as stop:
        return stop.value


def changing(kind: type[Message], edit: Callable[[Any], Message], nth: int = 0) -> Change:
    """Change the nth message of this type."""
    count = iter(range(1 << 30))

    def change(event: Send) -> Send:
        if isinstance(event.message, kind) and next(count) == nth:
            return replace(event, message=edit(event.message))
        return event

    return change


class PartyFailedError(Exception):
    """What `play` raises. party, error, code: who stopped first, and why; codes: of every party that stopped."""

    def __init__(self, errors: Mapping[str, ConcordatError]) -> None:
        self.party, self.error = next(iter(errors.items()))
        self.code = self.error.code
        self.codes = {name: error.code for name, error in errors.items()}
        super().__init__("; ".join(f"{name}: {error}" for name, error in errors.items()))


def play(scripts: Mapping[str, Script[Any]], sessions: Mapping[str, Session], network: MemoryNetwork) -> dict[str, Any]:
    """`session.play_all`, saying who stopped; the others go on as far as they can.

    Raises: PartyFailedError: a party raised an error, or (DEADLOCK) every party waits.
    """
    players = {name: Player(script, sessions[name], network.channel(name)) for name, script in scripts.items()}
    errors: dict[str, ConcordatError] = {}
    moved = True
    while moved:
        moved = False
        for name, player in players.items():
            if player.finished or name in errors:
                continue
            try:
                moved |= player.step()
            except ConcordatError as error:
                errors[name] = error
    if errors:
        raise PartyFailedError(errors)
    if not all(player.finished for player in players.values()):
        raise PartyFailedError({"nobody": LocalProtocolError("DEADLOCK", "every party waits for another")})
    return {name: player.result for name, player in players.items()}


# -- data --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Consortium:
    """Aligned training rows of every party. columns: (values, kind, special values) by party, in file order."""

    parties: Parties
    label: IntArray
    columns: Mapping[str, tuple[tuple[NDArray[Any], FeatureKind, tuple[float | str, ...]], ...]]

    @property
    def rows(self) -> int:
        return len(self.label)

    def bounds(self, key_bits: int = KEY_BITS) -> Bounds:
        return Bounds(self.rows, 10 * self.rows, 40, key_bits // 8)

    def prebinned(self) -> dict[str, tuple[IntArray, list[PreBinning]]]:
        floor = floor_rows(self.rows)
        result = {}
        for party, columns in self.columns.items():
            binnings = [
                (values, prebin(values, kind, f"{party}_{i}", special=special, floor=floor))
                for i, (values, kind, special) in enumerate(columns)
            ]
            usable = [(values, binning) for values, binning in binnings if binning is not None]
            codes = np.stack([binning.codes(values) for values, binning in usable], axis=1)
            result[party] = (codes, [binning for _, binning in usable])
        return result


def consortium(
    providers: int = 1,
    *,
    rows: int = ROWS,
    bad_rate: float = 0.2,
    strength: float = 0.8,
    features: int = 4,
    shared: float = 0.0,
    levels: int = 0,
    seed: int = 1,
) -> Consortium:
    """A seeded consortium: numbers (missing, special, zero-inflated) and categories, all telling of one latent risk.

    Args: strength: how much a feature tells of the risk; shared: share of a feature's noise that is common to the
        parties; levels: cut every number into so many levels (0: not).
    """
    random_state = np.random.default_rng(seed)
    parties = parties_of(providers)
    risk = random_state.normal(size=rows)
    label = np.zeros(rows, dtype=np.int64)
    label[np.argsort(-(risk + 0.3 * random_state.normal(size=rows)))[: round(bad_rate * rows)]] = 1
    common = random_state.normal(size=(features, rows))
    columns: dict[str, Any] = {}
    for party in parties.all:
        own = []
        for j in range(features):
            noise = np.sqrt(shared) * common[j] + np.sqrt(1 - shared) * random_state.normal(size=rows)
            x = strength * (1 - 0.08 * j) * risk + noise
            if levels:
                x = np.floor(levels * (np.argsort(np.argsort(x)) / rows))
            own.append(_column(x, j, random_state) if not levels else (x, FeatureKind.NUMERIC, ()))
        columns[party] = tuple(own)
    return Consortium(parties, label, columns)


def _column(x: NDArray[np.float64], j: int, random_state: np.random.Generator) -> Any:
    """The j-th kind of column in turn: plain, missing, category, special value, zero-inflated count."""
    hit = random_state.random(len(x))
    if j % 5 == 1:
        return np.where(hit < 0.1, np.nan, x), FeatureKind.NUMERIC, ()
    if j % 5 == 2:
        names = np.array(["retail", "trade", "industry", "services", "farming"])
        values = names[np.digitize(x, np.quantile(x, [0.1, 0.35, 0.6, 0.9]))].astype(object)
        values[hit < 0.08] = None
        return values, FeatureKind.CATEGORICAL, ()
    if j % 5 == 3:
        return np.where(hit < 0.12, -1.0, np.exp(x)), FeatureKind.NUMERIC, (-1.0,)
    if j % 5 == 4:
        return np.maximum(np.floor(2 * x), 0.0), FeatureKind.NUMERIC, ()
    return x, FeatureKind.NUMERIC, ()


# -- stage after stage -------------------------------------------------------------------------------------------------

Deviations = Mapping[str, Change]
NONE: Deviations = {}


@dataclass
class Stages:
    """Plays the stages of one job over one network and one set of ledgers. Everything is drawn from `seed`.

    weights: of the rows, in a weighted fit; `key_bits` is then to be `WEIGHTED_KEY_BITS`.
    """

    data: Consortium
    seed: object = 0
    key_bits: int = KEY_BITS
    recipe: Recipe = field(default_factory=Recipe)
    rules: FitRules = field(default_factory=FitRules)
    director: Director | None = None
    weights: SampleWeights | None = None
    network: SimulatedNetwork = field(default_factory=SimulatedNetwork)

    def __post_init__(self) -> None:
        self.parties = self.data.parties
        self.entropy = seeded(self.seed)
        self.ledgers = {name: Ledger(name) for name in (*self.parties.all, COORDINATOR)}
        self.prebinned = self.data.prebinned()
        self.spent: dict[str, SpentIndices] = {name: MemorySpentIndices() for name in self.parties.all}

    def play(self, stage: str, steps: Sequence[Step], scripts: Mapping[str, Script[Any]], change: Deviations) -> Any:
        bounds = self.data.bounds(self.key_bits)
        sessions = {name: Session(name, self.parties, stage, steps, bounds, self.ledgers[name]) for name in scripts}
        scripts = {name: deviating(s, change[name]) if name in change else s for name, s in scripts.items()}
        return play(scripts, sessions, self.network)

    def encrypt(self, change: Deviations = NONE, label: IntArray | None = None) -> dict[str, RowMasks]:
        owner = self.parties.label_owner
        label = self.data.label if label is None else label
        scripts = {
            name: RowEncryption(
                name,
                self.parties,
                rows=self.data.rows,
                features=len(self.prebinned[name][1]),
                key_bits=self.key_bits,
                context=b"simulated job",
                entropy=self.entropy,
                label=label if name == owner else None,
                weighted=self.weights is not None,
                minimum_key_bits=self.key_bits,
            ).play()
            for name in self.parties.all
        }
        masks: dict[str, RowMasks] = self.play("encrypt", ROW_STEPS, scripts, change)
        return masks

    def binning_roles(self, rows: Mapping[str, RowMasks], label: IntArray | None = None) -> dict[str, Any]:
        owner = self.parties.label_owner
        codes, binnings = self.prebinned[owner]
        roles: dict[str, Any] = {
            owner: LabelOwner(
                self.parties,
                codes=codes,
                binnings=binnings,
                label=self.data.label if label is None else label,
                rows=rows[owner],
                recipe=self.recipe,
            )
        }
        for name in self.parties.providers:
            codes, binnings = self.prebinned[name]
            roles[name] = FeatureProvider(
                name,
                self.parties,
                codes=codes,
                binnings=binnings,
                rows=rows[name],
                recipe=self.recipe,
                entropy=self.entropy,
            )
        return roles

    def bin(
        self, rows: Mapping[str, RowMasks], change: Deviations = NONE, roles: Mapping[str, Any] | None = None
    ) -> dict[str, BinningTable]:
        roles = roles or self.binning_roles(rows)
        scripts = {name: role.play() for name, role in roles.items()}
        tables: dict[str, BinningTable] = self.play("bin", BIN_STEPS, scripts, change)
        return tables

    def training_roles(self, rows: Mapping[str, RowMasks], tables: Mapping[str, BinningTable]) -> dict[str, Any]:
        roles: dict[str, Any] = {
            name: TrainingParty(
                name,
                self.parties,
                table=tables[name],
                rows=rows[name],
                rules=self.rules,
                entropy=self.entropy,
                spent=self.spent[name],
                label=self.data.label if name == self.parties.label_owner else None,
                weights=self.weights if name == self.parties.label_owner else None,
                director=self.director if name == self.parties.label_owner else None,
            )
            for name in self.parties.all
        }
        weighted = self.weights is not None
        return roles | {COORDINATOR: Dealer(self.parties, self.key_bits, self.entropy, weighted=weighted)}

    def train(
        self,
        rows: Mapping[str, RowMasks],
        tables: Mapping[str, BinningTable],
        change: Deviations = NONE,
        roles: Mapping[str, Any] | None = None,
    ) -> dict[str, Coefficients]:
        roles = roles or self.training_roles(rows, tables)
        scripts = {name: role.play() for name, role in roles.items()}
        results = self.play("train", TRAIN_STEPS, scripts, change)
        return {name: results[name] for name in self.parties.all}

    def train_sequence(
        self, rows: Mapping[str, RowMasks], tables: Mapping[str, BinningTable], change: Deviations = NONE
    ) -> dict[str, FitSequence]:
        """As `train`, with every fit of the sequence."""
        roles = self.training_roles(rows, tables)
        scripts = {name: roles[name].play_sequence() for name in self.parties.all}
        results = self.play("train", TRAIN_STEPS, scripts | {COORDINATOR: roles[COORDINATOR].play()}, change)
        return {name: results[name] for name in self.parties.all}


@dataclass(frozen=True)
class Job:
    """A whole job that was played: what every party holds."""

    stages: Stages
    rows: Mapping[str, RowMasks]
    tables: Mapping[str, BinningTable]
    fit: Mapping[str, Coefficients]

    @property
    def parties(self) -> Parties:
        return self.stages.parties

    def pooled_design(self) -> NDArray[np.float64]:
        """The intercept's column, then every party's WOE in role order, as fixed-point values."""
        blocks = [self.tables[name].design / (1 << 16) for name in self.parties.all]
        return np.concatenate([np.ones((self.stages.data.rows, 1)), *blocks], axis=1)

    def coefficients(self) -> NDArray[np.float64]:
        """In the order of `pooled_design`."""
        intercept = self.fit[self.parties.label_owner].intercept
        return np.concatenate([[intercept], *(self.fit[name].weights for name in self.parties.all)])


def play_job(stages: Stages) -> Job:
    rows = stages.encrypt()
    tables = stages.bin(rows)
    return Job(stages, rows, tables, stages.train(rows, tables))
