"""What this agent accepts: its own copy of the contract and the job document decide, never the coordinator's word."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from protocols.contract import Contract, JobDocument, JobKind, SignedContract, SignedJob, SpentNonces
from protocols.errors import ContractViolationError, RecipeError
from protocols.recipe import PartyColumns, Recipe, recipe_from_canonical

_AMEND = "change the recipe, or have every party sign an amended contract"


@dataclass(frozen=True)
class Agreement:
    """A job that this agent has accepted: its contract, its document and its recipe, all checked against each other."""

    contract: Contract
    job: JobDocument
    recipe: Recipe

    @property
    def context(self) -> bytes:
        """What proofs and channels of this job are bound to."""
        return self.contract.hash() + self.job.job.encode()

    def with_own_columns(self, me: str, path: Path) -> Agreement:
        """The same with this party's own section `[parties.<me>]`, which no peer sees, from a JSON file if it is there.

        Raises: RecipeError: the section is not well formed.
        """
        if not path.exists():
            return self
        try:
            section = PartyColumns.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise RecipeError("RECIPE_MALFORMED", f"{path.name} is not a section of a recipe") from error
        return replace(self, recipe=self.recipe.model_copy(update={"parties": {me: section}}))


def accept(me: str, kind: JobKind, contract: bytes, job: bytes, now: int, nonces: SpentNonces) -> Agreement:
    """Check signatures, validity, and the recipe against the contract's caps.

    Args: kind: what this agent is about to do; a document for something else does not authorise it.
    Raises: ContractViolationError, RecipeError: with the rule that stands against it.
    """
    agreed = SignedContract.decode(contract).verify(now)
    agreed.member(me)
    document = SignedJob.decode(job).verify(agreed, now, nonces)
    if document.kind is not kind:
        raise ContractViolationError(
            "JOB_OTHER_KIND", f"the job document is not for a {kind.value} job", "ask the label owner for the right one"
        )
    recipe = recipe_from_canonical(document.recipe.encode())
    recipe.check_parties(agreed.parties.all)
    agreed.check_algorithms(document.kind)
    check_recipe(recipe, agreed)
    return Agreement(agreed, document, recipe)


def check_recipe(recipe: Recipe, contract: Contract) -> None:
    """The recipe asks for nothing that the contract does not allow."""
    caps = contract.caps
    contract.check_key_bits(recipe.keys.bits)
    contract.check_binning(recipe.binning.method)
    if recipe.opens_moments:
        contract.check_moments()
    for output in recipe.open:
        contract.check_output(output)
    share = Fraction(caps.label_budget_numerator, caps.label_budget_denominator)
    if recipe.selection.label_budget_share > float(share):
        raise ContractViolationError("LABEL_SHARE", "the recipe's label budget is larger than the contract's", _AMEND)
    if recipe.binning.floor_rows < caps.bin_floor:
        raise ContractViolationError("BIN_FLOOR", "the recipe's bin floor is lower than the contract's", _AMEND)
    if recipe.contract.minimum_intersection < caps.minimum_intersection:
        raise ContractViolationError(
            "MINIMUM_INTERSECTION", "the recipe's minimum intersection is lower than the contract's", _AMEND
        )
    if recipe.contract.maximum_set_size > caps.maximum_set_size:
        raise ContractViolationError("SET_TOO_LARGE", "the recipe's set size is larger than the contract's", _AMEND)
    if recipe.sample.seed is not None:
        raise ContractViolationError(
            "SEED_IN_JOB", "a job document may hold no seed: a seed is its owner's own", "take sample.seed out"
        )
