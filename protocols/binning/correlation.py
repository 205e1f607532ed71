"""The correlation filter: of two features whose WOE correlate, the one of higher IV stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocols.fixed_point import FloatArray, IntArray

LEAST_FEATURES = 3


def uncorrelated(design: IntArray, iv: Sequence[int], maximum: float, least: int = LEAST_FEATURES) -> list[int]:
    """Indices of the features of one party that stay, ascending.

    Args: design: WOE per row and feature, shape (n, d); iv: of each feature; maximum: largest |correlation| of two that
        stay; least: so many of highest IV stay in any case (PROTOCOLS.md section 3: d_P >= 3).

    >>> x = np.array([[0, 0, 5], [1, 2, 3], [2, 4, 4], [3, 6, 9]])
    >>> uncorrelated(x, [10, 20, 5], 0.9, least=1)
    [1, 2]
    """
    correlation = np.corrcoef(design.astype(np.float64), rowvar=False).reshape(len(iv), len(iv))
    rivals, held = stronger_rivals(correlation, iv, [""] * len(iv), maximum, least)
    return [j for j in range(len(iv)) if j not in rivals or j in held]


def stronger_rivals(
    correlation: FloatArray, iv: Sequence[int], owners: Sequence[str], maximum: float, least: int = LEAST_FEATURES
) -> tuple[dict[int, int], set[int]]:
    """Features that repeat a stronger one: each goes with the feature that stays and correlates most with it.

    From the highest IV down (of equal ones, the earlier place first), each feature is compared with those that stay.
    Args: correlation: shape (d, d), NaN for a constant column; owners: the party of each feature.
    Returns: feature -> its rival; and those of them that stay all the same: a party keeps `least` of highest IV.

    >>> r = np.array([[1.0, 0.95, 0.1], [0.95, 1.0, 0.2], [0.1, 0.2, 1.0]])
    >>> stronger_rivals(r, [10, 20, 5], ["bank", "bureau", "bank"], 0.9, least=1)
    ({0: 1}, set())
    """
    size = np.abs(correlation)
    by_iv = sorted(range(len(iv)), key=lambda j: (-iv[j], j))
    kept: list[int] = []
    rivals: dict[int, int] = {}
    for j in by_iv:
        near = [other for other in kept if size[j, other] > maximum]
        if near:
            rivals[j] = max(near, key=lambda other: float(size[j, other]))
        else:
            kept.append(j)
    held: set[int] = set()
    for j in by_iv:
        if j in rivals and sum(owners[other] == owners[j] for other in kept) < least:
            kept.append(j)
            held.add(j)
    return rivals, held
