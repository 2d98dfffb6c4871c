"""The inputs of a run: their schema, their defaults, and who may give what."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum

from pydantic import JsonValue

from penstock.errors import InputInvalid
from penstock.workflow.evaluation import show_path
from penstock.workflow.messages import find_errors
from penstock.workflow.spec import InputSpec, Workflow
from penstock.workflow.suggestions import shorten, suggest


class Trust(StrEnum):
    """Where a value comes from."""

    OPERATOR = "operator"
    """The workflow file or the settings."""
    AUTHENTICATED = "authenticated"
    """Somebody with a key or a token."""
    UNTRUSTED = "untrusted"
    """An alert, a webhook, a repository."""


def input_schema(spec: InputSpec) -> dict[str, JsonValue]:
    """Give the JSON Schema of one input."""
    return spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"allow"})


def validate_inputs(
    workflow: Workflow,
    values: Mapping[str, JsonValue],
    *,
    allow: Mapping[str, Sequence[str]],
    trust: Trust,
    exposed: Collection[str] = (),
) -> dict[str, JsonValue]:
    """Check the inputs of a run and fill in defaults.

    Args:
        allow: The operator's lists by name; an entry that ends in `*` allows a prefix.
        trust: Where the values come from.
        exposed: Inputs that reach a sensitive slot without a limit, as `CheckedWorkflow.exposed`
            has them; untrusted values are refused for these.
    Returns:
        A value for every input.
    Raises:
        InputInvalid: Values are unknown, missing, of the wrong form or not allowed; the
            message has a line for each, and `details["errors"]` the same as data.
    """
    found = [
        (name, f"unknown input {shorten(name)}{suggest(name, workflow.inputs)}")
        for name in values
        if name not in workflow.inputs
    ]
    result: dict[str, JsonValue] = {}
    for name, spec in workflow.inputs.items():
        if name in values:
            result[name] = values[name]
            if trust == Trust.UNTRUSTED and name in exposed:
                found.append((name, f"{name}: untrusted values are not taken; it has no enum and no allow"))
            else:
                found.extend(_problems(name, spec, values[name], allow, trust))
        elif spec.is_required:
            found.append((name, f"input {name!r} is missing"))
        else:
            result[name] = spec.default
            found.extend(_problems(name, spec, spec.default, allow, Trust.OPERATOR))
    if found:
        raise InputInvalid(
            "\n".join(message for _, message in found),
            details={"errors": [{"input": shorten(name), "message": message} for name, message in found]},
        )
    return result


def _problems(
    name: str, spec: InputSpec, value: JsonValue, allow: Mapping[str, Sequence[str]], trust: Trust
) -> list[tuple[str, str]]:
    found = [
        (name, f"{show_path((name, *path))}: {message}")
        for path, message in find_errors(value, input_schema(spec))
    ]
    if found or spec.allow is None:
        return found
    return [(name, message) for message in _not_allowed(name, spec.allow, value, allow, trust)]


def _not_allowed(
    name: str, list_name: str, value: JsonValue, allow: Mapping[str, Sequence[str]], trust: Trust
) -> list[str]:
    if list_name not in allow:
        if trust != Trust.UNTRUSTED:
            return []
        return [f"{name}: untrusted values need the operator's list {list_name!r}, which is not set"]
    entries = allow[list_name]
    items = enumerate(value) if isinstance(value, list) else [(None, value)]
    return [
        f"{show_path((name,) if index is None else (name, index))}: {shorten(item)} is not on"
        f" the operator's list {list_name!r}{suggest(str(item), entries)}"
        for index, item in items
        if not is_allowed(item, entries)
    ]


def is_allowed(value: JsonValue, entries: Sequence[str]) -> bool:
    """Tell whether a value is on an allow-list.

    Args:
        entries: Values as they are given; one that ends in `*` allows every value that
            begins with the rest, unless the value has a `..` segment.
    """
    text = value if isinstance(value, str) else None
    return text is not None and any(_matches(text, entry) for entry in entries)


def _matches(text: str, entry: str) -> bool:
    if not entry.endswith("*"):
        return text == entry
    return text.startswith(entry[:-1]) and not _climbs(text)


def _climbs(text: str) -> bool:
    # Encoded dots and backslashes are steps up for some of the systems that get the value.
    plain = text.lower().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").replace("\\", "/")
    return "\x00" in plain or ".." in plain.split("/")
