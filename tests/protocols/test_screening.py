"""Screening across parties: the same features go as on pooled rows, each party keeps 3, and nothing opens twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from statsmodels.stats.outliers_influence import variance_inflation_factor

from protocols.binning.prebins import FeatureKind
from protocols.binning.table import BinningTable
from protocols.disclosure import Ledger
from protocols.fixed_point import FloatArray
from protocols.moments.inference import MOST_INFLATION, inflation_factors
from protocols.moments.messages import SCREEN_STEPS, CrossMoments, OwnMoments, ScreenedFeatures
from protocols.moments.of_fit import MomentsOfFit
from protocols.moments.permission import MomentPermission
from protocols.moments.screening import (
    Screening,
    ScreeningRules,
    features_of,
    follow_screening,
    lead_screening,
    screen,
)
from protocols.recipe import Recipe
from protocols.rows.encryption import RowMasks
from protocols.rows.messages import EncryptedRows
from protocols.session import Session
from protocols.spent import MemorySpentIndices
from tests.protocols.test_moments import contract_of, permissions_of
from tests.reference.pooled import inflation, screened_across
from tests.simulator import (
    KEY_BITS,
    Deviations,
    PartyFailedError,
    SimulatedNetwork,
    Stages,
    changing,
    consortium,
    deviating,
    play,
    seeded,
)

RULES = ScreeningRules(0.9, 2.0)
Binned = tuple[Stages, Mapping[str, RowMasks], Mapping[str, BinningTable]]


@cache
def binned(providers: int) -> Binned:
    """Five features a party; the last provider's last is a coarser copy of one of the bank's, and of lower IV."""
    data = consortium(providers, features=5, shared=0.6)
    last = data.parties.providers[-1]
    numbers = [c for c in data.columns["bank"] if c[1] is FeatureKind.NUMERIC and not c[2]]
    values = numbers[0][0]
    copied = np.where(np.isnan(values), np.nan, np.round(values, 1) + 0.05 * np.sin(1e3 * values))
    columns = {**data.columns, last: (*data.columns[last][:-1], (copied, FeatureKind.NUMERIC, ()))}
    stages = Stages(
        replace(data, columns=columns),
        seed=f"screening {providers}",
        recipe=Recipe.model_validate({"selection": {"maximum_correlation": 1.0}}),
    )
    rows = stages.encrypt()
    return stages, rows, stages.bin(rows)


class Kept:
    """`KnownCorrelations` in memory."""

    def __init__(self, correlation: FloatArray | None = None) -> None:
        self.correlation = correlation

    def keep(self, correlation: FloatArray) -> None:
        self.correlation = correlation


@dataclass
class Stage:
    """One screening, played on binned tables."""

    of: Binned
    rules: ScreeningRules = RULES
    known: Kept = field(default_factory=Kept)
    permissions: Mapping[str, MomentPermission] = field(default_factory=dict)
    network: SimulatedNetwork = field(default_factory=SimulatedNetwork)

    def __post_init__(self) -> None:
        self.parties = self.of[0].parties
        self.ledgers = {name: Ledger(name) for name in self.parties.all}
        self.permissions = self.permissions or permissions_of(self.parties)

    def play(self, change: Deviations | None = None) -> dict[str, Any]:
        stages, rows, tables = self.of
        scripts: dict[str, Any] = {}
        for name in self.parties.all:
            leads = name == self.parties.label_owner
            part = MomentsOfFit(
                name,
                self.parties,
                "screen",
                tables[name],
                rows[name],
                self.permissions[name],
                b"test",
                seeded(name),
                MemorySpentIndices(),
                stages.data.label if leads else None,
                KEY_BITS,
            )
            scripts[name] = lead_screening(part, self.rules, self.known) if leads else follow_screening(part)
        change = change or {}
        scripts = {name: deviating(s, change[name]) if name in change else s for name, s in scripts.items()}
        bounds = stages.data.bounds()
        sessions = {n: Session(n, self.parties, "screen", SCREEN_STEPS, bounds, self.ledgers[n]) for n in scripts}
        return play(scripts, sessions, self.network)


def correlations(x: FloatArray) -> FloatArray:
    """NaN where a column is constant."""
    with np.errstate(invalid="ignore"):
        matrix = np.asarray(np.corrcoef(x, rowvar=False), dtype=np.float64)
    return matrix


def pooled(of: Binned) -> tuple[FloatArray, list[int], list[str]]:
    """WOE of all parties' features on pooled rows, their IV and owners."""
    stages, _, tables = of
    x = np.concatenate([tables[name].design / (1 << 16) for name in stages.parties.all], axis=1)
    features = features_of(tables["bank"], stages.parties)
    return x, [f.iv for f in features], [f.party for f in features]


@pytest.mark.parametrize("providers", [1, 2])
@pytest.mark.parametrize("rules", [RULES, ScreeningRules(None, 1.6), ScreeningRules(0.5, None)], ids=str)
def test_the_same_features_stay_as_on_pooled_rows(providers: int, rules: ScreeningRules) -> None:
    of = binned(providers)
    stage = Stage(of, rules)
    played = stage.play()
    x, iv, owners = pooled(of)
    found: Screening = played["bank"]
    expected = screened_across(x, iv, owners, rules.correlation or 2.0, rules.inflation or 1e300)
    assert list(found.kept) == expected
    assert len(found.kept) + len(found.left_out) == len(iv)
    assert found.left_out
    aliases = [f.alias for f in features_of(of[2]["bank"], stage.parties)]
    for name in stage.parties.providers:
        told: ScreenedFeatures = played[name]
        assert told.kept == tuple(aliases[place] for place in found.kept if owners[place] == name)
        assert {p.party: p.features for p in told.parties} == {
            party: sum(owners[place] == party for place in found.kept) for party in stage.parties.all
        }


@pytest.mark.parametrize("providers", [1, 2])
def test_correlations_and_inflation_are_those_of_pooled_rows(providers: int) -> None:
    of = binned(providers)
    stage = Stage(of)
    found: Screening = stage.play()["bank"]
    x, _, _ = pooled(of)
    correlation = stage.known.correlation
    assert correlation is not None
    np.testing.assert_allclose(correlation, correlations(x), atol=1e-12)
    left = x[:, list(found.kept)]
    design = np.column_stack([np.ones(len(left)), left])
    expected = [variance_inflation_factor(design, j) for j in range(1, design.shape[1])]
    factors = inflation_factors(correlation[np.ix_(found.kept, found.kept)])
    np.testing.assert_allclose(factors, expected, rtol=1e-9)
    assert max(expected) <= 2.0 or found.held


def test_of_two_that_repeat_each_other_at_two_parties_the_one_of_lower_iv_goes() -> None:
    of = binned(2)
    _, iv, owners = pooled(of)
    found: Screening = Stage(of, ScreeningRules(0.9, None)).play()["bank"]
    (overlap,) = [item for item in found.left_out if item.value > 0.95]
    assert overlap.rival is not None
    assert {owners[overlap.place], owners[overlap.rival]} == {"bank", "tax"}
    assert iv[overlap.place] < iv[overlap.rival]
    assert overlap.rival in found.kept


# -- the rule ----------------------------------------------------------------------------------------------------------


def test_a_party_keeps_its_three_of_highest_iv_however_alike_they_are() -> None:
    random_state = np.random.default_rng(3)
    base = random_state.normal(size=(400, 1))
    x = base + 0.01 * random_state.normal(size=(400, 8))
    owners = ["bank"] * 4 + ["bureau"] * 4
    iv = [40, 30, 20, 10, 41, 31, 21, 11]
    correlation = correlations(x)
    for rules in (ScreeningRules(0.9, None), ScreeningRules(0.9, 5.0), ScreeningRules(None, 5.0)):
        found = screen(correlation, iv, owners, rules)
        assert [owners[place] for place in found.kept] == ["bank"] * 3 + ["bureau"] * 3
        assert {overlap.place for overlap in found.held} <= set(found.kept)
        assert found.held
    assert screen(correlation, iv, owners, ScreeningRules(0.9, None)).kept == (0, 1, 2, 4, 5, 6)


def test_an_exact_combination_of_columns_of_several_parties_is_broken_up() -> None:
    random_state = np.random.default_rng(4)
    x = random_state.normal(size=(500, 8))
    x[:, 7] = x[:, 0] + x[:, 4]
    owners, iv = ["bank"] * 4 + ["bureau"] * 4, [50, 40, 30, 20, 10, 45, 35, 25]
    factors = inflation_factors(correlations(x))
    inside = [0, 4, 7]
    assert (factors[inside] == MOST_INFLATION).all()
    rest = [j for j in range(8) if j not in inside]
    np.testing.assert_allclose(factors[rest], [inflation(np.delete(x, 7, axis=1), j) for j in rest], rtol=1e-9)
    found = screen(correlations(x), iv, owners, ScreeningRules(None, 10.0))
    assert [item.place for item in found.left_out] == [4]  # the weakest of the three
    assert not found.held


def test_a_constant_column_goes_by_variance_inflation_and_disturbs_no_other() -> None:
    x = np.random.default_rng(5).normal(size=(300, 5))
    x[:, 4] = 1.0
    correlation = correlations(x)
    assert screen(correlation, [5, 4, 3, 2, 1], ["bank"] * 5, ScreeningRules(0.7, None)).kept == (0, 1, 2, 3, 4)
    assert screen(correlation, [1, 2, 3, 4, 5], ["bank"] * 5, ScreeningRules(0.7, 5.0)).kept == (0, 1, 2, 3)


# -- permission, and what an attempt that broke off leaves -------------------------------------------------------------


def test_a_contract_that_does_not_name_moments_opens_nothing() -> None:
    of = binned(1)
    refused = {
        name: replace(permission, contract=contract_of(of[0].parties, moments=False))
        for name, permission in permissions_of(of[0].parties).items()
    }
    stage = Stage(of, permissions=refused)
    with pytest.raises(PartyFailedError) as failed:
        stage.play()
    assert set(failed.value.codes.values()) == {"ALGORITHM_NOT_ALLOWED"}
    assert not stage.network.frames


def test_where_one_party_may_not_open_all_features_stay_and_no_moment_leaves() -> None:
    of = binned(2)
    permissions = permissions_of(of[0].parties)
    first = Stage(of, permissions=permissions)
    assert first.play()["bank"].left_out
    again = Stage(of, permissions={**permissions_of(of[0].parties), "tax": permissions["tax"]})
    assert again.play() == {"bank": None, "bureau": None, "tax": None}
    assert not [f for f in again.network.frames if f.step in ("EncryptedRows", "CrossMoments", "OwnMoments")]
    assert again.known.correlation is None
    told = {line.what for line in again.ledgers["bureau"].lines(to="bureau")}
    assert told == {"number of model features per party"}


def test_a_further_attempt_uses_what_opened_and_comes_to_the_same_end() -> None:
    of = binned(2)
    permissions = permissions_of(of[0].parties)
    first = Stage(of, permissions=permissions)
    before = first.play()
    again = Stage(of, known=Kept(first.known.correlation), permissions=permissions)
    assert again.play() == before
    assert not again.network.sent(EncryptedRows)
    assert not again.network.sent(CrossMoments)
    unspent = permissions_of(of[0].parties)  # no provider had marked anything: it is not asked to open once more
    willing = Stage(of, known=Kept(first.known.correlation), permissions=unspent)
    assert willing.play() == before
    assert not willing.network.sent(OwnMoments)


# -- a decision that cannot be -----------------------------------------------------------------------------------------

BAD: dict[str, Callable[[Any], ScreenedFeatures]] = {
    "an alias that is not there": lambda m: replace(m, kept=(*m.kept[:-1], "bureau.77")),
    "another order": lambda m: replace(m, kept=m.kept[::-1]),
    "one twice": lambda m: replace(m, kept=(m.kept[0], *m.kept[:-1])),
    "two features": lambda m: replace(m, kept=m.kept[:2], parties=tuple(replace(p, features=2) for p in m.parties)),
    "another count": lambda m: replace(m, parties=tuple(replace(p, features=p.features + 1) for p in m.parties)),
    "another party": lambda m: replace(m, parties=m.parties[:1]),
    "features and no parties": lambda m: replace(m, parties=()),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_decision_that_cannot_be_is_refused(name: str) -> None:
    of = binned(1)
    stage = Stage(of, known=Kept(known_correlation()))
    with pytest.raises(PartyFailedError) as failed:
        stage.play({"bank": changing(ScreenedFeatures, BAD[name])})
    assert failed.value.codes["bureau"] == "CHECK_FAILED"


@cache
def known_correlation() -> FloatArray:
    stage = Stage(binned(1))
    stage.play()
    assert stage.known.correlation is not None
    return stage.known.correlation
