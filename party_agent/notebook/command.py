"""The commands that a notebook starts, each a process of its own, and the recipe they are given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from protocols.errors import ConcordatError, DataError, TransportError
from protocols.recipe import load_recipe
from protocols.toml_document import parse_toml

RecipeSource = Mapping[str, Any] | str | Path | None

_END_S = 30.0  # for a run that was interrupted to end at all parties


def run(package: str, arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """The JSON that a command prints; `package` is `coordinator` or `party_agent`, `folder` where it runs.

    Raises: ConcordatError: with the code, sentence and remedy that the command ended with.
    """
    command = [sys.executable, "-m", package, *arguments, "--json"]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            printed, _ = process.communicate()
        except BaseException:  # the notebook's interrupt among them: the command ends its job in order
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_END_S)
            process.kill()
            raise
    try:
        answer = json.loads(printed)
        if not answer["ok"]:
            error = answer["error"]
            raise ConcordatError(str(error["code"]), str(error["message"]), str(error["remedy"]))
    except (ValueError, KeyError, TypeError) as error:
        raise TransportError(
            "PARTY_LOST", f"the command of {package} ended without an answer", "run it from a shell to see why"
        ) from error
    return dict(answer)


def recipe_text(
    source: RecipeSource,
    categorical: Mapping[str, Sequence[str]] | None = None,
    weighted: tuple[str, str] | None = None,
) -> str:
    """The recipe as TOML: of a mapping, TOML text, a file's path, or None for every default.

    Args: categorical: party -> columns that it must read as categorical, beside those that the recipe names; weighted:
        the party that has sample weights, and their column.
    Raises: RecipeError: as `load_recipe`; DataError: FILE_MISSING.
    """
    if isinstance(source, Path):
        try:
            source = source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError("FILE_MISSING", "the recipe cannot be read", "name an existing TOML file") from error
    text = source if isinstance(source, str) else _toml_document(source or {})
    load_recipe(text)
    document = parse_toml(text)
    for party, columns in (categorical or {}).items():
        section = document.setdefault("parties", {}).setdefault(party, {})
        section["categorical"] = list(dict.fromkeys([*section.get("categorical", ()), *columns]))
    if weighted is not None:
        party, column = weighted
        document.setdefault("model", {})["weighted"] = True
        document.setdefault("parties", {}).setdefault(party, {})["weight_column"] = column
    return _toml_document(document)


def _toml_document(document: Mapping[str, Any]) -> str:
    return "".join(f"{json.dumps(key, ensure_ascii=False)} = {_toml(value)}\n" for key, value in document.items())


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(key, ensure_ascii=False)} = {_toml(item)}" for key, item in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)  # text, numbers and truth values are written alike
