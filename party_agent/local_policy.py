"""This institution's own policy: what its agent refuses though a contract would allow it, and when a person is asked.

`policy.toml` in the agent's folder; without it every job is put before a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protocols.contract import Contract, JobDocument, JobKind
from protocols.errors import ContractViolationError, DataError
from protocols.recipe import Recipe
from protocols.toml_document import parse_toml

POLICY_FILE = "policy.toml"


class Approval(Enum):
    """Who lets a job run that contract and policy allow."""

    PERSON = "person"
    AUTOMATIC = "automatic"


class ScoringModels(Enum):
    """Which models of a contract new rows may be scored with; never one that was rejected or retired."""

    TRAINED = "trained"  # any that was trained under it
    LIVE = "live"


class LocalPolicy(BaseModel):
    """`policy.toml`.

    approval: 'person' or 'automatic'; kinds: of jobs that may run at all; most_jobs: under one contract;
    least_key_bits, least_intersection: stricter than the contract's; allow_outputs: whether anything may be opened to
    all parties; scoring_models: which models may score; source: the data set of contracts that name none; split_seed:
    for trials only, draws which rows train.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    approval: Approval = Approval.PERSON
    kinds: tuple[JobKind, ...] = (JobKind.TRAIN, JobKind.SCORE)
    most_jobs: Annotated[int, Field(ge=0)] = 1_000
    least_key_bits: Annotated[int, Field(ge=2048, le=8192)] = 2048
    least_intersection: Annotated[int, Field(ge=1)] = 1
    allow_outputs: bool = True
    scoring_models: ScoringModels = ScoringModels.TRAINED
    source: str = ""
    split_seed: int | None = None

    def check(self, document: JobDocument, recipe: Recipe, contract: Contract, others: Sequence[object]) -> None:
        """Raise unless this policy allows the job.

        Raises: ContractViolationError: POLICY_KIND, POLICY_JOBS, POLICY_KEY_BITS, POLICY_INTERSECTION, POLICY_OUTPUTS.
        """
        rules = (
            (document.kind in self.kinds, "POLICY_KIND", "this institution runs no job of this kind"),
            (len(others) < self.most_jobs, "POLICY_JOBS", "this institution runs no further job of this contract"),
            (recipe.keys.bits >= self.least_key_bits, "POLICY_KEY_BITS", "this institution asks for longer keys"),
            (
                document.kind is JobKind.SCORE or recipe.contract.minimum_intersection >= self.least_intersection,
                "POLICY_INTERSECTION",
                "this institution asks for a larger minimum intersection",
            ),
            (self.allow_outputs or not recipe.open, "POLICY_OUTPUTS", "this institution opens nothing to all parties"),
        )
        for holds, code, sentence in rules:
            if not holds:
                raise ContractViolationError(code, sentence, "ask that institution, or change the recipe")


def read_policy(folder: Path) -> LocalPolicy:
    """The policy in an agent's folder.

    Raises: DataError: POLICY_INVALID: then no job runs, until it is corrected.
    """
    path = folder / POLICY_FILE
    if not path.exists():
        return LocalPolicy()
    try:
        return LocalPolicy.model_validate(parse_toml(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise DataError(
            "POLICY_INVALID", f"{POLICY_FILE} cannot be used", "correct it; docs/agent.md lists it"
        ) from error
