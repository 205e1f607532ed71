"""Second moments opened to the label owner: messages and their order (PROTOCOLS.md section 4)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from protocols.binning.messages import PartyFeatures
from protocols.disclosure import Learned, Nature
from protocols.messages import Bounds, Message
from protocols.moments.layout import most_parts
from protocols.pair_masks import PairSeed
from protocols.roles import Role
from protocols.rows.messages import CHUNK_ROWS, EncryptedRows, PublicKey
from protocols.scoring.messages import MaskedLogitParts
from protocols.session import Step

VALUE_BYTES = 16  # of a moment in the clear
FLOAT_BYTES = 8


@dataclass(frozen=True)
class WeightedRows(Message):
    """A provider's encrypted rows `first`, `first` + 1, ..., each multiplied under encryption by the row's weight."""

    first: int
    ciphertexts: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("encrypted rows of a peer, weighted, in chunks", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 2 * bounds.key_bytes * CHUNK_ROWS + 64


@dataclass(frozen=True)
class CrossMoments(Message):
    """Sums over rows of `columns` columns of the label owner times each feature of the sender, under `A`'s key."""

    columns: int
    features: int
    ciphertexts: bytes

    def learned(self) -> tuple[Learned, ...]:
        numbers = self.columns * self.features
        return (Learned("exact second moments of own columns and a peer's model features", numbers),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return _block_bytes(bounds) + 128


@dataclass(frozen=True)
class OwnMoments(Message):
    """Second moments of the sender's own features, upper triangle by rows: 16 bytes each in the clear, or, weighted,
    a ciphertext each under `A`'s key.
    """

    features: int
    values: bytes

    def learned(self) -> tuple[Learned, ...]:
        numbers = self.features * (self.features + 1) // 2
        return (Learned("exact second moments among a peer's model features", numbers),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return bounds.features * (bounds.features + 1) * bounds.key_bytes + 128


@dataclass(frozen=True)
class MaskedMoments(Message):
    """Sums of the receiver's encrypted columns times the sender's features, each under a mask uniform in [0, N)."""

    ciphertexts: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("second moments of two providers, masked", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return _block_bytes(bounds) + 128


@dataclass(frozen=True)
class MomentShares(Message):
    """One provider's share of its second moments with another: masks at one of the two, masked sums at the other."""

    values: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("a share of the second moments of two providers", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return _block_bytes(bounds) + 128


@dataclass(frozen=True)
class MomentsReady(Message):
    """Whether the sender may take part, which it may not where moments of its features were opened before under this
    contract; and how many of its features are in the fit.
    """

    ready: bool
    features: int

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("number of model features per party", 1),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 64


@dataclass(frozen=True)
class FeatureErrors(Message):
    """What the label owner tells a provider of its own coefficients, in model order: standard errors and, where plain
    moments were opened, variance inflation factors; float64 each.
    """

    errors: bytes
    inflation: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (
            Learned("standard errors of own coefficients", len(self.errors) // FLOAT_BYTES),
            Learned("variance inflation factors of own features", len(self.inflation) // FLOAT_BYTES),
        )

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 2 * FLOAT_BYTES * bounds.features + 32


@dataclass(frozen=True)
class ScreenedFeatures(Message):
    """What the screening across parties leaves: the receiver's own features, by alias in model order, and how many
    each party has, in role order. Both are empty where no moments could open: all stay.
    """

    kept: tuple[str, ...]
    parties: tuple[PartyFeatures, ...]

    def learned(self) -> tuple[Learned, ...]:
        return (
            Learned("which own features the screening across parties keeps", len(self.kept)),
            Learned("number of model features per party", len(self.parties)),
        )

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return bounds.features * 64 + 16_384


def _block_bytes(bounds: Bounds) -> int:
    return 2 * bounds.key_bytes * bounds.features * most_parts(bounds.features + 2, bounds.rows, 8 * bounds.key_bytes)


STEPS = (
    Step("1", Role.LABEL_OWNER, EncryptedRows, to=Role.PROVIDER, loop="rows"),
    Step("2", Role.PROVIDER, PublicKey, to=Role.PARTY, optional=True),
    Step("3", Role.PROVIDER, EncryptedRows, to=Role.PARTY, loop="rows"),
    Step("4", Role.LABEL_OWNER, WeightedRows, to=Role.PROVIDER, loop="weighted rows"),
    Step("5", Role.PROVIDER, CrossMoments, to=Role.LABEL_OWNER),
    Step("5", Role.PROVIDER, OwnMoments, to=Role.LABEL_OWNER),
    Step("6", Role.PROVIDER, MaskedMoments, to=Role.PROVIDER, optional=True),
    Step("7", Role.PROVIDER, MomentShares, to=Role.LABEL_OWNER, loop="pairs"),
)
SCREEN_STEPS = (
    Step("0", Role.PARTY, MomentsReady, to=Role.PARTY),
    *(replace(step, optional=not step.loop) for step in STEPS if step.message is not WeightedRows),
    Step("8", Role.LABEL_OWNER, ScreenedFeatures, to=Role.PROVIDER),
)
FIT_STEPS = (
    Step("0", Role.PARTY, MomentsReady, to=Role.PARTY),
    Step("0", Role.PROVIDER, PairSeed, to=Role.PROVIDER, optional=True),
    Step("0", Role.PROVIDER, MaskedLogitParts, to=Role.LABEL_OWNER, optional=True),
    *(replace(step, optional=not step.loop) for step in STEPS),
    Step("8", Role.LABEL_OWNER, FeatureErrors, to=Role.PROVIDER, optional=True),
)
INFLATION_STEPS = (Step("8", Role.LABEL_OWNER, FeatureErrors, to=Role.PROVIDER),)  # where no errors are asked for
