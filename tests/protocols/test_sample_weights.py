"""A weighted fit: equal to statsmodels on pooled rows, and a weight is known to its owner alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray

from protocols.binning.budget import label_cost
from protocols.errors import DataError, LocalProtocolError
from protocols.fixed_point import SlotLayout
from protocols.logistic.dealer import factor_masks, product_corrections, product_masks, weight_masks
from protocols.logistic.messages import (
    BatchRequest,
    CurvatureScale,
    DealerSeed,
    LikelihoodPart,
    LikelihoodShare,
    MaskedFactors,
    MaskedResidual,
    MaskedWeights,
    ProductCorrections,
)
from protocols.logistic.party import FitRules
from protocols.logistic.plan import FitPlan, Outcome, SequenceRules
from protocols.logistic.weights import SampleWeights
from protocols.messages import Message
from protocols.moments.inference import coefficient_tests, covariance
from protocols.moments.layout import LARGEST_WEIGHT, WorkingResponse
from protocols.moments.run import run
from protocols.roles import COORDINATOR
from tests.protocols.test_moments import permissions_of
from tests.protocols.test_sequence import Scripted
from tests.protocols.test_statement import KINDS, READABLE, expected_lines
from tests.reference.pooled import damped_newton
from tests.simulator import (
    ROWS,
    WEIGHTED_KEY_BITS,
    Consortium,
    Job,
    PartyFailedError,
    Stages,
    changing,
    consortium,
    play_job,
    seeded,
)

Floats = NDArray[np.float64]
NEW = (MaskedWeights, CurvatureScale, ProductCorrections, MaskedFactors)


def made_up_weights(data: Consortium, seed: int = 3) -> SampleWeights:
    """Bads count a fifth, as after oversampling; and every row has a factor of its own."""
    own = np.exp(0.4 * np.random.default_rng(seed).normal(size=data.rows))
    return SampleWeights.of(np.where(data.label == 1, 0.2, 1.0) * own)


def weighted(data: Consortium, seed: object, **settings: Any) -> Stages:
    return Stages(data, seed=seed, key_bits=WEIGHTED_KEY_BITS, weights=made_up_weights(data), **settings)


@cache
def fitted(providers: int) -> Job:
    return play_job(weighted(consortium(providers), f"weighted {providers}", rules=FitRules(l2=0.0)))


@pytest.fixture(scope="module", params=[1, 2, 3], ids=lambda k: f"k={k}")
def job(request: pytest.FixtureRequest) -> Job:
    return fitted(request.param)


def weights_of(job: Job) -> Floats:
    assert job.stages.weights is not None
    return job.stages.weights.values


def statsmodels_fit(job: Job) -> Any:
    family = sm.families.Binomial()
    x, y = job.pooled_design(), job.stages.data.label
    return sm.GLM(y, x, family=family, var_weights=weights_of(job)).fit(tol=1e-13, maxiter=200)


# -- the plaintext twin ------------------------------------------------------------------------------------------------


def test_coefficients_are_those_of_statsmodels_with_these_weights_on_pooled_rows(job: Job) -> None:
    expected = statsmodels_fit(job).params
    assert np.abs(job.coefficients() - expected).max() < 5e-5
    assert np.abs(expected - damped_newton(job.pooled_design(), job.stages.data.label, 0.0)).max() > 0.1
    probability = 1 / (1 + np.exp(-job.pooled_design() @ job.coefficients()))
    weights, label = weights_of(job), job.stages.data.label
    assert np.average(probability, weights=weights) == pytest.approx(np.average(label, weights=weights), abs=1e-5)


def test_the_preconditioner_knows_the_weighted_curvature_and_the_fit_takes_no_more_gradients(
    job: Job, job_of: Callable[[int], Job]
) -> None:
    """Unscaled, the same fit took twice as many."""
    assert job.fit["bank"].gradients <= job_of(len(job.parties.providers)).fit["bank"].gradients + 4
    (scale,) = {f.message(CurvatureScale).exponent for f in job.stages.network.sent(CurvatureScale)}
    x, y, s = job.pooled_design(), job.stages.data.label, weights_of(job)
    w = damped_newton(x, y, 1.0, weights=s)
    p, rate = 1 / (1 + np.exp(-x @ w)), y.mean()
    assert np.sum(s * p * (1 - p)) / (len(y) * rate * (1 - rate)) == pytest.approx(2.0**scale, rel=0.5)


def test_standard_errors_wald_and_intervals_are_those_of_statsmodels(job: Job) -> None:
    fit = statsmodels_fit(job)
    logits = np.round(job.pooled_design() @ job.coefficients(), 2)
    working = WorkingResponse.of_fit(logits, job.stages.data.label, weights_of(job))
    assert working.bits < 26
    assert LARGEST_WEIGHT >= working.weights.max() > LARGEST_WEIGHT // 16
    permissions, bounds = permissions_of(job.parties), job.stages.data.bounds(WEIGHTED_KEY_BITS)
    moments = run(
        job.parties, job.tables, job.rows, seeded(5), permissions, bounds, working=working,
        minimum_key_bits=WEIGHTED_KEY_BITS,
    )  # fmt: skip
    tests = coefficient_tests(job.coefficients(), covariance(moments))
    np.testing.assert_allclose(tests.standard_errors, fit.bse, rtol=1e-3)
    np.testing.assert_allclose(tests.z, fit.tvalues, rtol=2e-3)
    np.testing.assert_allclose(np.stack([tests.low, tests.high], axis=1), fit.conf_int(), rtol=2e-3, atol=1e-3)
    step = np.linalg.solve(moments.matrix, moments.response_vector)
    np.testing.assert_allclose(step, job.coefficients(), atol=1e-3)  # what a search on these moments starts from


RULES = SequenceRules(fits=4, penalties=(8.0, 2.0), folds=3, subsets=True, likelihoods=True, signs=True)


def test_folds_subsets_signs_and_log_likelihoods_are_weighted_too() -> None:
    data = consortium(2, rows=1800, features=4, levels=5, strength=0.5)
    stages = weighted(data, "weighted sequence", rules=FitRules(sequence=RULES))
    rows = stages.encrypt()
    tables = stages.bin(rows)
    gone = {"tax": (tables["tax"].features[1].alias,)}
    stages.director = Scripted(
        FitPlan(likelihood=True),
        FitPlan(fold=1, plus=(0,), likelihood=True),
        FitPlan(penalty=1, dropped=gone, plus=(0,), likelihood=True, signs=True),
        chosen=2,
    )
    sequences = stages.train_sequence(rows, tables)
    assert stages.weights is not None
    s, y = stages.weights.values, data.label
    x = Job(stages, rows, tables, {}).pooled_design()
    folds = stages_folds(stages)
    names = [feature.alias for name in stages.parties.all for feature in tables[name].features]
    outcomes: Sequence[Outcome] = sequences["bank"].outcomes
    for i, outcome in enumerate(outcomes):
        taken = np.ones(len(y), dtype=bool) if outcome.plan.fold is None else folds != outcome.plan.fold
        judged = np.ones(len(y), dtype=bool) if outcome.plan.fold is None else ~taken
        kept = [0, *(j for j, alias in enumerate(names, start=1) if alias not in outcome.plan.dropped.get("tax", ()))]
        l2 = RULES.penalties[outcome.plan.penalty]
        expected = np.zeros(len(names) + 1)
        expected[kept] = damped_newton(x[taken][:, kept], y[taken], l2, weights=s[taken])
        own = [sequences[name].fits[i].weights for name in stages.parties.all]
        got = np.concatenate([[sequences["bank"].fits[i].intercept], *own])
        assert np.abs(got - expected).max() < 1e-4
        z = x[judged] @ got
        exact = float(np.sum(s[judged] * (y[judged] * z - np.logaddexp(0, z))))
        assert outcome.log_likelihood == pytest.approx(exact, rel=1e-6)
    assert set(outcomes[2].signs) == set(stages.parties.all)
    sent = stages.network
    assert all(sent.sent(kind) for kind in (LikelihoodShare, LikelihoodPart))
    gradients = sum(outcome.gradients for outcome in outcomes)
    factors = [f.message(MaskedFactors).shares for f in sent.sent(MaskedFactors)]
    assert len(set(factors)) == len(factors) == gradients + len(outcomes)  # one more a log-likelihood, of its own mask


def stages_folds(stages: Stages) -> NDArray[np.uint8]:
    (frame,) = [f for f in stages.network.frames if f.step == "FoldOfRows"]
    return np.frombuffer(frame.message(KINDS["FoldOfRows"]).folds, dtype=np.uint8)


# -- who learns what ---------------------------------------------------------------------------------------------------


def test_only_the_co_holder_and_the_label_owner_get_anything_of_the_weights_and_only_masked(job: Job) -> None:
    ways = {(f.step, f.sender, f.receiver) for kind in NEW for f in job.stages.network.sent(kind)}
    told = {("CurvatureScale", "bank", name) for name in job.parties.providers}
    assert ways == told | {
        ("MaskedWeights", "bank", "bureau"),
        ("ProductCorrections", COORDINATOR, "bureau"),
        ("MaskedFactors", "bureau", "bank"),
    }
    assert len(job.stages.network.sent(MaskedWeights)) == 1
    assert len(job.stages.network.sent(MaskedFactors)) == job.fit["bank"].gradients


def test_every_line_of_the_ledger_is_what_can_be_read(job: Job) -> None:
    assert set(NEW) <= set(READABLE)
    expected: Counter[tuple[str, str, str, str, str]] = Counter()
    for receiver, stage, source, account in expected_lines(job):
        if stage == "train":
            expected[receiver, stage, source, account.what, account.nature] += account.numbers
    for name in (*job.parties.all, COORDINATOR):
        kept = {
            (x.to, x.stage, x.source, x.what, x.nature): x.numbers
            for x in job.stages.ledgers[name].lines(to=name)
            if x.stage == "train"
        }
        assert kept == {key: numbers for key, numbers in expected.items() if numbers and key[0] == name}


def seed_of(job: Job, party: str) -> bytes:
    (frame,) = job.stages.network.sent(DealerSeed, COORDINATOR, party)
    return bytes(frame.message(DealerSeed).seed)


def test_what_the_co_holder_gets_is_the_weights_less_a_mask_that_only_the_owner_and_the_dealer_can_draw() -> None:
    """Two jobs from the same randomness with other weights: all that reaches the co-holder up to its first gradient
    share is equal, but for w - a, which differs by the weights; and a is uniform."""
    first = fitted(1)
    data, tables, rows = first.stages.data, first.tables, first.rows
    messages = []
    shares = []
    chosen = [made_up_weights(data, 3), SampleWeights(made_up_weights(data, 3).units[::-1].copy())]
    exponents = {weights.curvature_exponent(data.label) for weights in chosen}
    assert len(exponents) == 2  # what the provider is told of them
    for weights in chosen:
        stages = replace(weighted(data, "same"), weights=weights, rules=FitRules(l2=0.0, max_gradients=1))
        with pytest.raises(PartyFailedError, match="NOT_CONVERGED"):
            stages.train(rows, tables)
        frames = [f for f in stages.network.frames if f.receiver == "bureau"]
        stop = next(i for i, f in enumerate(frames) if f.step == "MaskedLogits")
        messages.append([f for f in frames[:stop] if f.step not in ("MaskedWeights", "CurvatureScale")])
        (masked,) = stages.network.sent(MaskedWeights)
        ring = rows["bank"].layout.ring
        mask = weight_masks(seed_of(Job(stages, rows, tables, {}), "bank"), data.rows, ring)
        sent = ring.from_bytes(masked.message(MaskedWeights).shares, (data.rows,))
        assert ring.to_integers(ring.add(sent, mask)) == weights.units.tolist()
        shares.append(sent)
        for limb in range(2):
            top = np.bincount(sent[:, limb] >> 28, minlength=16)
            assert ((top - data.rows / 16) ** 2 / (data.rows / 16)).sum() < 50  # 15 degrees: probability 1e-5
    kinds = {f.step for f in messages[0]}
    assert {"DealerSeed", "GradientsSpent", "Corrections", "ProductCorrections", "LogitRange"} <= kinds
    differing = {a.step for a, b in zip(*messages, strict=True) if a.data != b.data}
    assert differing <= {"LogitRange", "PreconditionerTrace"}  # of the label owner's start and curvature
    ring = rows["bank"].layout.ring
    gap = chosen[0].units - chosen[1].units
    assert ring.to_integers(ring.subtract(*shares)) == gap.tolist()


def test_the_dealers_products_are_shares_of_products_of_what_it_dealt(job: Job) -> None:
    ring, n = job.rows["bank"].layout.ring, job.stages.data.rows
    owner, holder = (seed_of(job, name) for name in job.parties.share_holders)
    a = ring.to_integers(weight_masks(owner, n, ring), signed=False)
    for frame in job.stages.network.sent(ProductCorrections)[:2]:
        sent = frame.message(ProductCorrections)
        b = ring.to_integers(factor_masks(holder, sent.index, sent.period, n, ring), signed=False)
        alpha = product_masks(owner, sent.index, sent.period, n, ring)
        beta = ring.from_bytes(sent.shares, (n,))
        total = ring.to_integers(ring.add(alpha[:n], beta), signed=False)
        assert total == [x * y % ring.modulus for x, y in zip(a, b, strict=True)]
        whole = product_corrections(owner, holder, sent.index, sent.period, n, ring)
        assert ring.to_bytes(whole[n:]) == sent.total


def test_a_batch_of_a_period_that_is_left_is_discarded_with_its_products(job: Job) -> None:
    wide = job.fit["bank"].period == 64
    assert wide >= (len(job.parties.providers) == 3)  # there at least the logits leave [-12, 12]
    batches = {f.message(ProductCorrections).index for f in job.stages.network.sent(ProductCorrections)}
    requests = [f.message(BatchRequest) for f in job.stages.network.sent(BatchRequest)]
    assert batches == {request.index for request in requests if not request.ended}
    used = [f.message(MaskedFactors).index for f in job.stages.network.sent(MaskedFactors)]
    assert len(set(used)) == len(used) == len(batches) - wide


def test_a_fit_without_weights_sends_none_of_these_messages_and_keeps_its_ring(job_of: Callable[[int], Job]) -> None:
    job = job_of(2)
    assert not any(job.stages.network.sent(kind) for kind in NEW)
    plain, wide = (SlotLayout.of_job(ROWS, 2048, weighted=weighted) for weighted in (False, True))
    assert wide.ring_bits == plain.ring_bits + 11
    assert job.rows["bank"].layout.ring_bits == plain.ring_bits
    assert (plain.slots, wide.slots) == (11, 11)


def test_a_providers_feature_costs_the_label_budget_its_bins_twice(job: Job) -> None:
    table = job.tables["bank"]
    bins = [len(peer.rows) for peers in table.peers.values() for peer in peers]
    dropped = sum(len(peers) for peers in table.dropped_peers.values())
    assert table.label_cost == label_cost(bins, dropped) + sum(bins) - len(bins)


# -- refusals ----------------------------------------------------------------------------------------------------------


def too_short(message: Any) -> Any:
    return replace(message, shares=message.shares[:-1])


def beyond(message: Any) -> Any:
    return replace(message, shares=b"\xff" * len(message.shares))


CASES: list[tuple[str, type[Message], Callable[[Any], Any]]] = [
    ("bank", MaskedWeights, too_short),
    ("bank", MaskedWeights, beyond),
    ("bank", CurvatureScale, lambda m: replace(m, exponent=13)),
    ("bank", CurvatureScale, lambda m: replace(m, exponent=-13)),
    ("bureau", MaskedFactors, too_short),
    ("bureau", MaskedFactors, beyond),
    ("bureau", MaskedFactors, lambda m: replace(m, index=m.index + 1)),
    (COORDINATOR, ProductCorrections, too_short),
    (COORDINATOR, ProductCorrections, beyond),
    (COORDINATOR, ProductCorrections, lambda m: replace(m, index=m.index + 1)),
    (COORDINATOR, ProductCorrections, lambda m: replace(m, period=64)),
]


@pytest.mark.parametrize(("sender", "kind", "edit"), CASES, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_message_of_another_length_ring_or_batch_is_refused(
    sender: str, kind: type[Message], edit: Callable[[Any], Any]
) -> None:
    job = fitted(1)
    stages = weighted(job.stages.data, "refused")
    with pytest.raises(PartyFailedError) as caught:
        stages.train(job.rows, job.tables, {sender: changing(kind, edit)})
    receiver = "bank" if kind is MaskedFactors else "bureau"
    assert (caught.value.party, caught.value.code) == (receiver, "CHECK_FAILED")
    assert not stages.network.sent(MaskedResidual, receiver)


def test_weights_are_divided_by_their_mean_and_those_beyond_the_range_are_refused() -> None:
    weights = SampleWeights.of(np.array([2.0, 2.0, 8.0]))
    assert weights.units.tolist() == [512, 512, 2048]
    assert weights.effective_rows == pytest.approx(3**2 / (0.5**2 + 0.5**2 + 2**2))
    assert weights.rate(np.array([1, 0, 0])) == pytest.approx(1 / 6)
    flat = np.ones(1000)
    for wrong in (0.0, -1.0, 0.01, 70.0, np.nan, np.inf):
        values = flat.copy()
        values[7] = wrong
        with pytest.raises(DataError, match="WEIGHT_RANGE") as caught:
            SampleWeights.of(values)
        assert "trim" in caught.value.remedy
    for units in (np.array([1024, 15]), np.array([1024, 1 << 16]), np.array([4096, 4096])):
        with pytest.raises(LocalProtocolError, match="WEIGHTS_INVALID"):
            SampleWeights(units)


def test_weights_and_the_ring_for_them_go_together(job_of: Callable[[int], Job]) -> None:
    job, plain = fitted(1), job_of(1)
    with pytest.raises(LocalProtocolError, match="ROLE_INVALID"):
        Stages(job.stages.data, key_bits=WEIGHTED_KEY_BITS).training_roles(job.rows, job.tables)
    with pytest.raises(LocalProtocolError, match="RING_INVALID"):
        weighted(plain.stages.data, "narrow").training_roles(plain.rows, plain.tables)
    short = SampleWeights(np.full(ROWS - 1, 1024))
    with pytest.raises(LocalProtocolError, match="WEIGHTS_INVALID"):
        replace(weighted(job.stages.data, "short"), weights=short).training_roles(job.rows, job.tables)
