"""One ciphertext a row: messages and their order."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.disclosure import Learned, Nature
from protocols.messages import Bounds, Message
from protocols.roles import Role
from protocols.session import Step

CHUNK_ROWS = 1024


@dataclass(frozen=True)
class FeatureCount(Message):
    """How many features the sender brings; everyone checks it against the number of rows before a key is made."""

    features: int

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("number of features", 1),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 16


@dataclass(frozen=True)
class PublicKey(Message):
    """A fresh Paillier modulus and the proof that encryption under it is a bijection."""

    modulus: bytes
    proof: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("public key of this job", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 64 * bounds.key_bytes


@dataclass(frozen=True)
class EncryptedRows(Message):
    """Ciphertexts of the rows `first`, `first` + 1, ... in the common order, under the sender's key."""

    first: int
    ciphertexts: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("encrypted rows, in chunks", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 2 * bounds.key_bytes * CHUNK_ROWS + 64


STEPS = (
    Step("1", Role.PARTY, FeatureCount, to=Role.PARTY),
    Step("2", Role.LABEL_OWNER, PublicKey, to=Role.PROVIDER),
    Step("2", Role.CO_HOLDER, PublicKey, to=Role.PARTY),
    Step("3", Role.LABEL_OWNER, EncryptedRows, to=Role.PROVIDER, loop="rows"),
    Step("3", Role.CO_HOLDER, EncryptedRows, to=Role.PARTY, loop="rows"),
)
