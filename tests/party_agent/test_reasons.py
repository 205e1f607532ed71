"""Reasons and dimensions against the scorecard read by hand: what each row lost, by feature and by group."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from party_agent import model
from party_agent.judgement import scores_without
from party_agent.model import OwnModel
from party_agent.reasons import Explanation, dimension_points, dimensions_of, explain, opened_dimensions
from party_agent.scorecard import FeaturePoints, PointsTable, Scaling
from party_agent.store import Folder
from protocols.binning.prebins import FeatureKind, PreBinning
from protocols.binning.table import BinnedFeature
from protocols.errors import DataError
from protocols.recipe import PartyColumns, Recipe, Scorecard, load_recipe
from protocols.roles import Parties
from protocols.scoring.dimensions import DimensionPoints
from protocols.scoring.label_owner import Totals

NAMES = ("income", "arrears", "年龄")
POINTS = ((-20, 5, 12), (30, -40), (1, 2, 3, -9))
ROWS = ((60, 60, 80), (150, 50), (50, 50, 50, 50))
CODES = np.array([[0, 1, 3], [2, 0, 2], [1, 1, 0]])
LOST = np.array([[32, 70, 12], [0, 0, 0], [7, 70, 2]])  # best bin less the row's


def _feature(name: str, points: tuple[int, ...], rows: tuple[int, ...]) -> tuple[BinnedFeature, FeaturePoints]:
    count = len(points)
    binning = PreBinning(name, FeatureKind.NUMERIC, tuple(range(count - 1)), count, (), (), (), count, 0, (*rows, 0))
    woe = tuple(10 * value for value in points)
    merge = (*range(count), 0)
    return (
        BinnedFeature(f"bank.{name}", binning, merge, woe, 100, rows, (None,) * count),
        FeaturePoints(name, f"bank.{name}", tuple(f"bin {i}" for i in range(count)), woe, points),
    )


def own_model(party: str = "bank", dimensions: tuple[str, ...] = (), base: int | None = 500) -> OwnModel:
    features, points = zip(*map(_feature, NAMES, POINTS, ROWS), strict=True)
    table = PointsTable(party, Scaling(), points, base)
    return OwnModel("job-1", "ab" * 32, features, (-1.0,) * 3, -2.0, table, 12, 1e-5, dimensions)


def _rows(explained: Explanation) -> list[dict[str, int | str]]:
    return [dict(zip(explained.header, cells, strict=True)) for cells in explained.cells()]


def test_a_row_is_told_the_features_that_cost_it_most_against_their_best_bin() -> None:
    rows = _rows(explain(own_model(), CODES, {}, Scorecard(reason_codes=2)))
    assert rows == [
        {"points_bank": -69, "reason_1": "arrears", "lost_1": 70, "reason_2": "income", "lost_2": 32},
        {"points_bank": 45, "reason_1": "", "lost_1": "", "reason_2": "", "lost_2": ""},
        {"points_bank": -34, "reason_1": "arrears", "lost_1": 70, "reason_2": "income", "lost_2": 7},
    ]


def test_as_many_reasons_as_there_are_and_none_when_none_is_wanted() -> None:
    assert explain(own_model(), CODES, {}, Scorecard(reason_codes=20)).reasons.shape == (3, 3)
    assert explain(own_model(), CODES, {}, Scorecard(reason_codes=0)).header == ["points_bank"]
    assert Scorecard().reason_codes == 4


def test_measured_against_the_training_mean_a_row_may_have_fewer_reasons() -> None:
    means = np.array([0, 12, -1])  # of 200 rows: (-20*60 + 5*60 + 12*80)/200 = 0.3; (30*150 - 40*50)/200 = 12.5; -0.75
    means[1] = 13  # a half goes away from zero
    rows = _rows(explain(own_model(), CODES, {}, Scorecard(reason_reference="mean")))
    for row, codes in zip(rows, CODES, strict=True):
        lost = {name: mean - points[code] for name, mean, points, code in zip(NAMES, means, POINTS, codes, strict=True)}
        wanted = sorted(((gap, name) for name, gap in lost.items() if gap > 0), key=lambda item: -item[0])
        found = [(row[f"lost_{i}"], row[f"reason_{i}"]) for i in (1, 2, 3) if row[f"reason_{i}"]]
        assert found == wanted
    assert rows[1]["reason_1"] == ""


def test_equal_losses_come_in_the_order_of_the_model() -> None:
    twins = PointsTable("bank", Scaling(), tuple(_feature(name, (0, 10), (5, 5))[1] for name in NAMES), 0)
    features = tuple(_feature(name, (0, 10), (5, 5))[0] for name in NAMES)
    own = OwnModel("job-1", "ab" * 32, features, (-1.0,) * 3, -2.0, twins, 12, 1e-5)
    explained = explain(own, np.zeros((1, 3), dtype=np.int64), {}, Scorecard())
    assert [explained.names[i] for i in explained.reasons[0]] == list(NAMES)


def test_opened_dimensions_are_columns_and_reasons_by_dimension_only() -> None:
    opened = {
        "bureau": DimensionPoints(("bureau",), np.array([[-5], [8], [1]]), np.array([8])),
        "tax": DimensionPoints(("returns", "tax"), np.array([[4, -80], [4, 1], [0, 1]]), np.array([4, 1])),
    }
    own = own_model(dimensions=("means", "repayment", "means"))
    rows = _rows(explain(own, CODES, opened, Scorecard(reason_codes=3)))
    assert list(rows[0])[:5] == [
        "points_bank.means",
        "points_bank.repayment",
        "points_bureau",
        "points_tax.returns",
        "points_tax.tax",
    ]
    assert [row["points_bank.means"] for row in rows] == [-29, 15, 6]
    assert [row["points_bank.repayment"] for row in rows] == [-40, 30, -40]
    assert [(rows[0][f"reason_{i}"], rows[0][f"lost_{i}"]) for i in (1, 2, 3)] == [
        ("tax.tax", 81),
        ("arrears", 70),
        ("income", 32),
    ]
    assert [(rows[2][f"reason_{i}"], rows[2][f"lost_{i}"]) for i in (1, 2, 3)] == [
        ("arrears", 70),
        ("income", 7),
        ("bureau", 7),
    ]


def test_a_column_in_no_dimension_goes_under_the_partys_name() -> None:
    rules = PartyColumns(dimensions={"means": ("income", " 年龄 ")})
    assert dimensions_of(NAMES, rules, "bank") == ("means", "bank", "means")
    part = dimension_points(own_model(dimensions=("means", "bank", "means")), CODES, Scorecard())
    assert (part.names, part.references.tolist()) == (("means", "bank"), [15, 30])
    assert part.points.tolist() == [[-29, -40], [15, 30], [6, -40]]


def test_a_provider_opens_its_dimensions_only_if_the_recipe_says_so() -> None:
    own = own_model("tax", base=None)
    assert opened_dimensions(own, CODES, Recipe()) is None
    assert opened_dimensions(own, CODES, load_recipe('open = ["scorecard"]')) is None
    part = opened_dimensions(own, CODES, load_recipe('open = ["dimensions"]'))
    assert part is not None
    assert part.points.tolist() == [[-69], [45], [-34]]


def test_dimensions_stay_with_the_model_and_one_from_before_has_the_partys_own(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    model.write(folder, own_model(dimensions=("means", "repayment", "means")))
    assert model.read(folder).dimensions == ("means", "repayment", "means")
    document = folder.read_json("model.json")
    for feature in document["features"]:
        del feature["dimension"]
    folder.write_json("model.json", document)
    assert model.read(folder).dimensions == ("bank",) * 3


def test_points_of_features_add_up_to_the_addend_and_a_code_of_no_bin_is_refused() -> None:
    own = own_model()
    assert own.points.feature_points(CODES).sum(axis=1).tolist() == (own.points.partial_points(CODES) - 500).tolist()
    with pytest.raises(DataError, match="BIN_CODES_INVALID"):
        own.points.feature_points(CODES + 3)


def test_scores_are_written_with_their_explanation(tmp_path: Path) -> None:
    explained = explain(own_model(), CODES, {}, Scorecard(reason_codes=1))
    model.write_scores(
        Folder(tmp_path),
        ["x", "y", "z"],
        np.array([431, 545, 466]),
        np.zeros(3),
        np.array(["train", "test", "test"]),
        explained.header,
        explained.cells(),
    )
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["points_bank"], row["reason_1"], row["lost_1"]) for row in rows] == [
        ("x", "-69", "arrears", "70"),
        ("y", "45", "", ""),
        ("z", "-34", "arrears", "70"),
    ]
    assert all(int(row["score"]) == 500 + int(row["points_bank"]) for row in rows)


def test_taking_a_party_away_takes_all_its_points_when_a_dimension_has_its_name() -> None:
    parts = {"bureau": DimensionPoints(("bureau", "history"), np.array([[4, 30], [1, -8], [0, 2]]), np.array([4, 30]))}
    own = dimension_points(own_model(), CODES, Scorecard())
    totals = Totals(500 + own.points.sum(axis=1) + parts["bureau"].points.sum(axis=1), None, parts)
    without, _ = scores_without(Parties("bank", ("bureau",)), totals, own, 500)
    assert list(without) == ["bureau", "bank", "bureau.bureau", "bureau.history"]
    assert (totals.points - without["bureau"]).tolist() == [34, -7, 2]
    assert (totals.points - without["bureau.bureau"]).tolist() == [4, 1, 0]


def _totals(providers: int, opened: bool) -> tuple[Totals, DimensionPoints, Parties]:
    own = dimension_points(own_model(dimensions=("means", "repayment", "means")), CODES, Scorecard())
    names = ("bureau", "tax")[:providers]
    parts = {
        name: DimensionPoints((name,), np.array([[i], [10 * i], [-i]]), np.array([0]))
        for i, name in enumerate(names, 2)
    }
    score = 500 + own.points.sum(axis=1) + sum(part.points.sum(axis=1) for part in parts.values())
    return Totals(score, None, parts if opened else {}), own, Parties("bank", names)


@pytest.mark.parametrize(("providers", "opened"), [(1, False), (2, False), (1, True), (2, True)])
def test_what_each_party_adds_is_known_of_one_provider_or_where_dimensions_are_open(
    providers: int, opened: bool
) -> None:
    totals, own, parties = _totals(providers, opened)
    without, each = scores_without(parties, totals, own, 500)
    theirs = ["bureau", "tax"][:providers] if opened else [" and ".join(parties.providers)]
    assert list(without) == [*theirs, "bank", "bank.means", "bank.repayment"]
    assert each == (opened or providers == 1)
    assert (totals.points - without["bank"]).tolist() == own.points.sum(axis=1).tolist()
    assert (without["bank.means"] + own.points[:, 0]).tolist() == totals.points.tolist()
    taken = sum(totals.points - without[name] for name in theirs)
    assert (500 + own.points.sum(axis=1) + taken).tolist() == totals.points.tolist()
