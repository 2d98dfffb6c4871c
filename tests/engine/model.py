"""Random workflows, and a small model of the guide that says how their runs end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from engine.kit import Stage
from engine.world import CHILD, Does, Fate, Gate, Undo, World, checked
from penstock.errors import SpecError
from penstock.store.states import RunState


@dataclass(frozen=True)
class Step:
    """One node of a random workflow."""

    id: str
    branch: str = ""
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    run: str = "on_success"
    on_error: str = "fail"
    when: str = ""
    agent: str = "reader"
    asks: bool = False
    verify: bool = False
    undo: bool = False
    tries: int = 1
    items: int | None = None
    concurrency: int = 1
    stop: int | None = None

    @property
    def labels(self) -> list[str]:
        """The units of the node."""
        return [self.id] if self.items is None else [f"{self.id}[{number}]" for number in range(self.items)]

    @property
    def gated(self) -> bool:
        """Whether its units wait for approvals, or for another run."""
        return self.asks or self.agent in {"guarded", CHILD}

    @property
    def harmless(self) -> bool:
        """Whether its agent may be run twice."""
        return self.agent in {"reader", "steady"}

    def written(self) -> dict[str, Any]:
        """Write the node as the file has it."""
        told: dict[str, Any] = {"id": self.id, "needs": list(self.needs), "run": self.run}
        told["on_error"] = self.on_error
        if self.when:
            told["when"] = _CONDITIONS[self.when]
        if self.items is not None:
            stop = {} if self.stop is None else {"stop_after_failures": self.stop}
            items = {"in": [*range(self.items)], "as": "item", "concurrency": self.concurrency}
            told["foreach"] = items | stop
        if self.agent == CHILD:
            return {**told, "workflow": CHILD}
        notes = " ".join(f"{{{{ nodes.{name}.status }}}}" for name in self.reads)
        told["agent"], told["retry"] = self.agent, {"max": self.tries}
        told["with"] = {"note": "{{ error.node }}" if self.branch and not self.reads else notes}
        told["with"] |= {} if self.items is None else {"item": "{{ item }}"}
        told |= {"approval": {}} if self.asks else {}
        told |= {"verify": {"agent": "checker"}} if self.verify else {}
        told |= {"undo": "automatic"} if self.undo else {}
        return told


_CONDITIONS = {
    "yes": "{{ inputs.any.number == 1 }}",
    "no": "{{ inputs.any.number == 2 }}",
    "broken": "{{ inputs.any.text > 1 }}",
}
UNDOES = {RunState.FAILED, RunState.REJECTED}
"""How runs end whose changes are undone."""
_INPUTS = {"any": {"number": 1, "text": "one"}}


@dataclass(frozen=True)
class Drawn:
    """A random workflow, and what becomes of its units."""

    steps: tuple[Step, ...]
    fates: Mapping[str, Fate]
    pauses: tuple[int, ...]

    def stage(self) -> Stage:
        """Set up a run of it; a workflow that is refused when saved is none."""
        branches = dict.fromkeys(step.branch for step in self.steps if step.branch)
        try:
            workflow = checked(
                self._written(""),
                branches={name: self._written(name) for name in branches},
                inputs={"any": {"type": "object"}},
            )
        except SpecError:
            reject()
        return Stage(workflow, World(self.fates, self.pauses), _INPUTS)

    def _written(self, branch: str) -> list[dict[str, Any]]:
        return [step.written() for step in self.steps if step.branch == branch]


@dataclass
class Foretold:
    """The model: goes through the nodes once, in order, and says how each ends.

    Args:
        interrupted: Labels of units that were cut off while they changed something.
        seen: States by label. Only where a `foreach` stops early, several ends are right, and this
            says which one it was; it is then checked to be one of them.
        cut: Whether workers were cut off.
    """

    drawn: Drawn
    interrupted: Collection[str]
    seen: Mapping[str, str]
    cut: bool = False
    nodes: dict[str, str] = field(default_factory=dict[str, str])
    units: dict[str, str] = field(default_factory=dict[str, str])
    reached: set[str] = field(default_factory=set[str])
    """Nodes that came as far as to their units."""

    def __post_init__(self) -> None:
        self.steps = {step.id: step for step in self.drawn.steps}
        for step in self.drawn.steps:
            state = self._node(step)
            if state != "waiting":
                self.nodes[step.id] = state

    @property
    def ending(self) -> RunState | None:
        """How the run ends; None when it waits."""
        if "waiting" in self.units.values():
            return None
        found = {self.status(name) for name in self.nodes}
        worst = [name for name in ("interrupted", "rejected", "failed") if name in found]
        return RunState(worst[0]) if worst else RunState.COMPLETED

    @property
    def undone(self) -> set[str]:
        """The units whose change is undone."""
        if self.ending not in UNDOES:
            return set()
        return {label for label in self.changed if self._fate(label).undo != "fail"}

    @property
    def changed(self) -> set[str]:
        """The units that have changed something, and whose node has an undo."""
        return {
            label
            for step in self.drawn.steps
            for label in step.labels
            if step.undo and self._changed(step, label)
        }

    @property
    def shown(self) -> dict[str, str]:
        """The state of every node that has ended, when all is over."""
        return {name: "undone" if name in self.undone else state for name, state in self.nodes.items()}

    def status(self, name: str) -> str:
        """Say what other nodes go by."""
        failed_well = self.nodes[name] == "failed" and self.steps[name].on_error == "continue"
        return "continued" if failed_well else self.nodes[name]

    def causes(self, branch: str) -> set[str]:
        """Give the nodes that failed into an error branch."""
        failed = [name for name, state in self.nodes.items() if state == "failed"]
        return {name for name in failed if self.steps[name].on_error == branch}

    def attempts(self, step: Step, label: str) -> int:
        """Say how often a unit is tried that nothing cuts off."""
        if self.units.get(label) in {None, "skipped", "rejected", "waiting"}:
            return 0
        if step.agent == CHILD:
            return 1
        does = self._fate(label).does
        endless = does == "stubborn" or (does == "cut_line" and step.harmless)
        return step.tries if endless else 2 if does == "flaky" else 1

    def notes(self, step: Step) -> set[str]:
        """Give what a node may be told in its `note`."""
        if step.branch and not step.reads:
            return self.causes(step.branch)
        seen = {name: self.status(name) for name in step.reads}
        return {" ".join("failed" if state == "interrupted" else state for state in seen.values())}

    def _node(self, step: Step) -> str:
        after = (*step.needs, *step.reads)
        if (step.branch and not self.causes(step.branch)) or any(name not in self.nodes for name in after):
            return "waiting"
        if step.run == "on_success" and any(
            self.status(name) not in {"succeeded", "continued"} for name in step.needs
        ):
            return "skipped"
        bad = {"failed", "continued", "rejected", "interrupted"}
        if step.run == "on_failure" and not any(self.status(name) in bad for name in after):
            return "skipped"
        if step.when in {"no", "broken"}:
            return "skipped" if step.when == "no" else "failed"
        planned = self._in_places(step, [self._unit(step, label) for label in step.labels])
        states = planned if step.stop is None else self._stopped(step, planned)
        self.units |= dict(zip(step.labels, states, strict=True))
        self.reached.add(step.id)
        worst = [state for state in ("waiting", "interrupted", "rejected", "failed") if state in states]
        if step.items is None:
            return states[0]
        return worst[0] if worst else "succeeded"

    def _unit(self, step: Step, label: str) -> str:
        fate = self._fate(label)
        if label in self.interrupted:
            return "interrupted"
        if step.gated and fate.gate == "open":
            return "waiting"
        if step.gated and fate.gate == "rejected" and step.agent != CHILD:
            return "rejected"
        works = fate.does in {"succeed", "flaky"}
        return "succeeded" if works and (fate.confirmed or not step.verify) else "failed"

    def _in_places(self, step: Step, planned: list[str]) -> list[str]:
        """Other runs take places while they are waited for; when none is left, no more items begin."""
        waiting = [number for number, state in enumerate(planned) if state == "waiting"]
        if step.agent != CHILD or len(waiting) < step.concurrency:
            return planned
        last = waiting[step.concurrency - 1]
        return planned[:last] + ["waiting"] * len(planned[last:])

    def _stopped(self, step: Step, planned: list[str]) -> list[str]:
        """Check which items were left out after `stop_after_failures`, and give the states."""
        limit, bad = step.stop or 0, {"failed", "rejected", "interrupted"}
        out = [self.seen.get(label) == "skipped" for label in step.labels]
        ran = [state for state, is_out in zip(planned, out, strict=True) if not is_out]
        failures = sum(state in bad for state in ran)
        assert failures >= limit or not any(out), "items were left out too early"
        assert failures < limit or "waiting" not in ran or step.agent == CHILD, "somebody is asked in vain"
        if not step.gated:
            assert out == sorted(out) or self.cut, "items began out of order"
            early = sum(state in bad for state in ran[:-1]) - (step.concurrency - 1)
            assert early < limit, "an item began too late"
        return ["skipped" if is_out else state for is_out, state in zip(out, planned, strict=True)]

    def _changed(self, step: Step, label: str) -> bool:
        """Say whether an agent did its work, also when the check said no afterwards."""
        did = self._fate(label).does in {"succeed", "flaky"}
        return did and self.units.get(label) in {"succeeded", "failed"} and step.agent != CHILD

    def _fate(self, label: str) -> Fate:
        return self.drawn.fates.get(label, Fate())


_WRONG: list[Does] = ["fail", "crash", "flaky", "stubborn", "cut_line"]
_GATE: list[Gate] = ["approved", "approved", "approved", "late", "rejected", "open"]
_UNDO: list[Undo] = ["succeed", "succeed", "flaky", "fail"]
_RUN = ["on_success", "on_success", "on_success", "always", "on_failure"]
_WHEN = ["", "", "", "", "", "", "yes", "no", "broken"]
_BOTH = [False, True]
_KINDS: list[dict[str, Any]] = [
    {"agent": name, "asks": asks, "verify": verify, "undo": undo}
    for name, undos in (("reader", [False]), ("writer", _BOTH), ("steady", _BOTH), ("guarded", _BOTH))
    for asks, verify, undo in product([False, False, True], [False, False, True], undos)
]
_CHILDREN: list[dict[str, Any]] = [{"agent": CHILD} for _ in range(6)]
_LISTS: list[dict[str, Any]] = [
    {"items": items, "concurrency": places, "stop": stop}
    for items, places, stop in product(range(6), [1, 2, 3], [None, 1, 2])
]
_WHOLE: list[dict[str, Any]] = [{} for _ in _LISTS]


@cache
def fates_of(*, is_child: bool, once: bool, gated: bool, verify: bool, undo: bool) -> list[Fate]:
    """List what may become of a unit; most of it is good, and the best comes first."""
    bad: list[Does] = [does for does in _WRONG if not (once and does == "flaky")]
    good: list[Does] = ["succeed" for _ in bad]
    does: list[Does] = [*good, *(_WRONG[:1] if is_child else bad)]
    every = product(
        does,
        _GATE if gated else _GATE[:1],
        [True, True, False] if verify else [True],
        _UNDO if undo else _UNDO[:1],
    )
    return [Fate(*one) for one in every]


def fates(step: Step) -> st.SearchStrategy[Fate]:
    """Draw what becomes of a unit."""
    return st.sampled_from(
        fates_of(
            is_child=step.agent == CHILD,
            once=step.tries == 1,
            gated=step.gated,
            verify=step.verify,
            undo=step.undo,
        )
    )


@st.composite
def steps(draw: st.DrawFn, name: str, branch: str, earlier: list[str], ways: list[str]) -> Step:
    """Draw a node that waits for earlier ones only."""
    some = st.lists(st.sampled_from(earlier), unique=True, max_size=3) if earlier else st.just([])
    needs, kind = draw(some), draw(st.sampled_from([*_KINDS, *_CHILDREN]))
    return Step(
        id=name,
        branch=branch,
        needs=tuple(needs),
        reads=() if kind["agent"] == CHILD else tuple(other for other in draw(some) if other not in needs),
        run=draw(st.sampled_from(_RUN)) if needs else "on_success",
        on_error=draw(st.sampled_from(ways)),
        when=draw(st.sampled_from(_WHEN)),
        tries=draw(st.integers(1, 3)),
        **kind,
        **draw(st.sampled_from([*_WHOLE, *_LISTS])),
    )


@st.composite
def workflows(draw: st.DrawFn) -> Drawn:
    """Draw a workflow with up to two error branches."""
    branches = ["tidy", "mend"][: draw(st.integers(0, 2))]
    found: list[Step] = []
    for number in range(draw(st.integers(1, 7))):
        earlier = [step.id for step in found]
        found.append(draw(steps(f"n{number}", "", earlier, ["fail", "fail", "continue", *branches])))
    ways = {step.on_error for step in found}
    for branch in (name for name in branches if name in ways):
        inside: list[Step] = []
        for number in range(draw(st.integers(1, 3))):
            earlier = [step.id for step in inside]
            inside.append(draw(steps(f"{branch}{number}", branch, earlier, ["fail", "continue"])))
        found += inside
    told = {label: draw(fates(step)) for step in found for label in step.labels}
    pauses = draw(st.lists(st.integers(0, 3), min_size=1, max_size=7))
    return Drawn(tuple(found), told, tuple(pauses))
