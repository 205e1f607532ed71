"""The coordinator says yes and the agent refuses: every rule of contract and policy, each with a signed record.

The lab here is a double that delivers whatever it is told to, and starts every job.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from party_agent.agent import Agent, JobEntry, JobState
from party_agent.agent_store import AgentSettings, write_settings
from party_agent.enrolment import create_institution
from party_agent.job_process import ASKED_FILE
from party_agent.model import OwnModel
from party_agent.model import write as write_model
from party_agent.peers import PeerBook
from party_agent.scorecard import PointsTable, Scaling
from party_agent.store import Folder
from party_agent.transport import load_identity
from protocols.audit import entries_of, verify_log
from protocols.audit_files import LOG_FILE
from protocols.contract import BIN, TRAIN, Caps, Contract, JobDocument, JobKind, Member, SignedContract, SignedJob
from protocols.contract_state import ContractEvent, EventKind
from protocols.errors import DataError, TransportError
from protocols.recipe import Recipe, load_recipe
from protocols.roles import COORDINATOR

ME = "bureau"
ROLES = {"bank": "label owner", ME: "feature provider", "tax": "feature provider", COORDINATOR: "coordinator"}
KEYS = {name: Ed25519PrivateKey.generate() for name in ROLES if name != ME} | {"stranger": Ed25519PrivateKey.generate()}
RECIPE = "[keys]\nbits = 3072\n[contract]\nminimum_intersection = 1000\nmaximum_set_size = 1000000\n"


@dataclass
class LyingLab:
    """Delivers what it is given, and notes what it is told."""

    queue: list[dict[str, Any]] = field(default_factory=list)
    told: list[tuple[str, int, str, str | None]] = field(default_factory=list)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    away: bool = False
    heads: list[tuple[str, str, str]] = field(default_factory=list)

    def requests(self, after: int, wait_s: int) -> tuple[list[dict[str, Any]], int]:
        return self.queue[after:], len(self.queue)

    def contract(self, digest: str) -> dict[str, Any]:
        return self.kept[digest]

    def report(self, job: str, attempt: int, stage: str, code: str | None = None) -> None:
        if self.away:
            raise TransportError("LAB_UNREACHABLE", "the lab cannot be reached")
        self.told.append((job, attempt, stage, code))

    def send_head(self, to: str, kind: str, document: str) -> None:
        self.heads.append((to, kind, document))


class World:
    """An institution, its agent, the lab's double, and what the other members can sign."""

    def __init__(self, root: Path) -> None:
        self.folder = root / ME
        create_institution(self.folder, ME)
        write_settings(self.folder, AgentSettings(name=ME, lab="127.0.0.1:9"))
        self.key = load_identity(self.folder / "identity.pem")
        self.tell_members()
        with PeerBook.open(self.folder) as peers:
            for name in ("bank", "tax"):
                peers.verify(name, " ".join(peers.get(name).words))
        self.policy()
        self.lab = LyingLab()
        self.now = time.time()
        self.agent = self.new_agent()

    def new_agent(self) -> Agent:
        return Agent(self.folder, self.lab, lambda: self.now)

    def tell_members(self, **changed: Ed25519PrivateKey) -> None:
        """What the lab says of who is who."""
        keys = KEYS | changed
        listed = [{"name": name, "identity": identity(keys[name]), "state": "active"} for name in ("bank", "tax")]
        with PeerBook.open(self.folder) as peers:
            peers.refresh({"members": listed, "coordinator": {"identity": identity(KEYS[COORDINATOR])}}, ME)

    def policy(self, text: str = "") -> None:
        (self.folder / "policy.toml").write_text(f'approval = "automatic"\nsource = "history"\n{text}', "utf-8")

    def contract(self, caps: Caps | None = None, **changes: Any) -> Contract:
        """A contract that all have signed and that the agent has taken over."""
        contract = self.draft(caps, **changes)
        self.agent.contracts.receive(self.signed(contract))
        return contract

    def draft(self, caps: Caps | None = None, **changes: Any) -> Contract:
        keys = KEYS | {ME: self.key}
        members = tuple(Member(name, role, identity(keys[name])) for name, role in ROLES.items())
        start = int(self.now) - 100
        contract = Contract("pilot", members, "a test", caps or Caps(), (), start, start + 10_000)
        return replace(contract, **changes)

    def signed(self, contract: Contract, without: str = "") -> SignedContract:
        signed = SignedContract(contract, ())
        for name, key in (KEYS | {ME: self.key}).items():
            if name in ROLES and name != without:
                signed = signed.signed_by(name, key)
        return signed

    def event(self, contract: Contract, kind: EventKind, sequence: int = 1) -> None:
        event = ContractEvent(contract.hash().hex(), "tax", kind, sequence, int(self.now), "")
        self.agent.contracts.receive_event(event.sign(KEYS["tax"]))

    def job(self, contract: Contract, recipe: str = "", key: str = "bank", **changes: Any) -> SignedJob:
        now = int(self.now)
        text = load_recipe(recipe or RECIPE).canonical().decode()
        document = JobDocument(
            contract.hash().hex(), "train-1", JobKind.TRAIN, text, os.urandom(16).hex(), now, now + 3600
        )
        return replace(document, **changes).sign(KEYS[key])

    def trained(self, contract: Contract, state: JobState = JobState.FINISHED, job: str = "train-1") -> None:
        """A training job of the contract has come to this end, and left a model."""
        folder = Folder(self.folder / "jobs" / job)
        folder.write("job.json", self.job(contract, job=job).encode())
        points = PointsTable.of(ME, (), np.empty(0), Scaling(20, 600, 50), None)
        write_model(folder, OwnModel(job, contract.hash().hex(), (), (), None, points, 1, 0.0))
        self.agent._keep(JobEntry(job, 1, "train", contract.hash().hex(), state))

    def scoring(self, contract: Contract, model: str = "train-1", **changes: Any) -> SignedJob:
        return self.job(contract, **{"job": "score-1", "kind": JobKind.SCORE, "model": model} | changes)

    def deliver(self, *jobs: SignedJob) -> None:
        """The lab delivers documents, and takes a round."""
        for job in jobs:
            self.push("job", job.document.job, job.document.attempt, document=job.encode().decode())
        self.agent.step(0)

    def push(self, kind: str, reference: str, attempt: int = 0, **more: Any) -> None:
        self.lab.queue.append({"kind": kind, "reference": reference, "attempt": attempt, **more})

    def start(self, job: str = "train-1", attempt: int = 1) -> None:
        """The lab says that every party has accepted."""
        self.push("start", job, attempt)
        self.agent.step(0)

    def ended_with(self, code: str, job: str = "train-1") -> None:
        """A job's process has ended, with this in its folder."""
        process = self.agent._processes[job]
        process.kill()
        process.wait(10)
        (self.folder / "jobs" / job / "error.json").write_text(json.dumps({"code": code}))
        self.agent.step(0)

    def records(self) -> list[tuple[str, str]]:
        """Kind and code of every entry of the audit log, which is sound."""
        log = (self.folder / LOG_FILE).read_bytes()
        assert verify_log(log, self.key.public_key()).sound
        return [(entry.kind, str(entry.fields.get("code", ""))) for entry in entries_of(log)]

    def refuses(self, job: SignedJob, code: str) -> None:
        """The job, delivered and started by the lab, does not run: with a report, and a signed record."""
        self.deliver(job)
        name, attempt = job.document.job, job.document.attempt
        assert self.lab.told[-1] == (name, attempt, "refused", code)
        assert self.records()[-1] == ("job refused", code)
        self.start(name, attempt)
        assert not self.agent._processes
        assert self.records()[-1] == ("administration", "JOB_NOT_ACCEPTED")

    def state(self, job: str = "train-1") -> JobState:
        return self.agent.job(job).state


def identity(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.agent.close()


def test_a_job_that_nothing_stands_against_is_accepted_and_runs_in_a_process_that_stop_kills(world: World) -> None:
    world.deliver(world.job(world.contract()))
    assert (world.state(), world.lab.told) == (JobState.ACCEPTED, [("train-1", 1, "accepted", None)])
    world.start()
    process = world.agent._processes["train-1"]
    assert (world.state(), process.poll()) == (JobState.RUNNING, None)
    world.push("stop", "train-1", 1, code="JOB_STOPPED")
    world.agent.step(0)
    assert process.poll() is not None
    assert world.state() is JobState.FAILED
    assert [kind for kind, _ in world.records()][-3:] == ["job accepted", "job started", "job ended"]


# -- contracts


def test_a_job_under_a_contract_that_is_not_kept_here_is_refused(world: World) -> None:
    world.refuses(world.job(world.draft()), "CONTRACT_UNKNOWN")


@pytest.mark.parametrize("missing", list(ROLES))
def test_a_job_under_a_contract_that_a_member_has_not_signed_is_refused(world: World, missing: str) -> None:
    contract = world.draft()
    world.agent.contracts.receive(world.signed(contract, without=missing))
    world.refuses(world.job(contract), "CONTRACT_PROPOSED")


@pytest.mark.parametrize("kind", [EventKind.SUSPEND, EventKind.REVOKE])
def test_a_job_under_a_contract_that_a_party_suspended_or_revoked_is_refused(world: World, kind: EventKind) -> None:
    contract = world.contract()
    world.event(contract, kind)
    world.refuses(world.job(contract), "CONTRACT_SUSPENDED" if kind is EventKind.SUSPEND else "CONTRACT_REVOKED")


def test_a_lab_that_holds_an_event_back_gets_no_job(world: World) -> None:
    contract = world.contract()
    world.event(contract, EventKind.RESUME, sequence=2)
    world.refuses(world.job(contract), "EVENT_MISSING")


def test_a_job_under_an_amended_contract_is_refused(world: World) -> None:
    old = world.contract()
    world.contract(Caps(runs=7), version=2, supersedes=old.hash().hex())
    world.refuses(world.job(old), "CONTRACT_SUPERSEDED")


@pytest.mark.parametrize(
    ("start", "end", "code"), [(-90, -10, "CONTRACT_EXPIRED"), (50, 900, "CONTRACT_NOT_YET_VALID")]
)
def test_a_job_outside_the_validity_of_its_contract_is_refused(world: World, start: int, end: int, code: str) -> None:
    now = int(world.now)
    world.refuses(world.job(world.contract(valid_from=now + start, valid_until=now + end)), code)


def test_a_job_with_a_peer_whose_identity_was_never_compared_is_refused(world: World) -> None:
    contract = world.contract()
    with PeerBook.open(world.folder) as peers:
        peers._engine.dispose()
    for path in world.folder.glob("agent.db*"):
        path.unlink()
    world.tell_members()
    world.agent.close()
    world.agent = world.new_agent()
    world.refuses(world.job(contract), "PEER_UNVERIFIED")


def test_a_job_with_a_peer_whose_identity_the_lab_has_changed_is_refused(world: World) -> None:
    contract = world.contract()
    world.tell_members(tax=KEYS["stranger"])
    world.refuses(world.job(contract), "PEER_CHANGED")


def test_a_contract_that_names_another_key_than_the_one_compared_gives_no_job(world: World) -> None:
    members = tuple(
        replace(member, identity=identity(KEYS["stranger"])) if member.name == "tax" else member
        for member in world.draft().members
    )
    contract = world.draft(members=members)
    signed = world.signed(replace(contract, members=contract.members), without="tax").signed_by("tax", KEYS["stranger"])
    world.agent.contracts.receive(signed)
    world.refuses(world.job(contract), "PEER_CHANGED")


def test_a_lab_that_delivers_another_contract_than_was_asked_for_is_noticed(world: World) -> None:
    other = world.draft(purpose="another purpose")
    wanted = world.draft().hash().hex()
    world.lab.kept[wanted] = {"document": world.signed(other).encode().decode(), "events": []}
    world.push("contract", wanted)
    world.agent.step(0)
    assert world.records()[-1] == ("administration", "CONTRACT_UNKNOWN")
    world.refuses(world.job(world.draft()), "CONTRACT_UNKNOWN")


# -- documents


@pytest.mark.parametrize("signer", ["tax", COORDINATOR, "stranger"])
def test_a_job_that_the_label_owner_did_not_sign_is_refused(world: World, signer: str) -> None:
    world.refuses(world.job(world.contract(), key=signer), "JOB_SIGNATURE_INVALID")


def test_a_job_whose_recipe_the_lab_altered_is_refused(world: World) -> None:
    job = world.job(world.contract())
    altered = load_recipe(RECIPE + "[selection]\nminimum_iv = 0.0\n").canonical().decode()
    world.refuses(SignedJob(replace(job.document, recipe=altered), job.signature), "JOB_SIGNATURE_INVALID")


def test_an_old_job_is_refused(world: World) -> None:
    job = world.job(world.contract())
    world.now += 3601
    world.refuses(job, "JOB_EXPIRED")


@pytest.mark.parametrize("ahead", [0, 300])
def test_a_job_that_would_be_good_for_more_than_seven_days_is_refused(world: World, ahead: int) -> None:
    issued = int(world.now) + ahead
    world.refuses(world.job(world.contract(), issued=issued, expires=issued + 7 * 86_400 + 1), "JOB_LIFETIME")


def test_a_job_that_is_good_for_seven_days_is_accepted(world: World) -> None:
    issued = int(world.now)
    world.deliver(world.job(world.contract(), issued=issued, expires=issued + 7 * 86_400))
    assert world.state() is JobState.ACCEPTED


def test_a_job_from_a_clock_that_is_more_than_five_minutes_ahead_is_refused(world: World) -> None:
    now = int(world.now)
    contract = world.contract()
    world.refuses(world.job(contract, issued=now + 302, expires=now + 900), "JOB_NOT_YET_VALID")


def test_a_nonce_that_was_accepted_is_refused_in_another_document(world: World) -> None:
    contract = world.contract()
    first = world.job(contract)
    world.deliver(first)
    world.refuses(world.job(contract, nonce=first.document.nonce, job="train-2"), "JOB_REPLAYED")


def test_the_same_document_ten_times_is_one_job(world: World) -> None:
    job = world.job(world.contract())
    world.deliver(*[job] * 10)
    assert [entry.job for entry in world.agent.jobs()] == ["train-1"]
    assert {told[2] for told in world.lab.told} == {"accepted"}
    assert [kind for kind, _ in world.records()].count("job accepted") == 1


def test_a_forged_document_with_the_name_of_a_real_job_does_not_change_it(world: World) -> None:
    contract = world.contract()
    real = world.job(contract)
    world.deliver(real)
    before = world.agent.job("train-1")
    world.deliver(world.job(contract, key="stranger"), world.job(contract, key="tax", attempt=2))
    assert world.agent.job("train-1") == before
    assert (world.folder / "jobs" / "train-1" / "job.json").read_bytes() == real.encode()
    world.start()
    assert world.state() is JobState.RUNNING


def test_a_forged_document_that_comes_first_does_not_block_the_real_job(world: World) -> None:
    contract = world.contract()
    world.deliver(world.job(contract, key="stranger"))
    assert world.state() is JobState.REFUSED
    world.deliver(world.job(contract))
    assert world.state() is JobState.ACCEPTED


@pytest.mark.parametrize(
    "request_",
    [
        {"kind": "job", "reference": "train-1", "document": "{}"},
        {"kind": "job", "reference": "train-1", "document": "\ud800"},
        {"kind": "start", "reference": "train-1", "attempt": "x"},
        {"kind": "start", "reference": "../../x", "attempt": 1},
        {"kind": "contract", "reference": "00"},
        {"kind": "stop", "reference": "train-1", "attempt": 1, "code": "rm -rf"},
        {"kind": "run", "reference": "import os"},
        {},
    ],
)
def test_nonsense_from_the_lab_is_passed_over(world: World, request_: dict[str, Any]) -> None:
    world.lab.queue.append(request_)
    world.deliver(world.job(world.contract()))
    assert world.state() is JobState.ACCEPTED


# -- attempts


def test_a_job_under_a_name_that_was_used_is_refused(world: World) -> None:
    contract = world.contract()
    world.deliver(world.job(contract))
    world.deliver(world.job(contract, RECIPE + "[selection]\nminimum_iv = 0.0\n"))
    assert world.lab.told[-1] == ("train-1", 1, "refused", "ATTEMPT_INVALID")
    other = world.contract(purpose="another purpose")
    world.deliver(world.job(other))
    assert world.lab.told[-1] == ("train-1", 1, "refused", "ATTEMPT_INVALID")
    assert world.agent.job("train-1").contract == contract.hash().hex()


def test_a_later_attempt_at_a_job_that_was_never_accepted_is_refused(world: World) -> None:
    world.refuses(world.job(world.contract(), attempt=2), "ATTEMPT_INVALID")


def test_a_later_attempt_follows_one_that_has_ended_with_the_same_recipe(world: World) -> None:
    contract = world.contract()
    world.deliver(world.job(contract))
    world.start()
    world.deliver(world.job(contract, attempt=2))
    assert world.lab.told[-1] == ("train-1", 2, "refused", "ATTEMPT_INVALID")
    assert world.state() is JobState.RUNNING
    world.ended_with("PEER_ABSENT")
    world.deliver(world.job(contract, RECIPE + "[selection]\nminimum_iv = 0.0\n", attempt=2))
    assert world.lab.told[-1] == ("train-1", 2, "refused", "ATTEMPT_INVALID")
    world.deliver(world.job(contract, attempt=2))
    assert world.lab.told[-1] == ("train-1", 2, "accepted", None)


# -- scoring


def test_a_scoring_job_with_a_model_that_was_trained_here_runs_in_a_process_that_scores(world: World) -> None:
    contract = world.contract()
    world.trained(contract)
    world.deliver(world.scoring(contract))
    assert world.lab.told[-1] == ("score-1", 1, "accepted", None)
    world.start("score-1")
    words = Path(f"/proc/{world.agent._processes['score-1'].pid}/cmdline").read_bytes().decode().split("\0")
    assert words[words.index("party_agent") + 1] == "score"
    assert words[words.index("--model") + 1] == str(world.folder / "jobs" / "train-1")
    assert words[words.index("--source") + 1] == "history"
    assert not {"--ids", "--split-seed"} & set(words)  # what is scored is the label owner's matter
    assert [kind for kind, _ in world.records()][-2:] == ["job accepted", "job started"]
    assert [(entry.job, entry.kind) for entry in world.agent.jobs()] == [("score-1", "score"), ("train-1", "train")]


def test_no_model_that_was_not_trained_here_is_scored_with(world: World) -> None:
    contract = world.contract()
    world.refuses(world.scoring(contract), "MODEL_UNKNOWN")


def test_no_model_of_another_contract_is_scored_with_even_of_an_earlier_version(world: World) -> None:
    old = world.contract()
    world.trained(old)
    world.refuses(world.scoring(world.contract(purpose="another purpose")), "MODEL_UNKNOWN")
    amended = world.contract(version=2, supersedes=old.hash().hex())
    world.refuses(world.scoring(amended, job="score-2"), "MODEL_UNKNOWN")


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.FINISHED])
def test_no_model_of_a_job_that_did_not_end_well_is_scored_with(world: World, state: JobState) -> None:
    contract = world.contract()
    world.trained(contract, state)
    world.refuses(world.scoring(contract), "MODEL_UNKNOWN")


def test_a_scoring_job_is_no_model(world: World) -> None:
    contract = world.contract()
    world.trained(contract)
    world.deliver(world.scoring(contract))
    world.agent._keep(replace(world.agent.job("score-1"), state=JobState.FINISHED))
    world.refuses(world.scoring(contract, model="score-1", job="score-2"), "MODEL_UNKNOWN")


def test_a_model_that_is_not_the_one_of_its_job_or_that_is_gone_is_not_scored_with(world: World) -> None:
    contract = world.contract()
    world.trained(contract)
    path = world.folder / "jobs" / "train-1" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"job": "train-9"}))
    world.refuses(world.scoring(contract), "MODEL_UNKNOWN")
    path.write_text("{}")
    world.refuses(world.scoring(contract, job="score-2"), "MODEL_UNREADABLE")
    path.unlink()
    world.refuses(world.scoring(contract, job="score-3"), "MODEL_MISSING")


@pytest.mark.parametrize("algorithms", [("align-ecdh",), ("align-ecdh", "bin-chimerge", "train-logistic")])
def test_scoring_under_a_contract_that_does_not_allow_it_is_refused(world: World, algorithms: tuple[str, ...]) -> None:
    contract = world.contract(algorithms=algorithms)
    world.trained(contract)
    world.refuses(world.scoring(contract), "ALGORITHM_NOT_ALLOWED")


def test_scoring_jobs_and_training_jobs_use_up_the_same_runs(world: World) -> None:
    contract = world.contract(Caps(runs=2))
    world.trained(contract)
    world.deliver(world.scoring(contract))
    world.refuses(world.scoring(contract, job="score-2"), "RUNS_SPENT")


def test_a_scoring_job_beyond_the_set_size_of_the_contract_is_refused(world: World) -> None:
    contract = world.contract(Caps(maximum_set_size=999_999))
    world.trained(contract)
    world.refuses(world.scoring(contract), "SET_TOO_LARGE")


@pytest.mark.parametrize(("policy", "code"), [('kinds = ["train"]', "POLICY_KIND"), ("most_jobs = 1", "POLICY_JOBS")])
def test_the_policy_of_the_institution_stands_above_a_contract_that_allows_scoring(
    world: World, policy: str, code: str
) -> None:
    contract = world.contract()
    world.trained(contract)
    world.policy(policy + "\n")
    world.refuses(world.scoring(contract), code)


def test_a_scoring_job_waits_for_a_person_where_the_policy_says_so(world: World) -> None:
    contract = world.contract()
    world.trained(contract)
    (world.folder / "policy.toml").unlink()
    world.deliver(world.scoring(contract))
    assert world.state("score-1") is JobState.WAITING
    world.start("score-1")
    assert not world.agent._processes


@pytest.mark.parametrize("signer", ["tax", COORDINATOR])
def test_nobody_but_the_label_owner_asks_for_scores(world: World, signer: str) -> None:
    contract = world.contract()
    world.trained(contract)
    world.refuses(world.scoring(contract, key=signer), "JOB_SIGNATURE_INVALID")


def test_a_scoring_job_whose_model_the_lab_altered_is_refused(world: World) -> None:
    contract = world.contract()
    world.trained(contract)
    world.trained(contract, job="train-2")
    job = world.scoring(contract)
    world.refuses(SignedJob(replace(job.document, model="train-2"), job.signature), "JOB_SIGNATURE_INVALID")


def test_a_later_attempt_at_a_scoring_job_has_the_same_model(world: World) -> None:
    contract = world.contract()
    world.trained(contract)
    world.trained(contract, job="train-2")
    world.deliver(world.scoring(contract))
    world.start("score-1")
    world.ended_with("PARTY_ABSENT", "score-1")
    world.deliver(world.scoring(contract, "train-2", attempt=2))
    assert world.lab.told[-1] == ("score-1", 2, "refused", "ATTEMPT_INVALID")
    world.deliver(world.scoring(contract, attempt=2))
    assert world.lab.told[-1] == ("score-1", 2, "accepted", None)


def test_the_label_owner_scores_the_ids_that_it_named_and_never_all_rows_for_want_of_them(world: World) -> None:
    roles = [("bank", "feature provider"), (ME, "label owner"), ("tax", "feature provider"), (COORDINATOR, COORDINATOR)]
    keys = KEYS | {ME: world.key}
    contract = world.contract(members=tuple(Member(name, role, identity(keys[name])) for name, role in roles))
    world.trained(contract)
    own = [
        SignedJob(job.document, job.document.sign(world.key).signature)
        for job in (world.scoring(contract), world.scoring(contract, job="score-2"))
    ]
    world.refuses(own[0], "IDS_MISSING")
    asked = world.folder / "jobs" / "score-2" / ASKED_FILE
    asked.parent.mkdir()
    asked.write_text("id\nA1\n")
    world.deliver(own[1])
    world.start("score-2")
    words = Path(f"/proc/{world.agent._processes['score-2'].pid}/cmdline").read_bytes().decode().split("\0")
    assert words[words.index("--ids") + 1] == str(asked)


# -- the contract's bounds


@pytest.mark.parametrize(
    ("caps", "recipe", "code"),
    [
        (Caps(minimum_key_bits=4096), "", "KEY_TOO_SHORT"),
        (Caps(label_budget_denominator=16), "", "LABEL_SHARE"),
        (Caps(bin_floor=60), "", "BIN_FLOOR"),
        (Caps(minimum_intersection=1001), "", "MINIMUM_INTERSECTION"),
        (Caps(maximum_set_size=999_999), "", "SET_TOO_LARGE"),
        (Caps(), 'open = ["scorecard"]\n' + RECIPE, "OUTPUT_NOT_ALLOWED"),
        (Caps(), RECIPE + "[sample]\nseed = 7\n", "SEED_IN_JOB"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isupper() else "",
)
def test_a_recipe_beyond_the_bounds_of_the_contract_is_refused(
    world: World, caps: Caps, recipe: str, code: str
) -> None:
    world.refuses(world.job(world.contract(caps), recipe), code)


def test_a_kind_of_job_that_the_contract_does_not_allow_is_refused(world: World) -> None:
    contract = world.contract(algorithms=tuple(sorted({"align-ecdh", "score-points"})))
    assert not {BIN, TRAIN} & set(contract.algorithms)
    world.refuses(world.job(contract), "ALGORITHM_NOT_ALLOWED")


def test_no_job_runs_when_the_runs_are_used_up(world: World) -> None:
    contract = world.contract(Caps(runs=1))
    world.deliver(world.job(contract))
    world.refuses(world.job(contract, job="train-2"), "RUNS_SPENT")


def test_no_job_runs_after_too_many_failed_checks_even_if_attempts_followed_them(world: World) -> None:
    contract = world.contract(Caps(aborts=0))
    world.deliver(world.job(contract))
    world.start()
    world.ended_with("CHECK_FAILED")
    world.deliver(world.job(contract, attempt=2))
    assert world.lab.told[-1] == ("train-1", 2, "refused", "ABORTS_SPENT")
    world.refuses(world.job(contract, job="train-2"), "ABORTS_SPENT")


def test_failed_checks_add_up_over_the_attempts_at_a_job(world: World) -> None:
    contract = world.contract(Caps(aborts=1))
    world.deliver(world.job(contract))
    world.start()
    for attempt in (2, 3):
        world.ended_with("CHECK_FAILED")
        world.deliver(world.job(contract, attempt=attempt))
        world.start(attempt=attempt)
    assert world.agent.job("train-1").aborts == 2
    assert world.lab.told[-1] == ("train-1", 3, "refused", "ABORTS_SPENT")


# -- the institution's own policy


@pytest.mark.parametrize(
    ("policy", "recipe", "code"),
    [
        ('kinds = ["score"]', "", "POLICY_KIND"),
        ("most_jobs = 0", "", "POLICY_JOBS"),
        ("least_key_bits = 4096", "", "POLICY_KEY_BITS"),
        ("least_intersection = 1001", "", "POLICY_INTERSECTION"),
        ("allow_outputs = false", 'open = ["scorecard"]\n' + RECIPE, "POLICY_OUTPUTS"),
        ("no_such_rule = 1", "", "POLICY_INVALID"),
    ],
)
def test_the_policy_of_the_institution_stands_above_the_contract(
    world: World, policy: str, recipe: str, code: str
) -> None:
    world.policy(policy + "\n")
    world.refuses(world.job(world.contract(outputs=("scorecard",)), recipe), code)


def test_without_a_policy_a_person_is_asked_and_the_word_of_the_lab_starts_nothing(world: World) -> None:
    (world.folder / "policy.toml").unlink()
    world.deliver(world.job(world.contract()))
    assert (world.state(), world.lab.told) == (JobState.WAITING, [])
    world.start()
    assert not world.agent._processes
    world.agent.refuse("train-1")
    assert world.lab.told == [("train-1", 1, "refused", "NOT_APPROVED")]
    assert world.records()[-1] == ("job refused", "NOT_APPROVED")
    with pytest.raises(DataError, match="refused"):
        world.agent.approve("train-1")


# -- processes


def test_a_start_of_another_attempt_than_the_accepted_one_starts_nothing(world: World) -> None:
    world.deliver(world.job(world.contract()))
    world.start(attempt=2)
    assert not world.agent._processes
    assert world.records()[-1] == ("administration", "JOB_NOT_ACCEPTED")


def test_a_job_is_not_started_under_a_contract_that_was_suspended_after_it_was_accepted(world: World) -> None:
    contract = world.contract()
    world.deliver(world.job(contract))
    world.event(contract, EventKind.SUSPEND)
    world.start()
    assert not world.agent._processes
    assert world.lab.told[-1] == ("train-1", 1, "failed", "CONTRACT_SUSPENDED")
    assert ("job ended", "CONTRACT_SUSPENDED") in world.records()


def test_a_running_job_ends_when_its_contract_is_revoked_though_the_lab_lets_it_run(world: World) -> None:
    contract = world.contract()
    world.deliver(world.job(contract))
    world.start()
    process = world.agent._processes["train-1"]
    world.event(contract, EventKind.REVOKE)
    world.agent.step(0)
    assert process.poll() is not None
    assert (world.state(), world.agent.job("train-1").code) == (JobState.FAILED, "CONTRACT_REVOKED")
    assert world.records()[-1] == ("job ended", "CONTRACT_REVOKED")


def test_an_agent_that_starts_again_settles_the_jobs_that_ran(world: World) -> None:
    world.deliver(world.job(world.contract()))
    world.start()
    process = world.agent._processes.pop("train-1")  # as if the agent had been killed
    process.kill()
    process.wait(10)
    world.agent = world.new_agent()
    world.agent._recover()
    assert (world.state(), world.agent.job("train-1").code) == (JobState.FAILED, "PARTY_LOST")
    assert world.lab.told[-1] == ("train-1", 1, "failed", "PARTY_LOST")
    world.push("ended", "train-1", 1, code="INTERRUPTED")
    world.agent.step(0)
    assert world.agent.job("train-1").code == "INTERRUPTED"


def test_a_crash_between_accepting_a_job_and_noting_it_ends_in_a_refusal(world: World) -> None:
    job = world.job(world.contract())
    world.deliver(job)
    (world.folder / "jobs" / "train-1" / "state.json").unlink()
    world.deliver(job)
    assert world.lab.told[-1] == ("train-1", 1, "refused", "JOB_REPLAYED")


def test_how_a_job_ended_is_told_again_when_the_lab_is_back(world: World) -> None:
    world.deliver(world.job(world.contract()))
    world.start()
    world.lab.away = True
    world.ended_with("RELAY_UNREACHABLE")
    world.lab.away = False
    world.agent.step(0)
    assert world.lab.told[-1] == ("train-1", 1, "failed", "RELAY_UNREACHABLE")
    world.agent.step(0)
    assert world.lab.told.count(world.lab.told[-1]) == 1


def test_a_default_recipe_is_one_that_a_default_contract_allows_but_for_its_size() -> None:
    assert Recipe().keys.bits >= Caps().minimum_key_bits
