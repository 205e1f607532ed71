"""Vertical logistic regression: what each of the parties that own rows does.

Source: PROTOCOLS.md section 3, docs/protocols/logistic.md; offline products after Mohassel & Zhang, S&P 2017, section
4. Learns: its own gradient block each iteration; sums of inner products of the training history (with two parties, the
peer's parts). Sends: masked products, masked logits, masked residuals (holders), inner products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protocols.binning.budget import check_gradient_budget, check_gradients_left
from protocols.binning.table import BinningTable
from protocols.disclosure import Learned
from protocols.errors import LocalProtocolError, ModelError
from protocols.fixed_point import (
    FEATURE_BITS,
    FEATURE_LIMIT,
    RESIDUAL_BITS,
    FloatArray,
    IntArray,
    RingArray,
    quantise_logits,
)
from protocols.logistic.dealer import expanded_shares, phase_mask
from protocols.logistic.lbfgs import PRODUCT_BITS, PRODUCT_LIMIT, Block, GramMatrix, absorb
from protocols.logistic.messages import (
    INNER_PRODUCT_BYTES,
    MAX_HISTORY,
    BatchRequest,
    Corrections,
    DealerSeed,
    GradientShare,
    GradientsSpent,
    InnerProducts,
    LogitRange,
    MaskedLogits,
    MaskedResidual,
    PreconditionerTrace,
    TrainingSize,
)
from protocols.logistic.offline import OfflineProducts
from protocols.logistic.residual import label_offset, opened_phase, residual_share
from protocols.logistic.sine_series import HALF_RANGE, NARROW, WIDE, phase_bits
from protocols.messages import require
from protocols.pair_masks import PairMasks, agree_on_masks
from protocols.roles import COORDINATOR, Parties
from protocols.row_account import NoRowAccount, RowAccount
from protocols.rows.encryption import RowMasks
from protocols.session import Opened, Progress, Script, receive, receive_each, send
from protocols.sharing import SEED_BYTES, Entropy, uniform_below
from protocols.spent import FIRST_PASS_COLUMN, FURTHER_COLUMN, SpentIndices

GREATEST_TRACE = 50.0
_UNSOUND_TRACE = 2.0**40
_HALVINGS = 10
_SUM_BITS = 8 * INNER_PRODUCT_BYTES
_SCALE = FEATURE_BITS + RESIDUAL_BITS
_NOISE: int = round(1e-5 * (1 << _SCALE))  # largest noise on a gradient, PROTOCOLS.md section 3, step 3


@dataclass(frozen=True)
class Coefficients:
    """A party's own part of the fit, in model order; the intercept at the label owner only.

    weights: per unit of WOE, shape (d,); gradients: how many gradients were opened; norm: sqrt(g^T M g) at the end;
    period: 32, or 64 if logits left [-12, 12]; budget: how many gradients might have been opened; passes: encrypted
    passes over the rows.
    """

    weights: FloatArray = field(repr=False)
    intercept: float | None = field(repr=False)
    gradients: int
    norm: float
    period: int
    budget: int
    passes: int


@dataclass(frozen=True)
class Spent:
    """What earlier attempts at the job used up: columns of the first pass, and gradients opened. Equal on all sides."""

    columns: int = 0
    gradients: int = 0


@dataclass(frozen=True)
class FitRules:
    """From the recipe: L2 weight in units of the summed loss, tolerance of sqrt(g^T M g), a cap on gradients."""

    l2: float = 1.0
    tolerance: float = 1e-4
    max_gradients: int | None = None


class TrainingParty:
    """One party in the fit.

    Args: table: own bins; rows: what the encryption of the rows left; label: 0/1 per training row, at the label owner;
        before: what earlier attempts at this job, and earlier fits in it, used up; account: the gradients that own
        training rows have been in, of every job, attempt and fit.
    """

    def __init__(
        self,
        name: str,
        parties: Parties,
        *,
        table: BinningTable,
        rows: RowMasks,
        rules: FitRules,
        entropy: Entropy,
        spent: SpentIndices,
        label: IntArray | None = None,
        before: Spent | None = None,
        account: RowAccount | None = None,
    ) -> None:
        self._name = name
        self._parties = parties
        self._rules = rules
        self._before = before or Spent()
        self._account: RowAccount = account or NoRowAccount()
        self._layout = rows.layout
        self._ring = rows.layout.ring
        self._entropy = entropy
        self._spent = spent
        self._label = label
        self._is_holder = name in parties.share_holders
        self._leads = name == parties.label_owner
        self._design = self._own_design(table)
        self._rows_budget = check_gradient_budget(table.rows, list(table.shape.values()))
        self._budget = 0  # known when the parties have told each other what is spent
        self._offline = OfflineProducts(
            name, parties, table=table, rows=rows, design_bins=self._own_bins(table), entropy=entropy
        )
        rate = table.bads / table.rows
        self._block = self._own_block(rate)
        self._gram = GramMatrix()
        self._period = NARROW
        self._batch = 0

    def play(self) -> Script[Coefficients]:
        """Offline material, then iterations until the preconditioned gradient is small."""
        seed = yield from self._meet_dealer()
        self._seed = seed
        self._masks: PairMasks = yield from agree_on_masks(
            self._name, self._parties.all, self._entropy, self._spent, summed_by_members=True
        )
        yield from self._agree_on_budget()
        yield from self._check_trace()
        yield from self._offline.first_pass(self._before.columns)
        norm = math.inf
        for iteration in range(self._budget):
            if self._offline.exhausted:
                yield from self._offline.further_pass()
            switched = yield from self._enter_range(iteration)
            gradient = yield from self._gradient(iteration)
            yield from self._share_products(iteration, gradient, keep_pair=not switched)
            norm = math.sqrt(max(self._gram.gmg, 0.0))
            yield Progress("gradients", iteration + 1, self._budget)
            if norm <= self._rules.tolerance:
                yield from self._dismiss_dealer()
                return self._result(iteration + 1, norm)
            self._block.step(self._gram.direction(), 0.5 if iteration == 0 else 1.0)
        raise ModelError(
            "NOT_CONVERGED",
            f"the gradient budget of {self._budget} is spent; the preconditioned gradient norm is {norm:.2e}",
            "raise the L2 weight (model.l2), or keep fewer features",
        )

    # -- set-up ---------------------------------------------------------------------------------------------------

    def _own_design(self, table: BinningTable) -> IntArray:
        """X_P at 2^16, shape (n, d); the label owner's first column is the intercept's."""
        design = table.design
        if np.abs(design).max() > FEATURE_LIMIT:
            raise LocalProtocolError("FEATURE_RANGE", "a feature value exceeds 8 in absolute value")
        if self._leads:
            design = np.concatenate([np.full((len(design), 1), 1 << FEATURE_BITS, dtype=np.int64), design], axis=1)
        return design

    def _own_bins(self, table: BinningTable) -> list[tuple[IntArray, IntArray]]:
        """Per column of the design, the bin of each row and the value of each bin."""
        bins = [(table.codes[:, j], feature.values) for j, feature in enumerate(table.features)]
        if self._leads:
            bins.insert(0, (np.zeros(table.rows, dtype=np.int64), np.array([1 << FEATURE_BITS])))
        return bins

    def _own_block(self, rate: float) -> Block:
        x = self._design / (1 << FEATURE_BITS)
        penalty = np.full(x.shape[1], self._rules.l2)
        start = np.zeros(x.shape[1])
        if self._leads:
            penalty[0] = 0.0
            start[0] = math.log(rate / (1 - rate))
        self._penalty = penalty
        try:
            preconditioner = np.linalg.inv(rate * (1 - rate) * (x.T @ x) + np.diag(penalty))
        except np.linalg.LinAlgError as error:
            raise _trace_too_large() from error
        return Block((preconditioner + preconditioner.T) / 2, start)

    def _meet_dealer(self) -> Script[bytes]:
        if self._leads:
            yield from send(COORDINATOR, TrainingSize(self._layout.rows))
        message = yield from receive(COORDINATOR, DealerSeed)
        require(len(message.seed) == SEED_BYTES)
        return message.seed

    def _dismiss_dealer(self) -> Script[None]:
        if self._leads:
            yield from send(COORDINATOR, BatchRequest(self._batch, 0, ended=True))

    def _agree_on_budget(self) -> Script[None]:
        """What is left at the party whose rows have been in most gradients, and within this job's own cap.

        Raises: PrivacyError: GRADIENT_BUDGET.
        """
        spent = min(max(int(self._account.spent()), self._before.gradients), self._rows_budget)
        yield from send(self._others, GradientsSpent(spent))
        answers = yield from receive_each(self._others, GradientsSpent)
        for answer in answers.values():
            require(answer.gradients <= self._rows_budget)
            spent = max(spent, answer.gradients)
        left = check_gradients_left(self._rows_budget, spent)
        cap = self._rules.max_gradients
        self._budget = left if cap is None else max(min(left, cap - self._before.gradients), 0)

    def _pay(self) -> None:
        """One gradient, before anything of it is sent; a job on the same rows may have paid since this one began.

        Raises: PrivacyError: GRADIENT_BUDGET.
        """
        self._account.charge(1)
        spent = int(self._account.spent())
        if spent > self._rows_budget:
            check_gradients_left(self._rows_budget, spent)

    def _check_trace(self) -> Script[None]:
        """sum_P tr(M_P) <= 50: above it the directions are mostly noise (PROTOCOLS.md section 3, step 5)."""
        trace = self._block.trace
        sound = 0 < trace < _UNSOUND_TRACE  # false for NaN and for an inverse that is not positive
        own = self._masked_parts("trace", 0, [_fixed(trace if sound else _UNSOUND_TRACE)])
        yield from send(self._others, PreconditionerTrace(own, self._masked))
        answers = yield from receive_each(self._others, PreconditionerTrace)
        for answer in answers.values():
            require(answer.masked == self._masked)
        total = self._open_sums(own, [answer.part for answer in answers.values()], 1)[0]
        yield from self._opened("sum of the traces of the preconditioners", 1)
        if not 0 < total / 2**PRODUCT_BITS <= GREATEST_TRACE:
            raise _trace_too_large()

    # -- one iteration --------------------------------------------------------------------------------------------

    def _enter_range(self, iteration: int) -> Script[bool]:
        """Step 6: agree on the period; True if it changed. Asks for the batch that the iteration will use."""
        yield from self._request_batch()
        attempt = 0
        while True:
            logits = self._logits()
            low, high = yield from self._open_range(iteration * (_HALVINGS + 1) + attempt, logits)
            if -HALF_RANGE[WIDE] <= low and high <= HALF_RANGE[WIDE]:
                break
            if attempt == _HALVINGS:
                raise ModelError(
                    "LOGITS_OUT_OF_RANGE", "the fit leaves the range of the sigmoid", "raise the L2 weight (model.l2)"
                )
            attempt += 1
            self._block.halve_step()
        if self._period == WIDE or (-HALF_RANGE[NARROW] <= low and high <= HALF_RANGE[NARROW]):
            return False
        yield from self._discard_batch()
        self._period = WIDE
        yield from self._request_batch()
        return True

    def _gradient(self, iteration: int) -> Script[FloatArray]:
        """Steps 1 to 4: this party's block of X^T (sigma(z) - y) + lambda w."""
        batch = self._batch
        self._batch += 1
        self._pay()
        column = self._offline.next_column()
        self._spent.spend("batch", batch)
        self._spent.spend(FIRST_PASS_COLUMN if column < self._layout.slots else FURTHER_COLUMN, column)
        phase = quantise_logits(self._logits(), self._period) - phase_mask(
            self._seed, batch, self._period, self._layout.rows
        )
        phase &= np.uint32((1 << phase_bits(self._period)) - 1)
        holders = [holder for holder in self._parties.share_holders if holder != self._name]
        yield from send(holders, MaskedLogits(batch, phase.astype("<u4").tobytes()))
        residual: RingArray | None = None
        if self._is_holder:
            residual = yield from self._hold(batch, column, phase)
        known = [] if residual is None else [residual]
        halves = [0] * self._design.shape[1]
        for holder in holders:
            masked = yield from receive(holder, MaskedResidual)
            require(masked.index == batch)
            known.append(self._ring.from_bytes(masked.shares, (self._layout.rows,)))
            half = yield from receive(holder, GradientShare)
            require(half.index == batch)
            column_part = self._ring.to_integers(self._ring.from_bytes(half.shares, (len(halves),)), signed=False)
            halves = [a + b for a, b in zip(halves, column_part, strict=True)]
        products = self._ring.transpose_product(self._design, self._ring.add(*known))
        own = self._offline.subtrahend(column)
        gradient = [
            self._ring.lift(product + half - mask) / 2**_SCALE
            for product, half, mask in zip(products, halves, own, strict=True)
        ]
        yield from self._opened("own gradient block", len(gradient))
        return np.array(gradient) + self._penalty * self._block.weights

    def _hold(self, batch: int, column: int, own_phase: NDArray[np.uint32]) -> Script[RingArray]:
        """A share holder's steps 2 and 3: its share of the residual, sent to the others under its masks."""
        rows = self._layout.rows
        phases = [own_phase]
        messages = yield from receive_each(self._others, MaskedLogits)
        for message in messages.values():
            require(message.index == batch and len(message.values) == 4 * rows)
            phase = np.frombuffer(message.values, dtype="<u4").astype(np.uint32)
            require(int(phase.max()) >> phase_bits(self._period) == 0)
            phases.append(phase)
        delta = opened_phase(phases, self._period)
        if self._leads:
            shares = expanded_shares(self._seed, batch, self._period, rows, self._ring)
        else:
            shares = yield from self._receive_corrections(batch)
        residual = residual_share(delta, shares, self._period, self._ring)
        if self._label is not None:
            residual = self._ring.add(residual, label_offset(self._label, self._ring))
        masked = self._ring.to_bytes(self._ring.subtract(residual, self._offline.mask_column(column)))
        yield from send(self._others, MaskedResidual(batch, masked))
        for party in self._others:
            half = [value + self._noise() for value in self._offline.half(party, column)]
            shares_out = self._ring.to_bytes(self._ring.from_integers(half))
            yield from send(party, GradientShare(batch, shares_out))
        return residual

    def _share_products(self, iteration: int, gradient: FloatArray, *, keep_pair: bool) -> Script[None]:
        """Step 5: open sums of inner products, and keep the newest pair if its curvature is positive."""
        new_pair = keep_pair and iteration > 0
        self._block.take_gradient(gradient, keep_pair=keep_pair)
        values = [_fixed(part) for part in self._block.parts(len(self._gram.sg))]
        own = self._masked_parts("products", iteration, values)
        yield from send(self._others, InnerProducts(iteration, own, self._masked))
        answers = yield from receive_each(self._others, InnerProducts)
        for answer in answers.values():
            require(answer.index == iteration and answer.masked == self._masked)
        sums = self._open_sums(own, [answer.parts for answer in answers.values()], len(values))
        yield from self._opened("Gram matrix of the training history, summed over parties", len(sums))
        opened = [total / 2**PRODUCT_BITS for total in sums]
        if any(abs(value) >= PRODUCT_LIMIT for value in opened):
            raise ModelError("NUMBERS_TOO_LARGE", "an inner product exceeds 2^61", "raise the L2 weight (model.l2)")
        absorb(self._gram, opened, new_pair=new_pair)
        if new_pair and self._gram.sy[-1][-1] <= 0:
            self._forget(len(self._gram.sg) - 1)
        elif len(self._gram.sg) >= MAX_HISTORY:
            self._forget(0)

    def _forget(self, pair: int) -> None:
        self._gram.forget(pair)
        self._block.forget(pair)

    # -- pieces ---------------------------------------------------------------------------------------------------

    @property
    def _others(self) -> tuple[str, ...]:
        return self._parties.others(self._name)

    @property
    def _masked(self) -> bool:
        """Whether parts of sums travel under masks: with two parties the sum gives the other's part away anyway."""
        return len(self._parties.all) > 2

    def _logits(self) -> FloatArray:
        """u_P = X_P w_P, shape (n,)."""
        logits: FloatArray = (self._design / (1 << FEATURE_BITS)) @ self._block.weights
        return logits

    def _request_batch(self) -> Script[None]:
        if self._leads:
            yield from send(COORDINATOR, BatchRequest(self._batch, self._period, ended=False))

    def _discard_batch(self) -> Script[None]:
        """The batch of a period that is no longer used: its index is never used again."""
        self._spent.spend("batch", self._batch)
        if self._name == self._parties.co_holder:
            yield from self._receive_corrections(self._batch)
        self._batch += 1

    def _receive_corrections(self, batch: int) -> Script[RingArray]:
        message = yield from receive(COORDINATOR, Corrections)
        require(message.index == batch and message.period == self._period)
        terms = 20 if self._period == NARROW else 40
        return self._ring.from_bytes(message.shares, (2 * terms, self._layout.rows))

    def _open_range(self, index: int, logits: FloatArray) -> Script[tuple[int, int]]:
        values = [math.floor(logits.min()), math.ceil(logits.max())]
        own = self._masked_parts("range", index, values)
        yield from send(self._others, LogitRange(own, self._masked))
        answers = yield from receive_each(self._others, LogitRange)
        for answer in answers.values():
            require(answer.masked == self._masked)
        low, high = self._open_sums(own, [answer.parts for answer in answers.values()], 2)
        yield from self._opened("range of the logits, in integers (sum of the parties' least and greatest)", 2)
        require(low <= high)
        return low, high

    def _masked_parts(self, purpose: str, index: int, values: Sequence[int]) -> bytes:
        masks = self._masks.draw(purpose, index, len(values), _SUM_BITS)
        parts = [(value + mask) % (1 << _SUM_BITS) for value, mask in zip(values, masks, strict=True)]
        return b"".join(part.to_bytes(INNER_PRODUCT_BYTES, "little") for part in parts)

    @staticmethod
    def _open_sums(own: bytes, others: Sequence[bytes], count: int) -> list[int]:
        require(all(len(part) == count * INNER_PRODUCT_BYTES for part in others))
        sums = []
        for i in range(count):
            piece = slice(i * INNER_PRODUCT_BYTES, (i + 1) * INNER_PRODUCT_BYTES)
            total = sum(int.from_bytes(part[piece], "little") for part in (own, *others)) % (1 << _SUM_BITS)
            sums.append(total - (1 << _SUM_BITS) if total >> (_SUM_BITS - 1) else total)
        return sums

    def _opened(self, what: str, numbers: int) -> Script[None]:
        yield Opened((Learned(what, numbers),))

    def _noise(self) -> int:
        return uniform_below(int(2 * _NOISE) + 1, self._entropy) - int(_NOISE)

    def _result(self, gradients: int, norm: float) -> Coefficients:
        weights, passes = self._block.weights, self._offline.passes
        if self._leads:
            return Coefficients(weights[1:], float(weights[0]), gradients, norm, self._period, self._budget, passes)
        return Coefficients(weights, None, gradients, norm, self._period, self._budget, passes)


def _fixed(value: float) -> int:
    """A float at 2^64; scaling by a power of two is exact.

    Raises: ModelError: beyond 2^61.
    """
    if not abs(value) < PRODUCT_LIMIT:
        raise ModelError("NUMBERS_TOO_LARGE", "an inner product exceeds 2^61", "raise the L2 weight (model.l2)")
    return round(math.ldexp(value, PRODUCT_BITS))


def _trace_too_large() -> ModelError:
    return ModelError(
        "TRACE_TOO_LARGE",
        "the features are too collinear for this L2 weight: the preconditioner's trace exceeds 50",
        "raise the L2 weight (model.l2) or lower selection.maximum_correlation",
    )
