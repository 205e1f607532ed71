"""The recipe: every parameter of a job that a modeller may choose, within what the guards of PROTOCOLS.md allow.

All parties of a job hold the same recipe; `Recipe.canonical()` is what they sign. A bound that protects rows or labels
(pre-bin floors, label budget, key length, least intersection) is the loosest value the recipe may name: it can be
tightened here and never relaxed.

The field descriptions below are the comments that `protocols.recipe_text` writes.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from protocols.errors import RecipeError
from protocols.toml_document import parse_toml

PartyName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}\z")]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
DimensionName = Annotated[str, StringConstraints(min_length=1, max_length=60)]
GradeName = Annotated[str, StringConstraints(min_length=1, max_length=20)]
Special = float | Annotated[str, StringConstraints(min_length=1, max_length=200)]
Quantile = Annotated[float, Field(gt=0, lt=1)]
MethodName = Literal["chimerge", "optimal", "quantile"]
TrendName = Literal["none", "ascending", "descending", "auto", "peak", "valley"]
PolicyName = Literal["own", "nearest", "riskiest"]

GRADE_TABLES: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {  # names best first; share so good or better
    "seven": (("A", "B", "C1", "C2", "C3", "D", "F"), (0.10, 0.30, 0.50, 0.70, 0.85, 0.95)),
    "six": (("S", "A+", "A", "B", "C", "D"), (0.05, 0.20, 0.45, 0.70, 0.90)),
}

_UNKNOWN_KEY = frozenset({"extra_forbidden"})
_OUT_OF_RANGE = frozenset(
    {
        "finite_number",
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "literal_error",
        "multiple_of",
        "string_pattern_mismatch",
        "string_too_long",
        "string_too_short",
        "too_long",
        "too_short",
        "value_error",
    }
)


class _Section(BaseModel):
    """A part of the recipe: unknown keys refused, types not coerced, frozen, infinities refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=BaseModel)


class Alignment(_Section):
    """How the ids that all parties have are found."""

    engine: Literal["ecdh", "kkrt"] = Field(
        default="ecdh",
        description='"ecdh": Diffie-Hellman, simple to audit; "kkrt": oblivious transfer, for more than some 100,000 '
        "ids. The contract must allow it.",
    )


class Sample(_Section):
    """Which rows train the scorecard and which judge it."""

    training_share: float = Field(
        default=0.7, ge=0.1, le=0.95, description="Share of the common rows used for training."
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="Seed of the choice of training rows; simulations only. A real job draws them from a CSPRNG.",
        examples=[2024],
    )
    keep_first_duplicate: bool = Field(
        default=False,
        description="An id with several differing rows: false refuses the file, true keeps the first and counts them.",
    )


class Binning(_Section):
    """From raw columns to bins, and from bins to weights of evidence."""

    max_prebins: int = Field(default=20, ge=2, le=20, description="Most pre-bins a feature may have (2 to 20).")
    floor_rows: int = Field(default=50, ge=50, le=1_000_000, description="Least rows of a pre-bin; at least 50.")
    floor_share: float = Field(
        default=0.005, ge=0.005, le=0.25, description="Least share of the training rows of a pre-bin; at least 0.005."
    )
    method: MethodName = Field(
        default="chimerge",
        description='How pre-bins are merged: "chimerge", "optimal" (most information value under the trend) or '
        '"quantile" (even sizes, whatever the labels). A party may choose another for a feature of its own.',
    )
    trend: TrendName = Field(
        default="auto",
        description='How the bad rate goes along the values under "optimal": "none", "ascending", "descending", '
        '"auto" (the better of the two), "peak" or "valley".',
    )
    chimerge_threshold: float = Field(
        default=3.84,
        ge=0,
        le=1000,
        description="Neighbours merge while their least chi-square is below this; 3.84 is 5 % at one degree.",
    )
    max_bins: int = Field(default=8, ge=2, le=20, description="Most bins a feature may have after merging (2 to 20).")
    min_goods: int = Field(default=5, ge=5, le=1_000_000, description="Least goods (label 0) of a bin; at least 5.")
    min_bads: int = Field(default=5, ge=5, le=1_000_000, description="Least bads (label 1) of a bin; at least 5.")
    min_bin_share: float = Field(
        default=0.0, ge=0, le=0.25, description="Least share of the training rows of a bin after merging."
    )
    missing: PolicyName = Field(
        default="own",
        description='Where missing values go: "own" bin, bin of "nearest" WOE, or "riskiest" bin (lowest WOE).',
    )
    special: PolicyName = Field(default="own", description="Where each special value goes; the same words.")
    review_minutes: int = Field(
        default=0,
        ge=0,
        le=720,
        description="Before training, the job waits so long at most for every party to look at its bins, change some "
        "and accept (`concordat-party bins`); 0: it does not wait.",
    )
    review_changes: int = Field(
        default=20,
        ge=0,
        le=1000,
        description="Most changes that a party may ask of the gate in a review. Each costs label counts anew.",
    )


class Selection(_Section):
    """Which features enter the model. The first three cuts need no label: each party makes them before it sends."""

    maximum_missing_rate: float = Field(
        default=1.0, ge=0, le=1, description="A column missing in a larger share of the training rows is left out."
    )
    maximum_single_value_share: float = Field(
        default=1.0, gt=0, le=1, description="So is one with a single value, or missing, in more of them than this."
    )
    maximum_psi: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="So is one whose population stability index over its pre-bins, training to test rows, is larger.",
        examples=[0.25],
    )
    minimum_iv: float = Field(
        default=0.02, ge=0, le=10, description="A feature with less information value is dropped."
    )
    maximum_correlation: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Of two features of one party whose WOE correlate more, that of lower IV is dropped.",
    )
    maximum_cross_correlation: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="After that, the same over the features of all parties. Exact sums of products of these features "
        'open to the label owner, once, here and for maximum_vif: the contract must allow "moments-exact".',
        examples=[0.8],
    )
    maximum_vif: float | None = Field(
        default=None,
        ge=1,
        le=1e6,
        description="Then the feature of largest variance inflation factor over those of all parties goes, while it is "
        "larger than this; 3 of each party stay.",
        examples=[10.0],
    )
    label_budget_share: float = Field(
        default=0.125,
        gt=0,
        le=0.125,
        description="Label counts given to providers, as a share of the label vector's entropy n h(p); at most 0.125.",
    )


class Model(_Section):
    """The logistic regression."""

    l2: float = Field(default=1.0, ge=0, le=1e9, description="L2 penalty in sum-loss units; the intercept is free.")
    tolerance: float = Field(
        default=1e-4,
        ge=1e-4,
        le=0.1,
        description="Stop when the preconditioned gradient norm is at most this; below 0.0001 lies the noise floor.",
    )
    max_iterations: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Most gradients; by default, and at most, what the gradient budget of the job allows.",
        examples=[40],
    )
    weighted: bool = Field(
        default=False,
        description="Rows count by the label owner's sample weights, which it alone knows: it names their column as "
        "weight_column in its own section. Weights are divided by their mean; WOE and IV come from plain counts.",
    )
    search: Literal["none", "stepwise"] = Field(
        default="none",
        description='"stepwise" selects features by a search on the quadratic approximation around the fit of all of '
        'them, and fits its end exactly. It needs a contract that allows "moments-exact".',
    )
    direction: Literal["forward", "backward", "both"] = Field(default="both", description="Of the search.")
    criterion: Literal["bic", "aic"] = Field(default="bic", description="What the search makes least.")
    most_refits: int = Field(default=12, ge=1, le=12, description="Most exact fits of ends of a search.")
    sign_constraint: bool = Field(
        default=False,
        description="Leave out features whose coefficient is positive, where a higher WOE would be riskier.",
    )


class Validation(_Section):
    """Cross-validation on the training rows: which penalty predicts best the rows that a fit has not seen."""

    folds: int = Field(
        default=0,
        ge=0,
        le=10,
        description="Into how many random parts the training rows are cut, each left out once: 0, or 2 to 10.",
    )
    penalties: tuple[Annotated[float, Field(ge=0, le=1e9)], ...] = Field(
        default=(),
        max_length=10,
        description="L2 penalties to choose from, by the log-likelihood of the rows left out, from large to small; by "
        "default model.l2 alone is judged. It takes one fit a fold and penalty, within the gradient budget.",
    )

    @model_validator(mode="after")
    def _folds_judge_penalties(self) -> Self:
        if self.folds == 1:
            raise ValueError("there are 2 folds at least, or none")
        if self.penalties and not self.folds:
            raise ValueError("penalties are chosen by cross-validation: name folds")
        if any(left <= right for left, right in itertools.pairwise(self.penalties)):
            raise ValueError("penalties must descend")
        return self


class Inference(_Section):
    """What is said of the coefficients beside their values. It needs a contract that allows "moments-exact"."""

    standard_errors: bool = Field(
        default=False,
        description="Standard errors, Wald tests and confidence intervals: exact weighted sums of products of the "
        "model's features open to the label owner, once for each feature under a contract.",
    )


class Keys(_Section):
    """The label owner's and the co-holder's Paillier keys, fresh for every job."""

    bits: int = Field(default=3072, ge=2048, le=8192, multiple_of=1024, description="2048, 3072, ... 8192 bits.")


class Scorecard(_Section):
    """Points and grades."""

    pdo: float = Field(default=20.0, gt=0, le=10_000, description="Points that double the odds of being good.")
    base_score: float = Field(default=600.0, ge=-1e6, le=1e6, description="Score at the base odds.")
    base_odds: float = Field(default=50.0, gt=0, le=1e9, description="Goods to one bad at the base score.")
    grades: tuple[GradeName, ...] = Field(
        default=GRADE_TABLES["seven"][0],
        min_length=2,
        max_length=20,
        description='Names of the grades, best first: a list, "seven" for these, or "six" for S, A+, A, B, C, D.',
    )
    cut_quantiles: tuple[Quantile, ...] = Field(
        default=GRADE_TABLES["seven"][1],
        description="Share of the training sample in this grade or better, ascending; the last grade takes the rest. "
        "Left out, they fit the grades: few in the best and the worst, most in between.",
    )
    cut_scores: tuple[int, ...] | None = Field(
        default=None,
        description="Least score of each grade but the last, best first, instead of quantiles.",
        examples=[[660, 640, 620, 600, 580, 560]],
    )
    reason_codes: int = Field(
        default=4,
        ge=0,
        le=20,
        description="How many reasons a scored row gets: features and opened dimensions that cost it most points.",
    )
    reason_reference: Literal["best", "mean"] = Field(
        default="best",
        description='What points are measured against for reasons: those of the "best" bin, or the training "mean".',
    )

    @model_validator(mode="before")
    @classmethod
    def _named_grades(cls, data: Any) -> Any:
        """Write a named table out, and give grades without cuts those that fit their number."""
        if not isinstance(data, dict):
            return data
        data = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        grades = data.get("grades")
        if isinstance(grades, str):
            if grades not in GRADE_TABLES:
                raise ValueError('grades are "seven", "six" or a list of names')
            data["grades"] = grades = GRADE_TABLES[grades][0]
        if isinstance(grades, tuple):
            data.setdefault("cut_quantiles", _cut_quantiles(len(grades)))
        return data

    @model_validator(mode="after")
    def _grades_fit_cuts(self) -> Self:
        if len(set(self.grades)) != len(self.grades):
            raise ValueError("the names of the grades must differ")
        cuts = self.cut_quantiles if self.cut_scores is None else tuple(-score for score in self.cut_scores)
        if len(cuts) != len(self.grades) - 1:
            raise ValueError("there must be one cut less than grades")
        if any(left >= right for left, right in itertools.pairwise(cuts)):
            raise ValueError("cut_quantiles must ascend, cut_scores must descend")
        return self


def _cut_quantiles(grades: int) -> tuple[float, ...]:
    """Cuts for so many grades: those of a named table, or of the seven drawn out over another number.

    >>> _cut_quantiles(4)
    (0.25, 0.6, 0.875)
    """
    for names, cuts in GRADE_TABLES.values():
        if len(names) == grades:
            return cuts
    curve = (0.0, *GRADE_TABLES["seven"][1], 1.0)
    found = []
    for place in range(1, grades):
        whole, part = divmod(place * (len(curve) - 1), grades)
        found.append(round(curve[whole] + (curve[whole + 1] - curve[whole]) * part / grades, 3))
    return tuple(found)


class Contract(_Section):
    """Caps that the contract of a simulation is made from; a real contract may be tighter and then decides."""

    minimum_intersection: int = Field(
        default=500, ge=100, le=1_000_000_000, description="Fewer common rows than this end the job; at least 100."
    )
    maximum_set_size: int = Field(
        default=1_000_000, ge=1000, le=1_000_000_000, description="Most ids a party may bring to the alignment."
    )


class FeatureRules(_Section):
    """How one feature is binned where it differs from [binning]."""

    method: MethodName | None = Field(default=None, description="As in [binning].", examples=["optimal"])
    trend: TrendName | None = Field(
        default=None, description='As in [binning]; goes with the method "optimal".', examples=["ascending"]
    )
    max_bins: int | None = Field(default=None, ge=2, le=20, description="As in [binning].", examples=[5])
    min_bin_share: float | None = Field(default=None, ge=0, le=0.25, description="As in [binning].", examples=[0.05])
    splits: tuple[float, ...] = Field(
        default=(),
        max_length=19,
        description="Own cut points of a numeric feature, ascending, each the upper end of a bin: nothing else is "
        "merged than what a floor demands. In place of method, trend and max_bins.",
        examples=[[0.3, 0.6, 0.9]],
    )
    groups: tuple[tuple[ColumnName, ...], ...] = Field(
        default=(),
        max_length=19,
        description="The same for categories: each list is a bin, and what no list names is one more.",
        examples=[[["A", "B"], ["C"]]],
    )
    missing: PolicyName | None = Field(default=None, description="As in [binning].", examples=["riskiest"])
    missing_with: Special | None = Field(
        default=None, description="The value whose bin missing shares, in place of a policy.", examples=[0.0]
    )
    special: PolicyName | None = Field(default=None, description="As in [binning].", examples=["nearest"])
    special_with: Special | None = Field(
        default=None, description="The value whose bin every special value shares.", examples=[0.0]
    )

    @model_validator(mode="after")
    def _rules_fit_together(self) -> Self:
        own = bool(self.splits or self.groups)
        if self.splits and self.groups:
            raise ValueError("a feature has splits or groups, not both")
        if own and (self.method is not None or self.trend is not None or self.max_bins is not None):
            raise ValueError("own splits or groups take the place of method, trend and max_bins")
        if self.trend is not None and self.method not in (None, "optimal"):
            raise ValueError('a trend goes with the method "optimal"')
        if any(left >= right for left, right in itertools.pairwise(self.splits)):
            raise ValueError("splits must ascend")
        names = [name for group in self.groups for name in group]
        if len(set(names)) != len(names) or not all(self.groups):
            raise ValueError("a category is in one group, and a group has one at least")
        if (self.missing is not None and self.missing_with is not None) or (
            self.special is not None and self.special_with is not None
        ):
            raise ValueError("a policy or a value to share the bin of, not both")
        return self


class Judgement(_Section):
    """What the label owner judges the scorecard by; columns of its own that never enter the model."""

    date_column: ColumnName | None = Field(
        default=None, description="Column of dates (YYYY-MM-DD), for an out-of-time sample.", examples=["granted_on"]
    )
    out_of_time_from: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}\z")] | None = Field(
        default=None,
        description="Rows of this date and later neither train nor test: they are the out-of-time sample.",
        examples=["2024-07-01"],
    )
    score_column: ColumnName | None = Field(
        default=None, description="Column of an existing score to compare with.", examples=["behaviour_score"]
    )
    score_rises_with: Literal["safety", "risk"] = Field(
        default="safety", description="What a higher existing score means.", examples=["risk"]
    )
    approval_rate: Quantile = Field(
        default=0.7, description="Share approved by either score in the swap set.", examples=[0.7]
    )
    loss_given_default: float = Field(
        default=0.45, ge=0, le=1, description="Share of the exposure lost with a bad.", examples=[0.45]
    )
    exposure: float = Field(default=1.0, gt=0, le=1e12, description="Amount lent to one borrower.", examples=[10000.0])
    margin: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Earned on a good, as a share of the exposure; with it, cut-offs show expected profit.",
        examples=[0.08],
    )

    @model_validator(mode="after")
    def _dated(self) -> Self:
        if (self.date_column is None) != (self.out_of_time_from is None):
            raise ValueError("date_column and out_of_time_from go together")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns named here, none of which is a feature."""
        return tuple(name for name in (self.date_column, self.score_column) if name is not None)


class PartyColumns(_Section):
    """How one party's columns are to be read."""

    categorical: tuple[ColumnName, ...] = Field(
        default=(), description="Columns of codes: numbers there are names.", examples=[["industry_code"]]
    )
    special: dict[ColumnName, tuple[Special, ...]] = Field(
        default_factory=dict,
        description="Values that mean something other than their size; each gets a bin of its own.",
        examples=[{"months_since_last_overdue": [-1]}],
    )
    exclude: tuple[ColumnName, ...] = Field(
        default=(), description="Columns left out of the job.", examples=[["remarks"]]
    )
    keep: tuple[ColumnName, ...] = Field(
        default=(),
        description="Columns that stay whatever the cuts of [selection] say, but for correlation and every bound that "
        "protects rows or labels. The label owner sees the wish, under an alias.",
        examples=[["credit_limit"]],
    )
    drop: tuple[ColumnName, ...] = Field(
        default=(),
        description="Columns that an expert leaves out: read and reported as such, never sent.",
        examples=[["branch_code"]],
    )
    dimensions: dict[DimensionName, tuple[ColumnName, ...]] = Field(
        default_factory=dict,
        max_length=20,
        description="Groups of columns with a sub-score each; columns in none go under the party's own name.",
        examples=[{"repayment": ["months_since_last_overdue"]}],
    )
    weight_column: ColumnName | None = Field(
        default=None,
        description="The label owner's column of sample weights: a positive number a row, within a 64th and 64 times "
        "the mean. It is no feature. The fit takes it where model.weighted says so.",
        examples=["sample_weight"],
    )
    features: dict[ColumnName, FeatureRules] = Field(default_factory=dict)
    judgement: Judgement = Field(default_factory=Judgement)

    @property
    def no_features(self) -> tuple[str, ...]:
        """Columns that the label owner reads for another purpose than to score by them."""
        weight = () if self.weight_column is None else (self.weight_column,)
        return (*self.judgement.columns, *weight)

    @model_validator(mode="after")
    def _lists_differ(self) -> Self:
        if set(self.keep) & (set(self.drop) | set(self.exclude)):
            raise ValueError("a column to keep is not one to drop or exclude")
        grouped = [name for names in self.dimensions.values() for name in names]
        if len(set(grouped)) != len(grouped) or not all(name.isprintable() for name in self.dimensions):
            raise ValueError("a column is in one dimension, and the name of a dimension is printable")
        return self


class Recipe(_Section):
    """Every parameter of a job.

    >>> Recipe().keys.bits
    3072
    >>> load_recipe("[keys]\\nbits = 2048").keys.bits
    2048
    """

    open: tuple[Literal["scorecard", "dimensions"], ...] = Field(
        default=(),
        max_length=2,
        description='What the parties agree to show each other beyond the protocol: "scorecard" puts the bins, WOE '
        'and points of all parties into the shared report, "dimensions" tells the label owner the points of every '
        "provider by dimension for every row; both are lines of the statement.",
    )
    alignment: Alignment = Field(default_factory=Alignment)
    sample: Sample = Field(default_factory=Sample)
    binning: Binning = Field(default_factory=Binning)
    selection: Selection = Field(default_factory=Selection)
    model: Model = Field(default_factory=Model)
    validation: Validation = Field(default_factory=Validation)
    inference: Inference = Field(default_factory=Inference)
    keys: Keys = Field(default_factory=Keys)
    scorecard: Scorecard = Field(default_factory=Scorecard)
    contract: Contract = Field(default_factory=Contract)
    parties: dict[PartyName, PartyColumns] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_sequence(self) -> Self:
        if (self.model.search != "none") + self.model.sign_constraint + bool(self.validation.folds) > 1:
            raise ValueError("a training has a search, a sign constraint or folds: one of them")
        return self

    @property
    def opens_moments(self) -> bool:
        """Whether exact second moments open to the label owner, which the contract must allow."""
        return self.inference.standard_errors or self.model.search != "none" or self.screens_across

    @property
    def screens_across(self) -> bool:
        """Whether features are screened across parties."""
        cuts = self.selection
        return cuts.maximum_cross_correlation is not None or cuts.maximum_vif is not None

    def columns_of(self, party: str) -> PartyColumns:
        """The section `[parties.<party>]`, or its defaults."""
        return self.parties.get(party, PartyColumns())

    def check_parties(self, names: Iterable[str]) -> None:
        """Check that every `[parties.<name>]` section names a party of the job.

        Raises: RecipeError: RECIPE_UNKNOWN_KEY.
        """
        for name in sorted(self.parties.keys() - set(names)):
            raise RecipeError(
                "RECIPE_UNKNOWN_KEY", f"the recipe has a section parties.{name}, but no such party takes part", _REMEDY
            )

    def canonical(self) -> bytes:
        """The bytes to sign: UTF-8 JSON, keys sorted, no blanks, every default written out."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()


def load_recipe(text: str) -> Recipe:
    """The recipe in a TOML document; what it leaves out has its default.

    Raises: RecipeError: RECIPE_MALFORMED (not TOML, or a value of the wrong type), RECIPE_UNKNOWN_KEY,
        RECIPE_OUT_OF_RANGE; the sentence names the key, never its value.
    """
    try:
        document = parse_toml(text)
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, and a number of thousands of digits
        place = re.search(r"\(at (line \d+), column \d+\)", str(error))
        where = f" at {place.group(1)}" if place else ""
        raise RecipeError("RECIPE_MALFORMED", f"the recipe is not valid TOML{where}", _REMEDY) from None
    try:
        data = json.dumps(document)
    except TypeError:
        raise RecipeError("RECIPE_MALFORMED", "the recipe has a date or time, which no key takes", _REMEDY) from None
    except (ValueError, RecursionError):
        raise RecipeError("RECIPE_MALFORMED", "the recipe has a number too long or tables too deep", _REMEDY) from None
    return _validated(data, Recipe)


def recipe_from_canonical(data: bytes) -> Recipe:
    """The recipe in the bytes that `Recipe.canonical` made, as carried by a signed job document.

    Raises: RecipeError: as `load_recipe`, and RECIPE_MALFORMED when the bytes are not the canonical ones.
    """
    recipe = _validated(data, Recipe)
    if recipe.canonical() != data:
        raise RecipeError("RECIPE_MALFORMED", "the recipe is not in its canonical form", _REMEDY)
    return recipe


_RULES = {
    "dict_type": "it must be a table",
    "model_type": "it must be a table",
    "tuple_type": "it must be a list",
    "string_pattern_mismatch": "a party's name is a small letter followed by at most 31 of a-z, 0-9, '_' and '-'",
}
_REMEDY = "compare the recipe with the commented defaults that `concordat recipe` prints"


def feature_rules(data: Mapping[str, Any]) -> FeatureRules:
    """The rules of one feature from plain values; what is left out is as in [binning].

    Raises: RecipeError: as `load_recipe`.
    """
    return _validated(json.dumps(data), FeatureRules)


def _validated(data: str | bytes, kind: type[S]) -> S:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        # `from None`, and no input in the sentence: what was typed into a recipe is not echoed into logs.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise _refusal(first["type"], first["loc"], first["msg"]) from None


def _refusal(kind: str, location: tuple[int | str, ...], reason: str) -> RecipeError:
    key = _key_path(location)
    if kind in _UNKNOWN_KEY:
        return RecipeError("RECIPE_UNKNOWN_KEY", f"the recipe has no key '{key}'", _REMEDY)
    if kind in _RULES:
        rule = _RULES[kind]
    elif kind == "value_error":
        rule = reason.removeprefix("Value error, ")
    elif reason.startswith("Input should "):
        rule = "it must " + reason.removeprefix("Input should ")
    elif kind in _OUT_OF_RANGE:
        rule = reason[:1].lower() + reason[1:]
    else:
        rule = "it is not of the type it should be"
    code = "RECIPE_OUT_OF_RANGE" if kind in _OUT_OF_RANGE else "RECIPE_MALFORMED"
    subject = f"the recipe's '{key}'" if key else "the recipe"
    return RecipeError(code, f"{subject} is refused: {rule}", _REMEDY)


def _key_path(location: tuple[int | str, ...]) -> str:
    """'parties.bank.special.x' from pydantic's location; list positions and pydantic's own tags are left out."""
    keys: list[str] = []
    for part in location:
        if isinstance(part, int):
            break  # inside a list: its key is enough
        if part != "[key]":
            keys.append(part if part.isprintable() and 0 < len(part) <= 200 else "?")
    return ".".join(keys)
