"""Scoring and validation: messages and their order (PROTOCOLS.md section 5)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from protocols.disclosure import Learned, Nature
from protocols.errors import RemoteProtocolError
from protocols.messages import Bounds, Message, Part
from protocols.pair_masks import PairSeed
from protocols.roles import Role
from protocols.session import Step

PART_BYTES = 4
LOGIT_UNITS = 100  # logits open rounded to 0.01
MOST_DIMENSIONS = 24  # of one provider; a recipe may name 20
_MOST_LEVELS = 32  # of a shared report; it has five


@dataclass(frozen=True)
class MaskedPoints(Message):
    """A provider's partial points a row, modulo 2^32; under masks that cancel in the sum with two or more providers."""

    request: str
    parts: bytes
    masked: bool

    def learned(self) -> tuple[Learned, ...]:
        return (_part("partial points of the provider's features, per row", self.parts, self.masked),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return PART_BYTES * bounds.rows + 256


@dataclass(frozen=True)
class OpenDimensions(Message):
    """A provider's points a row in each of its dimensions, where the contract opens them.

    points: signed, row by row; references: what a dimension's points are measured against for reasons, one each.
    """

    request: str
    names: tuple[str, ...]
    points: bytes
    references: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (
            Learned("opened dimensions: names and reference points of the provider's dimensions", 2 * len(self.names)),
            Learned("opened dimensions: points of the provider by dimension, per row", len(self.points) // PART_BYTES),
        )

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return MOST_DIMENSIONS * (PART_BYTES * bounds.rows + 1024) + 256


@dataclass(frozen=True)
class MaskedLogitParts(Message):
    """A provider's partial logits a row, rounded to 0.01, modulo 2^32; masked as the points. Once per final model."""

    request: str
    parts: bytes
    masked: bool

    def learned(self) -> tuple[Learned, ...]:
        return (_part("partial logits of the provider, rounded to 0.01, per row", self.parts, self.masked),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return PART_BYTES * bounds.rows + 256


@dataclass(frozen=True)
class OpenBin(Part):
    """One bin of an opened scorecard: its label (edges rounded to 3 digits), WOE in 1e-4, points."""

    label: str
    woe: int
    points: int


@dataclass(frozen=True)
class OpenFeature(Part):
    """One feature of an opened scorecard, by its own name."""

    name: str
    alias: str
    bins: tuple[OpenBin, ...]


@dataclass(frozen=True)
class OpenScorecard(Message):
    """A provider's part of the scorecard, where the contract opens it."""

    features: tuple[OpenFeature, ...]

    def learned(self) -> tuple[Learned, ...]:
        bins = sum(len(feature.bins) for feature in self.features)
        return (
            Learned("opened scorecard: names of the provider's model features", len(self.features)),
            Learned("opened scorecard: edges (3 digits), WOE and points per bin", 3 * bins),
        )

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return bounds.features * 64_000 + 64


@dataclass(frozen=True)
class SharedReport(Message):
    """The label owner's report for all parties: aggregate metrics, curves and tables, as JSON."""

    document: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("shared report: metrics, curves, grades, features by alias", _numbers(self.parsed())),)

    def parsed(self) -> dict[str, Any]:
        """The document.

        Raises: RemoteProtocolError: not a JSON object that can be written again: one with a number that is not finite,
            text that has no UTF-8 form, or more than `_MOST_LEVELS` levels.
        """
        try:
            document = json.loads(self.document)
            if not isinstance(document, dict) or _deeper_than(_MOST_LEVELS, document):
                raise RemoteProtocolError("FRAME_REJECTED", "a message of a peer is malformed")
            json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise RemoteProtocolError("FRAME_REJECTED", "a message of a peer is malformed") from error
        return document

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 1_000_000 + 100_000 * bounds.features


SCORE_STEPS = (
    Step("1", Role.PROVIDER, PairSeed, to=Role.PROVIDER, optional=True),
    Step("2", Role.PROVIDER, MaskedPoints, to=Role.LABEL_OWNER),
    Step("3", Role.PROVIDER, OpenDimensions, to=Role.LABEL_OWNER, optional=True),
)
VALIDATE_STEPS = (
    *SCORE_STEPS,
    Step("4", Role.PROVIDER, MaskedLogitParts, to=Role.LABEL_OWNER),
    Step("5", Role.PROVIDER, OpenScorecard, to=Role.LABEL_OWNER, optional=True),
    Step("6", Role.LABEL_OWNER, SharedReport, to=Role.PROVIDER),
)


def _part(what: str, parts: bytes, masked: bool) -> Learned:
    count = len(parts) // PART_BYTES
    return Learned(f"{what}, masked", count, Nature.MASKED) if masked else Learned(what, count)


def _deeper_than(levels: int, document: object) -> bool:
    """Whether tables and lists of a JSON document nest more than so deeply; found without recursion."""
    level = [document]
    for _ in range(levels):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
    return bool(level)


def _numbers(value: object) -> int:
    if isinstance(value, dict):
        return sum(_numbers(item) for item in value.values())
    if isinstance(value, list):
        return sum(_numbers(item) for item in value)
    return int(isinstance(value, (int, float)) and not isinstance(value, bool))
