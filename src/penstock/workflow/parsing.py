"""From the text of a file to its model, with every mistake of shape at once."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from penstock.errors import Problem, SpecError
from penstock.workflow.fields import Document
from penstock.workflow.source import Path, Source, read_source
from penstock.workflow.spec import Workflow
from penstock.workflow.suggestions import shorten, suggest

_PATTERNS = {
    "^[a-z][a-z0-9_]*$": "a name here is lower-case letters, digits and underscores, beginning with a letter",
    "^[A-Za-z][A-Za-z0-9_]*$": "a name here is letters, digits and underscores, beginning with a letter",
    "^[a-z][a-z0-9]*(-[a-z0-9]+)*$": "a name here is lower-case words joined by dashes",
    "^(agent/)?[a-z][a-z0-9]*(-[a-z0-9]+)*$": "a name here is lower-case words joined by dashes",
    "^[A-Za-z0-9][A-Za-z0-9._@+-]*$": "a name here is letters, digits and any of . _ @ + -",
    "^([01][0-9]|2[0-3]):[0-5][0-9]$": "a time of day is hours and minutes, like 16:00",
    "^(user|group):[A-Za-z0-9][A-Za-z0-9._@+-]*$": "write user:name or group:name",
    "^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z_][A-Za-z0-9_]*$": "write block/field",
    "^[0-9A-Za-z*/,?#L-]+( [0-9A-Za-z*/,?#L-]+){4}$": "a schedule has five fields, like '0 6 * * 1-5'",
}
_UNIONS = (Union, types.UnionType)
_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "mapping_type": "a mapping",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "sequence_type": "a list",
    "sequence_str": "a list",
    "is_instance_of": "a list",
    "list_type": "a list",
}


DocumentT = TypeVar("DocumentT", bound=Document)


def parse_workflow(text: str | bytes, *, file: str) -> Workflow:
    """Read a workflow file.

    Args:
        text: YAML or JSON.
        file: Name of the file in messages.
    Raises:
        SpecError: Its syntax or shape is wrong; `problems` holds every mistake.
    """
    return parse_document(text, Workflow, file=file, what="workflow")


def parse_document(text: str | bytes, model: type[DocumentT], *, file: str, what: str) -> DocumentT:
    """Read a file of any kind.

    Args:
        text: YAML or JSON.
        model: What the file holds.
        file: Name of the file in messages.
        what: The kind of file in messages, as in `a workflow file`.
    Raises:
        SpecError: Its syntax or shape is wrong; `problems` holds every mistake.
    """
    return document_from(read_source(text, file=file), model, what=what)


def document_from(source: Source, model: type[DocumentT], *, what: str) -> DocumentT:
    """Make the model of a file that has been read.

    Raises:
        SpecError: Its shape is wrong; `problems` holds every mistake.
    """
    if not isinstance(source.data, dict):
        raise SpecError.of([source.problem((), f"a {what} file is a mapping")])
    try:
        document = model.model_validate(source.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise SpecError.of(sorted({_problem(source, item, model) for item in details})) from None
    return document.read_from(source)


def _problem(source: Source, error: ErrorDetails, root: type[BaseModel]) -> Problem:
    path, model = follow(error["loc"], root)
    kind = error["type"]
    if kind == "extra_forbidden":
        word = str(path[-1])
        return source.problem(path, f"unknown key {shorten(word)}{suggest(word, keys_of(model))}", key=True)
    if kind == "missing":
        return source.problem(path[:-1], f"{path[-1]!r} is missing")
    on_key = error["loc"][-1] == "[key]"
    return source.problem(path, _message(error), key=on_key)


def _message(error: ErrorDetails) -> str:
    kind = error["type"]
    context = error.get("ctx", {})
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}"
    if kind in ("literal_error", "union_tag_invalid"):
        return _choice(error)
    if kind == "union_tag_not_found":
        return "'type' is missing"
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        rule = _PATTERNS.get(pattern, f"must match {pattern}")
        return f"{shorten(error['input'])}: {rule}"
    message = error["msg"]
    return message[0].lower() + message[1:]


def _choice(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    literal = error["type"] == "literal_error"
    words = str(context["expected" if literal else "expected_tags"])
    known = [word.strip(" '") for word in words.replace(" or ", ",").split(",")]
    given = error["input"] if literal else context["tag"]
    hint = suggest(given, known) if isinstance(given, str) else f"; known: {', '.join(known)}"
    return f"{shorten(given)} is not known here{hint}"


def follow(loc: tuple[str | int, ...], root: type[BaseModel]) -> tuple[Path, type[BaseModel]]:
    """Turn pydantic's location into a path of the file, and find the model that holds its end.

    Args:
        root: The model of the whole file.
    """
    path: list[str | int] = []
    annotation: Any = root
    last = root
    for part in loc:
        models = list(_models(annotation))
        if part == "[key]" or _is_variant(part, annotation, models):
            annotation = _variant(part, models) or annotation
            continue
        path.append(part)
        holder = models[0] if models and not _is_container(annotation) else None
        last = holder or last
        annotation = _inside(annotation, part, holder)
    return tuple(path), last


def _is_variant(part: str | int, annotation: Any, models: list[type[BaseModel]]) -> bool:
    # pydantic puts the tag of a union, or the name of a member's type, into the location.
    if len(models) > 1 and not _is_container(annotation):
        return True
    return isinstance(part, str) and _is_union(annotation) and not models


def _variant(part: str | int, models: list[type[BaseModel]]) -> type[BaseModel] | None:
    for model in models if len(models) > 1 else ():
        if part in get_args(model.model_fields["type"].annotation):
            return model
    return None


def keys_of(model: type[BaseModel]) -> list[str]:
    """List the keys that a model has in the file."""
    return [info.alias or name for name, info in model.model_fields.items()]


def _inside(annotation: Any, part: str | int, holder: type[BaseModel] | None) -> Any:
    if holder is not None:
        for name, info in holder.model_fields.items():
            if part == (info.alias or name):
                return info.annotation
        return None
    arguments = get_args(_plain(annotation))
    return arguments[-1] if arguments else None


def _plain(annotation: Any) -> Any:
    """Take `Annotated[...]` and `| None` off."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in _UNIONS and len(rest := _members(annotation)) == 1:
            annotation = rest[0]
        else:
            return annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(_plain(annotation)) in _UNIONS


def _members(annotation: Any) -> list[Any]:
    return [member for member in get_args(annotation) if member is not type(None)]


def _is_container(annotation: Any) -> bool:
    origin = get_origin(_plain(annotation))
    return origin not in (None, Literal, *_UNIONS)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    plain = _plain(annotation)
    if isinstance(plain, type) and issubclass(plain, BaseModel):
        yield plain
    elif get_origin(plain) in _UNIONS:
        for member in _members(plain):
            yield from _models(member)
