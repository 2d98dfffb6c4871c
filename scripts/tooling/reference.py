"""Write the reference pages that follow from the code: settings and errors.

`--check` changes nothing and fails when a page is not what it should be.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, SecretStr
from pydantic.fields import FieldInfo

import penstock
from penstock.errors import PenstockError
from penstock.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
_PREFIX = "PENSTOCK_"
_NOTE = "<!-- Written by scripts/tooling/reference.py; change the code and run it again. -->\n"
_SETTINGS_HEAD = """\
Every setting is an environment variable. Where several names are given, the first one that is set
counts. Lists and mappings are written as JSON. `penstock doctor` shows what a machine lacks.
"""
_ERRORS_HEAD = """\
Every error that Penstock raises on purpose has a code that programs may rely on; the gateway and
`--json` give it next to the message. A node is tried again only after an error that says so.
"""
_WORDS: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    SecretStr: "secret",
}


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description="Write docs/CONFIGURATION.md and docs/ERRORS.md.")
    parser.add_argument("--check", action="store_true", help="only say whether they are fresh")
    check = parser.parse_args().check
    stale = [path for path, text in pages().items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is out of date; run scripts/tooling/reference.py")
        else:
            path.write_text(pages()[path])
    return 1 if check and stale else 0


def pages() -> dict[Path, str]:
    """Give each page's file and text."""
    docs = ROOT / "docs"
    return {docs / "CONFIGURATION.md": configuration(), docs / "ERRORS.md": errors()}


@dataclass(frozen=True)
class Setting:
    """One environment variable."""

    names: tuple[str, ...]
    takes: str
    default: str
    description: str


def configuration(model: type[BaseModel] = Settings, prefix: str = _PREFIX) -> str:
    """Render the page of the settings."""
    plain, groups = _settings_of(model, prefix)
    parts = [
        "# Configuration\n",
        _NOTE,
        _SETTINGS_HEAD,
        *_table("General", "", plain),
    ]
    for title, text, settings in groups:
        parts += _table(title, text, settings)
    return "\n".join(parts)


_Group = tuple[str, str, list[Setting]]


def _settings_of(model: type[BaseModel], prefix: str) -> tuple[list[Setting], list[_Group]]:
    plain: list[Setting] = []
    groups: list[_Group] = []
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            inner, further = _settings_of(info.annotation, f"{prefix}{name.upper()}__")
            groups += [(name.replace("_", " ").capitalize(), info.description or "", inner), *further]
        else:
            plain.append(_setting(f"{prefix}{name.upper()}", info))
    return plain, groups


def _setting(variable: str, info: FieldInfo) -> Setting:
    alias = info.validation_alias
    names = tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (variable,)
    return Setting(
        names, _takes(info), _default(info.get_default(call_default_factory=True)), info.description or ""
    )


def _takes(info: FieldInfo) -> str:
    bounds = [_bound(item) for item in info.metadata]
    return ", ".join([_word(info.annotation), *filter(None, bounds)])


def _bound(constraint: Any) -> str:
    for attribute, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if (value := getattr(constraint, attribute, None)) is not None:
            return f"{words} {value:g}"
    return ""


def _word(annotation: Any) -> str:
    kind: Any = annotation
    if typing.get_origin(annotation) in {types.UnionType, typing.Union}:
        return " or ".join(_word(item) for item in typing.get_args(annotation) if item is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return ", ".join(f"`{item.value}`" for item in annotation)
    if (origin := typing.get_origin(annotation)) is not None:
        return "JSON object" if origin is dict else "JSON list"
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def _default(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, set | frozenset):
        value = sorted(typing.cast("frozenset[Any]", value))
    text = str(value) if isinstance(value, str | Path) else json.dumps(value, default=str)
    return f"`{text}`" if text else "empty"


def _table(title: str, text: str, settings: list[Setting]) -> Iterator[str]:
    yield f"## {title}\n"
    if text:
        yield f"{text}\n"
    yield "| Variable | Takes | Default | Meaning |\n|---|---|---|---|"
    for item in settings:
        names = ", ".join(f"`{name}`" for name in item.names)
        yield f"| {names} | {item.takes} | {item.default} | {item.description} |"
    yield ""


def errors() -> str:
    """Render the page of the errors."""
    import_everything()
    parts = [
        "# Errors\n",
        _NOTE,
        _ERRORS_HEAD,
        "| Code | Error | Kind of | HTTP status | Tried again | Meaning |\n|---|---|---|---|---|---|",
        *map(_error_row, error_classes()),
    ]
    return "\n".join(parts) + "\n"


def import_everything() -> None:
    """Import every module of the product, so that every error class is known."""
    for found in pkgutil.walk_packages(penstock.__path__, "penstock."):
        if ".migrations" not in found.name:
            importlib.import_module(found.name)


def error_classes(kind: type[PenstockError] = PenstockError) -> list[type[PenstockError]]:
    """List a class of our own errors and everything below it, in the order of the tree."""
    ours = [child for child in kind.__subclasses__() if child.__module__.startswith("penstock.")]
    return [kind, *(found for child in ours for found in error_classes(child))]


def _error_row(kind: type[PenstockError]) -> str:
    meaning = (kind.__doc__ or "").partition("\n")[0].rstrip(".").replace("|", "\\|")
    parent = "" if kind is PenstockError else f"`{kind.__mro__[1].__name__}`"
    again = "yes" if kind.retryable else "no"
    return f"| `{kind.code}` | `{kind.__name__}` | {parent} | {kind.http_status} | {again} | {meaning} |"


if __name__ == "__main__":
    sys.exit(main())
