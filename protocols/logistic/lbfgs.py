"""Vector-free L-BFGS: each party keeps its block of the history, all compute the same direction from inner products.

Source: Chen, Wang, Zhou, "Large-scale L-BFGS using MapReduce", NIPS 2014 (vector-free two-loop recursion); Nocedal &
Wright, Numerical Optimization, algorithm 7.4. The initial matrix is block-diagonal: each party's own
M_P = (p (1 - p) X_P^T X_P + lambda I)^-1, so that H_0 g needs no communication.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from protocols.errors import ModelError, RemoteProtocolError
from protocols.fixed_point import FloatArray

PRODUCT_BITS = 64  # fraction bits of an opened inner product
PRODUCT_LIMIT = 2.0**61


@dataclass
class GramMatrix:
    """The opened inner products of the pairs (s_i, y_i) kept so far, and of the newest gradient.

    sy[i][j] = s_i . y_j; ymy[i][j] = y_i . M y_j; sg[i] = s_i . g; ymg[i] = y_i . M g; gmg = g . M g.
    """

    sy: list[list[float]] = field(default_factory=list)
    ymy: list[list[float]] = field(default_factory=list)
    sg: list[float] = field(default_factory=list)
    ymg: list[float] = field(default_factory=list)
    gmg: float = 0.0

    def direction(self) -> Direction:
        """Coefficients of -H g in the basis of s_i, M y_i and M g, in plain floats and one fixed order."""
        count = len(self.sg)
        alpha = [0.0] * count
        for i in reversed(range(count)):
            product = self.sg[i]
            for j in range(i + 1, count):
                product -= alpha[j] * self.sy[i][j]
            alpha[i] = product / self.sy[i][i]
        correction = [0.0] * count
        for i in range(count):
            product = self.ymg[i]
            for j in range(count):
                product -= alpha[j] * self.ymy[i][j]
            for j in range(i):
                product += correction[j] * self.sy[j][i]
            correction[i] = alpha[i] - product / self.sy[i][i]
        return Direction(tuple(-c for c in correction), tuple(alpha), -1.0)

    def copy(self) -> GramMatrix:
        """A Gram matrix of its own."""
        return GramMatrix(
            [list(row) for row in self.sy], [list(row) for row in self.ymy], list(self.sg), list(self.ymg), self.gmg
        )

    def forget(self, pair: int) -> None:
        """Remove one pair."""
        for matrix in (self.sy, self.ymy):
            del matrix[pair]
            for row in matrix:
                del row[pair]
        del self.sg[pair], self.ymg[pair]


@dataclass(frozen=True)
class Direction:
    """-H g = sum_i s[i] s_i + sum_i my[i] M y_i + mg M g."""

    s: tuple[float, ...]
    my: tuple[float, ...]
    mg: float


class Block:
    """One party's block of weights, gradient and history. All vectors have shape (d,)."""

    def __init__(self, preconditioner: FloatArray, start: FloatArray) -> None:
        self.preconditioner = preconditioner
        self.weights = start.copy()
        self._before: tuple[FloatArray, FloatArray] | None = None  # weights and gradient of the last iteration
        self._s: list[FloatArray] = []
        self._y: list[FloatArray] = []
        self._my: list[FloatArray] = []
        self._gradient = np.zeros_like(start)
        self._mg = np.zeros_like(start)

    def going_on(self, start: FloatArray) -> Block:
        """A block of its own with the history of this one, at other weights."""
        block = Block(self.preconditioner, start)
        block._s, block._y, block._my = list(self._s), list(self._y), list(self._my)
        return block

    def take_gradient(self, gradient: FloatArray, *, keep_pair: bool) -> None:
        """The gradient block at the present weights; forms the newest pair unless it spans a change of the sigmoid."""
        if self._before is not None and keep_pair:
            self._s.append(self.weights - self._before[0])
            self._y.append(gradient - self._before[1])
            self._my.append(self.preconditioner @ self._y[-1])
        self._gradient = gradient
        self._mg = self.preconditioner @ gradient
        self._before = (self.weights.copy(), gradient)

    def parts(self, pairs: int) -> list[float]:
        """This party's parts of the new inner products, in the order in which `absorb` reads their sums.

        pairs: pairs in the Gram matrix so far; if the block has one more, its products come along.
        """
        products = [_dot(self._gradient, self._mg)]
        for s, y in zip(self._s, self._y, strict=True):
            products += [_dot(s, self._gradient), _dot(y, self._mg)]
        if len(self._s) > pairs:
            for s, y, my in zip(self._s, self._y, self._my, strict=True):
                products += [_dot(self._s[-1], y), _dot(s, self._y[-1]), _dot(self._y[-1], my)]
        return products

    def forget(self, pair: int) -> None:
        """Remove one pair."""
        del self._s[pair], self._y[pair], self._my[pair]

    def step(self, direction: Direction, scale: float) -> None:
        """Move the weights by `scale` times the direction."""
        move = direction.mg * self._mg
        for c, s in zip(direction.s, self._s, strict=True):
            move = move + c * s
        for c, my in zip(direction.my, self._my, strict=True):
            move = move + c * my
        self.weights = self.weights + scale * move

    def halve_step(self) -> None:
        """Go back half of the last step."""
        if self._before is None:
            raise ModelError("LOGITS_OUT_OF_RANGE", "the start of the fit lies outside the range of the sigmoid")
        self.weights = self._before[0] + 0.5 * (self.weights - self._before[0])


def absorb(gram: GramMatrix, sums: Sequence[float], *, new_pair: bool) -> None:
    """Take the opened sums of `Block.parts` into the Gram matrix."""
    count = len(gram.sg) + new_pair
    expected = 1 + 2 * count + (3 * count if new_pair else 0)
    if len(sums) != expected:
        raise RemoteProtocolError("CHECK_FAILED", "a check on a message of a peer failed and the job was ended")
    gram.gmg = sums[0]
    gram.sg = list(sums[1 : 1 + 2 * count : 2])
    gram.ymg = list(sums[2 : 2 + 2 * count : 2])
    if new_pair:
        newest = sums[1 + 2 * count :]
        s_new_y, s_y_new, y_new_my = newest[0::3], newest[1::3], newest[2::3]
        for j in range(count - 1):
            gram.sy[j].append(s_y_new[j])
            gram.ymy[j].append(y_new_my[j])
        gram.sy.append(list(s_new_y))
        gram.ymy.append(list(y_new_my))


def _dot(a: FloatArray, b: FloatArray) -> float:
    return math.fsum((a * b).tolist())
