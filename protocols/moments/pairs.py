"""What label owner and providers must agree on without a message: pairs of providers, keys, the order of numbers."""

from __future__ import annotations

from phe import PaillierPublicKey

from protocols.binning.budget import feature_limit, known_sums
from protocols.errors import SmallIntersectionError
from protocols.moments.layout import ColumnLayout
from protocols.paillier import verify_public_key
from protocols.roles import Parties
from protocols.rows.messages import PublicKey
from protocols.session import Script, receive


def provider_pairs(parties: Parties) -> tuple[tuple[str, str], ...]:
    """(owner of the key, the other) for each two providers: the earlier one encrypts, so that the last needs no key.

    >>> provider_pairs(Parties("bank", ("a", "b", "c")))
    (('a', 'b'), ('a', 'c'), ('b', 'c'))
    """
    names = parties.providers
    return tuple((names[i], names[j]) for i in range(len(names)) for j in range(i + 1, len(names)))


def key_owners(parties: Parties) -> tuple[str, ...]:
    """The providers under whose key another multiplies."""
    return parties.providers[:-1]


def upper_triangle(features: int) -> list[tuple[int, int]]:
    """(j, i) with j <= i, by rows: the order in which a provider's own moments travel."""
    return [(j, i) for j in range(features) for i in range(j, features)]


def share_bytes(layout: ColumnLayout) -> list[int]:
    """Bytes of a share of each part of a plaintext."""
    return [(layout.opened_bits(part) + 7) // 8 for part in range(len(layout.parts))]


def proof_context(context: bytes, owner: str) -> bytes:
    """What the key proof of a provider that makes its key for the moments is bound to."""
    return context + b"\0moments\0" + owner.encode()


def receive_key(owner: str, key_bits: int, context: bytes, minimum_bits: int) -> Script[PaillierPublicKey]:
    """The key that a provider made for its pairs, and uses for nothing else.

    Raises: RemoteProtocolError CHECK_FAILED.
    """
    message = yield from receive(owner, PublicKey)
    proof = proof_context(context, owner)
    return verify_public_key(message.modulus, message.proof, key_bits, proof, minimum_bits=minimum_bits)


def check_column_budget(rows: int, label_owner_features: int, smallest_bin_rows: int, *, search: bool = False) -> None:
    """Guard: of each provider feature the label owner gets sums with columns it knows, at most n h(q) / 12 of them.

    Both kinds together: 1, X_A and, weighted, w, w X_A, w y_w, and the squares under w.

    Args: smallest_bin_rows: of the smallest merged bin of the provider; search: whether weighted moments open twice, of
        the fit of all features and of the model.
    Raises: SmallIntersectionError TOO_FEW_ROWS.
    Source: PROTOCOLS.md section 3, "Guards".
    """
    sums = known_sums(label_owner_features, search=search)
    limit = feature_limit(rows, smallest_bin_rows)
    if sums > limit:
        raise SmallIntersectionError(
            "TOO_FEW_ROWS",
            f"{rows} training rows and a bin of {smallest_bin_rows} allow {limit} exact moments of a feature, "
            f"and {label_owner_features} features of the label owner give {sums}",
            "use fewer features of the label owner, larger bins or more rows; or no standard errors, no search and no "
            "screening across parties",
        )
