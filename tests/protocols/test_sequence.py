"""Several fits in one training: each equals a fit of its own on pooled data, and the bounds hold over their sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.disclosure import Nature
from protocols.errors import LabelLeakageError, RecipeError, RemoteProtocolError, SmallIntersectionError
from protocols.logistic.directors import CrossValidation, PenaltyPath
from protocols.logistic.messages import (
    CoefficientSigns,
    FoldOfRows,
    GradientShare,
    LikelihoodPart,
    MaskedLogits,
    MaskedResidual,
    NextFit,
)
from protocols.logistic.offline import OfflineProducts
from protocols.logistic.party import FitRules, FitSequence
from protocols.logistic.plan import Director, FitPlan, Outcome, SequenceRules, SingleFit, check_plan, fold_rows
from protocols.roles import COORDINATOR
from tests.protocols.test_statement import KINDS, READABLE
from tests.reference.pooled import damped_newton
from tests.simulator import Job, PartyFailedError, Stages, changing, consortium

Floats = NDArray[np.float64]
ROWS = 1800
RULES = SequenceRules(fits=5, penalties=(8.0, 2.0), folds=3, subsets=True, likelihoods=True, signs=True)


class Scripted:
    """Asks for the plans it was given."""

    def __init__(self, *plans: FitPlan, chosen: int = -1) -> None:
        self._plans = plans
        self._chosen = chosen

    def next_fit(self, done: Sequence[Outcome]) -> FitPlan | None:
        return self._plans[len(done)] if len(done) < len(self._plans) else None

    def chosen(self, done: Sequence[Outcome]) -> int:
        return self._chosen % len(done)


@dataclass(frozen=True)
class Played:
    """A sequence that was played, beside its pooled data."""

    stages: Stages
    tables: Mapping[str, Any]
    sequences: Mapping[str, FitSequence]

    @property
    def design(self) -> Floats:
        blocks = [self.tables[name].design / (1 << 16) for name in self.stages.parties.all]
        return np.concatenate([np.ones((ROWS, 1)), *blocks], axis=1)

    @property
    def folds(self) -> NDArray[np.uint8]:
        (frame,) = self.stages.network.sent(FoldOfRows)
        return np.frombuffer(frame.message(FoldOfRows).folds, dtype=np.uint8)

    def weights(self, fit: int) -> Floats:
        own = [self.sequences[name].fits[fit].weights for name in self.stages.parties.all]
        return np.concatenate([[self.sequences["bank"].fits[fit].intercept], *own])

    def pooled(self, outcome: Outcome) -> Floats:
        """Damped Newton on the rows and features of a fit; zero where a feature is left out."""
        rows = self.folds != outcome.plan.fold if outcome.plan.fold is not None else np.ones(ROWS, dtype=bool)
        gone = {alias for aliases in outcome.plan.dropped.values() for alias in aliases}
        names = [feature.alias for name in self.stages.parties.all for feature in self.tables[name].features]
        kept = [0, *(j for j, alias in enumerate(names, start=1) if alias not in gone)]
        weights = np.zeros(len(names) + 1)
        penalty = RULES.penalties[outcome.plan.penalty]
        weights[kept] = damped_newton(self.design[rows][:, kept], self.stages.data.label[rows], penalty)
        return weights

    def log_likelihood(self, outcome: Outcome, weights: Floats) -> float:
        """Over the fold left out, or over all rows."""
        rows = self.folds == outcome.plan.fold if outcome.plan.fold is not None else np.ones(ROWS, dtype=bool)
        z, y = self.design[rows] @ weights, self.stages.data.label[rows]
        return float(np.sum(y * z - np.logaddexp(0, z)))


def prepared(providers: int, features: int = 4) -> tuple[Stages, Any, Any]:
    stages = Stages(consortium(providers, rows=ROWS, features=features, levels=5, strength=0.5), seed="sequence")
    rows = stages.encrypt()
    return stages, rows, stages.bin(rows)


@pytest.fixture(scope="module")
def made() -> tuple[Stages, Any, Any]:
    """Bins and masks of three parties; each test trains on them under a network of its own."""
    return prepared(2)


def play(
    made: tuple[Stages, Any, Any], director: Director, rules: FitRules, change: Any = None, seed: str = "again"
) -> Played:
    before, rows, tables = made
    stages = Stages(before.data, seed=seed, rules=rules, director=director)
    return Played(stages, tables, stages.train_sequence(rows, tables, change or {}))


@pytest.fixture(scope="module")
def played(made: tuple[Stages, Any, Any]) -> Played:
    """All rows; a fold left out, warm; another, going on with its history; a feature left out; all again."""
    tables = made[2]
    gone = {"bureau": (tables["bureau"].features[1].alias,)}
    director = Scripted(
        FitPlan(likelihood=True),
        FitPlan(fold=1, plus=(0,), likelihood=True),
        FitPlan(fold=2, plus=(1, 0), minus=(1,), history=1, likelihood=True),
        FitPlan(penalty=1, dropped=gone, plus=(0,), likelihood=True, signs=True),
        chosen=3,
    )
    return play(made, director, FitRules(sequence=RULES))


# -- the plaintext twin ------------------------------------------------------------------------------------------------


def test_every_fit_of_a_sequence_is_a_fit_of_its_own_on_pooled_rows(played: Played) -> None:
    outcomes = played.sequences["bank"].outcomes
    assert len(outcomes) == 4
    for i, outcome in enumerate(outcomes):
        assert np.abs(played.weights(i) - played.pooled(outcome)).max() < 1e-4
    assert {sequence.chosen for sequence in played.sequences.values()} == {3}


def test_the_log_likelihood_that_opens_is_that_of_the_rows_left_out_or_of_all(played: Played) -> None:
    for i, outcome in enumerate(played.sequences["bank"].outcomes):
        assert outcome.log_likelihood == pytest.approx(played.log_likelihood(outcome, played.weights(i)), rel=1e-6)
        assert outcome.rows == (ROWS if outcome.plan.fold is None else fold_rows(ROWS, 3, outcome.plan.fold))


def test_a_warm_start_spends_fewer_gradients(played: Played) -> None:
    cold, *warm = (outcome.gradients for outcome in played.sequences["bank"].outcomes)
    assert max(warm) < cold


def test_signs_are_told_of_every_party_and_right(played: Played) -> None:
    reports = played.sequences["bank"].outcomes[3].signs
    assert set(reports) == set(played.stages.parties.all)
    for name in played.stages.parties.all:
        weights = played.sequences[name].fits[3].weights
        aliases = [feature.alias for feature in played.tables[name].features]
        assert set(reports[name].positive) == {a for a, w in zip(aliases, weights, strict=True) if w > 0}
    assert not any(outcome.signs for outcome in played.sequences["bank"].outcomes[:3])


def test_cross_validation_finds_the_best_penalty_and_fits_all_rows_with_it(made: tuple[Stages, Any, Any]) -> None:
    rules = replace(RULES, fits=7)
    played = play(made, CrossValidation(rules), FitRules(sequence=rules))
    outcomes = played.sequences["bank"].outcomes
    assert len(outcomes) == 7
    pooled = [played.log_likelihood(outcome, played.pooled(outcome)) for outcome in outcomes[:6]]
    for outcome, expected in zip(outcomes[:6], pooled, strict=True):
        assert outcome.log_likelihood == pytest.approx(expected, rel=1e-3)
    best = int(np.argmax([sum(pooled[:3]), sum(pooled[3:])]))
    assert outcomes[6].plan.penalty == best
    assert played.sequences["tax"].chosen == 6
    assert np.abs(played.weights(6) - played.pooled(outcomes[6])).max() < 1e-4


# -- who learns what ---------------------------------------------------------------------------------------------------


def test_no_batch_and_no_column_serves_twice(played: Played) -> None:
    batches = [f.message(MaskedLogits).index for f in played.stages.network.sent(MaskedLogits, "tax", "bank")]
    assert len(set(batches)) == len(batches) == sum(fit.gradients for fit in played.sequences["tax"].fits)
    residuals = [f.message(MaskedResidual).shares for f in played.stages.network.sent(MaskedResidual, "bank", "tax")]
    assert len(set(residuals)) == len(residuals) == len(batches) + 3  # three label sums: all rows, two folds


def test_only_holders_know_folds_and_a_provider_is_told_of_its_own_features_alone(played: Played) -> None:
    assert [frame.receiver for frame in played.stages.network.sent(FoldOfRows)] == ["bureau"]
    told = {
        name: [f.message(NextFit).dropped for f in played.stages.network.sent(NextFit, "bank", name)]
        for name in ("bureau", "tax")
    }
    alias = played.tables["bureau"].features[1].alias
    assert told["bureau"] == [(), (), (), (alias,), ()]
    assert told["tax"] == [()] * 5


def test_the_ledger_has_a_line_for_all_that_a_sequence_opens(played: Played) -> None:
    def opened(party: str) -> dict[str, int]:
        lines = played.stages.ledgers[party].lines(to=party)
        return {line.what: line.numbers for line in lines if line.nature == Nature.OPENED.value}

    assert opened("bureau")["fold of each training row, drawn at random"] == ROWS
    assert "fold of each training row, drawn at random" not in opened("tax")
    assert opened("bureau")["that an own feature is left out of a fit"] == 1
    for provider in ("bureau", "tax"):
        assert opened(provider)["penalty, fold and start of a fit of a sequence"] == 4
        features = len(played.tables[provider].features)
        assert opened(provider)["label sums of own features over the rows of a fold, or over all"] == 3 * features
    assert opened("bank")["log-likelihood of a fit over the rows of a fold, or over all"] == 4
    assert "label sums of own features over the rows of a fold, or over all" not in opened("bank")
    assert all(f.message(LikelihoodPart).masked for f in played.stages.network.sent(LikelihoodPart))


def test_every_message_of_a_sequence_is_on_the_ledger_as_it_can_be_read(played: Played) -> None:
    expected: Counter[tuple[str, str, str, str]] = Counter()
    for frame in played.stages.network.frames:
        if frame.stage == "train" and frame.step != "StageEnd":
            for account in READABLE[KINDS[frame.step]](frame.message(KINDS[frame.step])):
                expected[frame.receiver, frame.sender, account.what, account.nature] += account.numbers
    assert all(played.stages.network.sent(kind) for kind in (NextFit, LikelihoodPart, CoefficientSigns, FoldOfRows))
    for name in (*played.stages.parties.all, COORDINATOR):
        kept = {
            (x.to, x.source, x.what, x.nature): x.numbers
            for x in played.stages.ledgers[name].lines(to=name)
            if x.stage == "train" and x.source != "all parties"
        }
        assert kept == {key: numbers for key, numbers in expected.items() if numbers and key[0] == name}


def test_a_single_fit_sends_nothing_more_than_before(job: Job) -> None:
    sent = {frame.step for frame in job.stages.network.frames}
    assert not sent & {"NextFit", "FoldOfRows", "LikelihoodShare", "LikelihoodPart", "CoefficientSigns"}
    gradients = job.fit["bank"].gradients
    assert len(job.stages.network.sent(GradientShare, "bank", "bureau")) == gradients


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_folds_of_too_few_rows_are_refused_with_the_reason(made: tuple[Stages, Any, Any]) -> None:
    _, _, tables = made
    check = replace(RULES, folds=2)
    with pytest.raises(SmallIntersectionError, match=r"FOLDS_TOO_SMALL: .* 2 folds is refused: .* 900 rows") as caught:
        check.check("bank", tables["bank"], "bank")
    assert "no cross-validation" in caught.value.remedy


def test_folds_that_show_too_much_of_a_small_bin_are_refused_by_its_owner_and_by_the_gate(
    made: tuple[Stages, Any, Any],
) -> None:
    _, _, tables = made
    own = tables["tax"]
    feature = replace(own.features[0], rows=(10, *own.features[0].rows[1:]))
    with pytest.raises(SmallIntersectionError, match="a bin of 10 rows"):
        RULES.check("tax", replace(own, features=(feature, *own.features[1:])), "bank")
    bank = tables["bank"]
    peer = replace(bank.peers["tax"][0], rows=(10, *bank.peers["tax"][0].rows[1:]))
    with pytest.raises(SmallIntersectionError, match="a bin of 10 rows"):
        RULES.check("bank", replace(bank, peers=dict(bank.peers) | {"tax": (peer,)}), "bank")
    RULES.check("tax", own, "bank")


def test_label_sums_of_folds_count_against_the_label_budget(made: tuple[Stages, Any, Any]) -> None:
    bank = made[2]["bank"]
    given = 3 * sum(len(f.woe) - 1 for name in ("bureau", "tax") for f in made[2][name].features)
    RULES.check("bank", replace(bank, label_budget=bank.label_cost + given), "bank")
    with pytest.raises(LabelLeakageError, match="LABEL_BUDGET"):
        RULES.check("bank", replace(bank, label_budget=bank.label_cost + given - 1), "bank")


def test_gradients_of_a_fit_that_is_only_compared_carry_more_noise(
    made: tuple[Stages, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tells a sparse column of another party apart are the low digits of many gradients (ADR 14)."""
    halves: dict[tuple[str, str], list[list[int]]] = {}
    half = OfflineProducts.half

    def record(self: OfflineProducts, party: str, column: int) -> list[int]:
        halves.setdefault((self._name, party), []).append(half(self, party, column))
        return halves[self._name, party][-1]

    monkeypatch.setattr(OfflineProducts, "half", record)
    played = play(made, Scripted(FitPlan(loose=True), FitPlan(plus=(0,))), FitRules(sequence=RULES))
    loose = played.sequences["bank"].outcomes[0].gradients
    ring = made[1]["bank"].layout.ring
    noises: tuple[list[float], list[float]] = ([], [])
    for (holder, party), columns in halves.items():
        frames = played.stages.network.sent(GradientShare, holder, party)
        for i, (frame, own) in enumerate(zip(frames, columns, strict=True)):
            sent = ring.to_integers(ring.from_bytes(frame.message(GradientShare).shares, (len(own),)))
            noises[i >= loose].extend(ring.lift(a - b) / 2**56 for a, b in zip(sent, own, strict=True))
    for found, most in zip(noises, (1e-3, 1e-5), strict=True):
        assert max(map(abs, found)) <= 1.01 * most
        assert np.std(found) == pytest.approx(most / 3**0.5, rel=0.2)


def test_a_spent_budget_ends_the_sequence_with_the_best_so_far_where_the_director_says_so(
    made: tuple[Stages, Any, Any],
) -> None:
    rules = FitRules(max_gradients=12, tolerance=1e-2, sequence=replace(RULES, folds=0))
    played = play(made, PenaltyPath(RULES), rules)
    outcomes = played.sequences["bank"].outcomes
    used = sum(outcome.gradients for outcome in outcomes)
    assert [outcome.converged for outcome in outcomes] == [True, False] or used <= 12
    tight = replace(rules, max_gradients=outcomes[0].gradients + 1)
    short = play(made, PenaltyPath(RULES), tight, seed="tight").sequences
    assert [fit.converged for fit in short["tax"].fits] == [True, False]
    assert {sequence.chosen for sequence in short.values()} == {0}
    assert sum(fit.gradients for fit in short["tax"].fits) == tight.max_gradients


def test_a_spent_budget_ends_the_job_where_the_director_does_not(made: tuple[Stages, Any, Any]) -> None:
    director = Scripted(FitPlan(), FitPlan(1))
    with pytest.raises(PartyFailedError) as caught:
        play(made, director, FitRules(max_gradients=4, sequence=RULES))
    assert caught.value.codes == dict.fromkeys(("bank", "bureau", "tax"), "NOT_CONVERGED")


# -- deviations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: replace(m, index=1),
        lambda m: replace(m, penalty=2),
        lambda m: replace(m, fold=4),
        lambda m: replace(m, plus=(0,)),
        lambda m: replace(m, history=1),
        lambda m: replace(m, dropped=("tax.99",)),
        lambda m: replace(m, ended=True),
    ],
    ids=["index", "penalty", "fold", "start", "history", "alias", "end"],
)
def test_a_fit_that_the_recipe_does_not_permit_is_refused_by_a_provider(
    made: tuple[Stages, Any, Any], edit: Any
) -> None:
    with pytest.raises(PartyFailedError) as caught:
        play(made, Scripted(FitPlan()), FitRules(sequence=RULES), {"bank": changing(NextFit, edit)})
    assert caught.value.code == "CHECK_FAILED"
    assert isinstance(caught.value.error, RemoteProtocolError)


def test_folds_of_other_sizes_are_refused(made: tuple[Stages, Any, Any]) -> None:
    change = {"bank": changing(FoldOfRows, lambda m: replace(m, folds=bytes(ROWS)))}
    with pytest.raises(PartyFailedError) as caught:
        play(made, Scripted(FitPlan(fold=0)), FitRules(sequence=RULES), change)
    assert (caught.value.party, caught.value.code) == ("bureau", "CHECK_FAILED")


def test_a_director_that_asks_for_more_than_the_recipe_is_an_error_at_home(made: tuple[Stages, Any, Any]) -> None:
    with pytest.raises(PartyFailedError) as caught:
        play(made, Scripted(FitPlan(penalty=5)), FitRules(sequence=RULES))
    assert (caught.value.party, caught.value.code) == ("bank", "PLAN_REFUSED")
    assert isinstance(caught.value.error, RecipeError)


def test_what_a_recipe_permits() -> None:
    shape = {"bank": 4, "bureau": 4}
    done = [FitPlan(), FitPlan(1, fold=0)]
    allowed = [
        FitPlan(),
        FitPlan(1, plus=(0,)),
        FitPlan(1, plus=(0, 1), minus=(1,)),
        FitPlan(1, fold=2, plus=(1,), history=1),
        FitPlan(dropped={"bureau": ("a",)}),
    ]
    refused = [
        FitPlan(2),
        FitPlan(fold=3),
        FitPlan(plus=(2,)),
        FitPlan(plus=(0, 1)),
        FitPlan(minus=(0,)),
        FitPlan(0, plus=(1,), history=1),
        FitPlan(1, plus=(1,), history=1),
        FitPlan(1, fold=2, history=1),
        FitPlan(dropped={"bureau": ("a", "b")}),
    ]
    assert all(check_plan(plan, RULES, shape, done) for plan in allowed)
    assert not any(check_plan(plan, RULES, shape, done) for plan in refused)
    assert not check_plan(FitPlan(), RULES, shape, [FitPlan()] * 5)
    bare = SequenceRules(fits=3)
    for plan in (FitPlan(likelihood=True), FitPlan(signs=True), FitPlan(fold=0), FitPlan(dropped={"bank": ("a",)})):
        assert not check_plan(plan, bare, shape, [])
    assert SingleFit().next_fit([]) == FitPlan()
