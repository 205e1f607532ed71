"""The label owner's sample weights in a job: whether the recipe wants them, and what its own report says of them."""

from __future__ import annotations

from party_agent.dataset import Finding, IntArray, Table
from protocols.errors import LocalProtocolError, RecipeError
from protocols.logistic.weights import SampleWeights
from protocols.recipe import Recipe


def check_weights(table: Table, recipe: Recipe) -> tuple[Finding, ...]:
    """A finding where a column of weights stays unused.

    Raises: RecipeError: WEIGHT_COLUMN_MISSING: the recipe wants a weighted fit, and no column is named.
    """
    if recipe.model.weighted == (table.weights is not None):
        return ()
    if table.weights is not None:
        sentence = "The weights were not used: the recipe does not say weighted under [model]."
        return (Finding("WEIGHTS_UNUSED", len(table.ids), sentence),)
    raise RecipeError(
        "WEIGHT_COLUMN_MISSING",
        "the recipe asks for a weighted fit, and the label owner names no column of weights",
        "name it as weight_column in the label owner's own section of the recipe",
    )


def weights_summary(weights: SampleWeights, label: IntArray | None) -> dict[str, float]:
    """effective_rows: rows of equal weight that tell as much (Kish); bad_rate: of the training rows; plain: unweighted.

    Raises: LocalProtocolError: ROLE_INVALID: not at the label owner.
    """
    if label is None:
        raise LocalProtocolError("ROLE_INVALID", "only the label owner has weights")
    return {
        "effective_rows": round(weights.effective_rows, 1),
        "bad_rate": float(weights.rate(label)),
        "plain_bad_rate": float(label.mean()),
    }
