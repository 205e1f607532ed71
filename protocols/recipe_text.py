"""The recipe as a person meets it: every key, its default and its meaning, from the fields of `protocols.recipe`."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from pydantic import BaseModel

from protocols.recipe import FeatureRules, Judgement, PartyColumns, Recipe

_COMMENT_WIDTH = 110


def default_recipe_text() -> str:
    """A TOML document with every default and what it means; loading it gives `Recipe()`."""
    lines = ["# Recipe of a joint scorecard. Every value below is the default; leave out what you do not change.", ""]
    lines += _keys_text(Recipe, Recipe())
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            lines += ["", *_comment(section.__doc__ or ""), f"[{name}]", *_keys_text(section, section())]
    lines += ["", *_comment(PartyColumns.__doc__ or ""), *_comment("One section a party, under its name.")]
    lines += ["# [parties.bank]", *_keys_text(PartyColumns, None)]
    lines += ["", *_comment(FeatureRules.__doc__ or "")]
    lines += ["# [parties.bank.features.utilisation]", *_keys_text(FeatureRules, None)]
    lines += ["", *_comment(Judgement.__doc__ or ""), "# [parties.bank.judgement]", *_keys_text(Judgement, None)]
    return "\n".join(lines) + "\n"


def _keys_text(section: type[BaseModel], values: BaseModel | None) -> list[str]:
    """The keys of a section as TOML with their descriptions as comments; without `values`, examples, commented out."""
    lines: list[str] = []
    for name, field in section.model_fields.items():
        if field.description is None:
            continue
        lines += _comment(field.description)
        value = getattr(values, name) if values is not None else None
        if value is not None:
            lines.append(f"{name} = {_toml(value)}")
        else:
            lines.append(f"# {name} = {_toml((field.examples or [''])[0])}")
    return lines


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(" ".join(text.split()), _COMMENT_WIDTH)]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 10_000 else str(value)
    return str(value)
