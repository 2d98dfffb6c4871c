import pytest

from penstock.workflow import Graph, Link, Outcome
from penstock.workflow.graph import find_cycle


def test_graph_orders_nodes_after_what_they_wait_for() -> None:
    graph = Graph({"c": Link(("b",)), "b": Link((), ("a",)), "a": Link(), "d": Link()})

    assert graph.order == ("a", "b", "c", "d")
    assert graph.ancestors("c") == {"a", "b"}
    assert Graph({"a": Link(), "b": Link(("a",)), "c": Link(("a", "b"))}).ancestors("c") == {"a", "b"}


def test_graph_refuses_a_cycle() -> None:
    with pytest.raises(ValueError, match="a -> c -> b -> a"):
        Graph({"a": Link(("c",)), "b": Link(("a",)), "c": Link(("b",))})


def test_cycle_is_found_behind_other_nodes() -> None:
    assert find_cycle({"a": ["b", "x"], "b": [], "c": ["a", "d"], "d": ["c"]}) == ("c", "d", "c")
    assert find_cycle({"a": ["a"]}) == ("a", "a")
    assert find_cycle({"a": ["b"], "b": [], "c": ["b", "a"]}) == ()


DIAMOND = Graph(
    {
        "a": Link(),
        "b": Link(("a",)),
        "soft": Link((), ("a",)),
        "always": Link(("a",), run="always"),
        "failed": Link(("a",), run="on_failure"),
    }
)


def test_ready_starts_what_waits_for_nothing() -> None:
    assert DIAMOND.ready({}).start == ("a",)
    assert DIAMOND.ready({}, running=["a"]).start == ()


@pytest.mark.parametrize(
    ("outcome", "start"),
    [
        (Outcome.SUCCEEDED, ("b", "soft", "always")),
        (Outcome.CONTINUED, ("b", "soft", "always", "failed")),
        (Outcome.FAILED, ("soft", "always", "failed")),
        (Outcome.REJECTED, ("soft", "always", "failed")),
        (Outcome.SKIPPED, ("soft", "always")),
        (Outcome.CANCELLED, ("soft", "always")),
    ],
)
def test_ready_follows_the_outcome(outcome: Outcome, start: tuple[str, ...]) -> None:
    ready = DIAMOND.ready({"a": outcome})

    assert ready.start == start
    assert set(ready.start) | set(ready.skip) == {"b", "soft", "always", "failed"}


def test_ready_says_why_a_node_is_skipped() -> None:
    assert DIAMOND.ready({"a": Outcome.FAILED}).skip == {"b": "'a' failed"}
    assert DIAMOND.ready({"a": Outcome.REJECTED}).skip == {"b": "'a' was rejected"}
    assert DIAMOND.ready({"a": Outcome.SUCCEEDED}).skip == {"failed": "nothing it waits for has failed"}
