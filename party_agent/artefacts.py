"""Artefacts of stages as JSON header and blobs, for checkpoints: the inverse of each other, field by field."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray
from phe import PaillierPublicKey

from party_agent.checkpoint import Blobs, pack_array, unpack_array
from protocols.binning.prebins import PreBinning
from protocols.binning.rules import MergeRule
from protocols.binning.table import (
    BinDigits,
    BinnedFeature,
    BinningTable,
    Counted,
    DroppedFeature,
    DroppedPeer,
    PeerFeature,
)
from protocols.fixed_point import SlotLayout
from protocols.logistic.party import Coefficients
from protocols.paillier import KeyPair, ciphertext_bytes, public_key_to_bytes, to_bytes
from protocols.psi.alignment import Alignment
from protocols.rows.encryption import RowMasks

Stored = tuple[dict[str, Any], dict[str, bytes]]


def alignment_to(value: Alignment) -> Stored:
    """An alignment; its rows are positions in this party's own file."""
    header = {
        "training_rows": value.training_rows,
        "pairwise_sizes": dict(value.pairwise_sizes),
        "set_sizes": dict(value.set_sizes),
    }
    return header, {"rows": pack_array(value.rows)}


def alignment_from(header: dict[str, Any], blobs: Blobs) -> Alignment:
    """Inverse of `alignment_to`."""
    return Alignment(unpack_array(blobs["rows"]), **header)


def rows_to(value: RowMasks) -> Stored:
    """Encrypted rows, public keys and, at a share holder, its key pair and masks."""
    header = {
        "rows": value.layout.rows,
        "key_bits": value.layout.key_bits,
        "weighted": value.layout.weighted,
        "features": dict(value.features),
        "owners": sorted(value.keys),
        "encrypted": sorted(value.encrypted),
        "holds_key": value.own_key is not None,
    }
    blobs = {f"key {owner}": public_key_to_bytes(key) for owner, key in value.keys.items()}
    blobs |= {f"rows {owner}": to_bytes(rows, value.keys[owner]) for owner, rows in value.encrypted.items()}
    if value.own_key is not None and value.masks is not None:
        blobs |= {"secret": value.own_key.secret_bytes(), "masks": pack_array(value.masks)}
    return header, blobs


def rows_from(header: dict[str, Any], blobs: Blobs) -> RowMasks:
    """Inverse of `rows_to`. The ciphertexts were checked when they arrived."""
    keys = {owner: PaillierPublicKey(int.from_bytes(blobs[f"key {owner}"], "little")) for owner in header["owners"]}
    held = header["holds_key"]
    return RowMasks(
        SlotLayout.of_job(header["rows"], header["key_bits"], weighted=header["weighted"]),
        header["features"],
        keys,
        {owner: _ciphertexts(blobs[f"rows {owner}"], keys[owner]) for owner in header["encrypted"]},
        KeyPair.from_secret_bytes(blobs["secret"], header["key_bits"]) if held else None,
        unpack_array(blobs["masks"]) if held else None,
    )


def _ciphertexts(data: bytes, key: PaillierPublicKey) -> list[mpz]:
    size = ciphertext_bytes(key)
    return [gmpy2.mpz.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]


def table_to(value: BinningTable) -> Stored:
    """A party's part of the binning, with the digits that the fit needs."""
    header = {
        "rows": value.rows,
        "bads": value.bads,
        "features": [asdict(feature) | {"binning": feature.binning.to_json()} for feature in value.features],
        "dropped": [asdict(item) for item in value.dropped],
        "shape": dict(value.shape),
        "digits": {party: [texts(item) for item in digits.digits] for party, digits in value.digits.items()},
        "peers": {party: [asdict(item) for item in items] for party, items in value.peers.items()},
        "label_cost": value.label_cost,
        "label_budget": value.label_budget,
        "dropped_peers": {party: [asdict(item) for item in items] for party, items in value.dropped_peers.items()},
        "unresolved": value.unresolved,
        "counted": {alias: _counted_to(counted) for alias, counted in value.counted.items()},
        "prebin_masks": [texts(item) for item in value.prebin_masks],
    }
    return header, {"codes": pack_array(value.codes)}


def table_from(header: dict[str, Any], blobs: Blobs) -> BinningTable:
    """Inverse of `table_to`."""
    return BinningTable(
        rows=header["rows"],
        bads=header["bads"],
        features=tuple(
            BinnedFeature(**(tuples(item) | {"binning": PreBinning.from_json(item["binning"])}))
            for item in header["features"]
        ),
        dropped=tuple(DroppedFeature(**item) for item in header["dropped"]),
        codes=unpack_array(blobs["codes"]),
        shape=header["shape"],
        digits={party: BinDigits(tuple(map(integers, items))) for party, items in header["digits"].items()},
        peers={party: tuple(PeerFeature(**tuples(item)) for item in items) for party, items in header["peers"].items()},
        label_cost=header["label_cost"],
        label_budget=header["label_budget"],
        dropped_peers={
            party: tuple(DroppedPeer(**item) for item in items) for party, items in header["dropped_peers"].items()
        },
        unresolved=header["unresolved"],
        counted={alias: _counted_from(item) for alias, item in header["counted"].items()},
        prebin_masks=tuple(map(integers, header["prebin_masks"])),
    )


def bins_identity(value: BinningTable) -> list[Any]:
    """What tells, at the label owner, that numbers of a checkpoint are of these model features and bins."""
    own = [[feature.alias, list(feature.woe), list(feature.rows)] for feature in value.features]
    return own + [[p.alias, list(p.woe), list(p.rows)] for peers in value.peers.values() for p in peers]


def _counted_to(value: Counted) -> dict[str, Any]:
    """A feature at the gate."""
    return {
        **vars(value),
        "rule": asdict(value.rule),
        "digits": None if value.digits is None else texts(value.digits),
    }


def _counted_from(item: dict[str, Any]) -> Counted:
    rule, digits = MergeRule(**tuples(item["rule"])), item["digits"]
    return Counted(**(tuples(item) | {"rule": rule, "digits": None if digits is None else integers(digits)}))


def texts(array: NDArray[np.object_]) -> list[list[str]]:
    """Integers of any size, shape (m, k)."""
    return [[str(value) for value in row] for row in array.tolist()]


def integers(rows: list[list[str]]) -> NDArray[np.object_]:
    """Inverse of `texts`."""
    return np.array([[int(value) for value in row] for row in rows], dtype=object)


def coefficients_to(value: Coefficients) -> Stored:
    """A party's own part of the fit."""
    header = {key: item for key, item in vars(value).items() if key != "weights"}
    return header, {"weights": pack_array(value.weights)}


def coefficients_from(header: dict[str, Any], blobs: Blobs) -> Coefficients:
    """Inverse of `coefficients_to`."""
    return Coefficients(weights=unpack_array(blobs["weights"]), **header)


def tuples(item: dict[str, Any]) -> dict[str, Any]:
    """The fields of a stored dataclass, whose lists were tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
