"""Every decoder for two seconds against damaged inputs, and a thousand malformed documents: nothing but coded errors.

`make fuzz` gives each decoder a minute; tests/fuzz.py has the table of decoders and the bounds on time and memory.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from protocols.errors import RecipeError
from tests import fuzz
from tests.fuzz import REGRESSIONS, FuzzFailure, Target, message_kinds, mutated, outcome, run, targets

SECONDS = float(os.environ.get("CONCORDAT_FUZZ_SECONDS", "2"))
# Files, recipes, contracts and frames: a thousand of them in all.
MALFORMED = {
    "csv": 60, "parquet": 60, "dictionary-toml": 40, "dictionary-csv": 40, "model": 40, "checkpoint": 40,
    "policy": 40, "contract-draft": 40, "recipe": 100, "recipe-canonical": 60, "contract": 80, "job": 60, "event": 60,
    "catalogue": 40, "token": 20, "message": 80, "envelope": 60, "links": 60, "secure-link": 20,
}  # fmt: skip
# In the order of `targets`; pytest needs the names before there is a folder to build them in.
NAMES = (
    "message", "shared-report", "report-page", "session", "ring", "ciphertexts", "paillier-key", "points", "envelope",
    "handshake", "secure-link", "sealed-abort", "links", "client-hello", "contract", "job", "event",
    "model-record", "model-event", "recipe",
    "recipe-canonical", "catalogue", "token", "signed-request", "audit-line", "audit-body", "audit-log", "audit-head",
    "audit-receipt", "audit-notice",
    "dictionary-toml", "dictionary-csv", "policy", "contract-draft", "agent-settings", "lab-settings", "csv", "csv-ids",
    "parquet", "model", "checkpoint", "prebins", "review-ask", "points-table", "grades", "lab-answers",
    "api-body", "api-document", "api-path", "api-query", "api-header",
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    with targets(tmp_path_factory.mktemp("fuzz")) as table:
        yield table


def test_every_decoder_of_the_table_is_run(found: dict[str, Target]) -> None:
    assert tuple(found) == NAMES
    assert set(REGRESSIONS) <= set(NAMES)
    assert len(message_kinds()) > 20


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_returns_or_refuses_with_a_code(found: dict[str, Target], name: str) -> None:
    run(found[name], SECONDS)


def test_the_undamaged_inputs_are_read(found: dict[str, Target]) -> None:
    """Without this the fuzzer might knock on a door that is shut to everybody."""
    refused = {
        (name, code) for name, target in found.items() for seed in target.seeds if (code := outcome(target, seed))
    }
    assert refused == EXPECTED_REFUSALS


# What the samples are refused with at the very end, after all of them was decoded.
EXPECTED_REFUSALS = {
    ("contract", "CONTRACT_SIGNATURE_MISSING"),  # the second sample is a proposal
    ("lab-answers", "LAB_ANSWER_INVALID"),  # an authority's certificate in place of ours
    ("lab-answers", "NOT_FOUND"),
    ("links", "DISK_FULL"),
    ("links", "PARTY_LOST"),
    ("paillier-key", "CHECK_FAILED"),
    ("points", "CHECK_FAILED"),
}


def test_a_thousand_malformed_documents_give_coded_errors(found: dict[str, Target]) -> None:
    rng = random.Random("a thousand")
    codes: Counter[str] = Counter()
    for name, count in MALFORMED.items():
        refused = tries = 0
        while refused < count:
            assert (tries := tries + 1) < 50 * count, f"{name} reads nearly everything"
            code = outcome(found[name], mutated(rng, found[name]))
            codes[code] += 1
            refused += bool(code)
    del codes[""]
    assert sum(MALFORMED.values()) == sum(codes.values()) == 1000
    assert len(codes) > 20


def test_the_fuzzer_notices_a_crash_a_slow_and_a_greedy_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "CPU_S", 0.05)

    def uncoded(_data: bytes) -> None:
        raise RecipeError("oops", "a code that is none", "x")

    kept: list[bytes] = []
    calls = {
        "KeyError": lambda data: {}[data],
        "without code": uncoded,
        "processor time": lambda _data: sum(range(10**7)),
        "of memory": lambda _data: kept.append(bytes(80 << 20)) or kept.clear(),
        "RecursionError": lambda _data: _forever(0),
    }
    for what, call in calls.items():
        with pytest.raises(FuzzFailure, match=what):
            outcome(Target("sample", call, (b"x",)), b"x", trace=what == "of memory")


def _forever(depth: int) -> int:
    return _forever(depth + 1)


def test_the_same_seed_gives_the_same_inputs() -> None:
    target = Target("sample", lambda data: data, (b'{"a":1,"b":[2,"x"]}',))
    one, two = random.Random(3), random.Random(3)
    first = [mutated(one, target) for _ in range(200)]
    assert first == [mutated(two, target) for _ in range(200)]
    assert len(set(first)) > 100
