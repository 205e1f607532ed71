"""Vector-free L-BFGS against the textbook recursion on the whole vector, whatever the cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.errors import ModelError, RemoteProtocolError
from protocols.logistic.lbfgs import Block, GramMatrix, absorb

Floats = NDArray[np.float64]


def two_loops(g: Floats, pairs: list[tuple[Floats, Floats]], m: Floats) -> Floats:
    """-H g, Nocedal & Wright, algorithm 7.4, with the initial matrix m."""
    q, alphas = g.copy(), []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    r = m @ q
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        r += s * (alpha - y @ r / (s @ y))
    return -r


class Fit:
    """Blocks over a quadratic 1/2 w^T A w - c^T w, which opens sums of inner products only."""

    def __init__(self, sizes: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        d = sum(sizes)
        root = rng.normal(size=(d, d))
        self.a, self.c = root @ root.T + np.eye(d), rng.normal(size=d)
        self.cuts = np.cumsum(sizes)[:-1]
        parts = [slice(end - size, end) for end, size in zip(np.cumsum(sizes), sizes, strict=True)]
        self.blocks = [Block(np.linalg.inv(self.a[part, part]), np.zeros(part.stop - part.start)) for part in parts]
        self.m = np.zeros((d, d))
        for part, block in zip(parts, self.blocks, strict=True):
            self.m[part, part] = block.preconditioner
        self.gram = GramMatrix()

    @property
    def w(self) -> Floats:
        return np.concatenate([block.weights for block in self.blocks])

    @property
    def gradient(self) -> Floats:
        return np.asarray(self.a @ self.w - self.c)

    def open_gradient(self, iteration: int, *, keep_pair: bool = True) -> None:
        for block, part in zip(self.blocks, np.split(self.gradient, self.cuts), strict=True):
            block.take_gradient(part, keep_pair=keep_pair)
        parts = [block.parts(len(self.gram.sg)) for block in self.blocks]
        absorb(self.gram, [sum(column) for column in zip(*parts, strict=True)], new_pair=keep_pair and iteration > 0)

    def step(self, scale: float = 1.0) -> None:
        for block in self.blocks:
            block.step(self.gram.direction(), scale)

    def forget(self, pair: int) -> None:
        self.gram.forget(pair)
        for block in self.blocks:
            block.forget(pair)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 10_000), st.integers(1, 7), st.data())
def test_blocks_that_share_only_inner_products_take_the_textbook_steps(
    sizes: list[int], seed: int, steps: int, data: st.DataObject
) -> None:
    fit = Fit(sizes, seed)
    pairs: list[tuple[Floats, Floats]] = []
    before: tuple[Floats, Floats] | None = None
    for iteration in range(steps):
        w, g = fit.w, fit.gradient
        if np.linalg.norm(g) < 1e-7:
            break
        keep = iteration == 0 or data.draw(st.booleans())
        fit.open_gradient(iteration, keep_pair=keep)
        if before is not None and keep:
            pairs.append((w - before[0], g - before[1]))
        before = (w, g)
        assert fit.gram.gmg == pytest.approx(g @ fit.m @ g, rel=1e-9)
        if pairs and data.draw(st.booleans()):
            gone = data.draw(st.integers(0, len(pairs) - 1))
            fit.forget(gone)
            del pairs[gone]
        expected = two_loops(g, pairs, fit.m)
        fit.step(0.5)
        assert fit.w - w == pytest.approx(0.5 * expected, rel=1e-6, abs=1e-8 * np.linalg.norm(expected))


def test_it_reaches_the_minimum_of_a_quadratic() -> None:
    fit = Fit([3, 4, 2], seed=5)
    for iteration in range(40):
        fit.open_gradient(iteration)
        if fit.gram.gmg < 1e-20:
            break
        fit.step()
    assert fit.w == pytest.approx(np.linalg.solve(fit.a, fit.c), abs=1e-8)


def test_a_halved_step_goes_half_the_way_from_the_last_gradient() -> None:
    fit = Fit([2, 2], seed=6)
    fit.open_gradient(0)
    start = fit.w
    fit.step()
    full = fit.w
    for halving in range(1, 4):
        for block in fit.blocks:
            block.halve_step()
        assert fit.w - start == pytest.approx((full - start) / 2**halving)


def test_a_step_before_the_first_gradient_cannot_be_halved() -> None:
    with pytest.raises(ModelError, match="LOGITS_OUT_OF_RANGE"):
        Fit([2], seed=7).blocks[0].halve_step()


def test_another_number_of_sums_is_refused() -> None:
    for sums in ([], [1.0, 2.0], [1.0] * 7):
        with pytest.raises(RemoteProtocolError, match="CHECK_FAILED"):
            absorb(GramMatrix(), sums, new_pair=True)
