"""Vertical logistic regression: what each of the parties that own rows does, in one fit or in a sequence of fits.

Source: PROTOCOLS.md section 3, docs/protocols/logistic.md; offline products after Mohassel & Zhang, S&P 2017, section
4; folds after section 4. Learns: its own gradient block each iteration; sums of inner products of the training history
(with two parties, the peer's parts); in a sequence, the plan of each fit. Sends: masked products, masked logits, masked
residuals (holders), inner products; the label owner, plans.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from protocols.binning.budget import check_gradient_budget, check_gradients_left, feature_limit, gradient_budget
from protocols.binning.table import BinningTable
from protocols.disclosure import Learned
from protocols.errors import ModelError
from protocols.fixed_point import FEATURE_BITS, FloatArray, IntArray, RingArray, quantise_logits
from protocols.logistic.dealer import expanded_shares, phase_mask
from protocols.logistic.design import OwnDesign, trace_too_large
from protocols.logistic.lbfgs import PRODUCT_BITS, PRODUCT_LIMIT, Block, GramMatrix, absorb
from protocols.logistic.messages import (
    MAX_HISTORY,
    BatchRequest,
    CoefficientSigns,
    Corrections,
    DealerSeed,
    GradientShare,
    GradientsSpent,
    InnerProducts,
    LikelihoodPart,
    LikelihoodShare,
    LogitRange,
    MaskedLogits,
    MaskedResidual,
    PreconditionerTrace,
    TrainingSize,
)
from protocols.logistic.offline import OfflineProducts
from protocols.logistic.plan import Director, FitPlan, Outcome, SequenceRules, SignReport, SingleFit, least_rows
from protocols.logistic.plan_exchange import PlanExchange
from protocols.logistic.residual import label_offset, opened_phase, residual_share
from protocols.logistic.sine_series import HALF_RANGE, NARROW, WIDE, phase_bits
from protocols.logistic.softplus import softplus_share, softplus_sum
from protocols.logistic.sums import MaskedSums, fixed
from protocols.logistic.weights import SampleWeights, Weighting
from protocols.messages import require
from protocols.pair_masks import agree_on_masks
from protocols.roles import COORDINATOR, Parties
from protocols.row_account import NoRowAccount, RowAccount, pay_for_row_sets
from protocols.rows.encryption import RowMasks
from protocols.session import Opened, Progress, Script, receive, receive_each, send
from protocols.sharing import SEED_BYTES, Entropy, uniform_below
from protocols.spent import FIRST_PASS_COLUMN, FURTHER_COLUMN, SpentIndices

GREATEST_TRACE = 50.0
_UNSOUND_TRACE = 2.0**40
_HALVINGS = 10
_NOISE = 1e-5  # largest noise on a gradient, PROTOCOLS.md section 3, step 3
_LOOSE_NOISE = 1e-3  # where a fit is only compared: ADR 14


@dataclass(frozen=True)
class Coefficients:
    """A party's own part of the fit, in model order; the intercept at the label owner only.

    weights: per unit of WOE, shape (d,); gradients: how many gradients were opened; norm: sqrt(g^T M g) at the end;
    period: 32, or 64 if logits left [-12, 12]; budget: how many gradients might have been opened; passes: encrypted
    passes over the rows; converged: false if the budget ended before the fit did. A feature left out has weight 0.
    """

    weights: FloatArray = field(repr=False)
    intercept: float | None = field(repr=False)
    gradients: int
    norm: float
    period: int
    budget: int
    passes: int
    converged: bool = True


@dataclass(frozen=True)
class FitSequence:
    """Every fit of a training in order, which one is the model, and at the label owner what it knows of each."""

    fits: tuple[Coefficients, ...]
    chosen: int
    outcomes: tuple[Outcome, ...] = ()


@dataclass(frozen=True)
class Spent:
    """What earlier attempts at the job used up: columns of the first pass, and gradients opened. Equal on all sides."""

    columns: int = 0
    gradients: int = 0


@dataclass(frozen=True)
class FitRules:
    """From the recipe: L2 weight in units of the summed loss, tolerance of sqrt(g^T M g), a cap on gradients.

    sequence: what else the label owner may ask for; None: one fit with the L2 weight `l2`.
    """

    l2: float = 1.0
    tolerance: float = 1e-4
    max_gradients: int | None = None
    sequence: SequenceRules | None = None


@dataclass
class _Fit:
    """One fit, under way or ended. active: which columns are in it; gradient: the newest, inactive columns included."""

    plan: FitPlan
    l2: float
    tolerance: float
    active: NDArray[np.bool_]
    block: Block
    gram: GramMatrix
    cold: bool
    gradient: FloatArray | None = None
    gradients: int = 0
    norm: float = math.inf
    converged: bool = False


class TrainingParty:
    """One party in the fit.

    Args: table: own bins; rows: what the encryption of the rows left; label, weights: 0/1 and, in a weighted fit, the
        weight per training row, at the label owner; before: what earlier attempts at this job, and earlier fits in it,
        used up; account: the gradients that own training rows have been in, of every job, attempt and fit; row_sets:
        the sets of own rows that were trained on, times features of another party; director: of the sequence, at the
        label owner; after_fit: what is played after each fit, given its index and own partial logits of the training
        rows.
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
        weights: SampleWeights | None = None,
        before: Spent | None = None,
        account: RowAccount | None = None,
        row_sets: RowAccount | None = None,
        director: Director | None = None,
        after_fit: Callable[[int, FloatArray], Script[None]] | None = None,
    ) -> None:
        self._name = name
        self._after_fit = after_fit
        self._parties = parties
        self._rules = rules
        self._before = before or Spent()
        self._account: RowAccount = account or NoRowAccount()
        self._row_sets: RowAccount = row_sets or NoRowAccount()
        self._stands = feature_limit(table.rows, min(min(feature.rows) for feature in table.features))
        self._layout = rows.layout
        self._ring = rows.layout.ring
        self._entropy = entropy
        self._spent = spent
        self._label = label
        self._is_holder = name in parties.share_holders
        self._leads = name == parties.label_owner
        self._weighting: Weighting | None = None
        if weights is not None or rows.layout.weighted:
            self._weighting = Weighting(name, parties, rows.layout, spent, weights)
        self._scale = FEATURE_BITS + rows.layout.residual_bits
        rate = None if weights is None or label is None else weights.rate(label)
        self._own = OwnDesign(table, intercept=self._leads, rate=rate)
        self._design = self._own.columns
        self._shape = dict(table.shape)
        self._rows_budget = check_gradient_budget(table.rows, list(table.shape.values()))
        self._budget = 0  # known when the parties have told each other what is spent
        self._allowed = rules.sequence or SequenceRules(fits=1, penalties=(rules.l2,))
        self._allowed.check(name, table, parties.label_owner)
        self._plans = PlanExchange(
            name, parties, table=table, rules=rules.sequence, director=director or SingleFit(), entropy=entropy
        )
        self._offline = OfflineProducts(
            name, parties, table=table, rows=rows, design_bins=self._own.bins, entropy=entropy
        )
        self._period = NARROW
        self._batch = 0
        self._iteration = 0  # of the training, over all its fits
        self._used = 0  # gradients and label sums
        self._used_by_fold: dict[int | None, int] = {}
        # Batch, delta and shares of the newest gradient, at the holders.
        self._last_shares: tuple[int, NDArray[np.uint32], RingArray] | None = None
        self._label_sums: dict[int | None, FloatArray] = {}
        self._done: list[_Fit] = []
        self._results: list[Coefficients] = []

    def play(self) -> Script[Coefficients]:
        """The fit that is the model."""
        sequence = yield from self.play_sequence()
        return sequence.fits[sequence.chosen]

    def play_sequence(self) -> Script[FitSequence]:
        """Offline material, then fit after fit as the label owner directs."""
        seed = yield from self._meet_dealer()
        self._seed = seed
        masks = yield from agree_on_masks(
            self._name, self._parties.all, self._entropy, self._spent, summed_by_members=True
        )
        self._sums = MaskedSums(masks)
        yield from self._agree_on_budget()
        if self._weighting is not None:
            self._own.scale_curvature((yield from self._weighting.begin(seed, self._label)))
        yield from self._check_trace()
        crowd = max(d for party, d in self._shape.items() if party != self._name)
        pay_for_row_sets(self._row_sets, crowd * max(self._allowed.folds, 1), self._stands)
        yield from self._offline.first_pass(self._before.columns)
        while isinstance(step := (yield from self._plans.next_step()), FitPlan):
            yield from self._play_fit(step)
            if self._after_fit is not None:
                yield from self._after_fit(len(self._done) - 1, self._logits())
        yield from self._dismiss_dealer()
        return FitSequence(tuple(self._results), step, tuple(self._plans.outcomes))

    # -- the sequence ---------------------------------------------------------------------------------------------

    def _play_fit(self, plan: FitPlan) -> Script[None]:
        """Iterations until the preconditioned gradient is small, then what the plan opens.

        Raises: ModelError: NOT_CONVERGED, unless the plan takes what the budget allows.
        """
        fit = self._fit = self._begin(plan)
        self._block, self._gram = fit.block, fit.gram
        if plan.likelihood and plan.fold not in self._label_sums and not self._spent_budget(fit):
            self._label_sums[plan.fold] = yield from self._sum_labels(plan.fold)
        while not fit.converged and not self._spent_budget(fit):
            yield from self._iterate(fit)
        if not fit.converged and not plan.best_effort:
            raise ModelError(
                "NOT_CONVERGED",
                f"the gradient budget of {self._budget} is spent; the preconditioned gradient norm is {fit.norm:.2e}",
                "raise the L2 weight (model.l2), or keep fewer features",
            )
        log_likelihood = None
        signs: dict[str, SignReport] = {}
        if fit.converged and plan.likelihood:
            log_likelihood = yield from self._open_likelihood(fit)
        if fit.converged and plan.signs:
            signs = yield from self._report_signs(fit)
        self._last_shares = None
        self._done.append(fit)
        result = self._result(fit)
        self._results.append(result)
        rows = self._judged_rows(plan.fold)
        own = (result.weights, result.intercept)
        self._plans.ended(Outcome(plan, fit.gradients, fit.norm, fit.converged, log_likelihood, rows, signs, *own))

    def _begin(self, plan: FitPlan) -> _Fit:
        l2 = self._allowed.penalties[plan.penalty]
        active = self._own.active(plan.dropped.get(self._name, ()))
        start = self._own.start()
        if plan.plus:
            start = sum((self._done[i].block.weights for i in plan.plus), np.zeros_like(start))
            start = sum((-self._done[i].block.weights for i in plan.minus), start) * active
        if plan.history is None:
            share = self._plans.rows_of(plan.fold) / self._layout.rows
            block, gram = Block(self._own.preconditioner(l2, share, active), start), GramMatrix()
        else:
            earlier = self._done[plan.history]
            block, gram = earlier.block.going_on(start), earlier.gram.copy()
        tolerance = self._allowed.loose(self._layout.rows) if plan.loose else self._rules.tolerance
        return _Fit(plan, l2, tolerance, active, block, gram, cold=not plan.plus)

    def _judged_rows(self, fold: int | None) -> int:
        return self._layout.rows if fold is None else self._layout.rows - self._plans.rows_of(fold)

    def _spent_budget(self, fit: _Fit) -> bool:
        """Whether the gradients of the job, or those of the rows of this fit, are spent."""
        fold = fit.plan.fold
        own = gradient_budget(self._plans.rows_of(fold), list(self._shape.values()))
        return self._used >= self._budget or self._used_by_fold.get(fold, 0) >= own

    def _iterate(self, fit: _Fit) -> Script[None]:
        if self._offline.exhausted:
            yield from self._offline.further_pass()
        switched = yield from self._enter_range(self._iteration)
        gradient = yield from self._gradient(fit)
        new_pair = fit.gradients > 0 and not switched
        yield from self._share_products(self._iteration, gradient * fit.active, new_pair=new_pair)
        fit.gradient = gradient
        fit.norm = math.sqrt(max(fit.gram.gmg, 0.0))
        fit.gradients += 1
        fit.converged = fit.norm <= fit.tolerance
        self._iteration += 1
        yield Progress("gradients", self._used, self._budget)
        if not fit.converged:
            fit.block.step(fit.gram.direction(), 0.5 if fit.cold and fit.gradients == 1 else 1.0)

    # -- what a fit opens to the label owner ----------------------------------------------------------------------

    def _sum_labels(self, fold: int | None) -> Script[FloatArray]:
        """X_P^T (1/2 - y) over the rows of a fold, or all: a column of its own, and no batch of the dealer's."""
        if self._offline.exhausted:
            yield from self._offline.further_pass()
        column = self._take_column(fold)
        residual: RingArray | None = None
        if self._is_holder:
            residual = np.zeros((self._layout.rows, 3), dtype=np.uint32)
        if self._label is not None:
            residual = _only(self._weighted_offset(self._label), self._plans.judged(fold))
        sums = yield from self._transpose_product(column, column, residual)
        if not self._leads:
            yield from self._opened("label sums of own features over the rows of a fold, or over all", len(sums))
        return sums

    def _open_likelihood(self, fit: _Fit) -> Script[float | None]:
        """log P(y) over the fold left out, or over all rows, to the label owner alone (`softplus`)."""
        fold, index = fit.plan.fold, len(self._done)
        part = self._sums.parts("likelihood", index, [fixed(float(self._label_sums[fold] @ fit.block.weights))])
        share = 0
        judged = self._plans.judged(fold) if self._is_holder else None
        if self._last_shares is not None and judged is not None:
            batch, delta, shares = self._last_shares
            terms = softplus_share(delta, shares, self._period, self._ring, judged)
            share = self._ring.total(terms)
            if self._weighting is not None:
                share = yield from self._weighting.weigh_sum(batch, self._period, terms)
        if not self._leads:
            if self._is_holder:
                own = self._ring.to_bytes(self._ring.from_integers([share]))
                yield from send(self._parties.label_owner, LikelihoodShare(index, own))
            yield from send(self._parties.label_owner, LikelihoodPart(part, self._masked))
            return None
        message = yield from receive(self._parties.co_holder, LikelihoodShare)
        require(message.index == index)
        share += self._ring.to_integers(self._ring.from_bytes(message.share, (1,)), signed=False)[0]
        answers = yield from receive_each(self._others, LikelihoodPart)
        require(all(answer.masked == self._masked for answer in answers.values()))
        linear = self._sums.open(part, [answer.part for answer in answers.values()], 1)[0] / 2**PRODUCT_BITS
        yield from self._opened("log-likelihood of a fit over the rows of a fold, or over all", 1)
        rows: float = self._judged_rows(fold)
        if self._weighting is not None and judged is not None:
            rows = self._weighting.total(judged)
        even = softplus_sum(share, rows, self._period, self._ring, self._layout.residual_bits)
        log_loss: float = even + linear
        return -log_loss

    def _report_signs(self, fit: _Fit) -> Script[dict[str, SignReport]]:
        if fit.gradient is None:
            return {}
        positive, inward = self._own.signs(fit.block.weights, fit.gradient, fit.l2, fit.active, fit.tolerance)
        if not self._leads:
            yield from send(self._parties.label_owner, CoefficientSigns(positive, inward))
            return {}
        answers = yield from receive_each(self._others, CoefficientSigns)
        reports = {party: SignReport(answer.positive, answer.inward) for party, answer in answers.items()}
        return {self._name: SignReport(positive, inward)} | reports

    # -- set-up ---------------------------------------------------------------------------------------------------

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
        """sum_P tr(M_P) <= 50: above it the directions are mostly noise (PROTOCOLS.md section 3, step 5).

        It is greatest with all features, the least penalty and the fewest rows.
        """
        rows, folds = self._layout.rows, self._allowed.folds
        share = least_rows(rows, folds) / rows if folds else 1.0
        everything = self._own.active(())
        least = self._own.preconditioner(min(self._allowed.penalties), share, everything)
        trace = math.fsum(np.diag(least).tolist())
        sound = 0 < trace < _UNSOUND_TRACE  # false for NaN and for an inverse that is not positive
        own = self._sums.parts("trace", 0, [fixed(trace if sound else _UNSOUND_TRACE)])
        yield from send(self._others, PreconditionerTrace(own, self._masked))
        answers = yield from receive_each(self._others, PreconditionerTrace)
        for answer in answers.values():
            require(answer.masked == self._masked)
        total = self._sums.open(own, [answer.part for answer in answers.values()], 1)[0]
        yield from self._opened("sum of the traces of the preconditioners", 1)
        if not 0 < total / 2**PRODUCT_BITS <= GREATEST_TRACE:
            raise trace_too_large()

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

    def _gradient(self, fit: _Fit) -> Script[FloatArray]:
        """Steps 1 to 4: this party's block of X^T (sigma(z) - y) + lambda w, over the rows of the fit."""
        batch = self._batch
        self._batch += 1
        column = self._take_column(fit.plan.fold)
        self._spent.spend("batch", batch)
        phase = quantise_logits(self._logits(), self._period) - phase_mask(
            self._seed, batch, self._period, self._layout.rows
        )
        phase &= np.uint32((1 << phase_bits(self._period)) - 1)
        yield from send(self._other_holders, MaskedLogits(batch, phase.astype("<u4").tobytes()))
        residual: RingArray | None = None
        if self._is_holder:
            residual = yield from self._residual(batch, phase, fit.plan)
        noise = _LOOSE_NOISE if fit.plan.loose else _NOISE
        gradient = yield from self._transpose_product(batch, column, residual, noise)
        yield from self._opened("own gradient block", len(gradient))
        return gradient + self._own.penalty(fit.l2) * self._block.weights

    def _residual(self, batch: int, own_phase: NDArray[np.uint32], plan: FitPlan) -> Script[RingArray]:
        """A share holder's step 2: its share of the residual, zero in rows left out."""
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
        if plan.likelihood:
            self._last_shares = (batch, delta, shares)
        residual = residual_share(delta, shares, self._period, self._ring)
        if self._weighting is not None:
            residual = yield from self._weighting.weigh_shares(batch, self._period, residual)
        if self._label is not None:
            residual = self._ring.add(residual, self._weighted_offset(self._label))
        return residual if plan.fold is None else _only(residual, self._plans.taken(plan.fold))

    def _transpose_product(
        self, index: int, column: int, residual: RingArray | None, noise: float = _NOISE
    ) -> Script[FloatArray]:
        """Steps 3 and 4: X_P^T d of the residual d that A and H_1 share, each share under its masks of `column`.

        residual: at a share holder, its share; noise: the largest that a holder adds.
        """
        known: list[RingArray] = []
        if residual is not None:
            masked = self._ring.to_bytes(self._ring.subtract(residual, self._offline.mask_column(column)))
            yield from send(self._others, MaskedResidual(index, masked))
            for party in self._others:
                half = [value + self._noise(noise) for value in self._offline.half(party, column)]
                yield from send(party, GradientShare(index, self._ring.to_bytes(self._ring.from_integers(half))))
            known.append(residual)
        halves = [0] * self._design.shape[1]
        for holder in self._other_holders:
            message = yield from receive(holder, MaskedResidual)
            require(message.index == index)
            known.append(self._ring.from_bytes(message.shares, (self._layout.rows,)))
            share = yield from receive(holder, GradientShare)
            require(share.index == index)
            column_part = self._ring.to_integers(self._ring.from_bytes(share.shares, (len(halves),)), signed=False)
            halves = [a + b for a, b in zip(halves, column_part, strict=True)]
        products = self._ring.transpose_product(self._design, self._ring.add(*known))
        own = self._offline.subtrahend(column)
        return np.array(
            [
                self._ring.lift(product + half - mask) / 2**self._scale
                for product, half, mask in zip(products, halves, own, strict=True)
            ]
        )

    def _weighted_offset(self, label: IntArray) -> RingArray:
        """At `A`: 1/2 - y, times the row's weight if it has one, shape (n, 3)."""
        offset = label_offset(label, self._ring)
        return offset if self._weighting is None else self._weighting.weigh(offset)

    def _take_column(self, fold: int | None) -> int:
        """The next column of masks, paid for and marked spent before anything under it is sent."""
        self._pay()
        self._used += 1
        self._used_by_fold[fold] = self._used_by_fold.get(fold, 0) + 1
        column = self._offline.next_column()
        self._spent.spend(FIRST_PASS_COLUMN if column < self._layout.slots else FURTHER_COLUMN, column)
        return column

    def _share_products(self, iteration: int, gradient: FloatArray, *, new_pair: bool) -> Script[None]:
        """Step 5: open sums of inner products, and keep the newest pair if its curvature is positive."""
        self._block.take_gradient(gradient, keep_pair=new_pair)
        values = [fixed(part) for part in self._block.parts(len(self._gram.sg))]
        own = self._sums.parts("products", iteration, values)
        yield from send(self._others, InnerProducts(iteration, own, self._masked))
        answers = yield from receive_each(self._others, InnerProducts)
        for answer in answers.values():
            require(answer.index == iteration and answer.masked == self._masked)
        sums = self._sums.open(own, [answer.parts for answer in answers.values()], len(values))
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
    def _other_holders(self) -> list[str]:
        return [holder for holder in self._parties.share_holders if holder != self._name]

    @property
    def _masked(self) -> bool:
        """Whether parts of sums travel under masks: with two parties the sum gives the other's part away anyway."""
        return len(self._parties.all) > 2

    def _logits(self) -> FloatArray:
        """u_P = X_P w_P, shape (n,)."""
        return self._own.logits(self._block.weights)

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
        if self._weighting is not None:
            yield from self._weighting.receive_corrections(batch, self._period)
        terms = 20 if self._period == NARROW else 40
        return self._ring.from_bytes(message.shares, (2 * terms, self._layout.rows))

    def _open_range(self, index: int, logits: FloatArray) -> Script[tuple[int, int]]:
        values = [math.floor(logits.min()), math.ceil(logits.max())]
        own = self._sums.parts("range", index, values)
        yield from send(self._others, LogitRange(own, self._masked))
        answers = yield from receive_each(self._others, LogitRange)
        for answer in answers.values():
            require(answer.masked == self._masked)
        low, high = self._sums.open(own, [answer.parts for answer in answers.values()], 2)
        yield from self._opened("range of the logits, in integers (sum of the parties' least and greatest)", 2)
        require(low <= high)
        return low, high

    def _opened(self, what: str, numbers: int) -> Script[None]:
        yield Opened((Learned(what, numbers),))

    def _noise(self, most: float) -> int:
        largest: int = round(most * (1 << self._scale))
        return uniform_below(2 * largest + 1, self._entropy) - largest

    def _result(self, fit: _Fit) -> Coefficients:
        weights, intercept = fit.block.weights, None
        if self._leads:
            weights, intercept = weights[1:], float(weights[0])
        return Coefficients(
            weights, intercept, fit.gradients, fit.norm, self._period, self._budget, self._offline.passes, fit.converged
        )


def _only(residual: RingArray, rows: NDArray[np.bool_]) -> RingArray:
    """A share that is zero outside `rows`."""
    return np.where(rows[:, None], residual, np.uint32(0))
