import json
from typing import Any, cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from penstock.errors import ExpressionError, SpecError
from penstock.workflow import Graph, Link, Outcome, Template, canonical_json, digest, parse_workflow
from penstock.workflow.limits import Limits
from penstock.workflow.source import read_source
from workflow.samples import parse

bounded = settings(
    derandomize=True, max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

LIMITS = Limits(chars=2000, steps=2000)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=12,
)
WORDS = """a b c d . [ ] ( ) | , 0 1 -1 2.5 'x' "y" == < >= in not and or default length sort join unique
first replace tojson string upper if else is + * ~ { } }} {{ ' \\ true none int round split"""
words = st.sampled_from(WORDS.split())


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Link]:
    size = draw(st.integers(1, 12))
    names = draw(st.permutations([f"n{number}" for number in range(size)]))
    links: dict[str, Link] = {}
    for index, name in enumerate(names):
        earlier = st.lists(st.sampled_from(names[:index]), unique=True) if index else st.just([])
        hard, soft = draw(earlier), draw(earlier)
        run = draw(st.sampled_from(["on_success", "always", "on_failure"]))
        links[name] = Link(tuple(hard), tuple(set(soft) - set(hard)), cast("Any", run))
    order = draw(st.permutations(names))
    return {name: links[name] for name in order}


@bounded
@given(links=graphs(), chance=st.randoms(use_true_random=False))
def test_any_graph_runs_in_order_to_its_end(links: dict[str, Link], chance: Any) -> None:
    graph = Graph(links)
    ended: dict[str, Outcome] = {}

    while len(ended) < len(links):
        ready = graph.ready(ended)
        assert ready.start or ready.skip
        for name in (*ready.start, *ready.skip):
            assert all(need in ended for need in links[name].all)
        ended |= dict.fromkeys(ready.skip, Outcome.SKIPPED)
        ended |= {name: chance.choice(list(Outcome)) for name in ready.start}

    assert sorted(graph.order) == sorted(links)


@bounded
@given(parts=st.lists(words, max_size=25), scope=st.dictionaries(st.sampled_from("abcd"), json_values))
def test_any_expression_gives_json_or_our_error(parts: list[str], scope: dict[str, JsonValue]) -> None:
    _survives("{{ " + " ".join(parts) + " }}", scope)
    _survives("x {{" + "".join(parts) + "}} y", scope)


@bounded
@given(text=st.text(max_size=60))
def test_any_text_gives_json_or_our_error(text: str) -> None:
    _survives(text, {})
    _survives("{{" + text + "}}", {})


@bounded
@given(
    base=st.sampled_from(["a", "[a, a]", "a | tojson"]),
    names=st.lists(st.sampled_from(["tojson", "string", "upper"]), max_size=38),
)
def test_any_chain_of_filters_stays_inside_the_limits(base: str, names: list[str]) -> None:
    _survives("{{ " + " | ".join([base, *names]) + " }}", {"a": '"\\' * 40})


def _survives(text: str, scope: dict[str, JsonValue]) -> None:
    try:
        value = Template.parse(text, limits=LIMITS).render(scope)
    except ExpressionError as error:
        inside = 0 <= error.offset <= len(text)
    else:
        inside = len(json.dumps(value, ensure_ascii=False, allow_nan=False)) <= 14 * LIMITS.chars
    assert inside


@bounded
@given(content=st.binary(max_size=80) | st.text(max_size=80))
def test_any_file_gives_data_or_our_error(content: bytes | str) -> None:
    try:
        found: object = json.dumps(read_source(content, file="f").data, allow_nan=False)
    except SpecError as error:
        found = error.problems
    assert found


@bounded
@given(data=json_values)
def test_any_json_is_read_as_it_is(data: JsonValue) -> None:
    assert read_source(_as_yaml(data), file="f").data == data


@bounded
@given(value=st.dictionaries(st.text(max_size=6), json_values, max_size=3))
def test_any_inputs_keep_their_digest(value: dict[str, JsonValue]) -> None:
    workflow = parse(f"nodes: [{{id: a, agent: runner, with: {_as_yaml(value)}}}]\n")

    again = parse_workflow(canonical_json(workflow), file="again.json")

    assert digest(again) == digest(workflow)
    assert again.nodes[0].with_ == workflow.nodes[0].with_ == value


def _as_yaml(value: JsonValue) -> str:
    return json.dumps(value).replace("\x7f", "\\u007f")
