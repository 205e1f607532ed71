"""Which fit comes next: the label owner's director says, every provider checks, and both holders know the folds.

Learns: a provider, the penalty, fold, start and own features of each fit; `H_1`, the fold of each row. Sends: plans.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocols.binning.table import BinningTable
from protocols.errors import LocalProtocolError
from protocols.logistic.messages import FoldOfRows, NextFit
from protocols.logistic.plan import (
    Director,
    FitPlan,
    Outcome,
    SequenceRules,
    check_plan,
    fold_rows,
    plan_refused,
)
from protocols.messages import require
from protocols.roles import Parties
from protocols.session import Script, receive, send
from protocols.sharing import Entropy, permutation


class PlanExchange:
    """One party's view of the sequence. rules: None: one fit of everything, about which nobody is asked.

    outcomes: of the fits that ended; a provider's lack what only the label owner is told.
    """

    def __init__(
        self,
        name: str,
        parties: Parties,
        *,
        table: BinningTable,
        rules: SequenceRules | None,
        director: Director,
        entropy: Entropy,
    ) -> None:
        self._name = name
        self._parties = parties
        self._shape = dict(table.shape)
        self._aliases = frozenset(feature.alias for feature in table.features)
        self._peers = {party: frozenset(peer.alias for peer in peers) for party, peers in table.peers.items()}
        self._rows = table.rows
        self._rules = rules
        self._director = director
        self._entropy = entropy
        self._leads = name == parties.label_owner
        self._folds: NDArray[np.int64] | None = None  # of each row, at the share holders
        self.outcomes: list[Outcome] = []

    def ended(self, outcome: Outcome) -> None:
        """Note a fit that ended."""
        self.outcomes.append(outcome)

    def next_step(self) -> Script[FitPlan | int]:
        """The next fit; at the end of the sequence, which one is the model.

        Raises: RecipeError: PLAN_REFUSED, at the label owner. RemoteProtocolError: at a provider.
        """
        if self._rules is None:
            return 0 if self.outcomes else FitPlan()
        step = yield from self._direct(self._rules) if self._leads else self._follow(self._rules)
        if isinstance(step, FitPlan) and step.fold is not None and self._folds is None:
            yield from self._share_folds(self._rules.folds)
        return step

    def rows_of(self, fold: int | None) -> int:
        """Rows of a fit that leaves out `fold`."""
        if fold is None or self._rules is None:
            return self._rows
        return self._rows - fold_rows(self._rows, self._rules.folds, fold)

    def taken(self, fold: int | None) -> NDArray[np.bool_]:
        """At a holder: the rows of a fit that leaves out `fold`, shape (n,)."""
        return np.ones(self._rows, dtype=np.bool_) if fold is None else self._known_folds != fold

    def judged(self, fold: int | None) -> NDArray[np.bool_]:
        """At a holder: the rows over which that fit is judged: the fold, or all."""
        return np.ones(self._rows, dtype=np.bool_) if fold is None else self._known_folds == fold

    @property
    def _known_folds(self) -> NDArray[np.int64]:
        if self._folds is None:
            raise LocalProtocolError("ROLE_INVALID", "only a share holder knows the folds")
        return self._folds

    def _direct(self, rules: SequenceRules) -> Script[FitPlan | int]:
        broken_off = bool(self.outcomes) and not self.outcomes[-1].converged
        plan = None if broken_off else self._director.next_fit(self.outcomes)
        if plan is None:
            chosen = self._director.chosen(self.outcomes)
            if not 0 <= chosen < len(self.outcomes):
                raise plan_refused()
            yield from send(self._parties.providers, NextFit.end(chosen))
            return chosen
        known = self._peers | {self._name: self._aliases}
        named = all(set(aliases) <= known.get(party, frozenset()) for party, aliases in plan.dropped.items())
        if not named or not check_plan(plan, rules, self._shape, self._done):
            raise plan_refused()
        for party in self._parties.providers:
            yield from send(party, NextFit.of(len(self.outcomes), plan, plan.dropped.get(party, ())))
        return plan

    def _follow(self, rules: SequenceRules) -> Script[FitPlan | int]:
        message = yield from receive(self._parties.label_owner, NextFit)
        if message.ended:
            require(message.index < len(self.outcomes))
            return message.index
        require(message.index == len(self.outcomes) and all(outcome.converged for outcome in self.outcomes))
        plan = message.plan(self._name)
        dropped = plan.dropped[self._name]
        require(len(set(dropped)) == len(dropped) and self._aliases.issuperset(dropped))
        require(check_plan(plan, rules, self._shape, self._done))
        return plan

    def _share_folds(self, folds: int) -> Script[None]:
        """A draws the fold of each row, whatever its data, and tells H_1: both zero the shares of rows left out."""
        if self._leads:
            own = np.empty(self._rows, dtype=np.int64)
            own[permutation(self._rows, self._entropy)] = np.arange(self._rows) % folds
            yield from send(self._parties.co_holder, FoldOfRows(own.astype(np.uint8).tobytes()))
            self._folds = own
        elif self._name == self._parties.co_holder:
            message = yield from receive(self._parties.label_owner, FoldOfRows)
            require(len(message.folds) == self._rows)
            own = np.frombuffer(message.folds, dtype=np.uint8).astype(np.int64)
            counts = np.bincount(own, minlength=folds).tolist()
            require(counts == [fold_rows(self._rows, folds, fold) for fold in range(folds)])
            self._folds = own

    @property
    def _done(self) -> list[FitPlan]:
        return [outcome.plan for outcome in self.outcomes]
