"""The recipe: defaults, bounds that cannot be relaxed, errors that name the key and nothing else, bytes to sign."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from protocols.errors import RecipeError
from protocols.recipe import Recipe, load_recipe, recipe_from_canonical
from protocols.recipe_text import default_recipe_text


def refusal(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_recipe(text)
    return caught.value


def test_the_printed_defaults_are_the_defaults() -> None:
    assert load_recipe(default_recipe_text()) == Recipe() == load_recipe("")


def test_the_printed_defaults_name_every_key_and_explain_it() -> None:
    lines = default_recipe_text().splitlines()
    recipe = Recipe()
    for section in ("sample", "binning", "selection", "model", "keys", "scorecard", "contract"):
        start = lines.index(f"[{section}]")
        for key in type(getattr(recipe, section)).model_fields:
            place = next(i for i in range(start, len(lines)) if lines[i].removeprefix("# ").startswith(f"{key} = "))
            assert lines[place - 1].startswith("# ")


def test_the_printed_examples_load_when_their_comment_sign_is_taken_off() -> None:
    keys = ("seed", "max_iterations", "cut_scores", "[parties.bank", "categorical", "special =", "exclude", "trend")
    keys += ("keep", "drop", "maximum_psi", "method", "max_bins", "min_bin_share", "missing =")
    keys += ("maximum_cross_correlation", "maximum_vif")
    lines = default_recipe_text().splitlines()
    text = "\n".join(line[2:] if line.startswith(tuple(f"# {key}" for key in keys)) else line for line in lines)
    recipe = load_recipe(text)
    assert recipe.sample.seed == 2024
    assert recipe.model.max_iterations == 40
    assert recipe.scorecard.cut_scores == (660, 640, 620, 600, 580, 560)
    assert recipe.selection.maximum_psi == 0.25
    assert (recipe.selection.maximum_cross_correlation, recipe.selection.maximum_vif) == (0.8, 10.0)
    assert recipe.opens_moments
    assert recipe.parties["bank"].keep == ("credit_limit",)
    rules = recipe.parties["bank"].features["utilisation"]
    assert (rules.method, rules.trend, rules.max_bins, rules.missing) == ("optimal", "ascending", 5, "riskiest")


def test_the_committed_example_is_what_the_command_prints() -> None:
    example = Path(__file__).parents[2] / "examples" / "recipe.toml"
    assert example.read_text(encoding="utf-8") == default_recipe_text()


def test_what_a_recipe_says_replaces_the_default() -> None:
    recipe = load_recipe('open = ["scorecard"]\n[model]\nl2 = 2\n[parties.tax]\ncategorical = ["行业"]')
    assert (recipe.open, recipe.model.l2, recipe.keys.bits) == (("scorecard",), 2.0, 3072)
    assert recipe.columns_of("tax").categorical == ("行业",)
    assert recipe.columns_of("bank").categorical == ()


def test_a_table_of_grades_goes_by_name_or_by_its_own_names_and_has_fitting_cuts() -> None:
    six = load_recipe('[scorecard]\ngrades = "six"')
    assert six.scorecard.grades == ("S", "A+", "A", "B", "C", "D")
    assert len(six.scorecard.cut_quantiles) == 5
    assert load_recipe('[scorecard]\ngrades = "seven"') == Recipe()
    assert recipe_from_canonical(six.canonical()) == six
    own_cuts = load_recipe('[scorecard]\ngrades = "six"\ncut_quantiles = [0.1, 0.2, 0.3, 0.4, 0.5]')
    assert own_cuts.scorecard.cut_quantiles == (0.1, 0.2, 0.3, 0.4, 0.5)
    for count in range(2, 21):
        own = load_recipe(f"[scorecard]\ngrades = {[f'G{i}' for i in range(count)]}").scorecard
        assert len(own.cut_quantiles) == count - 1
        assert own.cut_quantiles == tuple(sorted(set(own.cut_quantiles)))
        if count not in (6, 7):  # as many grades, drawn out: shares grow to the middle and fall again
            shares = np.diff([0, *own.cut_quantiles, 1])
            assert max(shares) in shares[count // 4 : count - count // 4]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[keys]\nbits = 1024", "keys.bits"),
        ("[keys]\nbits = 3000", "keys.bits"),
        ("[keys]\nbits = 9216", "keys.bits"),
        ("[contract]\nminimum_intersection = 99", "contract.minimum_intersection"),
        ("[binning]\nfloor_rows = 49", "binning.floor_rows"),
        ("[binning]\nfloor_share = 0.0049", "binning.floor_share"),
        ("[binning]\nmax_prebins = 21", "binning.max_prebins"),
        ("[binning]\nmin_goods = 4", "binning.min_goods"),
        ("[binning]\nmin_bads = 4", "binning.min_bads"),
        ("[binning]\nmethod = 'tree'", "binning.method"),
        ("[selection]\nlabel_budget_share = 0.126", "selection.label_budget_share"),
        ("[selection]\nlabel_budget_share = 0", "selection.label_budget_share"),
        ("[model]\ntolerance = 0.00001", "model.tolerance"),
        ("[model]\nl2 = -1", "model.l2"),
        ("[model]\nl2 = inf", "model.l2"),
        ("[model]\nl2 = nan", "model.l2"),
        ("[sample]\ntraining_share = 1.0", "sample.training_share"),
        ("open = ['rows']", "open"),
        ("[scorecard]\ngrades = ['A', 'B']\ncut_quantiles = [0.2, 0.5]", "scorecard"),
        ("[scorecard]\ngrades = 'eight'", "scorecard"),
        ("[scorecard]\ngrades = ['A']", "scorecard.grades"),
        ("[scorecard]\ngrades = ['A', 'A']\ncut_quantiles = [0.5]", "scorecard"),
        ("[scorecard]\ngrades = ['A', 'B', 'C']\ncut_scores = [500, 600]", "scorecard"),
        ("[scorecard]\ncut_quantiles = [0.1, 0.3, 0.2, 0.7, 0.85, 0.95]", "scorecard"),
        ("[parties.Bank]\nexclude = ['x']", "parties.Bank"),
        ("[binning]\ntrend = 'up'", "binning.trend"),
        ("[binning]\nmissing = 'merge'", "binning.missing"),
        ("[binning]\nmin_bin_share = 0.26", "binning.min_bin_share"),
        ("[selection]\nmaximum_psi = 0", "selection.maximum_psi"),
        ("[parties.tax]\nkeep = ['x']\ndrop = ['x']", "parties.tax"),
        ("[parties.tax.features.x]\nsplits = [2.0, 1.0]", "parties.tax.features.x"),
        ("[parties.tax.features.x]\nsplits = [1.0]\nmethod = 'optimal'", "parties.tax.features.x"),
        ("[parties.tax.features.x]\nsplits = [1.0]\ngroups = [['A']]", "parties.tax.features.x"),
        ("[parties.tax.features.x]\ngroups = [['A'], ['A', 'B']]", "parties.tax.features.x"),
        ("[parties.tax.features.x]\nmethod = 'quantile'\ntrend = 'peak'", "parties.tax.features.x"),
        ("[parties.tax.features.x]\nmissing = 'own'\nmissing_with = 3", "parties.tax.features.x"),
    ],
)
def test_a_value_beyond_its_bounds_is_refused_by_its_key(text: str, key: str) -> None:
    error = refusal(text)
    assert error.code == "RECIPE_OUT_OF_RANGE"
    assert f"'{key}'" in error.message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("lambda = 1", "lambda"),
        ("[keys]\nbit = 3072", "keys.bit"),
        ("[training]\nshare = 0.7", "training"),
        ("[parties.bank]\nnumeric = ['x']", "parties.bank.numeric"),
    ],
)
def test_an_unknown_key_is_refused_by_its_name(text: str, key: str) -> None:
    error = refusal(text)
    assert (error.code, f"'{key}'" in error.message) == ("RECIPE_UNKNOWN_KEY", True)


@pytest.mark.parametrize(
    "text",
    [
        "a = ",
        "[keys]\nbits = 3072\nbits = 4096",
        "[keys]\nbits = '3072'",
        "[keys]\nbits = 3072.0",
        "[keys]\nbits = true",
        "[model]\nl2 = true",
        "keys = 3072",
        "open = 'scorecard'",
        "[sample]\nkeep_first_duplicate = 1",
        "[sample]\nseed = 1979-05-27",
        "[parties]\nbank = 1",
        "[parties.bank]\nspecial = { x = [true] }",
        "[parties.bank]\nspecial = { x = -1 }",
    ],
)
def test_what_is_not_of_the_right_form_is_refused(text: str) -> None:
    assert refusal(text).code == "RECIPE_MALFORMED"


def test_an_error_does_not_repeat_what_was_typed() -> None:
    for text in (
        "[sample]\nseed = 'hunter2'",
        "open = ['hunter2']",
        "[keys]\nbits = hunter2",
        "[binning]\nmethod='hunter2'",
    ):
        error = refusal(text)
        assert "hunter2" not in str(error)
        assert error.__suppress_context__


def test_a_section_for_a_party_that_takes_no_part_is_refused() -> None:
    recipe = load_recipe("[parties.bank]\n[parties.tax]")
    recipe.check_parties(["bank", "bureau", "tax"])
    with pytest.raises(RecipeError) as caught:
        recipe.check_parties(["bank", "bureau"])
    assert caught.value.code == "RECIPE_UNKNOWN_KEY"
    assert "parties.tax" in caught.value.message


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Recipe().model.l2 = 3.0  # type: ignore[misc]


def test_equal_recipes_sign_equal_bytes_however_they_were_written() -> None:
    one = load_recipe("[model]\nl2 = 2\n[keys]\nbits = 4096\n[parties.b]\nspecial = { x = [-1] }")
    other = load_recipe("keys.bits = 4_096\nparties.b.special.x = [-1.0]\nmodel.l2 = 2.0\nmodel.tolerance = 1e-4")
    assert one.canonical() == other.canonical()
    assert one.canonical() != Recipe().canonical()


def test_the_canonical_bytes_hold_every_default_and_give_the_recipe_back() -> None:
    recipe = load_recipe('[parties.bank]\ncategorical = ["行业"]\nspecial = { x = [-1, "无"] }')
    document = json.loads(recipe.canonical())
    assert document["binning"]["floor_rows"] == 50
    assert recipe_from_canonical(recipe.canonical()) == recipe


@pytest.mark.parametrize("data", [b"{}", b"not json", b"\xff", b"[]"])
def test_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from_canonical(data)
    assert caught.value.code == "RECIPE_MALFORMED"


def test_a_date_column_and_its_first_date_go_together() -> None:
    whole = load_recipe(
        '[parties.bank.judgement]\ndate_column = "granted_on"\nout_of_time_from = "2024-07-01"\nscore_column = "old"'
    )
    assert whole.columns_of("bank").judgement.columns == ("granted_on", "old")
    for text in ('date_column = "granted_on"', 'out_of_time_from = "2024-07-01"', 'out_of_time_from = "July"'):
        with pytest.raises(RecipeError) as caught:
            load_recipe(f"[parties.bank.judgement]\n{text}")
        assert caught.value.code == "RECIPE_OUT_OF_RANGE"


def test_dimensions_name_groups_of_columns_each_column_in_one() -> None:
    recipe = load_recipe('open = ["dimensions"]\n[parties.tax.dimensions]\n"申报" = ["vat", "late"]\nsize = ["staff"]')
    assert recipe.columns_of("tax").dimensions == {"申报": ("vat", "late"), "size": ("staff",)}
    assert recipe_from_canonical(recipe.canonical()) == recipe
    for text in ('a = ["x"]\nb = ["x"]', '"a\\nb" = ["x"]'):
        assert refusal(f"[parties.tax.dimensions]\n{text}").code == "RECIPE_OUT_OF_RANGE"
