"""The starred rules of PROTOCOLS.md: in each test a party that deviates tries an attack, and fails.

A deviating party keeps its own transcript straight (`tests.simulator.deviating`), so that what stops it is the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gmpy2 import mpz
from numpy.typing import NDArray
from scipy.optimize import linprog

from protocols.binning.budget import Candidate, assess, choose_features, entropy_bits, label_budget, label_cost
from protocols.binning.messages import GateDecision, PreBins
from protocols.binning.provider import FeatureProvider, seal_feature
from protocols.fixed_point import LOGIT_BITS
from protocols.logistic.dealer import phase_mask
from protocols.logistic.lbfgs import Block
from protocols.logistic.messages import (
    BatchRequest,
    Corrections,
    GradientShare,
    InnerProducts,
    LogitRange,
    MaskedBinSums,
    MaskedLogits,
    MaskedProducts,
    MaskedResidual,
    PreconditionerTrace,
)
from protocols.logistic.offline import OfflineProducts
from protocols.messages import Message
from protocols.paillier import accumulate, add_plaintext, seal
from protocols.rows.encryption import RowMasks
from protocols.rows.messages import EncryptedRows
from protocols.session import Send
from protocols.spent import MemorySpentIndices
from tests.simulator import Change, Job, PartyFailedError, SimulatedNetwork, Stages, changing, seeded

LIMIT_15 = 50.0  # chi-square with 15 degrees of freedom exceeds it with probability 1e-5


def chi_square(nibbles: Sequence[int]) -> float:
    """Of values 0..15 against the uniform law."""
    counts = np.bincount(np.array(nibbles, dtype=np.int64), minlength=16)
    return float(((counts - len(nibbles) / 16) ** 2 / (len(nibbles) / 16)).sum())


# -- the label owner against the rows of a provider's bins -------------------------------------------------------------


@pytest.mark.parametrize("place", ["in the label slot", "above the label slot", "in the masks", "everywhere"])
def test_tags_and_oversized_masks_of_the_label_owner_show_it_only_the_bits_of_one_count(
    place: str, job_of: Callable[[int], Job]
) -> None:
    """`A` tags a row in its plaintext to see in which bin it lies; all that changes is the `w` bits of the count."""
    job = job_of(1)
    key, layout = job.rows["bank"].own_key, job.rows["bank"].layout
    assert key is not None
    rows = 60  # of one bin
    w = rows.bit_length()
    unit = 1 << (layout.label_shift + w)
    tag = {
        "in the label slot": 1 << layout.label_shift,
        "above the label slot": unit << 5,
        "in the masks": (1 << (layout.label_shift - 1)) + (1 << (layout.label_owner_slot + layout.ring_bits + 20)),
        "everywhere": int(key.public.n) * 2 // 3,
    }[place]
    entropy = seeded(place)
    provider: FeatureProvider = Stages(job.stages.data, seed=place).binning_roles(job.rows)["bureau"]
    provider._codes = np.zeros((rows, 1), dtype=np.int64)
    seen: dict[bool, list[int]] = {}
    for tagged in (False, True):
        plain = [tag if tagged and i == 0 else 0 for i in range(rows)]
        product = accumulate(key.encrypt(plain, entropy), np.zeros((rows, 1), dtype=np.int64), [1], key.public)[0][0]
        seen[tagged] = key.decrypt([sealed_pre_bin(provider, product) for _ in range(240)])
    for values in seen.values():
        for shift in (layout.label_owner_slot - 4, layout.label_shift - 4, layout.label_shift + w, key.key_bits - 40):
            assert chi_square([(value >> shift) & 15 for value in values]) < LIMIT_15
    counts = [{(v >> layout.label_shift) & ((1 << w) - 1) for v in values} for values in seen.values()]
    assert counts[0] == {0}
    assert len(counts[1]) <= 6  # a constant, give or take a carry and the wrap at N: about w bits and no more
    if place == "in the label slot":
        assert counts[1] == {1}
    if place == "above the label slot":
        assert counts[1] == {0}


def sealed_pre_bin(provider: FeatureProvider, product: mpz) -> mpz:
    """What the provider's own code makes of a bin's product."""
    p = provider
    sealed = seal_feature(
        p._aliases[0], p._binnings[0], p._rules[0], p._codes[:, 0], [product], p._layout, p._key, p._entropy
    )
    return mpz(int.from_bytes(sealed.message.encrypted_bads, "little"))


def test_a_key_owner_cannot_confirm_a_guess_of_the_rows_in_a_bin(job_of: Callable[[int], Job]) -> None:
    """`A` knows every row's randomness; without a fresh `r^N` the product over the right rows would match exactly."""
    job = job_of(1)
    key = job.rows["bank"].own_key
    assert key is not None
    public, entropy = key.public, seeded("guess")
    encrypted = job.rows["bureau"].encrypted["bank"]
    bin_rows = np.flatnonzero(job.tables["bureau"].codes[:, 0] == 0)
    product = mpz(1)
    for i in bin_rows.tolist():
        product = product * encrypted[i] % (mpz(public.n) ** 2)

    def guess_is_confirmed(received: mpz) -> bool:
        difference = key.decrypt([received])[0] - key.decrypt([product])[0]
        return bool(add_plaintext(product, difference, public) == received)

    assert guess_is_confirmed(add_plaintext(product, 12345, public))
    for _ in range(20):
        assert not guess_is_confirmed(seal([product], [12345], public, entropy)[0])


def test_the_same_request_twice_gives_other_bytes_each_time(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    seen: set[bytes] = set()
    width = 2 * job.rows["bank"].layout.key_bits // 8
    total = 0
    for seed in range(2):
        stages = Stages(job.stages.data, seed=f"twice {seed}")
        stages.bin(job.rows)
        for feature in stages.network.sent(PreBins)[0].message(PreBins).features:
            pieces = [feature.encrypted_bads[i : i + width] for i in range(0, len(feature.encrypted_bads), width)]
            total += len(pieces)
            seen |= set(pieces)
    assert len(seen) == total


@pytest.mark.parametrize("sender", ["bank", "tax"])
def test_products_for_the_co_holder_are_masked_over_the_whole_plaintext(
    sender: str, job_of: Callable[[int], Job]
) -> None:
    job = job_of(2)
    key = job.rows["bureau"].own_key
    assert key is not None
    width = 2 * key.key_bits // 8
    plain: list[int] = []
    stages = Stages(job.stages.data, seed="products")
    for _ in range(40):
        part: OfflineProducts = stages.training_roles(job.rows, job.tables)[sender]._offline
        sent = [
            event.message
            for event in part._send_products(job.rows[sender].encrypted["bureau"])
            if isinstance(event, Send)
        ]
        assert isinstance(sent[0], MaskedProducts)
        data = sent[0].ciphertexts
        plain += key.decrypt([mpz(int.from_bytes(data[i : i + width], "little")) for i in range(0, len(data), width)])
    assert len(plain) >= 160
    assert chi_square([16 * value // int(key.public.n) for value in plain]) < LIMIT_15
    for shift in (60, 300, 500):
        assert chi_square([(value >> shift) & 15 for value in plain]) < LIMIT_15


# -- a provider against the labels: weights other than 0 and 1 ---------------------------------------------------------


def with_weight(job: Job, row: int, weight: int) -> dict[str, RowMasks]:
    """The provider counts `row` `weight` times in every feature."""
    rows = dict(job.rows)
    encrypted = list(rows["bureau"].encrypted["bank"])
    encrypted[row] = encrypted[row] ** weight % mpz(rows["bureau"].keys["bank"].nsquare) if weight else mpz(1)
    rows["bureau"] = replace(rows["bureau"], encrypted=dict(rows["bureau"].encrypted) | {"bank": encrypted})
    return rows


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("weight", [0, 2, 3])
def test_a_row_left_out_or_counted_twice_is_found_even_if_it_is_good(
    weight: int, label: int, job_of: Callable[[int], Job]
) -> None:
    job = job_of(1)
    row = int(np.flatnonzero(job.stages.data.label == label)[0])
    stages = Stages(job.stages.data, seed="weights")
    with pytest.raises(PartyFailedError) as caught:
        stages.bin(with_weight(job, row, weight))
    assert (caught.value.party, caught.value.code) == ("bank", "CHECK_FAILED")
    assert not stages.network.sent(GateDecision)


def test_a_row_traded_for_another_of_the_same_label_is_found_by_the_masks_alone(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    first, second = np.flatnonzero(job.stages.data.label == 0)[:2].tolist()
    rows = with_weight(replace(job, rows=with_weight(job, first, 2)), second, 0)
    stages = Stages(job.stages.data, seed="traded")
    with pytest.raises(PartyFailedError) as caught:
        stages.bin(rows)
    assert (caught.value.party, caught.value.code) == ("bank", "CHECK_FAILED")
    assert Stages(job.stages.data, seed="traded").bin(job.rows)  # the same offer without the trade passes


def test_all_refusals_of_the_gate_are_one_and_the_same(job_of: Callable[[int], Job]) -> None:
    """Which check failed would be an oracle: good and bad rows, more and less weight give the same words."""
    job = job_of(1)
    sentences = set()
    for label in (0, 1):
        row = int(np.flatnonzero(job.stages.data.label == label)[0])
        for weight in (0, 2):
            with pytest.raises(PartyFailedError) as caught:
                Stages(job.stages.data, seed="oracle").bin(with_weight(job, row, weight))
            sentences.add(str(caught.value.error))
    assert len(sentences) == 1


@pytest.mark.parametrize("kind", ["one row", "packed labels"])
def test_a_column_that_the_gate_did_not_set_gives_its_owner_noise(
    kind: str, job_of: Callable[[int], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider trains on a column of its own: one row (its residual is its label), or rows packed by powers of two.

    `A` formed its half of the gradient with the WOE that it set, so the masks of `A` do not cancel.
    """
    job = job_of(1)
    stages = Stages(job.stages.data, seed=f"column {kind}", rules=replace(job.stages.rules, max_gradients=2))
    roles = stages.training_roles(job.rows, job.tables)
    party = roles["bureau"]
    column = np.zeros(stages.data.rows, dtype=np.int64)
    column[: 1 if kind == "one row" else 18] = 1 << 16 if kind == "one row" else 2 ** np.arange(1, 19)
    party._design = np.concatenate([column[:, None], party._design[:, 1:]], axis=1)
    seen: list[NDArray[np.float64]] = []
    take = Block.take_gradient

    def record(self: Block, gradient: NDArray[np.float64], *, keep_pair: bool) -> None:
        if self is party._block:
            seen.append(gradient)
        take(self, gradient, keep_pair=keep_pair)

    monkeypatch.setattr(Block, "take_gradient", record)
    with pytest.raises(PartyFailedError):
        stages.train(job.rows, job.tables, roles=roles)
    assert abs(seen[0][0]) > 20  # an honest entry lies within 18 residuals: this one is uniform in +-2^15
    assert max(abs(seen[0][1:])) < 2000  # the honest columns still come out


# -- a provider against the labels: many exact counts ------------------------------------------------------------------


def random_features(
    label: NDArray[np.int64], count: int, bins: int, seed: int
) -> tuple[NDArray[np.int64], list[Candidate]]:
    """Codes (n, count) of random bins, and the features as the gate sees them."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.permutation(len(label)) % bins for _ in range(count)], axis=1)
    features = []
    for j in range(count):
        rows = np.bincount(codes[:, j], minlength=bins)
        bads = np.bincount(codes[:, j], weights=label, minlength=bins).astype(int)
        features.append(assess(f"bureau.{j:03d}", "bureau", rows, bads, bins, threshold=0.0, min_bads=1, min_goods=1))
    return codes, features


def recovered(codes: NDArray[np.int64], features: Sequence[Candidate], label: NDArray[np.int64]) -> float:
    """Share of the bads that a linear programme names from the exact counts of these features."""
    rows, sums = [], []
    for feature in features:
        merged = np.array(feature.merge_map)[codes[:, int(feature.alias[-3:])]]
        for b, bads in enumerate(feature.bin_bads):
            rows.append((merged == b).astype(float))
            sums.append(float(bads))
    cost = np.random.default_rng(0).random(len(label))
    solution = linprog(cost, A_eq=np.array(rows), b_eq=np.array(sums), bounds=(0, 1), method="highs")
    assert solution.status == 0
    named = np.argsort(-solution.x)[: int(label.sum())]
    return float(label[named].mean())


def test_a_linear_programme_recovers_the_labels_beyond_the_label_budget_and_not_within_it() -> None:
    rng = np.random.default_rng(11)
    n, bads = 800, 60
    label = np.zeros(n, dtype=np.int64)
    label[rng.choice(n, bads, replace=False)] = 1
    codes, features = random_features(label, 60, 5, seed=12)
    everything = label_cost([len(f.bin_rows) for f in features], 0)
    assert everything > 0.6 * n * entropy_bits(bads / n)
    assert recovered(codes, features, label) == 1.0
    budget = label_budget(n, bads)
    gate = choose_features(
        [*features, *own_features(label)],
        n=n,
        bads=bads,
        minimum_iv=0.0,
        label_budget=budget,
        own_party="bank",
        remerge=lambda candidate, rows: candidate,
    )
    kept = [feature for feature in gate.kept if feature.party == "bureau"]
    assert label_cost([len(f.bin_rows) for f in kept], len(features) - len(kept)) == gate.label_cost <= budget
    assert recovered(codes, kept, label) < 0.5


def own_features(label: NDArray[np.int64]) -> list[Candidate]:
    codes, _ = random_features(label, 3, 2, seed=13)
    return [
        assess(
            f"bank.{j}",
            "bank",
            np.bincount(codes[:, j]),
            np.bincount(codes[:, j], weights=label).astype(int),
            2,
            threshold=0.0,
            min_bads=1,
            min_goods=1,
        )
        for j in range(3)
    ]


# -- one-time material -------------------------------------------------------------------------------------------------


def test_an_index_is_spent_before_anything_computed_from_it_is_sent(job_of: Callable[[int], Job]) -> None:
    events: list[tuple[str, str, int]] = []
    indexed: dict[str, type[Message]] = {kind.__name__: kind for kind in (MaskedLogits, MaskedResidual, GradientShare)}
    summed = {"LogitRange": "range", "InnerProducts": "products", "PreconditionerTrace": "trace"}

    class Watched(MemorySpentIndices):
        def __init__(self, name: str) -> None:
            super().__init__()
            self._name = name

        def spend(self, kind: str, index: int) -> None:
            super().spend(kind, index)
            events.append((self._name, f"spent {kind}", index))

    def watch(frame: Any) -> list[Any]:
        if frame.step in indexed:
            events.append((frame.sender, frame.step, frame.message(indexed[frame.step]).index))
        if frame.step in summed:
            events.append((frame.sender, f"masked {summed[frame.step]}", -1))
        return [frame]

    job = job_of(3)
    stages = Stages(job.stages.data, seed="order", network=SimulatedNetwork(watch))
    stages.rules = replace(stages.rules, tolerance=0.05)
    stages.spent = {name: Watched(name) for name in job.parties.all}
    stages.train(job.rows, job.tables)
    for name in job.parties.all:
        mine = [(what, index) for who, what, index in events if who == name]
        for at, (what, index) in enumerate(mine):
            if what in ("MaskedLogits", "MaskedResidual", "GradientShare"):
                assert ("spent batch", index) in mine[:at]
                assert sum(spent.startswith("spent column") for spent, _ in mine[:at]) == len(
                    {i for sent, i in mine[: at + 1] if sent == "MaskedLogits"}
                )
            if what.startswith("masked "):
                drawn = sum(w == f"spent pair mask: {what[7:]}" for w, _ in mine[:at])
                sent = sum(w == what for w, _ in mine[: at + 1])
                assert drawn == -(-sent // 3)  # one mask for the same bytes to three others
        batches = [index for what, index in mine if what == "spent batch"]
        assert len(set(batches)) == len(batches)


def test_a_job_restarted_on_the_same_material_stops_before_it_sends_anything_masked(
    job_of: Callable[[int], Job],
) -> None:
    job = job_of(1)
    stages = Stages(job.stages.data, seed="first run")
    stages.train(job.rows, job.tables)
    stages.network = SimulatedNetwork()
    with pytest.raises(PartyFailedError) as caught:
        stages.train(job.rows, job.tables)
    assert caught.value.code == "INDEX_SPENT"
    assert not stages.network.sent(MaskedLogits)
    assert not stages.network.sent(MaskedResidual)


def test_masked_logits_and_residuals_are_uniform_and_never_come_twice(job_of: Callable[[int], Job]) -> None:
    job = job_of(2)
    again = Stages(job.stages.data, seed="another run of the same rows")
    again.train(job.rows, job.tables)
    ring = job.rows["bank"].layout.ring
    logits: list[NDArray[np.uint32]] = []
    residuals: list[list[int]] = []
    for network in (job.stages.network, again.network):
        for name in job.parties.all:
            to = job.parties.share_holders[name == "bank"]
            for frame in network.sent(MaskedLogits, name, to):
                logits.append(np.frombuffer(frame.message(MaskedLogits).values, dtype="<u4"))
        for holder, to in (("bank", "tax"), ("bureau", "tax")):
            for frame in network.sent(MaskedResidual, holder, to):
                shares = ring.from_bytes(frame.message(MaskedResidual).shares, (again.data.rows,))
                residuals.append(ring.to_integers(shares, signed=False))
    for phases in logits:
        assert chi_square((phases >> (LOGIT_BITS + 1)).tolist()) < LIMIT_15
    for values in residuals:
        assert chi_square([value >> (ring.bits - 4) for value in values]) < LIMIT_15
        assert chi_square([value & 15 for value in values]) < LIMIT_15
    flat = [value for values in residuals for value in values]
    assert len(set(flat)) == len(flat)
    for i in range(len(logits)):
        for j in range(i):
            assert (logits[i] == logits[j]).sum() <= 2
            difference = (logits[i] - logits[j]) & np.uint32((1 << 31) - 1)  # a mask used twice leaves u - u'
            assert chi_square((difference >> np.uint32(27)).tolist()) < 2 * LIMIT_15


def test_masks_of_another_batch_period_or_party_are_other_masks() -> None:
    seeds = [seeded(i)(32) for i in range(2)]
    streams = [
        tuple(phase_mask(seed, index, period, 8).tolist())
        for seed in seeds
        for index in (0, 1, 11)
        for period in (32, 64)
    ]
    assert len(set(streams)) == len(streams)


# -- further passes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["other rows", "other sums"])
def test_bin_sums_of_a_further_pass_are_tied_to_the_bins_of_the_first(
    what: str, job_of: Callable[[int], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(1)
    stages = Stages(job.stages.data, seed=f"tie {what}")
    roles = stages.training_roles(job.rows, job.tables)
    cheat: OfflineProducts = roles["bureau"]._offline
    first_pass, change = cheat.first_pass, {}

    def then_deviate(*used: Any) -> Any:
        yield from first_pass(*used)
        codes = cheat._codes.copy()
        codes[0, 0] = (codes[0, 0] + 1) % len(cheat._values[0])  # one row in another bin
        cheat._codes = codes

    if what == "other rows":
        monkeypatch.setattr(cheat, "first_pass", then_deviate)
    else:
        flip = changing(MaskedBinSums, lambda m: replace(m, checks=bytes([m.checks[0] ^ 1]) + m.checks[1:]))
        change = {"bureau": flip}
    with pytest.raises(PartyFailedError) as caught:
        stages.train(job.rows, job.tables, change, roles)
    assert (caught.value.party, caught.value.code) == ("bank", "CHECK_FAILED")
    assert len(stages.network.sent(MaskedBinSums)) == 1


def test_fresh_rows_of_a_further_pass_are_checked_like_the_first(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    width = 2 * job.rows["bank"].layout.key_bits // 8

    def twice(m: EncryptedRows) -> EncryptedRows:
        return replace(m, ciphertexts=m.ciphertexts[:width] * 2 + m.ciphertexts[2 * width :])

    with pytest.raises(PartyFailedError) as caught:
        Stages(job.stages.data).train(job.rows, job.tables, {"bank": changing(EncryptedRows, twice)})
    assert (caught.value.party, caught.value.code) == ("bureau", "CHECK_FAILED")


# -- dealers and peers that lie ----------------------------------------------------------------------------------------


LIES: dict[str, tuple[str, Change]] = {
    "the dealer sends another index": ("coordinator", changing(Corrections, lambda m: replace(m, index=m.index + 1))),
    "the dealer sends an old batch": ("coordinator", changing(Corrections, lambda m: replace(m, index=0), nth=1)),
    "the dealer sends another period": ("coordinator", changing(Corrections, lambda m: replace(m, period=64))),
    "the dealer sends a share less": (
        "coordinator",
        changing(Corrections, lambda m: replace(m, shares=m.shares[:-9])),
    ),
    "the dealer sends no shares": ("coordinator", changing(Corrections, lambda m: replace(m, shares=b""))),
    "a trace that claims no mask": (
        "tax",
        changing(PreconditionerTrace, lambda m: replace(m, masked=False)),
    ),
    "a range that claims no mask": ("tax", changing(LogitRange, lambda m: replace(m, masked=False))),
    "products that claim no mask": ("tax", changing(InnerProducts, lambda m: replace(m, masked=False))),
    "products of another iteration": ("tax", changing(InnerProducts, lambda m: replace(m, index=m.index + 1))),
    "a product less": ("tax", changing(InnerProducts, lambda m: replace(m, parts=m.parts[:-16]))),
    "logits of another batch": ("tax", changing(MaskedLogits, lambda m: replace(m, index=m.index + 1))),
    "a logit less": ("tax", changing(MaskedLogits, lambda m: replace(m, values=m.values[:-4]))),
    "a phase beyond the period": (
        "tax",
        changing(MaskedLogits, lambda m: replace(m, values=m.values[:-1] + b"\xff")),
    ),
    "a residual of another batch": ("bureau", changing(MaskedResidual, lambda m: replace(m, index=m.index + 1))),
    "a residual less": ("bureau", changing(MaskedResidual, lambda m: replace(m, shares=m.shares[:-9]))),
    "a half of another batch": ("bureau", changing(GradientShare, lambda m: replace(m, index=m.index + 1))),
    "a half too short": ("bureau", changing(GradientShare, lambda m: replace(m, shares=m.shares[:-9]))),
    "products that are no ciphertexts": (
        "tax",
        changing(MaskedProducts, lambda m: replace(m, ciphertexts=bytes(len(m.ciphertexts)))),
    ),
    "a product more than the party has features": (
        "tax",
        changing(MaskedProducts, lambda m: replace(m, ciphertexts=m.ciphertexts + m.ciphertexts[:144])),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(LIES))
def test_a_dealer_or_peer_that_lies_is_refused(name: str, job_of: Callable[[int], Job]) -> None:
    liar, change = LIES[name]
    job = job_of(2)
    with pytest.raises(PartyFailedError) as caught:
        Stages(job.stages.data, seed=name).train(job.rows, job.tables, {liar: change})
    assert caught.value.code == "CHECK_FAILED"
    assert caught.value.party != liar
    assert set(caught.value.codes.values()) == {"CHECK_FAILED"}


def test_a_label_owner_that_asks_the_dealer_twice_for_an_index_is_refused(job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    change = changing(BatchRequest, lambda m: replace(m, index=0), nth=1)
    with pytest.raises(PartyFailedError) as caught:
        Stages(job.stages.data, seed="asks").train(job.rows, job.tables, {"bank": change})
    assert (caught.value.party, caught.value.code) == ("coordinator", "CHECK_FAILED")
