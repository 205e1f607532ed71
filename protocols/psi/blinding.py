"""What both roles of the intersection do with ids and points: hash, blind, and check what a peer blinded."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

from protocols.errors import LocalProtocolError, SmallIntersectionError
from protocols.group import SUITE, Blinder, check_points, hash_to_curve_x
from protocols.messages import require
from protocols.psi.alignment import IntArray
from protocols.psi.identifiers import all_canonical
from protocols.session import Progress, Script

LARGEST_SET = 2**32 - 1  # positions travel as uint32; the contract's cap is far below
_PROGRESS_EVERY = 1000


class Context(NamedTuple):
    """What a run is bound to: the hash of the signed contract and the job id."""

    contract_hash: bytes
    job: str


def dst(contract_hash: bytes, job: str, pair: tuple[str, str]) -> bytes:
    """Domain separation tag of one pair (label owner, provider) in one run: the same id elsewhere is another point."""
    digest = hashlib.sha256()
    for part in (contract_hash, job.encode(), pair[0].encode(), pair[1].encode()):
        digest.update(len(part).to_bytes(8, "big") + part)
    return b"CONCORDAT-V01-PSI-with-" + SUITE + digest.digest()


def check_own_ids(ids: Sequence[str]) -> None:
    """Raise LocalProtocolError unless `ids` are canonical, not empty and distinct; the dataset sees to that."""
    if len(set(ids)) != len(ids) or not all_canonical(ids):
        raise LocalProtocolError("IDS_NOT_CANONICAL", "ids must be canonical, not empty and distinct before alignment")


def check_size(rows: int, minimum_intersection: int) -> None:
    """Raise SmallIntersectionError if the rows that all parties share are too few; none at all is always too few."""
    if rows < max(1, minimum_intersection):
        raise SmallIntersectionError(
            "SMALL_INTERSECTION",
            f"the parties have {rows} rows in common, fewer than the {minimum_intersection} that the contract demands",
            "check that all parties use the same kind of id and the same population",
        )


def blind_ids(ids: Sequence[str], order: IntArray, tag: bytes, blinder: Blinder) -> Script[list[bytes]]:
    """Own ids, hashed to the curve and blinded, in `order` (a permutation of their positions)."""
    points: list[bytes] = []
    for position in order.tolist():
        points.append(blinder.blind(hash_to_curve_x(ids[position].encode(), tag)))
        if len(points) % _PROGRESS_EVERY == 0:
            yield Progress("own ids blinded", len(points), len(ids))
    return points


def blind_points(points: Sequence[bytes], blinder: Blinder) -> Script[list[bytes]]:
    """A peer's points, blinded once more, in the same order.

    Raises: RemoteProtocolError: an output is all zero, or two are equal (points that differ by one of low order).
    """
    blinded: list[bytes] = []
    for point in points:
        blinded.append(blinder.blind(point))
        if len(blinded) % _PROGRESS_EVERY == 0:
            yield Progress("ids of a peer blinded", len(blinded), len(points))
    require(len(set(blinded)) == len(blinded))
    return blinded


def received_points(data: bytes, own: Collection[bytes], max_count: int) -> list[bytes]:
    """The points in a peer's `data`, none of which may be one of our `own`, sent or about to be (reflection).

    Raises: RemoteProtocolError: a failed check.
    """
    points = check_points(data, max_count)
    require(set(points).isdisjoint(own))
    return points
