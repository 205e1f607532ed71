"""Second moments: label owner.

Source: PROTOCOLS.md section 4, docs/protocols/moments.md. Sends: its columns a row under its own key; a provider's
encrypted rows, weighted, to another. Learns: X^T X, or X^T W X and X^T W y_w, over the columns of all parties, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from protocols.binning.table import BinningTable, PeerFeature
from protocols.binning.weight_of_evidence import feature_values
from protocols.disclosure import Learned
from protocols.errors import LocalProtocolError
from protocols.fixed_point import FEATURE_BITS, FloatArray, IntArray
from protocols.messages import require
from protocols.moments.layout import (
    WEIGHT_BITS,
    ColumnLayout,
    MomentKind,
    WorkingResponse,
    design_with_intercept,
    exact_product,
    label_owner_layout,
    pair_layout,
    provider_layout,
)
from protocols.moments.messages import VALUE_BYTES, CrossMoments, MomentShares, OwnMoments, WeightedRows
from protocols.moments.pairs import (
    check_column_budget,
    key_owners,
    provider_pairs,
    receive_key,
    share_bytes,
    upper_triangle,
)
from protocols.moments.permission import MomentPermission
from protocols.montgomery import modulus_of
from protocols.paillier import CiphertextReader, KeyPair, from_bytes, to_bytes
from protocols.roles import Parties
from protocols.rows.encryption import RowMasks, send_rows
from protocols.rows.messages import EncryptedRows
from protocols.session import Opened, Progress, Script, receive, send
from protocols.sharing import Entropy

_ONE = 1 << FEATURE_BITS  # the intercept's value in every row


@dataclass(frozen=True)
class Moments:
    """Exact second moments over [1, X_A, X_H1, ..., X_Hk], every column an integer at 2^16, the intercept's 2^16.

    columns: (party, index of its model feature), the first ('', 0) for the intercept; gram: X^T X, or X^T W X with
    weights at 2^weight_bits; response: X^T W y_w with w y_w at 2^weight_bits, or None without weights.
    """

    kind: MomentKind
    rows: int
    columns: tuple[tuple[str, int], ...]
    gram: tuple[tuple[int, ...], ...] = field(repr=False)
    response: tuple[int, ...] | None = field(default=None, repr=False)
    weight_bits: int = WEIGHT_BITS

    @property
    def matrix(self) -> FloatArray:
        """X^T X or X^T W X in units of WOE, shape (D, D)."""
        scale = 1 << (2 * FEATURE_BITS + (self.weight_bits if self.kind is MomentKind.WEIGHTED else 0))
        return np.array([[value / scale for value in row] for row in self.gram])

    @property
    def response_vector(self) -> FloatArray:
        """X^T W y_w in units of WOE, shape (D,).

        Raises: LocalProtocolError MOMENTS_KIND: moments without weights have none.
        """
        if self.response is None:
            raise LocalProtocolError("MOMENTS_KIND", "moments without weights have no working response")
        return np.array([value / (1 << (FEATURE_BITS + self.weight_bits)) for value in self.response])


class LabelOwner:
    """The label owner's part.

    Args: table: own bins and what is known of the providers'; rows: keys and key length of this job; working: of the
        final fit, or None for moments without weights; context: what key proofs are bound to (contract hash and job).
    """

    def __init__(
        self,
        parties: Parties,
        *,
        table: BinningTable,
        rows: RowMasks,
        permission: MomentPermission,
        context: bytes,
        entropy: Entropy,
        working: WorkingResponse | None = None,
        minimum_key_bits: int = 2048,
    ) -> None:
        if rows.own_key is None:
            raise LocalProtocolError("ROLE_INVALID", "the label owner brings its key pair")
        if working is not None and len(working.weights) != table.rows:
            raise LocalProtocolError("LOGITS_INVALID", "the working response needs one weight a training row")
        self._parties = parties
        self._me = parties.label_owner
        self._table = table
        self._key: KeyPair = rows.own_key
        self._permission = permission
        self._context = context
        self._entropy = entropy
        self._minimum_key_bits = minimum_key_bits
        self._working = working
        self._kind = MomentKind.PLAIN if working is None else MomentKind.WEIGHTED
        self._key_bits = rows.layout.key_bits
        self._design = table.design
        own = table.shape[self._me]
        self._layout = label_owner_layout(self._kind, own, table.rows, self._key_bits)
        for party in parties.providers:
            smallest = min(min(feature.rows) for feature in table.peers[party])
            check_column_budget(table.rows, own, smallest, search=permission.search)
        columns = [("", 0)]
        for party in parties.all:
            columns += [(party, j) for j in range(table.shape[party])]
        self._columns = tuple(columns)
        self._places = {column: place for place, column in enumerate(columns)}
        self._gram = [[0] * len(columns) for _ in columns]
        self._response = [0] * len(columns)

    def play(self) -> Script[Moments]:
        """Steps 1 to 7."""
        self._permission.spend(self._kind, [feature.name for feature in self._table.features])
        self._fill_own_block()
        plaintexts = [row for part in self._layout.pack(self._own_columns()) for row in part]
        yield from send_rows(self._key, plaintexts, self._parties.providers, self._entropy)
        yield from self._weigh_providers_rows()
        for party in self._parties.providers:
            yield from self._receive_blocks(party)
        yield from self._receive_pairs()
        self._check_gram()
        gram = tuple(map(tuple, self._gram))
        if self._working is None:
            return Moments(self._kind, self._table.rows, self._columns, gram)
        response = tuple(self._response)
        return Moments(self._kind, self._table.rows, self._columns, gram, response, self._working.bits)

    # -- own columns ------------------------------------------------------------------------------------------------

    def _own_columns(self) -> IntArray:
        """What is encrypted: X_A; or w, w X_A, w y_w; shape (n, columns)."""
        if self._working is None:
            return self._design
        w = self._working.weights[:, None]
        return np.concatenate([w, w * self._design, self._working.responses[:, None]], axis=1)

    def _fill_own_block(self) -> None:
        own = design_with_intercept(self._design)
        weighted = own if self._working is None else own * self._working.weights[:, None]
        for i, row in enumerate(exact_product(own, weighted)):
            for j, value in enumerate(row):
                self._gram[i][j] = value
        if self._working is not None:
            for i, (value,) in enumerate(exact_product(own, self._working.responses[:, None])):
                self._response[i] = value

    # -- weighting the rows of providers ----------------------------------------------------------------------------

    def _weigh_providers_rows(self) -> Script[None]:
        """Step 4: the rows of each key owner, weighted, to the providers after it."""
        if self._working is None:
            return
        weights = self._working.weights.tolist()
        for owner in key_owners(self._parties):
            key = yield from receive_key(owner, self._key_bits, self._context, self._minimum_key_bits)
            others = self._parties.providers[self._parties.providers.index(owner) + 1 :]
            total = self._table.rows * len(self._provider_layout(owner).parts)
            reader = CiphertextReader(key, total)
            modulus, done = modulus_of(key.nsquare), 0
            while done < total:
                message = yield from receive(owner, EncryptedRows)
                require(message.first == done and len(message.ciphertexts) > 0)
                ciphertexts = reader.read(message.ciphertexts)
                of_rows = [weights[place % len(weights)] for place in range(done, done + len(ciphertexts))]
                weighted = modulus.powers(ciphertexts, of_rows)
                yield from send(others, WeightedRows(done, to_bytes(weighted, key)))
                done += len(ciphertexts)
                yield Progress("weighted rows", done, total)
            reader.finish()

    def _provider_layout(self, party: str) -> ColumnLayout:
        return provider_layout(self._kind, self._table.shape[party], self._table.rows, self._key_bits)

    # -- what opens -------------------------------------------------------------------------------------------------

    def _receive_blocks(self, party: str) -> Script[None]:
        """Step 5: own columns times the provider's features; the provider's features among themselves."""
        features = self._table.shape[party]
        cross = yield from receive(party, CrossMoments)
        require(cross.columns == self._layout.columns and cross.features == features)
        parts = len(self._layout.parts)
        values = self._key.decrypt(from_bytes(cross.ciphertexts, features * parts, self._key.public))
        for j in range(features):
            sums = [s for p in range(parts) for s in self._layout.sums(p, values[j * parts + p])]
            self._place_cross(party, j, sums)
        own = yield from receive(party, OwnMoments)
        require(own.features == features)
        for (j, i), value in zip(upper_triangle(features), self._read_own(own, features), strict=True):
            self._place((party, j), (party, i), value)
        if self._working is None:
            self._check_against_counts(party, self._table.peers[party])

    def _place_cross(self, party: str, feature: int, sums: list[int]) -> None:
        there = (party, feature)
        if self._working is not None:
            self._response[self._places[there]] = sums.pop()
            self._place(("", 0), there, _ONE * sums.pop(0))
        else:
            peer = self._table.peers[party][feature]
            values = feature_values(peer.woe).tolist()
            self._place(("", 0), there, _ONE * sum(n * x for n, x in zip(peer.rows, values, strict=True)))
        for a, value in enumerate(sums):
            self._place((self._me, a), there, value)

    def _read_own(self, message: OwnMoments, features: int) -> list[int]:
        count = features * (features + 1) // 2
        if self._working is None:
            require(len(message.values) == count * VALUE_BYTES)
            starts = range(0, len(message.values), VALUE_BYTES)
            return [int.from_bytes(message.values[at : at + VALUE_BYTES], "little", signed=True) for at in starts]
        layout = pair_layout(self._table.rows)
        values = self._key.decrypt(from_bytes(message.values, count, self._key.public))
        return [layout.sums(0, value)[0] for value in values]

    def _check_against_counts(self, party: str, peers: tuple[PeerFeature, ...]) -> None:
        """The squares follow from the rows of each bin, which the label owner knows."""
        for j, peer in enumerate(peers):
            place = self._places[party, j]
            values = feature_values(peer.woe).tolist()
            require(self._gram[place][place] == sum(n * x * x for n, x in zip(peer.rows, values, strict=True)))

    def _receive_pairs(self) -> Script[None]:
        """Step 7: two shares of each block of two providers."""
        numbers = 0
        for owner, other in provider_pairs(self._parties):
            layout = self._provider_layout(owner)
            masks = yield from receive(other, MomentShares)
            sums = yield from receive(owner, MomentShares)
            features = self._table.shape[other]
            for message in (masks, sums):
                require(len(message.values) == features * sum(share_bytes(layout)))
            at = 0
            for j in range(features):
                column = 0
                for part, width in enumerate(share_bytes(layout)):
                    mask, masked = (int.from_bytes(m.values[at : at + width], "little") for m in (masks, sums))
                    at += width
                    for value in layout.sums(part, (masked - mask) % (1 << layout.opened_bits(part))):
                        self._place((owner, column), (other, j), value)
                        column += 1
            numbers += features * layout.columns
        if numbers:
            yield Opened((Learned("exact second moments between model features of two providers", numbers),))

    def _place(self, a: tuple[str, int], b: tuple[str, int], value: int) -> None:
        i, j = self._places[a], self._places[b]
        self._gram[i][j] = self._gram[j][i] = value

    def _check_gram(self) -> None:
        """Every moment obeys Cauchy and Schwarz: what no columns can give was not computed as agreed."""
        diagonal = [row[i] for i, row in enumerate(self._gram)]
        require(all(value >= 0 for value in diagonal))
        for i, row in enumerate(self._gram):
            require(all(value * value <= diagonal[i] * diagonal[j] for j, value in enumerate(row)))
