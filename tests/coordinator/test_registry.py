"""The lab's database: the same behaviour on SQLite and PostgreSQL, under haste, without space, and when it is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.database import check_schema, migrate, open_engine
from coordinator.member_register import IssuedFacts
from coordinator.registry import ACCEPTED, FAILED, Registry
from coordinator.tables import Base, JobState
from protocols.contract import Caps, Contract, JobDocument, JobKind, Member, SignedContract, SignedJob
from protocols.contract_state import ContractEvent, EventKind
from protocols.errors import ConcordatError
from protocols.recipe import Recipe
from protocols.roles import COORDINATOR, Role
from tests.running_lab import Clock, Postgres

KEYS = {name: Ed25519PrivateKey.generate() for name in ("bank", "bureau", "tax", COORDINATOR)}
RECIPE = Recipe().canonical().decode()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """An empty registry with two institutions, on either database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/lab.db"
    else:
        url = request.getfixturevalue("postgres").url
        emptying = sa.create_engine(url)
        with emptying.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
        emptying.dispose()
    engine = open_engine(url)
    migrate(engine)
    found = Registry(engine, Clock())
    for number, name in enumerate(("bank", "bureau")):
        enrol(found, name, str(number))
    yield found
    engine.dispose()


def identity(name: str) -> str:
    return KEYS[name].public_key().public_bytes_raw().hex()


def enrol(registry: Registry, name: str, serial: str) -> None:
    registry.invite(name, f"token of {name}", registry.now() + 60)
    facts = IssuedFacts(serial, registry.now() + 86_400)
    registry.enrol(f"token of {name}", name, identity(name), "statement", lambda: facts)


def contract(registry: Registry, contract_id: str = "contract-1") -> Contract:
    roles = {"bank": Role.LABEL_OWNER, "bureau": Role.PROVIDER, COORDINATOR: Role.COORDINATOR}
    members = tuple(Member(name, role.value, identity(name)) for name, role in roles.items())
    now = registry.now()
    return Contract(contract_id, members, "a test", Caps(), (), now - 60, now + 86_400)


def propose(registry: Registry, contract_id: str = "contract-1") -> Contract:
    proposed = contract(registry, contract_id)
    registry.propose("bank", SignedContract(proposed, ()))
    return proposed


def job(agreed: Contract, name: str, attempt: int = 1, nonce: str = "00" * 16) -> SignedJob:
    ends = 2_000_000_000_000
    document = JobDocument(agreed.hash().hex(), name, JobKind.SCORE, RECIPE, nonce, 1, ends, attempt, "train-0")
    return document.sign(KEYS["bank"])


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(ConcordatError) as caught:
        action()
    return caught.value.code


def kinds(registry: Registry, name: str, after: int = 0) -> list[tuple[str, str]]:
    return [(item.kind, item.reference) for item in registry.requests(name, after)]


def test_the_migrations_make_the_tables_of_the_code(registry: Registry) -> None:
    check_schema(registry.engine)
    migrate(registry.engine)  # a second time changes nothing
    with registry.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_ten_identical_submissions_at_once_make_one_job(registry: Registry) -> None:
    signed = job(propose(registry), "job-1")
    with ThreadPoolExecutor(10) as pool:
        created = list(pool.map(lambda _: registry.submit("bank", signed), range(10)))
    assert sorted(created) == [False] * 9 + [True]
    assert len(registry.jobs("bank")) == 1
    assert kinds(registry, "bureau").count(("job", "job-1")) == 1


def test_a_job_has_one_document_an_attempt(registry: Registry) -> None:
    agreed = propose(registry)
    registry.submit("bank", job(agreed, "job-1"))
    assert code_of(lambda: registry.submit("bank", job(agreed, "job-1", nonce="11" * 16))) == "JOB_EXISTS"
    assert code_of(lambda: registry.submit("bank", job(agreed, "job-1", attempt=2))) == "JOB_RUNNING"
    registry.end_job(registry.job("job-1", "bank"), "PARTY_LOST")
    assert registry.submit("bank", job(agreed, "job-1", attempt=2))
    assert code_of(lambda: registry.submit("bank", job(agreed, "job-1", nonce="22" * 16))) == "JOB_EXISTS"
    assert registry.job("job-1", "bureau").signed.document.attempt == 2
    assert registry.job("job-1", "bureau", attempt=1).code == "PARTY_LOST"
    other = propose(registry, "contract-2")
    assert code_of(lambda: registry.submit("bank", job(other, "job-1", attempt=3))) == "JOB_EXISTS"


def test_a_contract_has_a_bounded_number_of_jobs_that_have_not_ended(registry: Registry) -> None:
    agreed = propose(registry)
    for number in range(16):
        registry.submit("bank", job(agreed, f"job-{number}"))
    assert code_of(lambda: registry.submit("bank", job(agreed, "one-more"))) == "JOBS_WAITING"
    registry.end_job(registry.job("job-3", "bank"), None)
    assert registry.submit("bank", job(agreed, "one-more"))


def test_a_job_ends_once_with_one_code_and_everyone_is_told_once(registry: Registry) -> None:
    agreed = propose(registry)
    registry.submit("bank", job(agreed, "job-1"))
    record = registry.job("job-1", "bank")
    assert registry.open_job(record)
    assert not registry.open_job(record)
    assert registry.end_job(record, "CHECK_FAILED") == "CHECK_FAILED"
    assert registry.end_job(record, "PARTY_LOST") == "CHECK_FAILED"
    assert registry.job("job-1", "bank").state is JobState.ENDED
    assert registry.jobs_going_on() == []
    for name in ("bank", "bureau"):
        assert [kind for kind, _ in kinds(registry, name)] == ["contract", "job", "start", "ended"]


def test_reports_are_kept_in_order(registry: Registry) -> None:
    registry.submit("bank", job(propose(registry), "job-1"))
    registry.report("job-1", "bank", 1, ACCEPTED, None)
    registry.report("job-1", "bureau", 1, FAILED, "DATA_MISSING")
    record = registry.job("job-1", "bank")
    assert [(party, stage, code) for party, stage, code, _ in record.reports] == [
        ("bank", ACCEPTED, None),
        ("bureau", FAILED, "DATA_MISSING"),
    ]
    assert record.parties_at(ACCEPTED) == {"bank"}
    assert code_of(lambda: registry.report("job-1", "bank", 2, ACCEPTED, None)) == "JOB_NOT_FOUND"


def test_who_is_not_a_member_sees_nothing(registry: Registry) -> None:
    enrol(registry, "tax", "2")
    agreed = propose(registry)
    registry.submit("bank", job(agreed, "job-1"))
    digest = agreed.hash().hex()
    assert registry.contracts("tax") == []
    assert registry.jobs("tax") == []
    assert registry.requests("tax", 0) == []
    assert code_of(lambda: registry.contract(digest, "tax")) == "CONTRACT_UNKNOWN"
    assert code_of(lambda: registry.sign_contract(digest, "tax", "00" * 64)) == "CONTRACT_UNKNOWN"
    assert code_of(lambda: registry.job("job-1", "tax")) == "JOB_NOT_FOUND"
    assert code_of(lambda: registry.report("job-1", "tax", 1, ACCEPTED, None)) == "JOB_NOT_FOUND"
    assert code_of(lambda: registry.submit("tax", job(agreed, "job-2"))) == "CONTRACT_UNKNOWN"
    assert code_of(lambda: registry.propose("tax", SignedContract(contract(registry, "c-2"), ()))) == "NOT_A_MEMBER"


def test_a_contract_names_enrolled_parties_by_their_identities(registry: Registry) -> None:
    right = contract(registry)
    members = list(right.members)
    members[1] = Member("bureau", members[1].role, identity("tax"))
    wrong = Contract("c", tuple(members), "a test", Caps(), (), right.valid_from, right.valid_until)
    assert code_of(lambda: registry.propose("bank", SignedContract(wrong, ()))) == "CONTRACT_MEMBER_UNKNOWN"
    members[1] = Member("tax", members[1].role, identity("tax"))
    absent = Contract("c", tuple(members), "a test", Caps(), (), right.valid_from, right.valid_until)
    assert code_of(lambda: registry.propose("bank", SignedContract(absent, ()))) == "CONTRACT_MEMBER_UNKNOWN"
    registry.revoke("bureau")
    assert code_of(lambda: registry.propose("bank", SignedContract(right, ()))) == "CONTRACT_MEMBER_UNKNOWN"


def test_signatures_and_events_come_back_as_they_were_given(registry: Registry) -> None:
    agreed = propose(registry)
    digest = agreed.hash().hex()
    for name in ("bureau", "bank", COORDINATOR):
        registry.sign_contract(digest, name, agreed.sign(KEYS[name]))
    record = registry.contract(digest, "bureau")
    assert record.signed.verify(registry.now()) == agreed
    event = ContractEvent(digest, "bank", EventKind.SUSPEND, 1, registry.now(), "a reason").sign(KEYS["bank"])
    assert registry.add_event(digest, "bank", event)
    assert not registry.add_event(digest, "bank", event)
    assert registry.contract(digest, "bank").events == (event,)
    second = ContractEvent(digest, "bank", EventKind.REVOKE, 1, registry.now(), "").sign(KEYS["bank"])
    assert code_of(lambda: registry.add_event(digest, "bank", second)) == "EVENT_NUMBER"
    forged = ContractEvent(digest, "bank", EventKind.REVOKE, 2, registry.now(), "").sign(KEYS["bureau"])
    assert code_of(lambda: registry.add_event(digest, "bank", forged)) == "EVENT_SIGNATURE_INVALID"
    borrowed = ContractEvent(digest, "bank", EventKind.REVOKE, 2, registry.now(), "").sign(KEYS["bank"])
    assert code_of(lambda: registry.add_event(digest, "bureau", borrowed)) == "EVENT_OTHER_PARTY"


def test_the_queue_is_read_page_by_page_and_only_its_receivers(registry: Registry) -> None:
    agreed = propose(registry)
    for number in range(60):
        registry.submit("bank", job(agreed, f"job-{number}", nonce=f"{number:032x}"))
        registry.end_job(registry.job(f"job-{number}", "bank"), "PARTY_LOST")
    first = registry.requests("bureau", 0)
    rest = registry.requests("bureau", first[-1].number)
    assert (len(first), len(rest)) == (100, 21)
    numbers = [item.number for item in first + rest]
    assert numbers == sorted(set(numbers))
    assert not set(numbers) & {item.number for item in registry.requests("bank", 0)}
    assert [item.kind for item in rest[-2:]] == ["job", "ended"]
    assert SignedJob.decode((rest[-2].document or "").encode()).document.job == "job-59"


def test_a_reader_misses_nothing_while_many_write(registry: Registry) -> None:
    propose(registry)
    start = registry.requests("bureau", 0)[-1].number
    done = threading.Event()
    seen: list[str] = []

    def read() -> None:
        after = start
        while True:
            last = done.is_set()
            for item in registry.requests("bureau", after):
                after = item.number
                seen.append(item.reference)
            if last:
                return

    reader = threading.Thread(target=read)
    reader.start()
    other = Registry(registry.engine, Clock())  # a second writer, as `concordat revoke` is
    with ThreadPoolExecutor(4) as pool:
        for number in range(40):
            writer = (registry, other)[number % 2]
            proposed = SignedContract(contract(registry, f"contract-{number + 2}"), ())
            pool.submit(writer.propose, "bank", proposed)
    done.set()
    reader.join(20)
    assert len(seen) == len(set(seen)) == 40


def test_a_nonce_is_spent_once_until_it_is_out_of_date(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        spent = list(pool.map(lambda _: registry.spend("bank", "aa", registry.now() + 300), range(8)))
    assert sorted(spent) == [False] * 7 + [True]
    assert registry.spend("bureau", "aa", registry.now() + 300)  # another member's own
    registry.forget_nonces()
    assert not registry.spend("bank", "aa", registry.now() + 300)
    registry.spend("bank", "old", registry.now() - 100)
    registry.forget_nonces()
    assert registry.spend("bank", "old", registry.now() + 300)


def test_a_full_disk_is_a_coded_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/lab.db")
    migrate(engine)
    registry = Registry(engine, Clock())
    limit = ["PRAGMA max_page_count"]

    @sa.event.listens_for(engine, "checkout")
    def bound(connection: object, *_: object) -> None:
        connection.execute(limit[0])  # type: ignore[attr-defined]

    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    limit[0] = f"PRAGMA max_page_count = {pages}"
    assert code_of(lambda: registry.publish("bank", "big", b"x" * 100_000)) == "DISK_FULL"
    assert registry.catalogue() == []
    limit[0] = "PRAGMA max_page_count = 1000000"
    registry.publish("bank", "big", b"x" * 100_000)
    assert len(registry.catalogue()) == 1
    engine.dispose()


def test_a_database_that_went_away_is_a_coded_error_and_comes_back(postgres: Postgres) -> None:
    engine = open_engine(postgres.url)
    registry = Registry(engine, Clock())
    registry.ping()
    postgres.stop()
    try:
        assert code_of(registry.ping) == "DATABASE_UNAVAILABLE"
        assert code_of(lambda: registry.publish("bank", "x", b"{}")) == "DATABASE_UNAVAILABLE"
    finally:
        postgres.start()
    registry.ping()
    engine.dispose()


@pytest.mark.parametrize("url", ["", "nonsense", "oracle+missing://x", "postgresql+nodriver://x", "sqlite"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    assert code_of(lambda: open_engine(url)) == "DATABASE_URL_INVALID"


def test_no_error_repeats_what_the_database_was_given(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/lab.db")  # no schema
    with pytest.raises(ConcordatError) as caught:
        Registry(engine, Clock()).publish("bank", "secret-name", b"secret")
    assert caught.value.code == "DATABASE_UNAVAILABLE"
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    engine.dispose()
