"""What the lab says of a model against what the agent believes: signatures, and its own folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from party_agent import lineage
from party_agent.agent import JobState
from party_agent.lineage import data_digest
from party_agent.local_policy import read_policy
from party_agent.store import Folder
from protocols.audit import entries_of
from protocols.contract import Contract
from protocols.errors import ConcordatError
from protocols.model_record import Act, ModelEvent, ModelRecord, ModelState, PartLine, SignedModelEvent
from tests.finished_job import leave_finished_job, small_table
from tests.party_agent.made_up_job import TABLES, made_up_report
from tests.party_agent.test_agent import KEYS, ME, LyingLab, World


@dataclass
class ModelLab(LyingLab):
    """It also delivers models, whatever it is given."""

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)

    def model(self, digest: str) -> dict[str, Any]:
        return self.models[digest]

    def add_model_event(self, digest: str, document: str) -> dict[str, Any]:
        self.sent.append(document)
        return {"created": True}


class Library:
    """The agent of the bureau, a training job of its contract that ended well, and what the others sign."""

    def __init__(self, root: Path) -> None:
        self.world = World(root)
        self.world.agent.close()
        self.lab = ModelLab()
        self.world.lab = self.lab
        self.world.agent = self.world.new_agent()
        self.contract: Contract = self.world.contract()
        self.folder = self.train("train-1")
        self.record = self.agent.models.record_of("train-1", "sme", 1, metrics=True)

    @property
    def agent(self) -> Any:
        return self.world.agent

    def train(self, job: str) -> Folder:
        return leave_finished_job(
            self.world.folder, self.world.job(self.contract, job=job), TABLES[ME], made_up_report()
        )

    def event(
        self, party: str, act: Act, sequence: int = 1, record: ModelRecord | None = None, key: str = ""
    ) -> SignedModelEvent:
        own = PartLine("5" * 64, "6" * 64, "0.1.0") if act is Act.APPROVE else PartLine()
        event = ModelEvent((record or self.record).hash(), party, act, sequence, int(self.world.now), "", own)
        return event.sign(KEYS[key or party])

    def deliver(self, *events: SignedModelEvent, record: ModelRecord | None = None, under: str = "") -> None:
        """The lab has these events on a record, says so, and the agent takes a round."""
        record = record or self.record
        digest = under or record.hash()
        documents = [item.encode().decode() for item in events]
        self.lab.models[digest] = {"hash": digest, "record": record.encode().decode(), "events": documents}
        self.world.push("model", digest)
        self.agent.step(0)

    def submitted(self) -> list[SignedModelEvent]:
        events = [self.event("bank", Act.SUBMIT)]
        self.deliver(*events)
        return events

    def approved(self) -> list[SignedModelEvent]:
        """Submitted, and approved by everybody, this institution included."""
        events = self.submitted()
        events.append(self.agent.models.act(self.record, Act.APPROVE, ""))
        events += [self.event("bank", Act.APPROVE, 2), self.event("tax", Act.APPROVE)]
        self.deliver(*events)
        return events

    @property
    def state(self) -> ModelState:
        found = self.agent.models.state(self.record)
        assert isinstance(found, ModelState)
        return found

    def last(self) -> tuple[str, str]:
        return self.world.records()[-1]


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    made = Library(tmp_path)
    yield made
    made.agent.close()


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(ConcordatError) as caught:
        act()
    return caught.value.code


def test_a_model_that_all_approved_goes_live_and_every_act_is_in_the_log(library: Library) -> None:
    events = library.approved()
    assert library.state is ModelState.APPROVED
    library.deliver(*events, library.event("bank", Act.GO_LIVE, 3))
    assert library.state is ModelState.LIVE
    kinds = [kind for kind, _ in library.world.records() if kind.startswith("model")]
    assert kinds == ["model submitted", *["model approved"] * 3, "model taken live"]
    log = [e for e in entries_of((library.world.folder / "audit.log").read_bytes()) if e.kind == "model approved"]
    own = library.agent.models.own_approval(library.record)
    assert (log[0].fields["by"], log[0].fields["part"], log[0].fields["data"]) == (ME, own.part, own.data)
    assert dict(library.record.metrics)["test_auc"] == round(made_up_report()["metrics"]["test"]["auc"] * 10_000)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe_hash": "7" * 64},
        {"job_document": "7" * 64},
        {"code": "9.9"},
        {"metrics": (("test_auc", 9_999),)},
    ],
)
def test_a_record_that_does_not_say_what_the_own_folder_says_is_refused(
    library: Library, changes: dict[str, Any]
) -> None:
    altered = replace(library.record, **changes)
    library.deliver(library.event("bank", Act.SUBMIT, record=altered), record=altered)
    assert library.last() == ("administration", "MODEL_RECORD_DIFFERS")
    assert library.agent.models.store.all() == []


def test_a_record_that_the_lab_put_under_another_hash_is_refused(library: Library) -> None:
    altered = replace(library.record, metrics=())
    library.deliver(library.event("bank", Act.SUBMIT), record=altered, under=library.record.hash())
    assert library.last() == ("administration", "MODEL_RECORD_DIFFERS")


@pytest.mark.parametrize(("job", "state"), [("train-2", None), ("train-3", JobState.FAILED)])
def test_a_record_of_a_job_that_did_not_end_well_here_is_refused(
    library: Library, job: str, state: JobState | None
) -> None:
    if state is not None:
        library.world.trained(library.contract, state, job)
    record = replace(library.record, job=job)
    library.deliver(library.event("bank", Act.SUBMIT, record=record), record=record)
    assert library.last() == ("administration", "MODEL_UNKNOWN")


def test_a_second_record_of_one_job_or_of_one_version_is_refused(library: Library) -> None:
    library.submitted()
    renamed = replace(library.record, name="other")
    library.deliver(library.event("bank", Act.SUBMIT, record=renamed), record=renamed)
    assert library.last() == ("administration", "MODEL_EXISTS")
    library.train("train-2")
    same = library.agent.models.record_of("train-2", "sme", 1, metrics=True)
    library.deliver(library.event("bank", Act.SUBMIT, record=same), record=same)
    assert library.last() == ("administration", "MODEL_EXISTS")
    assert library.agent.models.store.all() == [library.record]


@pytest.mark.parametrize(
    ("party", "key", "code"),
    [
        ("stranger", "stranger", "NOT_A_MEMBER"),
        ("coordinator", "coordinator", "NOT_A_MEMBER"),
        ("tax", "stranger", "EVENT_SIGNATURE_INVALID"),
        (ME, "coordinator", "EVENT_SIGNATURE_INVALID"),
    ],
)
def test_an_approval_by_who_is_no_party_is_refused(library: Library, party: str, key: str, code: str) -> None:
    events = library.submitted()
    library.deliver(*events, library.event(party, Act.APPROVE, key=key))
    assert library.last() == ("administration", code)
    assert library.agent.models.approvals(library.record) == {}


def test_a_model_taken_live_without_all_approvals_is_not_live(library: Library) -> None:
    events = [*library.submitted(), library.event("bank", Act.APPROVE, 2), library.event("tax", Act.APPROVE)]
    library.deliver(*events, library.event("bank", Act.GO_LIVE, 3))
    assert library.last() == ("administration", "MODEL_NOT_APPROVED")
    assert library.state is ModelState.SUBMITTED
    own = library.agent.models.act(library.record, Act.APPROVE, "")
    library.deliver(*events, own, library.event("bank", Act.GO_LIVE, 3))
    assert library.state is ModelState.LIVE


def test_an_event_that_is_delivered_again_changes_nothing_and_a_second_one_of_its_number_is_refused(
    library: Library,
) -> None:
    events = library.approved()
    before = library.world.records()
    library.deliver(*events, *events)
    assert library.world.records() == before
    library.deliver(*events, library.event("tax", Act.RETIRE, 1))
    assert library.last() == ("administration", "EVENT_CONFLICT")
    assert library.state is ModelState.APPROVED


def test_an_approval_of_another_model_cannot_be_used_again(library: Library) -> None:
    library.submitted()
    library.train("train-2")
    second = library.agent.models.record_of("train-2", "sme", 2, metrics=True)
    library.deliver(library.event("bank", Act.SUBMIT, record=second), library.event("tax", Act.APPROVE), record=second)
    assert library.last() == ("administration", "EVENT_OTHER_MODEL")


def test_an_event_that_is_refused_keeps_no_retirement_out(library: Library) -> None:
    events = library.approved()
    conflicting, retired = library.event("bank", Act.REJECT, 2), library.event("tax", Act.RETIRE, 2)
    library.deliver(conflicting, retired, *reversed(events))
    assert library.last() == ("administration", "EVENT_CONFLICT")
    assert library.state is ModelState.RETIRED


@pytest.mark.parametrize(("act", "code"), [(Act.RETIRE, "MODEL_RETIRED"), (Act.REJECT, "MODEL_REJECTED")])
def test_nothing_is_scored_with_a_model_that_a_party_ended(library: Library, act: Act, code: str) -> None:
    events = library.approved()
    library.deliver(*events, library.event("tax", act, 2))
    library.world.refuses(library.world.scoring(library.contract), code)


def test_a_model_that_is_retired_between_acceptance_and_start_is_not_used(library: Library) -> None:
    library.submitted()
    library.world.deliver(library.world.scoring(library.contract))
    assert library.world.state("score-1") is JobState.ACCEPTED
    library.agent.models.act(library.record, Act.RETIRE, "a defect")
    library.world.start("score-1")
    assert library.world.state("score-1") is JobState.FAILED
    assert library.agent.job("score-1").code == "MODEL_RETIRED"
    assert not library.agent._processes


def test_by_default_a_draft_scores_and_a_policy_can_ask_for_a_live_model(library: Library) -> None:
    usable = library.agent.models.check_usable
    arguments = ("train-1", library.contract.hash().hex())
    usable(*arguments, read_policy(library.world.folder))
    library.world.policy('scoring_models = "live"\n')
    assert code_of(lambda: usable(*arguments, read_policy(library.world.folder))) == "POLICY_MODEL"
    events = library.approved()
    library.world.refuses(library.world.scoring(library.contract), "POLICY_MODEL")
    library.deliver(*events, library.event("bank", Act.GO_LIVE, 3))
    usable(*arguments, read_policy(library.world.folder))


@pytest.mark.parametrize("what", ["points", "salt"])
def test_an_own_part_that_was_altered_after_its_approval_is_found(library: Library, what: str) -> None:
    library.approved()
    usable = library.agent.models.check_usable
    policy = read_policy(library.world.folder)
    usable("train-1", library.contract.hash().hex(), policy)
    if what == "points":
        document = json.loads((library.folder.path / "model.json").read_bytes())
        document["points"]["features"][0]["bins"][0]["points"] += 1
        library.folder.write_json("model.json", document)
    else:
        library.folder.write("part_salt.key", bytes(32))
    assert code_of(lambda: usable("train-1", library.contract.hash().hex(), policy)) == "MODEL_ALTERED"
    library.world.refuses(library.world.scoring(library.contract), "MODEL_ALTERED")


def test_a_later_version_that_went_live_retires_the_one_before(library: Library) -> None:
    events = library.approved()
    library.deliver(*events, library.event("bank", Act.GO_LIVE, 3))
    library.train("train-2")
    second = library.agent.models.record_of("train-2", "sme", 2, metrics=True)
    later = [library.event("bank", Act.SUBMIT, record=second)]
    library.deliver(*later, record=second)
    later.append(library.agent.models.act(second, Act.APPROVE, ""))
    later += [library.event("bank", Act.APPROVE, 2, second), library.event("tax", Act.APPROVE, 1, second)]
    library.deliver(*later, record=second)
    assert library.state is ModelState.LIVE
    library.deliver(*later, library.event("bank", Act.GO_LIVE, 3, second), record=second)
    assert (library.state, library.agent.models.state(second)) == (ModelState.RETIRED, ModelState.LIVE)
    library.agent.models.act(second, Act.RETIRE, "")
    assert library.state is ModelState.RETIRED  # it does not come back


def test_own_acts_keep_to_the_role_and_the_order(library: Library) -> None:
    act = library.agent.models.act
    submit = library.agent.models.submit
    arguments = ("train-1", library.contract.hash().hex(), "sme", "")
    assert code_of(lambda: submit(*arguments, metrics=True)) == "MODEL_ROLE"
    library.submitted()
    assert code_of(lambda: act(library.record, Act.GO_LIVE, "")) == "MODEL_NOT_APPROVED"
    act(library.record, Act.APPROVE, "")
    assert code_of(lambda: act(library.record, Act.APPROVE, "")) == "MODEL_STATE"
    act(library.record, Act.REJECT, "on second thoughts")
    assert code_of(lambda: act(library.record, Act.RETIRE, "")) == "MODEL_STATE"


def test_an_own_event_that_the_lab_lost_is_delivered_again(library: Library) -> None:
    events = library.submitted()
    own = library.agent.models.act(library.record, Act.APPROVE, "")
    library.deliver(*events)
    assert library.lab.sent == [own.encode().decode()]


def test_a_job_without_lineage_is_not_approved(library: Library) -> None:
    library.submitted()
    (library.folder.path / lineage.LINEAGE_FILE).unlink()
    assert code_of(lambda: library.agent.models.act(library.record, Act.APPROVE, "")) == "LINEAGE_MISSING"
    assert library.last() == ("model submitted", "")


# -- the digest of the data


def test_the_digest_is_that_of_the_rows_whatever_their_order_and_only_under_one_key() -> None:
    table, key = small_table(), bytes(32)
    digest = data_digest(key, table)
    order = np.random.default_rng(2).permutation(len(table.ids))
    assert data_digest(key, replace(table.take(order), columns=table.take(order).columns[::-1])) == digest
    assert data_digest(bytes([1]) * 32, table) != digest


def _with_value(column: int, row: int, value: Any) -> Any:
    table = small_table()
    values = table.columns[column].values.copy()
    values[row] = value
    columns = list(table.columns)
    columns[column] = replace(columns[column], values=values)
    return replace(table, columns=tuple(columns))


@pytest.mark.parametrize(
    "changed",
    [
        _with_value(0, 3, 1e-9),
        _with_value(0, 3, np.nan),
        _with_value(1, 4, None),
        _with_value(1, 4, ""),
        replace(small_table(), label=None),
        replace(small_table(), label=1 - small_table().label),  # type: ignore[operator]
        replace(small_table(), ids=("id-9999", *small_table().ids[1:])),
        replace(small_table(), late=np.arange(400) > 300),
        replace(small_table(), columns=small_table().columns[:1]),
    ],
)
def test_the_digest_changes_with_any_value(changed: Any) -> None:
    assert data_digest(bytes(32), changed) != data_digest(bytes(32), small_table())
    assert data_digest(bytes(32), changed) == data_digest(bytes(32), changed)
