"""TOML as a person or an institution hands it over: read within bounds.

The reader of the standard library takes time and memory in proportion to the square of a dotted key's parts.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

MAX_CHARACTERS = 8 << 20
_MOST_PARTS = 32  # of a dotted key
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"""(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{_MOST_PARTS}}}""")


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML document.

    Raises: ValueError: not TOML, longer than `MAX_CHARACTERS`, with a number of thousands of digits, a key of more than
        32 parts, or tables and lists that nest too deeply.

    >>> parse_toml("[keys]\\nbits = 3072")
    {'keys': {'bits': 3072}}
    """
    if len(text) > MAX_CHARACTERS or _LONG_KEY.search(text):
        raise ValueError("the document is too long, or has a key of too many parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("tables or lists nest too deeply") from error
