"""One ciphertext a row: every party's script.

Source: docs/protocols/rows.md. The label owner `A` encrypts, for each training row, its label above T uniform masks;
the co-holder `H_1` encrypts T masks. Binning, the gradient and every iteration feed on these two ciphertexts a row.
Learns: how many features each party brings. Nothing about rows: each ciphertext is under a key its receiver lacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from gmpy2 import mpz
from phe import PaillierPublicKey

from protocols.binning.budget import check_rows
from protocols.errors import LocalProtocolError
from protocols.fixed_point import IntArray, RingArray, SlotLayout
from protocols.messages import require
from protocols.paillier import CiphertextReader, KeyPair, generate_key_pair, to_bytes, verify_public_key
from protocols.roles import Parties
from protocols.rows.messages import CHUNK_ROWS, EncryptedRows, FeatureCount, PublicKey
from protocols.session import Progress, Script, receive, receive_each, send
from protocols.sharing import Entropy


@dataclass(frozen=True)
class RowMasks:
    """What a party holds after the rows are encrypted.

    layout: slots of a plaintext; keys: the public keys of `A` and `H_1` by name; encrypted: ciphertexts a row by the
    name of the key owner, for the keys that are not one's own; features: how many each other party brings; own_key,
    masks: the key pair and the T columns of masks, shape (T, n, 3), of a key owner.
    """

    layout: SlotLayout
    features: Mapping[str, int]
    keys: Mapping[str, PaillierPublicKey]
    encrypted: Mapping[str, Sequence[mpz]] = field(repr=False)
    own_key: KeyPair | None = field(default=None, repr=False)
    masks: RingArray | None = field(default=None, repr=False)


class RowEncryption:
    """One party in the encryption of the rows.

    Args: name: this party; rows: n, the training rows; features: how many this party brings; key_bits: of each modulus;
        context: what the key proof is bound to (contract hash and job); label: 0/1 per row, at the label owner only;
        weighted: whether the fit will be; minimum_key_bits: lower only in tests.
    """

    def __init__(
        self,
        name: str,
        parties: Parties,
        *,
        rows: int,
        features: int,
        key_bits: int,
        context: bytes,
        entropy: Entropy,
        label: IntArray | None = None,
        weighted: bool = False,
        minimum_key_bits: int = 2048,
    ) -> None:
        if (name == parties.label_owner) != (label is not None):
            raise LocalProtocolError("ROLE_INVALID", "the label owner, and only the label owner, brings a label")
        self._name = name
        self._parties = parties
        self._rows = rows
        self._features = features
        self._layout = SlotLayout.of_job(rows, key_bits, weighted=weighted)
        self._context = context
        self._entropy = entropy
        self._label = label
        self._minimum_key_bits = minimum_key_bits

    def play(self) -> Script[RowMasks]:
        """Steps 1 to 3."""
        features = yield from self._check_sizes()
        key: KeyPair | None = None
        masks: RingArray | None = None
        if self._name in self._parties.share_holders:
            key = generate_key_pair(self._layout.key_bits, self._entropy, minimum_bits=self._minimum_key_bits)
            masks = draw_masks(self._layout, self._layout.slots, self._entropy)
            yield from self._send_key(key)
            plaintexts = pack_masks(self._layout, masks, self._slot_bits(self._name))
            if self._label is not None:
                labels = self._label.tolist()
                plaintexts = [p + (y << self._layout.label_shift) for p, y in zip(plaintexts, labels, strict=True)]
            yield from send_rows(key, plaintexts, self._receivers(self._name), self._entropy)
        keys: dict[str, PaillierPublicKey] = {}
        encrypted: dict[str, Sequence[mpz]] = {}
        for owner in self._parties.share_holders:
            if owner == self._name and key is not None:
                keys[owner] = key.public
            else:
                keys[owner] = yield from self._receive_key(owner)
        for owner in self._parties.share_holders:
            if owner != self._name:
                encrypted[owner] = yield from receive_rows(owner, keys[owner], self._rows)
        return RowMasks(self._layout, features, keys, encrypted, key, masks)

    def _check_sizes(self) -> Script[dict[str, int]]:
        others = self._parties.others(self._name)
        yield from send(others, FeatureCount(self._features))
        counts = yield from receive_each(others, FeatureCount)
        check_rows(self._rows, self._features + sum(count.features for count in counts.values()))
        return {party: count.features for party, count in counts.items()}

    def _send_key(self, key: KeyPair) -> Script[None]:
        modulus = int(key.public.n).to_bytes(self._layout.key_bits // 8, "little")
        yield from send(self._receivers(self._name), PublicKey(modulus, key.prove(self._proof_context(self._name))))

    def _receive_key(self, owner: str) -> Script[PaillierPublicKey]:
        message = yield from receive(owner, PublicKey)
        return verify_public_key(
            message.modulus,
            message.proof,
            self._layout.key_bits,
            self._proof_context(owner),
            minimum_bits=self._minimum_key_bits,
        )

    def _proof_context(self, owner: str) -> bytes:
        return self._context + b"\0" + owner.encode()

    def _receivers(self, owner: str) -> tuple[str, ...]:
        return self._parties.others(owner)

    def _slot_bits(self, owner: str) -> int:
        layout = self._layout
        return layout.label_owner_slot if owner == self._parties.label_owner else layout.co_holder_slot


def draw_masks(layout: SlotLayout, columns: int, entropy: Entropy) -> RingArray:
    """`columns` fresh columns of masks uniform in Z_{2^l}, shape (columns, n, 3)."""
    shape = (columns, layout.rows)
    return layout.ring.random(entropy(layout.ring.stream_bytes(shape)), shape)


def pack_masks(layout: SlotLayout, masks: RingArray, slot_bits: int) -> list[int]:
    """The plaintext of each row: its masks, one a slot."""
    return layout.pack([layout.ring.to_integers(column, signed=False) for column in np.asarray(masks)], slot_bits)


def send_rows(key: KeyPair, plaintexts: Sequence[int], to: Sequence[str], entropy: Entropy) -> Script[None]:
    """Encrypt row by row and send as it goes, the same bytes to all."""
    for first in range(0, len(plaintexts), CHUNK_ROWS):
        ciphertexts = key.encrypt(plaintexts[first : first + CHUNK_ROWS], entropy)
        yield from send(to, EncryptedRows(first, to_bytes(ciphertexts, key.public)))
        yield Progress("encrypted rows", min(first + CHUNK_ROWS, len(plaintexts)), len(plaintexts))


def receive_rows(owner: str, key: PaillierPublicKey, rows: int) -> Script[list[mpz]]:
    """The ciphertexts of all rows, each canonical and none twice."""
    reader = CiphertextReader(key, rows)
    ciphertexts: list[mpz] = []
    while len(ciphertexts) < rows:
        message = yield from receive(owner, EncryptedRows)
        require(message.first == len(ciphertexts) and len(message.ciphertexts) > 0)
        ciphertexts += reader.read(message.ciphertexts)
        yield Progress("received rows", len(ciphertexts), rows)
    reader.finish()
    return ciphertexts
