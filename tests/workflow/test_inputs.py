import pytest
from pydantic import JsonValue

from penstock.errors import InputInvalid
from penstock.workflow import Trust, Workflow, parameter_schema, validate_inputs, workflow_json_schema
from penstock.workflow.inputs import is_allowed
from penstock.workflow.messages import find_errors, find_schema_error
from workflow.samples import parse

NODES = "nodes: [{id: a, agent: scanner}]\n"
FLOW = parse(
    """
inputs:
  repo: {type: string, allow: repositories, title: Repository, description: Where.}
  repos: {type: array, items: {type: string}, allow: repositories, default: [/srv/app]}
  severity: {type: string, enum: [info, warning], default: info}
  count: {type: integer, minimum: 1, maximum: 9, default: 3}
  free: {type: string, default: "", maxLength: 5, pattern: "^[a-z]*$"}
  box:
    type: object
    properties: {n: {type: number}}
    required: [n]
    additionalProperties: false
    default: {n: 1}
  when: {type: string, format: date-time, default: "2026-01-01T00:00:00Z"}
"""
    + NODES
)
ALLOW = {"repositories": ["/srv/app", "/srv/team/*"]}


def _validate(values: dict[str, JsonValue], trust: Trust = Trust.AUTHENTICATED) -> dict[str, JsonValue]:
    return validate_inputs(FLOW, {"repo": "/srv/app", **values}, allow=ALLOW, trust=trust)


def test_inputs_fill_in_defaults() -> None:
    assert validate_inputs(FLOW, {"repo": "/srv/app"}, allow={}, trust=Trust.OPERATOR) == {
        "repo": "/srv/app",
        "repos": ["/srv/app"],
        "severity": "info",
        "count": 3,
        "free": "",
        "box": {"n": 1},
        "when": "2026-01-01T00:00:00Z",
    }


WRONG: dict[str, tuple[dict[str, JsonValue], str]] = {
    "unknown": ({"serverity": "info"}, "unknown input 'serverity'; did you mean 'severity'?"),
    "type": ({"count": "3"}, "count: must be a whole number, not text"),
    "boolean": ({"count": True}, "count: must be a whole number, not true or false"),
    "minimum": ({"count": 0}, "count: must be at least 1"),
    "enum": ({"severity": "warn"}, "severity: 'warn' is not allowed; did you mean 'warning'?"),
    "length": ({"free": "abcdef"}, "free: must have at most 5 characters"),
    "pattern": ({"free": "A"}, "free: must match '^[a-z]*$'"),
    "nested": ({"box": {"n": "x"}}, "box.n: must be a number, not text"),
    "nested missing": ({"box": {}}, "box: 'n' is missing"),
    "nested unknown": ({"box": {"n": 1, "m": 2}}, "box: unknown key 'm'"),
    "item": ({"repos": ["/srv/app", 5]}, "repos[1]: must be text, not a whole number"),
    "format": ({"when": "today"}, "when: is not a valid date-time"),
    "format without zone": ({"when": "2026-01-01T00:00:00"}, "when: is not a valid date-time"),
    "not on the list": (
        {"repo": "/srv/ap"},
        "repo: '/srv/ap' is not on the operator's list 'repositories'; did",
    ),
    "item not on the list": (
        {"repos": ["/srv/app", "/etc"]},
        "repos[1]: '/etc' is not on the operator's list",
    ),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG.keys())
def test_inputs_are_refused(values: dict[str, JsonValue], message: str) -> None:
    with pytest.raises(InputInvalid) as caught:
        _validate(values)

    assert message in caught.value.message
    assert caught.value.details["errors"]


def test_inputs_name_every_mistake() -> None:
    with pytest.raises(InputInvalid) as caught:
        validate_inputs(FLOW, {"count": 0, "x": 1}, allow={}, trust=Trust.OPERATOR)

    assert len(caught.value.message.splitlines()) == 3
    assert "input 'repo' is missing" in caught.value.message


def test_inputs_never_echo_a_huge_value() -> None:
    with pytest.raises(InputInvalid) as caught:
        _validate(
            {"severity": "s" * 100_000, "repo": "r" * 100_000, "n" * 100_000: 1, "repos": ["x", "y" * 9999]}
        )

    assert len(caught.value.message) < 1000
    assert len(str(caught.value.details)) < 2000


@pytest.mark.parametrize("trust", list(Trust))
def test_an_existing_list_binds_everybody(trust: Trust) -> None:
    assert _validate({"repo": "/srv/team/a"}, trust)["repo"] == "/srv/team/a"
    with pytest.raises(InputInvalid):
        _validate({"repo": "/etc"}, trust)


def test_a_missing_list_binds_only_untrusted_values() -> None:
    values: dict[str, JsonValue] = {"repo": "/any"}

    for trust in (Trust.OPERATOR, Trust.AUTHENTICATED):
        assert validate_inputs(FLOW, values, allow={}, trust=trust)["repo"] == "/any"
    with pytest.raises(InputInvalid, match="the operator's list 'repositories', which is not set"):
        validate_inputs(FLOW, values, allow={}, trust=Trust.UNTRUSTED)


def test_an_exposed_input_takes_no_untrusted_value() -> None:
    exposed = {"free": "path"}
    values: dict[str, JsonValue] = {"repo": "/srv/app", "free": "a"}

    assert (
        validate_inputs(FLOW, values, allow=ALLOW, trust=Trust.AUTHENTICATED, exposed=exposed)["free"] == "a"
    )
    with pytest.raises(InputInvalid, match="free: untrusted values are not taken"):
        validate_inputs(FLOW, values, allow=ALLOW, trust=Trust.UNTRUSTED, exposed=exposed)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/srv/app", True),
        ("/srv/app/", False),
        ("/srv/team/", True),
        ("/srv/team/a/b", True),
        ("/srv/team/a..b", True),
        ("/srv/team/../x", False),
        ("/srv/team/..", False),
        (r"/srv/team/..\x", False),
        ("/srv/team/%2E%2e/x", False),
        ("/srv/team/..%2fx", False),
        ("/srv/team/a\x00", False),
        ("", False),
        (5, False),
        (None, False),
    ],
)
def test_allow_list(value: JsonValue, expected: bool) -> None:
    assert is_allowed(value, ALLOW["repositories"]) is expected


def test_parameter_schema_is_flat() -> None:
    schema = parameter_schema(FLOW)

    properties = schema["properties"]
    assert isinstance(properties, dict)
    assert properties["repo"] == {
        "type": "string",
        "title": "Repository",
        "description": "Where.",
        "position": 0,
    }
    assert properties["severity"] == {
        "type": "string",
        "enum": ["info", "warning"],
        "default": "info",
        "title": "severity",
        "position": 2,
    }
    assert schema["required"] == ["repo"]
    assert schema["additionalProperties"] is False
    assert "anyOf" not in str(schema)


def test_file_schema_describes_every_key() -> None:
    schema = workflow_json_schema()

    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    assert not find_schema_error(schema)
    for definition in definitions.values():
        assert isinstance(definition, dict)
        fields = definition.get("properties", {})
        assert isinstance(fields, dict)
        assert all("description" in str(field) for field in fields.values())


def test_file_schema_accepts_a_file(library: dict[str, JsonValue]) -> None:
    assert list(find_errors(library, workflow_json_schema())) == []
    wrong: dict[str, JsonValue] = {**library, "timeout": 5, "nods": []}
    assert any(
        message.startswith("unknown key 'nods'") for _, message in find_errors(wrong, workflow_json_schema())
    )


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        ({"const": 1}, 2, "must be 1"),
        ({"type": ["string", "null"]}, 1, "must be nothing or text"),
        ({"enum": [1, 2]}, 3, "3 is not allowed; known: 1, 2"),
        ({"enum": [*range(30)]}, 99, "19, …"),
        ({"not": {}}, 1, "breaks the rule not"),
        ({"oneOf": [{"type": "null"}]}, 1, "fits none"),
        ({"format": "date-time"}, 1, None),
    ],
)
def test_messages_are_plain(schema: dict[str, JsonValue], value: JsonValue, message: str | None) -> None:
    found = [text for _, text in find_errors(value, schema)]

    assert (message in found[0]) if message else not found


def test_schema_errors_are_plain() -> None:
    assert find_schema_error({"type": "strin"}).startswith("not a JSON Schema: type: ")
    assert find_schema_error({"type": "string"}) == ""
    assert isinstance(FLOW, Workflow)
