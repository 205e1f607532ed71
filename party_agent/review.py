"""The stage `review` of a training job: bins looked at, changed and accepted before training."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from party_agent.artefacts import Stored, table_from, table_to
from party_agent.checkpoint import Blobs, Checkpoints
from party_agent.dataset import Finding, Table
from party_agent.rebinning import RawColumns
from party_agent.review_desk import FileDesk
from party_agent.review_state import owner_state_from, owner_state_to, provider_state_from, provider_state_to
from party_agent.screening import PreBinned
from party_agent.stages import Seat
from protocols.binning.review_owner import OwnerReview, OwnerState, ReviewingOwner
from protocols.binning.review_provider import ProviderReview, ProviderState, ReviewingProvider
from protocols.binning.rules import Method, rule_of
from protocols.binning.table import BinningTable
from protocols.disclosure import Ledger
from protocols.recipe import FeatureRules, Recipe, feature_rules
from protocols.row_account import RowAccount
from protocols.rows.encryption import RowMasks
from protocols.session import Script

REVIEW = "review"
STATE = "review-state"


@dataclass(frozen=True)
class Reviewed:
    """The bins that were accepted.

    rules: of own features that changed, by name; findings: for the party's own report.
    """

    table: BinningTable
    rules: Mapping[str, FeatureRules]
    findings: tuple[Finding, ...]

    def changes(self, prebinned: PreBinned, recipe: Recipe) -> PreBinned:
        """Own features before the gate with the merge rules that they have now."""
        binnings = {feature.name: feature.binning for feature in self.table.features}
        rules = tuple(
            rule_of(recipe.binning, self.rules[b.feature], binnings[b.feature], keep=rule.keep)
            if b.feature in self.rules
            else rule
            for b, rule in zip(prebinned.binnings, prebinned.rules, strict=True)
        )
        return replace(prebinned, rules=rules)


class Review:
    """A party's part of the stage.

    Args: training: own training rows; sent: own features before the gate; checkpoints: of the job; account: what the
        labels pay from, at the label owner.
    """

    def __init__(
        self,
        seat: Seat,
        training: Table,
        prebinned: PreBinned,
        table: BinningTable,
        rows: RowMasks,
        ledger: Ledger,
        checkpoints: Checkpoints,
        account: RowAccount,
    ) -> None:
        self._seat = seat
        self._contract = seat.agreement.contract
        self._recipe = seat.agreement.recipe
        self._training = training
        self._prebinned = prebinned
        self._table = table
        self._rows = rows
        self._ledger = ledger
        self._checkpoints = checkpoints
        self._account = account

    def play(self) -> Script[Reviewed]:
        """This party's role, at the desk in the job's folder."""
        name, contract = self._seat.name, self._contract
        minutes = self._recipe.binning.review_minutes
        desk = FileDesk(self._seat.folder, self._seat.agreement.job.job, name, minutes)
        own = RawColumns(self._training, self._recipe, name, contract.check_binning)
        ended: OwnerReview | ProviderReview
        if self._training.label is not None:
            ended = yield from ReviewingOwner(
                contract.parties,
                state=self._owner_state(),
                label=self._training.label,
                rows=self._rows,
                recipe=self._recipe,
                methods=allowed_methods(contract.binnings),
                desk=desk,
                own=own,
                account=self._account,
                room=lambda to, learned: self._ledger.has_room(to, learned),
                save=lambda state: self._save(owner_state_to(state)),
            ).play()
        else:
            gone = {item.name for item in self._table.dropped if not item.alias}  # never sent
            ended = yield from ReviewingProvider(
                name,
                contract.parties,
                state=self._provider_state(),
                sent=[binning for binning in self._prebinned.binnings if binning.feature not in gone],
                rows=self._rows,
                recipe=self._recipe,
                entropy=self._seat.entropy,
                desk=desk,
                own=own,
                room=lambda to, learned: self._ledger.has_room(to, learned),
                save=lambda state: self._save(provider_state_to(state)),
            ).play()
        desk.close()
        state = ended.state
        table = replace(state.table, counted={}, prebin_masks=())
        return Reviewed(table, state.rules, findings_of(state.changed, state.rules, state.notes, ended.waiting))

    def _owner_state(self) -> OwnerState:
        if not self._checkpoints.has(STATE):
            return OwnerState.of(self._table, self._contract.parties.providers)
        header, blobs = self._checkpoints.load(STATE)
        state = owner_state_from(header["state"], blobs)
        return state if header["of"] == self._binned_in else state.anew(self._table)

    def _provider_state(self) -> ProviderState:
        if not self._checkpoints.has(STATE):
            return ProviderState(self._table)
        header, blobs = self._checkpoints.load(STATE)
        state = provider_state_from(header["state"], blobs)
        return state if header["of"] == self._binned_in else state.anew(self._table)

    def _save(self, stored: Stored) -> None:
        header, blobs = stored
        self._checkpoints.save(STATE, {"of": self._binned_in, "state": header}, blobs)

    @cached_property
    def _binned_in(self) -> int:
        """The attempt whose answer of the gate is in force."""
        return int(self._checkpoints.load("bin")[0]["attempt"])


def allowed_methods(binnings: Collection[str]) -> list[Method]:
    """Methods that a provider may ask for under a contract; own splits merge nothing and are always allowed."""
    return [*(Method(method) for method in binnings), Method.SPLITS]


def findings_of(
    changed: Mapping[str, str],
    rules: Mapping[str, FeatureRules],
    notes: Mapping[str, tuple[str, ...]],
    waiting: tuple[str, ...],
) -> tuple[Finding, ...]:
    """What the party's own report says of a review, with the rules that a later recipe would name.

    >>> findings_of({"age": "bureau"}, {"age": FeatureRules(splits=(30.0, 45.5))}, {}, ())[0].sentence
    'age: bins changed in the review by bureau: splits = [30.0, 45.5].'
    """
    found = []
    for name, who in sorted(changed.items()):
        own = rules[name].model_dump(mode="json", exclude_defaults=True) if name in rules else {}
        told = "; ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in own.items())
        sentence = f"{name}: bins changed in the review by {who}{': ' if told else ''}{told}."
        found.append(Finding("BINS_CHANGED", 1, " ".join([sentence, *notes.get(name, ())])))
    if waiting:
        sentence = (
            f"Time for the review was up before {', '.join(waiting)} had accepted; the bins were taken as they were."
        )
        found.append(Finding("REVIEW_TIMED_OUT", len(waiting), sentence))
    return tuple(found)


def reviewed_to(value: Reviewed) -> Stored:
    """For a checkpoint."""
    header, blobs = table_to(value.table)
    rules = {name: item.model_dump(mode="json") for name, item in value.rules.items()}
    return {"table": header, "rules": rules, "findings": [asdict(item) for item in value.findings]}, blobs


def reviewed_from(header: dict[str, Any], blobs: Blobs) -> Reviewed:
    """Inverse of `reviewed_to`."""
    rules = {name: feature_rules(item) for name, item in header["rules"].items()}
    return Reviewed(table_from(header["table"], blobs), rules, tuple(Finding(**item) for item in header["findings"]))
