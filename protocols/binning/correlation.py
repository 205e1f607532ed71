"""The correlation filter inside one party: of two features whose WOE correlate, the one of higher IV stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protocols.fixed_point import IntArray

LEAST_FEATURES = 3


def uncorrelated(design: IntArray, iv: Sequence[int], maximum: float, least: int = LEAST_FEATURES) -> list[int]:
    """Indices of the features that stay, ascending.

    Args: design: WOE per row and feature, shape (n, d); iv: of each feature; maximum: largest |correlation| of two that
        stay; least: so many of highest IV stay in any case (PROTOCOLS.md section 3: d_P >= 3).

    >>> x = np.array([[0, 0, 5], [1, 2, 3], [2, 4, 4], [3, 6, 9]])
    >>> uncorrelated(x, [10, 20, 5], 0.9, least=1)
    [1, 2]
    """
    correlation = np.abs(np.corrcoef(design.astype(np.float64), rowvar=False)).reshape(len(iv), len(iv))
    by_iv = sorted(range(len(iv)), key=lambda j: (-iv[j], j))
    kept: list[int] = []
    for j in by_iv:
        if all(not correlation[j, other] > maximum for other in kept):
            kept.append(j)
    for j in by_iv:
        if len(kept) >= least:
            break
        if j not in kept:
            kept.append(j)
    return sorted(kept)
