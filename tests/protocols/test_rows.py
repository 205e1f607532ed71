"""One ciphertext a row: what it holds, who gets it, and which ciphertexts and keys are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gmpy2 import mpz

from protocols import paillier
from protocols.errors import LocalProtocolError
from protocols.messages import Message
from protocols.rows.encryption import RowEncryption
from protocols.rows.messages import CHUNK_ROWS, EncryptedRows, FeatureCount, PublicKey
from tests.simulator import (
    KEY_BITS,
    ROWS,
    Job,
    PartyFailedError,
    Stages,
    changing,
    consortium,
    parties_of,
    seeded,
)

WIDTH = 2 * KEY_BITS // 8


def test_each_ciphertext_holds_the_label_above_the_masks_of_its_row(job: Job) -> None:
    owner = job.rows["bank"]
    layout = owner.layout
    assert owner.own_key is not None
    assert owner.masks is not None
    masks = [layout.ring.to_integers(column, signed=False) for column in owner.masks]
    expected = [
        sum(column[i] << (t * layout.label_owner_slot) for t, column in enumerate(masks)) + (y << layout.label_shift)
        for i, y in enumerate(job.stages.data.label.tolist())
    ]
    for provider in job.parties.providers:
        assert owner.own_key.decrypt(job.rows[provider].encrypted["bank"]) == expected


def test_the_co_holder_encrypts_masks_and_nothing_else(job: Job) -> None:
    holder = job.rows[job.parties.co_holder]
    layout = holder.layout
    assert holder.own_key is not None
    assert holder.masks is not None
    masks = [layout.ring.to_integers(column, signed=False) for column in holder.masks]
    expected = [sum(v << (t * layout.co_holder_slot) for t, v in enumerate(row)) for row in zip(*masks, strict=True)]
    for name in job.parties.others(job.parties.co_holder):
        assert holder.own_key.decrypt(job.rows[name].encrypted[job.parties.co_holder]) == expected


def test_every_receiver_gets_the_same_bytes_once(job: Job) -> None:
    for owner in job.parties.share_holders:
        got = {
            name: [f.data for f in job.stages.network.sent(EncryptedRows, owner, name) if f.stage == "encrypt"]
            for name in job.parties.others(owner)
        }
        assert len({tuple(chunks) for chunks in got.values()}) == 1
        assert len(next(iter(got.values()))) == -(-ROWS // CHUNK_ROWS)


def test_only_the_two_share_holders_have_keys_and_masks(job: Job) -> None:
    for name, held in job.rows.items():
        assert (held.own_key is not None) == (held.masks is not None) == (name in job.parties.share_holders)
        assert set(held.encrypted) == set(job.parties.share_holders) - {name}
        assert {owner: key.n for owner, key in held.keys.items()} == {
            owner: key.n for owner, key in job.rows["bank"].keys.items()
        }


def test_masks_are_uniform_in_the_ring(job: Job) -> None:
    for owner in job.parties.share_holders:
        held = job.rows[owner]
        assert held.masks is not None
        values = held.layout.ring.to_integers(held.masks.reshape(-1, 3), signed=False)
        top = np.bincount([v >> (held.layout.ring_bits - 4) for v in values], minlength=16)
        low = np.bincount([v & 15 for v in values], minlength=16)
        for counts in (top, low):
            assert ((counts - len(values) / 16) ** 2 / (len(values) / 16)).sum() < 50  # 15 degrees: p = 1e-5


def test_the_same_rows_twice_give_no_equal_ciphertext() -> None:
    data = consortium(1)
    seen: set[bytes] = set()
    for seed in range(2):
        masks = Stages(data, seed=seed).encrypt()
        seen |= {int(c).to_bytes(WIDTH, "little") for c in masks["bureau"].encrypted["bank"]}
    assert len(seen) == 2 * ROWS


def test_too_few_rows_end_the_stage_on_every_party_before_a_key_is_made() -> None:
    stages = Stages(consortium(2, rows=999))
    with pytest.raises(PartyFailedError) as caught:
        stages.encrypt()
    assert caught.value.codes == dict.fromkeys(stages.parties.all, "TOO_FEW_ROWS")
    assert not stages.network.sent(PublicKey)


def test_too_many_features_for_the_rows_end_the_stage_before_a_key_is_made() -> None:
    stages = Stages(consortium(1))
    with pytest.raises(PartyFailedError) as caught:
        stages.encrypt({"bureau": changing(FeatureCount, lambda m: FeatureCount(m.features + 60))})
    assert (caught.value.party, caught.value.code) == ("bank", "TOO_FEW_ROWS")
    assert not stages.network.sent(PublicKey, sender="bank")


def test_only_the_label_owner_brings_a_label() -> None:
    sizes = {"rows": ROWS, "features": 3, "key_bits": KEY_BITS, "context": b"", "entropy": seeded(0)}
    with pytest.raises(LocalProtocolError, match="ROLE_INVALID"):
        RowEncryption("bureau", parties_of(1), label=np.zeros(ROWS, dtype=np.int64), **sizes)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="ROLE_INVALID"):
        RowEncryption("bank", parties_of(1), **sizes)  # type: ignore[arg-type]


# -- deviating key owners ---------------------------------------------------------------------------------------------


def ciphertexts(message: EncryptedRows) -> list[int]:
    data = message.ciphertexts
    return [int.from_bytes(data[at : at + WIDTH], "little") for at in range(0, len(data), WIDTH)]


def with_ciphertexts(message: EncryptedRows, values: list[int]) -> EncryptedRows:
    return replace(message, ciphertexts=b"".join(value.to_bytes(WIDTH, "little") for value in values))


def with_first(value: Callable[[int, int], int]) -> Callable[[Job], Callable[[EncryptedRows], Message]]:
    """Replace the first ciphertext that `value(ciphertext, N)` gives a number of the right width for."""

    def of(job: Job) -> Callable[[EncryptedRows], Message]:
        modulus = int(job.rows["bank"].keys["bank"].n)

        def edit(message: EncryptedRows) -> Message:
            values = ciphertexts(message)
            at = next(i for i, c in enumerate(values) if value(c, modulus) < 1 << (8 * WIDTH))
            values[at] = value(values[at], modulus)
            return with_ciphertexts(message, values)

        return edit

    return of


def twice(message: EncryptedRows) -> EncryptedRows:
    values = ciphertexts(message)
    return with_ciphertexts(message, [values[1], *values[1:]])


BAD_ROWS: dict[str, Any] = {
    "a second encoding of the same ciphertext": with_first(lambda c, n: c + n * n),
    "zero": with_first(lambda c, n: 0),
    "one": with_first(lambda c, n: 1),
    "not coprime to the modulus": with_first(lambda c, n: n),
    "the same ciphertext for two rows": lambda job: twice,
    "an empty chunk": lambda job: lambda m: replace(m, ciphertexts=b""),
    "half a ciphertext": lambda job: lambda m: replace(m, ciphertexts=m.ciphertexts[: WIDTH // 2]),
    "another place": lambda job: lambda m: replace(m, first=1),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD_ROWS))
def test_a_bad_ciphertext_of_a_key_owner_is_refused(name: str, job_of: Callable[[int], Job]) -> None:
    job = job_of(1)
    stages = Stages(job.stages.data, seed=job.stages.seed)  # the same seed, hence the same key as the job's
    edit = BAD_ROWS[name](job)
    with pytest.raises(PartyFailedError) as caught:
        stages.encrypt({"bank": changing(EncryptedRows, edit)})
    assert (caught.value.party, caught.value.code) == ("bureau", "CHECK_FAILED")


def test_the_same_ciphertext_in_two_chunks_is_refused() -> None:
    kept: list[int] = []

    def first(message: EncryptedRows) -> EncryptedRows:
        kept.append(ciphertexts(message)[0])
        return message

    def second(message: EncryptedRows) -> EncryptedRows:
        return with_ciphertexts(message, [kept[0], *ciphertexts(message)[1:]])

    keep, repeat = changing(EncryptedRows, first), changing(EncryptedRows, second, nth=1)
    with pytest.raises(PartyFailedError) as caught:
        Stages(consortium(1)).encrypt({"bank": lambda event: repeat(keep(event))})
    assert (caught.value.party, caught.value.code) == ("bureau", "CHECK_FAILED")


def test_more_rows_than_the_job_has_are_refused() -> None:
    def edit(message: EncryptedRows) -> EncryptedRows:
        return replace(message, ciphertexts=message.ciphertexts + message.ciphertexts[:WIDTH])

    with pytest.raises(PartyFailedError) as caught:
        Stages(consortium(1)).encrypt({"bank": changing(EncryptedRows, edit, nth=1)})
    assert (caught.value.party, caught.value.code) == ("bureau", "CHECK_FAILED")


def other_key(context: bytes, bits: int = KEY_BITS) -> PublicKey:
    key = paillier.generate_key_pair(bits, seeded("another key"), minimum_bits=bits)
    return PublicKey(paillier.public_key_to_bytes(key.public), key.prove(context))


def with_modulus(message: PublicKey, change: Callable[[int], int]) -> PublicKey:
    modulus = change(int.from_bytes(message.modulus, "little"))
    return replace(message, modulus=modulus.to_bytes(KEY_BITS // 8, "little"))


BAD_KEYS: dict[str, Callable[[PublicKey], PublicKey]] = {
    "proved for another job": lambda m: other_key(b"another job\0bank"),
    "proved for another owner": lambda m: other_key(b"simulated job\0bureau"),
    "proof of another key": lambda m: replace(m, modulus=other_key(b"").modulus),
    "too short": lambda m: other_key(b"simulated job\0bank", KEY_BITS - 16),
    "a bit short": lambda m: with_modulus(m, lambda n: n // 2),
    "a small factor": lambda m: with_modulus(m, lambda n: n // 3 * 3),
    "no proof": lambda m: replace(m, proof=b""),
    "roots of zero": lambda m: replace(m, proof=bytes(len(m.proof))),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD_KEYS))
def test_a_key_without_a_sound_proof_for_this_job_and_owner_is_refused(name: str) -> None:
    with pytest.raises(PartyFailedError) as caught:
        Stages(consortium(1)).encrypt({"bank": changing(PublicKey, BAD_KEYS[name])})
    assert (caught.value.party, caught.value.code) == ("bureau", "CHECK_FAILED")


def test_the_co_holder_cannot_pass_off_the_label_owners_key_as_its_own(job_of: Callable[[int], Job]) -> None:
    frame = job_of(1).stages.network.sent(PublicKey, "bank", "bureau")[0].message(PublicKey)
    stages = Stages(job_of(1).stages.data, seed=job_of(1).stages.seed)
    with pytest.raises(PartyFailedError) as caught:
        stages.encrypt({"bureau": changing(PublicKey, lambda m: frame)})
    assert (caught.value.party, caught.value.code) == ("bank", "CHECK_FAILED")
    assert mpz(int.from_bytes(frame.modulus, "little")) == job_of(1).rows["bank"].keys["bank"].n
