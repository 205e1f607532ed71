"""An exported scorecard gives the points that the model gives: SQL in DuckDB, JSON by an evaluator of its own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import party_agent.__main__ as program
from party_agent import model
from party_agent.dataset import Column, Table
from party_agent.model import OwnModel
from party_agent.model_export import FORMAT, to_json, to_sql
from party_agent.scorecard import PointsTable, Scaling
from party_agent.store import Folder
from protocols.binning.prebins import FeatureKind, PreBinning, prebin
from protocols.binning.table import BinnedFeature
from protocols.errors import DataError

NUMERIC, CATEGORICAL = FeatureKind.NUMERIC, FeatureKind.CATEGORICAL
ODD = 'a "quoted" 列, it\'s --; x'
NAMES = ("O'Brien", 'say "hi"', "制造业", "a;b --", "back\\slash", " inner space".strip(), "1", "%_")


def _feature(alias: str, binning: PreBinning, merge: list[int], woe: list[int]) -> BinnedFeature:
    rows = [sum(n for n, m in zip(binning.rows, merge, strict=True) if m == k) for k in range(len(woe))]
    return BinnedFeature(alias, binning, tuple(merge), tuple(woe), 100, tuple(rows), (None,) * len(woe))


def _model(features: list[BinnedFeature], base: float | None = -2.0) -> OwnModel:
    weights = np.linspace(-0.7, -1.3, len(features))
    points = PointsTable.of("bank", features, weights, Scaling(), base)
    return OwnModel("job-1", "ab" * 32, tuple(features), tuple(weights.tolist()), base, points, 12, 1e-5)


RATIO = PreBinning(
    ODD, NUMERIC, (-1e-5, 0.1, 0.12345678901234568, 3.0, 1e17), 6, (), (-999.0, 7.5), (6, 2), 7, 1, (60,) * 8
)
AREA = PreBinning("area", CATEGORICAL, (), 0, (NAMES[:3], NAMES[3:]), ("N/A", "-1"), (2, 0), 3, 1, (60,) * 4)
COUNT = PreBinning("count", NUMERIC, (), 0, (), (0.0, 1.0), (0, 1), 2, 0, (60, 60, 60))
MODEL = _model(
    [
        _feature("bank.01", RATIO, [0, 1, 0, 2, 2, 3, 4, 1], [-9000, -1500, 900, 4000, 12]),
        _feature("bank.02", AREA, [0, 1, 2, 1], [-5000, 2100, 80]),
        _feature("bank.03", COUNT, [0, 1, 2], [2500, -700, -4100]),
    ]
)


def _edges() -> list[float]:
    around = [(edge, math.nextafter(edge, -math.inf), math.nextafter(edge, math.inf)) for edge in RATIO.edges]
    return [value for three in around for value in three] + [-999.0, 7.5, 0.0, -0.0, math.nan, 1e300, -1e300, 5e-324]


def _table(ratio: list[float], area: list[str | None], count: list[float]) -> Table:
    n = len(ratio)
    columns = (
        Column(ODD, NUMERIC, np.array(ratio, dtype=np.float64)),
        Column("area", CATEGORICAL, np.array(area, dtype=object)),
        Column("count", NUMERIC, np.array(count, dtype=np.float64)),
    )
    return Table(tuple(str(i) for i in range(n)), None, columns)


def _wanted(own: OwnModel, table: Table) -> list[int]:
    return own.points.partial_points(own.codes(table)).tolist()


def _by_sql(own: OwnModel, table: Table) -> list[int]:
    names = [f'"{column.name.replace(chr(34), 2 * chr(34))}"' for column in table.columns]
    kinds = ["DOUBLE" if column.kind is NUMERIC else "VARCHAR" for column in table.columns]
    with duckdb.connect() as connection:
        columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, kinds, strict=True))
        connection.execute(f"CREATE TABLE loans (row INTEGER, {columns})")
        marks = ", ".join("?" for _ in range(len(names) + 1))
        rows = [
            [i, *(None if missing else value for value, missing in zip(row, gaps, strict=True))]
            for i, (row, gaps) in enumerate(
                zip(
                    zip(*(column.values.tolist() for column in table.columns), strict=True),
                    zip(*(column.missing.tolist() for column in table.columns), strict=True),
                    strict=True,
                )
            )
        ]
        connection.executemany(f"INSERT INTO loans VALUES ({marks})", rows)  # noqa: S608
        got = connection.execute(f"SELECT ({to_sql(own)}) AS points FROM loans ORDER BY row").fetchall()  # noqa: S608
    return [int(row[0]) for row in got]


def _by_json(document: dict[str, Any], table: Table) -> list[int]:
    """The documented reading: missing, special, then range or category, then other."""

    def points(feature: dict[str, Any], value: Any) -> int:
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        for rule in (
            lambda b: missing and b["missing"],
            lambda b: not missing and value in b["special"],
            lambda b: (
                not missing
                and any(
                    (r["above"] is None or value > r["above"]) and (r["up_to"] is None or value <= r["up_to"])
                    for r in b["ranges"]
                )
            ),
            lambda b: not missing and value in b["categories"],
            lambda b: b["other"],
        ):
            for item in feature["bins"]:
                if rule(item):
                    return int(item["points"])
        raise AssertionError("a value has no bin")

    columns = {column.name: column.values.tolist() for column in table.columns}
    totals = [document["base_points"] or 0] * len(table.ids)
    for feature in document["features"]:
        totals = [total + points(feature, v) for total, v in zip(totals, columns[feature["name"]], strict=True)]
    return totals


def _everything() -> Table:
    ratio = _edges()
    area: list[str | None] = [*NAMES, "N/A", "-1", None, "unseen", "unseen ' too", "o'brien"]
    count = [0.0, 1.0, 2.0, math.nan, -3.5]
    n = max(len(ratio), len(area), len(count))
    return _table(
        [ratio[i % len(ratio)] for i in range(n)],
        [area[i % len(area)] for i in range(n)],
        [count[i % len(count)] for i in range(n)],
    )


def test_sql_points_equal_the_models_for_edges_missing_special_and_unseen_values() -> None:
    table = _everything()
    assert _by_sql(MODEL, table) == _wanted(MODEL, table)
    assert len(set(_wanted(MODEL, table))) > 8


def test_json_says_the_same_and_is_of_the_documented_form() -> None:
    document = json.loads(to_json(MODEL))
    table = _everything()
    assert _by_json(document, table) == _wanted(MODEL, table)
    assert document["format"] == FORMAT
    page = (Path(__file__).parents[2] / "docs" / "scorecard.md").read_text("utf-8")
    keys = {*document, *document["features"][0], *document["features"][0]["bins"][0]}
    assert {key for key in keys if f"`{key}`" not in page} == set()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=False), st.sampled_from(_edges())), min_size=1),
    st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=("Cs",)), min_size=1)), min_size=1),
)
def test_any_value_gets_the_same_points(ratio: list[float], area: list[str | None]) -> None:
    n = max(len(ratio), len(area))
    words = [None if word is None else word.replace("\0", "").strip() or None for word in area]  # as dataset reads them
    table = _table([ratio[i % len(ratio)] for i in range(n)], [words[i % len(words)] for i in range(n)], [0.0] * n)
    assert _by_sql(MODEL, table) == _wanted(MODEL, table) == _by_json(json.loads(to_json(MODEL)), table)


def test_prebins_of_real_columns_survive_the_round_trip() -> None:
    random = np.random.default_rng(3)
    n = 4000
    skewed = np.where(random.random(n) < 0.3, np.nan, np.exp(random.normal(0, 2, n)))
    words = np.array([[*NAMES, None][k] for k in random.integers(0, 9, n)], dtype=object)
    counts = np.where(random.random(n) < 0.5, 0, random.poisson(2, n)).astype(np.float64)
    features = []
    for name, kind, values, special in (
        (ODD, NUMERIC, skewed, ()),
        ("area", CATEGORICAL, words, ("1",)),
        ("count", NUMERIC, counts, (0.0,)),
    ):
        binning = prebin(values, kind, name, special=special, floor=60)
        assert binning is not None
        merge = [k // 2 for k in range(binning.bins)]
        woe = random.integers(-9000, 9000, max(merge) + 1).tolist()
        features.append(_feature(f"bank.{len(features)}", binning, merge, woe))
    own, table = _model(features, None), _table(skewed.tolist(), words.tolist(), counts.tolist())
    assert _by_sql(own, table) == _wanted(own, table) == _by_json(json.loads(to_json(own)), table)


def test_blank_text_is_missing_and_a_code_stored_as_a_number_is_its_text() -> None:
    with duckdb.connect() as connection:
        one = f"SELECT ({to_sql(_model([MODEL.features[1]], None))}) FROM (SELECT ? AS area)"  # noqa: S608
        blank, missing, spaced, text = (connection.execute(one, [v]).fetchone() for v in ("  ", None, " 1 ", "1"))
        assert blank == missing
        assert spaced == text == connection.execute(one, [1]).fetchone()


def test_a_name_that_sql_cannot_hold_is_refused() -> None:
    binning = PreBinning("x", CATEGORICAL, (), 0, (("a\0b",), ("c",)), (), (), 1, 1, (60, 60))
    with pytest.raises(DataError, match="NUL"):
        to_sql(_model([_feature("bank.01", binning, [0, 1], [10, -10])]))


def test_the_command_writes_both_forms_and_refuses_a_folder_without_a_model(tmp_path: Path) -> None:
    program.mount_commands()
    run, folder = CliRunner(), str(tmp_path / "bank")
    empty = run.invoke(program.app, ["model", "export", "--folder", str(tmp_path)])
    assert (empty.exit_code, "MODEL_MISSING" in empty.output) == (1, True)
    model.write(Folder(tmp_path / "bank"), MODEL)
    assert run.invoke(program.app, ["model", "export", "--folder", folder]).stdout == to_json(MODEL)
    target = tmp_path / "bank.sql"
    done = run.invoke(program.app, ["model", "export", "--folder", folder, "--format", "sql", "--out", str(target)])
    assert done.exit_code == 0
    assert target.read_text("utf-8") == to_sql(MODEL)
