"""The statement of what each party learned: complete against everything a party can open, equal and signed by all."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from gmpy2 import mpz

from protocols.binning.messages import STEPS as BIN_STEPS
from protocols.binning.messages import GateDecision, ModelShape, PreBins, SelectedFeatures
from protocols.disclosure import REPEATED, Learned, Ledger, Line, statement_hash
from protocols.logistic.messages import STEPS as TRAIN_STEPS
from protocols.logistic.messages import (
    BatchRequest,
    CoefficientSigns,
    Corrections,
    CurvatureScale,
    DealerSeed,
    FoldOfRows,
    GradientShare,
    GradientsSpent,
    InnerProducts,
    LikelihoodPart,
    LikelihoodShare,
    LogitRange,
    MaskedBinSums,
    MaskedFactors,
    MaskedLogits,
    MaskedProducts,
    MaskedResidual,
    MaskedWeights,
    NextFit,
    PreconditionerTrace,
    ProductCorrections,
    TrainingSize,
)
from protocols.messages import Bounds, Message
from protocols.paillier import KeyPair
from protocols.pair_masks import PairSeed
from protocols.roles import COORDINATOR
from protocols.rows.messages import STEPS as ROW_STEPS
from protocols.rows.messages import EncryptedRows, FeatureCount, PublicKey
from protocols.session import Session
from protocols.statement import STEPS, StatementLine, StatementPart, StatementSeal, agree_on_statement
from tests.simulator import (
    KEY_BITS,
    Change,
    Job,
    PartyFailedError,
    SimulatedNetwork,
    Stages,
    changing,
    consortium,
    deviating,
    parties_of,
    play,
    play_job,
)

WIDTH = 2 * KEY_BITS // 8
BOUNDS = Bounds(rows=2000, set_size=2000, features=20, key_bytes=72)


class Account(NamedTuple):
    """A line as the test expects it, written from PROTOCOLS.md and not from the messages' own declarations."""

    what: str
    nature: str
    numbers: int


def masked_or_not(what: str, numbers: int, masked: bool) -> list[Account]:
    return [Account(f"{what}, masked", "masked", numbers) if masked else Account(what, "opened", numbers)]


def prebins(m: PreBins) -> list[Account]:
    bins = sum(len(feature.encrypted_bads) // WIDTH for feature in m.features)
    return [
        Account("rows per pre-bin of an aliased feature", "opened", bins),
        Account("bads per pre-bin of an aliased feature", "opened", bins),
        Account("order of the pre-bins of an aliased feature", "opened", len(m.features)),
        Account(
            "how an aliased feature is to be merged, and whether its owner wants it kept", "opened", len(m.features)
        ),
        Account("sums of own masks per pre-bin, masked again", "masked", bins),
        Account("check sum of masks per feature", "masked", len(m.features)),
    ]


def decision(m: GateDecision) -> list[Account]:
    return [
        Account("number of bads in the training sample", "opened", 1),
        Account(
            "WOE per bin of an own feature that was kept (equals its label counts)",
            "opened",
            sum(len(kept.woe) for kept in m.kept),
        ),
        Account("IV of an own feature that was kept", "opened", len(m.kept)),
        Account("merge map of an own feature that was kept", "opened", len(m.kept)),
        Account("that an own feature was dropped", "opened", len(m.dropped)),
    ]


def next_fit(m: NextFit) -> list[Account]:
    if m.ended:
        return [Account("which fit of a sequence is the model", "opened", 1)]
    return [
        Account("penalty, fold and start of a fit of a sequence", "opened", 1),
        Account("that an own feature is left out of a fit", "opened", len(m.dropped)),
    ]


def signs(m: CoefficientSigns) -> list[Account]:
    told = len(m.positive) + len(m.inward)
    return [Account("which aliased features have, or would have, a coefficient of which sign", "opened", told)]


# What the receiver of a message can read in it. Masked vectors count once a message: one share, one column.
READABLE: dict[type[Message], Callable[[Any], list[Account]]] = {
    FeatureCount: lambda m: [Account("number of features", "opened", 1)],
    PublicKey: lambda m: [Account("public key of this job", "masked", 1)],
    EncryptedRows: lambda m: [Account("encrypted rows, in chunks", "masked", 1)],
    PreBins: prebins,
    GateDecision: decision,
    SelectedFeatures: lambda m: [Account("which aliased features enter the model", "opened", len(m.aliases))],
    ModelShape: lambda m: [Account("number of model features per party", "opened", len(m.parties))],
    TrainingSize: lambda m: [Account("number of training rows", "opened", 1)],
    BatchRequest: lambda m: [
        Account("period of a batch (whether logits exceed 12), or that the fit has ended", "opened", 1)
    ],
    DealerSeed: lambda m: [Account("seed of own correlated randomness", "masked", 1)],
    Corrections: lambda m: [Account("batches of shares of uniform phases", "masked", 1)],
    PairSeed: lambda m: [Account("seed shared by two parties", "masked", 1)],
    MaskedProducts: lambda m: [Account("products of own masks and a peer's features, masked again", "masked", 1)],
    MaskedBinSums: lambda m: [Account("sums of own masks per bin, masked again", "masked", 1)],
    MaskedLogits: lambda m: [Account("partial logits under a fresh uniform mask", "masked", len(m.values) // 4)],
    MaskedResidual: lambda m: [Account("share of the residual under a fresh uniform mask", "masked", 1)],
    GradientShare: lambda m: [Account("halves of own gradient block", "masked", 1)],
    GradientsSpent: lambda m: [
        Account("gradients that earlier jobs opened on the sender's training rows", "opened", 1)
    ],
    PreconditionerTrace: lambda m: masked_or_not("trace of the peer's preconditioner", 1, m.masked),
    LogitRange: lambda m: masked_or_not("least and greatest partial logit of the peer, in integers", 2, m.masked),
    InnerProducts: lambda m: masked_or_not(
        "the peer's part of the Gram matrix of the training history", len(m.parts) // 16, m.masked
    ),
    NextFit: next_fit,
    FoldOfRows: lambda m: [Account("fold of each training row, drawn at random", "opened", len(m.folds))],
    LikelihoodShare: lambda m: [Account("share of a sum over rows", "masked", 1)],
    LikelihoodPart: lambda m: masked_or_not("the peer's part of a log-likelihood", 1, m.masked),
    CoefficientSigns: signs,
    MaskedWeights: lambda m: [Account("sample weights under a fresh uniform mask", "masked", 1)],
    CurvatureScale: lambda m: [
        Account("what sample weights multiply the curvature by, to a power of two", "opened", 1)
    ],
    ProductCorrections: lambda m: [Account("batches of shares of products of uniform masks", "masked", 1)],
    MaskedFactors: lambda m: [Account("share of what is to be weighted under a fresh uniform mask", "masked", 1)],
}
KINDS = {kind.__name__: kind for kind in READABLE}


def expected_lines(job: Job) -> Iterator[tuple[str, str, str, Account]]:
    """(receiver, stage, source, account) of every message that passed, and of what several give together."""
    for frame in job.stages.network.frames:
        if frame.step != "StageEnd":
            for account in READABLE[KINDS[frame.step]](frame.message(KINDS[frame.step])):
                yield frame.receiver, frame.stage, frame.sender, account
    network = job.stages.network
    for name in job.parties.all:
        several: tuple[tuple[type[Message], str, Callable[[Any], int]], ...] = (
            (PreconditionerTrace, "sum of the traces of the preconditioners", lambda m: 1),
            (LogitRange, "range of the logits, in integers (sum of the parties' least and greatest)", lambda m: 2),
            (
                InnerProducts,
                "Gram matrix of the training history, summed over parties",
                lambda m: len(m.parts) // 16,
            ),
        )
        for kind, what, size in several:
            other = job.parties.others(name)[0]
            numbers = sum(size(frame.message(kind)) for frame in network.sent(kind, name, other))
            yield name, "train", "all parties", Account(what, "opened", numbers)
        block = len(job.tables[name].features) + (name == "bank")
        gradients = len(network.sent(MaskedLogits, name, job.parties.share_holders[name == "bank"]))
        yield name, "train", "all parties", Account("own gradient block", "opened", block * gradients)


def test_every_line_of_the_ledger_is_what_can_be_read_and_nothing_is_missing(job: Job) -> None:
    expected: Counter[tuple[str, str, str, str, str]] = Counter()
    for receiver, stage, source, account in expected_lines(job):
        expected[receiver, stage, source, account.what, account.nature] += account.numbers
    for name in (*job.parties.all, COORDINATOR):
        ledger = job.stages.ledgers[name]
        on_ledger = {(x.to, x.stage, x.source, x.what, x.nature): x.numbers for x in ledger.lines()}
        mine = {key: numbers for key, numbers in expected.items() if numbers and name in (key[0], key[2])}
        assert on_ledger == mine


def test_sender_and_receiver_keep_the_same_account(job: Job) -> None:
    names = (*job.parties.all, COORDINATOR)
    for sender in names:
        for receiver in names:
            if sender != receiver:
                given = job.stages.ledgers[sender].lines(to=receiver, source=sender)
                assert given == job.stages.ledgers[receiver].lines(to=receiver, source=sender)


def test_every_plaintext_that_a_party_decrypts_is_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[int, list[mpz], list[int]]] = []
    decrypt = KeyPair.decrypt

    def recording(self: KeyPair, ciphertexts: Any) -> list[int]:
        plain = decrypt(self, ciphertexts)
        opened.append((int(self.public.n), list(ciphertexts), plain))
        return plain

    monkeypatch.setattr(KeyPair, "decrypt", recording)
    job = play_job(Stages(consortium(2), seed="plaintexts"))
    owners = {int(job.rows[name].keys[name].n): name for name in job.parties.share_holders}
    carried: dict[str, dict[bytes, str]] = {name: {} for name in owners.values()}
    for frame in job.stages.network.frames:
        if frame.receiver in carried:
            message = frame.message(KINDS[frame.step]) if frame.step in KINDS else None
            packed = b""
            if isinstance(message, PreBins):
                packed = b"".join(feature.encrypted_bads for feature in message.features)
            elif isinstance(message, MaskedProducts | MaskedBinSums):
                packed = message.ciphertexts
            for at in range(0, len(packed), WIDTH):
                carried[frame.receiver][packed[at : at + WIDTH]] = frame.step
    found: Counter[tuple[str, str]] = Counter()
    for modulus, ciphertexts, _ in opened:
        for c in ciphertexts:
            owner = owners[modulus]
            found[owner, carried[owner][int(c).to_bytes(WIDTH, "little")]] += 1  # KeyError: from no message
    ledger = {(x.to, x.what): 0 for name in owners.values() for x in job.stages.ledgers[name].lines(to=name)}
    for name in owners.values():
        for x in job.stages.ledgers[name].lines(to=name):
            ledger[x.to, x.what] += x.numbers
    network = job.stages.network
    assert found.pop(("bank", "PreBins")) == ledger["bank", "bads per pre-bin of an aliased feature"]
    bins = sum(len(f.woe) for name in job.parties.providers for f in job.tables[name].features)
    passes = ledger["bank", "sums of own masks per bin, masked again"] // 2
    assert found.pop(("bank", "MaskedBinSums")) == passes * bins
    columns = sum(len(job.tables[name].features) for name in ("bank", "tax")) + 1
    assert ledger["bureau", "products of own masks and a peer's features, masked again"] == 2 * (passes + 1)
    assert found.pop(("bureau", "MaskedProducts")) == columns * (passes + 1)
    assert not found  # nothing else was decrypted
    assert network.sent(MaskedBinSums)


def test_of_a_decrypted_pre_bin_only_the_count_means_anything(job_of: Callable[[int], Job]) -> None:
    """Of the plaintext of a pre-bin the bits below and above the count are under the provider's masks."""
    job = job_of(1)
    key, layout = job.rows["bank"].own_key, job.rows["bank"].layout
    assert key is not None
    values = []
    for seed in range(3):
        stages = Stages(job.stages.data, seed=seed)
        stages.bin(job.rows)
        for feature in stages.network.sent(PreBins)[0].message(PreBins).features:
            data = feature.encrypted_bads
            values += key.decrypt(
                [mpz(int.from_bytes(data[i : i + WIDTH], "little")) for i in range(0, len(data), WIDTH)]
            )
    assert len(values) > 100
    for shift in (layout.label_owner_slot - 4, layout.label_shift - 4, layout.label_shift + 16, KEY_BITS - 8):
        counts = Counter((value >> shift) & 15 for value in values)
        if shift < KEY_BITS - 8:
            expected = len(values) / 16
            assert sum((counts[b] - expected) ** 2 / expected for b in range(16)) < 60
    assert len({value >> (layout.label_shift + 11) for value in values}) == len(values)


# -- agreement ---------------------------------------------------------------------------------------------------------


def sign(name: str) -> Callable[[bytes], bytes]:
    return lambda digest: hashlib.sha256(name.encode() + digest).digest()


def verify(name: str, digest: bytes, signature: bytes) -> bool:
    return signature == sign(name)(digest)


def agree(ledgers: dict[str, Ledger], change: dict[str, Change] | None = None) -> dict[str, Any]:
    parties = parties_of(len(ledgers) - 1 - (COORDINATOR in ledgers))
    scripts: dict[str, Any] = {
        name: agree_on_statement(name, parties, ledgers[name], sign(name), verify) for name in parties.all
    }
    scripts = {n: deviating(s, (change or {})[n]) if n in (change or {}) else s for n, s in scripts.items()}
    sessions = {name: Session(name, parties, "statement", STEPS, BOUNDS, ledgers[name]) for name in parties.all}
    return play(scripts, sessions, SimulatedNetwork())


def test_all_parties_end_with_the_same_signed_statement(job: Job) -> None:
    statements = agree(job.stages.ledgers)
    assert len({s.digest for s in statements.values()}) == 1
    for statement in statements.values():
        assert statement.digest == statement_hash(statement.lines)
        assert list(statement.signatures) == sorted(job.parties.all)
        assert all(verify(name, statement.digest, s) for name, s in statement.signatures.items())
        assert {line.to for line in statement.lines} == {*job.parties.all, COORDINATOR}
    joined = {line for name in job.parties.all for line in job.stages.ledgers[name].lines(to=name)}
    joined |= set(job.stages.ledgers[COORDINATOR].lines(to=COORDINATOR))
    assert set(statements["bank"].lines) == joined


def small_ledgers() -> dict[str, Ledger]:
    ledgers = {name: Ledger(name) for name in parties_of(2).all}
    for receiver in ledgers:
        for source in ledgers:
            if source != receiver:
                for holder in (receiver, source):
                    ledgers[holder].add(to=receiver, source=source, stage="bin", learned=[Learned("a count", 3)])
    return ledgers


def part(edit: Callable[[list[StatementLine]], list[StatementLine]]) -> Change:
    return changing(StatementPart, lambda m: StatementPart(tuple(edit(list(m.lines)))))


def renumbered(lines: list[StatementLine]) -> list[StatementLine]:
    first = lines[0]
    return [StatementLine(first.to, first.stage, first.source, first.what, first.nature, first.numbers - 1), *lines[1:]]


DIFFERING: dict[str, Change] = {
    "fewer numbers than it was sent": part(renumbered),
    "a line left out": part(lambda lines: lines[1:]),
    "a line made up about a peer": part(
        lambda lines: sorted(
            [*lines, StatementLine("bureau", "bin", "tax", "nothing", "opened", 1)],
            key=lambda x: Line(**vars(x)),
        )
    ),
    "another signature": changing(StatementSeal, lambda m: StatementSeal(m.digest, b"x" * 32)),
    "another digest": changing(StatementSeal, lambda m: StatementSeal(bytes(32), sign("bureau")(bytes(32)))),
}


@pytest.mark.parametrize("name", list(DIFFERING))
def test_a_party_whose_account_differs_from_what_it_was_sent_is_found_out(name: str) -> None:
    assert len(agree(small_ledgers())) == 3
    with pytest.raises(PartyFailedError) as caught:
        agree(small_ledgers(), {"bureau": DIFFERING[name]})
    assert caught.value.code == "STATEMENT_DIFFERS"
    assert caught.value.party != "bureau" or name == "a line made up about a peer"


BAD_ACCOUNTS: dict[str, Change] = {
    "a line twice": part(lambda lines: [lines[0], *lines]),
    "another order": part(lambda lines: lines[::-1]),
    "what another party learned": part(
        lambda lines: [*lines, StatementLine("tax", "bin", "bureau", "a count", "opened", 3)]
    ),
    "what the coordinator learned from another": part(
        lambda lines: [*lines, StatementLine("coordinator", "bin", "tax", "a count", "opened", 3)]
    ),
}


@pytest.mark.parametrize("name", list(BAD_ACCOUNTS))
def test_an_account_that_is_not_the_senders_own_in_order_is_refused(name: str) -> None:
    with pytest.raises(PartyFailedError) as caught:
        agree(small_ledgers(), {"bureau": BAD_ACCOUNTS[name]})
    assert caught.value.code == "CHECK_FAILED"


def test_every_message_type_of_these_stages_is_in_the_account() -> None:
    assert {step.message for steps in (ROW_STEPS, BIN_STEPS, TRAIN_STEPS) for step in steps} == set(READABLE)


# -- what a break let through ------------------------------------------------------------------------------------------

BROKEN = "train" + REPEATED


def broken_ledgers(sent: int, arrived: int) -> dict[str, Ledger]:
    """Bank sent bureau so many numbers in an attempt that broke off, and so many arrived."""
    ledgers = small_ledgers()
    for holder, numbers in (("bank", sent), ("bureau", arrived)):
        ledgers[holder].add(to="bureau", source="bank", stage=BROKEN, learned=[Learned("a share", numbers)])
    return ledgers


@pytest.mark.parametrize(("sent", "arrived"), [(5, 5), (5, 3), (5, 0)])
def test_what_was_lost_in_a_break_counts_as_disclosed(sent: int, arrived: int) -> None:
    statements = agree(broken_ledgers(sent, arrived))
    (line,) = [line for line in statements["tax"].lines if line.stage == BROKEN]
    assert line == Line("bureau", BROKEN, "bank", "a share", "opened", 5)
    assert len({statement.digest for statement in statements.values()}) == 1


@pytest.mark.parametrize(("sent", "arrived"), [(5, 6), (0, 1)])
def test_a_claim_to_have_learned_more_in_a_break_than_was_sent_is_found_out(sent: int, arrived: int) -> None:
    with pytest.raises(PartyFailedError) as caught:
        agree(broken_ledgers(sent, arrived))
    assert (caught.value.party, caught.value.code) == ("bank", "STATEMENT_DIFFERS")


def test_a_claim_to_have_given_more_in_a_break_than_arrived_can_only_raise_what_the_claimant_disclosed() -> None:
    statements = agree(broken_ledgers(500, 5))
    assert [line.numbers for line in statements["tax"].lines if line.stage == BROKEN] == [500]
