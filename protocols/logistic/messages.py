"""Vertical logistic regression: messages and their order (PROTOCOLS.md section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from protocols.disclosure import Learned, Nature
from protocols.logistic.plan import FitPlan
from protocols.messages import Bounds, Message, require
from protocols.moments.messages import FIT_STEPS, FeatureErrors
from protocols.pair_masks import PairSeed
from protocols.roles import Role
from protocols.rows.messages import EncryptedRows
from protocols.session import Step
from protocols.sharing import SEED_BYTES

INNER_PRODUCT_BYTES = 16
MAX_HISTORY = 20
_RING_BYTES = 12  # no ring element is wider
_TERMS = 40


@dataclass(frozen=True)
class TrainingSize(Message):
    """How many rows the dealer deals for."""

    rows: int

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("number of training rows", 1),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 16


@dataclass(frozen=True)
class DealerSeed(Message):
    """The seed of one party's share of the correlated randomness."""

    seed: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("seed of own correlated randomness", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return SEED_BYTES + 16


@dataclass(frozen=True)
class MaskedProducts(Message):
    """X_P^T R_H under H_1's key, one ciphertext a feature, each under a mask uniform in [0, N)."""

    ciphertexts: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("products of own masks and a peer's features, masked again", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 2 * bounds.key_bytes * (bounds.features + 1) + 64


@dataclass(frozen=True)
class MaskedBinSums(Message):
    """A further pass: per bin of each feature the masked sum of A's fresh masks, and what ties it to the first pass."""

    ciphertexts: bytes
    checks: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("sums of own masks per bin, masked again", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return bounds.features * 20 * (2 * bounds.key_bytes + _RING_BYTES) + 64


@dataclass(frozen=True)
class GradientsSpent(Message):
    """How many gradients the sender's agent knows to be opened on its training rows; no more than G."""

    gradients: int

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("gradients that earlier jobs opened on the sender's training rows", 1),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 16


@dataclass(frozen=True)
class PreconditionerTrace(Message):
    """tr(M_P) of one party, 128 bits at 2^64; under masks that cancel in the sum with three or more parties."""

    part: bytes
    masked: bool

    def learned(self) -> tuple[Learned, ...]:
        return (_part("trace of the peer's preconditioner", 1, self.masked),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return INNER_PRODUCT_BYTES + 16


@dataclass(frozen=True)
class BatchRequest(Message):
    """The label owner asks the dealer for the corrections of one batch; `period` is all it learns of the fit."""

    index: int
    period: int
    ended: bool

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("period of a batch (whether logits exceed 12), or that the fit has ended", 1),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 32


@dataclass(frozen=True)
class Corrections(Message):
    """H_1's shares of sin(k t) and cos(k t), shape (2 K, n)."""

    index: int
    period: int
    shares: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("batches of shares of uniform phases", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 2 * _TERMS * bounds.rows * _RING_BYTES + 64


@dataclass(frozen=True)
class MaskedWeights(Message):
    """w - a per row, where rows are weighted: uniform to H_1."""

    shares: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("sample weights under a fresh uniform mask", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return _RING_BYTES * bounds.rows + 16


@dataclass(frozen=True)
class CurvatureScale(Message):
    """By which power of two sample weights multiply the curvature, on average, for the preconditioner."""

    exponent: int

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("what sample weights multiply the curvature by, to a power of two", 1),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 16


@dataclass(frozen=True)
class ProductCorrections(Message):
    """H_1's shares of a b per row, and of the sum of a b with other masks b."""

    index: int
    period: int
    shares: bytes
    total: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("batches of shares of products of uniform masks", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return _RING_BYTES * (bounds.rows + 1) + 64


@dataclass(frozen=True)
class MaskedFactors(Message):
    """s - b per row, of H_1's share s of a residual or of a log-likelihood's terms: uniform to A."""

    index: int
    shares: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("share of what is to be weighted under a fresh uniform mask", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return _RING_BYTES * bounds.rows + 32


@dataclass(frozen=True)
class LogitRange(Message):
    """Floor of the least and ceiling of the greatest partial logit; masked as `PreconditionerTrace`."""

    parts: bytes
    masked: bool

    def learned(self) -> tuple[Learned, ...]:
        return (_part("least and greatest partial logit of the peer, in integers", 2, self.masked),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 2 * INNER_PRODUCT_BYTES + 32


@dataclass(frozen=True)
class MaskedLogits(Message):
    """u_P - t_P per row, as phases: uniform to both share holders."""

    index: int
    values: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("partial logits under a fresh uniform mask", len(self.values) // 4, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 4 * bounds.rows + 32


@dataclass(frozen=True)
class MaskedResidual(Message):
    """e_Q = d_Q - R_Q[:, t] per row: uniform to everyone."""

    index: int
    shares: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("share of the residual under a fresh uniform mask", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return _RING_BYTES * bounds.rows + 32


@dataclass(frozen=True)
class GradientShare(Message):
    """Column t of X_P^T R_Q plus P's own mask: it completes P's own gradient block, and nothing else."""

    index: int
    shares: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("halves of own gradient block", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return _RING_BYTES * (bounds.features + 1) + 48


@dataclass(frozen=True)
class InnerProducts(Message):
    """One party's parts of the inner products of the training history, 128 bits each at 2^64; masked as the trace."""

    index: int
    parts: bytes
    masked: bool

    def learned(self) -> tuple[Learned, ...]:
        count = len(self.parts) // INNER_PRODUCT_BYTES
        return (_part("the peer's part of the Gram matrix of the training history", count, self.masked),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return INNER_PRODUCT_BYTES * (5 * MAX_HISTORY + 8) + 32


@dataclass(frozen=True)
class NextFit(Message):
    """What the next fit of a sequence is, to one provider (`plan.FitPlan`); or that the sequence is over.

    index: of the fit, or, when `ended`, of the one that is the model; dropped: aliases of the receiver's features left
    out; fold, history: one more than what they name, 0 for none.
    """

    index: int
    penalty: int
    loose: bool
    dropped: tuple[str, ...]
    fold: int
    plus: tuple[int, ...]
    minus: tuple[int, ...]
    history: int
    likelihood: bool
    signs: bool
    best_effort: bool
    ended: bool

    @classmethod
    def of(cls, index: int, plan: FitPlan, dropped: Sequence[str]) -> NextFit:
        """The message of a plan to the party whose aliases `dropped` are."""
        fold = 0 if plan.fold is None else plan.fold + 1
        history = 0 if plan.history is None else plan.history + 1
        return cls(
            index, plan.penalty, plan.loose, tuple(dropped), fold, plan.plus, plan.minus, history, plan.likelihood,
            plan.signs, plan.best_effort, ended=False,
        )  # fmt: skip

    @classmethod
    def end(cls, chosen: int) -> NextFit:
        """The message that ends a sequence."""
        return cls(chosen, 0, False, (), 0, (), (), 0, False, False, False, ended=True)

    def plan(self, receiver: str) -> FitPlan:
        """The plan, as far as the receiver knows it."""
        require(all(name for name in self.dropped))
        return FitPlan(
            self.penalty, self.loose, {receiver: self.dropped}, self.fold - 1 if self.fold else None, self.plus,
            self.minus, self.history - 1 if self.history else None, self.likelihood, self.signs, self.best_effort,
        )  # fmt: skip

    def learned(self) -> tuple[Learned, ...]:
        if self.ended:
            return (Learned("which fit of a sequence is the model", 1),)
        return (
            Learned("penalty, fold and start of a fit of a sequence", 1),
            Learned("that an own feature is left out of a fit", len(self.dropped)),
        )

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 64 * bounds.features + 512


@dataclass(frozen=True)
class FoldOfRows(Message):
    """The fold of each training row, drawn at random whatever its data: one byte a row."""

    folds: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("fold of each training row, drawn at random", len(self.folds)),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return bounds.rows + 16


@dataclass(frozen=True)
class LikelihoodShare(Message):
    """H_1's share of the even part of a log-likelihood, summed over rows: uniform until A adds its own."""

    index: int
    share: bytes

    def learned(self) -> tuple[Learned, ...]:
        return (Learned("share of a sum over rows", 1, Nature.MASKED),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return _RING_BYTES + 32


@dataclass(frozen=True)
class LikelihoodPart(Message):
    """w_P . X_P^T (1/2 - y) of one party over the same rows; masked as `PreconditionerTrace`."""

    part: bytes
    masked: bool

    def learned(self) -> tuple[Learned, ...]:
        return (_part("the peer's part of a log-likelihood", 1, self.masked),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return INNER_PRODUCT_BYTES + 16


@dataclass(frozen=True)
class CoefficientSigns(Message):
    """Aliases of the sender after a fit: coefficients of the wrong sign, and features left out that would have the
    right one."""

    positive: tuple[str, ...]
    inward: tuple[str, ...]

    def learned(self) -> tuple[Learned, ...]:
        count = len(self.positive) + len(self.inward)
        return (Learned("which aliased features have, or would have, a coefficient of which sign", count),)

    @classmethod
    def max_bytes(cls, bounds: Bounds) -> int:
        return 64 * bounds.features + 64


def _part(what: str, numbers: int, masked: bool) -> Learned:
    return Learned(f"{what}, masked", numbers, Nature.MASKED) if masked else Learned(what, numbers)


_OUTER = "pass"
_FIT = "pass/fit"
_ITERATION = "pass/fit/iteration"
_LABELS = "pass/fit/labels"

STEPS = (
    Step("offline 0", Role.LABEL_OWNER, TrainingSize, to=Role.COORDINATOR),
    Step("offline 0", Role.COORDINATOR, DealerSeed, to=Role.PARTY),
    Step("offline 0", Role.PARTY, PairSeed, to=Role.PARTY, optional=True),
    Step("0", Role.PARTY, GradientsSpent, to=Role.PARTY),
    Step("0", Role.LABEL_OWNER, MaskedWeights, to=Role.CO_HOLDER, optional=True),
    Step("0", Role.LABEL_OWNER, CurvatureScale, to=Role.PROVIDER, optional=True),
    Step("0", Role.PARTY, PreconditionerTrace, to=Role.PARTY),
    Step("pass 1", Role.LABEL_OWNER, EncryptedRows, to=Role.PROVIDER, loop="pass/rows"),
    Step("pass 1", Role.CO_HOLDER, EncryptedRows, to=Role.PARTY, loop="pass/rows"),
    Step("pass 2", Role.PROVIDER, MaskedBinSums, to=Role.LABEL_OWNER, loop=_OUTER, optional=True),
    Step("offline 2", Role.PARTY, MaskedProducts, to=Role.CO_HOLDER, loop=_OUTER),
    Step("fit", Role.LABEL_OWNER, NextFit, to=Role.PROVIDER, loop=_FIT, optional=True),
    Step("fit", Role.LABEL_OWNER, FoldOfRows, to=Role.CO_HOLDER, loop=_FIT, optional=True),
    Step("labels", Role.LABEL_OWNER, MaskedResidual, to=Role.PROVIDER, loop=_LABELS),
    Step("labels", Role.CO_HOLDER, MaskedResidual, to=Role.PARTY, loop=_LABELS),
    Step("labels", Role.LABEL_OWNER, GradientShare, to=Role.PROVIDER, loop=_LABELS),
    Step("labels", Role.CO_HOLDER, GradientShare, to=Role.PARTY, loop=_LABELS),
    Step("6", Role.LABEL_OWNER, BatchRequest, to=Role.COORDINATOR, loop=_ITERATION),
    Step("6", Role.COORDINATOR, Corrections, to=Role.CO_HOLDER, loop=_ITERATION),
    Step("6", Role.COORDINATOR, ProductCorrections, to=Role.CO_HOLDER, loop=_ITERATION, optional=True),
    Step("6", Role.PARTY, LogitRange, to=Role.PARTY, loop="pass/fit/iteration/range"),
    Step("1", Role.PARTY, MaskedLogits, to=Role.LABEL_OWNER, loop=_ITERATION),
    Step("1", Role.PARTY, MaskedLogits, to=Role.CO_HOLDER, loop=_ITERATION),
    Step("2", Role.CO_HOLDER, MaskedFactors, to=Role.LABEL_OWNER, loop=_ITERATION, optional=True),
    Step("3", Role.LABEL_OWNER, MaskedResidual, to=Role.PROVIDER, loop=_ITERATION),
    Step("3", Role.CO_HOLDER, MaskedResidual, to=Role.PARTY, loop=_ITERATION),
    Step("3", Role.LABEL_OWNER, GradientShare, to=Role.PROVIDER, loop=_ITERATION),
    Step("3", Role.CO_HOLDER, GradientShare, to=Role.PARTY, loop=_ITERATION),
    Step("5", Role.PARTY, InnerProducts, to=Role.PARTY, loop=_ITERATION),
    Step("fit", Role.CO_HOLDER, MaskedFactors, to=Role.LABEL_OWNER, loop=_FIT, optional=True),
    Step("fit", Role.CO_HOLDER, LikelihoodShare, to=Role.LABEL_OWNER, loop=_FIT, optional=True),
    Step("fit", Role.PROVIDER, LikelihoodPart, to=Role.LABEL_OWNER, loop=_FIT, optional=True),
    Step("fit", Role.PROVIDER, CoefficientSigns, to=Role.LABEL_OWNER, loop=_FIT, optional=True),
)
SEARCH_STEPS = (  # of a training whose recipe searches for a subset: after its first fit moments may open
    *STEPS,
    *(
        replace(step, loop="/".join([_FIT, "search", *([step.loop] if step.loop else [])]), optional=True)
        for step in FIT_STEPS
        if step.message is not FeatureErrors
    ),
)
