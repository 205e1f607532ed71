"""Second moments across parties: exact integers, nothing else can be read, and opened once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gmpy2
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz

from protocols.contract import ALGORITHMS, USUAL_ALGORITHMS, Caps, Contract, Member
from protocols.disclosure import Ledger
from protocols.errors import ContractViolationError, LocalProtocolError, SmallIntersectionError
from protocols.fixed_point import SlotLayout
from protocols.messages import Message
from protocols.moments.label_owner import LabelOwner, Moments
from protocols.moments.layout import (
    MomentKind,
    WorkingResponse,
    label_owner_layout,
    pair_layout,
    provider_layout,
)
from protocols.moments.messages import (
    STEPS,
    CrossMoments,
    MaskedMoments,
    MomentShares,
    OwnMoments,
    WeightedRows,
)
from protocols.moments.pairs import check_column_budget, provider_pairs
from protocols.moments.permission import MemoryOpenedMoments, MomentPermission
from protocols.moments.provider import FeatureProvider
from protocols.moments.run import STAGE, run, scripts_of
from protocols.paillier import KeyPair, generate_key_pair
from protocols.roles import Parties
from protocols.rows.encryption import RowMasks
from protocols.rows.messages import EncryptedRows, PublicKey
from protocols.session import Session
from tests.simulator import (
    KEY_BITS,
    ROWS,
    Deviations,
    Job,
    PartyFailedError,
    SimulatedNetwork,
    changing,
    deviating,
    play,
    seeded,
)

LIMIT_15 = 50.0  # chi-square with 15 degrees of freedom exceeds it with probability 1e-5


def contract_of(parties: Parties, *, moments: bool = True, contract_id: str = "pilot") -> Contract:
    names = (*parties.all, "coordinator")
    roles = ("label owner", *["feature provider"] * len(parties.providers), "coordinator")
    keys = [Ed25519PrivateKey.from_private_bytes(bytes([i + 1]) * 32).public_key() for i in range(len(names))]
    members = tuple(
        Member(name, role, key.public_bytes_raw().hex()) for name, role, key in zip(names, roles, keys, strict=True)
    )
    allowed = ALGORITHMS if moments else USUAL_ALGORITHMS
    return Contract(contract_id, members, "test", Caps(), (), 0, 10, allowed)


def permissions_of(parties: Parties, contract: Contract | None = None) -> dict[str, MomentPermission]:
    agreed = contract or contract_of(parties)
    return {name: MomentPermission(agreed, MemoryOpenedMoments()) for name in parties.all}


@dataclass
class Stage:
    """One opening of moments, played with the tables of a job."""

    job: Job
    working: WorkingResponse | None = None
    seed: object = "moments"
    permissions: Mapping[str, MomentPermission] = field(default_factory=dict)
    network: SimulatedNetwork = field(default_factory=SimulatedNetwork)

    def __post_init__(self) -> None:
        self.ledgers = {name: Ledger(name) for name in self.job.parties.all}
        self.permissions = self.permissions or permissions_of(self.job.parties)

    def play(self, change: Deviations | None = None) -> Moments:
        job = self.job
        scripts = scripts_of(
            job.parties,
            job.tables,
            job.rows,
            seeded(self.seed),
            self.permissions,
            working=self.working,
            minimum_key_bits=KEY_BITS,
        )
        change = change or {}
        played = {name: deviating(s, change[name]) if name in change else s for name, s in scripts.items()}
        bounds = job.stages.data.bounds()
        sessions = {name: Session(name, job.parties, STAGE, STEPS, bounds, self.ledgers[name]) for name in played}
        moments: Moments = play(played, sessions, self.network)[job.parties.label_owner]
        return moments


def working_of(job: Job) -> WorkingResponse:
    return WorkingResponse.of_fit(job.pooled_design() @ job.coefficients(), job.stages.data.label)


def design(job: Job) -> Any:
    """[1, X] of the pooled rows at 2^16, as Python integers."""
    return np.rint(job.pooled_design() * (1 << 16)).astype(np.int64).astype(object)


def provider_of(job: Job, name: str = "bureau", kind: MomentKind = MomentKind.WEIGHTED) -> FeatureProvider:
    return FeatureProvider(
        name,
        job.parties,
        table=job.tables[name],
        rows=job.rows[name],
        kind=kind,
        permission=permissions_of(job.parties)[name],
        context=b"",
        entropy=seeded("provider"),
        minimum_key_bits=KEY_BITS,
    )


def own_key(job: Job) -> KeyPair:
    key = job.rows["bank"].own_key
    assert key is not None
    return key


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_moments_equal_the_sums_over_pooled_rows_exactly(job: Job) -> None:
    x = design(job)
    moments = Stage(job).play()
    assert [list(row) for row in moments.gram] == (x.T @ x).tolist()
    assert moments.response is None
    shape = job.tables["bank"].shape
    assert moments.columns == (("", 0), *((name, j) for name in job.parties.all for j in range(shape[name])))


def test_weighted_moments_and_responses_equal_the_sums_over_pooled_rows_exactly(job: Job) -> None:
    x, working = design(job), working_of(job)
    moments = Stage(job, working).play()
    weighted = x * working.weights.astype(object)[:, None]
    assert [list(row) for row in moments.gram] == (x.T @ weighted).tolist()
    assert list(moments.response or ()) == (x.T @ working.responses.astype(object)).tolist()


def test_moments_are_exact_under_keys_of_2048_bits(job_of: Callable[[int], Job]) -> None:
    job = job_of(2)
    key = generate_key_pair(2048, seeded("2048"))
    layout = SlotLayout.of_job(ROWS, 2048)
    rows = {name: RowMasks(layout, {}, {"bank": key.public}, {}, key if name == "bank" else None) for name in job.rows}
    working, x = working_of(job), design(job)
    bounds = job.stages.data.bounds(2048)
    permissions = permissions_of(job.parties)
    moments = run(job.parties, job.tables, rows, seeded(1), permissions, bounds, working=working)
    assert [list(row) for row in moments.gram] == (x.T @ (x * working.weights.astype(object)[:, None])).tolist()


# -- what can be read --------------------------------------------------------------------------------------------------


def uniform(values: list[int], shift: int) -> bool:
    counts = np.bincount([(value >> shift) & 15 for value in values], minlength=16)
    return float(((counts - len(values) / 16) ** 2 / (len(values) / 16)).sum()) < LIMIT_15


@pytest.mark.parametrize("place", ["above", "between", "everywhere", "oversized"])
def test_whatever_the_label_owner_encrypted_only_the_bits_of_honest_sums_can_be_read(
    place: str, job_of: Callable[[int], Job]
) -> None:
    """`A` packs an indicator of one row where no honest sum has a bit, or fills the plaintext: what it reads there is
    uniform whether the row's feature is large or nothing."""
    job = job_of(1)
    key, provider = own_key(job), provider_of(job)
    layout = provider._owner_layout
    slots = layout.parts[0]
    between = slots[0].shift + slots[0].width
    tag = {
        "above": 1 << (layout.opened_bits(0) + 7),
        "between": 1 << (between + 5),
        "everywhere": int(key.public.n) * 2 // 3,
        "oversized": 1 << 400,
    }[place]
    assert slots[1].shift - between >= 12
    for x in (0, 70_001):  # of the row it is after
        product = key.encrypt([tag * x], seeded(x))[0]
        seen = key.decrypt(provider._seal_opened([product] * 320, layout, [0] * 320, key.public))
        for shift in (between, between + 4, slots[1].shift - 4, layout.opened_bits(0), layout.opened_bits(0) + 4):
            assert uniform(seen, shift)
        if place in {"above", "between"}:
            clean = key.decrypt(provider._seal_opened([mpz(1)], layout, [0], key.public))[0]
            carried = {layout.sums(0, value)[0] for value in seen} | {layout.sums(0, clean)[0]}
            assert carried == {0}


def test_products_of_two_features_show_nothing_of_the_columns_above_the_weight(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    key, provider = own_key(job), provider_of(job)
    pair = pair_layout(ROWS)
    third_moments = 12345 << provider._owner_layout.parts[0][2].shift
    for above in (0, third_moments):
        product = key.encrypt([77 + above], seeded(above))[0]
        seen = key.decrypt(provider._seal_opened([product] * 320, pair, [0] * 320, key.public))
        assert {pair.sums(0, value)[0] for value in seen} == {77}
        for shift in range(pair.opened_bits(0), KEY_BITS - 8, 40):
            assert uniform(seen, shift)


def test_every_plaintext_that_a_key_opens_is_on_the_ledger(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """`A` opens honest digits under uniform bits; a provider opens numbers uniform in [0, N) and nothing else."""
    opened: dict[int, list[int]] = {}
    decrypt = KeyPair.decrypt

    def recording(self: KeyPair, ciphertexts: Any) -> list[int]:
        values = decrypt(self, ciphertexts)
        opened.setdefault(int(self.public.n), []).extend(values)
        return values

    monkeypatch.setattr(KeyPair, "decrypt", recording)
    stage = Stage(job, working_of(job))
    moments = stage.play()
    shape = job.tables["bank"].shape
    layout = label_owner_layout(MomentKind.WEIGHTED, shape["bank"], ROWS, KEY_BITS)
    d = [shape[name] for name in job.parties.providers]
    by_owner = opened.pop(int(own_key(job).public.n))
    assert len(by_owner) == sum(f * len(layout.parts) + f * (f + 1) // 2 for f in d)
    masked = [value for values in opened.values() for value in values]
    pairs = provider_pairs(job.parties)
    assert len(opened) == len(job.parties.providers) - 1
    assert len(masked) == sum(
        shape[b] * len(provider_layout(MomentKind.WEIGHTED, shape[a], ROWS, KEY_BITS).parts) for a, b in pairs
    )
    if masked:
        top = [16 * value // int(n) for n, values in opened.items() for value in values]
        assert max(np.bincount(top, minlength=16)) < len(top) / 16 + 6 * np.sqrt(len(top) / 16) + 3
    lines = {line.what: line for line in stage.ledgers["bank"].lines(to="bank") if line.nature == "opened"}
    numbers = stage.ledgers["bank"].opened_to("bank")
    assert numbers == sum(f * layout.columns + f * (f + 1) // 2 for f in d) + sum(shape[a] * shape[b] for a, b in pairs)
    assert len(lines) == (2 if len(d) == 1 else 3)
    own = 1 + shape["bank"]
    size = len(moments.columns)
    assert numbers == (size * (size + 1) - own * (own + 1)) // 2 + sum(d)  # all of X^T W X and X^T W y_w that is new
    for name in job.parties.providers:
        assert stage.ledgers[name].opened_to(name) == 0
        theirs = list(stage.ledgers[name].lines(to="bank", source=name))
        assert theirs == list(stage.ledgers["bank"].lines(to="bank", source=name))


def test_a_ledger_with_less_room_refuses_before_the_moments_leave(job_of: Callable[[int], Job]) -> None:
    stage = Stage(job_of(1))
    stage.ledgers["bureau"] = Ledger("bureau", most_opened=3)
    with pytest.raises(PartyFailedError) as caught:
        stage.play()
    assert (caught.value.party, caught.value.code) == ("bureau", "DISCLOSURE_CAP")
    assert not stage.network.sent(CrossMoments)


def test_the_same_request_twice_gives_other_bytes_each_time(job_of: Callable[[int], Job]) -> None:
    job = job_of(2)
    key, encrypted = own_key(job), job.rows["bureau"].encrypted["bank"]
    provider = provider_of(job)
    layout = provider._owner_layout
    sealed = provider._seal_opened(encrypted[:1] * 50, layout, [0] * 50, key.public)
    assert len(set(sealed)) == 50
    working = working_of(job)
    seen: dict[type[Message], list[bytes]] = {CrossMoments: [], OwnMoments: [], MaskedMoments: [], MomentShares: []}
    for seed in range(2):
        stage = Stage(job, working, seed=seed)
        stage.play()
        for kind, frames in seen.items():
            frames += [frame.data for frame in stage.network.sent(kind)]
    for frames in seen.values():
        assert len(set(frames)) == len(frames)


def test_the_label_owner_cannot_confirm_a_guess_of_a_providers_rows(job_of: Callable[[int], Job]) -> None:
    """It knows the randomness of its rows: without a fresh `r^N` the product over the right rows would match."""
    job = job_of(1)
    key, provider = own_key(job), provider_of(job)
    product = mpz(1)
    for c, x in zip(job.rows["bureau"].encrypted["bank"], job.tables["bureau"].design[:, 0].tolist(), strict=True):
        product = product * gmpy2.powmod(c, x, key.public.nsquare) % key.public.nsquare
    (sealed,) = provider._seal_opened([product], provider._owner_layout, [0], key.public)
    difference = key.decrypt([sealed])[0] - key.decrypt([product])[0]
    n = mpz(key.public.n)
    assert product * (1 + difference % n * n) % (n * n) != sealed


def test_sizes_and_order_of_messages_do_not_depend_on_the_data(job: Job) -> None:
    def shape(working: WorkingResponse, seed: int) -> list[tuple[Any, ...]]:
        stage = Stage(job, working, seed=seed)
        stage.play()
        return [(*frame[:4], len(frame.data)) for frame in stage.network.frames]

    label = job.stages.data.label
    other = WorkingResponse.of_fit(np.full(ROWS, 3.0), 1 - label)
    assert shape(working_of(job), 1) == shape(other, 2)


def test_every_message_fits_its_bound(job: Job) -> None:
    bounds = job.stages.data.bounds()
    kinds = {kind.__name__: kind for kind in (step.message for step in STEPS)}
    for working in (None, working_of(job)):
        stage = Stage(job, working)
        stage.play()
        for frame in stage.network.frames:
            if frame.step in kinds:
                assert len(frame.data) <= kinds[frame.step].max_bytes(bounds)


# -- between two providers ---------------------------------------------------------------------------------------------


def test_nobody_but_the_label_owner_sees_a_ciphertext_before_and_after_it_was_weighted(
    job_of: Callable[[int], Job],
) -> None:
    job = job_of(3)
    stage = Stage(job, working_of(job))
    stage.play()
    rows = {(frame.sender, frame.receiver) for frame in stage.network.sent(EncryptedRows)}
    assert rows == {("bank", name) for name in job.parties.providers} | {("bureau", "bank"), ("tax", "bank")}
    weighted = {frame.receiver for frame in stage.network.sent(WeightedRows)}
    assert weighted == {"tax", "utility"}
    sent = {frame.data for frame in stage.network.sent(EncryptedRows, "bureau")}
    assert not sent & {frame.data for frame in stage.network.sent(WeightedRows)}


def test_without_weights_columns_go_to_the_other_provider_and_not_to_the_label_owner(
    job_of: Callable[[int], Job],
) -> None:
    stage = Stage(job_of(3))
    stage.play()
    to_owner = {frame.step for frame in stage.network.frames if frame.receiver == "bank"}
    assert to_owner == {"CrossMoments", "OwnMoments", "MomentShares", "StageEnd"}


def test_as_few_keys_as_possible_are_made_and_none_that_was_used_elsewhere(job_of: Callable[[int], Job]) -> None:
    for providers, owners in ((1, set()), (2, {"bureau"}), (3, {"bureau", "tax"})):
        stage = Stage(job_of(providers), working_of(job_of(providers)))
        stage.play()
        frames = stage.network.sent(PublicKey)
        assert {frame.sender for frame in frames} == owners
        known = {int(key.n) for key in stage.job.rows["bank"].keys.values()}
        made = {int.from_bytes(frame.message(PublicKey).modulus, "little") for frame in frames}
        assert len(made) == len(owners)
        assert not made & known


def test_an_odd_power_coprime_to_the_order_leaves_the_law_of_a_ciphertext_and_an_even_one_does_not() -> None:
    """On a small modulus, over every unit: the residues r^(N w) are the residues r^N, each once."""
    p, q = 23, 59  # p - 1 = 2 * 11, q - 1 = 2 * 29
    n = p * q
    residues = {pow(r, n, n * n) for r in range(1, n) if gmpy2.gcd(r, n) == 1}
    assert len(residues) == (p - 1) * (q - 1)
    for weight in (1, 3, 5, 7, 9, 15, 10_001):
        assert {pow(r, weight, n * n) for r in residues} == residues
    for weight in (2, 4, 1 << 20):
        powers = {pow(r, weight, n * n) for r in residues}
        assert len(powers) <= len(residues) // 4
        assert {int(gmpy2.jacobi(r % n, n)) for r in powers} == {1}  # which anybody can see


def test_the_shares_of_a_block_are_uniform_and_only_together_give_it(job_of: Callable[[int], Job]) -> None:
    job = job_of(2)
    values: dict[str, list[int]] = {"bureau": [], "tax": []}
    for seed in range(8):
        stage = Stage(job, None, seed=seed)
        stage.play()
        for name, found in values.items():
            data = stage.network.sent(MomentShares, name, "bank")[0].message(MomentShares).values
            size = len(data) // job.tables["bank"].shape["tax"]  # of the share of one feature
            found += [byte & 15 for at in range(0, len(data), size) for byte in data[at : at + size - 1]]
    for found in values.values():
        assert uniform(found, 0)


# -- permission --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_a_second_opening_of_the_same_features_is_refused_by_everyone_and_sends_nothing(
    weighted: bool, job_of: Callable[[int], Job]
) -> None:
    job = job_of(2)
    working = working_of(job) if weighted else None
    permissions = permissions_of(job.parties)
    Stage(job, working, permissions=permissions).play()
    again = Stage(job, working, permissions=permissions)
    with pytest.raises(PartyFailedError) as caught:
        again.play()
    assert caught.value.codes == dict.fromkeys(job.parties.all, "MOMENTS_SPENT")
    assert not again.network.frames
    fresh = {**permissions, "bank": permissions_of(job.parties)["bank"]}  # the label owner forgets that it asked
    asked = Stage(job, working, permissions=fresh)
    with pytest.raises(PartyFailedError):
        asked.play()
    assert not [frame for frame in asked.network.frames if frame.sender != "bank"]


def test_permission_is_by_contract_kind_and_feature() -> None:
    parties = Parties("bank", ("bureau",))
    opened = MemoryOpenedMoments()
    permission = MomentPermission(contract_of(parties), opened)
    permission.spend(MomentKind.PLAIN, ("a", "b"))
    permission.spend(MomentKind.WEIGHTED, ("a", "b"))
    permission.spend(MomentKind.PLAIN, ("c",))
    with pytest.raises(ContractViolationError, match="MOMENTS_SPENT"):
        permission.spend(MomentKind.PLAIN, ("d", "b"))
    permission.spend(MomentKind.PLAIN, ("d",))  # a refusal spends nothing
    MomentPermission(contract_of(parties, contract_id="other"), opened).spend(MomentKind.PLAIN, ("a",))


def test_a_contract_opens_moments_only_if_it_names_them(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    closed = contract_of(job.parties, moments=False)
    assert replace(closed, algorithms=USUAL_ALGORITHMS) == Contract(*(getattr(closed, f) for f in FIELDS))
    stage = Stage(job, permissions=permissions_of(job.parties, closed))
    with pytest.raises(PartyFailedError) as caught:
        stage.play()
    assert set(caught.value.codes.values()) == {"ALGORITHM_NOT_ALLOWED"}
    assert not stage.network.frames


FIELDS = ("contract_id", "members", "purpose", "caps", "outputs", "valid_from", "valid_until")


def test_more_columns_than_a_sparse_feature_can_stand_are_refused() -> None:
    check_column_budget(ROWS, 4, 60)
    with pytest.raises(SmallIntersectionError, match="TOO_FEW_ROWS"):
        check_column_budget(ROWS, 20, 60)


# -- deviations --------------------------------------------------------------------------------------------------------


def one_more(message: OwnMoments) -> OwnMoments:
    first = int.from_bytes(message.values[:16], "little", signed=True) + 1
    return replace(message, values=first.to_bytes(16, "little", signed=True) + message.values[16:])


def impossible(message: OwnMoments) -> OwnMoments:
    """A product of two features beyond what Cauchy and Schwarz allow."""
    return replace(message, values=message.values[:16] + (1 << 60).to_bytes(16, "little") + message.values[32:])


BAD_ANSWERS: dict[str, tuple[type[Message], Callable[[Any], Message]]] = {
    "a square that the bins do not give": (OwnMoments, one_more),
    "a product beyond Cauchy and Schwarz": (OwnMoments, impossible),
    "a moment too few": (OwnMoments, lambda m: replace(m, values=m.values[:-16])),
    "another number of own features": (OwnMoments, lambda m: replace(m, features=m.features - 1)),
    "another number of features": (CrossMoments, lambda m: replace(m, features=m.features + 1)),
    "another number of columns": (CrossMoments, lambda m: replace(m, columns=m.columns + 1)),
    "a ciphertext twice": (
        CrossMoments,
        lambda m: replace(m, ciphertexts=m.ciphertexts[: KEY_BITS // 4] * (len(m.ciphertexts) // (KEY_BITS // 4))),
    ),
    "no ciphertext": (CrossMoments, lambda m: replace(m, ciphertexts=b"")),
}


@pytest.mark.parametrize("name", list(BAD_ANSWERS))
def test_an_answer_of_a_provider_that_cannot_be_is_refused(name: str, job_of: Callable[[int], Job]) -> None:
    kind, edit = BAD_ANSWERS[name]
    with pytest.raises(PartyFailedError) as caught:
        Stage(job_of(1)).play({"bureau": changing(kind, edit)})
    assert (caught.value.party, caught.value.code) == ("bank", "CHECK_FAILED")


@pytest.mark.parametrize("sender", ["bureau", "tax"])
def test_a_share_of_another_length_or_value_is_refused(sender: str, job_of: Callable[[int], Job]) -> None:
    for edit in (
        lambda m: MomentShares(m.values[:-1]),
        lambda m: MomentShares(bytes(b ^ 0x55 for b in m.values)),
    ):
        with pytest.raises(PartyFailedError) as caught:
            Stage(job_of(2)).play({sender: changing(MomentShares, edit)})
        assert (caught.value.party, caught.value.code) == ("bank", "CHECK_FAILED")


def repeated(message: Any) -> Any:
    width = KEY_BITS // 4
    return replace(message, ciphertexts=message.ciphertexts[:width] * 2 + message.ciphertexts[2 * width :])


@pytest.mark.parametrize(
    ("deviator", "kind", "refuser"),
    [("bank", EncryptedRows, "bureau"), ("bureau", EncryptedRows, "bank"), ("bank", WeightedRows, "tax")],
)
def test_the_same_ciphertext_for_two_rows_is_refused(
    deviator: str, kind: type[Message], refuser: str, job_of: Callable[[int], Job]
) -> None:
    job = job_of(2)
    with pytest.raises(PartyFailedError) as caught:
        Stage(job, working_of(job)).play({deviator: changing(kind, repeated)})
    assert (caught.value.party, caught.value.code) == (refuser, "CHECK_FAILED")


def test_a_key_without_a_proof_for_this_job_is_refused(job_of: Callable[[int], Job]) -> None:
    job = job_of(2)
    with pytest.raises(PartyFailedError) as caught:
        Stage(job, working_of(job)).play({"bureau": changing(PublicKey, lambda m: replace(m, proof=m.proof[::-1]))})
    assert set(caught.value.codes.values()) == {"CHECK_FAILED"}


def test_the_label_owner_brings_a_key_and_a_weight_for_each_row(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    arguments: dict[str, Any] = {
        "table": job.tables["bank"],
        "permission": permissions_of(job.parties)["bank"],
        "context": b"",
        "entropy": seeded(0),
    }
    with pytest.raises(LocalProtocolError, match="ROLE_INVALID"):
        LabelOwner(job.parties, rows=job.rows["bureau"].__class__(job.rows["bank"].layout, {}, {}, {}), **arguments)
    short = WorkingResponse.of_fit(np.zeros(10), np.zeros(10, dtype=np.int64))
    with pytest.raises(LocalProtocolError, match="LOGITS_INVALID"):
        LabelOwner(job.parties, rows=job.rows["bank"], working=short, **arguments)
    with pytest.raises(LocalProtocolError, match="ROLE_INVALID"):
        provider_of(job, "bank")
