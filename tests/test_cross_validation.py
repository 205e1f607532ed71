"""Cross-validation on the columns of `uci_default`: log-likelihoods out of fold, and what 25 fits cost in gradients."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from protocols.binning.prebins import FeatureKind
from protocols.logistic.directors import CrossValidation
from protocols.logistic.messages import FoldOfRows
from protocols.logistic.party import FitRules
from protocols.logistic.plan import SequenceRules
from protocols.roles import Parties
from tests.reference.pooled import damped_newton
from tests.simulator import Consortium, Stages
from tests.test_consortia import UCI, files

pytestmark = pytest.mark.consortium

ROWS, FOLDS, PENALTIES = 5_000, 5, (100.0, 30.0, 10.0, 3.0, 1.0)
COLUMNS = {
    "bank": ["LIMIT_BAL", "EDUCATION", "AGE", "PAY_AMT1", "PAY_AMT2", "PAY_AMT4"],
    "bureau": ["PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_6", "BILL_AMT6"],
}
RULES = SequenceRules(len(PENALTIES) * FOLDS + 1, PENALTIES, folds=FOLDS, likelihoods=True)


def uci_rows(data: Path) -> Consortium:
    """Some of the common rows whose ids need no cleaning; six columns of each party, which five folds can stand."""
    tables = {party: pd.read_csv(path, dtype={"id": str}) for party, path in files(data, UCI).items()}
    clean = [table.drop_duplicates("id").set_index("id").sort_index() for table in tables.values()]
    common = reduce(pd.Index.intersection, (table.index for table in clean))[:ROWS]
    columns = {}
    for party, table in zip(tables, clean, strict=True):
        own = table.loc[common, COLUMNS[party]]
        columns[party] = tuple((own[name].to_numpy(float), FeatureKind.NUMERIC, ()) for name in own)
    owner, *providers = tables
    return Consortium(Parties(owner, tuple(providers)), clean[0].loc[common, "y"].to_numpy(np.int64), columns)


def test_log_likelihoods_out_of_fold_are_those_of_pooled_fits_and_25_cost_less_than_8_fits(data_folder: Path) -> None:
    data = uci_rows(data_folder)
    rules = FitRules(PENALTIES[-1], sequence=RULES)
    stages = Stages(data, seed="folds", key_bits=1536, rules=rules, director=CrossValidation(RULES))
    rows = stages.encrypt()
    tables = stages.bin(rows)
    outcomes = stages.train_sequence(rows, tables, {})["bank"].outcomes
    assert len(outcomes) == len(PENALTIES) * FOLDS + 1
    (frame,) = stages.network.sent(FoldOfRows)
    folds = np.frombuffer(frame.message(FoldOfRows).folds, dtype=np.uint8)
    x = np.column_stack([np.ones(ROWS), *(tables[party].design / (1 << 16) for party in data.parties.all)])
    pooled = []
    for outcome in outcomes[:-1]:
        fold = folds == outcome.plan.fold
        weights = damped_newton(x[~fold], data.label[~fold], PENALTIES[outcome.plan.penalty], tolerance=1e-7)
        z = x[fold] @ weights
        pooled.append(float(data.label[fold] @ z - np.logaddexp(0, z).sum()))
        assert outcome.log_likelihood == pytest.approx(pooled[-1], rel=1e-3)
    totals = np.array(pooled).reshape(len(PENALTIES), FOLDS).sum(axis=1)
    assert outcomes[-1].plan.penalty == int(np.argmax(totals))
    alone = Stages(data, seed="one", key_bits=1536, rules=FitRules(PENALTIES[-1]))
    one = alone.train(rows, tables)["bank"].gradients
    assert sum(outcome.gradients for outcome in outcomes) + FOLDS <= 8 * one  # a fold costs a column of label sums too
