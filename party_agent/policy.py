"""What this agent accepts: its own copy of the contract and the job document decide, never the coordinator's word."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from party_agent.store import Folder
from protocols.contract import Contract, JobDocument, JobKind, SignedContract, SignedJob, SpentNonces
from protocols.errors import ContractViolationError, DataError, RecipeError
from protocols.recipe import PartyColumns, Recipe, load_recipe, recipe_from_canonical

OWN_SECTION_FILE = "own.toml"  # in the agent's folder
OWN_COLUMNS_FILE = "columns.json"  # in a job's folder
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


def keep_own_section(home: Path, folder: Folder, me: str) -> None:
    """Copy this party's own section from `own.toml` in its agent's folder into the job's, before the first attempt.

    `own.toml` is a recipe with nothing but the section `[parties.<me>]`. Later attempts read the copy, so that a file
    that is edited meanwhile changes no job that runs.
    Raises: RecipeError: RECIPE_ codes, as `load_recipe`; RECIPE_UNKNOWN_KEY: a section of another kind or party.
        DataError: FILE_UNREADABLE.
    """
    path = home / OWN_SECTION_FILE
    if not path.exists() or (folder.path / OWN_COLUMNS_FILE).exists():
        return
    try:
        recipe = load_recipe(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "FILE_UNREADABLE", f"{path.name} cannot be read", "write it as UTF-8 text that the agent's user may read"
        ) from error
    recipe.check_parties([me])
    section = recipe.columns_of(me)
    if recipe != Recipe(parties={me: section}) and recipe != Recipe():
        raise RecipeError(
            "RECIPE_UNKNOWN_KEY",
            f"{path.name} has more than the section parties.{me}; the rest of a recipe is agreed by all",
            f"leave only [parties.{me}] in it",
        )
    folder.write(OWN_COLUMNS_FILE, section.model_dump_json().encode())


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
    contract.check_alignment(recipe.alignment.engine)
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
