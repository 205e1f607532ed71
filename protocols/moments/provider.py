"""Second moments: feature provider.

Source: PROTOCOLS.md section 4, docs/protocols/moments.md. Sends: sums over rows of the label owner's encrypted columns
times its features, and among its features, to the label owner; masked sums with other providers. Learns: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gmpy2 import mpz
from phe import PaillierPublicKey

from protocols.binning.table import BinningTable
from protocols.errors import LocalProtocolError
from protocols.fixed_point import IntArray
from protocols.messages import require
from protocols.moments.layout import (
    ColumnLayout,
    MomentKind,
    exact_product,
    label_owner_layout,
    pair_layout,
    provider_layout,
)
from protocols.moments.messages import (
    VALUE_BYTES,
    CrossMoments,
    MaskedMoments,
    MomentShares,
    OwnMoments,
    WeightedRows,
)
from protocols.moments.pairs import (
    check_column_budget,
    key_owners,
    proof_context,
    receive_key,
    share_bytes,
    upper_triangle,
)
from protocols.moments.permission import MomentPermission
from protocols.paillier import (
    CiphertextReader,
    KeyPair,
    accumulate,
    from_bytes,
    generate_key_pair,
    public_key_to_bytes,
    seal,
    to_bytes,
    weighted_products,
)
from protocols.roles import Parties
from protocols.rows.encryption import RowMasks, receive_rows, send_rows
from protocols.rows.messages import PublicKey
from protocols.session import Progress, Script, receive, send
from protocols.sharing import Entropy, uniform_below

_GROUP = 24  # features, or pairs of features, accumulated between two reports of progress


class FeatureProvider:
    """A provider's part.

    Args: table: own bins; rows: keys and key length of this job; kind: whether the label owner's rows carry weights;
        context: what key proofs are bound to (contract hash and job).
    """

    def __init__(
        self,
        name: str,
        parties: Parties,
        *,
        table: BinningTable,
        rows: RowMasks,
        kind: MomentKind,
        permission: MomentPermission,
        context: bytes,
        entropy: Entropy,
        minimum_key_bits: int = 2048,
    ) -> None:
        if name not in parties.providers:
            raise LocalProtocolError("ROLE_INVALID", "this is the part of a feature provider")
        self._name = name
        self._parties = parties
        self._table = table
        self._rows = rows
        self._kind = kind
        self._permission = permission
        self._context = context
        self._entropy = entropy
        self._minimum_key_bits = minimum_key_bits
        self._n = table.rows
        self._key_bits = rows.layout.key_bits
        self._values = [feature.values.tolist() for feature in table.features]
        own = table.shape[parties.label_owner]
        smallest = min(min(feature.rows) for feature in table.features)
        check_column_budget(self._n, own, smallest, search=permission.search)
        self._owner_layout = label_owner_layout(kind, own, self._n, self._key_bits)

    def play(self) -> Script[None]:
        """Steps 1 to 7."""
        self._permission.spend(self._kind, [feature.name for feature in self._table.features])
        key = yield from self._send_own_rows()
        yield from self._answer_label_owner()
        for owner in self._before:
            yield from self._answer_provider(owner)
        if key is not None:
            for other in self._after:
                yield from self._open_masked(key, other)

    @property
    def _before(self) -> tuple[str, ...]:
        """The providers under whose keys this one multiplies."""
        return self._parties.providers[: self._parties.providers.index(self._name)]

    @property
    def _after(self) -> tuple[str, ...]:
        """The providers that multiply under this one's key."""
        return self._parties.providers[self._parties.providers.index(self._name) + 1 :]

    # -- own rows ---------------------------------------------------------------------------------------------------

    def _send_own_rows(self) -> Script[KeyPair | None]:
        """Steps 2 and 3: own columns encrypted, to whoever multiplies next: the label owner where there are weights.

        The key is a fresh one: whatever is multiplied under it opens to the label owner, so that nothing else may ever
        be encrypted under it. Nobody but the label owner sees a ciphertext both before and after it was weighted.
        """
        if self._name not in key_owners(self._parties):
            return None
        weighted = self._kind is MomentKind.WEIGHTED
        key = generate_key_pair(self._key_bits, self._entropy, minimum_bits=self._minimum_key_bits)
        proof = key.prove(proof_context(self._context, self._name))
        to = (self._parties.label_owner, *self._after) if weighted else self._after
        yield from send(to, PublicKey(public_key_to_bytes(key.public), proof))
        layout = self._layout_of(self._name)
        plaintexts = [row for part in layout.pack(self._table.design) for row in part]
        to = (self._parties.label_owner,) if weighted else self._after
        yield from send_rows(key, plaintexts, to, self._entropy)
        return key

    def _layout_of(self, party: str) -> ColumnLayout:
        return provider_layout(self._kind, self._table.shape[party], self._n, self._key_bits)

    # -- for the label owner ----------------------------------------------------------------------------------------

    def _answer_label_owner(self) -> Script[None]:
        """Step 5: only the bits of honest sums can be read, whatever the label owner encrypted."""
        owner, layout = self._parties.label_owner, self._owner_layout
        key = self._rows.keys[owner]
        rows = yield from receive_rows(owner, key, self._n * len(layout.parts))
        parts = [rows[p * self._n : (p + 1) * self._n] for p in range(len(layout.parts))]
        products = []
        for encrypted in parts:
            products.append((yield from self._feature_products(encrypted, key)))
        opened = [(product[j], p) for j in range(len(self._values)) for p, product in enumerate(products)]
        sealed = self._seal_opened([product for product, _ in opened], layout, [p for _, p in opened], key)
        features = len(self._values)
        yield from send(owner, CrossMoments(layout.columns, features, to_bytes(sealed, key)))
        own = yield from self._own_moments(parts[0], key)
        yield from send(owner, OwnMoments(features, own))

    def _feature_products(self, encrypted: Sequence[mpz], key: PaillierPublicKey) -> Script[list[mpz]]:
        """`[[ sum_i x_ij v_i ]]` of each own feature j."""
        result: list[mpz] = []
        for first in range(0, len(self._values), _GROUP):
            group = range(first, min(first + _GROUP, len(self._values)))
            codes = self._table.codes[:, group.start : group.stop]
            bins = accumulate(encrypted, codes, [len(self._values[j]) for j in group], key)
            result += weighted_products(bins, self._values[group.start : group.stop], key)
            yield Progress("multiplied features", len(result), len(self._values))
        return result

    def _own_moments(self, encrypted: Sequence[mpz], key: PaillierPublicKey) -> Script[bytes]:
        """The upper triangle: in the clear; or, where the weights are the label owner's, per pair of features the sum
        of `[[w_i]]`, the lowest slot of a row, over the cells of their contingency table.
        """
        pairs = upper_triangle(len(self._values))
        if self._kind is MomentKind.PLAIN:
            gram = exact_product(self._table.design, self._table.design)
            return b"".join(gram[j][i].to_bytes(VALUE_BYTES, "little", signed=True) for j, i in pairs)
        layout = pair_layout(self._n)
        sealed: list[mpz] = []
        for first in range(0, len(pairs), _GROUP):
            group = pairs[first : first + _GROUP]
            cells = [self._joint_cells(j, i) for j, i in group]
            codes = np.stack([column for column, _ in cells], axis=1)
            products = accumulate(encrypted, codes, [len(values) for _, values in cells], key)
            weighted = weighted_products(products, [values for _, values in cells], key)
            sealed += self._seal_opened(weighted, layout, [0] * len(group), key)
            yield Progress("multiplied pairs of features", len(sealed), len(pairs))
        return to_bytes(sealed, key)

    def _joint_cells(self, j: int, i: int) -> tuple[IntArray, list[int]]:
        """Cell of each row in the contingency table of two own features, and the product of their values in each."""
        if i == j:
            return self._table.codes[:, j], [x * x for x in self._values[j]]
        codes: IntArray = self._table.codes[:, j] * len(self._values[i]) + self._table.codes[:, i]
        return codes, [x * y for x in self._values[j] for y in self._values[i]]

    def _seal_opened(
        self, products: Sequence[mpz], layout: ColumnLayout, parts: Sequence[int], key: PaillierPublicKey
    ) -> list[mpz]:
        """Products that open to the label owner, under masks over all but the bits of honest sums."""
        added = [layout.mask(part, int(key.n), self._entropy) + layout.offset(part) for part in parts]
        return seal(products, added, key, self._entropy)

    # -- with another provider --------------------------------------------------------------------------------------

    def _answer_provider(self, owner: str) -> Script[None]:
        """Steps 6 and 7: own features times another provider's columns, masked for it; the masks to the label owner."""
        layout = self._layout_of(owner)
        key = yield from receive_key(owner, self._key_bits, self._context, self._minimum_key_bits)
        rows = yield from self._receive_columns(owner, key, self._n * len(layout.parts))
        products = []
        for part in range(len(layout.parts)):
            encrypted = rows[part * self._n : (part + 1) * self._n]
            products.append((yield from self._feature_products(encrypted, key)))
        opened: list[mpz] = []
        added: list[int] = []
        shares: list[bytes] = []
        for j in range(len(self._values)):
            for part, width in enumerate(share_bytes(layout)):
                mask = uniform_below(int(key.n), self._entropy)
                opened.append(products[part][j])
                added.append(mask + layout.offset(part))
                shares.append((mask % (1 << layout.opened_bits(part))).to_bytes(width, "little"))
        sealed = seal(opened, added, key, self._entropy)
        yield from send(owner, MaskedMoments(to_bytes(sealed, key)))
        yield from send(self._parties.label_owner, MomentShares(b"".join(shares)))

    def _receive_columns(self, owner: str, key: PaillierPublicKey, total: int) -> Script[list[mpz]]:
        """From the provider itself; weighted, from the label owner."""
        if self._kind is MomentKind.PLAIN:
            return (yield from receive_rows(owner, key, total))
        reader = CiphertextReader(key, total)
        ciphertexts: list[mpz] = []
        while len(ciphertexts) < total:
            message = yield from receive(self._parties.label_owner, WeightedRows)
            require(message.first == len(ciphertexts) and len(message.ciphertexts) > 0)
            ciphertexts += reader.read(message.ciphertexts)
            yield Progress("received weighted rows", len(ciphertexts), total)
        reader.finish()
        return ciphertexts

    def _open_masked(self, key: KeyPair, other: str) -> Script[None]:
        """Step 7: what is decrypted is uniform; its low bits are the label owner's other share."""
        layout = self._layout_of(self._name)
        message = yield from receive(other, MaskedMoments)
        count = self._table.shape[other] * len(layout.parts)
        values = key.decrypt(from_bytes(message.ciphertexts, count, key.public))
        widths = share_bytes(layout)
        shares = []
        for place, value in enumerate(values):
            part = place % len(widths)
            shares.append((value % (1 << layout.opened_bits(part))).to_bytes(widths[part], "little"))
        yield from send(self._parties.label_owner, MomentShares(b"".join(shares)))
