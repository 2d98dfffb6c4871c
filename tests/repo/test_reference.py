"""Reference pages follow the code; names that others may use are documented."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import AliasChoices, BaseModel, Field, SecretStr

import penstock
import penstock_agents
import penstock_blocks
from penstock import errors
from penstock.errors import ExpressionError, PenstockError, Problem, SpecError
from tooling import reference

reference.import_everything()
KINDS = reference.error_classes()
PLACE = Problem("a.yaml", 1, 2, "wrong")


def modules() -> Iterator[ModuleType]:
    for package in (penstock, penstock_agents, penstock_blocks):
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".migrations" not in found.name:
                yield importlib.import_module(found.name)


@pytest.mark.parametrize("page", reference.pages(), ids=lambda page: page.name)
def test_page_is_fresh(page: Path) -> None:
    assert page.read_text() == reference.pages()[page], "run scripts/tooling/reference.py"


class Inner(BaseModel):
    depth: int = Field(default=3, ge=1, le=9, description="How deep.")


class Outer(BaseModel):
    token: SecretStr | None = Field(default=None, description="A token.")
    names: frozenset[str] = Field(default=frozenset({"b", "a"}), description="Names.")
    port: int = Field(default=1, description="Port.", validation_alias=AliasChoices("X_PORT", "PORT"))
    inner: Inner = Field(default_factory=Inner, description="The inner part.")


def test_configuration_shows_every_setting_with_its_names_bounds_and_default() -> None:
    text = reference.configuration(Outer, "X_")

    assert "| `X_TOKEN` | secret | unset | A token. |" in text
    assert '| `X_NAMES` | JSON list | `["a", "b"]` | Names. |' in text
    assert "| `X_PORT`, `PORT` | whole number | `1` | Port. |" in text
    assert "## Inner\n\nThe inner part.\n" in text
    assert "| `X_INNER__DEPTH` | whole number, at least 1, at most 9 | `3` | How deep. |" in text


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_error_survives_pickling(kind: type[PenstockError]) -> None:
    error = kind("it broke")
    error.details = {"path": "a"}
    error.retry_after_s = 2.5

    again = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes

    assert type(again) is kind
    assert (str(again), again.args, vars(again)) == ("it broke", ("it broke",), vars(error))


@pytest.mark.parametrize("error", [SpecError.of([PLACE]), ExpressionError("bad", offset=7, problems=[PLACE])])
def test_error_keeps_its_own_facts_when_pickled(error: SpecError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes

    assert vars(again) == vars(error)
    assert again.problems == (PLACE,)


def test_error_codes_are_unique() -> None:
    codes = [kind.code for kind in KINDS]

    assert sorted(codes) == sorted(set(codes))


def test_drawing_of_the_tree_shows_every_error_of_its_module() -> None:
    drawn = re.findall(r"^[│├└─ ]*([A-Z]\w+)", (errors.__doc__ or "").split("```")[1], re.MULTILINE)

    assert drawn == [kind.__name__ for kind in KINDS if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("module", list(modules()), ids=lambda module: module.__name__)
def test_public_names_exist_and_are_documented(module: ModuleType) -> None:
    assert module.__doc__
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        ours = getattr(value, "__module__", "").startswith("penstock")
        if ours and (inspect.isclass(value) or inspect.isroutine(value)):
            assert inspect.getdoc(value), f"{module.__name__}.{name}"
