"""Opening what a provider sent of its pre-bins: decrypt, check, keep the digits (label owner).

Source: PROTOCOLS.md section 2, step 2.4; docs/protocols/binning.md, step 4. Learns: rows and bads per pre-bin.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from protocols.binning.messages import MAX_PREBINS, PreBinnedFeature
from protocols.binning.prebins import floor_rows
from protocols.binning.rules import Method
from protocols.binning.table import Counted
from protocols.errors import LocalProtocolError
from protocols.messages import require
from protocols.paillier import KeyPair, ciphertext_bytes, from_bytes
from protocols.recipe import Recipe
from protocols.rows.encryption import RowMasks


class Opening:
    """Reads pre-binned features.

    Args: rows: what the encryption of the rows left the label owner; bads: of all training rows; methods: that a
        provider may ask for.
    """

    def __init__(self, rows: RowMasks, bads: int, recipe: Recipe, methods: Collection[Method]) -> None:
        if rows.own_key is None or rows.masks is None:
            raise LocalProtocolError("ROLE_INVALID", "the label owner brings the key of its encrypted rows")
        self._layout = rows.layout
        self._key: KeyPair = rows.own_key
        self._bads = bads
        self._methods = methods
        self._floor = floor_rows(rows.layout.rows, recipe.binning.floor_rows, recipe.binning.floor_share)
        self._first_column_sum = sum(rows.layout.ring.to_integers(rows.masks[0], signed=False))

    def read(self, party: str, features: Sequence[PreBinnedFeature]) -> list[Counted]:
        """Counts and digits of each feature of `party`.

        Raises: RemoteProtocolError: any check fails; the same generic error for all.
        """
        bins = [len(feature.rows) for feature in features]
        require(all(2 <= count <= MAX_PREBINS for count in bins))
        size = ciphertext_bytes(self._key.public)
        require(all(len(f.encrypted_bads) == len(f.rows) * size for f in features))
        encrypted = b"".join(feature.encrypted_bads for feature in features)
        plaintexts = iter(self._key.decrypt(from_bytes(encrypted, sum(bins), self._key.public)))
        return [self._read(party, feature, [next(plaintexts) for _ in feature.rows]) for feature in features]

    def _read(self, party: str, feature: PreBinnedFeature, plaintexts: Sequence[int]) -> Counted:
        layout = self._layout
        require(sum(feature.rows) == layout.rows and min(feature.rows) >= self._floor)
        require(feature.ordered_bins <= len(feature.rows))
        require(
            feature.rule.sound_for(len(feature.rows), feature.ordered_bins) and feature.rule.method in self._methods
        )
        bads = [
            (value >> layout.label_shift) & ((1 << n_b.bit_length()) - 1)
            for value, n_b in zip(plaintexts, feature.rows, strict=True)
        ]
        require(all(bad <= n_b for bad, n_b in zip(bads, feature.rows, strict=True)) and sum(bads) == self._bads)
        slot = layout.label_owner_slot
        digits = [layout.digits(value, slot) for value in plaintexts]
        total_weight = (sum(digit[0] for digit in digits) - self._first_column_sum) % (1 << slot)
        require(feature.mask_check == total_weight.to_bytes((slot + 7) // 8, "little"))
        reduced = np.array(digits, dtype=object) % layout.ring.modulus
        return Counted(party, feature.rows, tuple(bads), feature.ordered_bins, feature.rule, reduced)
