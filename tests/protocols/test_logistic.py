"""The fit against damped Newton on pooled data, its gradients, its further passes, its range, its stops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.errors import ModelError, SmallIntersectionError
from protocols.logistic import party as training
from protocols.logistic.lbfgs import Block, Direction
from protocols.logistic.messages import (
    BatchRequest,
    Corrections,
    GradientShare,
    InnerProducts,
    LogitRange,
    MaskedBinSums,
    MaskedLogits,
    PreconditionerTrace,
)
from protocols.logistic.offline import OfflineProducts
from protocols.logistic.party import FitRules
from protocols.logistic.sums import MaskedSums, fixed
from protocols.rows.messages import EncryptedRows
from tests.reference.pooled import damped_newton
from tests.simulator import Job, PartyFailedError, Stages, consortium, play_job

Floats = NDArray[np.float64]


def refit(job: Job, seed: str, **rules: Any) -> Job:
    """The job's bins and rows, trained again."""
    stages = Stages(job.stages.data, seed=seed, rules=FitRules(**rules))
    return Job(stages, job.rows, job.tables, stages.train(job.rows, job.tables))


# -- the plaintext twin ------------------------------------------------------------------------------------------------


def test_coefficients_are_those_of_newton_on_pooled_data(job: Job) -> None:
    expected = damped_newton(job.pooled_design(), job.stages.data.label, 1.0)
    assert np.abs(job.coefficients() - expected).max() < 5e-5
    probability = 1 / (1 + np.exp(-job.pooled_design() @ job.coefficients()))
    assert probability.mean() == pytest.approx(job.stages.data.label.mean(), abs=1e-5)  # calibration, not rank alone


@pytest.mark.parametrize("l2", [0.3, 30.0])
def test_another_penalty_is_met_too(l2: float, job_of: Callable[[int], Job]) -> None:
    fit = refit(job_of(2), f"penalty {l2}", l2=l2)
    expected = damped_newton(fit.pooled_design(), fit.stages.data.label, l2)
    assert np.abs(fit.coefficients() - expected).max() < 1e-4


def test_all_parties_stop_alike_and_only_the_label_owner_has_an_intercept(job: Job) -> None:
    assert len({(fit.gradients, fit.norm, fit.period) for fit in job.fit.values()}) == 1
    assert {name for name, fit in job.fit.items() if fit.intercept is not None} == {"bank"}
    assert job.fit["bank"].norm <= 1e-4


def test_a_looser_tolerance_stops_earlier(job_of: Callable[[int], Job]) -> None:
    assert refit(job_of(1), "loose", tolerance=0.1).fit["bank"].gradients < job_of(1).fit["bank"].gradients


def test_every_opened_gradient_is_that_of_the_regularised_loss(
    job_of: Callable[[int], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each party's block, at the weights it is taken at, within the noise that the specification adds."""
    job = job_of(2)
    taken: dict[int, list[tuple[Floats, Floats]]] = {}
    take = Block.take_gradient

    def record(self: Block, gradient: Floats, *, keep_pair: bool) -> None:
        taken.setdefault(id(self), []).append((self.weights.copy(), gradient.copy()))
        take(self, gradient, keep_pair=keep_pair)

    monkeypatch.setattr(Block, "take_gradient", record)
    stages = Stages(job.stages.data, seed="gradients")
    roles = stages.training_roles(job.rows, job.tables)
    stages.train(job.rows, job.tables, roles=roles)
    x, y = job.pooled_design(), stages.data.label
    blocks = [taken[id(roles[name]._block)] for name in job.parties.all]
    noises = []
    for at in zip(*blocks, strict=True):
        w, g = (np.concatenate(column) for column in zip(*at, strict=True))
        penalty = np.ones(len(w))
        penalty[0] = 0.0
        exact = x.T @ (1 / (1 + np.exp(-x @ w)) - y) + penalty * w
        noises.append(np.abs(g - exact).max())
    assert max(noises) < 5e-3  # 1,200 rows, each within 2e-6 of the sigmoid
    assert min(noises) > 1e-7  # and noise there is


# -- further passes ----------------------------------------------------------------------------------------------------


def test_further_passes_come_whenever_the_columns_of_one_are_spent(job: Job) -> None:
    slots = job.rows["bank"].layout.slots
    assert slots == 3
    gradients = job.fit["bank"].gradients
    passes = 1 + -(-(gradients - (slots - 1)) // (slots - 1))
    assert passes > 4
    chunks = [f for f in job.stages.network.sent(EncryptedRows, "bank", "bureau") if f.stage == "train"]
    assert len(chunks) == 2 * (passes - 1)
    assert len(job.stages.network.sent(MaskedBinSums, "bureau")) == passes - 1


def test_a_further_pass_carries_no_label_and_repeats_the_reserved_column(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    held = job.rows["bank"]
    assert held.own_key is not None
    assert held.masks is not None
    layout = held.layout
    data = b"".join(
        f.message(EncryptedRows).ciphertexts
        for f in job.stages.network.sent(EncryptedRows, "bank")
        if f.stage == "train"
    )
    width = 2 * layout.key_bits // 8
    values = [int.from_bytes(data[i * width : (i + 1) * width], "little") for i in range(layout.rows)]
    plain = held.own_key.decrypt(values)
    assert max(plain) >> layout.label_shift == 0
    reserved = layout.ring.to_integers(held.masks[-1], signed=False)
    assert [layout.digits(value, layout.label_owner_slot)[0] for value in plain] == reserved
    used = {layout.digits(value, layout.label_owner_slot)[1] for value in plain}
    assert not used & set(layout.ring.to_integers(held.masks.reshape(-1, 3), signed=False))


def test_halves_and_subtrahends_differ_by_the_product_of_features_and_masks(
    job_of: Callable[[int], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline: half - s = X_P^T R_Q for every column of every pass and every pair of party and holder."""
    job = job_of(2)
    stages = Stages(job.stages.data, seed="offline", rules=FitRules(max_gradients=6))
    roles = stages.training_roles(job.rows, job.tables)
    parts: dict[str, OfflineProducts] = {name: roles[name]._offline for name in job.parties.all}
    columns: dict[int, dict[str, Any]] = {}

    def seen(name: str, what: str, column: int, value: Any) -> Any:
        columns.setdefault(column, {})[f"{name}: {what}"] = value
        return value

    for name, part in parts.items():
        for what in ("mask_column", "subtrahend"):
            take = getattr(part, what)
            monkeypatch.setattr(part, what, lambda c, take=take, name=name, what=what: seen(name, what, c, take(c)))
        half = part.half
        monkeypatch.setattr(
            part, "half", lambda to, c, half=half, name=name: seen(name, f"half of {to}", c, half(to, c))
        )
    with pytest.raises(PartyFailedError, match="NOT_CONVERGED"):
        stages.train(job.rows, job.tables, roles=roles)
    assert len(columns) == 6
    ring = job.rows["bank"].layout.ring
    for found in columns.values():
        for name in job.parties.all:
            holders = [holder for holder in job.parties.share_holders if holder != name]
            design = roles[name]._design
            masks = ring.add(*[found[f"{holder}: mask_column"] for holder in holders])
            halves = [sum(column) for column in zip(*[found[f"{h}: half of {name}"] for h in holders], strict=True)]
            own = found[f"{name}: subtrahend"]
            expected = ring.transpose_product(design, masks)
            assert [(a - s) % ring.modulus for a, s in zip(halves, own, strict=True)] == expected
    noises = []
    for holder in job.parties.share_holders:
        for name in job.parties.others(holder):
            frames = stages.network.sent(GradientShare, holder, name)
            for frame, (_, found) in zip(frames, sorted(columns.items()), strict=True):
                half = found[f"{holder}: half of {name}"]
                sent = ring.to_integers(ring.from_bytes(frame.message(GradientShare).shares, (len(half),)))
                noises += [ring.lift(a - b) / 2**56 for a, b in zip(sent, half, strict=True)]
    assert max(map(abs, noises)) <= 1.01e-5
    assert np.std(noises) == pytest.approx(1e-5 / 3**0.5, rel=0.2)  # uniform, as the specification asks


# -- range of the logits -----------------------------------------------------------------------------------------------


def test_logits_beyond_12_change_the_period_once_and_the_fit_stays_right(job_of: Callable[[int], Job]) -> None:
    job = job_of(3)
    assert {fit.period for fit in job.fit.values()} == {64}
    requests = [f.message(BatchRequest) for f in job.stages.network.sent(BatchRequest)]
    periods = [request.period for request in requests if not request.ended]
    switch = periods.index(64)
    assert periods == [32] * switch + [64] * (len(periods) - switch)
    assert switch > 1
    assert [request.index for request in requests] == list(range(len(requests)))
    used = [f.message(MaskedLogits).index for f in job.stages.network.sent(MaskedLogits, "bank")]
    assert used == [i for i in range(len(periods)) if i != switch - 1]  # the unused batch of the index is discarded
    assert len(job.stages.network.sent(Corrections)) == len(periods)


def test_the_dealer_learns_only_the_number_of_rows_and_the_periods(job_of: Callable[[int], Job]) -> None:
    to_dealer = {f.step for f in job_of(3).stages.network.frames if f.receiver == "coordinator"}
    assert to_dealer == {"TrainingSize", "BatchRequest", "StageEnd"}


def test_a_step_beyond_28_is_halved_without_spending_a_gradient(
    job_of: Callable[[int], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(1)
    step = Block.step

    def overshoot(self: Block, direction: Direction, scale: float) -> None:
        first = not hasattr(self, "_overshot")
        self._overshot = True  # type: ignore[attr-defined]
        step(self, direction, 60 * scale if first else scale)

    monkeypatch.setattr(Block, "step", overshoot)
    fit = refit(job, "overshoot")
    ranges = len(fit.stages.network.sent(LogitRange, "bank"))
    logits = len(fit.stages.network.sent(MaskedLogits, "bank"))
    assert ranges > logits == fit.fit["bank"].gradients
    assert fit.fit["bank"].period == 64
    expected = damped_newton(fit.pooled_design(), fit.stages.data.label, 1.0)
    assert np.abs(fit.coefficients() - expected).max() < 1e-4


def test_ten_halvings_are_the_most(job_of: Callable[[int], Job], monkeypatch: pytest.MonkeyPatch) -> None:
    step = Block.step
    monkeypatch.setattr(Block, "step", lambda self, direction, scale: step(self, direction, 1e6 * scale))
    with pytest.raises(PartyFailedError) as caught:
        refit(job_of(2), "too far")
    assert caught.value.codes == dict.fromkeys(job_of(2).parties.all, "LOGITS_OUT_OF_RANGE")


# -- stops -------------------------------------------------------------------------------------------------------------


def test_a_spent_gradient_budget_ends_the_job_alike_on_all_parties_and_names_the_norm(
    job_of: Callable[[int], Job],
) -> None:
    stages = Stages(job_of(2).stages.data, seed="short", rules=FitRules(max_gradients=3))
    with pytest.raises(PartyFailedError, match="the preconditioned gradient norm is") as caught:
        stages.train(job_of(2).rows, job_of(2).tables)
    assert caught.value.codes == dict.fromkeys(stages.parties.all, "NOT_CONVERGED")
    assert isinstance(caught.value.error, ModelError)
    assert len(stages.network.sent(InnerProducts, "bank", "bureau")) == 3


def test_the_gradient_budget_follows_from_rows_and_features(job_of: Callable[[int], Job]) -> None:
    fit = refit(job_of(1), "whole budget", max_gradients=10_000).fit
    assert {one.budget for one in fit.values()} == {1200 // (4 * 4)}


def test_fewer_than_15_gradients_are_refused_before_training(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    crowded = {name: replace(table, shape={"bank": 4, "bureau": 21}) for name, table in job.tables.items()}
    with pytest.raises(SmallIntersectionError, match="TOO_FEW_ROWS"):
        Stages(job.stages.data).training_roles(job.rows, crowded)


def test_a_trace_above_50_is_refused_alike_on_all_parties_before_a_gradient(job_of: Callable[[int], Job]) -> None:
    job = job_of(2)
    tables = {
        name: replace(table, features=(table.features[0],) * 4, codes=table.codes[:, [0] * 4])
        for name, table in job.tables.items()
    }
    stages = Stages(job.stages.data, seed="collinear", rules=FitRules(l2=0.01))
    with pytest.raises(PartyFailedError) as caught:
        stages.train(job.rows, tables)
    assert caught.value.codes == dict.fromkeys(job.parties.all, "TRACE_TOO_LARGE")
    assert len(stages.network.sent(PreconditionerTrace)) == 6
    assert not stages.network.sent(MaskedLogits)


def test_an_inner_product_beyond_2_to_the_61_ends_the_job() -> None:
    for value in (2.0**61, -(2.0**62), float("nan"), float("inf")):
        with pytest.raises(ModelError, match="NUMBERS_TOO_LARGE"):
            fixed(value)
    assert fixed(-1.5) == -3 << 63


def test_a_feature_beyond_8_is_refused(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    feature = replace(job.tables["bureau"].features[0], woe=(90_000,) * len(job.tables["bureau"].features[0].woe))
    broken = replace(job.tables["bureau"], features=(feature, *job.tables["bureau"].features[1:]))
    with pytest.raises(Exception, match="FEATURE_RANGE"):
        Stages(job.stages.data).training_roles(job.rows, dict(job.tables) | {"bureau": broken})


def test_a_pair_without_positive_curvature_is_dropped(
    job_of: Callable[[int], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums of one iteration are bent so that s^T y is negative: all drop the pair, and the fit still ends right."""
    share = MaskedSums.open
    calls: dict[str, int] = {}

    def bent(own: bytes, others: Any, count: int) -> list[int]:
        sums = share(own, others, count)
        if count == 1 + 2 * 2 + 3 * 2:  # the second pair
            sums[-3] = -abs(sums[-3])
            sums[-2] = -abs(sums[-2])
            calls["bent"] = calls.get("bent", 0) + 1
        return sums

    monkeypatch.setattr(MaskedSums, "open", staticmethod(bent))
    fit = refit(job_of(1), "curvature", tolerance=1e-3)
    assert calls["bent"] >= 2
    expected = damped_newton(fit.pooled_design(), fit.stages.data.label, 1.0)
    assert np.abs(fit.coefficients() - expected).max() < 1e-2


def test_the_history_keeps_20_pairs_at_most(job_of: Callable[[int], Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MAX_HISTORY", 4)
    fit = refit(job_of(1), "history")
    longest = max(len(f.message(InnerProducts).parts) // 16 for f in fit.stages.network.sent(InnerProducts))
    assert longest <= 1 + 5 * 4
    expected = damped_newton(fit.pooled_design(), fit.stages.data.label, 1.0)
    assert np.abs(fit.coefficients() - expected).max() < 1e-4


def test_features_that_overlap_across_parties_are_fitted_within_a_thousandth() -> None:
    job = play_job(Stages(consortium(2, bad_rate=0.1, strength=2.0, shared=0.9, features=3), seed="overlap"))
    assert job.fit["bank"].gradients > 20
    expected = damped_newton(job.pooled_design(), job.stages.data.label, 1.0)
    assert np.abs(job.coefficients() - expected).max() < 1e-3
