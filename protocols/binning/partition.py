"""The best partition of a row of pre-bins into neighbours, exactly, by a dynamic programme.

Source: Navas-Palencia 2020, Optimal binning: mathematical programming formulation (arXiv:2001.08025), whose problem for
a binary target this solves: most information value, or most even sizes, under a trend of the bad rate, a most number of
bins and least counts of each. With at most 20 pre-bins every partition's last two bins can be gone through, so that no
solver is needed and the same counts give the same bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from protocols.binning.rules import Trend

Segment = tuple[int, int]  # pre-bins first..stop-1
_State = tuple[int, int, int]  # first, stop and phase of the last segment
_Layer = dict[_State, tuple[float, _State | None]]  # the value up to there, and the state before it
_EQUAL = 1e-12  # values closer than this are equal: the partition with fewer bins is taken
_PHASES = {
    Trend.NONE: (0,),
    Trend.ASCENDING: (1,),
    Trend.DESCENDING: (-1,),
    Trend.PEAK: (1, -1),
    Trend.VALLEY: (-1, 1),
}


def best_partition(
    rows: Sequence[int],
    bads: Sequence[int],
    value: Callable[[int, int], float],
    sound: Callable[[int, int], bool],
    *,
    most: int,
    trend: Trend = Trend.NONE,
) -> list[Segment] | None:
    """The partition into at most `most` sound segments of the greatest total value; None if there is none.

    A trend is not strict: neighbours may have equal bad rates, and a peak or valley may lie at an end. Of partitions of
    equal value the one of fewer segments, then the one found first, is taken; for `AUTO` ascending goes first.

    Args: rows, bads: counts per pre-bin, every row count positive; value, sound: of the rows and bads of a segment.

    >>> even = lambda n, k: -float(n * n)
    >>> best_partition([4, 1, 2, 3], [0] * 4, even, lambda n, k: True, most=2)
    [(0, 2), (2, 4)]
    """
    if trend is Trend.AUTO:
        ways = [
            best_partition(rows, bads, value, sound, most=most, trend=way)
            for way in (Trend.ASCENDING, Trend.DESCENDING)
        ]
        found = [way for way in ways if way is not None]
        totals = _sums(rows), _sums(bads)
        return max(found, key=lambda way: (_total(way, totals, value), -len(way)), default=None)
    return _Programme(rows, bads, value, sound, _PHASES[trend]).solve(most)


class _Programme:
    """States are last segments with their phase of the trend; a layer has those of so many segments."""

    def __init__(
        self,
        rows: Sequence[int],
        bads: Sequence[int],
        value: Callable[[int, int], float],
        sound: Callable[[int, int], bool],
        phases: Sequence[int],
    ) -> None:
        self._size = len(rows)
        self._phases = phases
        row_sums, bad_sums = _sums(rows), _sums(bads)
        self._counts: dict[Segment, tuple[int, int]] = {}
        self._values: dict[Segment, float] = {}
        for first in range(self._size):
            for stop in range(first + 1, self._size + 1):
                n, k = row_sums[stop] - row_sums[first], bad_sums[stop] - bad_sums[first]
                if sound(n, k):
                    self._counts[first, stop] = (n, k)
                    self._values[first, stop] = value(n, k)

    def solve(self, most: int) -> list[Segment] | None:
        layers: list[_Layer] = [
            {(first, stop, 0): (self._values[first, stop], None) for first, stop in self._counts if first == 0}
        ]
        best: tuple[float, int, _State] | None = None
        for count in range(1, most + 1):
            for state, (total, _) in layers[-1].items():
                if state[1] == self._size and (best is None or total > best[0] + _EQUAL):
                    best = (total, count, state)
            if count < most:
                layers.append(self._longer(layers[-1]))
        if best is None:
            return None
        _, count, last = best
        segments = []
        state_now: _State | None = last
        for back in reversed(layers[:count]):
            if state_now is None:
                break
            segments.append((state_now[0], state_now[1]))
            state_now = back[state_now][1]
        return segments[::-1]

    def _longer(self, layer: _Layer) -> _Layer:
        """Every partition of the layer, with a segment more."""
        longer: _Layer = {}
        for state, (total, _) in layer.items():
            first, middle, phase = state
            n_left, k_left = self._counts[first, middle]
            for stop in range(middle + 1, self._size + 1):
                if (middle, stop) not in self._counts:
                    continue
                n, k = self._counts[middle, stop]
                rise = k * n_left - k_left * n  # sign of the change of the bad rate, exact
                value = total + self._values[middle, stop]
                for later in range(phase, min(phase + 2, len(self._phases))):
                    target = (middle, stop, later)
                    if rise * self._phases[later] < 0:
                        continue
                    if target not in longer or value > longer[target][0] + _EQUAL:
                        longer[target] = (value, state)
        return longer


def information(rows: int, bads: int, total_rows: int, total_bads: int) -> float:
    """A bin's part of the information value, (share of goods - share of bads) ln(their ratio); it has both."""
    goods, total_goods = rows - bads, total_rows - total_bads
    return (goods / total_goods - bads / total_bads) * math.log((goods * total_bads) / (bads * total_goods))


def _total(segments: Sequence[Segment], sums: tuple[list[int], list[int]], value: Callable[[int, int], float]) -> float:
    rows, bads = sums
    return round(sum(value(rows[stop] - rows[first], bads[stop] - bads[first]) for first, stop in segments), 12)


def _sums(counts: Sequence[int]) -> list[int]:
    sums = [0]
    for count in counts:
        sums.append(sums[-1] + int(count))
    return sums
