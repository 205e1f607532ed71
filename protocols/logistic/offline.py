"""The offline half of every gradient: X_P^T R_Q, shared between P and the holder Q, one column an iteration.

Source: PROTOCOLS.md section 3, "Offline" and step 5 (further passes). For each column t of masks, the holder Q of R_Q
ends with `half` = X_P^T R_Q[:, t] + s and P with its `subtrahend` s, where s is uniform. A's half of the first pass is
already there: the digits that binning left (`BinningTable.digits`).
Learns: nothing; every opened value is under a mask of the other side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from gmpy2 import mpz
from phe import PaillierPublicKey

from protocols.binning.table import BinDigits, BinningTable
from protocols.binning.weight_of_evidence import feature_values
from protocols.errors import LocalProtocolError
from protocols.fixed_point import IntArray, RingArray
from protocols.logistic.messages import MaskedBinSums, MaskedProducts
from protocols.messages import require
from protocols.paillier import KeyPair, accumulate, from_bytes, seal, to_bytes, weighted_products
from protocols.roles import Parties
from protocols.rows.encryption import RowMasks, draw_masks, pack_masks, receive_rows, send_rows
from protocols.session import Progress, Script, receive, send
from protocols.sharing import Entropy, uniform_below

_GROUP = 6  # features between two reports of progress


class OfflineProducts:
    """One party's columns of offline material.

    Args: design_bins: per column of the design the bin of each row and the value of each bin.
    """

    def __init__(
        self,
        name: str,
        parties: Parties,
        *,
        table: BinningTable,
        rows: RowMasks,
        design_bins: Sequence[tuple[IntArray, IntArray]],
        entropy: Entropy,
    ) -> None:
        self._name = name
        self._parties = parties
        self._table = table
        self._rows = rows
        self._layout = rows.layout
        self._ring = rows.layout.ring
        self._values = [values for _, values in design_bins]
        self._codes = np.stack([codes for codes, _ in design_bins], axis=1)
        self._entropy = entropy
        self.passes = 0
        self._ready: deque[int] = deque()
        self._halves: dict[tuple[str, int], list[int]] = {}
        self._subtrahends: dict[int, list[int]] = {}
        self._mask_columns: dict[int, RingArray] = {}
        # The last column of the first pass is never used in an iteration: further passes repeat it as a check.
        self._tie = self._layout.slots - 1

    @property
    def exhausted(self) -> bool:
        """Whether the next iteration needs a further pass."""
        return not self._ready

    def next_column(self) -> int:
        """The next unused column; each is given out once."""
        return self._ready.popleft()

    def mask_column(self, column: int) -> RingArray:
        """R_Q[:, column] at a holder, shape (n, 3); it can be taken once."""
        return self._mask_columns.pop(column)

    def half(self, party: str, column: int) -> list[int]:
        """At a holder: X_P^T R_Q[:, column] + s for party P, d_P integers."""
        return self._halves.pop((party, column))

    def subtrahend(self, column: int) -> list[int]:
        """The s of this party, over the holders other than itself, d integers."""
        return self._subtrahends.pop(column)

    def first_pass(self, used: int = 0) -> Script[None]:
        """Offline steps 1 and 2 on the ciphertexts that binning used. used: columns that an earlier attempt used up."""
        if self._rows.masks is not None:
            self._keep_masks(self._rows.masks)
        if self._leads:
            for party in self._parties.providers:
                self._keep_halves(party, self._table.digits[party], self._peer_values(party))
        else:
            self._subtract(self._table.digits[self._parties.label_owner])
        yield from self._co_holder_products(self._rows.encrypted.get(self._parties.co_holder))
        self._finish_pass(range(min(used, self._tie), self._tie))

    def further_pass(self) -> Script[None]:
        """Fresh masks of both holders; slot 0 of A's repeats the reserved column of the first pass."""
        encrypted: dict[str, Sequence[mpz]] = {}
        if self._own_key is not None:
            yield from self._send_fresh_masks(self._own_key)
        for owner in self._parties.share_holders:
            if owner != self._name:
                encrypted[owner] = yield from receive_rows(owner, self._rows.keys[owner], self._layout.rows)
        if self._leads:
            for party in self._parties.providers:
                yield from self._open_bin_sums(party)
        else:
            yield from self._send_bin_sums(encrypted[self._parties.label_owner])
        yield from self._co_holder_products(encrypted.get(self._parties.co_holder))
        self._finish_pass(range(1, self._layout.slots))

    # -- the co-holder's half -------------------------------------------------------------------------------------

    def _co_holder_products(self, encrypted: Sequence[mpz] | None) -> Script[None]:
        """Offline step 2: everyone else multiplies H_1's encrypted masks by its features, under one mask a feature."""
        if encrypted is not None:
            yield from self._send_products(encrypted)
            return
        for party in self._parties.others(self._name):
            message = yield from receive(party, MaskedProducts)
            columns = self._table.shape[party] + (party == self._parties.label_owner)
            key = self._require_key()
            ciphertexts = from_bytes(message.ciphertexts, columns, key.public)
            slots = [self._layout.digits(value, self._layout.co_holder_slot) for value in key.decrypt(ciphertexts)]
            for slot in range(self._layout.slots):
                self._halves[party, self._column(slot)] = [digits[slot] % self._ring.modulus for digits in slots]

    def _send_products(self, encrypted: Sequence[mpz]) -> Script[None]:
        key = self._rows.keys[self._parties.co_holder]
        offset = sum(
            self._layout.product_offset << (t * self._layout.co_holder_slot) for t in range(self._layout.slots)
        )
        sealed: list[mpz] = []
        masks: list[list[int]] = []
        for first in range(0, len(self._values), _GROUP):
            group = range(first, min(first + _GROUP, len(self._values)))
            products = accumulate(encrypted, self._codes[:, group], [len(self._values[j]) for j in group], key)
            drawn = [uniform_below(int(key.n), self._entropy) for _ in group]
            weighted = weighted_products(products, [self._values[j].tolist() for j in group], key)
            sealed += seal(weighted, [mask + offset for mask in drawn], key, self._entropy)
            masks += [self._layout.digits(mask, self._layout.co_holder_slot) for mask in drawn]
            yield Progress("multiplied features", len(sealed), len(self._values))
        for slot in range(self._layout.slots):
            own = self._subtrahends.setdefault(self._column(slot), [0] * len(masks))
            for j, digits in enumerate(masks):
                own[j] = (own[j] + digits[slot] + self._layout.product_offset) % self._ring.modulus
        yield from send(self._parties.co_holder, MaskedProducts(to_bytes(sealed, key)))

    # -- further passes -------------------------------------------------------------------------------------------

    def _send_fresh_masks(self, key: KeyPair) -> Script[None]:
        masks = draw_masks(self._layout, self._layout.slots, self._entropy)
        slot_bits = self._layout.co_holder_slot
        if self._leads:
            masks[0] = self._mask_columns[self._tie]
            slot_bits = self._layout.label_owner_slot
        self._keep_masks(masks)
        plaintexts = pack_masks(self._layout, masks, slot_bits)
        yield from send_rows(key, plaintexts, self._parties.others(self._name), self._entropy)

    def _send_bin_sums(self, encrypted: Sequence[mpz]) -> Script[None]:
        """Per bin of each feature the masked sum of A's fresh masks, tied to the first pass by the reserved column."""
        key: PaillierPublicKey = self._rows.keys[self._parties.label_owner]
        products = accumulate(encrypted, self._codes, [len(values) for values in self._values], key)
        before = self._table.digits[self._parties.label_owner]
        sealed: list[mpz] = []
        checks: list[int] = []
        fresh = []
        for feature, bins in enumerate(products):
            masks = [uniform_below(int(key.n), self._entropy) for _ in bins]
            sealed += seal(bins, masks, key, self._entropy)
            digits = np.array(
                [self._layout.digits(mask, self._layout.label_owner_slot) for mask in masks], dtype=object
            )
            digits = digits % self._ring.modulus
            checks += [int(c) for c in digits[:, 0] - before.digits[feature][:, self._tie]]
            fresh.append(digits)
        self._subtract(BinDigits(tuple(fresh)))
        packed = self._ring.to_bytes(self._ring.from_integers(checks))
        yield from send(self._parties.label_owner, MaskedBinSums(to_bytes(sealed, key), packed))

    def _open_bin_sums(self, party: str) -> Script[None]:
        message = yield from receive(party, MaskedBinSums)
        values = self._peer_values(party)
        key = self._require_key()
        count = sum(len(x) for x in values)
        ciphertexts = from_bytes(message.ciphertexts, count, key.public)
        checks = self._ring.to_integers(self._ring.from_bytes(message.checks, (count,)), signed=False)
        rows = [self._layout.digits(value, self._layout.label_owner_slot) for value in key.decrypt(ciphertexts)]
        opened = np.array(rows, dtype=object) % self._ring.modulus
        ends = np.cumsum([len(x) for x in values])[:-1]
        digits = BinDigits(tuple(np.split(opened, ends)))
        tied = np.concatenate([before[:, self._tie] for before in self._table.digits[party].digits])
        require([int(d) for d in (opened[:, 0] - tied) % self._ring.modulus] == checks)
        self._keep_halves(party, digits, values)

    # -- bookkeeping ----------------------------------------------------------------------------------------------

    @property
    def _leads(self) -> bool:
        return self._name == self._parties.label_owner

    @property
    def _own_key(self) -> KeyPair | None:
        return self._rows.own_key

    def _require_key(self) -> KeyPair:
        if self._rows.own_key is None:
            raise LocalProtocolError("ROLE_INVALID", "only a share holder has a key to open these")
        return self._rows.own_key

    def _column(self, slot: int) -> int:
        return self.passes * self._layout.slots + slot

    def _peer_values(self, party: str) -> list[IntArray]:
        return [feature_values(feature.woe) for feature in self._table.peers[party]]

    def _keep_masks(self, masks: RingArray) -> None:
        for slot in range(self._layout.slots):
            self._mask_columns[self._column(slot)] = masks[slot]

    def _keep_halves(self, party: str, digits: BinDigits, values: Sequence[IntArray]) -> None:
        for slot, half in enumerate(digits.weighted(values, self._ring.modulus)):
            self._halves[party, self._column(slot)] = half

    def _subtract(self, digits: BinDigits) -> None:
        for slot, own in enumerate(digits.weighted(self._values, self._ring.modulus)):
            self._subtrahends[self._column(slot)] = own

    def _finish_pass(self, slots: range) -> None:
        self._ready.extend(self._column(slot) for slot in slots)
        self.passes += 1
