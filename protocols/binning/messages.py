"""Binning and WOE: messages and their order (PROTOCOLS.md section 2)."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.binning.rules import MergeRule
from protocols.disclosure import Learned, Nature
from protocols.messages import Bounds, Message, Part
from protocols.roles import Role
from protocols.session import Step

MAX_PREBINS = 20


@dataclass(frozen=True)
class PreBinnedFeature(Part):
    """One feature under an alias: rows per pre-bin, and per pre-bin the sealed product of its rows' ciphertexts.

    The first `ordered_bins` pre-bins are in order of value. `mask_check` is the sum of the masks' first digits mod 2^S.
    `rule` is how its owner wants it merged.
    """

    alias: str
    ordered_bins: int
    rows: tuple[int, ...]
    encrypted_bads: bytes
    mask_check: bytes
    rule: MergeRule


@dataclass(frozen=True)
class PreBins(Message):
    """A provider's pre-binned features, in the order of their random aliases."""

    features: tuple[PreBinnedFeature, ...]

    def learned(self) -> tuple[Learned, ...]:
        bins = sum(len(feature.rows) for feature in self.features)
        return (
            Learned("rows per pre-bin of an aliased feature", bins),
            Learned("bads per pre-bin of an aliased feature", bins),
            Learned("order of the pre-bins of an aliased feature", len(self.features)),
            Learned("how an aliased feature is to be merged, and whether its owner wants it kept", len(self.features)),
            Learned("sums of own masks per pre-bin, masked again", bins, Nature.MASKED),
            Learned("check sum of masks per feature", len(self.features), Nature.MASKED),
        )

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return bounds.features * (MAX_PREBINS * (2 * bounds.key_bytes + 8) + 256) + 64


@dataclass(frozen=True)
class KeptFeature(Part):
    """What the gate returns for a feature it keeps: pre-bin -> bin, WOE in 1e-4 a bin, IV in 1e-3."""

    alias: str
    merge_map: tuple[int, ...]
    woe: tuple[int, ...]
    iv: int


@dataclass(frozen=True)
class GateDecision(Message):
    """The label owner's answer: for a dropped feature nothing but that it is dropped."""

    bads: int
    kept: tuple[KeptFeature, ...]
    dropped: tuple[str, ...]

    def learned(self) -> tuple[Learned, ...]:
        return (
            Learned("number of bads in the training sample", 1),
            Learned("WOE per bin of an own feature that was kept (equals its label counts)", self.bins),
            Learned("IV of an own feature that was kept", len(self.kept)),
            Learned("merge map of an own feature that was kept", len(self.kept)),
            Learned("that an own feature was dropped", len(self.dropped)),
        )

    @property
    def bins(self) -> int:
        """Bins over all kept features."""
        return sum(len(feature.woe) for feature in self.kept)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return bounds.features * (MAX_PREBINS * 12 + 128) + 64


@dataclass(frozen=True)
class SelectedFeatures(Message):
    """The aliases that go into the model, after the provider's own correlation filter, in model order."""

    aliases: tuple[str, ...]

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("which aliased features enter the model", len(self.aliases)),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return bounds.features * 64 + 64


@dataclass(frozen=True)
class PartyFeatures(Part):
    """How many features of one party are in the model."""

    party: str
    features: int


@dataclass(frozen=True)
class ModelShape(Message):
    """How many features each party has in the model, in role order; the gradient budget follows from it."""

    parties: tuple[PartyFeatures, ...]

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("number of model features per party", len(self.parties)),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 16_384


STEPS = (
    Step("3", Role.PROVIDER, PreBins, to=Role.LABEL_OWNER),
    Step("4", Role.LABEL_OWNER, GateDecision, to=Role.PROVIDER),
    Step("6", Role.PROVIDER, SelectedFeatures, to=Role.LABEL_OWNER),
    Step("7", Role.LABEL_OWNER, ModelShape, to=Role.PROVIDER),
)


@dataclass(frozen=True)
class ChangedRule(Part):
    """How a feature is to be merged from now on, with the pre-bins it has."""

    alias: str
    rule: MergeRule


@dataclass(frozen=True)
class ReviewTurn(Message):
    """A provider in one round of the review: what its modeller asks for, one feature at most, and whether she accepts.

    applied: how many changes of its features have arrived, in all attempts.
    """

    applied: int
    accepted: bool
    features: tuple[PreBinnedFeature, ...] = ()
    rules: tuple[ChangedRule, ...] = ()

    def learned(self) -> tuple[Learned, ...]:
        asked = Learned("how an aliased feature is to be merged, and whether its owner wants it kept", len(self.rules))
        return (*(PreBins(self.features).learned() if self.features else ()), *((asked,) if self.rules else ()))

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return MAX_PREBINS * (2 * bounds.key_bytes + 8) + 1024


@dataclass(frozen=True)
class ReviewAnswer(Message):
    """The label owner in one round: a new version of a feature or a refusal, who has not accepted, and for how long.

    refused: one of `REFUSALS`, or empty.
    """

    changed: tuple[KeptFeature, ...]
    refused: str
    waiting: tuple[str, ...]
    seconds_left: int
    ended: bool

    def learned(self) -> tuple[Learned, ...]:
        bins = sum(len(feature.woe) for feature in self.changed)
        return (
            Learned("WOE per bin of an own feature that was kept (equals its label counts)", bins),
            Learned("IV of an own feature that was kept", len(self.changed)),
            Learned("merge map of an own feature that was kept", len(self.changed)),
            Learned("that another version of an own feature was refused", int(bool(self.refused))),
        )

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return MAX_PREBINS * 12 + 16_384


REVIEW_STEPS = (
    Step("8", Role.PROVIDER, ReviewTurn, to=Role.LABEL_OWNER, loop="round"),
    Step("9", Role.LABEL_OWNER, ReviewAnswer, to=Role.PROVIDER, loop="round"),
)
