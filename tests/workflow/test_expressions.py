import pytest
from pydantic import JsonValue

from penstock.errors import ExpressionError, MissingError
from penstock.workflow import Template, parse_condition, render_structure
from penstock.workflow.expressions import Structure
from penstock.workflow.limits import LIMITS, Limits

SCOPE: dict[str, JsonValue] = {
    "inputs": {"a": "x", "n": 3, "f": 2.5, "l": [3, 1, 2], "o": {"k": None, "b": True}, "e": []},
    "nodes": {"scan": {"output": {"files": ["b.py", "a.py", "b.py"]}}},
}

VALUES: dict[str, JsonValue] = {
    "plain": "plain",
    "{{ inputs.n }}": 3,
    "{{inputs.n}}": 3,
    "n={{ inputs.n }}": "n=3",
    "{{ inputs.a }}{{ inputs.a }}": "xx",
    "{{ inputs.o.b }}!": "true!",
    "{{ inputs.o }}!": '{"k":null,"b":true}!',
    "{{ inputs['a'] }}": "x",
    "{{ inputs.l[-1] }}": 2,
    "{{ inputs.l.0 }}": 3,
    "{{ '{{ }}' }}": "{{ }}",
    "{{ -3 }}": -3,
    "{{ [inputs.n, 'b', none, 1.5] }}": [3, "b", None, 1.5],
    "{{ inputs.n == 3.0 and inputs.a != 'y' }}": True,
    "{{ true == 1 }}": False,
    "{{ inputs.o == inputs.o and inputs.l == [3, 1, 2] }}": True,
    "{{ inputs.l == [3, 1] or inputs.o == [1] or 1 == inputs.l }}": False,
    "{{ not inputs.e }}": True,
    "{{ inputs.e or inputs.a }}": "x",
    "{{ inputs.e and inputs.nope }}": [],
    "{{ 1 < 2 <= 2 < 3 }}": True,
    "{{ 3 > 2 >= 3 }}": False,
    "{{ 'a' < 'b' and 'b' >= 'b' }}": True,
    "{{ 2 in inputs.l and 9 not in inputs.l }}": True,
    "{{ 'k' in inputs.o and 'x' in inputs.a }}": True,
    "{{ inputs.zz | default('d') }}": "d",
    "{{ inputs.o.k | default('d') }}": "d",
    "{{ inputs.o.k.z | default(inputs.n) }}": 3,
    "{{ inputs.e | first | default(0) }}": 0,
    "{{ inputs.l[9] | default(0) }}": 0,
    "{{ nope.x | default(1) | default(2) }}": 1,
    "{{ inputs.l | first }}{{ inputs.l | last }}": "32",
    "{{ inputs.l | sort }}": [1, 2, 3],
    "{{ nodes.scan.output.files | unique | sort | join(', ') }}": "a.py, b.py",
    "{{ nodes.scan.output.files | join }}": "b.pya.pyb.py",
    "{{ [1, 1.0, true, 'a', [1], [1], [2]] | unique | length }}": 5,
    "{{ [inputs.o, inputs.o] | unique | length }}": 1,
    "{{ inputs.o | length }}": 2,
    "{{ ' aB ' | trim | lower }}{{ 'aB' | upper }}": "abAB",
    "{{ 'a-b' | split('-') }}": ["a", "b"],
    "{{ 'a-b' | replace('-', '+') }}": "a+b",
    "{{ 'abcdef' | truncate(3) }}{{ 'ab' | truncate(3) }}": "ab…ab",
    "{{ 'host:9100' | strip_port }}{{ '[::1]:80' | strip_port }}{{ 'a:b:1' | strip_port }}": "host[::1]a:b:1",
    "{{ 2.567 | round(1) }}": 2.6,
    "{{ 2.6 | round }}": 3,
    "{{ 7 | round(2) }}": 7,
    "{{ '12' | int }}": 12,
    "{{ 2.9 | int }}": 2,
    "{{ 2 | float }}": 2.0,
    "{{ '2.5' | float }}": 2.5,
    "{{ inputs.n | string }}": "3",
    "{{ 'a' | tojson }}": '"a"',
    "{{ (inputs.l | sort)[0] }}": 1,
    "{{ ([inputs.o] | first).b }}": True,
    r"{{ 'a\n\u0041\\' }}": "a\nA\\",
    "{{ 'a' 'b' }}": "ab",
}


@pytest.mark.parametrize("text", VALUES)
def test_template_renders(text: str) -> None:
    value = Template.parse(text).render(SCOPE)

    assert value == VALUES[text]
    assert type(value) is type(VALUES[text])


REFUSED: dict[str, tuple[int, str]] = {
    "{% if %}": (0, "only {{ }}"),
    "a {# b #}": (2, "only {{ }}"),
    "{{ }}": (3, "not an expression"),
    "{{": (0, "it has no }}"),
    "{{ 'a }}": (0, "it has no }}"),
    "{{ {'a': 1} }}": (3, "braces"),
    "{{ a } }}": (5, "braces"),
    "{{- a }}": (0, "whitespace control"),
    "{{ a -}}": (0, "whitespace control"),
    "{{ a\x01 }}": (0, "control characters"),
    "{{ a() }}": (4, "nothing can be called"),
    "{{ a.b(1) }}": (6, "nothing can be called"),
    "{{ 1 + 2 }}": (3, "arithmetic"),
    "{{ -a }}": (3, "arithmetic"),
    "{{ 2 ** 9 }}": (3, "arithmetic"),
    "{{ a ~ b }}": (3, "'~'"),
    "{{ a is defined }}": (5, "'is' tests"),
    "{{ a if b }}": (3, "inline 'if'"),
    "{{ a[1:2] }}": (5, "slices"),
    "{{ a, b }}": (4, "square brackets"),
    "{{ a[b] }}": (5, "a key in square brackets"),
    "{{ a[true] }}": (5, "a key in square brackets"),
    "{{ a | nope }}": (7, "unknown filter 'nope'"),
    "{{ a | lenght }}": (7, "did you mean 'length'?"),
    "{{ a | round(1, 2) }}": (7, "round takes 0 to 1 arguments, not 2"),
    "{{ a | default }}": (7, "default takes 1 arguments, not 0"),
    "{{ a | default(value=1) }}": (7, "by position"),
    "{{ $ }}": (3, "unexpected char"),
    "{{ (1 }}": (6, "not an expression"),
    r"{{ '\d' }}": (3, "known escapes"),
    r"{{ '\ud800' }}": (3, "half a character"),
    "{{ 1e999 }}": (3, "finite"),
    "{{ " + "9" * 31 + " }}": (3, "at most 30"),
    "x {{ " + "(" * 17 + "1" + ")" * 17 + " }}": (21, "deeper than 16"),
    "{{ " + "not " * 17 + "1 }}": (67, "deeper than 16"),
    "{{ a" + ".b" * 60 + " }}": (40, "operations"),
    "{{ " + " and ".join(["a"] * 201) + " }}": (1199, "at most 400 tokens"),
    "x" * (LIMITS.source_chars + 1): (0, "at most 16384"),
}


@pytest.mark.parametrize("text", REFUSED, ids=[text[:20] for text in REFUSED])
def test_template_refuses(text: str) -> None:
    offset, hint = REFUSED[text]

    with pytest.raises(ExpressionError) as caught:
        Template.parse(text)

    assert hint in caught.value.message
    assert caught.value.offset == offset


FAILING: dict[str, str] = {
    "{{ inputs.zz }}": "inputs.zz is missing",
    "{{ inputs.o.k.z }}": "inputs.o.k.z is missing",
    "{{ inputs.l[9] }}": "inputs.l[9] is missing",
    "{{ inpts.a }}": "'inpts' is not known here; did you mean 'inputs'?",
    "{{ inputs.a.b }}": "inputs.a: text has no key 'b'",
    "{{ ([1] | first).x }}": "a whole number has no key 'x'",
    "{{ ([inputs.o] | first).x }}": "'x' is missing",
    "{{ inputs.e | first }}": "the list is empty",
    "{{ inputs.n | upper }}": "upper takes text, not a whole number",
    "{{ 'a' | truncate('b') }}": "truncate takes a whole number, not text",
    "{{ 'a' | truncate(0) }}": "above 0",
    "{{ 'a' | replace('', 'b') }}": "a text to look for",
    "{{ 'a' | split('') }}": "a separator",
    "{{ [1, 'a'] | sort }}": "a list of texts or a list of numbers",
    "{{ 2.5 | round(99) }}": "0 to 15 digits",
    "{{ 'x' | int }}": "'x' is not a whole number",
    "{{ '1_0' | int }}": "is not a whole number",
    "{{ 'x' | float }}": "'x' is not a number",
    "{{ 'inf' | float }}": "finite",
    "{{ none | upper }}": "upper takes text, not nothing",
    "{{ inputs.a | join }}": "join takes a list, not text",
    "{{ 1 < 'a' }}": "compares two numbers or two texts",
    "{{ true < 2 }}": "compares two numbers or two texts",
    "{{ 1 in 2 }}": "'in' looks into a list",
}


@pytest.mark.parametrize("text", FAILING)
def test_template_fails(text: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Template.parse(text).render(SCOPE)

    assert FAILING[text] in caught.value.message
    assert caught.value.offset > 0


SMALL = Limits(chars=1000, steps=500, data_depth=10)


def _nested(levels: int) -> JsonValue:
    return [_nested(levels - 1)] if levels else []


HUGE: dict[str, JsonValue] = {
    "s": "x" * 600,
    "l": [*range(400)],
    "deep": _nested(30),
    "big": 1 << 2000,
    "inf": float("inf"),
}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{{ s }}{{ s }}", "more than 1000 characters"),
        ("{{ s | replace('xx', 'xxxxx') }}", "more than 1000 characters"),
        ("{{ [s, s] | join }}", "more than 1000 characters"),
        ("{{ [s, s] }}", "more than 1000 characters"),
        ("{{ s | upper }}", "more than 1000 characters"),
        ("{{ l == l and l == l }}", "more than 500 steps"),
        ("{{ 998 in l }}", None),
        ("{{ l | unique | tojson }}{{ l | sort }}", "more than 500 steps"),
        ("{{ l }}", "more than 500 steps"),
        ("{{ deep }}", "deeper than 10"),
        ("{{ deep | tojson }}", "deeper than 10"),
        ("{{ big }}", "too large"),
        ("{{ inf }}", "finite"),
        ("{{ big | float }}", "is not a number"),
        ("{{ inf | int }}", "is not a whole number"),
        ("{{ s | int }}", "too long for a number"),
    ],
)
def test_template_stays_inside_its_limits(text: str, hint: str | None) -> None:
    template = Template.parse(text, limits=SMALL)

    if hint is None:
        assert template.render(HUGE) is False
        return
    with pytest.raises(ExpressionError, match=hint):
        template.render(HUGE)


def test_template_refuses_what_is_not_json() -> None:
    with pytest.raises(ExpressionError, match="set is not JSON data"):
        Template.parse("{{ a }}").render({"a": {1}})  # pyright: ignore[reportArgumentType]  that is the point


def test_template_lists_references() -> None:
    template = Template.parse("{{ a.b | default(c) }} {{ not d[0].e == [f] }} {{ (g | first).h }}")

    assert [(str(one), one.guarded) for one in template.references] == [
        ("a.b", True),
        ("c", False),
        ("d[0].e", False),
        ("f", False),
        ("g", False),
    ]
    assert template.references[2].offset == 30


def test_template_knows_whether_it_is_lone() -> None:
    assert Template.parse("{{ a }}").is_lone
    assert not Template.parse(" {{ a }}").is_lone
    assert not Template.parse("a").is_lone


def test_missing_is_told_apart() -> None:
    with pytest.raises(MissingError):
        render_structure({"a": ["{{ inputs.nope }}"]}, SCOPE)


def test_condition_is_true_or_false() -> None:
    assert parse_condition("{{ inputs.n > 2 }}").holds(SCOPE)
    with pytest.raises(ExpressionError, match="true or false, not a whole number"):
        parse_condition("{{ inputs.n }}").holds(SCOPE)
    with pytest.raises(ExpressionError, match="nothing around it"):
        parse_condition("inputs.n > 2")


def test_structure_renders_every_text() -> None:
    value: JsonValue = {"a": ["{{ inputs.n }}", 1, "t"], "b": {"c": "x{{ inputs.n }}"}, "{{ k }}": None}

    assert render_structure(value, SCOPE) == {"a": [3, 1, "t"], "b": {"c": "x3"}, "{{ k }}": None}
    assert render_structure("{{ inputs.n }}", SCOPE) == 3


def test_structure_names_the_path_of_a_mistake() -> None:
    with pytest.raises(ExpressionError, match=r"a\[0\].b: nothing can be called"):
        Structure.parse({"a": [{"b": "{{ f() }}"}]})
    with pytest.raises(ExpressionError, match=r"^inputs.zz is missing"):
        render_structure("{{ inputs.zz }}", SCOPE)
