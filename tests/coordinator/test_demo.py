"""The demonstration consortium: repeatable, shaped as promised, readable without complaint, worth joining."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer

from coordinator.demo import credit_code, write_demo
from protocols.psi.identifiers import canonical_id, check_character_valid
from protocols.recipe import Recipe, load_recipe

FEATURES = {"bank": 10, "bureau": 8, "tax": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("demo") / "new" / "consortium"
    write_demo(target)
    return target


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Recipe:
    return load_recipe((folder / "recipe.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, list[dict[str, str]]]:
    read = {}
    for party in FEATURES:
        with (folder / f"{party}.csv").open(encoding="utf-8", newline="") as file:
            read[party] = list(csv.DictReader(file))
    return read


def by_id(rows: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    return {canonical_id(row["id"]): row for row in rows}


def common_ids(files: dict[str, list[dict[str, str]]]) -> list[str]:
    return sorted(set.intersection(*(set(by_id(rows)) for rows in files.values())))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    write_demo(tmp_path / "again")
    write_demo(tmp_path / "other", seed=7)
    for name in ("bank.csv", "bureau.csv", "tax.csv", "recipe.toml"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert (folder / name).read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_every_party_has_about_six_thousand_rows_and_its_own_features(files) -> None:
    for party, count in FEATURES.items():
        assert 5_850 <= len(files[party]) <= 6_150
        assert len(files[party][0]) == count + (2 if party == "bank" else 1)
    names = [name for rows in files.values() for name in rows[0] if name != "id"]
    assert len(names) == len(set(names)) == 25


def test_the_parties_overlap_in_part_and_in_different_orders(files) -> None:
    common = set(common_ids(files))
    assert 5_100 <= len(common) <= 5_350
    shared = [[i for i in by_id(rows) if i in common] for rows in files.values()]
    assert shared[0] != shared[1] != shared[2] != shared[0]
    known = {party: set(by_id(rows)) for party, rows in files.items()}
    assert all(known[a] - known[b] for a in FEATURES for b in FEATURES if a != b)


def test_the_label_is_bad_for_four_to_seven_in_a_hundred(files) -> None:
    labels = [row["y"] for row in files["bank"]]
    assert set(labels) == {"0", "1"}
    assert 0.04 <= labels.count("1") / len(labels) <= 0.07


def test_ids_are_credit_codes_with_right_check_characters_some_of_them_untidy(files) -> None:
    for rows in files.values():
        ids = [row["id"] for row in rows]
        assert all(check_character_valid(canonical_id(text)) for text in ids)
        assert any(text != canonical_id(text) and text.strip() == text for text in ids)
        assert any(text.strip() != text for text in ids)
        assert len(ids) - len({canonical_id(text) for text in ids}) == 1


def test_the_credit_code_of_the_standard_comes_out() -> None:
    assert credit_code("350100", "M000100Y") == "91350100M000100Y43"


def test_the_recipe_opens_the_scorecard_and_names_only_columns_that_are_there(files, recipe: Recipe) -> None:
    assert recipe.open == ("scorecard",)
    assert recipe.keys.bits == 3072
    recipe.check_parties(FEATURES)
    for party in FEATURES:
        columns = recipe.columns_of(party)
        assert {*columns.categorical, *columns.special} <= set(files[party][0])
        for name, values in columns.special.items():
            cells = [row[name] for row in files[party]]
            assert all(cells.count(f"{value:g}") >= 200 for value in values)


def test_there_are_missing_values_categories_and_counts_that_are_mostly_zero(files) -> None:
    for rows in files.values():
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        assert any(0.03 < cells.count("") / len(cells) < 0.2 for cells in columns.values())
        assert any(0.4 < cells.count("0") / len(cells) < 0.9 for name, cells in columns.items() if name != "y")
        assert any(all(cell and not cell[-1].isdigit() for cell in cells) for n, cells in columns.items() if n != "id")


def matrix(files, parties: tuple[str, ...], ids: list[str]) -> np.ndarray:
    columns = []
    for party in parties:
        rows = by_id(files[party])
        for name in [name for name in files[party][0] if name not in ("id", "y")]:
            cells = [rows[i][name] for i in ids]
            names = {text: code for code, text in enumerate(sorted(set(cells)))}
            text = any(cell and not cell.lstrip("-")[0].isdigit() for cell in cells)
            columns.append([names[c] if text else float(c or -99) for c in cells])
    return np.array(columns, dtype=float).T


def test_only_one_pair_of_features_tells_the_same_so_that_a_run_shows_one_of_them_dropped(files) -> None:
    ids = common_ids(files)
    alike = []
    for party in FEATURES:
        names = [name for name in files[party][0] if name not in ("id", "y")]
        ranks = np.argsort(np.argsort(matrix(files, (party,), ids), axis=0, kind="stable"), axis=0)
        correlations = np.abs(np.corrcoef(ranks.T)) - np.eye(FEATURES[party])
        alike += [(names[i], names[j]) for i, j in np.argwhere(correlations >= 0.6) if i < j]
    assert alike == [("debt_to_assets", "liabilities_to_equity")]


@pytest.mark.parametrize("column", ["loan_amount_kcny", "lenders"])
def test_two_columns_say_nothing_of_risk_so_that_a_run_shows_them_dropped(files, column: str) -> None:
    party = "bank" if column in files["bank"][0] else "bureau"
    ids = common_ids(files)
    bank, own = by_id(files["bank"]), by_id(files[party])
    label = np.array([int(bank[i]["y"]) for i in ids])
    assert abs(roc_auc_score(label, [float(own[i][column] or 0) for i in ids]) - 0.5) < 0.06


def test_every_provider_adds_to_what_the_bank_knows(files) -> None:
    ids = common_ids(files)
    bank = by_id(files["bank"])
    label = np.array([int(bank[i]["y"]) for i in ids])
    auc = {}
    for parties in (("bank",), ("bank", "bureau"), ("bank", "tax"), ("bank", "bureau", "tax")):
        bins = KBinsDiscretizer(6, quantile_method="averaged_inverted_cdf")
        model = make_pipeline(bins, LogisticRegression(C=0.1, max_iter=500))
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # counts that are mostly zero have fewer bins
            scores = cross_val_predict(model, matrix(files, parties, ids), label, cv=folds, method="predict_proba")
        auc[parties] = roc_auc_score(label, scores[:, 1])
    assert 0.70 < auc["bank",] < 0.80
    assert auc["bank", "bureau"] > auc["bank",] + 0.02
    assert auc["bank", "tax"] > auc["bank",] + 0.015
    assert 0.78 < auc["bank", "bureau", "tax"] < 0.86
    assert auc["bank", "bureau", "tax"] > max(auc["bank", "bureau"], auc["bank", "tax"]) + 0.01
