"""What opens for a search: logits as coarse as a quadratic approximation can stand, and moments around these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from party_agent.checkpoint import Checkpoints
from party_agent.estimation import SEARCH, Searched, open_for_search
from party_agent.store import Folder
from protocols.disclosure import Ledger
from protocols.moments.messages import FIT_STEPS, FeatureErrors
from protocols.moments.of_fit import MomentsOfFit
from protocols.moments.permission import MemoryOpenedMoments, MomentPermission
from protocols.scoring.messages import MaskedLogitParts
from protocols.session import Script, Session
from protocols.spent import MemorySpentIndices
from tests.protocols.test_moments import contract_of
from tests.simulator import KEY_BITS, Job, SimulatedNetwork, play, seeded


def test_logits_open_for_a_search_in_steps_of_a_quarter_and_its_moments_still_have_the_fit(
    job_of: Callable[[int], Job], tmp_path: Path
) -> None:
    job = job_of(1)
    scripts: dict[str, Script[Any]] = {}
    searched: dict[str, Searched] = {}
    logits = {}
    for name in job.parties.all:
        fit, table = job.fit[name], job.tables[name]
        label = job.stages.data.label if name == job.parties.label_owner else None
        own = MomentPermission(contract_of(job.parties), MemoryOpenedMoments(), search=True)
        part = MomentsOfFit(
            name, job.parties, SEARCH, table, job.rows[name], own, b"context", seeded(name), MemorySpentIndices(),
            label, KEY_BITS,
        )  # fmt: skip
        folder = Folder(tmp_path / name)
        searched[name] = Searched(Checkpoints(folder, folder, "job", b"context"), table)
        logits[name] = table.design / (1 << 16) @ fit.weights + (fit.intercept or 0.0)
        scripts[name] = open_for_search(part, searched[name])(0, logits[name])
    steps = [step for step in FIT_STEPS if step.message is not FeatureErrors]
    network, bounds = SimulatedNetwork(), job.stages.data.bounds()
    play(
        scripts,
        {name: Session(name, job.parties, "train", steps, bounds, Ledger(name)) for name in scripts},
        network,
    )
    (frame,) = network.sent(MaskedLogitParts)
    sent = np.frombuffer(frame.message(MaskedLogitParts).parts, dtype="<i4")
    assert np.abs(sent / 100 - logits["bureau"]).max() <= 0.125 + 1e-9
    assert set(sent % 25) == {0}
    assert len(set(sent)) > 2
    moments = searched["bank"].moments
    assert moments is not None
    penalty = np.diag([0.0] + [1.0] * len(moments.features))
    implied = np.linalg.solve(moments.curvature + penalty, moments.score)
    assert np.abs(implied - job.coefficients()).max() < 0.02  # the expansion is of each row around its own logit
