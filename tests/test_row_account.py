"""What training rows have paid, on disk, and the gradient budget that every later fit on them has left."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from party_agent.row_account import FileRowAccount, Purse
from party_agent.store import Folder
from protocols.binning.budget import LEAST_GRADIENTS, check_gradients_left, feature_limit
from protocols.errors import ConcordatError, DataError, PrivacyError
from protocols.logistic.messages import GradientsSpent, MaskedLogits, PreconditionerTrace
from protocols.logistic.party import Coefficients, FitRules
from protocols.logistic.run import run
from protocols.roles import Parties
from protocols.row_account import RowAccount, pay_for_row_sets
from tests.simulator import Job, PartyFailedError, SimulatedNetwork, Stages, changing, seeded

WHOLE = 1200 // (4 * 4)  # G of the small job
Rows = Sequence[str]
OURS: Rows = [f"row {i}" for i in range(1200)]


def fit(
    job: Job, folder: Path, name: str, rows: Rows = OURS, network: SimulatedNetwork | None = None
) -> Mapping[str, Coefficients]:
    """One more fit, each party with its own folder."""
    accounts = accounts_of(job.parties, folder, name, rows)
    owner = job.stages
    return run(
        job.parties,
        job.tables,
        owner.data.label,
        job.rows,
        FitRules(),
        seeded(name),
        owner.data.bounds(owner.key_bits),
        accounts=accounts,
        network=network,
    )


def accounts_of(parties: Parties, folder: Path, name: str, rows: Rows = OURS) -> dict[str, RowAccount]:
    return {party: account(folder / party, name, rows) for party in parties.all}


def account(folder: Path, name: str, rows: Rows = OURS, purse: Purse = Purse.GRADIENTS) -> FileRowAccount:
    return FileRowAccount(Folder(folder), purse, name, rows)


# -- the fit -----------------------------------------------------------------------------------------------------------


def test_a_second_fit_has_what_the_first_left_if_they_share_a_row_and_all_if_not(
    job_of: Callable[[int], Job], tmp_path: Path
) -> None:
    job = job_of(1)
    first = fit(job, tmp_path, "first")["bank"]
    assert first.budget == WHOLE
    second = fit(job, tmp_path, "second")
    assert {one.budget for one in second.values()} == {WHOLE - first.gradients}
    other = [f"another {i}" for i in range(1200)]
    third = fit(job, tmp_path, "third", other)["bank"]
    assert third.budget == WHOLE
    across = fit(job, tmp_path, "fourth", [OURS[0], *other[1:]])["bank"]  # a row of each: both count in full
    assert across.budget == WHOLE - first.gradients - second["bank"].gradients - third.gradients


def test_the_party_whose_rows_gave_most_decides_for_all(job_of: Callable[[int], Job], tmp_path: Path) -> None:
    job = job_of(2)
    account(tmp_path / "tax", "with others").charge(20)
    fits = fit(job, tmp_path, "job")
    assert len({one.budget for one in fits.values()}) == 1
    whole = fit(job, tmp_path / "empty", "job")["bank"].budget
    assert fits["bank"].budget == whole - 20
    assert account(tmp_path / "bank", "look").spent() == fits["bank"].gradients


def test_rows_that_have_paid_all_train_no_more_and_no_gradient_opens(
    job_of: Callable[[int], Job], tmp_path: Path
) -> None:
    job = job_of(1)
    account(tmp_path / "bureau", "before").charge(WHOLE - LEAST_GRADIENTS + 1)
    network = SimulatedNetwork()
    with pytest.raises(PrivacyError) as refused:
        fit(job, tmp_path, "job", network=network)
    assert refused.value.code == "GRADIENT_BUDGET"
    assert "rows that earlier jobs did not use" in refused.value.remedy
    assert len(network.sent(GradientsSpent)) == 2
    assert not network.sent(PreconditionerTrace)
    assert not network.sent(MaskedLogits)
    assert account(tmp_path / "bank", "look").spent() == 0


def test_a_job_that_began_on_the_same_rows_at_the_same_time_cannot_pass_the_budget(
    job_of: Callable[[int], Job], tmp_path: Path
) -> None:
    """Both saw an empty account: the one that would be the first beyond the budget stops before it sends anything."""
    job = job_of(1)
    stages = Stages(job.stages.data, seed="at once")
    roles = stages.training_roles(job.rows, job.tables)
    ours = accounts_of(job.parties, tmp_path, "ours")
    theirs = account(tmp_path / "bank", "theirs")
    for name in job.parties.all:
        roles[name]._account = ours[name]
    paid: list[int] = []

    def meanwhile(message: MaskedLogits) -> MaskedLogits:
        theirs.charge(WHOLE - 2)
        paid.append(1)
        return message

    with pytest.raises(PartyFailedError) as ended:
        stages.train(job.rows, job.tables, roles=roles, change={"bank": changing(MaskedLogits, meanwhile)})
    assert paid == [1]
    assert (ended.value.party, ended.value.code) == ("bank", "GRADIENT_BUDGET")
    assert len(stages.network.sent(MaskedLogits, "bank")) == 2  # the second filled the budget, the third was not sent
    assert theirs.spent() == WHOLE + 1  # the one that was entered and not opened


def test_a_peer_that_names_more_than_the_whole_budget_fails_the_check(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    stages = Stages(job.stages.data, seed="too much")
    lie = {"bureau": changing(GradientsSpent, lambda message: GradientsSpent(WHOLE + 1))}
    with pytest.raises(PartyFailedError) as ended:
        stages.train(job.rows, job.tables, lie)
    assert (ended.value.party, ended.value.code) == ("bank", "CHECK_FAILED")


@pytest.mark.parametrize(("spent", "left"), [(0, 60), (45, 15), (46, None), (60, None)])
def test_fewer_than_fifteen_gradients_left_are_refused(spent: int, left: int | None) -> None:
    if left is not None:
        assert check_gradients_left(60, spent) == left
    else:
        with pytest.raises(PrivacyError, match="GRADIENT_BUDGET"):
            check_gradients_left(60, spent)


# -- sets of rows ------------------------------------------------------------------------------------------------------


def with_row_sets(job: Job, folder: Path, ids: Rows, network: SimulatedNetwork) -> None:
    """One more fit of everything, on rows of which these are the ids."""
    stages = Stages(job.stages.data, seed="row sets")
    stages.network = network
    roles = stages.training_roles(job.rows, job.tables)
    for name in job.parties.all:
        roles[name]._row_sets = account(folder / name, "rows", ids, Purse.ROW_SETS)
    stages.train(job.rows, job.tables, roles=roles)


def test_samples_of_the_same_rows_train_until_the_smallest_bin_of_a_party_stands_no_more(
    job_of: Callable[[int], Job], tmp_path: Path
) -> None:
    """Each random sample is a row set of its own, whose gradients are further equations on the same columns."""
    job = job_of(1)
    limits = {
        name: feature_limit(1200, min(min(f.rows) for f in job.tables[name].features)) for name in job.parties.all
    }
    crowd = {"bank": job.tables["bank"].shape["bureau"], "bureau": job.tables["bank"].shape["bank"]}
    stood = min(limits[name] // crowd[name] for name in limits)
    for name in job.parties.all:
        for place in range(stood - 1):
            pay_for_row_sets(account(tmp_path / name, "rows", OURS[place:], Purse.ROW_SETS), crowd[name], limits[name])
    with_row_sets(job, tmp_path, OURS[:-1], SimulatedNetwork())
    network = SimulatedNetwork()
    with pytest.raises(PartyFailedError) as ended:
        with_row_sets(job, tmp_path, OURS[:-2], network)
    assert ended.value.code == "ROW_SETS"
    assert not network.sent(MaskedLogits)
    with_row_sets(job, tmp_path, OURS[:-1], SimulatedNetwork())  # a set that has paid pays no more


def test_a_set_of_rows_pays_once_for_the_most_features_and_nothing_where_it_is_refused(tmp_path: Path) -> None:
    def pay(rows: Rows, cost: int) -> float:
        pay_for_row_sets(account(tmp_path, "rows", rows, Purse.ROW_SETS), cost, 10)
        return account(tmp_path, "look", ["x"], Purse.ROW_SETS).spent()

    assert [pay(["x", "y"], 4), pay(["x", "y"], 3), pay(["x", "y"], 5), pay(["x", "z"], 5)] == [4, 4, 5, 10]
    with pytest.raises(PrivacyError, match="ROW_SETS"):
        pay(["x", "w"], 1)
    assert account(tmp_path, "look", ["x"], Purse.ROW_SETS).spent() == 10
    assert pay(["v", "w"], 10) == 10


# -- on disk -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purse", list(Purse))
def test_an_entry_counts_in_full_for_whoever_shares_one_row(purse: Purse, tmp_path: Path) -> None:
    account(tmp_path, "a-1", ["x", "y"], purse).charge(2.5)
    account(tmp_path, "a-2", ["y", "z"], purse).charge(1)
    account(tmp_path, "b-1", ["w"], purse).charge(4)
    looks = {rows: account(tmp_path, "c-1", list(rows), purse).spent() for rows in ("x", "y", "z", "w", "v", "xw")}
    assert looks == {"x": 2.5, "y": 3.5, "z": 1.0, "w": 4.0, "v": 0.0, "xw": 6.5}
    for other in set(Purse) - {purse}:
        assert account(tmp_path, "c-1", ["x"], other).spent() == 0


def test_a_job_that_pays_for_several_sets_of_rows_keeps_them_apart_and_adds_up(tmp_path: Path) -> None:
    for rows in (["x"], ["y"], ["x"]):
        account(tmp_path, "job-1", rows).charge(1)
    assert [account(tmp_path, "job-2", rows).spent() for rows in (["x"], ["y"], ["x", "y"])] == [2, 1, 3]


def test_what_another_process_pays_shows_at_once(tmp_path: Path) -> None:
    ours, theirs = account(tmp_path, "ours"), account(tmp_path, "theirs")
    ours.charge(1)
    assert theirs.spent() == 1
    theirs.charge(1)
    ours.charge(1)
    assert ours.spent() == theirs.spent() == 3


def test_the_files_name_no_row_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    account(tmp_path, "job-1", ["ID-4711"]).charge(1)
    (path,) = (tmp_path / "gradient-account").iterdir()
    assert b"4711" not in path.read_bytes()
    assert "4711" not in path.name
    assert {(tmp_path / name).stat().st_mode & 0o077 for name in ("rows.key", "gradient-account")} == {0}
    assert path.stat().st_mode & 0o077 == 0


def test_a_charge_that_the_disk_refuses_is_an_error_before_anything_is_sent(
    job_of: Callable[[int], Job], tmp_path: Path
) -> None:
    job = job_of(1)
    stages = Stages(job.stages.data, seed="full disk")
    roles = stages.training_roles(job.rows, job.tables)
    accounts = accounts_of(job.parties, tmp_path, "job")
    for name in job.parties.all:
        roles[name]._account = accounts[name]
    blocked = tmp_path / "bureau" / "gradient-account"
    blocked.rmdir()
    blocked.write_text("")
    with pytest.raises(PartyFailedError) as ended:
        stages.train(job.rows, job.tables, roles=roles)
    assert isinstance(ended.value.error, DataError)
    assert (ended.value.party, ended.value.code) == ("bureau", "FOLDER_UNUSABLE")
    assert not stages.network.sent(MaskedLogits, "bureau")


class _Killed(RowAccount):
    """The process dies the moment that a charge is on disk."""

    def __init__(self, inner: RowAccount) -> None:
        self._inner = inner

    def spent(self) -> float:
        return self._inner.spent()

    def entered(self) -> float:
        return self._inner.entered()

    def charge(self, cost: float) -> None:
        self._inner.charge(cost)
        os.kill(os.getpid(), signal.SIGKILL)


def _die(folder: Path) -> None:
    try:
        _Killed(account(folder, "job-1")).charge(1)
    except ConcordatError:
        os._exit(3)


def test_a_gradient_counts_if_the_process_is_killed_between_the_entry_and_the_message(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert account(tmp_path, "job-2").spent() == 1


def _key(folder: Path, answers: multiprocessing.Queue[bytes]) -> None:
    answers.put(Folder(folder).key("rows.key"))


def test_processes_that_make_the_key_at_once_have_the_same_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[bytes] = context.Queue()
    processes = [context.Process(target=_key, args=(tmp_path, answers)) for _ in range(6)]
    for process in processes:
        process.start()
    keys = {answers.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    assert keys == {(tmp_path / "rows.key").read_bytes()}
    assert len(keys.pop()) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["rows.key"]
