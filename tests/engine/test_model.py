"""Random workflows, run as they are and cut off anywhere, end as the model says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.kit import Cut, Stage, Visit, enter, play
from engine.model import UNDOES, Drawn, Foretold, workflows
from engine.world import CHILD
from penstock.engine.resets import to_reset
from penstock.store.states import NodeState, RunState

bounded = settings(
    derandomize=True,
    max_examples=400,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],  # explaining a failure takes minutes
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def seen_of(stage: Stage) -> dict[str, str]:
    """Give the states of a run's rows, by label."""
    return {label_of(key): row.state.value for key, row in stage.store.rows.items()}


def label_of(key: tuple[str, str]) -> str:
    """Name a row as the log does."""
    return f"{key[0]}[{key[1]}]" if key[1] else key[0]


def assert_as_foretold(stage: Stage, visit: Visit, told: Foretold) -> None:
    """Compare the end of a run with the model."""
    seen = seen_of(stage)
    expected = {**told.units, **told.nodes} | dict.fromkeys(told.undone, "undone")
    waiting = {label for label, state in told.units.items() if state == "waiting"}

    assert (visit.ending.state if visit.ending else None) == told.ending
    assert {label: seen[label] for label in seen.keys() - waiting} == {
        label: expected[label] for label in expected.keys() - waiting
    }
    assert {name: result.state.value for name, result in visit.results.items()} == told.shown
    assert all(len(digests) == 1 for digests in stage.store.digests.values()), "a grant would not fit"
    _assert_outputs(told, stage)


def _assert_outputs(told: Foretold, stage: Stage) -> None:
    """Compare what agents were told of other nodes, and the lists that items give."""
    rows = {label_of(key): row for key, row in stage.store.rows.items()}
    for step in told.drawn.steps:
        well = [told.units.get(label) == "succeeded" for label in step.labels]
        outputs = [rows[label].output if ok else None for label, ok in zip(step.labels, well, strict=True)]
        if step.items is not None and step.id in told.nodes and step.id in told.reached:
            assert rows[step.id].output == outputs
        for number, output in enumerate(outputs):
            if output is not None and step.agent != CHILD:
                assert output["item"] == (None if step.items is None else number)
                assert output["note"] in told.notes(step)


@bounded
@given(drawn=workflows())
def test_a_run_ends_as_foretold(drawn: Drawn) -> None:
    stage = drawn.stage()

    visit = play(stage)

    told = Foretold(drawn, (), seen_of(stage))
    assert_as_foretold(stage, visit, told)
    assert _without_skipped(visit, visit.results) == _without_skipped(visit, ends_of(stage))
    _assert_attempts(told, stage)
    _assert_allowed(drawn, stage)
    _assert_undone_in_order(told, stage)
    stuck = {one.label for one in visit.undone if one.error}
    assert len(stage.world.units("undid")) == len(told.undone)
    assert stuck == (told.changed - told.undone if told.ending in UNDOES else set())


def ends_of(stage: Stage) -> list[str]:
    """Give the nodes in the order in which they ended."""
    return [name for name, item in stage.store.ends if not item]


def _without_skipped(visit: Visit, names: Iterable[str]) -> list[str]:
    return [name for name in names if visit.results[name].state is not NodeState.SKIPPED]


def _assert_attempts(told: Foretold, stage: Stage) -> None:
    attempts = {label_of(key): row.attempt for key, row in stage.store.rows.items()}
    for step in told.drawn.steps:
        for label in step.labels:
            assert attempts.get(label, 0) == told.attempts(step, label)


def _assert_allowed(drawn: Drawn, stage: Stage) -> None:
    """What nobody allowed did not begin, and every change was counted before."""
    began = set(stage.world.units("began"))
    for step in drawn.steps:
        changes = step.agent in {"writer", "steady", "guarded"}
        for label in step.labels:
            refused = step.agent != CHILD and drawn.fates[label].gate in {"open", "rejected"}
            assert not (refused and label in began)
            assert (label in stage.store.spent) == (changes and label in began)


def _assert_undone_in_order(told: Foretold, stage: Stage) -> None:
    """The latest change is undone first; of the items of a node, the last one. Some are undone twice."""
    expected = [label for name in reversed(ends_of(stage)) for label in reversed(told.steps[name].labels)]
    assert [*dict.fromkeys(stage.world.units("undid"))] == [
        label for label in expected if label in told.undone
    ]


cuts = st.lists(
    st.builds(Cut, st.integers(1, 40), st.sampled_from(["before", "after", "hiccup", "leave", "drain"])),
    min_size=1,
    max_size=4,
)


@bounded
@given(drawn=workflows(), cuts=cuts)
def test_a_run_that_is_cut_off_ends_as_foretold(drawn: Drawn, cuts: list[Cut]) -> None:
    stage = drawn.stage()
    interrupted: set[str] = set()
    visit: Visit | None = None

    for cut in (*cuts, None):
        over = {label for label, state in seen_of(stage).items() if _is_over(state)}
        since = len(stage.world.log)
        visit = enter(stage, cut) if cut else play(stage)
        assert not over.intersection(stage.world.units("began", since)), "what was over began again"
        interrupted |= _cut_off(drawn, stage)
        if visit is not None and visit.ending is not None:
            break

    assert visit is not None
    told = Foretold(drawn, interrupted, seen_of(stage), cut=True)
    assert_as_foretold(stage, visit, told)
    _assert_undone_in_order(told, stage)


def _is_over(state: str) -> bool:
    """Say whether a unit's agent is not called again; its check may be."""
    return NodeState(state).terminal or state == "verifying"


def _cut_off(drawn: Drawn, stage: Stage) -> set[str]:
    """Give the units that somebody must look at: they were cut off and are not to be run twice."""
    harmful = {label for step in drawn.steps if not step.harmless for label in step.labels}
    return {label for label, state in seen_of(stage).items() if state == "running" and label in harmful}


@bounded
@given(drawn=workflows())
def test_a_run_tried_again_runs_what_did_not_succeed_and_what_comes_after(drawn: Drawn) -> None:
    stage = drawn.stage()
    ending = play(stage).ending
    if ending is None or ending.state is RunState.COMPLETED:
        return
    before = seen_of(stage)
    first = {label.partition("[")[0] for label, state in before.items() if state != "succeeded"}
    later = _after(drawn, first)
    since = len(stage.world.log)

    stage.reopen(to_reset(stage.workflow, stage.store.nodes()))
    stage.world.healed = True
    visit = play(stage)

    told = Foretold(replace(drawn, fates={}), (), {})
    assert visit.ending is not None
    assert visit.ending.state is told.ending
    assert {name: result.state.value for name, result in visit.results.items()} == told.shown
    assert set(stage.world.units("began", since)) == {
        label
        for step in drawn.steps
        for label in step.labels
        if label in told.units and (step.id in later or before.get(label) != "succeeded")
    }


def _after(drawn: Drawn, first: set[str]) -> set[str]:
    """Give the nodes that come after some others, error branches included."""
    found: set[str] = set()
    for step in drawn.steps:
        causes = {other.id for other in drawn.steps if step.branch and other.on_error == step.branch}
        if (first | found) & {*step.needs, *step.reads, *causes}:
            found.add(step.id)
    return found
