"""Ids in the one form in which they are compared, and the check characters of the two Chinese 18-character codes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_RESIDENT = re.compile(r"[0-9]{6}(18|19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9X]")
_RESIDENT_WEIGHTS = tuple(2 ** (17 - place) % 11 for place in range(17))
_RESIDENT_CHECKS = "10X98765432"

_ENTERPRISE_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_ENTERPRISE = re.compile(rf"[{_ENTERPRISE_ALPHABET}]{{2}}[0-9]{{6}}[{_ENTERPRISE_ALPHABET}]{{10}}")
_ENTERPRISE_WEIGHTS = tuple(3**place % 31 for place in range(17))


def canonical_id(text: str) -> str:
    """NFKC, trimmed, upper case; two ids are the same exactly if their canonical forms are equal.

    >>> canonical_id(" ９１106658cxcj2d6up4 ")
    '91106658CXCJ2D6UP4'
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).upper()).strip()


def all_canonical(ids: Sequence[str]) -> bool:
    """Whether no id is empty and each is its own canonical form.

    >>> all_canonical(["A1", "客户-2"]), all_canonical(["A1", "b2"]), all_canonical(["A 1 "]), all_canonical(["A", ""])
    (True, False, False, False)
    """
    text = "\n".join(ids)
    plain = text.isascii() and text.upper() == text and "\n".join(text.split()) == text  # the usual case: no blanks
    return all(ids) and (plain or all(canonical_id(item) == item for item in ids))


def check_character_valid(code: str) -> bool | None:
    """Whether the last character of a canonical 18-character code is the right one; None for any other id.

    The kinds are the resident identity number (area, date of birth, sequence, check) and the unified social credit
    code. A code of digits may have the form of both; it is valid if it is valid as one of them, so that no valid code
    is refused: of the wrong resident numbers one in 31 then passes.

    Source: GB 11643-1999 (ISO 7064 MOD 11-2); GB 32100-2015 (MOD 31, weights 3^i).

    >>> check_character_valid("11010519491231002X"), check_character_valid("110105194912310021")
    (True, False)
    >>> check_character_valid("91350100M000100Y43"), check_character_valid("91350100M000100Y44")
    (True, False)
    >>> check_character_valid("A-17") is None
    True
    """
    verdicts: list[bool] = []
    if _RESIDENT.fullmatch(code):
        total = sum(weight * int(digit) for weight, digit in zip(_RESIDENT_WEIGHTS, code[:17], strict=True))
        verdicts.append(code[17] == _RESIDENT_CHECKS[total % 11])
    if _ENTERPRISE.fullmatch(code):
        values = [_ENTERPRISE_ALPHABET.index(character) for character in code]
        total = sum(weight * value for weight, value in zip(_ENTERPRISE_WEIGHTS, values[:17], strict=True))
        verdicts.append(values[17] == -total % 31)
    return any(verdicts) if verdicts else None
